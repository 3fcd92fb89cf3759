package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestDocumentLife(t *testing.T) {
	n := startNode(t, nil)
	const base = "/v1/collections/c/docs"
	var doc wire.Document
	a := n.want(t, 201, &doc, "PUT", base+"/d1", `{"owner":{"type":"agent","id":"a1"},"title":"T","metadata":{"b":1,"a":"x"},
		"snippets":[{"content":"one","vector":[3,4],"model":"m"},{"content":"two"}]}`)
	if a.header.Get("ETag") != `"2"` || a.header.Get("Location") != base+"/d1" || a.header.Get(wire.HeaderIndex) != "2" || a.header.Get(wire.HeaderTerm) != "1" ||
		a.header.Get(wire.HeaderNode) != "n1" || a.header.Get(wire.HeaderCluster) != "cluster-1" || a.header.Get(wire.HeaderRequestID) == "" {
		t.Errorf("headers %v", a.header)
	}
	if doc.Revision != 2 || doc.SnippetCount != 2 || string(doc.Metadata) != `{"a":"x","b":1}` || doc.Owner.ID != "a1" {
		t.Errorf("document %+v", doc)
	}
	n.want(t, 200, &doc, "GET", base+"/d1?with_embeddings=true&consistency=linearizable", "")
	if len(doc.Snippets) != 2 || !doc.Snippets[0].Embedded || doc.Snippets[0].Vector[0] != 0.6 || doc.Snippets[0].Vector[1] != 0.8 || doc.Snippets[1].Vector != nil {
		t.Errorf("the vector of a cosine collection must have unit length: %+v", doc.Snippets)
	}
	var fresh wire.Document
	n.want(t, 200, &fresh, "GET", base+"/d1?with_embeddings=base64", "")
	if fresh.Snippets[0].VectorBase64 != "mpkZP83MTD8=" {
		t.Errorf("base64 %q", fresh.Snippets[0].VectorBase64)
	}
	if a := n.do(t, "GET", base+"/d1", "", "If-None-Match", `W/"1", "2"`); a.status != 304 || len(a.body) != 0 {
		t.Errorf("conditional read: %d %q", a.status, a.body)
	}
	n.want(t, 200, &doc, "PATCH", base+"/d1", `{"metadata":{"a":null,"c":[true]}}`, "If-Match", `"2"`)
	if string(doc.Metadata) != `{"b":1,"c":[true]}` || doc.Title != "T" {
		t.Errorf("patched %+v", doc)
	}
	p := n.want(t, 412, nil, "PATCH", base+"/d1", `{"title":"x"}`, "If-Match", `"2"`).problem(t)
	if p.Code != wire.CodeRevisionMismatch || p.CurrentRevision != 3 || p.Outcome != "not_applied" {
		t.Errorf("problem %+v", p)
	}
	n.want(t, 412, nil, "PUT", base+"/d1", `{}`, "If-None-Match", "*")
	n.want(t, 204, nil, "DELETE", base+"/d1", "", "If-Match", "*")
	n.want(t, 404, nil, "GET", base+"/d1", "")
	n.want(t, 404, nil, "DELETE", base+"/d1", "")
}

func TestCreateGivesAnIDAndALocation(t *testing.T) {
	n := startNode(t, nil)
	var doc, again wire.Document
	a := n.want(t, 201, &doc, "POST", "/v1/collections/c/docs", `{"content":["x","y"]}`)
	if len(doc.ID) != 36 || doc.ID[14] != '7' {
		t.Errorf("id %q is no UUIDv7", doc.ID)
	}
	n.want(t, 200, &again, "GET", a.header.Get("Location"), "")
	if again.ID != doc.ID || len(again.Snippets) != 2 {
		t.Errorf("%+v", again)
	}
	n.want(t, 201, nil, "POST", "/v1/collections/c/docs", `{"id":"mine"}`)
	n.want(t, 409, nil, "POST", "/v1/collections/c/docs", `{"id":"mine"}`)
}

func TestIDsSurviveThePath(t *testing.T) {
	n := startNode(t, nil)
	for _, id := range []string{"a/b", "a+b", "a b", "100%", "ü", "a?b#c", "..", "snippets", ":id"} {
		path := documentPath("c", id)
		var doc wire.Document
		n.want(t, 201, &doc, "PUT", path, `{"content":"x"}`)
		if doc.ID != id {
			t.Errorf("id %q became %q", id, doc.ID)
		}
		var got wire.Document
		n.want(t, 200, &got, "GET", path, "")
		if got.ID != id {
			t.Errorf("id %q read as %q", id, got.ID)
		}
	}
}

func TestSnippetLife(t *testing.T) {
	n := startNode(t, nil)
	const doc = "/v1/collections/c/docs/d"
	n.want(t, 201, nil, "PUT", doc, `{"content":"one"}`)
	var s wire.Snippet
	n.want(t, 201, &s, "PUT", doc+"/snippets/1", `{"content":"two"}`)
	n.want(t, 200, &s, "PUT", doc+"/snippets/1", `{"content":"zwei","vector_base64":"AACAPwAAAAA=","model":"m"}`)
	if !s.Embedded || s.Index != 1 || s.Content != "zwei" || len(s.ContentHash) != 64 {
		t.Errorf("%+v", s)
	}
	n.want(t, 422, nil, "PUT", doc+"/snippets/3", `{"content":"gap"}`)
	raw := n.want(t, 200, nil, "GET", doc+"/snippets/1", "", "Accept", wire.TypeVector)
	if string(raw.body) != "\x00\x00\x80\x3f\x00\x00\x00\x00" || raw.header.Get("Content-Type") != wire.TypeVector {
		t.Errorf("raw vector %x as %q", raw.body, raw.header.Get("Content-Type"))
	}
	n.want(t, 404, nil, "GET", doc+"/snippets/0", "", "Accept", wire.TypeVector)
	a := n.want(t, 200, &s, "PUT", doc+"/snippets/0?model=raw", string(raw.body), "Content-Type", wire.TypeVector)
	if !s.Embedded || s.Model != "raw" || s.Content != "one" || a.header.Get("ETag") == "" {
		t.Errorf("raw vector put: %+v %v", s, a.header)
	}
	n.want(t, 200, &s, "PATCH", doc+"/snippets/0", `{"content":"new"}`)
	if s.Embedded {
		t.Error("a snippet with new content kept its vector")
	}
	var er wire.EmbeddingsResult
	n.want(t, 200, &er, "PUT", doc+"/embeddings", `{"model":"m","embeddings":[{"index":1,"vector":[1,1]},{"index":0,"vector_base64":"AACAPwAAAAA="}]}`)
	if er.Updated != 2 || er.ID != "d" {
		t.Errorf("%+v", er)
	}
	var list wire.SnippetList
	n.want(t, 200, &list, "GET", doc+"/snippets?limit=1&with_embeddings=array", "")
	if len(list.Items) != 1 || list.NextCursor == "" || len(list.Items[0].Vector) != 2 {
		t.Errorf("%+v", list)
	}
	var rest wire.SnippetList
	n.want(t, 200, &rest, "GET", doc+"/snippets?cursor="+list.NextCursor, "")
	if len(rest.Items) != 1 || rest.NextCursor != "" || rest.Items[0].Index != 1 {
		t.Errorf("%+v", rest)
	}
	if a := n.want(t, 204, nil, "DELETE", doc+"/snippets/0", ""); a.header.Get("ETag") == "" {
		t.Error("the document's new revision is missing")
	}
	n.want(t, 200, &s, "GET", doc+"/snippets/0", "")
	if s.Content != "zwei" {
		t.Errorf("%+v", s)
	}
}

func TestCollectionsAndListings(t *testing.T) {
	n := startNode(t, nil)
	var coll wire.Collection
	n.want(t, 201, &coll, "PUT", "/v1/collections/a", `{"metric":"dot","dimension":2}`)
	if coll.Metric != "dot" || coll.Dimension != 2 {
		t.Errorf("%+v", coll)
	}
	n.want(t, 201, nil, "PUT", "/v1/collections/b", "")
	n.want(t, 409, nil, "PUT", "/v1/collections/a", `{"dimension":3}`)
	n.want(t, 201, nil, "PUT", "/v1/collections/a/docs/v", `{"snippets":[{"content":"x","vector":[3,4]}]}`)
	var s wire.Snippet
	n.want(t, 200, &s, "GET", "/v1/collections/a/docs/v/snippets/0?with_embeddings=true", "")
	if s.Vector[0] != 3 {
		t.Errorf("the vector of a dot collection must stay as it is: %v", s.Vector)
	}
	for _, id := range []string{"d1", "d2", "d3"} {
		n.want(t, 201, nil, "PUT", "/v1/collections/b/docs/"+id, `{"owner":{"type":"u","id":"1"},"metadata":{"lang":"en"}}`)
	}
	var names []string
	for cursor := ""; ; {
		var page wire.CollectionList
		n.want(t, 200, &page, "GET", "/v1/collections?limit=1"+cursor, "")
		for _, c := range page.Items {
			names = append(names, c.Name)
		}
		if page.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + page.NextCursor
	}
	if strings.Join(names, " ") != "a b" {
		t.Errorf("collections %v", names)
	}
	var docs wire.DocumentList
	n.want(t, 200, &docs, "GET", "/v1/collections/b/docs?limit=2&owner_type=u&owner_id=1&metadata.lang=en&order=-id", "")
	if len(docs.Items) != 2 || docs.Items[0].ID != "d3" || docs.NextCursor == "" {
		t.Errorf("%+v", docs)
	}
	var next wire.DocumentList
	n.want(t, 200, &next, "GET", "/v1/collections/b/docs?limit=2&order=-id&cursor="+docs.NextCursor, "")
	if len(next.Items) != 1 || next.NextCursor != "" {
		t.Errorf("%+v", next)
	}
	var gone wire.DeleteOwnerResult
	n.want(t, 200, &gone, "DELETE", "/v1/collections/b/docs?owner_type=u&owner_id=1", "")
	if gone.Deleted != 3 {
		t.Errorf("%+v", gone)
	}
	n.want(t, 204, nil, "DELETE", "/v1/collections/b", "")
	n.want(t, 404, nil, "GET", "/v1/collections/b", "")
}

func TestALargeDocumentIsStreamed(t *testing.T) {
	n := startNode(t, nil)
	text := strings.Repeat("x", 10_000)
	body := `{"content":["` + text + strings.Repeat(`","`+text, 39) + `"]}`
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/big", body)
	var doc wire.Document
	n.want(t, 200, &doc, "GET", "/v1/collections/c/docs/big", "")
	if len(doc.Snippets) != 40 || doc.Snippets[39].Index != 39 || doc.Snippets[39].Content != text {
		t.Errorf("%d snippets", len(doc.Snippets))
	}
}

func TestBatch(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/old", `{"content":"x"}`)
	var out wire.BatchResult
	n.want(t, 200, &out, "POST", "/v1/collections/c/batch", `{"operations":[
		{"op":"put_doc","id":"d1","doc":{"content":["a","b"]},"if_absent":true},
		{"op":"patch_doc","id":"d1","patch":{"title":"t"}},
		{"op":"put_snippet","id":"d1","index":2,"snippet":{"content":"c"}},
		{"op":"patch_snippet","id":"d1","index":2,"snippet_patch":{"content":"cc"}},
		{"op":"delete_snippet","id":"d1","index":0},
		{"op":"put_embeddings","id":"d1","model":"m","embeddings":[{"index":0,"vector":[1,0]},{"index":1,"vector":[0,1]}]},
		{"op":"delete_doc","id":"old","if_revision":2}]}`)
	if out.Index != 3 || len(out.Results) != 7 || out.Results[0].Status != 201 || out.Results[5].Updated != 2 || out.Results[6].Status != 204 || out.Results[1].Revision != 3 {
		t.Errorf("%+v", out)
	}
	before := string(n.dump())
	p := n.want(t, 412, nil, "POST", "/v1/collections/c/batch", `{"operations":[
		{"op":"put_doc","id":"d9","doc":{}},{"op":"delete_doc","id":"d1","if_revision":1}]}`).problem(t)
	if p.Operation == nil || *p.Operation != 1 || p.CurrentRevision != 3 {
		t.Errorf("%+v", p)
	}
	p = n.want(t, 422, nil, "POST", "/v1/collections/c/batch", `{"operations":[
		{"op":"put_doc","id":"d9","doc":{}},{"op":"put_doc","id":"d8","doc":{"snippets":[{"content":"x","vector":[0,0]}]}}]}`).problem(t)
	if p.Operation == nil || *p.Operation != 1 || p.Field != "operations[1].doc.snippets[0].vector" || p.Code != wire.CodeInvalidVector {
		t.Errorf("%+v", p)
	}
	if after := string(n.dump()); after != before {
		t.Errorf("a batch that failed left something:\n%s\n%s", before, after)
	}
}

// A batch that failed names no revision that was undone with it.
func TestAFailedBatchTellsNoRevisionOfItsOwn(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/old", `{"content":"x"}`)
	for i, tc := range []struct {
		first, second string
		current       uint64
	}{
		{`{"op":"put_doc","id":"new","doc":{}}`, `{"op":"put_doc","id":"new","doc":{},"if_absent":true}`, 0},
		{`{"op":"put_doc","id":"old","doc":{}}`, `{"op":"patch_doc","id":"old","patch":{"title":"t"},"if_revision":2}`, 0},
		{`{"op":"put_collection"}`, `{"op":"delete_collection","if_revision":1}`, 0},
		{`{"op":"put_doc","id":"new","doc":{}}`, `{"op":"patch_doc","id":"old","patch":{"title":"t"},"if_revision":9999}`, 2},
	} {
		body := `{"operations":[` + tc.first + "," + tc.second + `]}`
		var bodies [2]string
		for attempt := range bodies { // the second is a replay
			a := n.want(t, 412, nil, "POST", "/v1/collections/c/batch", body, wire.HeaderIdempotencyKey, fmt.Sprint("k", i))
			bodies[attempt] = string(a.body)
			p := a.problem(t)
			if p.CurrentRevision != tc.current || p.Operation == nil || *p.Operation != 1 || strings.Contains(p.Detail, fmt.Sprint(n.index)) || strings.Contains(p.Detail, "document") {
				t.Errorf("%s: %s", tc.second, a.body)
			}
		}
		if bodies[0] != bodies[1] {
			t.Errorf("first %s\nthen %s", bodies[0], bodies[1])
		}
	}
}

func TestClusterRoutes(t *testing.T) {
	n := startNode(t, nil)
	var id wire.Identity
	n.want(t, 200, &id, "GET", "/v1/cluster/identity", "")
	var status wire.Status
	n.want(t, 200, &status, "GET", "/v1/cluster/status", "")
	if id.NodeID != "n1" || status.Nodes[0].Storage.Stall != "none" || status.Nodes[0].Errors == nil {
		t.Errorf("%+v %+v", id, status)
	}
	n.want(t, 201, nil, "POST", "/v1/cluster/members", `{"id":"n2","raft":"127.0.0.1:7002"}`)
	n.want(t, 204, nil, "POST", "/v1/cluster/members/n2/promote", "")
	var members wire.MemberList
	n.want(t, 200, &members, "GET", "/v1/cluster/members", "")
	if len(members.Items) != 2 || !members.Items[1].Voter || !members.Items[0].Leader {
		t.Errorf("%+v", members)
	}
	n.transfer = func(to string) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.leader.ID = to
		return nil
	}
	var moved wire.TransferResult
	n.want(t, 200, &moved, "POST", "/v1/cluster/transfer-leader", `{"to":"n2"}`)
	if moved.Leader != "n2" {
		t.Errorf("%+v", moved)
	}
	n.noQuorum = true
	n.want(t, 409, nil, "DELETE", "/v1/cluster/members/n2", "")
	n.want(t, 409, nil, "DELETE", "/v1/cluster/members/n2?force=false", "")
	n.want(t, 400, nil, "DELETE", "/v1/cluster/members/n2?force=yes", "")
	n.want(t, 204, nil, "DELETE", "/v1/cluster/members/n2?force=true", "")
	n.want(t, 404, nil, "DELETE", "/v1/cluster/members/n2", "")
	n.want(t, 409, nil, "DELETE", "/v1/cluster/members/n1?force=true", "")
	var snap wire.SnapshotResult
	n.want(t, 200, &snap, "POST", "/v1/cluster/snapshot", "")
	var limits wire.Limits
	n.want(t, 200, &limits, "PUT", "/v1/cluster/limits", `{"rate_limits":[{"scope":"token","name":"*","writes_per_second":5,"burst":2}]}`)
	n.want(t, 200, &limits, "GET", "/v1/cluster/limits", "")
	if len(limits.RateLimits) != 1 || limits.RateLimits[0].Burst != 2 {
		t.Errorf("%+v", limits)
	}
}

func TestHealth(t *testing.T) {
	n := startNode(t, nil)
	var r wire.Ready
	n.want(t, 200, &r, "GET", "/readyz", "")
	if r.Role != "leader" {
		t.Errorf("%+v", r)
	}
	n.ready = errPlain
	n.want(t, 503, &r, "GET", "/readyz", "")
	if r.Reason != errPlain.Error() {
		t.Errorf("%+v", r)
	}
	n.want(t, 200, nil, "GET", "/livez", "")
	n.want(t, 404, nil, "GET", "/metrics", "") // no gatherer was given
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	n := startNode(t, nil)
	p := n.want(t, 404, nil, "GET", "/v1/nothing?x=%zz", "").problem(t)
	if p.Code != wire.CodeRouteNotFound || p.Outcome != "" {
		t.Errorf("%+v", p)
	}
	a := n.want(t, 405, nil, "POST", "/v1/collections/c/docs/d", `{}`)
	if p := a.problem(t); p.Code != wire.CodeMethodNotAllowed {
		t.Errorf("%+v", p)
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
		if !strings.Contains(a.header.Get("Allow"), method) {
			t.Errorf("Allow is %q, %s is missing", a.header.Get("Allow"), method)
		}
	}
	n.want(t, http.StatusNotFound, nil, "GET", "/v1/collections/", "")
}
