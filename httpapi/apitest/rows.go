package apitest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// target is one route with a good request for it, which the rows then spoil.
type target struct {
	method, pattern, path string
	body                  string // a good body; "": the route takes none
	optional              bool   // the body may be absent
	conditional           bool
	maxBody               int
	// vectors are where the body holds a vector: %s is put in its place.
	vectorBody, vectorField string
	read                    bool // takes the consistency parameters
}

const (
	coll = "/v1/collections/CC"
	docs = coll + "/docs"
	doc  = docs + "/d"
	snip = doc + "/snippets"

	patternDocs = "/v1/collections/{collection}/docs"
	patternDoc  = patternDocs + "/{id}"
	patternSnip = patternDoc + "/snippets"
)

// ofOneNode says whether the node that is asked acts, whatever the method:
// nothing is written through the log, so an error has no outcome.
func ofOneNode(path string) bool {
	for _, end := range []string{"/cluster/snapshot", "/cluster/consistency", "/cluster/verification"} {
		if strings.Contains(path, end) {
			return true
		}
	}
	return false
}

// targets are all routes of the API.
var targets = []target{
	{method: "GET", pattern: "/v1/collections", path: "/v1/collections", read: true},
	{method: "GET", pattern: "/v1/collections/{collection}", path: coll, read: true},
	{method: "PUT", pattern: "/v1/collections/{collection}", path: coll, body: `{"analyzer":"simple"}`, optional: true, conditional: true, maxBody: 64 << 10},
	{method: "DELETE", pattern: "/v1/collections/{collection}", path: coll, conditional: true},
	{method: "GET", pattern: patternDocs, path: docs, read: true},
	{method: "POST", pattern: patternDocs, path: docs, body: `{"title":"x"}`, maxBody: 4 << 20,
		vectorBody: `{"snippets":[{"content":"x"},{"content":"y",%s}]}`, vectorField: "snippets[1]."},
	{method: "DELETE", pattern: patternDocs, path: docs + "?owner_type=u&owner_id=1"},
	{method: "GET", pattern: patternDoc, path: doc, read: true},
	{method: "PUT", pattern: patternDoc, path: doc, body: `{"title":"x"}`, conditional: true, maxBody: 4 << 20,
		vectorBody: `{"snippets":[{"content":"x",%s}]}`, vectorField: "snippets[0]."},
	{method: "PATCH", pattern: patternDoc, path: doc, body: `{"title":"x"}`, conditional: true, maxBody: 4 << 20},
	{method: "DELETE", pattern: patternDoc, path: doc, conditional: true},
	{method: "GET", pattern: patternSnip, path: snip, read: true},
	{method: "GET", pattern: patternSnip + "/{index}", path: snip + "/0", read: true},
	{method: "PUT", pattern: patternSnip + "/{index}", path: snip + "/0", body: `{"content":"x"}`, conditional: true, maxBody: 4 << 20,
		vectorBody: `{"content":"x",%s}`},
	{method: "PATCH", pattern: patternSnip + "/{index}", path: snip + "/0", body: `{"content":"x"}`, conditional: true, maxBody: 4 << 20, vectorBody: `{%s}`},
	{method: "DELETE", pattern: patternSnip + "/{index}", path: snip + "/0", conditional: true},
	{method: "PUT", pattern: patternDoc + "/embeddings", path: doc + "/embeddings", body: `{"model":"m","embeddings":[{"index":0,"vector":[1,1,1]}]}`, conditional: true,
		maxBody: 4 << 20, vectorBody: `{"model":"m","embeddings":[{"index":1,"vector":[1,2,3]},{"index":0,%s}]}`, vectorField: "embeddings[1]."},
	{method: "POST", pattern: "/v1/collections/{collection}/batch", path: coll + "/batch", body: `{"operations":[{"op":"delete_doc","id":"d"}]}`, maxBody: 4 << 20,
		vectorBody: `{"operations":[{"op":"delete_snippet","id":"d","index":1},{"op":"put_snippet","id":"d","index":0,"snippet":{"content":"x",%s}}]}`, vectorField: "operations[1].snippet."},
	{method: "POST", pattern: "/v1/collections/{collection}/import", path: coll + "/import"},
	{method: "GET", pattern: "/v1/cluster/identity", path: "/v1/cluster/identity"},
	{method: "GET", pattern: "/v1/cluster/status", path: "/v1/cluster/status"},
	{method: "GET", pattern: "/v1/cluster/members", path: "/v1/cluster/members"},
	{method: "POST", pattern: "/v1/cluster/members", path: "/v1/cluster/members", body: `{"id":"nope","raft":"127.0.0.1:9"}`, maxBody: 64 << 10},
	{method: "DELETE", pattern: "/v1/cluster/members/{node}", path: "/v1/cluster/members/nope"},
	{method: "POST", pattern: "/v1/cluster/members/{node}/promote", path: "/v1/cluster/members/nope/promote"},
	{method: "POST", pattern: "/v1/cluster/transfer-leader", path: "/v1/cluster/transfer-leader", body: `{"to":"nope"}`, optional: true, maxBody: 64 << 10},
	{method: "POST", pattern: "/v1/cluster/snapshot", path: "/v1/cluster/snapshot"},
	{method: "GET", pattern: "/v1/cluster/consistency", path: "/v1/cluster/consistency"},
	{method: "POST", pattern: "/v1/cluster/consistency", path: "/v1/cluster/consistency"},
	{method: "GET", pattern: "/v1/cluster/verification", path: "/v1/cluster/verification"},
	{method: "POST", pattern: "/v1/cluster/verification", path: "/v1/cluster/verification"},
	{method: "DELETE", pattern: "/v1/cluster/verification", path: "/v1/cluster/verification"},
	{method: "GET", pattern: "/v1/cluster/limits", path: "/v1/cluster/limits"},
	{method: "PUT", pattern: "/v1/cluster/limits", path: "/v1/cluster/limits", body: `{"rate_limits":[]}`, maxBody: 64 << 10},
	{method: "GET", pattern: "/livez", path: "/livez"},
	{method: "GET", pattern: "/readyz", path: "/readyz"},
	{method: "GET", pattern: "/metrics", path: "/metrics"},
	{method: "GET", pattern: "/openapi.json", path: "/openapi.json"},
}

// Routes returns the routes that BadInput knows, as "METHOD /path/{parameter}".
func Routes() []string {
	out := make([]string, len(targets))
	for i, t := range targets {
		out[i] = t.method + " " + t.pattern
	}
	return out
}

// rows builds the table.
func (c *checker) rows() []row {
	var out []row
	for _, t := range targets {
		out = append(out, t.paramRows()...)
		out = append(out, t.pathRows()...)
		out = append(out, t.conditionRows(c.revision)...)
		if t.body != "" {
			out = append(out, t.bodyRows()...)
		} else if t.method != http.MethodGet && !strings.HasSuffix(t.path, "/import") {
			out = append(out, row{name: "a body where none is taken", method: t.method, path: t.path, body: `{}`, status: 400, code: wire.CodeInvalidJSON})
		}
		if t.vectorBody != "" {
			out = append(out, t.vectorRows()...)
		}
	}
	out = append(out, methodRows()...)
	return append(out, singleRows(c.revision)...)
}

// with adds a query parameter to a path.
func with(path, query string) string {
	if strings.Contains(path, "?") {
		return path + "&" + query
	}
	return path + "?" + query
}

func (t target) paramRows() []row {
	bad := func(name, query, field string) row {
		return row{name: name, method: t.method, path: with(t.path, query), body: t.body, status: 400, code: wire.CodeInvalidParameter, field: field, headers: t.headers()}
	}
	out := []row{
		bad("an unknown parameter", "nonsense=1", "nonsense"),
		bad("a parameter given twice", "timeout=1s&timeout=2s", "timeout"),
		bad("a timeout that is none", "timeout=soon", "timeout"),
		bad("a timeout of zero", "timeout=0s", "timeout"),
		bad("a query that is none", "a=%zz", ""),
	}
	header := bad("a timeout header that is none", "", wire.HeaderTimeout)
	header.headers = map[string]string{wire.HeaderTimeout: "-1s"}
	for name, value := range t.headers() {
		header.headers[name] = value
	}
	header.path = t.path
	out = append(out, header)
	if t.read {
		out = append(out,
			bad("an unknown consistency", "consistency=eventual", "consistency"),
			bad("bounded without a bound", "consistency=bounded", "max_staleness"),
			bad("a staleness of zero", "consistency=bounded&max_staleness=0", "max_staleness"),
			bad("a staleness that is none", "consistency=bounded&max_staleness=short", "max_staleness"),
			bad("a staleness without bounded", "max_staleness=1s", "max_staleness"),
			bad("session without an index", "consistency=session", "min_index"),
			bad("an index below zero", "consistency=session&min_index=-1", "min_index"),
			bad("an index without session", "min_index=1", "min_index"),
			row{name: "another cluster", method: t.method, path: with(t.path, "cluster_id=nope"), status: 409, code: wire.CodeWrongCluster},
			row{name: "a body of a read", method: t.method, path: t.path, body: "{}", status: 400, code: wire.CodeInvalidJSON},
		)
	} else if t.method != http.MethodGet && !ofOneNode(t.path) {
		out = append(out, bad("a redirect that is none", "redirect=maybe", "redirect"))
	}
	return out
}

// headers are what a good request to the route needs.
func (t target) headers() map[string]string {
	if strings.HasSuffix(t.path, "/import") {
		return map[string]string{"Content-Type": wire.TypeNDJSON}
	}
	return nil
}

// pathRows spoils the names in the path.
func (t target) pathRows() []row {
	var out []row
	spoil := func(name, from, to, field string) {
		path := strings.Replace(t.path, from, to, 1)
		if path == t.path {
			return
		}
		out = append(out, row{name: name, method: t.method, path: path, body: t.body, headers: t.headers(), status: 400, code: wire.CodeInvalidParameter, field: field})
	}
	spoil("a collection that begins with a dot", "/CC", "/.hidden", "collection")
	spoil("a collection with a blank", "/CC", "/a%20b", "collection")
	spoil("a collection with a zero byte", "/CC", "/a%00b", "collection")
	spoil("a long collection", "/CC", "/"+strings.Repeat("c", snippet.MaxNameBytes+1), "collection")
	for _, end := range []string{"", "/"} {
		if end == "" && !strings.HasSuffix(t.path, "/docs/d") || end != "" && !strings.Contains(t.path, "/docs/d/") {
			continue
		}
		spoil("a long id", "/docs/d"+end, "/docs/"+strings.Repeat("i", snippet.MaxIDBytes+1)+end, "id")
		spoil("an id with a control character", "/docs/d"+end, "/docs/a%0Ab"+end, "id")
		spoil("an id that is not UTF-8", "/docs/d"+end, "/docs/%FF%FE"+end, "id")
	}
	if strings.HasSuffix(t.path, "/snippets/0") {
		for _, index := range []string{"-1", "x", "1.5", fmt.Sprint(snippet.MaxSnippets), "4294967296", "99999999999999999999"} {
			spoil("the index "+index, "/snippets/0", "/snippets/"+index, "index")
		}
	}
	return out
}

func (t target) conditionRows(revision string) []row {
	bad := func(name, header, value string) row {
		return row{name: name, method: t.method, path: t.path, body: t.body, headers: map[string]string{header: value}, status: 400, code: wire.CodeInvalidParameter, field: header}
	}
	if t.method == http.MethodGet || ofOneNode(t.path) {
		return nil
	}
	if !t.conditional {
		r := bad("a condition that can't be checked", "If-Match", revision)
		for name, value := range t.headers() {
			r.headers[name] = value
		}
		return []row{r}
	}
	out := []row{
		bad("If-Match without quotes", "If-Match", "42"),
		bad("If-Match with a weak tag", "If-Match", `W/"42"`),
		bad("If-Match with words", "If-Match", `"abc"`),
		bad("If-Match with zero", "If-Match", `"0"`),
		bad("If-Match with two tags", "If-Match", `"1", "2"`),
		bad("If-None-Match with a tag", "If-None-Match", `"1"`),
		{name: "a stale If-Match", method: t.method, path: t.path, body: t.body, headers: map[string]string{"If-Match": `"1"`}, status: 412, code: wire.CodeRevisionMismatch},
	}
	both := bad("both conditions", "If-Match", "*")
	both.headers["If-None-Match"] = "*"
	out = append(out, both)
	if t.method == http.MethodPut {
		out = append(out, row{name: "If-None-Match: * on what exists", method: t.method, path: t.path, body: t.body, headers: map[string]string{"If-None-Match": "*"}, status: 412, code: wire.CodeAlreadyExists})
	}
	for name, key := range map[string]string{"a long key": strings.Repeat("k", 129), "a key with a blank": "a b", "a key that is not ASCII": "schlüssel"} {
		out = append(out, bad(name, wire.HeaderIdempotencyKey, key))
	}
	return out
}

func (t target) bodyRows() []row {
	bad := func(name, body string) row {
		return row{name: name, method: t.method, path: t.path, body: body, status: 400, code: wire.CodeInvalidJSON}
	}
	unknown := strings.TrimSuffix(t.body, "}") + `,"nonsense":1}`
	out := []row{
		bad("an array", `[]`), bad("null", `null`), bad("a text", `"x"`), bad("half an object", `{"a":`), bad("no JSON", `{a:1}`),
		bad("two objects", t.body+t.body), bad("a comment", t.body+" // x"), bad("not UTF-8", "{\"\xff\":1}"),
		{name: "an unknown field", method: t.method, path: t.path, body: unknown, status: 400, code: wire.CodeInvalidJSON, field: "nonsense"},
		{name: "another media type", method: t.method, path: t.path, body: t.body, headers: map[string]string{"Content-Type": "text/plain"}, status: 415, code: wire.CodeUnsupportedType},
		{name: "no media type", method: t.method, path: t.path, body: t.body, headers: map[string]string{"Content-Type": "-"}, status: 415, code: wire.CodeUnsupportedType},
		{name: "another charset", method: t.method, path: t.path, body: t.body, headers: map[string]string{"Content-Type": "application/json; charset=latin1"}, status: 415, code: wire.CodeUnsupportedType},
		{name: "a body that is too large", method: t.method, path: t.path, body: t.body + strings.Repeat(" ", t.maxBody), status: 413, code: wire.CodeBodyTooLarge},
	}
	if !t.optional {
		out = append(out, bad("no body", ""))
	}
	return out
}

// vectorRows spoils the vector of the route's body, which must have 3 values.
func (t target) vectorRows() []row {
	bad := func(name, text string, status int, code wire.Code, field string) row {
		if field != "" {
			field = t.vectorField + field
		}
		return row{name: name, method: t.method, path: t.path, body: fmt.Sprintf(t.vectorBody, text), status: status, code: code, field: field}
	}
	long := strings.Repeat("1,", snippet.MaxDimension) + "1"
	return []row{
		bad("a vector of zeros", `"vector":[0,0,0]`, 422, wire.CodeInvalidVector, "vector"),
		bad("an empty vector", `"vector":[]`, 422, wire.CodeInvalidVector, "vector"),
		bad("a vector beyond float32", `"vector":[1,1e39,0]`, 422, wire.CodeInvalidVector, "vector"),
		bad("a vector that is too long", `"vector":[`+long+`]`, 422, wire.CodeInvalidVector, "vector"),
		bad("a vector with NaN", `"vector_base64":"AADAfwAAgD8AAIA/"`, 422, wire.CodeInvalidVector, "vector_base64"),
		bad("a vector with infinity", `"vector_base64":"AACAfwAAgD8AAIA/"`, 422, wire.CodeInvalidVector, "vector_base64"),
		bad("no base64", `"vector_base64":"!!!"`, 422, wire.CodeInvalidVector, "vector_base64"),
		bad("base64 of half a number", `"vector_base64":"AACAPwA="`, 422, wire.CodeInvalidVector, "vector_base64"),
		bad("a vector of another dimension", `"vector":[1,2]`, 422, wire.CodeDimensionMismatch, "vector"),
		bad("base64 of another dimension", `"vector_base64":"AACAPw=="`, 422, wire.CodeDimensionMismatch, ""),
		bad("two forms of a vector", `"vector":[1,2,3],"vector_base64":"AACAPwAAgD8AAIA/"`, 422, wire.CodeInvalidField, "vector_base64"),
		bad("a vector of texts", `"vector":["1","2","3"]`, 400, wire.CodeInvalidJSON, "vector"),
		bad("a vector of vectors", `"vector":[[1,2,3]]`, 400, wire.CodeInvalidJSON, "vector"),
		bad("a vector that is an object", `"vector":{}`, 400, wire.CodeInvalidJSON, "vector"),
		bad("base64 that is a number", `"vector_base64":1`, 400, wire.CodeInvalidJSON, ""),
	}
}

// methodRows sends every method to every path that does not take it.
func methodRows() []row {
	takes := map[string][]string{}
	for _, t := range targets {
		path, _, _ := strings.Cut(t.path, "?")
		takes[path] = append(takes[path], t.method)
	}
	var out []row
	for path, methods := range takes {
		for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"} {
			if !slices.Contains(methods, method) {
				out = append(out, row{name: "a wrong method", method: method, path: path, status: 405, code: wire.CodeMethodNotAllowed})
			}
		}
	}
	return append(out,
		row{name: "no route", method: "GET", path: "/v1/nothing", status: 404, code: wire.CodeRouteNotFound},
		row{name: "no route", method: "POST", path: "/v2/collections", body: "{}", status: 404, code: wire.CodeRouteNotFound},
		row{name: "a slash at the end", method: "GET", path: "/v1/collections/", status: 404, code: wire.CodeRouteNotFound})
}
