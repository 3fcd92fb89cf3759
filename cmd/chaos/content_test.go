package chaos

import (
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// stored is what a node that does what it is told shows of a document.
func stored(coll, id string, in wire.DocumentInput, revision uint64) *wire.Document {
	d := &wire.Document{Collection: coll, ID: id, Owner: in.Owner, Title: in.Title, Metadata: in.Metadata, Revision: revision, SnippetCount: len(in.Snippets)}
	for i, s := range in.Snippets {
		d.Snippets = append(d.Snippets, wire.Snippet{Index: i, Content: s.Content, Revision: revision})
	}
	return d
}

// threeSnippets is a token whose document has three snippets.
func threeSnippets() string {
	for i := 0; ; i++ {
		if token := describe("t1-%d", i); hashOf(token)%3 == 2 {
			return token
		}
	}
}

func TestEachPartOfADocumentIsLookedAt(t *testing.T) {
	token := threeSnippets()
	good := func() *wire.Document { return stored(collRegisters, "k", registerOf(token, "k"), 7) }
	if s := see(good(), collRegisters, "k"); s.Damage != "" || s.Title != token || s.Content != token || s.Rest != token || s.Revision != 7 {
		t.Fatalf("a good document is %+v", s)
	}
	for name, spoil := range map[string]func(d *wire.Document){
		"its text":               func(d *wire.Document) { d.Snippets[0].Content = "not what the client sent" },
		"a text behind":          func(d *wire.Document) { d.Snippets[2].Content = "not what the client sent" },
		"its metadata":           func(d *wire.Document) { d.Metadata = []byte("{}") },
		"its owner":              func(d *wire.Document) { d.Owner = nil },
		"another's owner":        func(d *wire.Document) { d.Owner.ID = "other" },
		"its id":                 func(d *wire.Document) { d.ID = "other" },
		"its collection":         func(d *wire.Document) { d.Collection = collCreates },
		"the last snippet":       func(d *wire.Document) { d.Snippets, d.SnippetCount = d.Snippets[:2], 2 },
		"the order":              func(d *wire.Document) { d.Snippets[1], d.Snippets[2] = d.Snippets[2], d.Snippets[1] },
		"the count":              func(d *wire.Document) { d.SnippetCount = 9 },
		"an embedding":           func(d *wire.Document) { d.Snippets[0].Embedded = true },
		"an embedding elsewhere": func(d *wire.Document) { d.Snippets[1].Embedded, d.Snippets[1].Model = true, "m" },
	} {
		d := good()
		spoil(d)
		if see(d, collRegisters, "k").Damage == "" {
			t.Errorf("%s is wrong, and nobody sees it", name)
		}
	}
}

func TestWhatWasCreatedIsCompared(t *testing.T) {
	ops := []*Op{{Kind: KindCreate, Key: "t", Token: "t", Outcome: OK, Index: 7}}
	for name, c := range map[string]struct {
		change func(d *wire.Document)
		want   int
	}{
		"as it was sent":   {func(*wire.Document) {}, 0},
		"another text":     {func(d *wire.Document) { d.Snippets[0].Content = "not what the client sent" }, 1},
		"a text of others": {func(d *wire.Document) { d.Snippets[0].Content = textOf("u") }, 1},
		"a later revision": {func(d *wire.Document) { d.Revision = 8 }, 1},
	} {
		s := &NodeState{Node: "n1", Documents: map[string]string{}, created: map[string][]*Seen{}}
		d := stored(collCreates, "0190", documentOf("t"), 7)
		c.change(d)
		s.add(collCreates, d)
		if _, found := CheckCreates(ops, "n1", s.created); len(found) != c.want {
			t.Errorf("%s: %v", name, found)
		}
	}
}

// At the end each acknowledged write is looked for on each node.
func TestWhatIsMissingAtTheEndIsFound(t *testing.T) {
	ops := []*Op{
		{Kind: KindPut, Key: "r0-1", Token: "a", Outcome: OK, Index: 10, Created: true},
		{Kind: KindPairWrite, Key: "p1", Token: "b", Outcome: OK, Index: 11},
		{Kind: KindImport, Key: "i", Token: "i", Outcome: OK, Index: 12},
		{Kind: KindCollPut, Key: collLife + "0-1", Token: "3", Outcome: OK, Index: 13, Created: true},
	}
	places := []string{"registers/r0-1", "pairs/p1-a", "pairs/p1-b", "imports/i", collLife + "0-1"}
	state := func() *NodeState {
		s := &NodeState{Node: "n1", Index: 20, Documents: map[string]string{}, seen: map[string]*Seen{}}
		s.add(collRegisters, stored(collRegisters, "r0-1", registerOf("a", "r0-1"), 10))
		s.add(collPairs, stored(collPairs, "p1-a", pairOf("b", "p1"), 11))
		s.add(collPairs, stored(collPairs, "p1-b", pairOf("b", "p1"), 11))
		s.add(collImports, stored(collImports, "i", documentOf("i"), 12))
		in := settingsOf(3)
		s.seen[collLife+"0-1"] = seeCollection(&wire.Collection{Dimension: 3, Metric: *in.Metric, Analyzer: *in.Analyzer, Revision: 13})
		return s
	}
	problems := func(s *NodeState) int {
		reads, found := s.reads(ops)
		_, more := CheckPrefix("durability", ops, reads)
		return len(found) + len(more)
	}
	if n := problems(state()); n != 0 {
		t.Errorf("a good state has %d problems", n)
	}
	for _, place := range places {
		s := state()
		if s.seen[place] == nil {
			t.Fatalf("%s is not in the state", place)
		}
		delete(s.seen, place)
		if problems(s) == 0 {
			t.Errorf("%s is missing, and nobody sees it", place)
		}
		s = state()
		s.seen[place].Title = "x"
		if problems(s) == 0 {
			t.Errorf("%s has another content, and nobody sees it", place)
		}
	}
	s := state()
	s.seen["registers/who"] = &Seen{}
	if problems(s) == 0 {
		t.Error("what nobody wrote is there, and nobody sees it")
	}
}

func TestTheSettingsOfACollectionAreLookedAt(t *testing.T) {
	for dimension := 1; dimension < 10; dimension++ {
		in := settingsOf(dimension)
		c := wire.Collection{Dimension: dimension, Metric: *in.Metric, Analyzer: *in.Analyzer}
		if s := seeCollection(&c); s.Damage != "" {
			t.Error(s.Damage)
		}
		c.Documents = 1
		if seeCollection(&c).Damage == "" {
			t.Error("a collection that nobody wrote to has a document")
		}
		c.Documents, c.Metric = 0, metrics[(dimension+1)%3]
		if seeCollection(&c).Damage == "" {
			t.Error("another metric is right")
		}
	}
}
