package httpapi

import (
	"net/http"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// route is one line of the table of routes. Exactly one of Read, Write, Admin,
// Plain and Stream is set; it says how the request is served.
type route struct {
	Method, Path string
	// Class is what the request competes with.
	Class class
	// Types are the media types that the body may have; none: no body.
	Types []string
	// MaxBody bounds the body, in bytes.
	MaxBody int64
	// OptionalBody allows the body to be absent.
	OptionalBody bool
	// Conditional routes take If-Match and If-None-Match on a write.
	Conditional bool
	// Creates is set where what exists already is a conflict in itself, and not
	// a condition of the client's that failed: 409 in place of 412.
	Creates bool
	// Params are the query parameters beside those that all routes of the
	// same way of serving take. A name that ends in "." is a prefix.
	Params []string
	// LaterParams are those of Params that the route did not take from the
	// beginning. Where one is absent, the request's hash is as it was without it.
	LaterParams []string

	// Read is served from a view of this node's state.
	Read func(c *call, v View) (*reply, error)
	// Write becomes a command; a node that does not lead passes it on.
	Write func(c *call, body []byte) (*write, error)
	// Admin changes the membership; a node that does not lead passes it on.
	Admin func(c *call, body []byte) (*reply, error)
	// Plain is served by this node, whatever its role.
	Plain func(c *call) (*reply, error)
	// Stream is the import: it answers by itself, and is passed on as a stream.
	Stream func(c *call) error
}

// mayOnlyDelete says whether a request of the route may be one that only frees
// space. What is in a batch is known when it is parsed.
func (r *route) mayOnlyDelete() bool {
	return r.Method == http.MethodDelete || r.Path == pathBatch
}

// mutates says whether a failure of the route has an outcome.
func (r *route) mutates() bool { return r.Write != nil || r.Admin != nil || r.Stream != nil }

const (
	pathCollection = "/v1/collections/:collection"
	pathDocs       = pathCollection + "/docs"
	pathDoc        = pathDocs + "/:id"
	pathSnippets   = pathDoc + "/snippets"
	pathSnippet    = pathSnippets + "/:index"
	pathBatch      = pathCollection + "/batch"
	pathCluster    = "/v1/cluster"
	pathMember     = pathCluster + "/members/:node"

	pathVerification = pathCluster + "/verification"
)

var (
	jsonOnly     = []string{wire.TypeJSON}
	jsonOrVector = []string{wire.TypeJSON, wire.TypeVector}
)

// routes is every route of the API. openapi.json describes the same ones.
var routes = []route{
	{Method: http.MethodGet, Path: "/v1/collections", Class: classRead, Read: listCollections,
		Params: []string{wire.ParamLimit, wire.ParamCursor}},
	{Method: http.MethodGet, Path: pathCollection, Class: classRead, Read: getCollection},
	{Method: http.MethodPut, Path: pathCollection, Class: classWrite, Types: jsonOnly, MaxBody: maxAdminBody, OptionalBody: true,
		Conditional: true, Write: putCollection},
	{Method: http.MethodDelete, Path: pathCollection, Class: classWrite, Conditional: true, Write: deleteCollection},

	{Method: http.MethodGet, Path: pathDocs, Class: classRead, Read: listDocuments,
		Params: []string{wire.ParamOwnerType, wire.ParamOwnerID, wire.ParamLimit, wire.ParamCursor, wire.ParamOrder, wire.ParamMetadataPrefix}},
	{Method: http.MethodPost, Path: pathDocs, Class: classWrite, Types: jsonOnly, MaxBody: maxCommandBody, Creates: true, Write: createDocument},
	{Method: http.MethodDelete, Path: pathDocs, Class: classWrite, Write: deleteOwner,
		Params: []string{wire.ParamOwnerType, wire.ParamOwnerID}},
	{Method: http.MethodGet, Path: pathDoc, Class: classRead, Read: getDocument, Params: []string{wire.ParamWithEmbeddings}},
	{Method: http.MethodPut, Path: pathDoc, Class: classWrite, Types: jsonOnly, MaxBody: maxCommandBody, Conditional: true, Write: putDocument},
	{Method: http.MethodPatch, Path: pathDoc, Class: classWrite, Types: jsonOnly, MaxBody: maxCommandBody, Conditional: true, Write: patchDocument},
	{Method: http.MethodDelete, Path: pathDoc, Class: classWrite, Conditional: true, Write: deleteDocument},

	{Method: http.MethodGet, Path: pathSnippets, Class: classRead, Read: listSnippets,
		Params: []string{wire.ParamWithEmbeddings, wire.ParamLimit, wire.ParamCursor}},
	{Method: http.MethodGet, Path: pathSnippet, Class: classRead, Read: getSnippet, Params: []string{wire.ParamWithEmbeddings}},
	{Method: http.MethodPut, Path: pathSnippet, Class: classWrite, Types: jsonOrVector, MaxBody: maxCommandBody, Conditional: true,
		Params: []string{wire.ParamModel}, Write: putSnippet},
	{Method: http.MethodPatch, Path: pathSnippet, Class: classWrite, Types: jsonOnly, MaxBody: maxCommandBody, Conditional: true, Write: patchSnippet},
	{Method: http.MethodDelete, Path: pathSnippet, Class: classWrite, Conditional: true, Write: deleteSnippet},
	{Method: http.MethodPut, Path: pathDoc + "/embeddings", Class: classWrite, Types: jsonOrVector, MaxBody: maxCommandBody, Conditional: true,
		Params: []string{wire.ParamModel}, LaterParams: []string{wire.ParamModel}, Write: putEmbeddings},
	{Method: http.MethodPost, Path: pathBatch, Class: classWrite, Types: jsonOnly, MaxBody: maxCommandBody, Write: postBatch},
	{Method: http.MethodPost, Path: pathCollection + "/import", Class: classBulk, Types: []string{wire.TypeNDJSON}, MaxBody: maxImportLine,
		Params: []string{wire.ParamStopOnError}, Stream: postImport},

	{Method: http.MethodGet, Path: pathCluster + "/identity", Class: classAdmin, Plain: getIdentity},
	{Method: http.MethodGet, Path: pathCluster + "/status", Class: classAdmin, Plain: getStatus},
	{Method: http.MethodGet, Path: pathCluster + "/members", Class: classAdmin, Plain: getMembers},
	{Method: http.MethodPost, Path: pathCluster + "/members", Class: classAdmin, Types: jsonOnly, MaxBody: maxAdminBody, Admin: addMember},
	{Method: http.MethodDelete, Path: pathMember, Class: classAdmin, Params: []string{wire.ParamForce}, Admin: removeMember},
	{Method: http.MethodPost, Path: pathMember + "/promote", Class: classAdmin, Admin: promoteMember},
	{Method: http.MethodPost, Path: pathCluster + "/transfer-leader", Class: classAdmin, Types: jsonOnly, MaxBody: maxAdminBody, OptionalBody: true,
		Admin: transferLeader},
	{Method: http.MethodPost, Path: pathCluster + "/snapshot", Class: classAdmin, Plain: takeSnapshot},
	{Method: http.MethodGet, Path: pathCluster + "/consistency", Class: classAdmin, Plain: getConsistency},
	{Method: http.MethodPost, Path: pathCluster + "/consistency", Class: classAdmin, Plain: checkConsistency},
	{Method: http.MethodGet, Path: pathVerification, Class: classAdmin, Plain: getVerification},
	{Method: http.MethodPost, Path: pathVerification, Class: classAdmin, Params: []string{wire.ParamRate}, Plain: startVerification},
	{Method: http.MethodDelete, Path: pathVerification, Class: classAdmin, Plain: stopVerification},
	{Method: http.MethodGet, Path: pathCluster + "/limits", Class: classAdmin, Read: getLimits},
	{Method: http.MethodPut, Path: pathCluster + "/limits", Class: classAdmin, Types: jsonOnly, MaxBody: maxAdminBody, Write: putLimits},

	{Method: http.MethodGet, Path: "/livez", Class: classHealth, Plain: getLive},
	{Method: http.MethodGet, Path: "/readyz", Class: classHealth, Plain: getReady},
	{Method: http.MethodGet, Path: "/metrics", Class: classHealth, Plain: getMetrics, Params: []string{"name[]"}},
	{Method: http.MethodGet, Path: "/openapi.json", Class: classHealth, Plain: getOpenAPI},
}

// The answers for requests that match no route. Their path in the metrics is
// a constant, so that a scanner does not fill them.
var (
	noRoute = route{Path: "none", Class: classHealth, Plain: func(c *call) (*reply, error) {
		return nil, badRequest(wire.CodeRouteNotFound, "", "there is no route %.200q; see /openapi.json", c.g.Request.URL.Path)
	}}
	noMethod = route{Path: "none", Class: classHealth, Plain: func(c *call) (*reply, error) {
		return nil, badRequest(wire.CodeMethodNotAllowed, "", "the route takes %s", c.g.Writer.Header().Get("Allow"))
	}}
)
