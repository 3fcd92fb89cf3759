package importer

import (
	"errors"
	"strings"
	"testing"
)

func collect(t *testing.T, s Source) []Item {
	t.Helper()
	var items []Item
	for item := range s.Items {
		items = append(items, item)
	}
	return items
}

func TestGodocMakesADocumentPerPackage(t *testing.T) {
	source, err := Godoc("testdata/tree", "go/", 1000, false)
	if err != nil {
		t.Fatal(err)
	}
	items := collect(t, source)
	if len(items) != 2 || source.Total != 2 {
		t.Fatalf("got %d items, total %d; want 2: %+v", len(items), source.Total, items)
	}
	doc := items[0].Doc
	if doc.ID != "go/example.org/tree" || doc.Title != "package example.org/tree" {
		t.Errorf("id %q, title %q", doc.ID, doc.Title)
	}
	want := []string{
		"Package tree is a small tree.\n\nIt has two paragraphs.",
		"const MaxDepth = 10\n\nMaxDepth bounds a tree.",
		"type Node struct {\n\t// Value is what it holds.\n\tValue int\n\t// contains filtered or unexported fields\n}\n\nNode is one node.",
		"func New(value int) *Node\n\nNew makes a node.",
		"func (n *Node) Walk(visit func(*Node) bool) error\n\nWalk visits each node.",
	}
	if len(doc.Snippets) != len(want) {
		t.Fatalf("got %d snippets, want %d: %+v", len(doc.Snippets), len(want), doc.Snippets)
	}
	for i, s := range doc.Snippets {
		if s.Content != want[i] {
			t.Errorf("snippet %d:\n got %q\nwant %q", i, s.Content, want[i])
		}
	}
	if got := string(doc.Metadata); got != `{"kind":"go-package","name":"tree","synopsis":"Package tree is a small tree."}` {
		t.Errorf("metadata %s", got)
	}
	if !errors.Is(items[1].Err, errSkip) {
		t.Errorf("a package without comments: got %v, want errSkip", items[1].Err)
	}
}

func TestGodocTakesInternalPackagesWhenAsked(t *testing.T) {
	source, err := Godoc("testdata/tree", "", 1000, true)
	if err != nil {
		t.Fatal(err)
	}
	items := collect(t, source)
	if len(items) != 3 || items[2].Doc.ID != "example.org/tree/sub/internal/deep" {
		t.Fatalf("got %+v", items)
	}
}

func TestGodocOfAFolderInsideAModule(t *testing.T) {
	source, err := Godoc("testdata/tree/sub/internal", "", 1000, true)
	if err != nil {
		t.Fatal(err)
	}
	if items := collect(t, source); len(items) != 1 || items[0].Doc.ID != "example.org/tree/sub/internal/deep" {
		t.Fatalf("got %+v", items)
	}
}

func TestFolder(t *testing.T) {
	source, err := Folder("testdata/text", "p/", 1000)
	if err != nil {
		t.Fatal(err)
	}
	items := collect(t, source)
	if len(items) != 2 || items[0].Doc.ID != "p/a.md" || items[1].Doc.ID != "p/notes/b.txt" {
		t.Fatalf("got %+v", items)
	}
	if a := items[0].Doc; a.Title != "First title" || len(a.Snippets) != 2 || string(a.Metadata) != `{"format":"markdown","path":"a.md"}` {
		t.Errorf("got %+v", a)
	}
	if _, err := Folder("testdata/absent", "", 0); err == nil {
		t.Error("a missing folder gave no error")
	}
}

func TestNDJSON(t *testing.T) {
	items := collect(t, NDJSON(strings.NewReader(`{"id":"a","content":"x"}

not json
{"id":"b","contents":"x"}
{"content":"no id"}
{"id":"c","content":["x","y"]} {"id":"d"}
{"id":"e","content":"last line has no end"}`)))
	var got []string
	for _, item := range items {
		text := item.Doc.ID
		if item.Err != nil {
			text = "error"
		}
		got = append(got, text+":"+string(rune('0'+item.Number)))
	}
	if want := "a:1 error:3 error:4 error:5 error:6 e:7"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
