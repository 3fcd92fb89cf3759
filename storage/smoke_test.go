package storage

import (
	"context"
	"testing"

	"github.com/snipdb/snipdb/storage/snippet"
)

func TestSmoke(t *testing.T) {
	o := Options{Profile: Small}
	s, err := NewShared(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := OpenStore(t.TempDir(), o, s)
	if err != nil {
		t.Fatal(err)
	}
	db, release := st.DB()
	b := db.NewBatch()
	c := &snippet.Collection{Name: "c", Metric: snippet.Cosine}
	c.ID, err = b.NewCollectionID()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.PutCollection(c); err != nil {
		t.Fatal(err)
	}
	d := &snippet.Document{ID: "d", Ordinal: 1, SnippetCount: 1, EmbeddedCount: 1, Owner: snippet.Owner{Type: "a", ID: "b"}}
	if err := b.PutDocument(c.ID, d, true); err != nil {
		t.Fatal(err)
	}
	sn := &snippet.Snippet{Content: "hello", ContentHash: snippet.HashContent("hello"), Vector: snippet.VectorOf(make([]float32, 1024))}
	if err := b.PutSnippet(c.ID, d, sn); err != nil {
		t.Fatal(err)
	}
	if err := db.Commit(b, Position{1, 1}); err != nil {
		t.Fatal(err)
	}
	b.Destroy()
	v, err := st.View()
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Documents(context.Background(), c.ID, snippet.ListQuery{})
	t.Log(p, err)
	l, err := v.Snippets(context.Background(), c.ID, d, 0, 0, true)
	t.Log(len(l), err, l[0].Content, v.Position())
	v.Close()
	stats, err := db.Stats()
	t.Logf("%+v %v", stats, err)
	dir, _ := st.NewScratch()
	_ = dir
	release()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if LiveObjects() != 0 {
		t.Error(LiveObjects())
	}
	t.Log(LinkedVersion(), CheckLinkedVersion())
}
