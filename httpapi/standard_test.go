package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// sampleDocument has more snippets than one piece, so that its answer is a stream.
const sampleDocument = `{"content":["x","x","x","x","x","x","x","x","x","x","x","x","x","x","x","x","x","x","x","x"]}`

// TestEveryGetRouteAnswersHead compares the two answers: the same status and
// header, and no body.
func TestEveryGetRouteAnswersHead(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/notes/docs/d1", sampleDocument)
	for i := range routes {
		if routes[i].Method != http.MethodGet {
			continue
		}
		path := strings.NewReplacer(":collection", "notes", ":id", "d1", ":index", "1").Replace(routes[i].Path)
		for _, path := range []string{path, path + "?nonsense=1"} {
			get, head := n.do(t, "GET", path, "", wire.HeaderRequestID, "same"), n.do(t, "HEAD", path, "", wire.HeaderRequestID, "same")
			if head.status != get.status || len(head.body) != 0 {
				t.Errorf("HEAD %s: status %d and %d bytes, GET has status %d", path, head.status, len(head.body), get.status)
			}
			for name, values := range get.header {
				if name != "Date" && name != "Retry-After" && !slices.Equal(head.header[name], values) {
					t.Errorf("HEAD %s: %s is %q, GET has %q", path, name, head.header[name], values)
				}
			}
		}
	}
	n.want(t, 304, nil, "HEAD", "/v1/collections/notes/docs/d1", "", "If-None-Match", `"2"`)
	n.want(t, 404, nil, "HEAD", "/v1/collections/notes/docs/none", "")
	n.want(t, 405, nil, "HEAD", "/v1/collections/notes/batch", "")
	n.ready = errPlain
	n.want(t, 503, nil, "HEAD", "/readyz", "")
	shown := startNode(t, func(o *Options) { o.Gatherer = prometheus.NewRegistry() })
	if a := shown.want(t, 200, nil, "HEAD", "/metrics", ""); len(a.body) != 0 || a.header.Get("Content-Type") == "" {
		t.Errorf("HEAD /metrics: %v %q", a.header, a.body)
	}
}

func TestTheRouterAddsHeadToEveryGet(t *testing.T) {
	m := newMemory()
	s, err := New(m, m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	gets, heads := map[string]bool{}, map[string]bool{}
	for _, r := range s.engine.Routes() {
		switch r.Method {
		case http.MethodGet:
			gets[r.Path] = true
		case http.MethodHead:
			heads[r.Path] = true
		}
	}
	if len(gets) == 0 || !maps.Equal(gets, heads) {
		t.Errorf("GET has %v, HEAD has %v", slices.Sorted(maps.Keys(gets)), slices.Sorted(maps.Keys(heads)))
	}
}

func TestARefusedWriteMethodHasAnOutcome(t *testing.T) {
	n := startNode(t, nil)
	for _, method := range []string{"PUT", "POST", "PATCH", "DELETE"} {
		if p := n.want(t, 404, nil, method, "/v1/nothing", "").problem(t); p.Outcome != "not_applied" {
			t.Errorf("%s of no route: %+v", method, p)
		}
		if p := n.want(t, 405, nil, method, "/livez", "").problem(t); p.Outcome != "not_applied" {
			t.Errorf("%s of a route that is read: %+v", method, p)
		}
	}
	for _, method := range []string{"GET", "OPTIONS"} {
		if p := n.want(t, 405, nil, method, "/v1/collections/c/batch", "").problem(t); p.Outcome != "" {
			t.Errorf("%s: %+v", method, p)
		}
	}
}

func TestAnExistingIDIsAConflictForAPost(t *testing.T) {
	leader, follower := startPair(t, nil)
	const docs = "/v1/collections/c/docs"
	leader.want(t, 201, nil, "POST", docs, `{"id":"mine"}`)
	for _, n := range []*node{leader, follower} {
		p := n.want(t, 409, nil, "POST", docs, `{"id":"mine"}`, wire.HeaderIdempotencyKey, "k").problem(t)
		if p.Code != wire.CodeAlreadyExists || p.Status != 409 || p.Outcome != "not_applied" || p.CurrentRevision != 2 {
			t.Errorf("%+v", p)
		}
	}
	// The client's own condition failed there.
	p := leader.want(t, 412, nil, "PUT", docs+"/mine", `{}`, "If-None-Match", "*").problem(t)
	if p.Code != wire.CodeAlreadyExists || p.Status != 412 {
		t.Errorf("%+v", p)
	}
	p = leader.want(t, 412, nil, "POST", "/v1/collections/c/batch", `{"operations":[{"op":"put_doc","id":"mine","doc":{},"if_absent":true}]}`).problem(t)
	if p.Code != wire.CodeAlreadyExists {
		t.Errorf("%+v", p)
	}
}

func TestATransferThatAnotherNodeWinsFails(t *testing.T) {
	n := startNode(t, nil)
	lead := func(l contract.LeaderInfo) func(string) error {
		return func(string) error { n.setLeader(l); return nil }
	}
	own := n.Leader()
	rows := []struct {
		name, body string
		after      contract.LeaderInfo
		status     int
		code       wire.Code
		outcome    string
	}{
		{"another node", `{"to":"n7"}`, contract.LeaderInfo{ID: "n6", HTTPAddr: "http://n6", Term: 2}, 409, wire.CodeMembership, "not_applied"},
		{"the old leader again", `{"to":"n7"}`, contract.LeaderInfo{ID: "n1", Self: true, Term: 3}, 409, wire.CodeMembership, "not_applied"},
		{"the old leader, nobody was named", ``, contract.LeaderInfo{ID: "n1", Self: true, Term: 3}, 409, wire.CodeMembership, "not_applied"},
		{"nobody", `{"to":"n7"}`, contract.LeaderInfo{Term: 2}, 504, wire.CodeOutcomeUnknown, "unknown"},
		{"nothing happens", `{"to":"n7"}`, own, 504, wire.CodeOutcomeUnknown, "unknown"},
		{"the one that was named", `{"to":"n7"}`, contract.LeaderInfo{ID: "n7", Term: 2}, 200, "", ""},
		{"anyone, nobody was named", ``, contract.LeaderInfo{ID: "n6", Term: 2}, 200, "", ""},
	}
	for _, row := range rows {
		n.setLeader(own)
		n.transfer = lead(row.after)
		path := "/v1/cluster/transfer-leader"
		if row.status == 504 {
			path += "?timeout=100ms"
		}
		a := n.do(t, "POST", path, row.body)
		if a.status != row.status {
			t.Errorf("%s: status %d: %s", row.name, a.status, a.body)
			continue
		}
		if row.status == 200 {
			continue
		}
		p := a.problem(t)
		if p.Code != row.code || p.Outcome != row.outcome || p.Leader != row.after.HTTPAddr && row.status == 409 {
			t.Errorf("%s: %+v", row.name, p)
		}
		if row.after.ID == "n6" && !strings.Contains(p.Detail, "n6") {
			t.Errorf("%s: the detail does not say who leads: %s", row.name, p.Detail)
		}
	}
}

func TestAMemberKeepsItsAddress(t *testing.T) {
	n := startNode(t, nil)
	before := string(n.want(t, 200, nil, "GET", "/v1/cluster/members", "").body)
	p := n.want(t, 409, nil, "POST", "/v1/cluster/members", `{"id":"n1","raft":"127.0.0.1:9999"}`).problem(t)
	if p.Code != wire.CodeMembership || p.Outcome != "not_applied" {
		t.Errorf("%+v", p)
	}
	var m wire.Member
	n.want(t, 200, &m, "POST", "/v1/cluster/members", `{"id":"n1","raft":"127.0.0.1:7001"}`)
	if m.HTTPAddr == "" || !m.Voter || !m.Leader {
		t.Errorf("%+v", m)
	}
	if after := string(n.want(t, 200, nil, "GET", "/v1/cluster/members", "").body); after != before {
		t.Errorf("the members were %s and are %s", before, after)
	}
}

func TestARedirectKeepsTheTimeout(t *testing.T) {
	leader, follower := startPair(t, nil)
	const path = "/v1/collections/c/docs/d"
	a := follower.want(t, 307, nil, "PUT", path+"?redirect=true&timeout=5s", `{}`)
	if want := leader.url + path + "?timeout=5s"; a.header.Get("Location") != want {
		t.Errorf("Location %q, want %q", a.header.Get("Location"), want)
	}
	leader.want(t, 201, nil, "PUT", path+"?timeout=5s", `{}`)
}
