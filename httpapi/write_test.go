package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestAReplayIsTheSameAnswer(t *testing.T) {
	n := startNode(t, nil)
	requests := []struct{ method, path, body string }{
		{"POST", "/v1/collections/c/docs", `{"content":"x"}`}, // the server makes the id, once
		{"PUT", "/v1/collections/c/docs/d", `{"content":["x","y"],"metadata":{"k":"<&>"}}`},
		{"PUT", "/v1/collections/c/docs/d/embeddings", `{"model":"m","embeddings":[{"index":0,"vector":[1,2]}]}`},
		{"PUT", "/v1/collections/c/docs/d/snippets/1", `{"content":"z"}`},
		{"POST", "/v1/collections/c/batch", `{"operations":[{"op":"patch_doc","id":"d","patch":{"title":"t"}}]}`},
		{"DELETE", "/v1/collections/c/docs/d/snippets/0", ""},
		{"DELETE", "/v1/collections/c/docs/d", ""},
		{"DELETE", "/v1/collections/c/docs/d", ""}, // refused, with a problem that names the first request
		{"PUT", "/v1/collections/new", `{"dimension":3}`},
	}
	for i, r := range requests {
		key := fmt.Sprintf("key-%d", i)
		first := n.do(t, r.method, r.path, r.body, wire.HeaderIdempotencyKey, key)
		index := n.index
		again := n.do(t, r.method, r.path, r.body, wire.HeaderIdempotencyKey, key)
		if first.status != again.status || !bytes.Equal(first.body, again.body) {
			t.Errorf("%s %s: first %d %s\nthen %d %s", r.method, r.path, first.status, first.body, again.status, again.body)
		}
		if first.header.Get(wire.HeaderReplayed) != "" || again.header.Get(wire.HeaderReplayed) != "true" {
			t.Errorf("%s %s: replayed headers %q, %q", r.method, r.path, first.header.Get(wire.HeaderReplayed), again.header.Get(wire.HeaderReplayed))
		}
		if again.header.Get(wire.HeaderIndex) != fmt.Sprint(index) {
			t.Errorf("%s %s: a replay names index %s, the first was %d", r.method, r.path, again.header.Get(wire.HeaderIndex), index)
		}
	}
	p := n.want(t, 422, nil, "POST", "/v1/collections/c/docs", `{"content":"other"}`, wire.HeaderIdempotencyKey, "key-0").problem(t)
	if p.Code != wire.CodeKeyReused {
		t.Errorf("%+v", p)
	}
	// What does not change the meaning is not part of the request's identity.
	n.want(t, 201, nil, "POST", "/v1/collections/c/docs?timeout=3s", `{"content":"x"}`, wire.HeaderIdempotencyKey, "key-0", "X-Other", "1")
}

// A replay answers as the first time, though the same request without the key
// would be refused by now.
func TestAReplayDoesNotLookAtTheCollection(t *testing.T) {
	n := startNode(t, nil)
	requests := []struct{ method, path, body string }{
		{"PUT", "/docs/d", `{"snippets":[{"content":"x","vector":[1,2,3]}]}`},
		{"POST", "/docs", `{"snippets":[{"content":"x","vector":[1,2,3]}]}`},
		{"PUT", "/docs/d/snippets/0", `{"content":"y","vector":[1,2,3]}`},
		{"PATCH", "/docs/d/snippets/0", `{"vector":[1,2,3]}`},
		{"PUT", "/docs/d/embeddings", `{"embeddings":[{"index":0,"vector":[1,2,3]}]}`},
		{"POST", "/batch", `{"operations":[{"op":"put_doc","id":"e","doc":{"snippets":[{"content":"x","vector":[1,2,3]}]}}]}`},
	}
	const c = "/v1/collections/c"
	var first []answer
	for i, r := range requests {
		a := n.do(t, r.method, c+r.path, r.body, wire.HeaderIdempotencyKey, fmt.Sprint("k", i))
		if a.status >= 300 {
			t.Fatalf("%s %s: %d %s", r.method, r.path, a.status, a.body)
		}
		first = append(first, a)
	}
	n.want(t, 204, nil, "DELETE", c, "")
	n.want(t, 201, nil, "PUT", c, `{"dimension":4}`)
	n.want(t, 201, nil, "PUT", c+"/docs/d", `{"content":"x"}`)
	before := string(n.dump())
	for i, r := range requests {
		again := n.do(t, r.method, c+r.path, r.body, wire.HeaderIdempotencyKey, fmt.Sprint("k", i))
		if again.status != first[i].status || !bytes.Equal(again.body, first[i].body) || again.header.Get(wire.HeaderReplayed) != "true" {
			t.Errorf("%s %s: first %d %s\nthen %d %s", r.method, r.path, first[i].status, first[i].body, again.status, again.body)
		}
		for name, headers := range map[string][]string{"no key": nil, "a new key": {wire.HeaderIdempotencyKey, fmt.Sprint("new", i)}} {
			if p := n.want(t, 422, nil, r.method, c+r.path, r.body, headers...).problem(t); p.Code != wire.CodeDimensionMismatch {
				t.Errorf("%s %s with %s: %+v", r.method, r.path, name, p)
			}
		}
	}
	if after := string(n.dump()); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
}

// A new leader may not have applied yet what was acknowledged before: what does
// not fit its state may fit the cluster's.
func TestAStateThatIsBehindRefusesNoVector(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c", `{"dimension":3}`)
	dimension := func(d int) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.state = n.state.clone()
		n.state.collections["c"].Dimension = d
	}
	var levels []contract.Level
	n.onView = func(_ context.Context, c contract.Consistency) error {
		if levels = append(levels, c.Level); c.Level == contract.Linearizable {
			dimension(2)
		}
		return nil
	}
	const path = "/v1/collections/c/docs/d"
	n.want(t, 201, nil, "PUT", path, `{"snippets":[{"content":"x","vector":[3,4]}]}`)
	if want := []contract.Level{contract.Local, contract.Linearizable}; !slices.Equal(levels, want) {
		t.Errorf("read at %v, want %v", levels, want)
	}
	// What fits costs no round, and what fits nowhere is told with its field.
	levels = nil
	n.want(t, 200, nil, "PUT", path, `{"snippets":[{"content":"x","vector":[5,12]}]}`)
	if want := []contract.Level{contract.Local}; !slices.Equal(levels, want) {
		t.Errorf("read at %v, want %v", levels, want)
	}
	p := n.want(t, 422, nil, "PUT", path, `{"snippets":[{"content":"x","vector":[1,2,3]}]}`).problem(t)
	if p.Code != wire.CodeDimensionMismatch || p.Field != "snippets[0].vector" {
		t.Errorf("%+v", p)
	}
	// A leader that can't tell whether it is one still does not refuse it for good.
	n.onView = func(_ context.Context, c contract.Consistency) error {
		if c.Level == contract.Linearizable {
			return contract.ErrNoLeader
		}
		return nil
	}
	p = n.want(t, 503, nil, "PUT", path, `{"snippets":[{"content":"x","vector":[1,2,3]}]}`).problem(t)
	if p.Code != wire.CodeNoLeader || p.Outcome != contract.OutcomeNotApplied {
		t.Errorf("%+v", p)
	}
}

func TestRequestHashTellsRequestsApart(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"content":"x"}`)
	const path, body = "/v1/collections/c/docs/d", `{"title":"t"}`
	n.want(t, 200, nil, "PATCH", path, body, wire.HeaderIdempotencyKey, "k")
	for name, a := range map[string]answer{
		"method":    n.do(t, "PUT", path, body, wire.HeaderIdempotencyKey, "k"),
		"path":      n.do(t, "PATCH", path+"2", body, wire.HeaderIdempotencyKey, "k"),
		"condition": n.do(t, "PATCH", path, body, wire.HeaderIdempotencyKey, "k", "If-Match", "*"),
		"body":      n.do(t, "PATCH", path, body+" ", wire.HeaderIdempotencyKey, "k"),
	} {
		if a.status != 422 || a.problem(t).Code != wire.CodeKeyReused {
			t.Errorf("another %s: %d %s", name, a.status, a.body)
		}
	}
}

func TestMetricConflictIsPreparedAgain(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := startNode(t, func(o *Options) { o.Registerer, o.Gatherer = reg, reg })
	n.want(t, 201, nil, "PUT", "/v1/collections/c", "")
	changes := 1
	n.onPropose = func(context.Context, *command.Command) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if changes > 0 {
			changes--
			n.state = n.state.clone()
			n.state.collections["c"].Metric = "dot"
		}
		return nil
	}
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"snippets":[{"content":"x","vector":[3,4]}]}`)
	var s wire.Snippet
	n.want(t, 200, &s, "GET", "/v1/collections/c/docs/d/snippets/0?with_embeddings=true", "")
	if s.Vector[0] != 3 {
		t.Errorf("the vector was prepared for the old metric: %v", s.Vector)
	}
	if got := testutil.ToFloat64(n.server.metrics.metricRetry); got != 1 {
		t.Errorf("metric retries %v", got)
	}
	if a := n.do(t, "GET", "/metrics", ""); !bytes.Contains(a.body, []byte("snipdb_httpapi_metric_retries_total 1")) || a.header.Get(wire.HeaderNode) != "n1" {
		t.Errorf("/metrics: %d %v", a.status, a.header)
	}
}

// TestOfTwoConditionalWritersOneWins runs pairs of writers with the same
// If-Match against one document.
func TestOfTwoConditionalWritersOneWins(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"title":"0"}`)
	tag := `"2"`
	for round := range 20 {
		answers := make([]answer, 4)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() {
				answers[i] = n.do(t, "PATCH", "/v1/collections/c/docs/d", fmt.Sprintf(`{"title":"%d.%d"}`, round, i), "If-Match", tag)
			})
		}
		wg.Wait()
		won := 0
		for _, a := range answers {
			switch a.status {
			case 200:
				won++
				tag = a.header.Get("ETag")
			case 412:
			default:
				t.Fatalf("status %d: %s", a.status, a.body)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d writers won", round, won)
		}
	}
}

func TestWriteErrorsHaveAnOutcome(t *testing.T) {
	n := startNode(t, nil)
	for _, row := range []struct {
		err     error
		status  int
		outcome string
	}{
		{&contract.OutcomeUnknownError{Cause: errPlain}, 504, "unknown"},
		{&contract.OverloadError{Reason: contract.ApplyLag, RetryAfter: 3 * time.Second}, 503, "not_applied"},
		{contract.ErrNoLeader, 503, "not_applied"},
		{contract.ErrExpired, 504, "not_applied"},
		{context.DeadlineExceeded, 504, "unknown"}, // a backend that does not say so proposed nothing for sure
		{errPlain, 504, "unknown"},
	} {
		n.onPropose = func(context.Context, *command.Command) error { return fmt.Errorf("somewhere: %w", row.err) }
		p := n.want(t, row.status, nil, "PUT", "/v1/collections/c/docs/d", `{}`).problem(t)
		if p.Outcome != row.outcome || strings.Contains(p.Detail, "somewhere") {
			t.Errorf("%v: %+v", row.err, p)
		}
	}
	n.onPropose = func(context.Context, *command.Command) error { panic("deliberate") }
	if p := n.want(t, 504, nil, "PUT", "/v1/collections/c/docs/d", `{}`).problem(t); p.Outcome != "unknown" {
		t.Errorf("a panic behind the proposal: %+v", p)
	}
	n.onView = func(context.Context, contract.Consistency) error { panic("deliberate") }
	if p := n.want(t, 500, nil, "GET", "/v1/collections/c", "").problem(t); p.Outcome != "" || p.RequestID == "" {
		t.Errorf("a panic of a read: %+v", p)
	}
}

func TestAWriteWhoseDeadlinePassedIsNotProposed(t *testing.T) {
	n := startNode(t, nil)
	var proposed atomic.Bool
	n.onPropose = func(context.Context, *command.Command) error { proposed.Store(true); return nil }
	n.onView = func(ctx context.Context, _ contract.Consistency) error { <-ctx.Done(); return nil }
	p := n.want(t, 504, nil, "PUT", "/v1/collections/c/docs/d?timeout=20ms", `{"snippets":[{"content":"x","vector":[1]}]}`).problem(t)
	if proposed.Load() || p.Outcome != "not_applied" || p.Code != wire.CodeTimeout {
		t.Errorf("proposed %v, %+v", proposed.Load(), p)
	}
}

func TestReadWaitsEndAsUnavailable(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c", "")
	var seen contract.Consistency
	n.onView = func(ctx context.Context, c contract.Consistency) error { seen = c; <-ctx.Done(); return ctx.Err() }
	for _, row := range []struct {
		query string
		code  wire.Code
		want  contract.Consistency
	}{
		{"consistency=bounded&max_staleness=500ms", wire.CodeTooStale, contract.Consistency{Level: contract.Bounded, MaxStaleness: 500 * time.Millisecond}},
		{"consistency=session&min_index=99", wire.CodeBehind, contract.Consistency{Level: contract.Session, MinIndex: 99}},
		{"consistency=linearizable", wire.CodeBehind, contract.Consistency{Level: contract.Linearizable}},
	} {
		a := n.want(t, 503, nil, "GET", "/v1/collections/c?timeout=20ms&"+row.query, "")
		if p := a.problem(t); p.Code != row.code || a.header.Get("Retry-After") == "" || seen != row.want || p.Outcome != "" {
			t.Errorf("%s: %+v, asked for %+v", row.query, p, seen)
		}
	}
	n.onView = nil
	n.want(t, 200, nil, "GET", "/v1/collections/c?consistency=session&min_index=2&cluster_id=cluster-1", "")
	if p := n.want(t, 409, nil, "GET", "/v1/collections/c?cluster_id=other", "").problem(t); p.Code != wire.CodeWrongCluster {
		t.Errorf("%+v", p)
	}
}

func TestTooLargeCommands(t *testing.T) {
	n := startNode(t, nil)
	text := strings.Repeat("x", 200<<10)
	p := n.want(t, 413, nil, "PUT", "/v1/collections/c/docs/d", `{"content":["`+text+`","`+text+`","`+text+`"]}`).problem(t)
	if p.Code != wire.CodeDocumentTooLarge {
		t.Errorf("%+v", p)
	}
	p = n.want(t, 413, nil, "PUT", "/v1/collections/c/docs/d", `{"title":"`+strings.Repeat("x", maxCommandBody)+`"}`).problem(t)
	if p.Code != wire.CodeBodyTooLarge || p.Outcome != "not_applied" {
		t.Errorf("%+v", p)
	}
}
