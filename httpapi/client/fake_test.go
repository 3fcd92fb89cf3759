package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCluster is several HTTP servers that speak the API over one shared
// state: writes are applied once per key, followers forward, answers carry the
// headers of the real ones. A hook injects failures.
type fakeCluster struct {
	t     *testing.T
	nodes []*fakeNode

	mu      sync.Mutex
	id      string
	leader  int
	index   uint64
	docs    map[string]*fakeDoc
	keys    map[string]*recorded
	applied map[string]int // by key
	log     []sent
	conns   int
	// hook sees each request first; true means that it has answered.
	hook func(n *fakeNode, w http.ResponseWriter, r *http.Request, body []byte) bool
}

type fakeNode struct {
	c   *fakeCluster
	n   int
	id  string
	srv *httptest.Server
}

type fakeDoc struct {
	body     []byte
	revision uint64
	puts     int
}

// recorded is a stored answer.
type recorded struct {
	status int
	index  uint64
	body   []byte
}

// sent is one request that arrived.
type sent struct {
	node, method, path, query, key, timeout string
	header                                  http.Header
	body                                    string
}

func newFakeCluster(t *testing.T, size int) *fakeCluster {
	t.Helper()
	c := &fakeCluster{t: t, id: "c1", docs: map[string]*fakeDoc{}, keys: map[string]*recorded{}, applied: map[string]int{}}
	for i := range size {
		n := &fakeNode{c: c, n: i, id: fmt.Sprintf("n%d", i+1)}
		n.srv = httptest.NewUnstartedServer(http.HandlerFunc(n.serve))
		n.srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				c.mu.Lock()
				c.conns++
				c.mu.Unlock()
			}
		}
		n.srv.Start()
		t.Cleanup(n.srv.Close)
		c.nodes = append(c.nodes, n)
	}
	return c
}

func (c *fakeCluster) urls() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.srv.URL)
	}
	return out
}

// client returns a Client with short waits.
func (c *fakeCluster) client(change func(*Options)) *Client {
	c.t.Helper()
	o := Options{BaseBackoff: 2 * time.Millisecond, MaxBackoff: 20 * time.Millisecond, Timeout: 10 * time.Second}
	if change != nil {
		change(&o)
	}
	return mustNew(c.t, c.urls(), o)
}

func mustNew(t *testing.T, endpoints []string, o Options) *Client {
	t.Helper()
	cl, err := New(endpoints, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// with runs f with the state locked.
func (c *fakeCluster) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *fakeCluster) setHook(h func(n *fakeNode, w http.ResponseWriter, r *http.Request, body []byte) bool) {
	c.with(func() { c.hook = h })
}

// requests returns what arrived, but for questions about the members, which
// the client asks in the background.
func (c *fakeCluster) requests() []sent {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []sent
	for _, s := range c.log {
		if s.path != "/v1/cluster/members" || s.method != http.MethodGet {
			out = append(out, s)
		}
	}
	return out
}

func (n *fakeNode) serve(w http.ResponseWriter, r *http.Request) {
	isImport := strings.HasSuffix(r.URL.Path, "/import")
	var body []byte
	if !isImport {
		body, _ = io.ReadAll(r.Body)
	}
	c := n.c
	c.mu.Lock()
	c.log = append(c.log, sent{
		node: n.id, method: r.Method, path: r.URL.EscapedPath(), query: r.URL.RawQuery, key: r.Header.Get(wire.HeaderIdempotencyKey),
		timeout: r.Header.Get(wire.HeaderTimeout), header: r.Header.Clone(), body: string(body),
	})
	hook := c.hook
	c.mu.Unlock()
	if hook != nil && hook(n, w, r, body) {
		return
	}
	n.answer(w, r, body)
}

// answer serves the request as a healthy node does.
func (n *fakeNode) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	c := n.c
	switch {
	case r.URL.Path == "/v1/cluster/members":
		c.with(func() {
			var list wire.MemberList
			for i, m := range c.nodes {
				list.Items = append(list.Items, wire.Member{ID: m.id, HTTPAddr: m.srv.URL, Voter: true, Leader: i == c.leader})
			}
			n.json(w, 200, c.index, "", list)
		})
	case strings.HasSuffix(r.URL.Path, "/import"):
		n.serveImport(w, r, -1)
	case r.Method == http.MethodGet:
		c.with(func() {
			d := c.docs[r.URL.Path]
			if d == nil {
				n.problemLocked(w, wire.CodeNotFound, "", 0)
				return
			}
			n.json(w, 200, c.index, "", wire.Document{ID: r.URL.Path, Revision: d.revision})
		})
	default:
		rec := c.apply(r, body)
		if rec.status == http.StatusUnprocessableEntity {
			c.with(func() { n.problemLocked(w, wire.CodeKeyReused, OutcomeNotApplied, 0) })
			return
		}
		n.record(w, rec)
	}
}

// apply does a write once per key.
func (c *fakeCluster) apply(r *http.Request, body []byte) (out recorded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := r.Header.Get(wire.HeaderIdempotencyKey)
	if rec := c.keys[key]; key != "" && rec != nil {
		if !bytes.Equal(rec.body, body) {
			return recorded{status: http.StatusUnprocessableEntity}
		}
		out = *rec
		out.status = -rec.status // negative: a replay
		return out
	}
	c.index++
	out = recorded{status: 200, index: c.index, body: bytes.Clone(body)}
	d := c.docs[r.URL.Path]
	if d == nil {
		d = &fakeDoc{}
		c.docs[r.URL.Path] = d
		out.status = 201
	}
	d.body, d.revision = bytes.Clone(body), c.index
	d.puts++
	if key != "" {
		c.keys[key] = &out
		c.applied[key]++
	}
	return out
}

// record answers a write, as the leader, or as a follower that forwarded it.
func (n *fakeNode) record(w http.ResponseWriter, rec recorded) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	by := ""
	if n.n != c.leader {
		by = n.id
	}
	if rec.status < 0 {
		rec.status = -rec.status
		w.Header().Set(wire.HeaderReplayed, "true")
	}
	n.json(w, rec.status, rec.index, by, wire.Document{ID: "d", Revision: rec.index})
}

func (n *fakeNode) json(w http.ResponseWriter, status int, index uint64, forwardedBy string, v any) {
	n.headers(w, index, forwardedBy)
	w.Header().Set("Content-Type", wire.TypeJSON)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (n *fakeNode) headers(w http.ResponseWriter, index uint64, forwardedBy string) {
	h := w.Header()
	h.Set(wire.HeaderNode, n.id)
	if forwardedBy != "" {
		h.Set(wire.HeaderNode, n.c.nodes[n.c.leader].id)
		h.Set(wire.HeaderForwardedBy, forwardedBy)
	}
	h.Set(wire.HeaderCluster, n.c.id)
	h.Set(wire.HeaderIndex, strconv.FormatUint(index, 10))
	h.Set(wire.HeaderTerm, "1")
}

// problem answers with a problem.
func (n *fakeNode) problem(w http.ResponseWriter, code wire.Code, outcome string, retryAfter int) {
	n.c.with(func() { n.problemLocked(w, code, outcome, retryAfter) })
}

func (n *fakeNode) problemLocked(w http.ResponseWriter, code wire.Code, outcome string, retryAfter int) {
	n.headers(w, n.c.index, "")
	writeProblem(w, code, outcome, retryAfter, "")
}

func writeProblem(w http.ResponseWriter, code wire.Code, outcome string, retryAfter int, leader string) {
	if retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	info := code.Info()
	w.Header().Set("Content-Type", wire.TypeProblem)
	w.WriteHeader(info.Status)
	_ = json.NewEncoder(w).Encode(wire.Problem{
		Type: wire.TypePrefix + string(code), Title: info.Title, Status: info.Status, Code: code,
		Detail: "made by the test", Outcome: outcome, RequestID: "r1", Leader: leader,
	})
}

// reset breaks the connection.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// serveImport answers line by line; after breakAfter lines it sends half a line
// and breaks the connection (-1: never).
func (n *fakeNode) serveImport(w http.ResponseWriter, r *http.Request, breakAfter int) {
	// Only here, where the body is read to its end: net/http panics if a
	// full-duplex handler leaves some of it.
	_ = http.NewResponseController(w).EnableFullDuplex()
	n.c.with(func() { n.headers(w, n.c.index, "") })
	w.Header().Set("Content-Type", wire.TypeNDJSON)
	in := bufio.NewReaderSize(r.Body, 8<<20)
	sum := wire.ImportResult{Done: true}
	enc := json.NewEncoder(w)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			sum.LastLine++
			var doc wire.DocumentInput
			res := wire.ImportResult{Line: sum.LastLine, Status: 422, Code: string(wire.CodeInvalidField), Outcome: OutcomeNotApplied}
			if json.Unmarshal(line, &doc) == nil && !strings.HasPrefix(doc.ID, "bad") {
				put, _ := http.NewRequestWithContext(context.Background(), http.MethodPut, strings.TrimSuffix(r.URL.Path, "/import")+"/docs/"+doc.ID, nil)
				rec := n.c.apply(put, bytes.TrimSpace(line))
				res = wire.ImportResult{Line: sum.LastLine, ID: doc.ID, Status: rec.status, Revision: rec.index}
				sum.Applied++
			} else {
				res.ID = doc.ID
				sum.Failed++
			}
			if sum.LastLine-1 == breakAfter {
				// The line was applied, its answer gets half way.
				_, _ = io.WriteString(w, `{"line":`)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			_ = enc.Encode(res)
			_ = http.NewResponseController(w).Flush()
		}
		if err != nil {
			break
		}
	}
	_ = enc.Encode(sum)
}

// eventually polls until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond) // the step of the poll, not a synchronisation
	}
}

// once returns a hook that runs h for the first request that matches and lets
// all others pass.
func once(match func(n *fakeNode, r *http.Request) bool, h func(n *fakeNode, w http.ResponseWriter, r *http.Request, body []byte)) func(*fakeNode, http.ResponseWriter, *http.Request, []byte) bool {
	var mu sync.Mutex
	done := false
	return func(n *fakeNode, w http.ResponseWriter, r *http.Request, body []byte) bool {
		mu.Lock()
		if done || !match(n, r) {
			mu.Unlock()
			return false
		}
		done = true
		mu.Unlock()
		h(n, w, r, body)
		return true
	}
}

func isMethod(method string) func(*fakeNode, *http.Request) bool {
	return func(_ *fakeNode, r *http.Request) bool { return r.Method == method }
}

// content is the smallest document.
func content(text string) wire.DocumentInput { return wire.DocumentInput{Content: wire.Content{text}} }

// hang answers nothing until the client goes away, which net/http notices only
// if the body was read.
func hang(_ *fakeNode, _ http.ResponseWriter, r *http.Request, _ []byte) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	return true
}
