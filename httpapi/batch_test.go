package httpapi

import (
	"math"
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestABatchOfCollectionsAndOwners(t *testing.T) {
	n := startNode(t, nil)
	const batch, docs = "/v1/collections/c/batch", "/v1/collections/c/docs"
	for _, id := range []string{"a1", "a2"} {
		n.want(t, 201, nil, "PUT", docs+"/"+id, `{"owner":{"type":"agent","id":"a"},"content":"x"}`)
	}
	var out wire.BatchResult
	n.want(t, 200, &out, "POST", batch, `{"operations":[
		{"op":"delete_owner","owner":{"type":"agent","id":"a"}},
		{"op":"put_doc","id":"b1","doc":{"owner":{"type":"agent","id":"b"},"content":"y"}},
		{"op":"put_collection","collection":{"analyzer":"simple"}},
		{"op":"put_collection"}]}`)
	want := []wire.OperationResult{
		{Op: "delete_owner", Status: 200, Revision: out.Index, Updated: 2}, {Op: "put_doc", ID: "b1", Status: 201, Revision: out.Index},
		{Op: "put_collection", Status: 200, Revision: out.Index}, {Op: "put_collection", Status: 200, Revision: out.Index},
	}
	for i := range want {
		if i >= len(out.Results) || out.Results[i] != want[i] {
			t.Errorf("result %d of %+v, want %+v", i, out.Results, want[i])
		}
	}
	n.want(t, 404, nil, "GET", docs+"/a1", "")
	var coll wire.Collection
	n.want(t, 200, &coll, "GET", "/v1/collections/c", "")
	if coll.Analyzer != "simple" {
		t.Errorf("%+v", coll)
	}
	n.want(t, 200, &out, "POST", batch, `{"operations":[{"op":"delete_collection"},{"op":"put_doc","id":"only","doc":{}}]}`)
	if out.Results[0].Status != 204 || out.Results[1].Status != 201 {
		t.Errorf("%+v", out.Results)
	}
	n.want(t, 404, nil, "GET", docs+"/b1", "")
	n.want(t, 200, nil, "GET", docs+"/only", "")

	before := string(n.dump())
	p := n.want(t, 404, nil, "POST", batch, `{"operations":[{"op":"delete_collection"},{"op":"delete_doc","id":"only"}]}`).problem(t)
	if p.Code != wire.CodeNotFound || p.Operation == nil || *p.Operation != 1 {
		t.Errorf("%+v", p)
	}
	p = n.want(t, 412, nil, "POST", batch, `{"operations":[{"op":"put_collection","if_absent":true}]}`).problem(t)
	if p.Code != wire.CodeAlreadyExists {
		t.Errorf("%+v", p)
	}
	if after := string(n.dump()); after != before {
		t.Errorf("a batch that failed left something:\n%s\n%s", before, after)
	}
}

// TestVectorsBehindAChangeOfTheirCollection: what enters the log is made for
// the metric that the collection has by then, and not for the one it has now.
func TestVectorsBehindAChangeOfTheirCollection(t *testing.T) {
	n := startNode(t, nil)
	const docs = "/v1/collections/c/docs"
	first := func(id string) float32 {
		t.Helper()
		var s wire.Snippet
		n.want(t, 200, &s, "GET", docs+"/"+id+"/snippets/0?with_embeddings=true", "")
		if len(s.Vector) == 0 {
			t.Fatalf("%s has no vector: %+v", id, s)
		}
		return s.Vector[0]
	}
	n.want(t, 200, nil, "POST", "/v1/collections/c/batch", `{"operations":[
		{"op":"put_collection","collection":{"metric":"dot"}},
		{"op":"put_doc","id":"d","doc":{"snippets":[{"content":"x","vector":[3,4]}]}}]}`)
	if got := first("d"); got != 3 {
		t.Errorf("the vector of a dot collection begins with %v", got)
	}
	// Another dimension, and the default metric: a new collection of that name.
	n.want(t, 200, nil, "POST", "/v1/collections/c/batch", `{"operations":[
		{"op":"put_snippet","id":"d","index":0,"snippet":{"content":"x","vector":[6,8]}},
		{"op":"delete_collection"},
		{"op":"put_doc","id":"e","doc":{"snippets":[{"content":"x","vector":[0,3,4]}]}},
		{"op":"put_embeddings","id":"e","embeddings":[{"index":0,"vector":[2,3,6]}]}]}`)
	if got := first("e"); math.Abs(float64(got)-2.0/7) > 1e-6 {
		t.Errorf("the vector of a cosine collection begins with %v", got)
	}
	// In front of a change, a wrong dimension is still found with its field.
	p := n.want(t, 422, nil, "POST", "/v1/collections/c/batch", `{"operations":[
		{"op":"put_doc","id":"f","doc":{"snippets":[{"content":"x","vector":[1,2]}]}},{"op":"delete_collection"}]}`).problem(t)
	if p.Code != wire.CodeDimensionMismatch || p.Field != "operations[0].doc.snippets[0].vector" {
		t.Errorf("%+v", p)
	}
}
