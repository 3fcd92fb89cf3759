package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// row is one wrong request and its documented answer.
type row struct {
	name    string
	method  string
	path    string // CC stands for the collection
	body    string
	headers map[string]string
	status  int
	code    wire.Code
	field   string // "": not compared
}

// checker runs the rows against one node.
type checker struct {
	t      *testing.T
	base   string
	client *http.Client
	// collection is made for this run and removed at its end.
	collection string
	revision   string // entity tag of document "d"
}

// BadInput sends every kind of wrong request to every route of the node at
// baseURL. Each must get the documented status and code, and none may change
// anything: the state that the API shows is compared before and after each.
func BadInput(t *testing.T, baseURL string) {
	t.Helper()
	c := &checker{
		t: t, base: strings.TrimSuffix(baseURL, "/"), collection: fmt.Sprintf("badinput-%d", time.Now().UnixNano()),
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
	}
	defer c.client.CloseIdleConnections()
	c.setUp()
	defer c.must(http.StatusNoContent, http.MethodDelete, "/v1/collections/CC", "")
	before := c.state()
	for _, r := range c.rows() {
		c.check(r)
		if after := c.state(); !bytes.Equal(before, after) {
			t.Errorf("%s: %s %.80s changed something:\nbefore %s\nafter  %s", r.name, r.method, r.path, before, after)
			before = after
		}
	}
	c.importLines()
	if after := c.state(); !bytes.Equal(before, after) {
		t.Errorf("the import's wrong lines changed something:\nbefore %s\nafter  %s", before, after)
	}
}

// setUp makes a collection of dimension 3 with one document of two snippets,
// the first of them embedded.
func (c *checker) setUp() {
	c.must(http.StatusCreated, http.MethodPut, "/v1/collections/CC", `{"dimension":3,"metric":"dot"}`)
	resp := c.must(http.StatusCreated, http.MethodPut, "/v1/collections/CC/docs/d",
		`{"owner":{"type":"u","id":"1"},"title":"T","metadata":{"k":"v"},"snippets":[{"content":"one","vector":[1,2,3],"model":"m"},{"content":"two"}]}`)
	c.revision = resp.header.Get("ETag")
}

type response struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request. A body is JSON unless the headers say otherwise; a
// header with the value "-" is left out.
func (c *checker) send(method, path, body string, headers map[string]string) response {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+strings.ReplaceAll(path, "CC", c.collection), reader)
	if err != nil {
		c.t.Fatalf("apitest: %s %s: %v", method, path, err)
	}
	if body != "" || method == http.MethodPut || method == http.MethodPost || method == http.MethodPatch {
		req.Header.Set("Content-Type", wire.TypeJSON)
	}
	for name, value := range headers {
		if req.Header.Set(name, value); value == "-" {
			req.Header.Del(name)
		}
	}
	resp, err := c.client.Do(req)
	if err != nil {
		c.t.Fatalf("apitest: %s %.120s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("apitest: %s %.120s: read: %v", method, path, err)
	}
	return response{resp.StatusCode, resp.Header, got}
}

func (c *checker) must(status int, method, path, body string) response {
	c.t.Helper()
	r := c.send(method, path, body, nil)
	if r.status != status {
		c.t.Fatalf("apitest: %s %s: status %d, want %d: %s", method, path, r.status, status, r.body)
	}
	return r
}

// state is all that the API shows of what the rows aim at.
func (c *checker) state() []byte {
	c.t.Helper()
	var all []byte
	for _, path := range []string{
		"/v1/collections/CC?consistency=linearizable",
		"/v1/collections/CC/docs?consistency=linearizable",
		"/v1/collections/CC/docs/d?with_embeddings=true&consistency=linearizable",
		"/v1/cluster/members", "/v1/cluster/limits",
	} {
		all = append(all, c.must(http.StatusOK, http.MethodGet, path, "").body...)
	}
	return withoutLeader(all)
}

// withoutLeader drops which member leads: on a busy machine there may be an
// election at any time, and no request has made it.
func withoutLeader(state []byte) []byte {
	return bytes.ReplaceAll(state, []byte(`,"leader":true`), nil)
}

// check sends one wrong request and compares the answer.
func (c *checker) check(r row) {
	c.t.Helper()
	got := c.send(r.method, r.path, r.body, r.headers)
	what := fmt.Sprintf("%s: %s %.120s %.80s", r.name, r.method, r.path, r.body)
	if got.status != r.status {
		c.t.Errorf("%s: status %d, want %d %s: %s", what, got.status, r.status, r.code, got.body)
		return
	}
	for _, name := range []string{wire.HeaderIndex, wire.HeaderTerm, wire.HeaderNode, wire.HeaderCluster, wire.HeaderRequestID} {
		if got.header.Get(name) == "" {
			c.t.Errorf("%s: the header %s is missing", what, name)
		}
	}
	if r.code == "" {
		return
	}
	var p wire.Problem
	dec := json.NewDecoder(bytes.NewReader(got.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || got.header.Get("Content-Type") != wire.TypeProblem {
		c.t.Errorf("%s: no problem: %v: %s %s", what, err, got.header.Get("Content-Type"), got.body)
		return
	}
	outcome := ""
	noRoute := r.status == http.StatusMethodNotAllowed || r.code == wire.CodeRouteNotFound
	if r.method != http.MethodGet && r.method != http.MethodOptions && (noRoute || !ofOneNode(r.path)) {
		outcome = "not_applied"
	}
	if p.Code != r.code || p.Status != r.status || r.field != "" && p.Field != r.field || p.Outcome != outcome || p.Detail == "" || p.RequestID == "" ||
		p.Type != wire.TypePrefix+string(p.Code) || p.Title != p.Code.Info().Title {
		c.t.Errorf("%s: want %d %s field %q outcome %q, got %s", what, r.status, r.code, r.field, outcome, got.body)
	}
	if r.status == http.StatusMethodNotAllowed && got.header.Get("Allow") == "" {
		c.t.Errorf("%s: no Allow", what)
	}
}

// importLines sends wrong lines: the stream answers 200, and each line has the
// answer that PUT would have.
func (c *checker) importLines() {
	c.t.Helper()
	lines := []struct {
		text   string
		status int
		code   wire.Code
	}{
		{`{"id":"x","contant":"y"}`, 400, wire.CodeInvalidJSON},
		{`[]`, 400, wire.CodeInvalidJSON},
		{`{"id":"x"} {}`, 400, wire.CodeInvalidJSON},
		{`{"content":"no id"}`, 422, wire.CodeInvalidField},
		{`{"id":"x","content":""}`, 422, wire.CodeInvalidField},
		{`{"id":"x","snippets":[{"content":"y","vector":[0,0,0]}]}`, 422, wire.CodeInvalidVector},
		{`{"id":"x","snippets":[{"content":"y","vector":[1,2]}]}`, 422, wire.CodeDimensionMismatch},
		{`{"id":"d","owner":{"type":"u","id":"2"}}`, 409, wire.CodeOwnerConflict},
	}
	var body strings.Builder
	for _, l := range lines {
		body.WriteString(l.text + "\n")
	}
	got := c.send(http.MethodPost, "/v1/collections/CC/import", body.String(), map[string]string{"Content-Type": wire.TypeNDJSON})
	answers := strings.Split(strings.TrimSpace(string(got.body)), "\n")
	if got.status != http.StatusOK || len(answers) != len(lines)+1 {
		c.t.Errorf("import: status %d, %d lines: %s", got.status, len(answers), got.body)
		return
	}
	for i, l := range lines {
		var r wire.ImportResult
		if err := json.Unmarshal([]byte(answers[i]), &r); err != nil || r.Line != i+1 || r.Status != l.status || r.Code != string(l.code) || r.Outcome != "not_applied" {
			c.t.Errorf("import line %s: want %d %s, got %s", l.text, l.status, l.code, answers[i])
		}
	}
}
