package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/snippet"
)

// replayed runs `snipdb inspect --replay` in this process.
func replayed(t *testing.T, path string, to uint64) *replay {
	t.Helper()
	r, err := inspect(path, true, to, testWriter{t})
	if err != nil {
		t.Fatal(err)
	}
	return r.Replay
}

// A state that the node has reached by serving is what its log makes; one that
// somebody changed behind the log's back is not, and each row is found.
func TestReplayFindsWhatTheLogDidNotDo(t *testing.T) {
	path, before := t.TempDir(), storage.LiveObjects()
	base, stop := running(t, path)
	for i := range 20 {
		request, err := http.NewRequest(http.MethodPut, fmt.Sprintf("%s%s/d%d", base, docs, i%15), strings.NewReader(`{"content":["one","two"]}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	same := replayed(t, path, 0)
	if !same.Compared || same.Different != 0 || same.Entries < 20 || same.Rows < 60 || len(same.Digest) != 64 {
		t.Errorf("the state that the log made: %+v", same)
	}
	if earlier := replayed(t, path, same.Index-3); earlier.Compared || earlier.Digest == same.Digest || earlier.Digest == "" {
		t.Errorf("three entries earlier: %+v", earlier)
	}
	if later := replayed(t, path, same.Index+1000); later.Impossible == "" {
		t.Errorf("beyond the log: %+v", later)
	}

	changeBehindTheLog(t, path)
	r := replayed(t, path, 0)
	all := strings.Join(r.Differences, "\n")
	if len(r.Problems) == 0 || len(same.Problems) > 0 {
		t.Errorf("a snippet whose meta row is of another revision is no problem: %q; before: %q", r.Problems, same.Problems)
	}
	if r.Different < 3 || !strings.Contains(all, "only the node has meta:") ||
		!strings.Contains(all, "another value in snippet_text:") || !strings.Contains(all, `the node lacks listing:`) {
		t.Errorf("the changed state: %d rows: %s", r.Different, all)
	}
	if !strings.Contains(r.verdict(), "DIFFERENT") {
		t.Errorf("the verdict is %q", r.verdict())
	}
	if left := storage.LiveObjects() - before; left != 0 {
		t.Errorf("%d C objects are left", left)
	}
}

// changeBehindTheLog changes a stopped node's state at the position that it has: one row
// more, one with another value, and one document less.
func changeBehindTheLog(t *testing.T, path string) {
	t.Helper()
	options := storage.DefaultOptions()
	shared, err := storage.NewShared(options)
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	store, err := storage.OpenStore((&dataDir{path: path}).state(), options, shared)
	if err != nil {
		t.Fatal(err)
	}
	db, release := store.DB()
	b := db.NewBatch()
	defer func() {
		b.Destroy()
		release()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	name := strings.Split(docs, "/")[3]
	c, err := b.Collection(name)
	if err != nil || c == nil {
		t.Fatalf("collection %s: %v %v", name, c, err)
	}
	b.PutSystem("stray", []byte("x"))
	for i, id := range []string{"d1", "d2"} {
		d, err := b.Document(c.ID, id)
		if err != nil || d == nil {
			t.Fatalf("document %s: %v %v", id, d, err)
		}
		if i == 0 {
			err = b.PutSnippet(c.ID, d, &snippet.Snippet{Index: 0, Content: "eno", Revision: d.Revision}, false)
		} else {
			err = b.DeleteDocument(c.ID, d)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Commit(b, db.Position()); err != nil {
		t.Fatal(err)
	}
}
