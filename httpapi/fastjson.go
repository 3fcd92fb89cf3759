package httpapi

import (
	"bytes"
	"strconv"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// decodeEmbeddings decodes the body of PUT …/embeddings. That body is nearly
// all numbers, and encoding/json reads each of them three times before the
// codec of wire.Floats sees it. So the common form is parsed here in one pass;
// whatever is not exactly that form (an escape, another field, a mistake) goes
// to decodeJSON, which alone makes the errors. A fuzz test compares the two.
func decodeEmbeddings(body []byte, into *embeddingsBody) error {
	p := fastParser{rest: body}
	if out, ok := p.embeddingsBody(); ok {
		*into = out
		return nil
	}
	return decodeJSON(body, into)
}

// fastParser consumes JSON from the front. Its methods return false for
// anything unusual; then the parser is of no more use.
type fastParser struct{ rest []byte }

func (p *fastParser) space() {
	for len(p.rest) > 0 && (p.rest[0] == ' ' || p.rest[0] == '\n' || p.rest[0] == '\r' || p.rest[0] == '\t') {
		p.rest = p.rest[1:]
	}
}

// take consumes one character, after white space.
func (p *fastParser) take(c byte) bool {
	p.space()
	if len(p.rest) == 0 || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// text consumes a string of visible ASCII without escapes.
func (p *fastParser) text() (string, bool) {
	if !p.take('"') {
		return "", false
	}
	end := bytes.IndexByte(p.rest, '"')
	if end < 0 {
		return "", false
	}
	for _, c := range p.rest[:end] {
		if c < ' ' || c > '~' || c == '\\' {
			return "", false
		}
	}
	s := string(p.rest[:end])
	p.rest = p.rest[end+1:]
	return s, true
}

// list consumes the items of an object or array up to its end.
func (p *fastParser) list(open, end byte, item func() bool) bool {
	if !p.take(open) {
		return false
	}
	if p.take(end) {
		return true
	}
	for {
		if !item() {
			return false
		}
		if p.take(end) {
			return true
		}
		if !p.take(',') {
			return false
		}
	}
}

// fields consumes an object whose fields are known and come once each.
func (p *fastParser) fields(known map[string]func() bool) bool {
	seen := make(map[string]bool, len(known))
	return p.list('{', '}', func() bool {
		name, ok := p.text()
		parse := known[name]
		if !ok || parse == nil || seen[name] || !p.take(':') {
			return false
		}
		seen[name] = true
		return parse()
	})
}

// number consumes a number as JSON writes it.
func (p *fastParser) number() (text []byte, ok bool) {
	p.space()
	b, i := p.rest, 0
	digits := func() bool {
		start := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > start
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	first := i
	if !digits() || b[first] == '0' && i > first+1 {
		return nil, false
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return nil, false
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return nil, false
		}
	}
	p.rest = b[i:]
	return b[:i], true
}

// floats consumes an array of numbers that float32 can hold.
func (p *fastParser) floats(sizeHint int) (wire.Floats, bool) {
	out := make(wire.Floats, 0, sizeHint)
	ok := p.list('[', ']', func() bool {
		text, ok := p.number()
		if !ok {
			return false
		}
		x, err := strconv.ParseFloat(string(text), 32)
		out = append(out, float32(x))
		return err == nil
	})
	return out, ok
}

func (p *fastParser) embedding(sizeHint int) (out embeddingBody, ok bool) {
	ok = p.fields(map[string]func() bool{
		"index": func() bool {
			text, ok := p.number()
			n, err := strconv.Atoi(string(text))
			out.Index = &n
			return ok && err == nil
		},
		"vector":        func() (ok bool) { out.Vector, ok = p.floats(sizeHint); return ok },
		"vector_base64": func() (ok bool) { out.VectorBase64, ok = p.text(); return ok },
	})
	return out, ok
}

func (p *fastParser) embeddingsBody() (out embeddingsBody, ok bool) {
	ok = p.fields(map[string]func() bool{
		"model": func() (ok bool) { out.Model, ok = p.text(); return ok },
		"embeddings": func() bool {
			out.Embeddings = []embeddingBody{}
			hint := 0 // all vectors of a document have the same length
			return p.list('[', ']', func() bool {
				e, ok := p.embedding(hint)
				hint = len(e.Vector)
				out.Embeddings = append(out.Embeddings, e)
				return ok
			})
		},
	})
	p.space()
	return out, ok && len(p.rest) == 0
}
