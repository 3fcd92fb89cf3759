package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func newBulk(t *testing.T, cl *Client, o BulkOptions) *BulkWriter {
	t.Helper()
	b, err := cl.NewBulkWriter("c", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

func doc(i int) wire.DocumentInput {
	return wire.DocumentInput{ID: fmt.Sprintf("d%d", i), Content: wire.Content{"text"}}
}

func TestABulkWriterStoresAllAndReportsEach(t *testing.T) {
	c := newFakeCluster(t, 3)
	results := map[string]int{}
	b := newBulk(t, c.client(nil), BulkOptions{MaxCount: 50, OnResult: func(i BulkItem) {
		if i.Err != nil || i.Status != 201 || i.Revision == 0 {
			t.Errorf("%+v", i)
		}
		results[i.ID]++ // one call at a time: the race detector looks
	}})
	var wg sync.WaitGroup
	for worker := range 20 {
		wg.Go(func() {
			for i := range 50 {
				if err := b.Put(t.Context(), doc(worker*50+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if n := results[fmt.Sprintf("d%d", i)]; n != 1 {
			t.Fatalf("document %d has %d results", i, n)
		}
	}
	if s := b.Stats(); s.Put != 1000 || s.Applied != 1000 || s.Failed != 0 || s.Requests < 20 || s.Requests > 200 {
		t.Fatalf("stats %+v", s)
	}
	if err := b.Put(t.Context(), doc(1)); !errors.Is(err, ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatalf("Close again: %v", err)
	}
}

func TestWhenABufferIsSent(t *testing.T) {
	for name, tc := range map[string]struct {
		options BulkOptions
		puts    int
	}{
		"by count":  {BulkOptions{MaxCount: 3, Linger: time.Hour}, 3},
		"by bytes":  {BulkOptions{MaxBytes: 60, Linger: time.Hour}, 2},
		"by linger": {BulkOptions{Linger: 20 * time.Millisecond}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			b := newBulk(t, c.client(nil), tc.options)
			for i := range tc.puts {
				if err := b.Put(t.Context(), doc(i)); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "all are stored", func() bool { return b.Stats().Applied == uint64(tc.puts) })
			if n := c.imports(); n != 1 {
				t.Fatalf("%d requests", n)
			}
		})
	}
}

func TestFlushWaitsForWhatWasPutBefore(t *testing.T) {
	c := newFakeCluster(t, 1)
	b := newBulk(t, c.client(nil), BulkOptions{Linger: time.Hour})
	for i := range 10 {
		if err := b.Put(t.Context(), doc(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(t.Context()); err != nil || b.Stats().Applied != 10 {
		t.Fatalf("error %v, stats %+v", err, b.Stats())
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFailedDocumentsAreReportedOnce(t *testing.T) {
	c := newFakeCluster(t, 1)
	var failed []BulkItem
	b := newBulk(t, c.client(nil), BulkOptions{OnResult: func(i BulkItem) {
		if i.Err != nil {
			failed = append(failed, i)
		}
	}})
	for _, id := range []string{"a", "bad1", "b", "bad2"} {
		if err := b.Put(t.Context(), wire.DocumentInput{ID: id, Content: wire.Content{"x"}}); err != nil {
			t.Fatal(err)
		}
	}
	err := b.Flush(t.Context())
	var be *BulkError
	if !errors.As(err, &be) || be.Failed != 2 || be.FirstID != "bad1" || CodeOf(err) != wire.CodeInvalidField || OutcomeUnknown(err) {
		t.Fatalf("error %v", err)
	}
	if len(failed) != 2 || failed[1].ID != "bad2" || failed[1].Status != 422 {
		t.Fatalf("failed %+v", failed)
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatalf("reported again: %v", err)
	}
}

func TestDocumentsWithOneIDKeepTheirOrder(t *testing.T) {
	c := newFakeCluster(t, 1)
	b := newBulk(t, c.client(nil), BulkOptions{MaxCount: 4, MaxInFlight: 8, Linger: time.Hour})
	for i := range 60 {
		for _, id := range []string{"x", "y", fmt.Sprint(i)} {
			if err := b.Put(t.Context(), wire.DocumentInput{ID: id, Title: fmt.Sprint(i), Content: wire.Content{"x"}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"x", "y"} {
		d := c.docs["/v1/collections/c/docs/"+id]
		if d.puts != 60 || !strings.Contains(string(d.body), `"title":"59"`) {
			t.Errorf("%s was put %d times, the last is %s", id, d.puts, d.body)
		}
	}
}

func TestTheBufferIsBounded(t *testing.T) {
	c := newFakeCluster(t, 1)
	release := make(chan struct{})
	c.setHook(func(*fakeNode, http.ResponseWriter, *http.Request, []byte) bool { <-release; return false })
	b := newBulk(t, c.client(nil), BulkOptions{MaxCount: 5, MaxInFlight: 2, Linger: time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	accepted := 0
	var err error
	for ; err == nil && accepted < 1000; accepted++ {
		err = b.Put(ctx, doc(accepted))
	}
	accepted--
	// At most two requests of five, and five in the buffer; the linger may
	// send smaller ones.
	if !errors.Is(err, context.DeadlineExceeded) || accepted < 7 || accepted > 15 {
		t.Fatalf("%d documents were accepted, then: %v", accepted, err)
	}
	if n := c.imports(); n > 2 {
		t.Fatalf("%d requests at once", n)
	}
	close(release)
	if err := b.Close(t.Context()); err != nil || b.Stats().Applied != uint64(accepted) {
		t.Fatalf("error %v, stats %+v", err, b.Stats())
	}
}

func TestCloseGivesUpAtItsDeadlineAndEachDocumentHasAResult(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(hang)
	results := 0
	b := newBulk(t, c.client(nil), BulkOptions{MaxCount: 5, MaxInFlight: 1, Linger: time.Millisecond, OnResult: func(i BulkItem) {
		if i.Err == nil {
			t.Errorf("%+v", i)
		}
		results++
	}})
	for i := range 8 {
		if err := b.Put(t.Context(), doc(i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	if s := b.Stats(); results != 8 || s.Failed != 8 {
		t.Fatalf("%d results, stats %+v", results, s)
	}
}

func TestABulkWriterRidesThroughFailures(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.leader = 1
	n := 0
	c.setHook(func(node *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if !strings.HasSuffix(r.URL.Path, "/import") {
			return false
		}
		c.mu.Lock()
		n++
		k := n
		c.mu.Unlock()
		switch {
		case k%5 == 1:
			node.serveImport(w, r, 3)
		case k%5 == 2:
			reset(w)
		case k%5 == 3:
			node.problem(w, wire.CodeNoLeader, OutcomeNotApplied, 0)
		case k%5 == 4:
			node.problem(w, wire.CodeOverloaded, OutcomeNotApplied, 0)
		default:
			return false
		}
		return true
	})
	b := newBulk(t, c.client(nil), BulkOptions{MaxCount: 20, MaxResumes: 50})
	for i := range 400 {
		if err := b.Put(t.Context(), doc(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.with(func() {
		if len(c.docs) != 400 {
			t.Errorf("%d documents are stored", len(c.docs))
		}
	})
	if s := b.Stats(); s.Applied != 400 || s.Failed != 0 || s.Resumes == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestABulkWriterMakesIDsItself(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(once(func(*fakeNode, *http.Request) bool { return true }, func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) {
		n.serveImport(w, r, 0) // applied, the answer lost
	}))
	b := newBulk(t, c.client(nil), BulkOptions{})
	for range 3 {
		if err := b.Put(t.Context(), content("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(t.Context()); err != nil || len(c.docs) != 3 {
		t.Fatalf("error %v, %d documents are stored", err, len(c.docs))
	}
}

func TestClosingTheClientEndsItsBulkWriters(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(hang)
	cl := c.client(nil)
	b := newBulk(t, cl, BulkOptions{Linger: time.Millisecond})
	if err := b.Put(t.Context(), doc(1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the document is under way", func() bool { return c.imports() == 1 })
	cl.Close()
	var be *BulkError
	if err := b.Close(t.Context()); !errors.As(err, &be) || be.Failed != 1 || !OutcomeUnknown(err) {
		t.Fatalf("error %v", err)
	}
	if err := b.Put(t.Context(), doc(2)); !errors.Is(err, ErrClosed) {
		t.Fatalf("error %v", err)
	}
}

func TestBulkOptionsAreChecked(t *testing.T) {
	cl := mustNew(t, []string{"a:1"}, Options{})
	for _, o := range []BulkOptions{{MaxBytes: -1}, {MaxCount: -1}, {Linger: -1}, {MaxInFlight: -1}, {MaxResumes: -1}} {
		if _, err := cl.NewBulkWriter("c", o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
