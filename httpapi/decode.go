package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// decodeJSON decodes a body that must be one JSON object: no unknown field, no
// wrong type, nothing behind it. The error is a requestError with code
// invalid_json that names the field, if one is at fault.
func decodeJSON(body []byte, into any) error {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return badRequest(wire.CodeInvalidJSON, "", "the body must be one JSON object")
	}
	// encoding/json would put U+FFFD in place of what is not UTF-8, and the
	// client would read back something else than it wrote.
	if !utf8.Valid(body) {
		return badRequest(wire.CodeInvalidJSON, "", "the body is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return jsonError(body, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest(wire.CodeInvalidJSON, "", "there is more behind the JSON object, from byte %d on", dec.InputOffset())
	}
	return nil
}

// unknownField is how encoding/json words an unknown field; it has no type for it.
const unknownField = "json: unknown field "

func jsonError(body []byte, err error) error {
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &syntax):
		return badRequest(wire.CodeInvalidJSON, "", "the body is not JSON: %v, at byte %d", syntax, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return badRequest(wire.CodeInvalidJSON, "", "the body ends in the middle of the JSON")
	case errors.As(err, &kind):
		return badRequest(wire.CodeInvalidJSON, kind.Field, "%s must not be a JSON %s", fieldOr(kind.Field, "the value"), kind.Value)
	case strings.HasPrefix(err.Error(), unknownField):
		name, unquoteErr := strconv.Unquote(strings.TrimPrefix(err.Error(), unknownField))
		if unquoteErr != nil {
			name = ""
		}
		return badRequest(wire.CodeInvalidJSON, name, "the field %.100q is unknown here", name)
	}
	// What is left comes from the codecs of package wire, which do not know
	// where in the body they were called.
	path, code := findVector(body), wire.CodeInvalidJSON
	if errors.Is(err, wire.ErrFloatRange) {
		code = wire.CodeInvalidVector
	}
	return badRequest(code, path, "%s: %v", fieldOr(path, "a value"), err)
}

func fieldOr(field, otherwise string) string {
	if field == "" {
		return otherwise
	}
	return field
}

// findVector returns the path of the first field "vector" or "content" that
// its codec does not take. It runs for wrong bodies only.
func findVector(body []byte) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	path, _ := searchValue(dec, "")
	return path
}

// searchValue reads one value and returns the path of the first wrong vector
// or content in it.
func searchValue(dec *json.Decoder, path string) (found string, ok bool) {
	token, err := dec.Token()
	if err != nil {
		return "", false
	}
	switch token {
	case json.Delim('{'):
		return searchObject(dec, path)
	case json.Delim('['):
		for i := 0; dec.More(); i++ {
			if found, ok = searchValue(dec, path+"["+strconv.Itoa(i)+"]"); ok || found != "" {
				return found, ok
			}
		}
		_, err = dec.Token()
	}
	return "", err != nil
}

func searchObject(dec *json.Decoder, path string) (found string, ok bool) {
	for dec.More() {
		token, err := dec.Token()
		name, isName := token.(string)
		if err != nil || !isName {
			return "", true
		}
		field := strings.TrimPrefix(path+"."+name, ".")
		switch strings.ToLower(name) {
		case "vector":
			if wrongRaw(dec, new(wire.Floats)) {
				return field, true
			}
		case "content":
			if wrongRaw(dec, new(wire.Content)) {
				return field, true
			}
		default:
			if found, ok = searchValue(dec, field); ok {
				return found, ok
			}
		}
	}
	_, err := dec.Token()
	return "", err != nil
}

// wrongRaw reads one value and says whether the codec refuses it.
func wrongRaw(dec *json.Decoder, into json.Unmarshaler) bool {
	var raw json.RawMessage
	return dec.Decode(&raw) != nil || into.UnmarshalJSON(raw) != nil
}
