package apitest

import (
	"fmt"
	"strings"

	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// singleRows are the wrong requests that only one route can get.
func singleRows(revision string) []row {
	out := documentRows()
	out = append(out, snippetRows()...)
	out = append(out, batchRows(revision)...)
	out = append(out, listingRows()...)
	return append(out, clusterRows()...)
}

// field is a body with a value that can't be stored.
func field(name, method, path, body, at string) row {
	return row{name: name, method: method, path: path, body: body, status: 422, code: wire.CodeInvalidField, field: at}
}

// kind is a body with a value of the wrong type.
func kind(method, path, body, at string) row {
	return row{name: "a wrong type", method: method, path: path, body: body, status: 400, code: wire.CodeInvalidJSON, field: at}
}

func documentRows() []row {
	var out []row
	for _, t := range []struct{ method, path string }{{"PUT", doc}, {"POST", docs}} {
		out = append(out,
			kind(t.method, t.path, `{"title":1}`, "title"),
			kind(t.method, t.path, `{"owner":"u"}`, "owner"),
			kind(t.method, t.path, `{"owner":{"type":1}}`, "owner.type"),
			kind(t.method, t.path, `{"owner":{"type":"u","id":"1","x":1}}`, "x"),
			kind(t.method, t.path, `{"snippets":{}}`, "snippets"),
			kind(t.method, t.path, `{"snippets":[1]}`, "snippets"),
			kind(t.method, t.path, `{"snippets":[{"content":1}]}`, ""),
			kind(t.method, t.path, `{"content":1}`, "content"),
			kind(t.method, t.path, `{"content":["x",1]}`, "content"),
			kind(t.method, t.path, `{"id":1}`, "id"),
			field("a long title", t.method, t.path, `{"title":"`+strings.Repeat("t", snippet.MaxTitleBytes+1)+`"}`, "title"),
			field("metadata that is a list", t.method, t.path, `{"metadata":[1]}`, "metadata"),
			field("metadata that is a number", t.method, t.path, `{"metadata":7}`, "metadata"),
			field("deep metadata", t.method, t.path, `{"metadata":{"a":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`}}`, "metadata"),
			field("large metadata", t.method, t.path, `{"metadata":{"a":"`+strings.Repeat("m", snippet.MaxMetadataBytes)+`"}}`, "metadata"),
			field("an empty owner", t.method, t.path, `{"owner":{}}`, "owner"),
			field("half an owner", t.method, t.path, `{"owner":{"type":"u"}}`, "owner"),
			field("an owner with a control character", t.method, t.path, `{"owner":{"type":"u","id":"a\u0000b"}}`, "owner.id"),
			field("a long owner", t.method, t.path, `{"owner":{"type":"u","id":"`+strings.Repeat("o", snippet.MaxOwnerBytes+1)+`"}}`, "owner.id"),
			field("content and snippets", t.method, t.path, `{"content":"x","snippets":[]}`, "content"),
			field("an empty text", t.method, t.path, `{"content":""}`, "content[0]"),
			field("a snippet without content", t.method, t.path, `{"snippets":[{"content":"x"},{}]}`, "snippets[1].content"),
			field("a long text", t.method, t.path, `{"content":["x","`+strings.Repeat("x", snippet.MaxContentBytes+1)+`"]}`, "content[1]"),
			field("a model without a vector", t.method, t.path, `{"snippets":[{"content":"x","model":"m"}]}`, "snippets[0].model"),
			field("a long model", t.method, t.path, `{"snippets":[{"content":"x","vector":[1,2,3],"model":"`+strings.Repeat("m", snippet.MaxModelBytes+1)+`"}]}`, "snippets[0].model"),
			row{name: "too many snippets", method: t.method, path: t.path, body: `{"content":["x"` + strings.Repeat(`,"x"`, snippet.MaxSnippets) + `]}`, status: 422, code: wire.CodeLimitExceeded, field: "snippets"},
			row{name: "a document for no log entry", method: t.method, path: t.path, body: `{"content":["` + strings.Repeat("x", 250<<10) + `","` + strings.Repeat("y", 250<<10) + `","` + strings.Repeat("z", 100<<10) + `"]}`, status: 413, code: wire.CodeDocumentTooLarge},
		)
	}
	return append(out,
		field("another id than the path's", "PUT", doc, `{"id":"e"}`, "id"),
		field("a long id", "POST", docs, `{"id":"`+strings.Repeat("i", snippet.MaxIDBytes+1)+`"}`, "id"),
		row{name: "an id that exists", method: "POST", path: docs, body: `{"id":"d"}`, status: 409, code: wire.CodeAlreadyExists},
		row{name: "another owner", method: "PUT", path: doc, body: `{"owner":{"type":"u","id":"2"}}`, status: 409, code: wire.CodeOwnerConflict},
		row{name: "If-Match on what is not there", method: "PUT", path: docs + "/none", body: `{}`, headers: map[string]string{"If-Match": "*"}, status: 412, code: wire.CodeRevisionMismatch},
		row{name: "no document", method: "PATCH", path: docs + "/none", body: `{"title":"x"}`, status: 404, code: wire.CodeNotFound},
		row{name: "no document", method: "DELETE", path: docs + "/none", status: 404, code: wire.CodeNotFound},
		row{name: "no document", method: "GET", path: docs + "/none", status: 404, code: wire.CodeNotFound},
		row{name: "no collection", method: "GET", path: "/v1/collections/none/docs/d", status: 404, code: wire.CodeNotFound},
		row{name: "no collection", method: "DELETE", path: "/v1/collections/none", status: 404, code: wire.CodeNotFound},
		kind("PATCH", doc, `{"title":1}`, "title"),
		field("a patch of nothing", "PATCH", doc, `{}`, ""),
		field("a patch with a list", "PATCH", doc, `{"metadata":[]}`, "metadata"),
		field("a long title", "PATCH", doc, `{"title":"`+strings.Repeat("t", snippet.MaxTitleBytes+1)+`"}`, "title"),
		row{name: "a field of PUT", method: "PATCH", path: doc, body: `{"content":"x"}`, status: 400, code: wire.CodeInvalidJSON, field: "content"},
		kind("PUT", coll, `{"dimension":"3"}`, "dimension"),
		kind("PUT", coll, `{"dimension":1.5}`, "dimension"),
		field("a dimension below zero", "PUT", coll, `{"dimension":-1}`, "dimension"),
		field("a large dimension", "PUT", coll, fmt.Sprintf(`{"dimension":%d}`, snippet.MaxDimension+1), "dimension"),
		field("an unknown metric", "PUT", coll, `{"metric":"hamming"}`, "metric"),
		field("an unknown analyzer", "PUT", coll, `{"analyzer":"latin"}`, "analyzer"),
		row{name: "another dimension", method: "PUT", path: coll, body: `{"dimension":4}`, status: 409, code: wire.CodeCollectionConflict},
		row{name: "another metric", method: "PUT", path: coll, body: `{"metric":"cosine"}`, status: 409, code: wire.CodeCollectionConflict},
	)
}

func snippetRows() []row {
	raw := func(name, path, body string, status int, code wire.Code) row {
		return row{name: name, method: "PUT", path: path, body: body, headers: map[string]string{"Content-Type": wire.TypeVector}, status: status, code: code}
	}
	one := "\x00\x00\x80\x3f"
	return []row{
		kind("PUT", snip+"/0", `{"content":1}`, "content"),
		field("no content", "PUT", snip+"/0", `{}`, "content"),
		field("a patch of nothing", "PATCH", snip+"/0", `{}`, ""),
		field("an empty text", "PATCH", snip+"/0", `{"content":""}`, "content"),
		field("a long text", "PATCH", snip+"/0", `{"content":"`+strings.Repeat("x", snippet.MaxContentBytes+1)+`"}`, "content"),
		{name: "a gap", method: "PUT", path: snip + "/3", body: `{"content":"x"}`, status: 422, code: wire.CodeSnippetGap},
		{name: "no snippet", method: "PATCH", path: snip + "/2", body: `{"content":"x"}`, status: 404, code: wire.CodeNotFound},
		{name: "no snippet", method: "DELETE", path: snip + "/2", status: 404, code: wire.CodeNotFound},
		{name: "no snippet", method: "GET", path: snip + "/2", status: 404, code: wire.CodeNotFound},
		{name: "no document", method: "PUT", path: docs + "/none/snippets/0", body: `{"content":"x"}`, status: 404, code: wire.CodeNotFound},
		{name: "no vector", method: "GET", path: snip + "/1", headers: map[string]string{"Accept": wire.TypeVector}, status: 404, code: wire.CodeNotFound},
		{name: "a model beside JSON", method: "PUT", path: snip + "/0?model=m", body: `{"content":"x"}`, status: 400, code: wire.CodeInvalidParameter, field: "model"},
		raw("no bytes", snip+"/0", "", 400, wire.CodeInvalidJSON),
		raw("half a number", snip+"/0", one+"\x00", 422, wire.CodeInvalidVector),
		raw("zeros", snip+"/0", strings.Repeat("\x00", 12), 422, wire.CodeInvalidVector),
		raw("NaN", snip+"/0", "\x00\x00\xc0\x7f"+one+one, 422, wire.CodeInvalidVector),
		raw("another dimension", snip+"/0", one, 422, wire.CodeDimensionMismatch),
		raw("a long model", snip+"/0?model="+strings.Repeat("m", snippet.MaxModelBytes+1), one+one+one, 400, wire.CodeInvalidParameter),
		raw("no snippet", snip+"/2", one+one+one, 404, wire.CodeNotFound),
		kind("PUT", doc+"/embeddings", `{"embeddings":{}}`, "embeddings"),
		kind("PUT", doc+"/embeddings", `{"embeddings":[{"index":"0","vector":[1,2,3]}]}`, ""),
		field("no embeddings", "PUT", doc+"/embeddings", `{"model":"m"}`, "embeddings"),
		field("no index", "PUT", doc+"/embeddings", `{"embeddings":[{"vector":[1,2,3]}]}`, "embeddings[0].index"),
		field("an index below zero", "PUT", doc+"/embeddings", `{"embeddings":[{"index":-1,"vector":[1,2,3]}]}`, "embeddings[0].index"),
		field("an index twice", "PUT", doc+"/embeddings", `{"embeddings":[{"index":0,"vector":[1,2,3]},{"index":0,"vector":[1,2,3]}]}`, "embeddings[1].index"),
		raw("raw vectors: half a number", doc+"/embeddings", one+one+one+one+one+one+"\x00", 422, wire.CodeInvalidVector),
		raw("raw vectors: NaN", doc+"/embeddings", one+one+one+one+one+"\x00\x00\xc0\x7f", 422, wire.CodeInvalidVector),
		raw("raw vectors: zeros", doc+"/embeddings", one+one+one+strings.Repeat("\x00", 12), 422, wire.CodeInvalidVector),
		raw("raw vectors: no multiple of the dimension", doc+"/embeddings", one+one+one+one+one, 422, wire.CodeDimensionMismatch),
		raw("raw vectors: too few", doc+"/embeddings", one+one+one, 422, wire.CodeInvalidField),
		raw("raw vectors: too many", doc+"/embeddings", strings.Repeat(one, 9), 422, wire.CodeEmbeddingIndex),
		raw("raw vectors: no document", docs+"/none/embeddings", strings.Repeat(one, 6), 404, wire.CodeNotFound),
		raw("raw vectors: a long model", doc+"/embeddings?model="+strings.Repeat("m", snippet.MaxModelBytes+1), strings.Repeat(one, 6), 400, wire.CodeInvalidParameter),
		{name: "a model in the query of JSON", method: "PUT", path: doc + "/embeddings?model=m", body: `{"embeddings":[{"index":0,"vector":[1,1,1]}]}`, status: 400, code: wire.CodeInvalidParameter, field: "model"},
		{name: "no vector", method: "PUT", path: doc + "/embeddings", body: `{"embeddings":[{"index":0}]}`, status: 422, code: wire.CodeInvalidVector, field: "embeddings[0].vector"},
		{name: "an index that does not exist", method: "PUT", path: doc + "/embeddings", body: `{"embeddings":[{"index":0,"vector":[1,1,1]},{"index":2,"vector":[1,2,3]}]}`, status: 422, code: wire.CodeEmbeddingIndex},
		{name: "no document", method: "PUT", path: docs + "/none/embeddings", body: `{"embeddings":[{"index":0,"vector":[1,1,1]}]}`, status: 404, code: wire.CodeNotFound},
	}
}

func batchRows(revision string) []row {
	batch := func(name, operation, at string) row {
		return field(name, "POST", coll+"/batch", `{"operations":[{"op":"delete_snippet","id":"d","index":1},`+operation+`]}`, at)
	}
	refused := func(name, operation string, status int, code wire.Code) row {
		r := batch(name, operation, "")
		r.status, r.code = status, code
		return r
	}
	const at = "operations[1]."
	return []row{
		kind("POST", coll+"/batch", `{"operations":{}}`, "operations"),
		kind("POST", coll+"/batch", `{"operations":[{"op":1}]}`, ""),
		kind("POST", coll+"/batch", `{"operations":[{"op":"delete_doc","id":"d","if_revision":-1}]}`, ""),
		field("no operations", "POST", coll+"/batch", `{}`, "operations"),
		field("too many operations", "POST", coll+"/batch", `{"operations":[{}`+strings.Repeat(`,{}`, snippet.MaxBatch)+`]}`, "operations"),
		batch("an unknown operation", `{"op":"put","id":"d"}`, at+"op"),
		batch("no id", `{"op":"delete_doc"}`, at+"id"),
		batch("no document", `{"op":"put_doc","id":"e"}`, at+"doc"),
		batch("a field of another operation", `{"op":"delete_doc","id":"d","doc":{}}`, at+"doc"),
		batch("no index", `{"op":"delete_snippet","id":"d"}`, at+"index"),
		batch("an index below zero", `{"op":"delete_snippet","id":"d","index":-1}`, at+"index"),
		batch("both conditions", `{"op":"delete_doc","id":"d","if_absent":true,"if_revision":1}`, at+"if_absent"),
		batch("another id inside", `{"op":"put_doc","id":"e","doc":{"id":"f"}}`, at+"doc.id"),
		batch("a wrong title inside", `{"op":"patch_doc","id":"d","patch":{"title":"`+strings.Repeat("t", snippet.MaxTitleBytes+1)+`"}}`, at+"patch.title"),
		batch("an empty text inside", `{"op":"patch_snippet","id":"d","index":0,"snippet_patch":{"content":""}}`, at+"snippet_patch.content"),
		batch("an id of a collection", `{"op":"delete_collection","id":"d"}`, at+"id"),
		batch("an id of an owner", `{"op":"delete_owner","id":"d","owner":{"type":"u","id":"1"}}`, at+"id"),
		batch("no owner", `{"op":"delete_owner"}`, at+"owner"),
		batch("an empty owner", `{"op":"delete_owner","owner":{}}`, at+"owner"),
		batch("half an owner", `{"op":"delete_owner","owner":{"type":"u"}}`, at+"owner"),
		batch("a condition on an owner", `{"op":"delete_owner","owner":{"type":"u","id":"1"},"if_revision":1}`, at+"if_revision"),
		batch("an owner of a document", `{"op":"delete_doc","id":"d","owner":{"type":"u","id":"1"}}`, at+"owner"),
		batch("settings for a deletion", `{"op":"delete_collection","collection":{}}`, at+"collection"),
		batch("an unknown metric", `{"op":"put_collection","collection":{"metric":"hamming"}}`, at+"collection.metric"),
		refused("a stale revision of the collection", `{"op":"delete_collection","if_revision":1}`, 412, wire.CodeRevisionMismatch),
		refused("another dimension", `{"op":"put_collection","collection":{"dimension":4}}`, 409, wire.CodeCollectionConflict),
		refused("a stale revision", `{"op":"delete_doc","id":"d","if_revision":1}`, 412, wire.CodeRevisionMismatch),
		refused("what exists", `{"op":"put_doc","id":"d","doc":{},"if_absent":true}`, 412, wire.CodeAlreadyExists),
		refused("no document", `{"op":"delete_doc","id":"none"}`, 404, wire.CodeNotFound),
		refused("no embedding index", `{"op":"put_embeddings","id":"d","embeddings":[{"index":7,"vector":[1,2,3]}]}`, 422, wire.CodeEmbeddingIndex),
		{name: "If-Match", method: "POST", path: coll + "/batch", body: `{"operations":[{"op":"delete_doc","id":"d"}]}`, headers: map[string]string{"If-Match": revision}, status: 400, code: wire.CodeInvalidParameter},
		{name: "another media type", method: "POST", path: coll + "/import", body: `{"id":"x"}`, status: 415, code: wire.CodeUnsupportedType},
		{name: "a flag that is none", method: "POST", path: coll + "/import?stop_on_error=perhaps", body: `{"id":"x"}`, headers: map[string]string{"Content-Type": wire.TypeNDJSON}, status: 400, code: wire.CodeInvalidParameter, field: "stop_on_error"},
	}
}

func listingRows() []row {
	bad := func(name, path, at string) row {
		return row{name: name, method: "GET", path: path, status: 400, code: wire.CodeInvalidParameter, field: at}
	}
	var out []row
	for _, path := range []string{"/v1/collections", docs, snip} {
		for _, limit := range []string{"0", "-1", "x", "1001", ""} {
			out = append(out, bad("the limit "+limit, path+"?limit="+limit, "limit"))
		}
		for _, cursor := range []string{"x", "!!!", "YWJj", strings.Repeat("A", 1000)} {
			out = append(out, bad("the cursor "+cursor, path+"?cursor="+cursor, "cursor"))
		}
	}
	return append(out,
		bad("an unknown order", docs+"?order=title", "order"),
		bad("half an owner", docs+"?owner_type=u", "owner_type"),
		bad("an empty owner", docs+"?owner_type=&owner_id=", "owner_type"),
		bad("a filter without a field", docs+"?metadata.=x", "metadata."),
		bad("an unknown form", doc+"?with_embeddings=hex", "with_embeddings"),
		bad("an unknown form", snip+"?with_embeddings=hex", "with_embeddings"),
		bad("an unknown form", snip+"/0?with_embeddings=hex", "with_embeddings"),
		row{name: "no owner", method: "DELETE", path: docs, status: 400, code: wire.CodeInvalidParameter},
		row{name: "half an owner", method: "DELETE", path: docs + "?owner_id=1", status: 400, code: wire.CodeInvalidParameter},
		row{name: "no collection", method: "DELETE", path: "/v1/collections/none/docs?owner_type=u&owner_id=1", status: 404, code: wire.CodeNotFound},
		row{name: "no collection", method: "GET", path: "/v1/collections/none/docs", status: 404, code: wire.CodeNotFound},
	)
}

func clusterRows() []row {
	limit := func(text string) string { return `{"rate_limits":[` + text + `]}` }
	const path, members = "/v1/cluster/limits", "/v1/cluster/members"
	return []row{
		kind("PUT", path, `{"rate_limits":{}}`, "rate_limits"),
		kind("PUT", path, limit(`{"scope":"token","name":"a","writes_per_second":"1","burst":1}`), ""),
		field("no list", "PUT", path, `{}`, "rate_limits"),
		field("an unknown scope", "PUT", path, limit(`{"scope":"x","name":"a","writes_per_second":1,"burst":1}`), "rate_limits[0].scope"),
		field("no name", "PUT", path, limit(`{"scope":"token","writes_per_second":1,"burst":1}`), "rate_limits[0].name"),
		field("no rate", "PUT", path, limit(`{"scope":"token","name":"a","burst":1}`), "rate_limits[0].writes_per_second"),
		field("a rate below zero", "PUT", path, limit(`{"scope":"token","name":"a","writes_per_second":-1,"burst":1}`), "rate_limits[0].writes_per_second"),
		field("no burst", "PUT", path, limit(`{"scope":"collection","name":"a","writes_per_second":1}`), "rate_limits[0].burst"),
		field("a limit twice", "PUT", path, limit(`{"scope":"token","name":"a","writes_per_second":1,"burst":1},{"scope":"token","name":"a","writes_per_second":2,"burst":1}`), "rate_limits[1].name"),
		kind("POST", members, `{"id":1}`, "id"),
		field("no id", "POST", members, `{"raft":"127.0.0.1:9"}`, "id"),
		field("no address", "POST", members, `{"id":"nope"}`, "raft"),
		field("an id with a blank", "POST", members, `{"id":"a b","raft":"127.0.0.1:9"}`, "id"),
		field("no base URL", "POST", members, `{"id":"nope","raft":"127.0.0.1:9","http":"127.0.0.1:8"}`, "http"),
		{name: "no member", method: "DELETE", path: members + "/nope", status: 404, code: wire.CodeNotFound},
		{name: "no member", method: "POST", path: members + "/nope/promote", status: 404, code: wire.CodeNotFound},
		{name: "a bad node", method: "DELETE", path: members + "/a%20b", status: 400, code: wire.CodeInvalidParameter, field: "node"},
		kind("POST", "/v1/cluster/transfer-leader", `{"to":1}`, "to"),
		field("a bad node", "POST", "/v1/cluster/transfer-leader", `{"to":"a b"}`, "to"),
	}
}
