package wire

// Problem is an error answer (RFC 9457). Code is stable: programs branch on it.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   Code   `json:"code"`
	// Detail says what is wrong and what to do.
	Detail string `json:"detail"`
	// Outcome is set on writes: "not_applied" or "unknown".
	Outcome   string `json:"outcome,omitempty"`
	RequestID string `json:"request_id"`
	// Field is the JSON path of the input that is wrong, if one is.
	Field string `json:"field,omitempty"`
	// Reason is why a node refuses work: an overload reason, or "no_leader".
	Reason string `json:"reason,omitempty"`
	// Operation is the number of the failing operation of a batch, from 0.
	Operation *int `json:"operation,omitempty"`
	// CurrentRevision is what If-Match was compared with; absent if the document is
	// absent, or if an earlier operation of the same batch had changed it.
	CurrentRevision uint64 `json:"current_revision,omitempty"`
	// Leader is the base URL of the leader's API, if it is known and matters.
	Leader string `json:"leader,omitempty"`
}

// Code is the stable name of an error.
type Code string

// The codes. Each has one HTTP status, but for already_exists: it is 412 where
// the client's If-None-Match: * failed, and 409 where a POST creates.
const (
	CodeInvalidJSON        Code = "invalid_json"
	CodeInvalidField       Code = "invalid_field"
	CodeInvalidParameter   Code = "invalid_parameter"
	CodeInvalidVector      Code = "invalid_vector"
	CodeDimensionMismatch  Code = "dimension_mismatch"
	CodeBodyTooLarge       Code = "body_too_large"
	CodeDocumentTooLarge   Code = "document_too_large"
	CodeUnsupportedType    Code = "unsupported_media_type"
	CodeNotFound           Code = "not_found"
	CodeRouteNotFound      Code = "route_not_found"
	CodeMethodNotAllowed   Code = "method_not_allowed"
	CodeAlreadyExists      Code = "already_exists"
	CodeRevisionMismatch   Code = "revision_mismatch"
	CodeOwnerConflict      Code = "owner_conflict"
	CodeCollectionConflict Code = "collection_conflict"
	CodeWriteConflict      Code = "write_conflict"
	CodeLimitExceeded      Code = "limit_exceeded"
	CodeSnippetGap         Code = "snippet_gap"
	CodeEmbeddingIndex     Code = "embedding_index"
	CodeKeyReused          Code = "idempotency_key_reused"
	CodeWrongCluster       Code = "wrong_cluster"
	CodeNotLeader          Code = "not_leader"
	CodeNoLeader           Code = "no_leader"
	CodeNotReady           Code = "not_ready"
	CodeBehind             Code = "behind"
	CodeTooStale           Code = "too_stale"
	CodeOverloaded         Code = "overloaded"
	CodeRateLimited        Code = "rate_limited"
	CodeTimeout            Code = "timeout"
	CodeOutcomeUnknown     Code = "outcome_unknown"
	CodeMembership         Code = "membership_conflict"
	CodeDiverged           Code = "diverged"
	CodeInternal           Code = "internal"
)

// CodeInfo is what a code means, and what a client should do. Status is that of
// nearly every answer with the code; the answer's own is the one that counts.
type CodeInfo struct {
	Code   Code
	Status int
	Title  string
	Action string
}

// Codes lists every code of the API.
var Codes = []CodeInfo{
	{CodeInvalidJSON, 400, "The body is not the JSON that this route takes", "Correct the request."},
	{CodeInvalidParameter, 400, "A parameter of the path, the query or a header is wrong", "Correct the request."},
	{CodeInvalidField, 422, "A field has a value that can't be stored", "Correct the field that the answer names."},
	{CodeInvalidVector, 422, "A vector is empty, zero, or holds NaN or infinity", "Correct the vector."},
	{CodeDimensionMismatch, 422, "A vector's length is not the collection's dimension", "Use the model that the collection was made for, or another collection."},
	{CodeSnippetGap, 422, "The snippet's index is beyond the end of the document", "Append at the index snippet_count."},
	{CodeEmbeddingIndex, 422, "An embedding names a snippet that does not exist", "Read the document again; nothing was changed."},
	{CodeKeyReused, 422, "The idempotency key was used with another request", "Use a new key for a new request."},
	{CodeLimitExceeded, 422, "The write would exceed a limit of the data model", "Split the document or delete first."},
	{CodeBodyTooLarge, 413, "The body is larger than this route takes", "Send less at once."},
	{CodeDocumentTooLarge, 413, "The write does not fit into one log entry", "Write the text first, then the embeddings in several requests; or split the document."},
	{CodeUnsupportedType, 415, "The body's Content-Type is not one that this route takes", "Send application/json."},
	{CodeNotFound, 404, "There is no such collection, document or snippet", "Check the name."},
	{CodeRouteNotFound, 404, "There is no such route", "See /openapi.json."},
	{CodeMethodNotAllowed, 405, "The route does not take this method", "See the Allow header."},
	{CodeAlreadyExists, 412, "It exists already", "Read it, or write without the condition; to create a document, choose another id."},
	{CodeRevisionMismatch, 412, "If-Match failed, another write came first", "Read it again and repeat the change."},
	{CodeOwnerConflict, 409, "A document's owner is fixed when it is created", "Delete the document, or leave the owner out."},
	{CodeCollectionConflict, 409, "Dimension and metric can't change while vectors are stored", "Make another collection."},
	{CodeWriteConflict, 409, "Another write changed the same thing at the same moment", "Repeat the request."},
	{CodeWrongCluster, 409, "The session's index is of another cluster", "Begin a new session."},
	{CodeMembership, 409, "The change of the membership is refused", "See the detail."},
	{CodeRateLimited, 429, "The client is over its own limit", "Wait for Retry-After, then repeat."},
	{CodeNotLeader, 503, "This node is not the leader", "Repeat at the leader that the answer names."},
	{CodeNoLeader, 503, "The cluster has no leader now", "Wait for Retry-After, then repeat."},
	{CodeNotReady, 503, "This node is starting, restoring or stopping", "Repeat, better at another node."},
	{CodeBehind, 503, "This node has not applied the index yet", "Repeat, or read from another node."},
	{CodeTooStale, 503, "This node's state is older than the read allows", "Repeat, or read from another node."},
	{CodeOverloaded, 503, "This node takes no more of this work now", "Wait for Retry-After, then repeat."},
	{CodeDiverged, 503, "This node's state differs from the cluster's", "Ask another node, for writes too; the operator must empty this one's directory and let it join again."},
	{CodeTimeout, 504, "The deadline passed before the request was done", "Repeat with a longer deadline."},
	{CodeOutcomeUnknown, 504, "The write was proposed, its outcome is not known", "Repeat with the same Idempotency-Key."},
	{CodeInternal, 500, "The node failed in a way it does not explain", "See the node's log for the request id."},
}

// TypePrefix begins every Problem's type.
const TypePrefix = "https://snipdb.dev/errors/"

// Info returns what the code means; an unknown code is described as internal.
func (c Code) Info() CodeInfo {
	for _, info := range Codes {
		if info.Code == c {
			return info
		}
	}
	return Codes[len(Codes)-1]
}
