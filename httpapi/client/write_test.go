package client

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestAWriteLearnsWhereTheLeaderIs(t *testing.T) {
	c := newFakeCluster(t, 3)
	c.leader = 2
	cl := c.client(nil)
	eventually(t, "writes go straight to the leader", func() bool {
		_, meta, err := cl.PutDocument(t.Context(), "c", "d", content("x"))
		if err != nil {
			t.Fatal(err)
		}
		if meta.Node != "n3" {
			t.Fatalf("the answer is of %q, the leader is n3", meta.Node)
		}
		return meta.ForwardedBy == ""
	})
	if got := cl.Leader(); got != c.nodes[2].srv.URL {
		t.Fatalf("the leader is taken to be at %q, it is at %q", got, c.nodes[2].srv.URL)
	}
	// After a change of the leader the old one forwards, and it is learned anew.
	c.with(func() { c.leader = 0 })
	eventually(t, "writes go straight to the new leader", func() bool {
		_, meta, err := cl.PutDocument(t.Context(), "c", "d", content("x"))
		return err == nil && meta.ForwardedBy == "" && meta.Node == "n1"
	})
}

func TestALeaderHintIsFollowedAtOnceAndFree(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.leader = 1
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if n.n == 1 {
			return false
		}
		c.with(func() { n.headers(w, c.index, "") })
		writeProblem(w, wire.CodeNotLeader, OutcomeNotApplied, 1, c.nodes[1].srv.URL)
		return true
	})
	var events []RetryEvent
	// Only the follower is given: the leader's address comes from the hint.
	cl := mustNew(t, []string{c.nodes[0].srv.URL}, Options{OnRetry: func(e RetryEvent) { events = append(events, e) }})
	begin := time.Now()
	_, meta, err := cl.PutDocument(t.Context(), "c", "d", content("x"))
	if err != nil {
		t.Fatal(err)
	}
	got := c.requests()
	if len(got) != 2 || got[0].node != "n1" || got[1].node != "n2" || got[0].key == "" || got[0].key != got[1].key || got[0].body != got[1].body {
		t.Fatalf("sent %+v", got)
	}
	if meta.Attempts != 2 || len(events) != 1 || !events[0].Free || events[0].Wait != 0 {
		t.Fatalf("attempts %d, retries %+v", meta.Attempts, events)
	}
	if spent := time.Since(begin); spent > 900*time.Millisecond {
		t.Fatalf("the hint was followed after %v, although Retry-After is for those without one", spent)
	}
	if cl.core.budget.tokens < cl.core.opts.Budget.Burst {
		t.Fatalf("the hint spent budget: %g tokens are left", cl.core.budget.tokens)
	}
	// The next write goes there at once.
	if _, meta, err = cl.PutDocument(t.Context(), "c", "d", content("y")); err != nil || meta.Attempts != 1 {
		t.Fatalf("attempts %d, error %v", meta.Attempts, err)
	}
}

func TestAHintIsNotFollowedOutOfTLSOrWithoutDiscovery(t *testing.T) {
	for _, o := range []struct {
		endpoint, hint string
		discover       bool
	}{
		{"https://a:1", "http://b:1", true},
		{"http://a:1", "http://b:1", false},
		{"http://a:1", "ftp://b:1", true},
		{"http://a:1", "http://u:p@b:1", true},
		{"http://a:1", "", true},
	} {
		p, err := newPool([]string{o.endpoint}, o.discover)
		if err != nil {
			t.Fatal(err)
		}
		if e := p.hint(o.hint); e != nil {
			t.Errorf("with %+v the client would send its token to %s", o, e.url)
		}
	}
}

func TestARefusedConnectionFailsOverAndTheNodeIsPassedOver(t *testing.T) {
	c := newFakeCluster(t, 2)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + l.Addr().String()
	l.Close()
	retries := 0
	cl := mustNew(t, append(c.urls(), dead), Options{OnRetry: func(RetryEvent) { retries++ }, NoDiscovery: true})
	for range 50 {
		if _, _, err := cl.GetDocument(t.Context(), "c", "none"); !IsNotFound(err) {
			t.Fatal(err)
		}
		// Also without a key: what was not sent may be sent elsewhere.
		if _, _, err := cl.PutDocument(t.Context(), "c", "d", content("x"), WithoutIdempotencyKey()); err != nil {
			t.Fatal(err)
		}
	}
	if retries == 0 || retries > 10 {
		t.Fatalf("%d retries in 100 calls; the dead node must be tried, and then passed over", retries)
	}
}

func TestAWriteWhoseAnswerIsLostIsRepeatedWithItsKey(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(once(isMethod(http.MethodPut), func(n *fakeNode, w http.ResponseWriter, r *http.Request, body []byte) {
		c.apply(r, body)
		reset(w)
	}))
	cl := c.client(nil)
	_, meta, err := cl.PutDocument(t.Context(), "c", "d", content("x"))
	if err != nil {
		t.Fatal(err)
	}
	got := c.requests()
	if len(got) != 2 || got[0].key != got[1].key || got[0].body != got[1].body {
		t.Fatalf("sent %+v", got)
	}
	if !meta.Replayed || meta.Index != 1 || c.applied[got[0].key] != 1 || c.docs["/v1/collections/c/docs/d"].puts != 1 {
		t.Fatalf("meta %+v, applied %v", meta, c.applied)
	}
}

func TestAWriteWithoutAKeyIsNeverRepeatedOnceItMayHaveBeenSent(t *testing.T) {
	for name, fail := range map[string]func(n *fakeNode, w http.ResponseWriter){
		"reset": func(_ *fakeNode, w http.ResponseWriter) { reset(w) },
		"unknown": func(n *fakeNode, w http.ResponseWriter) {
			n.problem(w, wire.CodeOutcomeUnknown, OutcomeUnknownToNode, 1)
		},
		"proxy": func(_ *fakeNode, w http.ResponseWriter) { http.Error(w, "bad gateway", http.StatusBadGateway) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 2)
			c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
				fail(n, w)
				return true
			})
			cl := c.client(nil)
			for what, call := range map[string]func() error{
				"put": func() error {
					_, _, err := cl.PutDocument(t.Context(), "c", "d", content("x"), WithoutIdempotencyKey())
					return err
				},
				"add member": func() error {
					_, err := cl.AddMember(t.Context(), wire.MemberInput{ID: "n9", RaftAddr: "x:1"})
					return err
				},
				"snapshot": func() error { _, _, err := cl.Snapshot(t.Context(), c.urls()[0]); return err },
			} {
				before := len(c.requests())
				err := call()
				if !OutcomeUnknown(err) {
					t.Errorf("%s: the error %v does not say that the outcome is unknown", what, err)
				}
				var e *Error
				if !errors.As(err, &e) || e.GaveUp != GaveUpNoKey {
					t.Errorf("%s: gave up for %q", what, e.GaveUp)
				}
				got := c.requests()[before:]
				if len(got) != 1 || got[0].key != "" {
					t.Errorf("%s: sent %+v", what, got)
				}
			}
		})
	}
}

func TestAWriteWithoutAKeyIsRepeatedIfItWasNotApplied(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.setHook(once(isMethod(http.MethodPut), func(n *fakeNode, w http.ResponseWriter, _ *http.Request, _ []byte) {
		n.problem(w, wire.CodeNoLeader, OutcomeNotApplied, 0)
	}))
	_, meta, err := c.client(nil).PutDocument(t.Context(), "c", "d", content("x"), WithoutIdempotencyKey())
	if err != nil || meta.Attempts != 2 || len(c.requests()) != 2 {
		t.Fatalf("attempts %d, error %v", meta.Attempts, err)
	}
}

func TestTheCallersKeyIsUsed(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	for i, want := range []bool{false, true} {
		_, meta, err := cl.PutDocument(t.Context(), "c", "d", content("x"), IdempotencyKey("mine"))
		if err != nil || meta.Replayed != want {
			t.Fatalf("put %d: replayed %v, error %v", i, meta.Replayed, err)
		}
	}
	if _, _, err := cl.PutDocument(t.Context(), "c", "d", content("other"), IdempotencyKey("mine")); CodeOf(err) != wire.CodeKeyReused {
		t.Fatalf("error %v", err)
	}
	if got := c.requests(); len(got) != 3 {
		t.Fatalf("a final refusal was repeated: %d requests", len(got))
	}
}

func TestAnEarlierUnknownAttemptMakesTheOutcomeUnknown(t *testing.T) {
	c := newFakeCluster(t, 1)
	var second atomic.Bool
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if !second.Swap(true) {
			reset(w)
			return true
		}
		n.problem(w, wire.CodeNoLeader, OutcomeNotApplied, 0)
		return true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _, err := c.client(nil).PutDocument(ctx, "c", "d", content("x"))
	if !OutcomeUnknown(err) || !errors.Is(err, ErrUnavailable) || CodeOf(err) != wire.CodeNoLeader {
		t.Fatalf("error %v", err)
	}
}

func TestARefusalOfTheStateMachineIsFinalAndDefinite(t *testing.T) {
	c := newFakeCluster(t, 1)
	for _, code := range []wire.Code{wire.CodeRevisionMismatch, wire.CodeNotFound, wire.CodeOwnerConflict, wire.CodeDimensionMismatch} {
		var n atomic.Int32
		c.setHook(func(node *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if n.Add(1) == 1 {
				reset(w)
				return true
			}
			node.problem(w, code, OutcomeNotApplied, 0)
			return true
		})
		_, _, err := c.client(nil).PutDocument(t.Context(), "c", "d", content("x"), IfMatch(3))
		if CodeOf(err) != code || OutcomeUnknown(err) || n.Load() != 2 {
			t.Errorf("%s: %d requests, error %v", code, n.Load(), err)
		}
	}
}

// What a node refuses before the state machine has looked at the key says nothing
// about an earlier attempt, which may have met another release.
func TestAnEarlyRefusalAfterALostAnswerIsUnknown(t *testing.T) {
	c := newFakeCluster(t, 1)
	for _, p := range []wire.Problem{{Code: wire.CodeDimensionMismatch, Field: "vector"}, {Code: wire.CodeInvalidField, Field: "title"}, {Code: wire.CodeRouteNotFound}} {
		for _, lost := range []bool{true, false} {
			var n atomic.Int32
			c.setHook(func(node *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
				if n.Add(1) == 1 && lost {
					reset(w)
					return true
				}
				p.Outcome = OutcomeNotApplied
				w.Header().Set("Content-Type", wire.TypeProblem)
				w.WriteHeader(p.Code.Info().Status)
				_ = json.NewEncoder(w).Encode(p)
				return true
			})
			if _, _, err := c.client(nil).PutDocument(t.Context(), "c", "d", content("x")); CodeOf(err) != p.Code || OutcomeUnknown(err) != lost {
				t.Errorf("%s after a lost answer (%v): unknown %v, error %v", p.Code, lost, OutcomeUnknown(err), err)
			}
		}
	}
}

// write_conflict is of one attempt, and leaves no row under the key: what an
// attempt before it did stays unknown.
func TestAWriteConflictAfterALostAnswerIsUnknown(t *testing.T) {
	c := newFakeCluster(t, 1)
	var n atomic.Int32
	c.setHook(func(node *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if n.Add(1) == 1 {
			reset(w)
			return true
		}
		node.problem(w, wire.CodeWriteConflict, OutcomeNotApplied, 0)
		return true
	})
	cl := c.client(func(o *Options) { o.MaxAttempts = 2 })
	if _, _, err := cl.PutDocument(t.Context(), "c", "d", content("x")); CodeOf(err) != wire.CodeWriteConflict || !OutcomeUnknown(err) {
		t.Errorf("error %v", err)
	}
}

func TestAHangingNodeCostsOneAttemptOnly(t *testing.T) {
	c := newFakeCluster(t, 2)
	cl := c.client(func(o *Options) { o.AttemptTimeout = 150 * time.Millisecond })
	if _, _, err := cl.PutDocument(t.Context(), "c", "d", content("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leader is known", func() bool { return cl.Leader() == c.nodes[0].srv.URL })
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if n.n != 0 {
			return false
		}
		<-r.Context().Done() // as a stopped process: the connection stays, nothing comes
		return true
	})
	begin := time.Now()
	_, meta, err := cl.PutDocument(t.Context(), "c", "d", content("y"))
	if err != nil || meta.Attempts != 2 || meta.ForwardedBy != "n2" {
		t.Fatalf("meta %+v, error %v", meta, err)
	}
	if spent := time.Since(begin); spent > 3*time.Second {
		t.Fatalf("it took %v", spent)
	}
}

func TestTheDeadlineIsSentAndHeld(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, _, err := cl.PutDocument(ctx, "c", "d", content("x")); err != nil {
		t.Fatal(err)
	}
	d, err := time.ParseDuration(c.requests()[0].timeout)
	if err != nil || d > 2*time.Second || d < 1500*time.Millisecond {
		t.Fatalf("%s is %q (%v)", wire.HeaderTimeout, c.requests()[0].timeout, err)
	}
	c.setHook(func(_ *fakeNode, _ http.ResponseWriter, r *http.Request, _ []byte) bool {
		<-r.Context().Done()
		return true
	})
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = cl.PutDocument(ctx, "c", "d", content("x"))
	if !errors.Is(err, context.DeadlineExceeded) || !OutcomeUnknown(err) {
		t.Fatalf("error %v", err)
	}
	if n := len(c.requests()); n != 2 {
		t.Fatalf("%d requests; nothing may be sent after the deadline", n)
	}
}

func TestConnectionsAreReusedByHundredsOfWorkers(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	const workers, each = 200, 10
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if _, _, err := cl.PutDocument(t.Context(), "c", "d", content("x")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.with(func() {
		// A dial that a freed connection made needless is still a connection.
		if c.conns > 2*workers {
			t.Errorf("%d connections for %d workers", c.conns, workers)
		}
		if c.index != workers*each {
			t.Errorf("%d writes were applied, %d were made", c.index, workers*each)
		}
	})
}

func TestCloseEndsCallsAndRefusesNewOnes(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	cl.Close()
	cl.Close()
	if _, _, err := cl.GetDocument(t.Context(), "c", "d"); !errors.Is(err, ErrClosed) {
		t.Fatalf("error %v", err)
	}
	if _, err := cl.Import(t.Context(), "c", http.NoBody, ImportOptions{}); !errors.Is(err, ErrClosed) {
		t.Fatalf("error %v", err)
	}
}

func TestAnAnswerIsBounded(t *testing.T) {
	c := newFakeCluster(t, 1)
	for _, chunked := range []bool{false, true} {
		c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
			if chunked {
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = w.Write(make([]byte, 2000))
			return true
		})
		before := len(c.requests())
		_, _, err := c.client(func(o *Options) { o.MaxAnswerBytes = 1000 }).GetDocument(t.Context(), "c", "d")
		if !errors.Is(err, ErrAnswerTooLarge) || errors.Is(err, ErrUnavailable) {
			t.Errorf("chunked %v: error %v", chunked, err)
		}
		if n := len(c.requests()) - before; n != 1 {
			t.Errorf("chunked %v: %d requests", chunked, n)
		}
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	var reached atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	defer other.Close()
	c := newFakeCluster(t, 1)
	c.setHook(func(_ *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		return true
	})
	_, _, err := c.client(nil).PutDocument(t.Context(), "c", "d", content("x"))
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusTemporaryRedirect || reached.Load() {
		t.Fatalf("error %v, followed %v", err, reached.Load())
	}
}
