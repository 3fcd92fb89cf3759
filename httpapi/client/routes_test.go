package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// routeCall is a call and the request that it must be.
type routeCall struct {
	want string // method, path with query, body
	key  bool
	call func() (Meta, error)
}

// routeCalls are calls of every method but Import and Members.
func routeCalls(ctx context.Context, cl *Client, node string) []routeCall {
	one := 1
	return []routeCall{
		{`PUT /v1/collections/c/docs/d {"title":"T","content":["x"]}`, true, func() (Meta, error) {
			_, m, err := cl.PutDocument(ctx, "c", "d", wire.DocumentInput{ID: "d", Title: "T", Content: wire.Content{"x"}})
			return m, err
		}},
		{`POST /v1/collections/c/docs {"content":["<&>"]}`, true, func() (Meta, error) {
			_, m, err := cl.CreateDocument(ctx, "c", content("<&>"))
			return m, err
		}},
		{`GET /v1/collections/c/docs/d `, false, func() (Meta, error) { _, m, err := cl.GetDocument(ctx, "c", "d"); return m, err }},
		{`GET /v1/collections/c/docs?cursor=x&limit=5&metadata.lang=en&order=-id&owner_id=a1&owner_type=agent `, false, func() (Meta, error) {
			_, m, err := cl.ListDocuments(ctx, "c", ListQuery{Owner: &wire.Owner{Type: "agent", ID: "a1"}, Metadata: map[string]string{"lang": "en"}, Order: "-id", Limit: 5, Cursor: "x"})
			return m, err
		}},
		{`PATCH /v1/collections/c/docs/d {"metadata":{"a":null}}`, true, func() (Meta, error) {
			_, m, err := cl.PatchDocument(ctx, "c", "d", wire.DocumentPatch{Metadata: json.RawMessage(`{"a":null}`)})
			return m, err
		}},
		{`DELETE /v1/collections/c/docs/d `, true, func() (Meta, error) { return cl.DeleteDocument(ctx, "c", "d") }},
		{`DELETE /v1/collections/c/docs?owner_id=u&owner_type=user `, true, func() (Meta, error) {
			_, m, err := cl.DeleteOwner(ctx, "c", wire.Owner{Type: "user", ID: "u"})
			return m, err
		}},
		{`GET /v1/collections/c/docs/d/snippets/1 `, false, func() (Meta, error) { _, m, err := cl.GetSnippet(ctx, "c", "d", 1); return m, err }},
		{`GET /v1/collections/c/docs/d/snippets?limit=2 `, false, func() (Meta, error) { _, m, err := cl.ListSnippets(ctx, "c", "d", 2, ""); return m, err }},
		{`PUT /v1/collections/c/docs/d/snippets/1 {"content":"x","vector_base64":"AACAPw=="}`, true, func() (Meta, error) {
			_, m, err := cl.PutSnippet(ctx, "c", "d", 1, wire.SnippetInput{Content: "x", Vector: wire.Floats{1}})
			return m, err
		}},
		{`PATCH /v1/collections/c/docs/d/snippets/1 {"vector_base64":"AACAPw=="}`, true, func() (Meta, error) {
			_, m, err := cl.PatchSnippet(ctx, "c", "d", 1, wire.SnippetPatch{Vector: wire.Floats{1}})
			return m, err
		}},
		{"PUT /v1/collections/c/docs/d/snippets/1?model=m \x00\x00\x80\x3f", true, func() (Meta, error) {
			_, m, err := cl.PutVector(ctx, "c", "d", 1, "m", []float32{1})
			return m, err
		}},
		{`DELETE /v1/collections/c/docs/d/snippets/1 `, true, func() (Meta, error) { return cl.DeleteSnippet(ctx, "c", "d", 1) }},
		{`PUT /v1/collections/c/docs/d/embeddings {"model":"m","embeddings":[{"index":0,"vector_base64":"AACAPw=="}]}`, true, func() (Meta, error) {
			_, m, err := cl.PutEmbeddings(ctx, "c", "d", wire.EmbeddingsInput{Model: "m", Embeddings: []wire.EmbeddingInput{{Vector: wire.Floats{1}}}})
			return m, err
		}},
		{"PUT /v1/collections/c/docs/d/embeddings?model=m \x00\x00\x80\x3f\x00\x00\x20\xc0", true, func() (Meta, error) {
			_, m, err := cl.PutVectors(ctx, "c", "d", "m", [][]float32{{1}, {-2.5}})
			return m, err
		}},
		{`POST /v1/collections/c/batch {"operations":[{"op":"put_snippet","id":"d","index":1,"snippet":{"content":"x","vector_base64":"AACAPw=="}}]}`, true, func() (Meta, error) {
			_, m, err := cl.Batch(ctx, "c", []wire.Operation{{Op: wire.OpPutSnippet, ID: "d", Index: &one, Snippet: &wire.SnippetInput{Content: "x", Vector: wire.Floats{1}}}})
			return m, err
		}},
		{`PUT /v1/collections/c {"dimension":1}`, true, func() (Meta, error) {
			_, m, err := cl.PutCollection(ctx, "c", wire.CollectionInput{Dimension: &one})
			return m, err
		}},
		{`GET /v1/collections/c `, false, func() (Meta, error) { _, m, err := cl.GetCollection(ctx, "c"); return m, err }},
		{`GET /v1/collections?limit=3 `, false, func() (Meta, error) { _, m, err := cl.ListCollections(ctx, 3, ""); return m, err }},
		{`DELETE /v1/collections/c `, true, func() (Meta, error) { return cl.DeleteCollection(ctx, "c") }},
		{`GET /v1/cluster/status `, false, func() (Meta, error) { _, m, err := cl.Status(ctx); return m, err }},
		{`GET /v1/cluster/identity `, false, func() (Meta, error) { _, m, err := cl.Identity(ctx, node); return m, err }},
		{`POST /v1/cluster/members {"id":"n9","raft":"x:1","learner":true}`, false, func() (Meta, error) {
			return cl.AddMember(ctx, wire.MemberInput{ID: "n9", RaftAddr: "x:1", Learner: true})
		}},
		{`DELETE /v1/cluster/members/n9 `, false, func() (Meta, error) { return cl.RemoveMember(ctx, "n9") }},
		{`DELETE /v1/cluster/members/n9?force=true `, false, func() (Meta, error) { return cl.RemoveMember(ctx, "n9", Force()) }},
		{`POST /v1/cluster/members/n9/promote `, false, func() (Meta, error) { return cl.PromoteMember(ctx, "n9") }},
		{`POST /v1/cluster/transfer-leader {"to":"n2"}`, false, func() (Meta, error) { _, m, err := cl.TransferLeader(ctx, "n2"); return m, err }},
		{`POST /v1/cluster/snapshot `, false, func() (Meta, error) { _, m, err := cl.Snapshot(ctx, node); return m, err }},
		{`GET /v1/cluster/consistency `, false, func() (Meta, error) { _, m, err := cl.Consistency(ctx); return m, err }},
		{`POST /v1/cluster/consistency `, false, func() (Meta, error) { _, m, err := cl.CheckConsistency(ctx, node); return m, err }},
		{`GET /v1/cluster/verification `, false, func() (Meta, error) { _, m, err := cl.Verification(ctx, node); return m, err }},
		{`POST /v1/cluster/verification?mib_per_second=5 `, false, func() (Meta, error) {
			_, m, err := cl.StartVerification(ctx, node, 5)
			return m, err
		}},
		{`DELETE /v1/cluster/verification `, false, func() (Meta, error) { _, m, err := cl.StopVerification(ctx, node); return m, err }},
		{`GET /v1/cluster/limits `, false, func() (Meta, error) { _, m, err := cl.Limits(ctx); return m, err }},
		{`PUT /v1/cluster/limits {"rate_limits":[]}`, true, func() (Meta, error) {
			_, m, err := cl.SetLimits(ctx, wire.Limits{RateLimits: []wire.RateLimit{}})
			return m, err
		}},
		{`GET /livez `, false, func() (Meta, error) { _, m, err := cl.Live(ctx, node); return m, err }},
		{`GET /readyz `, false, func() (Meta, error) { _, m, err := cl.Ready(ctx, node); return m, err }},
		{`GET /metrics `, false, func() (Meta, error) { _, m, err := cl.NodeMetrics(ctx, node); return m, err }},
		{`GET /openapi.json `, false, func() (Meta, error) { _, m, err := cl.OpenAPI(ctx, ""); return m, err }},
	}
}

func TestEachCallIsItsRoute(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		c.with(func() { n.headers(w, 7, "") })
		_, _ = io.WriteString(w, "{}")
		return true
	})
	cl := c.client(func(o *Options) { o.Token = "id.secret" })
	for _, tc := range routeCalls(t.Context(), cl, c.nodes[0].srv.URL) {
		before := len(c.requests())
		meta, err := tc.call()
		if err != nil {
			t.Errorf("%s: %v", tc.want, err)
			continue
		}
		got := c.requests()[before:]
		if len(got) != 1 {
			t.Errorf("%s: %d requests", tc.want, len(got))
			continue
		}
		r := got[0]
		target := r.path
		if r.query != "" {
			target += "?" + r.query
		}
		if text := r.method + " " + target + " " + r.body; text != tc.want {
			t.Errorf("sent %s\nwant %s", text, tc.want)
		}
		if (r.key != "") != tc.key {
			t.Errorf("%s: the key is %q", tc.want, r.key)
		}
		want := ""
		if strings.HasPrefix(r.body, "{") {
			want = wire.TypeJSON
		} else if r.body != "" {
			want = wire.TypeVector
		}
		if r.header.Get("Content-Type") != want {
			t.Errorf("%s: Content-Type %q", tc.want, r.header.Get("Content-Type"))
		}
		if r.header.Get("Authorization") != "Bearer id.secret" || r.header.Get("User-Agent") != "snipdb-go" {
			t.Errorf("%s: header %v", tc.want, r.header)
		}
		if meta.Index != 7 || meta.Term != 1 || meta.Node != "n1" || meta.Cluster != "c1" || meta.Attempts != 1 || meta.Status != 200 {
			t.Errorf("%s: meta %+v", tc.want, meta)
		}
	}
}

// Every route of the API is a call of the client, and the other way round.
func TestEveryRouteHasACall(t *testing.T) {
	text, err := os.ReadFile("../openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	// Import and Members have tests of their own: the one streams, the other is
	// asked in the background as well.
	called := []string{"POST /v1/collections/c/import", "GET /v1/cluster/members"}
	for _, tc := range routeCalls(t.Context(), nil, "") {
		parts := strings.SplitN(tc.want, " ", 3)
		target, _, _ := strings.Cut(parts[1], "?")
		called = append(called, parts[0]+" "+target)
	}
	parameter := regexp.MustCompile(`\\\{\w+\\\}`)
	for path, methods := range file.Paths {
		route := parameter.ReplaceAllString(regexp.QuoteMeta(path), "[^/]+")
		for method := range methods {
			one := regexp.MustCompile("^" + strings.ToUpper(method) + " " + route + "$")
			if !slices.ContainsFunc(called, one.MatchString) {
				t.Errorf("no call is %s %s", method, path)
			}
			called = slices.DeleteFunc(called, one.MatchString)
		}
	}
	if len(called) > 0 {
		t.Errorf("calls that are no route: %q", called)
	}
}

func TestNamesAreEscaped(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	for _, id := range []string{"a/b", "a?b#c", "100%", "..", ".", "ä ö", "a&b=c;d", `"quoted"`, "a+b", "%2F"} {
		if _, _, err := cl.PutDocument(t.Context(), "c", id, content("x")); err != nil {
			t.Fatalf("%q: %v", id, err)
		}
		all := c.requests()
		escaped, ok := strings.CutPrefix(all[len(all)-1].path, "/v1/collections/c/docs/")
		if back, err := url.PathUnescape(escaped); !ok || err != nil || back != id || strings.Contains(escaped, "/") {
			t.Errorf("%q went as %q", id, all[len(all)-1].path)
		}
	}
}

func TestConditions(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	for _, tc := range []struct {
		opt         WriteOption
		match, none string
	}{{IfMatch(42), `"42"`, ""}, {IfPresent(), "*", ""}, {IfAbsent(), "", "*"}} {
		if _, _, err := cl.PutDocument(t.Context(), "c", "d", content("x"), tc.opt); err != nil {
			t.Fatal(err)
		}
		all := c.requests()
		if h := all[len(all)-1].header; h.Get("If-Match") != tc.match || h.Get("If-None-Match") != tc.none {
			t.Errorf("sent %q, %q", h.Get("If-Match"), h.Get("If-None-Match"))
		}
	}
	if _, _, err := cl.PutDocument(t.Context(), "c", "d", content("x"), IfMatch(1), IfAbsent()); err == nil {
		t.Error("two conditions were taken")
	}
}

func TestVectorsGoAsAskedAndTheInputIsLeftAlone(t *testing.T) {
	c := newFakeCluster(t, 1)
	in := wire.DocumentInput{Snippets: []wire.SnippetInput{{Content: "x", Vector: wire.Floats{1, -2.5}}}}
	for numbers, want := range map[bool]string{
		false: `{"snippets":[{"content":"x","vector_base64":"AACAPwAAIMA="}]}`,
		true:  `{"snippets":[{"content":"x","vector":[1,-2.5]}]}`,
	} {
		cl := c.client(func(o *Options) { o.VectorsAsNumbers = numbers })
		if _, _, err := cl.PutDocument(t.Context(), "c", "d", in); err != nil {
			t.Fatal(err)
		}
		all := c.requests()
		if got := all[len(all)-1].body; got != want {
			t.Errorf("sent %s", got)
		}
		if len(in.Snippets[0].Vector) != 2 || in.Snippets[0].VectorBase64 != "" {
			t.Fatalf("the caller's document was changed: %+v", in)
		}
	}
}

func TestPutVectorsTakesVectorsOfOneLength(t *testing.T) {
	c := newFakeCluster(t, 1)
	for _, bad := range [][][]float32{nil, {{}}, {{1, 2}, {3}}, {{1}, nil}} {
		if _, _, err := c.client(nil).PutVectors(t.Context(), "c", "d", "", bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if n := len(c.requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestSnippetVector(t *testing.T) {
	for _, s := range []wire.Snippet{{Vector: wire.Floats{1, -2.5}}, {VectorBase64: "AACAPwAAIMA="}} {
		v, err := SnippetVector(s)
		if err != nil || len(v) != 2 || v[0] != 1 || v[1] != -2.5 {
			t.Errorf("%+v: %v, %v", s, v, err)
		}
	}
	for _, bad := range []string{"AACA", "!"} {
		if _, err := SnippetVector(wire.Snippet{VectorBase64: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if v, err := SnippetVector(wire.Snippet{}); v != nil || err != nil {
		t.Errorf("no vector gave %v, %v", v, err)
	}
}

func TestReadyReportsANodeThatIsNot(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(func(_ *fakeNode, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"status":"unavailable","reason":"restoring","node":"n1"}`)
		return true
	})
	ready, _, err := c.client(nil).Ready(t.Context(), c.urls()[0])
	if err != nil || ready.Status != "unavailable" || ready.Reason != "restoring" || len(c.requests()) != 1 {
		t.Fatalf("%+v, %v, %d requests", ready, err, len(c.requests()))
	}
}

func TestOptionsAndEndpointsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"timeout": {Timeout: -1}, "attempt": {AttemptTimeout: -1}, "attempts": {MaxAttempts: -1}, "backoff": {BaseBackoff: -1},
		"order": {BaseBackoff: 10, MaxBackoff: 5}, "answer": {MaxAnswerBytes: -1}, "idle": {MaxIdleConns: -1},
		"ratio": {Budget: RetryBudget{Ratio: 2}}, "burst": {Budget: RetryBudget{Burst: 0.5}}, "rate": {Budget: RetryBudget{PerSecond: -1}},
		"level": {DefaultConsistency: Consistency{Level: "x"}},
	} {
		if _, err := New([]string{"a:1"}, o); err == nil {
			t.Errorf("%s: %+v was taken", name, o)
		}
	}
	for _, bad := range [][]string{nil, {""}, {"ftp://a"}, {"http://"}, {"http://a?x=1"}, {"http://u:p@a"}, {"http://a\x00"}, make([]string, 100)} {
		if _, err := New(bad, Options{}); err == nil {
			t.Errorf("endpoints %q were taken", bad)
		}
	}
	cl := mustNew(t, []string{"a:1", "http://a:1/", " https://b/base/ "}, Options{})
	if got := strings.Join(cl.Endpoints(), " "); got != "http://a:1 https://b/base" {
		t.Errorf("endpoints %s", got)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		n.problem(w, wire.CodeRevisionMismatch, OutcomeNotApplied, 0)
		return true
	})
	_, _, err := c.client(nil).PutDocument(t.Context(), "c", "d", content("x"))
	wrapped := errors.Join(errors.New("outer"), err)
	if !IsConflict(wrapped) || IsNotFound(wrapped) || IsOverloaded(wrapped) || OutcomeUnknown(wrapped) || errors.Is(wrapped, ErrUnavailable) {
		t.Fatalf("classified wrongly: %v", err)
	}
	for _, part := range []string{"PUT /v1/collections/c/docs/d", "412 revision_mismatch: made by the test", c.urls()[0], "request r1"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
	if OutcomeUnknown(nil) || CodeOf(errors.New("x")) != "" {
		t.Error("a foreign error is classified")
	}
}
