package snippet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// CanonicalMetadata checks that raw is one JSON object within the limits and
// returns its canonical form: keys sorted by bytes, no white space, numbers
// as written. Empty input and JSON null give nil, which means {}. Duplicate keys
// keep the last value. The error is a *FieldError.
func CanonicalMetadata(field string, raw []byte) ([]byte, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	if raw[0] != '{' {
		return nil, fieldErrorf(field, "must be a JSON object")
	}
	if !utf8.Valid(raw) {
		return nil, fieldErrorf(field, "must be valid UTF-8")
	}
	out, err := canonicalJSON(nil, raw, 0)
	if err != nil {
		return nil, fieldErrorf(field, "is not usable: %v", err)
	}
	if len(out) > MaxMetadataBytes {
		return nil, fieldErrorf(field, "may have at most %d bytes, it has %d", MaxMetadataBytes, len(out))
	}
	if string(out) == "{}" {
		return nil, nil
	}
	return out, nil
}

// MergeMetadata applies an RFC 7396 merge patch to metadata; both are
// canonical, and so is the result. It is a pure function of its arguments:
// the state machine calls it.
func MergeMetadata(doc, patch []byte) ([]byte, error) {
	if len(patch) == 0 {
		return doc, nil
	}
	merged, err := mergePatch(doc, patch)
	if err != nil {
		return nil, err
	}
	return CanonicalMetadata("metadata", merged)
}

// canonicalJSON appends the canonical form of raw to dst.
func canonicalJSON(dst, raw []byte, depth int) ([]byte, error) {
	if depth > MaxMetadataDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", MaxMetadataDepth)
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil, fmt.Errorf("a value is missing")
	}
	switch raw[0] {
	case '{':
		var m map[string]json.RawMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, err
		}
		dst = append(dst, '{')
		for i, k := range sortedKeys(m) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, k)
			dst = append(dst, ':')
			var err error
			if dst, err = canonicalJSON(dst, m[k], depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, err
		}
		dst = append(dst, '[')
		for i, item := range list {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = canonicalJSON(dst, item, depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, err
		}
		return appendString(dst, s), nil
	default:
		if !json.Valid(raw) {
			return nil, fmt.Errorf("%q is not JSON", truncate(raw, 40))
		}
		return append(dst, raw...), nil
	}
}

// mergePatch is RFC 7396, section 2.
func mergePatch(target, patch []byte) (json.RawMessage, error) {
	patch = bytes.TrimSpace(patch)
	if len(patch) == 0 || patch[0] != '{' {
		return patch, nil
	}
	merged := map[string]json.RawMessage{}
	if target = bytes.TrimSpace(target); len(target) > 0 && target[0] == '{' {
		if err := json.Unmarshal(target, &merged); err != nil {
			return nil, err
		}
	}
	var changes map[string]json.RawMessage
	if err := json.Unmarshal(patch, &changes); err != nil {
		return nil, err
	}
	for k, change := range changes { // the order does not matter: each key is set once
		if bytes.Equal(bytes.TrimSpace(change), []byte("null")) {
			delete(merged, k)
			continue
		}
		value, err := mergePatch(merged[k], change)
		if err != nil {
			return nil, err
		}
		merged[k] = value
	}
	return json.Marshal(merged)
}

func sortedKeys(m map[string]json.RawMessage) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// appendString appends s as a JSON string without HTML escapes.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

func truncate(b []byte, n int) []byte {
	if len(b) > n {
		return b[:n]
	}
	return b
}
