package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Floats is a vector as a JSON array of numbers. Its own codec is several
// times faster than encoding/json's, which goes through reflection for each
// number; a vector of 1,024 numbers is most of an embedding request.
type Floats []float32

// ErrFloatRange is the error of a number that float32 can't hold.
var ErrFloatRange = errors.New("the number is outside of float32's range")

// UnmarshalJSON parses an array of numbers. A number that float32 can't hold
// is ErrFloatRange, not an infinity.
func (f *Floats) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if string(b) == "null" {
		*f = nil
		return nil
	}
	if len(b) < 2 || b[0] != '[' || b[len(b)-1] != ']' {
		return errors.New("a vector must be an array of numbers")
	}
	b = b[1 : len(b)-1]
	out := make(Floats, 0, bytes.Count(b, []byte{','})+1)
	for len(b) > 0 {
		item := b
		if comma := bytes.IndexByte(b, ','); comma >= 0 {
			item, b = b[:comma], b[comma+1:]
		} else {
			b = nil
		}
		item = bytes.TrimSpace(item)
		if len(item) == 0 {
			if len(out) == 0 && b == nil {
				break // an empty array
			}
			return errors.New("a number is missing in the vector")
		}
		if item[0] != '-' && (item[0] < '0' || item[0] > '9') {
			return fmt.Errorf("a vector must hold numbers only, value %d is not one", len(out))
		}
		x, err := strconv.ParseFloat(string(item), 32)
		if errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("value %d of the vector: %w", len(out), ErrFloatRange)
		}
		if err != nil {
			return fmt.Errorf("value %d of the vector is no number", len(out))
		}
		out = append(out, float32(x))
	}
	*f = out
	return nil
}

// MarshalJSON writes the shortest numbers that give the same float32 again.
func (f Floats) MarshalJSON() ([]byte, error) {
	if f == nil {
		return []byte("null"), nil
	}
	b := make([]byte, 0, 12*len(f)+2)
	b = append(b, '[')
	for i, x := range f {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(x), 'g', -1, 32)
	}
	return append(b, ']'), nil
}

// Content is the shorthand for snippets: one text, or a list of texts.
type Content []string

// UnmarshalJSON takes a string or an array of strings.
func (c *Content) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if string(b) == "null" {
		*c = nil
		return nil
	}
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*c = Content{s}
		return nil
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return errors.New("content must be a text or an array of texts")
	}
	*c = list
	return nil
}

// DecodeBase64 decodes a vector's base64: standard or URL alphabet, padded or not.
func DecodeBase64(s string) ([]byte, error) {
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(s); err == nil {
			return b, nil
		}
	}
	return nil, errors.New("the vector is not base64")
}

// EncodeBase64 encodes a vector's bytes: standard alphabet, padded.
func EncodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
