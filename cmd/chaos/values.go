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
	collImports   = "imports"
	// collLife begins the names of the collections that are made and deleted;
	// nobodysColl is the one that the rules of the limits are for.
	collLife    = "life-"
	nobodysColl = "nobody"
	// limitsKey is the key of calls about the limits.
	limitsKey = "limits"
)

// The types of owners. A register and the documents of a pair belong to
// themselves, so that a deletion by owner deletes one or two.
const (
	ownerRegister = "register"
	ownerPair     = "pair"
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

// restOf is what a document that carries a token has behind its first snippet:
// "" if that is its only one.
func restOf(token string) string {
	if hashOf(token)%3 == 0 {
		return ""
	}
	return token
}

// registerOf and pairOf are documentOf with the owner.
func registerOf(token, key string) wire.DocumentInput {
	in := documentOf(token)
	in.Owner = &wire.Owner{Type: ownerRegister, ID: key}
	return in
}

func pairOf(token, pair string) wire.DocumentInput {
	in := documentOf(token)
	in.Owner = &wire.Owner{Type: ownerPair, ID: pair}
	return in
}

// checkOwner says what is wrong with the owner of a document.
func checkOwner(d *wire.Document) string {
	var want wire.Owner
	switch d.Collection {
	case collRegisters:
		want = wire.Owner{Type: ownerRegister, ID: d.ID}
	case collPairs:
		want = wire.Owner{Type: ownerPair, ID: pairKey(d.ID)}
	}
	var has wire.Owner
	if d.Owner != nil {
		has = *d.Owner
	}
	if has != want {
		return fmt.Sprintf("its owner is %v and not %v", has, want)
	}
	return ""
}

// pairKey is the pair that a document belongs to.
func pairKey(id string) string { return strings.TrimSuffix(strings.TrimSuffix(id, "-a"), "-b") }

// partOf is the token of a snippet of a document: the first has the
// document's own.
func partOf(token string, i int) string {
	if i == 0 {
		return token
	}
	return fmt.Sprintf("%s/%d", token, i)
}

// see reduces a document to its tokens, and says what does not fit together. It
// is the one that was asked for, by collection and id.
func see(d *wire.Document, coll, id string) *Seen {
	s := &Seen{Revision: d.Revision, Title: d.Title}
	note := func(damage string) {
		if s.Damage == "" {
			s.Damage = damage
		}
	}
	if d.Collection != coll || d.ID != id {
		note(fmt.Sprintf("%s/%s was asked for, and %s/%s came", coll, id, d.Collection, d.ID))
	}
	note(checkOwner(d))
	if d.SnippetCount != len(d.Snippets) || len(d.Snippets) == 0 {
		note(fmt.Sprintf("%d snippets are counted, %d are there", d.SnippetCount, len(d.Snippets)))
		return s
	}
	if want := fmt.Sprintf(`{"token":%q}`, d.Title); string(d.Metadata) != want {
		note(fmt.Sprintf("the metadata of %s are %s", d.Title, d.Metadata))
	}
	for i, part := range d.Snippets {
		token, damage := tokenOf(part.Content)
		note(damage)
		note(checkEmbedding(i, part))
		if i == 0 {
			s.Content, s.Model = token, part.Model
			continue
		}
		// The others are written by puts only, all at once.
		base, number, _ := strings.Cut(token, "/")
		if s.Rest == "" {
			s.Rest = base
		}
		if base != s.Rest || number != fmt.Sprint(i) || part.Index != i {
			note(fmt.Sprintf("snippet %d is %s, beside one of %s", i, token, s.Rest))
		}
	}
	if want := len(documentOf(s.Rest).Snippets); s.Rest != "" && want != len(d.Snippets) {
		note(fmt.Sprintf("%d snippets are there, %s was written with %d", len(d.Snippets), s.Rest, want))
	}
	return s
}

// checkEmbedding says what is wrong with the embedding of a snippet. Only the
// first ever has one.
func checkEmbedding(i int, part wire.Snippet) string {
	if part.Embedded != (part.Model != "") || part.Embedded && i > 0 {
		return fmt.Sprintf("snippet %d has model %q and embedded %v", i, part.Model, part.Embedded)
	}
	if v, err := client.SnippetVector(part); part.Embedded && err == nil && v != nil && !sameVector(v, vectorOf(part.Model)) {
		return fmt.Sprintf("the vector of model %s is %v", part.Model, v)
	}
	return ""
}

// seeQueue reduces a queue to its tokens.
func seeQueue(d *wire.Document) *Seen {
	s := &Seen{Revision: d.Revision, Title: d.Title, Parts: []string{}}
	for _, part := range d.Snippets {
		token, damage := tokenOf(part.Content)
		s.Parts = append(s.Parts, token+damage)
	}
	if d.Title != d.ID || d.SnippetCount != len(d.Snippets) {
		s.Damage = fmt.Sprintf("queue %s has the title %s, and %d snippets of %d", d.ID, d.Title, len(d.Snippets), d.SnippetCount)
	}
	return s
}

// The settings of a collection follow from its dimension, which is its token.
var (
	metrics   = []string{"cosine", "dot", "euclidean"}
	analyzers = []string{"standard", "english", "simple"}
)

// mostDimension is below what a node takes.
const mostDimension = 16_000

func settingsOf(dimension int) wire.CollectionInput {
	return wire.CollectionInput{Dimension: &dimension, Metric: &metrics[dimension%3], Analyzer: &analyzers[dimension/3%3]}
}

// seeCollection reduces a collection to its dimension.
func seeCollection(c *wire.Collection) *Seen {
	s := &Seen{Revision: c.Revision, Title: fmt.Sprint(c.Dimension)}
	want := settingsOf(c.Dimension)
	if c.Metric != *want.Metric || c.Analyzer != *want.Analyzer || c.Documents+c.Snippets+c.Embedded > 0 {
		s.Damage = fmt.Sprintf("%+v has other settings than what was written with its dimension, or documents", *c)
	}
	return s
}

// limitOf is a rule that bothers nobody; seeLimits reads its token.
func limitOf(token int) wire.Limits {
	return wire.Limits{RateLimits: []wire.RateLimit{{Scope: "collection", Name: nobodysColl, WritesPerSecond: float64(token), Burst: token}}}
}

func seeLimits(l *wire.Limits) *Seen {
	if len(l.RateLimits) == 0 {
		return nil
	}
	rule := l.RateLimits[0]
	s := &Seen{Title: fmt.Sprint(rule.Burst)}
	if len(l.RateLimits) != 1 || rule != limitOf(rule.Burst).RateLimits[0] {
		s.Damage = fmt.Sprintf("the limits are %+v", l.RateLimits)
	}
	return s
}
