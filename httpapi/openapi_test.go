package httpapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// openapi.json is built from what the server runs: the table of routes, the
// structs of package wire with their comments, and the list of codes. What only
// people know (summaries, examples) is in operationDocs. The file is kept in
// the repository to be read; `go test ./httpapi -run OpenAPI -update` writes it
// anew after a change.
var update = flag.Bool("update", false, "write openapi.json")

type object = map[string]any

// operationDoc is what people know of a route.
type operationDoc struct {
	id, tag, summary, description string
	in                            any    // a value of the body's struct
	example                       string // of the body
	status                        int    // of success
	also                          []int  // other statuses of success
	out                           any
	answer                        string // example
	codes                         []wire.Code
}

const (
	exampleDocument     = `{"collection":"notes","id":"d1","owner":{"type":"agent","id":"a1"},"title":"Raft","metadata":{"lang":"en"},"created_at":"2026-11-23T10:00:00Z","updated_at":"2026-11-23T10:00:00Z","revision":42,"snippet_count":1}`
	exampleSnippet      = `{"index":0,"content":"A log is replicated.","content_hash":"6a8f5b0e3f7e9ad5f9f2e8b7c8d8d0a64a2e1c0f5b1d3a7e9c4b6f8d2e1a3c5b","embedded":true,"model":"m1","revision":42}`
	exampleColl         = `{"name":"notes","dimension":3,"metric":"cosine","analyzer":"standard","created_at":"2026-11-23T10:00:00Z","updated_at":"2026-11-23T10:00:00Z","revision":7,"documents":1,"snippets":1,"embedded":1}`
	exampleHash         = `{"index":1200,"term":3,"hash":"5f0b5c1d9e6a47e2b3f3d1c09a7e4f55"}`
	exampleConsistency  = `{"index":1200,"verdict":"agreed","nodes":[{"id":"n1","http":"http://127.0.0.1:8001","voter":true,"reachable":true,"applied_index":1204,"at":` + exampleHash + `,"verdict":"agreed"}]}`
	exampleVerification = `{"node":"n1","status":"running","started":"2026-11-23T10:00:00Z","rows":51200,"bytes":268435456}`
	exampleMember       = `{"id":"n4","raft":"10.0.0.4:7001","http":"http://10.0.0.4:8001","voter":false}`
)

var operationDocs = map[string]operationDoc{
	"GET /v1/collections": {id: "listCollections", tag: "collections", summary: "List the collections, by name", status: 200, out: wire.CollectionList{},
		answer: `{"items":[` + exampleColl + `],"next_cursor":"YzE6bm90ZXM"}`},
	"GET /v1/collections/{collection}": {id: "getCollection", tag: "collections", summary: "Show a collection", status: 200, also: []int{304}, out: wire.Collection{},
		answer: exampleColl, codes: []wire.Code{wire.CodeNotFound}},
	"PUT /v1/collections/{collection}": {id: "putCollection", tag: "collections", summary: "Create or change a collection",
		description: "A field that is absent keeps its value, or takes its default on creation. Dimension and metric can't change while vectors are stored.",
		in:          wire.CollectionInput{}, example: `{"dimension":3,"metric":"cosine","analyzer":"standard"}`, status: 201, also: []int{200}, out: wire.Collection{}, answer: exampleColl,
		codes: []wire.Code{wire.CodeInvalidField, wire.CodeCollectionConflict, wire.CodeLimitExceeded, wire.CodeAlreadyExists, wire.CodeRevisionMismatch}},
	"DELETE /v1/collections/{collection}": {id: "deleteCollection", tag: "collections", summary: "Delete a collection with all its documents", status: 204,
		codes: []wire.Code{wire.CodeNotFound, wire.CodeRevisionMismatch}},
	"GET /v1/collections/{collection}/docs": {id: "listDocuments", tag: "documents", summary: "List documents, without their snippets",
		description: "With a metadata filter a page may hold fewer documents than the limit, even none, and still have a next page: one request reads a bounded number of records.",
		status:      200, out: wire.DocumentList{}, answer: `{"items":[` + exampleDocument + `],"next_cursor":"bTE6ZDE"}`, codes: []wire.Code{wire.CodeNotFound}},
	"POST /v1/collections/{collection}/docs": {id: "createDocument", tag: "documents", summary: "Create a document",
		description: "Without an id in the body the server makes one (UUIDv7). An id that exists already is a conflict: 409.",
		in:          wire.DocumentInput{}, example: `{"title":"Raft","content":["A log is replicated.","A leader is elected."]}`, status: 201, out: wire.Document{}, answer: exampleDocument,
		codes: append([]wire.Code{wire.CodeAlreadyExists}, documentCodes...)},
	"DELETE /v1/collections/{collection}/docs": {id: "deleteOwner", tag: "documents", summary: "Delete the documents of one owner",
		description: fmt.Sprintf("One call deletes at most %d documents; `more` says whether to call again.", snippet.MaxOwnerDelete),
		status:      200, out: wire.DeleteOwnerResult{}, answer: `{"deleted":3,"more":false,"revision":44}`, codes: []wire.Code{wire.CodeNotFound}},
	"GET /v1/collections/{collection}/docs/{id}": {id: "getDocument", tag: "documents", summary: "Show a document with its snippets", status: 200, also: []int{304},
		out: wire.Document{}, answer: strings.TrimSuffix(exampleDocument, "}") + `,"snippets":[` + exampleSnippet + `]}`, codes: []wire.Code{wire.CodeNotFound}},
	"PUT /v1/collections/{collection}/docs/{id}": {id: "putDocument", tag: "documents", summary: "Create or replace a whole document",
		description: "A snippet with the same content as before at the same index keeps its embedding, unless it brings a vector. The owner is fixed at creation.",
		in:          wire.DocumentInput{}, example: `{"owner":{"type":"agent","id":"a1"},"title":"Raft","metadata":{"lang":"en"},"snippets":[{"content":"A log is replicated.","vector":[0.1,0.2,0.3],"model":"m1"}]}`,
		status: 201, also: []int{200}, out: wire.Document{}, answer: exampleDocument,
		codes: append([]wire.Code{wire.CodeAlreadyExists, wire.CodeRevisionMismatch, wire.CodeOwnerConflict}, documentCodes...)},
	"PATCH /v1/collections/{collection}/docs/{id}": {id: "patchDocument", tag: "documents", summary: "Change the title or the metadata", in: wire.DocumentPatch{},
		example: `{"title":"Raft, again","metadata":{"lang":null,"year":2014}}`, status: 200, out: wire.Document{}, answer: exampleDocument,
		codes: []wire.Code{wire.CodeNotFound, wire.CodeInvalidField, wire.CodeRevisionMismatch}},
	"DELETE /v1/collections/{collection}/docs/{id}": {id: "deleteDocument", tag: "documents", summary: "Delete a document", status: 204,
		codes: []wire.Code{wire.CodeNotFound, wire.CodeRevisionMismatch}},
	"GET /v1/collections/{collection}/docs/{id}/snippets": {id: "listSnippets", tag: "snippets", summary: "List the snippets of a document",
		description: "A page ends early when its texts and vectors pass 4 MiB.", status: 200, out: wire.SnippetList{}, answer: `{"items":[` + exampleSnippet + `]}`, codes: []wire.Code{wire.CodeNotFound}},
	"GET /v1/collections/{collection}/docs/{id}/snippets/{index}": {id: "getSnippet", tag: "snippets", summary: "Show a snippet",
		description: "With `Accept: " + wire.TypeVector + "` the answer is the vector, as raw little-endian float32 values. The ETag is the document's.",
		status:      200, also: []int{304}, out: wire.Snippet{}, answer: exampleSnippet, codes: []wire.Code{wire.CodeNotFound}},
	"PUT /v1/collections/{collection}/docs/{id}/snippets/{index}": {id: "putSnippet", tag: "snippets", summary: "Replace a snippet, or append one at the index snippet_count",
		description: "With `Content-Type: " + wire.TypeVector + "` the body is the snippet's vector, as raw little-endian float32 values, and the text stays as it is.",
		in:          wire.SnippetInput{}, example: `{"content":"A log is replicated.","vector_base64":"zczMPc3MTD6amZk+","model":"m1"}`, status: 201, also: []int{200}, out: wire.Snippet{}, answer: exampleSnippet,
		codes: append([]wire.Code{wire.CodeNotFound, wire.CodeSnippetGap, wire.CodeRevisionMismatch}, documentCodes...)},
	"PATCH /v1/collections/{collection}/docs/{id}/snippets/{index}": {id: "patchSnippet", tag: "snippets", summary: "Change the text, the vector or the model of a snippet",
		description: "A snippet whose content changes loses its embedding, unless the same request brings a new one.",
		in:          wire.SnippetPatch{}, example: `{"content":"A log is replicated, in order."}`, status: 200, out: wire.Snippet{}, answer: exampleSnippet,
		codes: append([]wire.Code{wire.CodeNotFound, wire.CodeRevisionMismatch}, documentCodes...)},
	"DELETE /v1/collections/{collection}/docs/{id}/snippets/{index}": {id: "deleteSnippet", tag: "snippets", summary: "Delete a snippet",
		description: "The snippets behind it move up by one.", status: 204, codes: []wire.Code{wire.CodeNotFound, wire.CodeRevisionMismatch}},
	"PUT /v1/collections/{collection}/docs/{id}/embeddings": {id: "putEmbeddings", tag: "snippets", summary: "Set the vectors of many snippets of one document",
		description: "All or none: an index that does not exist is an error, and nothing changes. With `Content-Type: " + wire.TypeVector + "` the body is the vectors of all snippets of the document, one after the other, as raw little-endian float32 values: their number must be the document's snippet_count.",
		in:          wire.EmbeddingsInput{}, example: `{"model":"m1","embeddings":[{"index":0,"vector":[0.1,0.2,0.3]},{"index":1,"vector_base64":"zczMPc3MTD6amZk+"}]}`,
		status: 200, out: wire.EmbeddingsResult{}, answer: `{"id":"d1","revision":43,"updated":2}`,
		codes: append([]wire.Code{wire.CodeNotFound, wire.CodeEmbeddingIndex, wire.CodeRevisionMismatch}, documentCodes...)},
	"POST /v1/collections/{collection}/batch": {id: "batch", tag: "bulk", summary: "Apply many mutations, all or none",
		description: fmt.Sprintf("An error names the failing `operation`, and nothing is applied. The operations see each other's effects, in their order. delete_owner, put_collection and delete_collection are of the path's collection and take no `id`; a batch deletes at most %d documents by owner, and `more` says whether some are left.", snippet.MaxOwnerDelete),
		in:          wire.BatchInput{}, example: `{"operations":[{"op":"put_doc","id":"d1","doc":{"content":"A log is replicated."}},{"op":"delete_doc","id":"d2","if_revision":7}]}`,
		status: 200, out: wire.BatchResult{}, answer: `{"index":44,"results":[{"op":"put_doc","id":"d1","status":201,"revision":44},{"op":"delete_doc","id":"d2","status":204,"revision":44}]}`,
		codes: append([]wire.Code{wire.CodeNotFound, wire.CodeAlreadyExists, wire.CodeRevisionMismatch, wire.CodeOwnerConflict, wire.CodeCollectionConflict, wire.CodeSnippetGap, wire.CodeEmbeddingIndex}, documentCodes...)},
	"POST /v1/collections/{collection}/import": {id: "import", tag: "bulk", summary: "Put many documents, as a stream of lines both ways",
		description: "Each line of the body is a document with its `id`, written as PUT does. Each line of the answer is the result of one line, in order; it may come while the body is still being sent, and a client must read it, or the server stops reading. " +
			"A line that is refused does not end the import, unless the node itself is in trouble or stop_on_error is set. An import that ends early answers all lines that were under way, also those behind the one that ended it; they may be applied, and no other line is begun. The last line has `done`. Up to `last_line`, every line is applied or refused for a fault of its own: to resume, send what is behind it again.",
		in: wire.DocumentInput{}, example: `{"id":"d1","content":"A log is replicated."}`, status: 200, out: wire.ImportResult{}, answer: `{"line":1,"id":"d1","status":201,"revision":50}`},
	"GET /v1/cluster/identity": {id: "identity", tag: "cluster", summary: "Who this node is", status: 200, out: wire.Identity{},
		answer: `{"node_id":"n1","cluster_id":"01931c5e-0000-7000-8000-000000000000","raft_addr":"127.0.0.1:7001","http_addr":"http://127.0.0.1:8001","bootstrap_expect":3,"version":"v0.1.0"}`},
	"GET /v1/cluster/status": {id: "status", tag: "cluster", summary: "The cluster as this node sees it", status: 200, out: wire.Status{},
		answer: `{"cluster_id":"01931c5e-0000-7000-8000-000000000000","leader":"n1","term":3,"nodes":[]}`},
	"GET /v1/cluster/members": {id: "listMembers", tag: "cluster", summary: "The members, as this node knows them", status: 200, out: wire.MemberList{},
		answer: `{"items":[` + exampleMember + `]}`},
	"POST /v1/cluster/members": {id: "addMember", tag: "cluster", summary: "Add a node", description: "It begins as a learner and becomes a voter when it has caught up, unless `learner` is set. A member that is there already at the same address stays as it is: 200. At another address it is refused: a node says itself where it is when it starts.",
		in: wire.MemberInput{}, example: `{"id":"n4","raft":"10.0.0.4:7001","http":"http://10.0.0.4:8001"}`, status: 201, also: []int{200}, out: wire.Member{}, answer: exampleMember,
		codes: []wire.Code{wire.CodeInvalidField, wire.CodeMembership}},
	"DELETE /v1/cluster/members/{node}": {id: "removeMember", tag: "cluster", summary: "Remove a node",
		description: "Refused if the voters that would be left, and answer now, were no quorum: without them nothing can be written any more.", status: 204, codes: []wire.Code{wire.CodeNotFound, wire.CodeMembership}},
	"POST /v1/cluster/members/{node}/promote": {id: "promoteMember", tag: "cluster", summary: "Make a learner a voter", status: 204,
		codes: []wire.Code{wire.CodeNotFound, wire.CodeMembership}},
	"POST /v1/cluster/transfer-leader": {id: "transferLeader", tag: "cluster", summary: "Hand the leadership over",
		description: "It answers when the new leader is known. If another node than the one named in `to` wins the election, that is 409 membership_conflict, and the detail says who leads; if nobody is known to lead before the deadline, 504 outcome_unknown.",
		in:          wire.TransferInput{}, example: `{"to":"n2"}`,
		status: 200, out: wire.TransferResult{}, answer: `{"leader":"n2"}`, codes: []wire.Code{wire.CodeInvalidField, wire.CodeNotFound, wire.CodeMembership}},
	"POST /v1/cluster/snapshot": {id: "snapshot", tag: "cluster", summary: "Take a snapshot of this node", status: 200, out: wire.SnapshotResult{}, answer: `{"index":1200,"node":"n1"}`},
	"GET /v1/cluster/consistency": {id: "getConsistency", tag: "cluster", summary: "Compare the states of all nodes",
		description: "At the newest point of the log at which all nodes that answer have marked the hash of their state; nothing is written.",
		status:      200, out: wire.Consistency{}, answer: exampleConsistency},
	"POST /v1/cluster/consistency": {id: "checkConsistency", tag: "cluster", summary: "Compare the states of all nodes, as they are now",
		description: "The leader writes one entry at which all nodes mark the hash of their state, and the answer waits up to 3 seconds for those that answer.",
		status:      200, out: wire.Consistency{}, answer: exampleConsistency},
	"GET /v1/cluster/verification": {id: "getVerification", tag: "cluster", summary: "Show the newest full scan of this node's state", status: 200, out: wire.Verification{}, answer: exampleVerification},
	"POST /v1/cluster/verification": {id: "startVerification", tag: "cluster", summary: "Read the whole state of this node and compute its hash anew",
		description: "In the background: 202. One that runs already goes on and is shown: 200. It reads " + fmt.Sprint(defaultVerifyMiB) + " MiB per second, unless mib_per_second says otherwise; 0 is no bound.",
		status:      202, also: []int{200}, out: wire.Verification{}, answer: exampleVerification},
	"DELETE /v1/cluster/verification": {id: "stopVerification", tag: "cluster", summary: "End the full scan that runs", status: 200, out: wire.Verification{}, answer: exampleVerification},
	"GET /v1/cluster/limits": {id: "getLimits", tag: "cluster", summary: "The rate limits, as this node knows them", status: 200, out: wire.Limits{},
		answer: `{"rate_limits":[{"scope":"collection","name":"notes","writes_per_second":100,"burst":200}]}`},
	"PUT /v1/cluster/limits": {id: "putLimits", tag: "cluster", summary: "Replace the rate limits of the cluster", in: wire.Limits{},
		example: `{"rate_limits":[{"scope":"token","name":"*","writes_per_second":50,"burst":100}]}`, status: 200, out: wire.Limits{},
		answer: `{"rate_limits":[{"scope":"token","name":"*","writes_per_second":50,"burst":100}]}`, codes: []wire.Code{wire.CodeInvalidField}},
	"GET /livez":        {id: "livez", tag: "health", summary: "The process answers", status: 200, out: wire.Ready{}, answer: `{"status":"ok","node":"n1"}`},
	"GET /readyz":       {id: "readyz", tag: "health", summary: "The node can serve", description: "503, with the same shape, while it can't.", status: 200, also: []int{503}, out: wire.Ready{}, answer: `{"status":"ok","node":"n1","role":"leader"}`},
	"GET /metrics":      {id: "metrics", tag: "health", summary: "The metrics, in Prometheus' format", status: 200},
	"GET /openapi.json": {id: "openapi", tag: "health", summary: "This description", status: 200},
}

// documentCodes are the refusals of whatever carries texts and vectors.
var documentCodes = []wire.Code{wire.CodeInvalidField, wire.CodeInvalidVector, wire.CodeDimensionMismatch, wire.CodeLimitExceeded, wire.CodeDocumentTooLarge, wire.CodeWriteConflict}

// codesOf are the codes that the route's way of serving brings with it.
func codesOf(r *route, d operationDoc) []wire.Code {
	codes := append([]wire.Code{wire.CodeInvalidParameter, wire.CodeInvalidJSON, wire.CodeTimeout, wire.CodeInternal}, d.codes...)
	if r.Class != classHealth {
		codes = append(codes, wire.CodeOverloaded)
	}
	if r.Class != classHealth && r.Class != classAdmin || r.mutates() {
		codes = append(codes, wire.CodeNotReady)
	}
	if r.Read != nil {
		codes = append(codes, wire.CodeBehind, wire.CodeTooStale, wire.CodeNoLeader, wire.CodeWrongCluster, wire.CodeDiverged)
	}
	if r.mutates() {
		codes = append(codes, wire.CodeNoLeader, wire.CodeNotLeader, wire.CodeOutcomeUnknown)
	}
	if r.Write != nil {
		codes = append(codes, wire.CodeKeyReused)
	}
	if r.Write != nil && r.Class == classWrite {
		codes = append(codes, wire.CodeRateLimited)
	}
	if len(r.Types) > 0 {
		codes = append(codes, wire.CodeUnsupportedType, wire.CodeBodyTooLarge)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

var pathParameter = regexp.MustCompile(`:(\w+)`)

func openAPIPath(p string) string { return pathParameter.ReplaceAllString(p, "{$1}") }

func key(r *route) string { return r.Method + " " + openAPIPath(r.Path) }

// generate builds the description.
func generate(t *testing.T) []byte {
	t.Helper()
	docs := readComments(t)
	schemas, paths := object{}, object{}
	schemaOf(schemas, docs, reflect.TypeFor[wire.Problem]())
	for i := range routes {
		r := &routes[i]
		d, ok := operationDocs[key(r)]
		if !ok {
			t.Fatalf("the route %s is not described", key(r))
		}
		path := openAPIPath(r.Path)
		if paths[path] == nil {
			paths[path] = object{}
		}
		paths[path].(object)[strings.ToLower(r.Method)] = operation(schemas, docs, r, d)
	}
	codes := object{}
	for _, info := range wire.Codes {
		codes[string(info.Code)] = object{"status": info.Status, "meaning": info.Title, "action": info.Action}
	}
	out, err := json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{"title": "snipdb", "version": "v1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "A Raft-replicated database for snippets: the texts and embeddings that agents store and search. Every route is on every node; writes are passed on to the leader. Every GET route answers HEAD too. Every answer carries X-Snipdb-Index, X-Snipdb-Term, X-Snipdb-Node, X-Snipdb-Cluster and X-Request-Id."},
		"paths":             paths,
		"components":        object{"schemas": schemas, "headers": answerHeaders(), "parameters": allParameters()},
		"x-snipdb-problems": codes,
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func answerHeaders() object {
	text := func(description string) object {
		return object{"description": description, "schema": object{"type": "string"}}
	}
	return object{
		wire.HeaderIndex: text("On a write, its log index; on a read, the applied index that it was read at."), wire.HeaderTerm: text("The Raft term of that index."),
		wire.HeaderNode: text("The node that answered."), wire.HeaderCluster: text("The cluster's id; indices of two clusters must not be compared."),
		wire.HeaderForwardedBy: text("The node that passed the write on to the leader."), wire.HeaderReplayed: text("true: the answer is the one of the first request with this Idempotency-Key."),
		wire.HeaderRequestID: text("The request's id, the client's own if it sent one."), "ETag": text("The revision, in quotes."), "Retry-After": text("Seconds."),
	}
}

func operation(schemas object, docs map[string]string, r *route, d operationDoc) object {
	op := object{"operationId": d.id, "tags": []string{d.tag}, "summary": d.summary, "parameters": parameters(r), "x-snipdb-class": r.Class}
	if d.description != "" {
		op["description"] = d.description
	}
	if len(r.Types) > 0 {
		content := object{}
		for _, media := range r.Types {
			if media == wire.TypeVector {
				content[media] = object{"schema": object{"type": "string", "format": "binary"}}
				continue
			}
			content[media] = object{"schema": schemaOf(schemas, docs, reflect.TypeOf(d.in)), "example": json.RawMessage(d.example)}
		}
		op["requestBody"] = object{"required": !r.OptionalBody, "content": content, "x-snipdb-max-bytes": r.MaxBody}
	}
	// Of the headers that every answer has, only those that a program needs
	// most are repeated at each route; the others are in the components.
	headers := object{}
	for _, name := range []string{wire.HeaderIndex, wire.HeaderTerm, wire.HeaderNode, "ETag"} {
		headers[name] = object{"$ref": "#/components/headers/" + name}
	}
	answers := object{}
	for _, status := range append([]int{d.status}, d.also...) {
		answer := object{"description": fmt.Sprintf("%d", status), "headers": headers}
		if d.out != nil && status != 304 {
			media := wire.TypeJSON
			if r.Stream != nil {
				media = wire.TypeNDJSON
			}
			answer["content"] = object{media: object{"schema": schemaOf(schemas, docs, reflect.TypeOf(d.out)), "example": json.RawMessage(d.answer)}}
		}
		answers[fmt.Sprint(status)] = answer
	}
	byStatus := map[int][]string{}
	for _, code := range codesOf(r, d) {
		status := code.Info().Status
		if r.Creates && code == wire.CodeAlreadyExists {
			status = http.StatusConflict
		}
		byStatus[status] = append(byStatus[status], string(code))
	}
	for status, codes := range byStatus {
		if _, taken := answers[fmt.Sprint(status)]; taken {
			continue
		}
		answers[fmt.Sprint(status)] = object{"description": strings.Join(codes, ", "), "x-snipdb-codes": codes,
			"content": object{wire.TypeProblem: object{"schema": object{"$ref": "#/components/schemas/Problem"}}}}
	}
	if r.mutates() {
		answers["307"] = object{"description": "With redirect=true, at a node that does not lead: Location is the leader's."}
	}
	op["responses"] = answers
	return op
}

// paramDocs describes the query parameters.
var paramDocs = map[string]string{
	wire.ParamTimeout: "The request's deadline, as a Go duration; the same as the header " + wire.HeaderTimeout + ".", wire.ParamRedirect: "true: a node that does not lead answers 307 instead of passing the write on.",
	wire.ParamConsistency: "local (default), bounded, session or linearizable.", wire.ParamMaxStaleness: "With bounded: a Go duration.",
	wire.ParamMinIndex: "With session: an X-Snipdb-Index that the read must include.", wire.ParamClusterID: "Refuse if the node is of another cluster.",
	wire.ParamLimit: fmt.Sprintf("1 to %d, default %d.", snippet.MaxPage, snippet.DefaultPage), wire.ParamCursor: "next_cursor of the page before.",
	wire.ParamOwnerType: "With owner_id: only the documents of that owner.", wire.ParamOwnerID: "With owner_type.", wire.ParamOrder: "id (default), -id, created_at or -created_at.",
	wire.ParamMetadataPrefix + "KEY": "Only documents whose top-level metadata field KEY has this value.", wire.ParamWithEmbeddings: "true or array: vectors as numbers; base64: as base64 of little-endian float32 values.",
	wire.ParamModel: "The model of raw vectors.", wire.ParamStopOnError: "true: the first line that is refused ends the import and is its `last_line`. Lines behind it that are under way are answered, and may be applied; no other line is begun.", "name[]": "Only these metrics.",
	wire.ParamForce: "true: remove the node though the voters that are left and answer are no quorum. Never the last voter.",
	wire.ParamRate:  "How many MiB per second the scan may read, 64 by default; 0: no bound.",
}

// allParameters are the parameters of all routes, by name.
func allParameters() object {
	out := object{}
	for i := range routes {
		for _, p := range describedParameters(&routes[i]) {
			out[componentName(p["name"].(string))] = p
		}
	}
	return out
}

// componentName makes a name that may stand in a reference.
func componentName(name string) string {
	return strings.ReplaceAll(name, "[]", "-list")
}

// parameters refers to the parameters of a route.
func parameters(r *route) []object {
	out := []object{}
	for _, p := range describedParameters(r) {
		out = append(out, object{"$ref": "#/components/parameters/" + componentName(p["name"].(string))})
	}
	return out
}

func describedParameters(r *route) []object {
	out := []object{}
	for _, m := range pathParameter.FindAllStringSubmatch(r.Path, -1) {
		out = append(out, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	names := append(slices.Clone(anyParams), r.Params...)
	headers := []string{wire.HeaderRequestID, wire.HeaderTimeout}
	if r.Read != nil {
		names, headers = append(names, readParams...), append(headers, "If-None-Match")
	}
	if r.mutates() {
		names = append(names, writeParams...)
	}
	if r.Conditional {
		headers = append(headers, "If-Match", "If-None-Match")
	}
	if r.Write != nil {
		headers = append(headers, wire.HeaderIdempotencyKey)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".") {
			name += "KEY"
		}
		out = append(out, object{"name": name, "in": "query", "description": paramDocs[name], "schema": object{"type": "string"}})
	}
	for _, name := range headers {
		out = append(out, object{"name": name, "in": "header", "schema": object{"type": "string"}})
	}
	return out
}

// readComments returns the comments of package wire: "Type" and "Type.Field".
func readComments(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := fs.Glob(os.DirFS("wire"), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	text := func(groups ...*ast.CommentGroup) string {
		for _, g := range groups {
			if s := strings.TrimSpace(g.Text()); s != "" {
				var p comment.Parser
				return strings.TrimSpace(strings.ReplaceAll(string(new(comment.Printer).Text(p.Parse(s))), "\n", " "))
			}
		}
		return ""
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), "wire/"+name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				ts := spec.(*ast.TypeSpec)
				out[ts.Name.Name] = text(ts.Doc, gen.Doc)
				if st, ok := ts.Type.(*ast.StructType); ok {
					for _, f := range st.Fields.List {
						for _, n := range f.Names {
							out[ts.Name.Name+"."+n.Name] = text(f.Doc, f.Comment)
						}
					}
				}
			}
		}
	}
	return out
}

// schemaOf returns the schema of a type, and adds structs to the components.
func schemaOf(schemas object, docs map[string]string, typ reflect.Type) object {
	switch typ {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[json.RawMessage]():
		return object{"type": "object"}
	case reflect.TypeFor[wire.Content]():
		return object{"oneOf": []object{{"type": "string"}, {"type": "array", "items": object{"type": "string"}}}}
	case reflect.TypeFor[wire.Code]():
		names := []string{}
		for _, info := range wire.Codes {
			names = append(names, string(info.Code))
		}
		return object{"type": "string", "enum": names}
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return schemaOf(schemas, docs, typ.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(schemas, docs, typ.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": schemaOf(schemas, docs, typ.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Struct:
	default:
		return object{"type": "string"}
	}
	ref := object{"$ref": "#/components/schemas/" + typ.Name()}
	if schemas[typ.Name()] != nil {
		return ref
	}
	properties, required := object{}, []string{}
	schema := object{"type": "object", "description": docs[typ.Name()], "properties": properties, "additionalProperties": false}
	schemas[typ.Name()] = schema
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		property := schemaOf(schemas, docs, f.Type)
		if text := docs[typ.Name()+"."+f.Name]; text != "" {
			property["description"] = text
		}
		properties[name] = property
		if rest != "omitempty" {
			required = append(required, name)
		}
	}
	if len(required) > 0 {
		schema["required"] = required
	}
	return ref
}

func TestOpenAPIIsWhatTheServerDoes(t *testing.T) {
	got := generate(t)
	if *update {
		if err := os.WriteFile("openapi.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Log("openapi.json was written")
		return
	}
	if !bytes.Equal(got, openAPI) {
		t.Error("openapi.json is not what the routes, the structs of package wire and operationDocs say; read what has changed, then run: go test ./httpapi -run OpenAPI -update")
	}
}

// TestOpenAPIHasEveryRoute walks the router and the file, both ways.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	var file struct {
		Paths map[string]map[string]struct {
			Responses map[string]any `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(openAPI, &file); err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for path, operations := range file.Paths {
		for method, op := range operations {
			described[strings.ToUpper(method)+" "+path] = true
			if len(op.Responses) < 2 {
				t.Errorf("%s %s has %d answers", method, path, len(op.Responses))
			}
		}
	}
	m := newMemory()
	s, err := New(m, m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, r := range s.engine.Routes() {
		if r.Method != http.MethodHead { // described with its GET: see TestTheRouterAddsHeadToEveryGet
			served[r.Method+" "+openAPIPath(r.Path)] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if !described[name] {
			t.Errorf("%s is served and not described", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(described)) {
		if !served[name] {
			t.Errorf("%s is described and not served", name)
		}
	}
	for name := range operationDocs {
		if !served[name] {
			t.Errorf("operationDocs has %s, which is not served", name)
		}
	}
}

// TestOpenAPIExamplesDecode decodes each example of the file into its struct,
// without unknown fields, and each parameter has a description.
func TestOpenAPIExamplesDecode(t *testing.T) {
	for name, d := range operationDocs {
		for _, e := range []struct {
			text string
			into any
		}{{d.example, d.in}, {d.answer, d.out}} {
			if e.into == nil {
				continue
			}
			if err := decodeJSON([]byte(e.text), reflect.New(reflect.TypeOf(e.into)).Interface()); err != nil {
				t.Errorf("%s: example %s: %v", name, e.text, err)
			}
		}
	}
	for i := range routes {
		for _, p := range describedParameters(&routes[i]) {
			if p["in"] == "query" && p["description"] == "" {
				t.Errorf("%s: parameter %v is not described", key(&routes[i]), p["name"])
			}
		}
	}
}

// TestOpenAPIExamplesWork sends the examples of the request bodies and looks
// for a status that is described as a success.
func TestOpenAPIExamplesWork(t *testing.T) {
	n := startNode(t, nil)
	n.transfer = func(to string) error {
		n.setLeader(n.leaderNamed(to))
		return nil
	}
	n.want(t, 201, nil, "PUT", "/v1/collections/notes/docs/d1", `{"content":["A log is replicated.","x"]}`)
	for i := range routes {
		d := operationDocs[key(&routes[i])]
		if d.example == "" || d.id == "transferLeader" || d.id == "batch" {
			continue
		}
		path := strings.NewReplacer(":collection", "notes", ":id", "d1", ":index", "1", ":node", "n1").Replace(routes[i].Path)
		if d.id == "putEmbeddings" {
			n.want(t, 200, nil, "PUT", "/v1/collections/notes/docs/d1/snippets/1", `{"content":"second"}`)
		}
		a := n.do(t, routes[i].Method, path, d.example, "Content-Type", routes[i].Types[0])
		if d.id == "putDocument" && a.status == 409 { // its owner is fixed; d1 has none
			a = n.do(t, routes[i].Method, "/v1/collections/notes/docs/d5", d.example)
		}
		if a.status != d.status && !slices.Contains(d.also, a.status) {
			t.Errorf("%s: status %d: %s", key(&routes[i]), a.status, a.body)
		}
		if d.id == "putDocument" {
			n.want(t, 200, nil, "PUT", "/v1/collections/notes/docs/d1", `{"content":["A log is replicated.","x"]}`)
		}
	}
}
