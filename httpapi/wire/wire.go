// Package wire holds the request and answer structs of the HTTP API, its
// header names and its error codes. The server, the Go client and the CLI
// share it. It is a leaf: standard library only.
package wire

import (
	"encoding/json"
	"time"
)

// The headers of the API.
const (
	HeaderIndex          = "X-Snipdb-Index"        // write: its log index; read: the applied index it was read at
	HeaderTerm           = "X-Snipdb-Term"         // the Raft term of that index
	HeaderNode           = "X-Snipdb-Node"         // the node that answered
	HeaderCluster        = "X-Snipdb-Cluster"      // the cluster's id; indices of two clusters must not be compared
	HeaderForwardedBy    = "X-Snipdb-Forwarded-By" // the follower that passed the write on to the leader
	HeaderRequestID      = "X-Request-Id"
	HeaderTimeout        = "X-Snipdb-Timeout" // the client's deadline for the request, a Go duration
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderReplayed       = "Idempotency-Replayed"
	// HeaderHop marks a request that a follower forwarded: it is not forwarded again.
	HeaderHop = "X-Snipdb-Hop"
)

// Media types.
const (
	TypeJSON    = "application/json"
	TypeNDJSON  = "application/x-ndjson"
	TypeProblem = "application/problem+json"
	// TypeVector is a vector as raw little-endian float32 values.
	TypeVector = "application/vnd.snipdb.float32"
)

// Owner is whom a document belongs to.
type Owner struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// CollectionInput is the body of PUT /v1/collections/{c}. An absent field is
// left as it is, or takes its default on creation.
type CollectionInput struct {
	Dimension *int    `json:"dimension,omitempty"`
	Metric    *string `json:"metric,omitempty"`
	Analyzer  *string `json:"analyzer,omitempty"`
}

// Collection is the answer for a collection.
type Collection struct {
	Name      string    `json:"name"`
	Dimension int       `json:"dimension"`
	Metric    string    `json:"metric"`
	Analyzer  string    `json:"analyzer"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Revision  uint64    `json:"revision"`
	Documents uint64    `json:"documents"`
	Snippets  uint64    `json:"snippets"`
	Embedded  uint64    `json:"embedded"`
}

// CollectionList is a page of collections.
type CollectionList struct {
	Items      []Collection `json:"items"`
	NextCursor string       `json:"next_cursor,omitempty"`
}

// DocumentInput is the body of PUT and POST of a document. Content is the
// shorthand: one text, or a list of texts, in place of Snippets.
type DocumentInput struct {
	// ID is for POST …/docs and for import lines only.
	ID       string          `json:"id,omitempty"`
	Owner    *Owner          `json:"owner,omitempty"`
	Title    string          `json:"title,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Snippets []SnippetInput  `json:"snippets,omitempty"`
	Content  Content         `json:"content,omitempty"`
}

// SnippetInput is one snippet of a request. At most one of Vector and
// VectorBase64 may be set.
type SnippetInput struct {
	Content      string `json:"content"`
	Vector       Floats `json:"vector,omitempty"`
	VectorBase64 string `json:"vector_base64,omitempty"`
	Model        string `json:"model,omitempty"`
}

// DocumentPatch is the body of PATCH of a document. Metadata is an RFC 7396
// merge patch.
type DocumentPatch struct {
	Title    *string         `json:"title,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// SnippetPatch is the body of PATCH of a snippet.
type SnippetPatch struct {
	Content      *string `json:"content,omitempty"`
	Vector       Floats  `json:"vector,omitempty"`
	VectorBase64 string  `json:"vector_base64,omitempty"`
	Model        *string `json:"model,omitempty"`
}

// Document is the answer for a document. Snippets is absent in listings and
// in the answers of writes.
type Document struct {
	Collection   string          `json:"collection"`
	ID           string          `json:"id"`
	Owner        *Owner          `json:"owner,omitempty"`
	Title        string          `json:"title"`
	Metadata     json.RawMessage `json:"metadata"`
	CreatedAt    time.Time       `json:"created_at"`
	UpdatedAt    time.Time       `json:"updated_at"`
	Revision     uint64          `json:"revision"`
	SnippetCount int             `json:"snippet_count"`
	Snippets     []Snippet       `json:"snippets,omitempty"`
}

// Snippet is the answer for a snippet.
type Snippet struct {
	Index       int    `json:"index"`
	Content     string `json:"content"`
	ContentHash string `json:"content_hash"` // SHA-256, hexadecimal
	Embedded    bool   `json:"embedded"`
	Model       string `json:"model,omitempty"`
	Revision    uint64 `json:"revision"`
	// Vector or VectorBase64 is set when the reader asked for it.
	Vector       Floats `json:"vector,omitempty"`
	VectorBase64 string `json:"vector_base64,omitempty"`
}

// SnippetList is a page of the snippets of one document.
type SnippetList struct {
	Items      []Snippet `json:"items"`
	NextCursor string    `json:"next_cursor,omitempty"`
}

// DocumentList is a page of documents without their snippets.
type DocumentList struct {
	Items      []Document `json:"items"`
	NextCursor string     `json:"next_cursor,omitempty"`
}

// EmbeddingInput is the vector of one snippet.
type EmbeddingInput struct {
	Index        int    `json:"index"`
	Vector       Floats `json:"vector,omitempty"`
	VectorBase64 string `json:"vector_base64,omitempty"`
}

// EmbeddingsInput is the body of PUT …/embeddings.
type EmbeddingsInput struct {
	Model      string           `json:"model"`
	Embeddings []EmbeddingInput `json:"embeddings"`
}

// EmbeddingsResult is the answer of PUT …/embeddings.
type EmbeddingsResult struct {
	ID       string `json:"id"`
	Revision uint64 `json:"revision"`
	Updated  int    `json:"updated"`
}

// DeleteOwnerResult is the answer of DELETE …/docs?owner_type=&owner_id=.
// More says that documents are left: call again.
type DeleteOwnerResult struct {
	Deleted  int    `json:"deleted"`
	More     bool   `json:"more"`
	Revision uint64 `json:"revision"`
}

// The operations of a batch.
const (
	OpPutDoc        = "put_doc"
	OpPatchDoc      = "patch_doc"
	OpDeleteDoc     = "delete_doc"
	OpPutSnippet    = "put_snippet"
	OpPatchSnippet  = "patch_snippet"
	OpDeleteSnippet = "delete_snippet"
	OpPutEmbeddings = "put_embeddings"

	// These are of the collection, and name no document.
	OpDeleteOwner      = "delete_owner"
	OpPutCollection    = "put_collection"
	OpDeleteCollection = "delete_collection"
)

// Operation is one mutation of a batch. Which fields it takes depends on Op.
type Operation struct {
	Op string `json:"op"`
	// ID is the document's; delete_owner, put_collection and delete_collection
	// take none.
	ID         string           `json:"id,omitempty"`
	Index      *int             `json:"index,omitempty"`
	IfRevision uint64           `json:"if_revision,omitempty"`
	IfAbsent   bool             `json:"if_absent,omitempty"`
	Doc        *DocumentInput   `json:"doc,omitempty"`
	Patch      *DocumentPatch   `json:"patch,omitempty"`
	Snippet    *SnippetInput    `json:"snippet,omitempty"`
	SnipPatch  *SnippetPatch    `json:"snippet_patch,omitempty"`
	Model      string           `json:"model,omitempty"`
	Embeddings []EmbeddingInput `json:"embeddings,omitempty"`
	// Owner is whose documents delete_owner deletes. It takes no condition.
	Owner *Owner `json:"owner,omitempty"`
	// Collection is for put_collection; absent, all settings stay, or take
	// their defaults on creation.
	Collection *CollectionInput `json:"collection,omitempty"`
}

// BatchInput is the body of POST …/batch.
type BatchInput struct {
	Operations []Operation `json:"operations"`
}

// OperationResult is what one operation of a batch did.
type OperationResult struct {
	Op       string `json:"op"`
	ID       string `json:"id,omitempty"`
	Status   int    `json:"status"`
	Revision uint64 `json:"revision,omitempty"`
	// Updated counts embeddings that were set, and documents that delete_owner
	// deleted.
	Updated int `json:"updated,omitempty"`
	// More says that delete_owner left documents of the owner: the number that
	// one batch deletes is bounded.
	More bool `json:"more,omitempty"`
}

// BatchResult is the answer of a batch that was applied.
type BatchResult struct {
	Index   uint64            `json:"index"`
	Results []OperationResult `json:"results"`
}

// ImportResult is one line of the answer of POST …/import, in the order of
// the lines of the request. A line with Status 2xx is durable. The last line of
// the answer has Done set: LastLine is the last line of the request up to
// which every line is applied or refused for a fault of its own. Who resumes
// sends what is behind it again. Lines behind it may be answered as well, and
// applied, and Applied and Failed count them: a line that met a trouble of the
// node (5xx, rate_limited, write_conflict) is not covered, nor what lies behind
// it; with stop_on_error, a refused line is the last one covered. A client that
// lost the connection resumes by the same rule, with the answers it saw.
type ImportResult struct {
	Line     int    `json:"line,omitempty"`
	ID       string `json:"id,omitempty"`
	Status   int    `json:"status,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	Code     string `json:"code,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Outcome  string `json:"outcome,omitempty"`
	Done     bool   `json:"done,omitempty"`
	LastLine int    `json:"last_line,omitempty"`
	Applied  int    `json:"applied,omitempty"`
	Failed   int    `json:"failed,omitempty"`
}

// RateLimit bounds the writes of one collection or of one token. A batch counts
// for each of its operations: it passes when one write would, and later ones
// wait for what it overdraws. The lines of an import wait for their turn, and
// leave half of the burst (rounded down: a burst of 1 has none) to other writes.
type RateLimit struct {
	Scope           string  `json:"scope"` // "collection" or "token"
	Name            string  `json:"name"`  // "*": each one for itself
	WritesPerSecond float64 `json:"writes_per_second"`
	// Burst is how many writes may come at once after a pause. An import needs
	// one of at least a hundredth of writes_per_second to reach that rate.
	Burst int `json:"burst"`
}

// Limits is the body and the answer of /v1/cluster/limits.
type Limits struct {
	RateLimits []RateLimit `json:"rate_limits"`
}
