package snippet

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// FieldError says which field of the input is wrong, and what to do.
type FieldError struct {
	// Field is the JSON path of the field, for example "snippets[3].content".
	Field string
	// Reason completes the sentence "<field> ...".
	Reason string
}

func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// ErrInvalid matches every FieldError.
var ErrInvalid = errors.New("invalid input")

// Is makes errors.Is(err, ErrInvalid) true.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// fieldErrorf builds a FieldError.
func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// ValidateID checks a document id.
func ValidateID(field, id string) error { return validateKey(field, id, MaxIDBytes) }

// ValidateName checks a collection's name: 1 to MaxNameBytes of the letters
// A-Z and a-z, digits, '_', '-' and '.', starting with a letter, a digit or '_'.
func ValidateName(field, name string) error {
	if name == "" || len(name) > MaxNameBytes {
		return fieldErrorf(field, "must have 1 to %d bytes, it has %d", MaxNameBytes, len(name))
	}
	for i := range len(name) {
		c := name[i]
		word := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
		if word || i > 0 && (c == '-' || c == '.') {
			continue
		}
		return fieldErrorf(field, "may hold letters, digits, '_', '-' and '.' only, and must not start with '-' or '.'")
	}
	return nil
}

// ValidateOwner checks an owner: both parts or none.
func ValidateOwner(field string, o Owner) error {
	if o.IsZero() {
		return nil
	}
	if o.Type == "" || o.ID == "" {
		return fieldErrorf(field, "needs both a type and an id, or neither")
	}
	if err := validateKey(field+".type", o.Type, MaxOwnerBytes); err != nil {
		return err
	}
	return validateKey(field+".id", o.ID, MaxOwnerBytes)
}

// ValidateTitle checks a title.
func ValidateTitle(field, title string) error {
	if len(title) > MaxTitleBytes {
		return fieldErrorf(field, "may have at most %d bytes, it has %d", MaxTitleBytes, len(title))
	}
	if !utf8.ValidString(title) {
		return fieldErrorf(field, "must be valid UTF-8")
	}
	return nil
}

// ValidateContent checks the text of a snippet.
func ValidateContent(field, content string) error {
	if len(content) > MaxContentBytes {
		return fieldErrorf(field, "may have at most %d bytes, it has %d: split the snippet", MaxContentBytes, len(content))
	}
	if !utf8.ValidString(content) {
		return fieldErrorf(field, "must be valid UTF-8")
	}
	return nil
}

// ValidateModel checks the name of an embedding model; it may be empty.
func ValidateModel(field, model string) error {
	if model == "" {
		return nil
	}
	return validateKey(field, model, MaxModelBytes)
}

// ValidateVector checks a vector's values.
func ValidateVector(field string, v Vector) error {
	if err := v.Validate(); err != nil {
		return fieldErrorf(field, "is not a usable vector: %v", err)
	}
	return nil
}

// ValidateMetric checks a metric's name.
func ValidateMetric(field string, m Metric) error {
	switch m {
	case Cosine, Dot, Euclidean:
		return nil
	}
	return fieldErrorf(field, "must be one of cosine, dot, euclidean, it is %q", string(m))
}

// ValidateAnalyzer checks an analyzer's name.
func ValidateAnalyzer(field string, a Analyzer) error {
	switch a {
	case AnalyzerStandard, AnalyzerEnglish, AnalyzerSimple:
		return nil
	}
	return fieldErrorf(field, "must be one of standard, english, simple, it is %q", string(a))
}

// ValidateDimension checks a collection's dimension; 0 means "from the first
// stored vector".
func ValidateDimension(field string, d int) error {
	if d < 0 || d > MaxDimension {
		return fieldErrorf(field, "must be 0 (taken from the first stored vector) to %d, it is %d", MaxDimension, d)
	}
	return nil
}

// ValidateOrder checks a listing's order.
func ValidateOrder(field string, o Order) error {
	switch o {
	case ByID, ByIDDesc, ByCreated, ByCreatedDesc:
		return nil
	}
	return fieldErrorf(field, "must be one of id, -id, created_at, -created_at, it is %q", string(o))
}

// validateKey checks text that becomes part of a storage key: UTF-8 without
// control characters, so that a zero byte can end it in a key.
func validateKey(field, s string, limit int) error {
	if s == "" || len(s) > limit {
		return fieldErrorf(field, "must have 1 to %d bytes, it has %d", limit, len(s))
	}
	if !utf8.ValidString(s) {
		return fieldErrorf(field, "must be valid UTF-8")
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r <= 0x9f {
			return fieldErrorf(field, "must not hold control characters")
		}
	}
	return nil
}
