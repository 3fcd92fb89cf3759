package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func cloneResult(r *command.Result) *command.Result { return proto.Clone(r).(*command.Result) }

// node is a server on a real listener, with its backend.
type node struct {
	*memory
	server *Server
	url    string
	client *http.Client
}

// startNode starts a server on port 0. change may set options.
func startNode(tb testing.TB, change func(*Options)) *node {
	tb.Helper()
	o := Options{ImportIdle: 5 * time.Second, DefaultTimeout: 5 * time.Second}
	if change != nil {
		change(&o)
	}
	m := newMemory()
	s, err := New(m, m, o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	transport := &http.Transport{}
	n := &node{memory: m, server: s, url: "http://" + s.Addr(), client: &http.Client{Transport: transport, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
	m.leader.HTTPAddr = n.url
	tb.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := contextFor(5 * time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			tb.Errorf("shutdown: %v", err)
		}
		if err := <-s.Done(); err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return n
}

// answer is a response with its body.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem(tb testing.TB) wire.Problem {
	tb.Helper()
	var p wire.Problem
	if err := json.Unmarshal(a.body, &p); err != nil {
		tb.Fatalf("status %d, body %q is no problem: %v", a.status, a.body, err)
	}
	return p
}

// do sends a request; headers come in pairs.
func (n *node) do(tb testing.TB, method, path, body string, headers ...string) answer {
	tb.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, n.url+path, reader)
	if err != nil {
		tb.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", wire.TypeJSON)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := n.client.Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("%s %s: read: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, got}
}

// want sends a request, checks the status, and decodes the answer into out.
func (n *node) want(tb testing.TB, status int, out any, method, path, body string, headers ...string) answer {
	tb.Helper()
	a := n.do(tb, method, path, body, headers...)
	if a.status != status {
		tb.Fatalf("%s %s: status %d, want %d; body %s", method, path, a.status, status, a.body)
	}
	if out != nil {
		dec := json.NewDecoder(bytes.NewReader(a.body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(out); err != nil {
			tb.Fatalf("%s %s: body %s: %v", method, path, a.body, err)
		}
	}
	return a
}

// contextFor returns a context that ends after d.
func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// leaderNamed is this node's leader under another name.
func (n *node) leaderNamed(id string) contract.LeaderInfo {
	l := n.Leader()
	l.ID = id
	return l
}
