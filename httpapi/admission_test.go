package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// waitFor polls until the condition holds.
func waitFor(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited too long for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFullWritesLeaveTheRest fills every place for writes and checks that one
// more is refused, and that reads, health and admin work.
func TestFullWritesLeaveTheRest(t *testing.T) {
	n := startNode(t, func(o *Options) { o.WriteConcurrency, o.QueueWait = 2, 30*time.Millisecond })
	n.want(t, 201, nil, "PUT", "/v1/collections/c", "")
	release := make(chan struct{})
	n.onPropose = func(ctx context.Context, _ *command.Command) error { <-release; return nil }
	done := make(chan answer, 2)
	for i := range 2 {
		go func() { done <- n.do(t, "PUT", fmt.Sprintf("/v1/collections/c/docs/d%d", i), `{}`) }()
	}
	gate := n.server.gates.byClass[classWrite]
	waitFor(t, "two writes in progress", func() bool { served, _ := gate.now(); return served == 2 })
	a := n.want(t, 503, nil, "PUT", "/v1/collections/c/docs/x", `{}`)
	if p := a.problem(t); p.Code != wire.CodeOverloaded || p.Reason != "concurrency" || p.Outcome != "not_applied" || a.header.Get("Retry-After") == "" {
		t.Errorf("%+v", p)
	}
	if got := testutil.ToFloat64(n.server.metrics.refused.WithLabelValues("write", "concurrency")); got != 1 {
		t.Errorf("refused %v", got)
	}
	for _, path := range []string{"/livez", "/readyz", "/v1/cluster/status", "/v1/cluster/limits", "/v1/collections/c", "/openapi.json"} {
		n.want(t, 200, nil, "GET", path, "")
	}
	close(release)
	for range 2 {
		if a := <-done; a.status != 201 {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	}
	if in := testutil.ToFloat64(n.server.metrics.inFlight.WithLabelValues("write")); in != 0 {
		t.Errorf("in flight %v", in)
	}
}

func TestAPlaceThatComesFreeIsTaken(t *testing.T) {
	n := startNode(t, func(o *Options) { o.WriteConcurrency, o.QueueWait = 1, 5*time.Second })
	release := make(chan struct{})
	n.onPropose = func(ctx context.Context, _ *command.Command) error { <-release; return nil }
	done := make(chan answer, 3)
	for i := range 2 {
		go func() { done <- n.do(t, "PUT", fmt.Sprintf("/v1/collections/c/docs/d%d", i), `{}`) }()
	}
	gate := n.server.gates.byClass[classWrite]
	waitFor(t, "one waiting", func() bool { _, waiting := gate.now(); return waiting == 1 })
	close(release)
	for range 2 {
		if a := <-done; a.status != 201 {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	}
}

func TestBodyMemoryIsBounded(t *testing.T) {
	n := startNode(t, func(o *Options) { o.BodyMemory, o.QueueWait = 16<<20, 20*time.Millisecond })
	release, err := n.server.gates.body.reserve(context.Background(), 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if p := n.want(t, 503, nil, "PUT", "/v1/collections/c/docs/x", `{}`).problem(t); p.Reason != "memory_low" {
		t.Errorf("%+v", p)
	}
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[]}`) // H9
	release()
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/x", `{}`)
}

// A request whose own deadline ends while it waits for memory is told that, and
// not that the node has none.
func TestADeadlineInTheWaitForBodyMemoryIsATimeout(t *testing.T) {
	n := startNode(t, func(o *Options) { o.BodyMemory, o.QueueWait = 16<<20, time.Minute })
	release, err := n.server.gates.body.reserve(context.Background(), 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := n.server.gates.body.reserve(ctx, 1); !errors.Is(err, contract.ErrExpired) {
		t.Errorf("error is %v", err)
	}
}

func TestRateLimits(t *testing.T) {
	now := time.Unix(1_000, 0)
	r := newRateLimits(func() time.Time { return now })
	rules := []*command.RateLimit{
		{Scope: "collection", Name: "c", WritesPerSecond: 2, Burst: 2},
		{Scope: "token", Name: "*", WritesPerSecond: 1, Burst: 1},
	}
	check := func(collection, token string, ok bool) {
		t.Helper()
		// A new slice each time: it must not reset the allowances.
		if err := r.check(append([]*command.RateLimit{}, rules...), collection, token); (err == nil) != ok {
			t.Errorf("%s %s: %v", collection, token, err)
		}
	}
	check("c", "", true)
	check("c", "", true)
	check("c", "", false)
	check("other", "", true)
	check("other", "t1", true)
	check("other", "t1", false)
	check("other", "t2", true) // each token for itself
	now = now.Add(time.Second)
	check("c", "t1", true)
	check("c", "t1", false) // refused for the token; the collection's allowance is given back
	check("c", "", true)
	check("c", "", false)
	rules = rules[1:]
	check("c", "", true)
}

// The lines of an import that is aborted while they wait leave the allowance
// to those who come next.
func TestWhoStopsWaitingTakesNothingAlong(t *testing.T) {
	now := time.Unix(1_000, 0)
	r := newRateLimits(func() time.Time { return now })
	rules := []*command.RateLimit{{Scope: "collection", Name: "c", WritesPerSecond: 1, Burst: 1}, {Scope: "token", Name: "*", WritesPerSecond: 1000, Burst: 1}}
	if err := r.check(rules, "c", "t"); err != nil {
		t.Fatal(err)
	}
	ctx, abort := context.WithCancel(t.Context())
	var lines, looked sync.WaitGroup
	looked.Add(64)
	for range 64 {
		lines.Go(func() {
			first := sync.OnceFunc(looked.Done)
			err := r.waitTurn(ctx, func() []*command.RateLimit { first(); return rules }, "c", "t")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the wait ends with %v", err)
			}
		})
	}
	looked.Wait()
	abort()
	lines.Wait()
	now = now.Add(time.Second)
	if err := r.check(rules, "c", "t"); err != nil {
		t.Errorf("a second later: %v", err)
	}
	if err := r.check(rules, "c", "t"); err == nil {
		t.Error("two writes in a second are taken")
	}
}

func TestRateLimitsRememberAtMostSoMany(t *testing.T) {
	now := time.Unix(1_000, 0)
	r := newRateLimits(func() time.Time { return now })
	rules := []*command.RateLimit{{Scope: "token", Name: "*", WritesPerSecond: 1, Burst: 1}}
	for i := range maxLimiters + 500 {
		r.take(rules, "c", fmt.Sprint("t", i), oneWrite)
	}
	if len(r.limiters) > maxLimiters {
		t.Errorf("%d allowances", len(r.limiters))
	}
}

func TestRateLimitedWritesAnswer429(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[{"scope":"collection","name":"c","writes_per_second":0.1,"burst":1},{"scope":"token","name":"tok","writes_per_second":0.1,"burst":1}]}`)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/a", `{}`)
	a := n.want(t, 429, nil, "PUT", "/v1/collections/c/docs/a", `{}`)
	if p := a.problem(t); p.Code != wire.CodeRateLimited || p.Reason != "rate_limited" || p.Outcome != "not_applied" || a.header.Get("Retry-After") == "" {
		t.Errorf("%+v", p)
	}
	n.want(t, 201, nil, "PUT", "/v1/collections/d/docs/a", `{}`, "Authorization", "Bearer tok.secret")
	n.want(t, 429, nil, "PUT", "/v1/collections/d/docs/a", `{}`, "Authorization", "Bearer tok.secret")
	n.want(t, 200, nil, "PUT", "/v1/collections/d/docs/a", `{}`)
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[]}`) // admin routes have no limit
	n.want(t, 200, nil, "PUT", "/v1/collections/c/docs/a", `{}`)
}

// TestTheReserveOfConnections takes all connections but the reserve, with
// connections that do nothing, and looks who still gets in.
// A node that takes no writes says so before it reads the body: what is in it
// does not matter. Deletions, reads and the operator pass.
func TestWritesAreRefusedBeforeTheirBodyIsRead(t *testing.T) {
	n := startNode(t, nil)
	const path = "/v1/collections/c/docs/d"
	n.want(t, 201, nil, "PUT", path, `{"content":"x"}`)
	var asked int64
	n.onAdmit = func(bytes int64, deletes bool) error {
		asked = bytes
		if deletes {
			return nil
		}
		return &contract.OverloadError{Reason: contract.DiskLow, RetryAfter: 3 * time.Second, Detail: "full"}
	}
	n.onPropose = func(_ context.Context, c *command.Command) error {
		if c.GetMutation().GetPutDocument() != nil {
			t.Error("a refused write was proposed")
		}
		return nil
	}
	const broken = `{"content":`
	var p wire.Problem
	a := n.want(t, 503, &p, "PUT", path, broken)
	if p.Reason != string(contract.DiskLow) || p.Outcome != contract.OutcomeNotApplied || a.header.Get("Retry-After") == "" || asked != int64(len(broken)) {
		t.Errorf("%+v, Retry-After %q, asked about %d bytes", p, a.header.Get("Retry-After"), asked)
	}
	n.want(t, 400, nil, "POST", "/v1/collections/c/batch", broken) // it may hold deletions only
	n.want(t, 200, nil, "GET", path, "")
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[]}`)
	n.want(t, 204, nil, "DELETE", path, "")
}

func TestTheReserveOfConnections(t *testing.T) {
	n := startNode(t, func(o *Options) { o.MaxConnections, o.ReservedConnections = 8, 4 })
	for range 4 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	waitFor(t, "four connections", func() bool { return n.server.conns.Load() == 4 })
	a := n.want(t, 503, nil, "GET", "/v1/collections", "")
	if p := a.problem(t); p.Reason != "concurrency" {
		t.Errorf("%+v %v", p, a.header)
	}
	n.want(t, 200, nil, "GET", "/readyz", "")
	n.want(t, 200, nil, "GET", "/v1/cluster/status", "")
}

func TestOptionsAreChecked(t *testing.T) {
	m := newMemory()
	for name, o := range map[string]Options{
		"connections": {MaxConnections: 10, ReservedConnections: 10},
		"timeouts":    {DefaultTimeout: time.Minute, MaxTimeout: time.Second},
		"memory":      {BodyMemory: 1},
		"window":      {ImportWindowBytes: 1},
		"negative":    {WriteConcurrency: -1},
	} {
		if _, err := New(m, m, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(nil, m, Options{}); err == nil {
		t.Error("no backend: no error")
	}
}

func TestSlowBodiesAreCutOff(t *testing.T) {
	n := startNode(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "PUT /v1/collections/c/docs/d?timeout=50ms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 4096)
	got, err := conn.Read(answer)
	if err != nil || !strings.Contains(string(answer[:got]), " "+fmt.Sprint(http.StatusGatewayTimeout)+" ") {
		t.Errorf("%v %s", err, answer[:got])
	}
}
