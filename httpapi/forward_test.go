package httpapi

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// startPair starts a leader and a follower that knows it.
func startPair(tb testing.TB, change func(*Options)) (leader, follower *node) {
	tb.Helper()
	leader, follower = startNode(tb, change), startNode(tb, change)
	follower.leader = contract.LeaderInfo{ID: "leader", HTTPAddr: leader.url, Term: 1}
	return leader, follower
}

func (n *node) setLeader(l contract.LeaderInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leader = l
}

func TestAFollowerForwardsWrites(t *testing.T) {
	leader, follower := startPair(t, nil)
	var doc wire.Document
	const path = "/v1/collections/c/docs/a%2Fb+c"
	a := follower.want(t, 201, &doc, "PUT", path, `{"content":"x"}`, wire.HeaderIdempotencyKey, "k", "X-Request-Id", "mine")
	if a.header.Get(wire.HeaderForwardedBy) != "n1" || a.header.Get(wire.HeaderIndex) != "2" || a.header.Get("ETag") != `"2"` || doc.ID != "a/b+c" ||
		a.header.Get("X-Request-Id") != "mine" {
		t.Errorf("%v %+v", a.header, doc)
	}
	a = follower.want(t, 201, nil, "PUT", path, `{"content":"x"}`, wire.HeaderIdempotencyKey, "k")
	if a.header.Get(wire.HeaderReplayed) != "true" {
		t.Error("the idempotency key did not reach the leader")
	}
	follower.want(t, 412, nil, "PUT", path, `{"content":"x"}`, "If-Match", `"99"`)
	follower.want(t, 204, nil, "DELETE", path, "")
	follower.want(t, 404, nil, "DELETE", path, "")
	follower.want(t, 201, nil, "POST", "/v1/cluster/members", `{"id":"n2","raft":"127.0.0.1:7002"}`)
	if len(leader.Members()) != 2 || follower.index != 1 {
		t.Errorf("the follower wrote by itself: index %d", follower.index)
	}
	leader.noQuorum = true
	follower.want(t, 204, nil, "DELETE", "/v1/cluster/members/n2?force=true", "")
	a = follower.do(t, "PUT", path+"?redirect=true", `{}`)
	if a.status != 307 || a.header.Get("Location") != leader.url+path {
		t.Errorf("redirect: %d %v", a.status, a.header)
	}
}

func TestOnlyWritesSayHowManyWritesALeaderTakes(t *testing.T) {
	leader := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"status":503,"code":"overloaded","reason":"concurrency"}`)
	}))
	t.Cleanup(leader.Close)
	follower := startNode(t, nil)
	follower.setLeader(contract.LeaderInfo{ID: "leader", HTTPAddr: leader.URL})
	gate := follower.server.gates.byClass[classWrite]
	most := func() int { gate.mu.Lock(); defer gate.mu.Unlock(); return gate.most }
	const path = "/v1/collections/c/docs/d"
	follower.want(t, 503, nil, "PUT", path, `{}`)
	after := most()
	if after >= gate.places {
		t.Errorf("%d places of %d after a write was refused", after, gate.places)
	}
	time.Sleep(pacePeriod + time.Millisecond)
	follower.want(t, 503, nil, "POST", "/v1/cluster/members", `{"id":"n2","raft":"127.0.0.1:7002"}`)
	if n := most(); n != after {
		t.Errorf("%d places, %d before an admin request was refused", n, after)
	}
}

func TestWithoutALeader(t *testing.T) {
	_, follower := startPair(t, nil)
	follower.setLeader(contract.LeaderInfo{})
	a := follower.want(t, 503, nil, "PUT", "/v1/collections/c/docs/d", `{}`)
	if p := a.problem(t); p.Code != wire.CodeNoLeader || p.Reason != "no_leader" || p.Outcome != "not_applied" || a.header.Get("Retry-After") == "" {
		t.Errorf("%+v", p)
	}
	// A forwarded write is not forwarded again.
	follower.setLeader(contract.LeaderInfo{ID: "n3", HTTPAddr: "http://127.0.0.1:1"})
	p := follower.want(t, 503, nil, "PUT", "/v1/collections/c/docs/d", `{}`, wire.HeaderHop, "n2").problem(t)
	if p.Code != wire.CodeNotLeader || p.Leader != "http://127.0.0.1:1" || p.Outcome != "not_applied" {
		t.Errorf("%+v", p)
	}
}

func TestALeaderThatMovesBeforeTheProposal(t *testing.T) {
	leader, other := startPair(t, nil)
	other.setLeader(contract.LeaderInfo{ID: "n1", Self: true})
	other.onPropose = func(context.Context, *command.Command) error {
		return &contract.NotLeaderError{Leader: contract.LeaderInfo{ID: "leader", HTTPAddr: leader.url}}
	}
	a := other.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"content":"x"}`)
	if a.header.Get(wire.HeaderForwardedBy) == "" {
		t.Error("not forwarded")
	}
}

// brokenLeader accepts connections and counts the requests that it read whole;
// then it does what react says with the connection.
func brokenLeader(tb testing.TB, react func(conn net.Conn)) (url string, requests *atomic.Int64) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	requests = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				if req.Header.Get("Content-Type") != wire.TypeNDJSON {
					_, _ = io.Copy(io.Discard, req.Body)
				}
				requests.Add(1)
				react(conn)
			}
			_ = conn.Close()
		}
	}()
	tb.Cleanup(func() { _ = l.Close(); <-done })
	return "http://" + l.Addr().String(), requests
}

func TestALeaderThatDiesInTheMiddleLeavesItUnknown(t *testing.T) {
	_, follower := startPair(t, nil)
	for name, react := range map[string]func(net.Conn){
		"after the request": func(net.Conn) {},
		"in the header":     func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-") },
		"in the body":       func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{") },
	} {
		url, requests := brokenLeader(t, react)
		follower.setLeader(contract.LeaderInfo{ID: "leader", HTTPAddr: url})
		for _, method := range []string{"PUT", "DELETE"} {
			requests.Store(0)
			body := `{"content":"x"}`
			if method == "DELETE" {
				body = ""
			}
			// With a key, net/http would repeat the request by itself.
			p := follower.want(t, 504, nil, method, "/v1/collections/c/docs/d", body, wire.HeaderIdempotencyKey, "k").problem(t)
			if p.Code != wire.CodeOutcomeUnknown || p.Outcome != "unknown" {
				t.Errorf("%s: %+v", name, p)
			}
			if requests.Load() != 1 {
				t.Errorf("%s: the leader got the request %d times", name, requests.Load())
			}
		}
	}
}

func TestALeaderThatHangsEndsAtTheDeadline(t *testing.T) {
	_, follower := startPair(t, nil)
	release := make(chan struct{})
	url, _ := brokenLeader(t, func(net.Conn) { <-release })
	defer close(release)
	follower.setLeader(contract.LeaderInfo{ID: "leader", HTTPAddr: url})
	p := follower.want(t, 504, nil, "PUT", "/v1/collections/c/docs/d?timeout=50ms", `{}`).problem(t)
	if p.Outcome != "unknown" {
		t.Errorf("%+v", p)
	}
}

func TestALeaderThatIsGoneMeansNotApplied(t *testing.T) {
	_, follower := startPair(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	follower.setLeader(contract.LeaderInfo{ID: "leader", HTTPAddr: "http://" + addr})
	a := follower.want(t, 503, nil, "PUT", "/v1/collections/c/docs/d", `{}`)
	if p := a.problem(t); p.Code != wire.CodeNoLeader || p.Outcome != "not_applied" || strings.Contains(p.Detail, addr) {
		t.Errorf("%+v", p)
	}
	// The same for a stream, whose body must not be read on.
	a = follower.want(t, 503, nil, "POST", "/v1/collections/c/import", `{"id":"a"}`+"\n", "Content-Type", wire.TypeNDJSON)
	if p := a.problem(t); p.Outcome != "not_applied" {
		t.Errorf("%+v", p)
	}
}

// TestADeadConnectionBecomesNotApplied stops the leader's server between two
// writes. As soon as the follower has seen that the pooled connection is dead,
// nothing can have been sent, and the answer says so.
func TestADeadConnectionBecomesNotApplied(t *testing.T) {
	leader, follower := startPair(t, nil)
	follower.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{}`)
	ctx, cancel := contextFor(5 * time.Second)
	defer cancel()
	leader.client.CloseIdleConnections()
	if err := leader.server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "an answer that says not_applied", func() bool {
		a := follower.do(t, "PUT", "/v1/collections/c/docs/d", `{}`)
		p := a.problem(t)
		return a.status == 503 && p.Outcome == "not_applied" && p.Code == wire.CodeNoLeader
	})
}

func TestTheDeadlineReachesTheLeader(t *testing.T) {
	leader, follower := startPair(t, nil)
	var left time.Duration
	leader.onPropose = func(ctx context.Context, _ *command.Command) error {
		if deadline, ok := ctx.Deadline(); ok {
			left = time.Until(deadline)
		}
		return nil
	}
	follower.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{}`, wire.HeaderTimeout, "2s")
	if left <= 0 || left > 2*time.Second {
		t.Errorf("the leader had %v of 2 s", left)
	}
}

// TestALostAnswerIsNotAskedForAgain answers the first request of each
// connection and breaks off at the second, which came on a reused connection:
// there net/http would send a request with an Idempotency-Key once more.
func TestALostAnswerIsNotAskedForAgain(t *testing.T) {
	_, follower := startPair(t, nil)
	var requests atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			for first := true; ; first = false {
				req, err := http.ReadRequest(in)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, req.Body)
				requests.Add(1)
				if !first {
					break
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			}
			_ = conn.Close()
		}
	}()
	defer func() { _ = l.Close(); <-done }()
	follower.setLeader(contract.LeaderInfo{ID: "leader", HTTPAddr: "http://" + l.Addr().String()})
	follower.want(t, 204, nil, "DELETE", "/v1/collections/c/docs/d", "", wire.HeaderIdempotencyKey, "k")
	p := follower.want(t, 504, nil, "DELETE", "/v1/collections/c/docs/d", "", wire.HeaderIdempotencyKey, "k").problem(t)
	if p.Outcome != "unknown" || requests.Load() != 2 {
		t.Errorf("%d requests, %+v", requests.Load(), p)
	}
}
