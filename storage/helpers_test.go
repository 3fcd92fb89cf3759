package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snipdb/snipdb/storage/snippet"
)

// TestMain fails the package if any test leaves a C object or a goroutine
// behind, on whatever path.
func TestMain(m *testing.M) {
	code := m.Run()
	if constants := string(slices.Concat(keyFormat, keyPosition, keyNextID, keyCollectionCount, keyIdempotencyCount, keyLogFormat)); constants != "fpnknF" {
		fmt.Fprintf(os.Stderr, "storage: a constant key was overwritten: %q\n", constants)
		code = 1
	}
	if n := LiveObjects(); code == 0 && n != 0 {
		fmt.Fprintf(os.Stderr, "storage: %d C objects were not freed\n", n)
		code = 1
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// small are options for tests: little memory, no waiting for minutes.
func small() Options {
	return Options{Profile: Small, MemoryBytes: minMemoryBytes, CloseTimeout: 10 * time.Second}
}

func newShared(tb testing.TB, o Options) *Shared {
	tb.Helper()
	s, err := NewShared(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// openDB opens a database that is closed with the test.
func openDB(tb testing.TB, dir string, o Options) *DB {
	tb.Helper()
	db, err := Open(dir, o, newShared(tb, o))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { must(tb, db.Close()) })
	return db
}

func openStore(tb testing.TB, dir string, o Options) *Store {
	tb.Helper()
	st, err := OpenStore(dir, o, newShared(tb, o))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { must(tb, st.Close()) })
	return st
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// commit builds one batch and commits it at the next index.
func commit(tb testing.TB, db *DB, fn func(b *Batch)) Position {
	tb.Helper()
	b := db.NewBatch()
	defer b.Destroy()
	fn(b)
	at := db.Position()
	at.Index, at.Term = at.Index+1, 1
	must(tb, db.Commit(b, at))
	return at
}

// putSystem commits one system row.
func putSystem(tb testing.TB, db *DB, key, value string) Position {
	tb.Helper()
	return commit(tb, db, func(b *Batch) { b.PutSystem(key, []byte(value)) })
}

// newCollection makes a collection within a batch.
func newCollection(tb testing.TB, b *Batch, name string) *snippet.Collection {
	tb.Helper()
	id, err := b.NewCollectionID()
	must(tb, err)
	c := &snippet.Collection{Name: name, ID: id, Metric: snippet.Cosine, Analyzer: snippet.AnalyzerStandard}
	must(tb, b.PutCollection(c))
	return c
}

// newDocument writes a document with n snippets, each with a vector of dim
// values if dim > 0.
func newDocument(tb testing.TB, b *Batch, c *snippet.Collection, id string, o snippet.Owner, n, dim int) *snippet.Document {
	tb.Helper()
	ordinal, err := b.NewOrdinal(c)
	must(tb, err)
	d := &snippet.Document{ID: id, Owner: o, Ordinal: ordinal, Title: "title of " + id, SnippetCount: n}
	if dim > 0 {
		d.EmbeddedCount = n
	}
	for i := range n {
		text := fmt.Sprintf("%s snippet %d", id, i)
		s := &snippet.Snippet{Index: i, Content: text, ContentHash: snippet.HashContent(text), Revision: ordinal}
		if dim > 0 {
			s.Embedded, s.Model, s.Vector = true, "m", testVector(dim, i)
		}
		must(tb, b.PutSnippet(c.ID, d, s, true))
	}
	must(tb, b.PutDocument(c.ID, d, true))
	return d
}

func testVector(dim, seed int) snippet.Vector {
	values := make([]float32, dim)
	for i := range values {
		values[i] = float32(seed+1) / float32(i+1)
	}
	return snippet.VectorOf(values)
}

// dump returns the visible state of a view as text rows.
func dump(tb testing.TB, v *View) map[string]string {
	tb.Helper()
	rows := map[string]string{}
	must(tb, v.Dump(context.Background(), func(cf, key, value []byte) error {
		rows[string(cf)+"/"+string(key)] = string(value)
		return nil
	}))
	return rows
}

// eventually waits until the condition holds.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			tb.Fatalf("it did not happen in time: %s", what)
		}
		<-tick.C
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(path, []byte(got), 0o640))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if got != string(want) {
		t.Errorf("%s differs: the encoding of stored data has changed.\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}
