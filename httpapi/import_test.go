package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// imported sends a whole body and returns the answered lines.
func (n *node) imported(tb testing.TB, query, body string) []wire.ImportResult {
	tb.Helper()
	a := n.want(tb, 200, nil, "POST", "/v1/collections/c/import"+query, body, "Content-Type", wire.TypeNDJSON)
	return parseLines(tb, a.body)
}

func parseLines(tb testing.TB, body []byte) []wire.ImportResult {
	tb.Helper()
	var out []wire.ImportResult
	for line := range bytes.Lines(body) {
		var r wire.ImportResult
		if err := json.Unmarshal(line, &r); err != nil {
			tb.Fatalf("line %q: %v", line, err)
		}
		out = append(out, r)
	}
	return out
}

func importBody(lines int) string {
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, "{\"id\":\"d%d\",\"content\":\"text %d\"}\n", i, i)
	}
	return b.String()
}

func TestImport(t *testing.T) {
	leader, follower := startPair(t, nil)
	for _, n := range []*node{leader, follower} {
		results := n.imported(t, "", importBody(500))
		if len(results) != 501 {
			t.Fatalf("%d lines", len(results))
		}
		for i, r := range results[:500] {
			if r.Line != i+1 || r.ID != fmt.Sprint("d", i) || r.Status/100 != 2 || r.Revision == 0 {
				t.Fatalf("line %d: %+v", i+1, r)
			}
		}
		if last := results[500]; !last.Done || last.LastLine != 500 || last.Applied != 500 || last.Failed != 0 || last.Code != "" {
			t.Errorf("last line %+v", last)
		}
	}
	var doc wire.Document
	leader.want(t, 200, &doc, "GET", "/v1/collections/c/docs/d499", "")
}

func TestABadLineDoesNotStopTheImport(t *testing.T) {
	n := startNode(t, nil)
	body := "{\"id\":\"a\",\"content\":\"x\"}\n\n{\"id\":\"b\",\"contant\":\"x\"}\nnonsense\n{\"content\":\"x\"}\n{\"id\":\"v\",\"snippets\":[{\"content\":\"x\",\"vector\":[0]}]}\n{\"id\":\"z\"}"
	results := n.imported(t, "", body)
	want := []struct {
		line   int
		status int
		code   wire.Code
	}{{1, 201, ""}, {3, 400, wire.CodeInvalidJSON}, {4, 400, wire.CodeInvalidJSON}, {5, 422, wire.CodeInvalidField}, {6, 422, wire.CodeInvalidVector}, {7, 201, ""}}
	if len(results) != len(want)+1 {
		t.Fatalf("%+v", results)
	}
	for i, w := range want {
		r := results[i]
		if r.Line != w.line || r.Status != w.status || r.Code != string(w.code) || w.code != "" && r.Outcome != "not_applied" {
			t.Errorf("line %d: %+v", w.line, r)
		}
	}
	if last := results[len(want)]; last.Applied != 2 || last.Failed != 4 || last.LastLine != 7 {
		t.Errorf("%+v", last)
	}
	stopped := n.imported(t, "?stop_on_error=true", body+strings.Repeat("\n{\"id\":\"later\"}", 500))
	last := stopped[len(stopped)-1]
	if !last.Done || last.Code == "" || last.LastLine >= 507 || last.LastLine < 3 {
		t.Errorf("stop_on_error: %+v", last)
	}
}

// TestLinesOfOneDocumentKeepTheirOrder writes each document many times, with
// proposals of random length.
func TestLinesOfOneDocumentKeepTheirOrder(t *testing.T) {
	n := startNode(t, nil)
	var count atomic.Int64
	n.onPropose = func(ctx context.Context, _ *command.Command) error {
		return pause(ctx, time.Duration(count.Add(1)%7)*time.Millisecond)
	}
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "{\"id\":\"d%d\",\"title\":\"%d\"}\n", i%5, i/5)
	}
	results := n.imported(t, "", b.String())
	if last := results[len(results)-1]; last.Applied != 400 {
		t.Fatalf("%+v", last)
	}
	for i := range 5 {
		var doc wire.Document
		n.want(t, 200, &doc, "GET", fmt.Sprintf("/v1/collections/c/docs/d%d", i), "")
		if doc.Title != "79" {
			t.Errorf("document %d ended as %s", i, doc.Title)
		}
	}
}

func TestImportWaitsOutAnOverload(t *testing.T) {
	n := startNode(t, nil)
	var refusals atomic.Int64
	n.onPropose = func(context.Context, *command.Command) error {
		if refusals.Add(1) <= 30 {
			return &contract.OverloadError{Reason: contract.QueueFull}
		}
		return nil
	}
	if last := n.imported(t, "", importBody(50)); last[50].Applied != 50 {
		t.Errorf("%+v", last[50])
	}
}

func TestImportEndsWhenTheNodeIsInTrouble(t *testing.T) {
	n := startNode(t, func(o *Options) { o.ImportWindow = 4 })
	var proposals atomic.Int64
	n.onPropose = func(context.Context, *command.Command) error {
		if proposals.Add(1) > 20 {
			return contract.ErrNoLeader
		}
		return nil
	}
	results := n.imported(t, "", importBody(10_000))
	last := results[len(results)-1]
	if !last.Done || last.Code != string(wire.CodeNoLeader) || last.Applied != 20 || last.LastLine > 40 {
		t.Errorf("%+v", last)
	}
}

// openImport begins an import whose body the test writes line by line.
func (n *node) openImport(tb testing.TB, query ...string) (*io.PipeWriter, *http.Response) {
	tb.Helper()
	r, w := io.Pipe()
	req, err := http.NewRequest("POST", n.url+"/v1/collections/c/import"+strings.Join(query, ""), r)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", wire.TypeNDJSON)
	resp, err := n.client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = w.Close(); _ = resp.Body.Close() })
	return w, resp
}

// TestImportAnswersWhileItReads sends a line only after the answer to the one
// before, through the leader and through a follower.
func TestImportAnswersWhileItReads(t *testing.T) {
	leader, follower := startPair(t, nil)
	for _, n := range []*node{leader, follower} {
		w, resp := n.openImport(t)
		lines := bufio.NewReader(resp.Body)
		for i := range 20 {
			if _, err := fmt.Fprintf(w, "{\"id\":\"d%d\"}\n", i); err != nil {
				t.Fatal(err)
			}
			text, err := lines.ReadBytes('\n')
			if err != nil {
				t.Fatal(err)
			}
			if r := parseLines(t, text)[0]; r.Line != i+1 || r.Status/100 != 2 {
				t.Fatalf("%+v", r)
			}
		}
		_ = w.Close()
		rest, err := io.ReadAll(lines)
		if err != nil || !parseLines(t, rest)[0].Done {
			t.Errorf("%v %s", err, rest)
		}
	}
}

// TestImportHoldsTheClientBack never reads an answer and sends for ever: the
// server must stop reading, with a bounded number of lines taken.
func TestImportHoldsTheClientBack(t *testing.T) {
	n := startNode(t, func(o *Options) { o.ImportWindow, o.ImportIdle = 8, 500*time.Millisecond })
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// Small buffers in the kernel, so that few answers fit in them.
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	_, _ = fmt.Fprintf(conn, "POST /v1/collections/c/import HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000000000\r\n\r\n", wire.TypeNDJSON)
	id := strings.Repeat("i", 200) // comes back in the answer
	sent := 0
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		k, err := fmt.Fprintf(conn, "{\"id\":\"%s\"}\n", id)
		sent += k
		if err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("the server read 64 MiB of a client that reads nothing")
		}
	}
	// A client that neither reads nor goes away is cut off.
	waitFor(t, "the end of the import", func() bool { served, _ := n.server.gates.byClass[classBulk].now(); return served == 0 })
	index, _ := n.AppliedPosition()
	t.Logf("%d KiB were taken, index %d", sent>>10, index)
}

func TestImportEndsAtShutdown(t *testing.T) {
	n := startNode(t, nil)
	w, resp := n.openImport(t)
	lines := bufio.NewReader(resp.Body)
	_, _ = io.WriteString(w, "{\"id\":\"a\"}\n")
	if text, err := lines.ReadBytes('\n'); err != nil || parseLines(t, text)[0].Status != 201 {
		t.Fatal(err)
	}
	ctx, cancel := contextFor(3 * time.Second)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- n.server.Shutdown(ctx) }()
	text, err := lines.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if last := parseLines(t, text)[0]; !last.Done || last.LastLine != 1 || last.Code != string(wire.CodeNotReady) {
		t.Errorf("%+v", last)
	}
	if err := <-shut; err != nil {
		t.Errorf("an import held the shutdown up: %v", err)
	}
}

func TestImportAtAFollowerWhoseLeaderDies(t *testing.T) {
	_, follower := startPair(t, nil)
	url, _ := brokenLeader(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{\"line\":1,\"id\":\"a\",\"status\":201}\n{\"line\":2,\"id\":\"b\",\"sta")
	})
	follower.setLeader(contract.LeaderInfo{ID: "leader", HTTPAddr: url})
	results := follower.imported(t, "", importBody(3))
	if len(results) != 2 || results[0].Line != 1 || !results[1].Done || results[1].LastLine != 1 || results[1].Outcome != "unknown" {
		t.Errorf("%+v", results)
	}
}

func TestLongLinesEndTheImport(t *testing.T) {
	n := startNode(t, nil)
	results := n.imported(t, "", "{\"id\":\"a\"}\n{\"id\":\"b\",\"title\":\""+strings.Repeat("x", maxImportLine)+"\"}\n")
	last := results[len(results)-1]
	if last.Code != string(wire.CodeBodyTooLarge) || last.LastLine != 1 || last.Applied != 1 {
		t.Errorf("%+v", last)
	}
}

// TestImportAsksForTheBody sends as curl does: the body only when the server
// asks for it. Many times, because at a follower the leader's answer may come
// before the first read of the body, and then nobody asks.
func TestImportAsksForTheBody(t *testing.T) {
	leader, follower := startPair(t, nil)
	for _, n := range []*node{leader, follower} {
		n.client.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
		for range 50 {
			a := n.want(t, 200, nil, "POST", "/v1/collections/c/import", importBody(3), "Content-Type", wire.TypeNDJSON, "Expect", "100-continue")
			if results := parseLines(t, a.body); len(results) != 4 || results[3].Applied != 3 {
				t.Fatalf("%s", a.body)
			}
		}
	}
}

// An import that would begin with a wait is refused before its body is read;
// in the middle the same states hold the client back.
func TestAnImportIsRefusedAtItsStart(t *testing.T) {
	leader, follower := startPair(t, nil)
	leader.onAdmit = func(int64, bool) error {
		return &contract.OverloadError{Reason: contract.QueueFull, RetryAfter: 2 * time.Second, Detail: "full"}
	}
	for _, n := range []*node{leader, follower} {
		a := n.want(t, 503, nil, "POST", "/v1/collections/c/import", importBody(3), "Content-Type", wire.TypeNDJSON)
		if p := a.problem(t); p.Reason != string(contract.QueueFull) || p.Outcome != contract.OutcomeNotApplied || a.header.Get("Retry-After") == "" {
			t.Errorf("%+v, Retry-After %q", p, a.header.Get("Retry-After"))
		}
	}
	leader.onAdmit = nil
	leader.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[{"scope":"collection","name":"c","writes_per_second":0.1,"burst":1}]}`)
	leader.want(t, 201, nil, "PUT", "/v1/collections/c/docs/a", `{}`)
	a := leader.want(t, 429, nil, "POST", "/v1/collections/c/import", importBody(3), "Content-Type", wire.TypeNDJSON)
	if p := a.problem(t); p.Reason != string(contract.RateLimited) || p.Outcome != contract.OutcomeNotApplied || a.header.Get("Retry-After") == "" {
		t.Errorf("%+v", p)
	}
	leader.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[]}`)
	if results := leader.imported(t, "", importBody(3)); len(results) != 4 {
		t.Errorf("%+v", results)
	}
}
