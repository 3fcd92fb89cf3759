package client

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// lastQuery returns the parameters of the last request.
func (c *fakeCluster) lastQuery() url.Values {
	all := c.requests()
	v, err := url.ParseQuery(all[len(all)-1].query)
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// The limits are data: a read of them is as fresh as it is asked to be.
func TestLimitsAreReadAsDataIs(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		c.with(func() { n.headers(w, 7, "") })
		_, _ = w.Write([]byte("{}"))
		return true
	})
	s := c.client(nil).NewSession()
	for _, step := range []struct {
		opts []ReadOption
		want string
	}{
		{nil, ""},
		{nil, "cluster_id=c1&consistency=session&min_index=7"}, // the first one has shown it
		{[]ReadOption{WithConsistency(Linearizable())}, "consistency=linearizable"},
		{[]ReadOption{WithConsistency(Bounded(time.Second)), OnEndpoint(c.urls()[0])}, "consistency=bounded&max_staleness=1s"},
	} {
		if _, _, err := s.Limits(t.Context(), step.opts...); err != nil {
			t.Fatal(err)
		}
		if got := c.lastQuery().Encode(); got != step.want {
			t.Errorf("asked for %q, want %q", got, step.want)
		}
	}
}

// What a node knows has no consistency: to ask for one is an error.
func TestWhatANodeKnowsHasNoConsistency(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	for name, ask := range map[string]func(...ReadOption) error{
		"status":      func(o ...ReadOption) error { _, _, err := cl.Status(t.Context(), o...); return err },
		"members":     func(o ...ReadOption) error { _, _, err := cl.Members(t.Context(), o...); return err },
		"consistency": func(o ...ReadOption) error { _, _, err := cl.Consistency(t.Context(), o...); return err },
	} {
		for _, opt := range []ReadOption{WithConsistency(Linearizable()), WithConsistency(Local()), WithEmbeddings(AsBase64)} {
			if err := ask(OnEndpoint(c.urls()[0]), opt); err == nil || !strings.Contains(err.Error(), "OnEndpoint") {
				t.Errorf("%s: error %v", name, err)
			}
		}
	}
	if n := len(c.requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestASessionAsksForWhatItHasSeen(t *testing.T) {
	c := newFakeCluster(t, 2)
	s := c.client(nil).NewSession()
	// Nothing is seen yet, so nothing is asked for.
	if _, _, err := s.GetDocument(t.Context(), "c", "d"); !IsNotFound(err) {
		t.Fatal(err)
	}
	if q := c.lastQuery(); len(q) != 0 {
		t.Fatalf("the first read asked for %v", q)
	}
	for want := uint64(1); want <= 3; want++ {
		if _, _, err := s.PutDocument(t.Context(), "c", "d", content("x")); err != nil {
			t.Fatal(err)
		}
		if q := c.lastQuery(); len(q) != 0 {
			t.Fatalf("a write carries %v", q)
		}
		if _, _, err := s.GetDocument(t.Context(), "c", "d"); err != nil {
			t.Fatal(err)
		}
		q := c.lastQuery()
		if q.Get("consistency") != "session" || q.Get("min_index") != fmt.Sprint(want) || q.Get("cluster_id") != "c1" || s.Index() != want {
			t.Fatalf("after write %d the read asked for %v", want, q)
		}
	}
	// A read that saw more moves the session; one that saw less does not.
	for _, step := range []struct{ index, want uint64 }{{50, 50}, {20, 50}} {
		c.with(func() { c.index = step.index })
		if _, _, err := s.GetDocument(t.Context(), "c", "d"); err != nil {
			t.Fatal(err)
		}
		if s.Index() != step.want {
			t.Fatalf("the session is at %d after an answer at %d", s.Index(), step.index)
		}
	}
	// Two sessions, and the client below, do not share it.
	client := s.Client
	if other := client.NewSession(); other.Index() != 0 || other.Cluster() != "" {
		t.Fatalf("a new session begins at %d", other.Index())
	}
	// An explicit level takes the place of the session's.
	if _, _, err := s.GetDocument(t.Context(), "c", "d", WithConsistency(Linearizable())); err != nil {
		t.Fatal(err)
	}
	if q := c.lastQuery(); q.Get("consistency") != "linearizable" || q.Has("min_index") {
		t.Fatalf("asked for %v", q)
	}
}

// The lines of an import and of a bulk writer are writes of the session, and
// the session knows of each before the caller does.
func TestASessionSeesItsImports(t *testing.T) {
	c := newFakeCluster(t, 1)
	s := c.client(nil).NewSession()
	lines := 0
	if _, err := s.Import(t.Context(), "c", strings.NewReader(ndjson(5)), ImportOptions{OnResult: func(res wire.ImportResult) error {
		lines++
		if res.Revision == 0 || s.Index() != res.Revision {
			return fmt.Errorf("the session is at %d, the line at %d", s.Index(), res.Revision)
		}
		return nil
	}}); err != nil || lines != 5 || s.Cluster() != "c1" {
		t.Fatalf("%d lines, cluster %q: %v", lines, s.Cluster(), err)
	}
	before := s.Index()
	w, err := s.NewBulkWriter("c", BulkOptions{})
	if err != nil {
		t.Fatal(err)
	}
	doc := content("x")
	doc.ID = "bulk"
	if err := w.Put(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil || s.Index() <= before {
		t.Fatalf("the session is at %d after a bulk write, was at %d: %v", s.Index(), before, err)
	}
}

func TestASessionNoticesAnotherCluster(t *testing.T) {
	for name, step := range map[string]func(s *Session) error{
		"a read":  func(s *Session) error { _, _, err := s.GetDocument(t.Context(), "c", "d"); return err },
		"a write": func(s *Session) error { _, _, err := s.PutDocument(t.Context(), "c", "d", content("x")); return err },
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			s := c.client(nil).NewSession()
			if _, _, err := s.PutDocument(t.Context(), "c", "d", content("x")); err != nil {
				t.Fatal(err)
			}
			c.with(func() { c.id = "c2" })
			if err := step(s); !IsWrongCluster(err) {
				t.Fatalf("error %v", err)
			}
			if s.Index() != 0 || s.Cluster() != "" {
				t.Fatalf("the session was not reset: %d, %q", s.Index(), s.Cluster())
			}
			if _, _, err := s.GetDocument(t.Context(), "c", "d"); err != nil || s.Cluster() != "c2" {
				t.Fatalf("afterwards: %q, %v", s.Cluster(), err)
			}
		})
	}
}

func TestASessionIsResetWhenTheNodeRefusesItsCluster(t *testing.T) {
	c := newFakeCluster(t, 1)
	s := c.client(nil).ResumeSession("old", 7)
	c.setHook(once(isMethod(http.MethodGet), func(n *fakeNode, w http.ResponseWriter, _ *http.Request, _ []byte) {
		n.problem(w, wire.CodeWrongCluster, "", 0)
	}))
	if _, _, err := s.GetDocument(t.Context(), "c", "d"); !IsWrongCluster(err) {
		t.Fatal(err)
	}
	q := c.lastQuery()
	if q.Get("min_index") != "7" || q.Get("cluster_id") != "old" {
		t.Fatalf("asked for %v", q)
	}
	if s.Index() != 0 {
		t.Fatalf("the session is still at %d", s.Index())
	}
}

func TestASessionIsMonotonicUnderConcurrentUse(t *testing.T) {
	c := newFakeCluster(t, 2)
	s := c.client(nil).NewSession()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				_, meta, err := s.PutDocument(t.Context(), "c", "d", content("x"))
				if err != nil {
					t.Error(err)
					return
				}
				if at := s.Index(); at < meta.Index {
					t.Errorf("the session is at %d, a write of it at %d", at, meta.Index)
				}
			}
		})
	}
	wg.Wait()
	if s.Index() != 320 {
		t.Errorf("the session is at %d after 320 writes", s.Index())
	}
}

func TestTheConsistencyLevelsOnTheWire(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(func(o *Options) { o.DefaultConsistency = Bounded(500 * time.Millisecond) })
	for want, opts := range map[string][]ReadOption{
		"consistency=bounded&max_staleness=500ms": nil,
		"":                                 {WithConsistency(Local())},
		"consistency=session&min_index=42": {WithConsistency(AtIndex(42))},
		"consistency=linearizable":         {WithConsistency(Linearizable())},
		"consistency=linearizable&with_embeddings=base64": {WithConsistency(Linearizable()), WithEmbeddings(AsBase64)},
	} {
		if _, _, err := cl.GetDocument(t.Context(), "c", "d", opts...); !IsNotFound(err) {
			t.Fatal(err)
		}
		if got := c.lastQuery().Encode(); got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	}
	for _, bad := range []Consistency{{Level: "strong"}, {Level: LevelBounded}} {
		if _, _, err := cl.GetDocument(t.Context(), "c", "d", WithConsistency(bad)); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
