package chaos

import (
	"fmt"
	"hash/fnv"
	"math"
	"strings"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// The collections of the workload.
const (
	collRegisters = "registers"
	collCreates   = "creates"
	collQueues    = "queues"
	collPairs     = "pairs"
)

// dimension is that of the workload's vectors.
const dimension = 8

func hashOf(token string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(token))
	return h.Sum32()
}

// textOf is the text that carries a token: some hundred bytes that depend on
// it, so that a text that is cut or mixed up shows.
func textOf(token string) string {
	h := hashOf(token)
	size := 200 + int(h%1200)
	var b strings.Builder
	b.WriteString(token)
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, " %08x", h+uint32(i)*2654435761)
	}
	return b.String()
}

// tokenOf reads the token of a text; damage says that it is not what was written.
func tokenOf(text string) (token, damage string) {
	token, _, _ = strings.Cut(text, " ")
	if text != textOf(token) {
		return token, fmt.Sprintf("the text of %s is %d bytes, and is not what was written", token, len(text))
	}
	return token, ""
}

// vectorOf is a vector of length 1 that depends on the token.
func vectorOf(token string) []float32 {
	v := make([]float32, dimension)
	angle := float64(hashOf(token)) / math.MaxUint32 * 2 * math.Pi
	v[0], v[1] = float32(math.Cos(angle)), float32(math.Sin(angle))
	return v
}

func sameVector(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if math.Abs(float64(a[i])-float64(b[i])) > 1e-5 {
			return false
		}
	}
	return true
}

// documentOf is a document that carries a token in all its parts.
func documentOf(token string) wire.DocumentInput {
	in := wire.DocumentInput{Title: token, Metadata: []byte(fmt.Sprintf(`{"token":%q}`, token))}
	for i := range 1 + int(hashOf(token)%3) {
		in.Snippets = append(in.Snippets, wire.SnippetInput{Content: textOf(partOf(token, i))})
	}
	return in
}

// partOf is the token of a snippet of a document: the first has the
// document's own.
func partOf(token string, i int) string {
	if i == 0 {
		return token
	}
	return fmt.Sprintf("%s/%d", token, i)
}

// see reduces a document to its tokens, and says what does not fit together.
func see(d *wire.Document) *Seen {
	s := &Seen{Revision: d.Revision, Title: d.Title}
	note := func(damage string) {
		if s.Damage == "" {
			s.Damage = damage
		}
	}
	if d.SnippetCount != len(d.Snippets) || len(d.Snippets) == 0 {
		note(fmt.Sprintf("%d snippets are counted, %d are there", d.SnippetCount, len(d.Snippets)))
		return s
	}
	if want := fmt.Sprintf(`{"token":%q}`, d.Title); string(d.Metadata) != want {
		note(fmt.Sprintf("the metadata of %s are %s", d.Title, d.Metadata))
	}
	rest := ""
	for i, part := range d.Snippets {
		token, damage := tokenOf(part.Content)
		note(damage)
		if part.Embedded != (part.Model != "") {
			note(fmt.Sprintf("snippet %d has model %q and embedded %v", i, part.Model, part.Embedded))
		}
		if v, err := client.SnippetVector(part); part.Embedded && err == nil && v != nil && !sameVector(v, vectorOf(part.Model)) {
			note(fmt.Sprintf("the vector of model %s is %v", part.Model, v))
		}
		if i == 0 {
			s.Content, s.Model = token, part.Model
			continue
		}
		// The others are written by puts only, all at once.
		base, number, _ := strings.Cut(token, "/")
		if rest == "" {
			rest = base
		}
		if base != rest || number != fmt.Sprint(i) {
			note(fmt.Sprintf("snippet %d is %s, beside one of %s", i, token, rest))
		}
	}
	return s
}
