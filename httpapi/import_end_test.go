package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// lines is how many lines of imports have ended at this node in that way.
func (n *node) lines(outcome string) int {
	return int(testutil.ToFloat64(n.server.metrics.importLines.WithLabelValues(outcome)))
}

// proposeInOrder makes the proposal of each document do what steps says, which
// may wait for others. One that is cut off has an unknown outcome.
func (n *node) proposeInOrder(steps map[string]func() (ready bool, err error)) {
	n.onPropose = func(ctx context.Context, c *command.Command) error {
		step := steps[c.GetMutation().GetPutDocument().GetId()]
		for step != nil {
			if ready, err := step(); ready {
				return err
			}
			if err := pause(ctx, time.Millisecond); err != nil {
				return &contract.OutcomeUnknownError{Cause: err}
			}
		}
		return nil
	}
}

// heldImport sends lines and keeps the body open. It returns all answers.
func (n *node) heldImport(tb testing.TB, query, body string) []wire.ImportResult {
	tb.Helper()
	w, resp := n.openImport(tb, query)
	if _, err := io.WriteString(w, body); err != nil {
		tb.Fatal(err)
	}
	return answersOf(tb, resp.Body)
}

// answersOf reads up to the last line.
func answersOf(tb testing.TB, body io.Reader) (results []wire.ImportResult) {
	tb.Helper()
	for lines := bufio.NewReader(body); ; {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			tb.Fatalf("after %+v: %v", results, err)
		}
		results = append(results, parseLines(tb, text)...)
		if results[len(results)-1].Done {
			return results
		}
	}
}

// wantAnswers compares the numbers and states of lines, in their order.
func wantAnswers(tb testing.TB, results []wire.ImportResult, want string) wire.ImportResult {
	tb.Helper()
	var got []string
	for _, r := range results {
		if !r.Done {
			got = append(got, fmt.Sprintf("%d:%d", r.Line, r.Status))
		}
	}
	if strings.Join(got, " ") != want {
		tb.Fatalf("answers %v, want %s: %+v", got, want, results)
	}
	return results[len(results)-1]
}

// Each of these imports ends while its body is open, with a line under way.
func TestAnImportThatEndsEarlyKeepsItsAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		query, body string
		err         error // of the second document
		want        string
		code        wire.Code
		last        int
	}{
		"a bad line": {"?stop_on_error=true", "{\"id\":\"d1\"}\nnot json\n", nil, "1:201 2:400", wire.CodeInvalidJSON, 2},
		"leadership lost": {"", "{\"id\":\"d1\"}\n{\"id\":\"d2\"}\n", &contract.NotLeaderError{Leader: contract.LeaderInfo{ID: "n2"}},
			"1:201 2:503", wire.CodeNotLeader, 1},
	} {
		t.Run(name, func(t *testing.T) {
			leader, follower := startPair(t, nil)
			for i, n := range []*node{leader, follower} {
				var proposed atomic.Bool
				leader.proposeInOrder(map[string]func() (bool, error){
					"d1": func() (bool, error) { proposed.Store(true); return leader.lines("refused") > i, nil },
					"d2": func() (bool, error) { return proposed.Load(), tc.err },
				})
				want := strings.ReplaceAll(tc.want, "201", fmt.Sprint(201-i)) // the second time, the document is there
				last := wantAnswers(t, n.heldImport(t, tc.query, tc.body), want)
				if last.Code != string(tc.code) || last.LastLine != tc.last || last.Applied != 1 || last.Failed != 1 {
					t.Errorf("%+v", last)
				}
			}
		})
	}
}

// The second line waits for the first, which is proposed: a stop ends the wait.
func TestAShutdownAnswersTheLinesUnderWay(t *testing.T) {
	for name, at := range map[string][2]int{"leader": {0, 0}, "follower": {1, 1}, "leader behind a follower": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			leader, follower := startPair(t, nil)
			nodes := []*node{leader, follower}
			proposed := make(chan struct{}, 2)
			leader.proposeInOrder(map[string]func() (bool, error){"a": func() (bool, error) {
				select {
				case proposed <- struct{}{}:
				default:
				}
				return leader.lines("refused") > 0, nil
			}})
			w, resp := nodes[at[0]].openImport(t)
			if _, err := io.WriteString(w, "{\"id\":\"a\"}\n{\"id\":\"a\"}\n"); err != nil {
				t.Fatal(err)
			}
			<-proposed
			ctx, cancel := contextFor(20 * time.Second)
			defer cancel()
			shut := make(chan error, 1)
			go func() { shut <- nodes[at[1]].server.Shutdown(ctx) }()
			last := wantAnswers(t, answersOf(t, resp.Body), "1:201 2:503")
			if last.Code != string(wire.CodeNotReady) || last.LastLine != 1 || last.Applied != 1 || last.Failed != 1 {
				t.Errorf("%+v", last)
			}
			if err := <-shut; err != nil {
				t.Error(err)
			}
		})
	}
}

// rawImport sends the header of a chunked import, and chunks.
func (n *node) rawImport(tb testing.TB, chunks ...string) *net.TCPConn {
	tb.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = fmt.Fprintf(conn, "POST /v1/collections/c/import HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", wire.TypeNDJSON)
	for _, chunk := range chunks {
		if err == nil {
			_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", len(chunk), chunk)
		}
	}
	if err != nil {
		tb.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// What came of the last line may be half of it, even if it looks whole.
func TestABodyThatBreaksOff(t *testing.T) {
	leader, follower := startPair(t, nil)
	for _, n := range []*node{leader, follower} {
		for _, half := range []string{"", "{\"id\":\"b\"", "{\"id\":\"b\"}"} {
			conn := n.rawImport(t, "{\"id\":\"a\"}\n", "{\"id\":\"x\",\"nope\":1}\n"+half)
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			results := answersOf(t, resp.Body)
			results[0].Status = 200 // or 201
			last := wantAnswers(t, results, "1:200 2:400")
			if last.Code != string(wire.CodeTimeout) || !strings.Contains(last.Detail, "the body broke off") || last.LastLine != 2 || last.Outcome != "" {
				t.Errorf("%q: %+v", half, last)
			}
			_ = conn.Close()
		}
	}
	leader.want(t, 404, nil, "GET", "/v1/collections/c/docs/b", "")
}

// A client that goes away behind its whole body waits for nothing any more.
// The body has a length, so that its end is read together with the line.
func TestAClientThatIsGoneEndsItsImport(t *testing.T) {
	leader, follower := startPair(t, func(o *Options) { o.DefaultTimeout = 30 * time.Second })
	for _, n := range []*node{leader, follower} {
		proposed, cut, release := make(chan struct{}), make(chan error, 1), make(chan struct{})
		leader.onPropose = func(ctx context.Context, _ *command.Command) error {
			close(proposed)
			select {
			case <-ctx.Done():
			case <-release:
			}
			cut <- ctx.Err()
			return &contract.OutcomeUnknownError{Cause: ctx.Err()}
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		const body = "{\"id\":\"a\"}\n"
		_, err = fmt.Fprintf(conn, "POST /v1/collections/c/import HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", wire.TypeNDJSON, len(body), body)
		if err != nil {
			t.Fatal(err)
		}
		<-proposed
		_ = conn.Close()
		waitFor(t, "the end of the import", func() bool { served, _ := n.server.gates.byClass[classBulk].now(); return served == 0 })
		close(release)
		if err := <-cut; n == leader && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// Who sends what is behind last_line again loses nothing.
func TestLastLineStopsAtTheFirstLineToSendAgain(t *testing.T) {
	bad := &snippet.FieldError{Field: "title", Reason: "is bad"}
	for name, tc := range map[string]struct {
		query string
		err   error // of the second line; the third is applied before it fails
		want  string
		last  int
	}{
		"the node's trouble":       {"", contract.ErrNoLeader, "1:201 2:503 3:201", 1},
		"an unknown outcome":       {"", &contract.OutcomeUnknownError{}, "1:201 2:504 3:201", 1},
		"a bad line":               {"", bad, "1:201 2:422 3:201", 3},
		"a bad line that ends it":  {"?stop_on_error=true", bad, "1:201 2:422 3:201", 2},
		"trouble, ends with a bad": {"?stop_on_error=true", contract.ErrNoLeader, "1:201 2:503 3:201", 1},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, nil)
			n.proposeInOrder(map[string]func() (bool, error){
				"d1": func() (bool, error) { return n.lines("applied") == 2, tc.err },
			})
			last := wantAnswers(t, n.imported(t, tc.query, importBody(3)), tc.want)
			if last.LastLine != tc.last || last.Applied != 2 || last.Failed != 1 {
				t.Errorf("%+v", last)
			}
		})
	}
}

// The last line of a follower whose leader broke off follows the same rule.
func TestAFollowersOwnLastLine(t *testing.T) {
	for query, lines := range map[string]string{
		"":                    "{\"line\":1,\"status\":201}\n{\"line\":2,\"status\":503,\"code\":\"no_leader\"}\n{\"line\":3,\"status\":201}\n",
		"?stop_on_error=true": "{\"line\":1,\"status\":422,\"code\":\"invalid_field\"}\n{\"line\":2,\"status\":201}\n{\"line\":3,\"status\":201}\n",
	} {
		follower := startNode(t, nil)
		url, _ := brokenLeader(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"+lines)
		})
		follower.setLeader(contract.LeaderInfo{ID: "leader", HTTPAddr: url})
		results := follower.imported(t, query, importBody(3))
		if last := results[len(results)-1]; len(results) != 4 || last.LastLine != 1 || last.Applied != 2 || last.Failed != 1 {
			t.Errorf("%q: %+v", query, results)
		}
	}
}
