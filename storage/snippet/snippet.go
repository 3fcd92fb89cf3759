// Package snippet holds the nouns of snipdb: collections, documents, owners,
// snippets and vectors, with their limits and their validation. It is a leaf:
// it imports the standard library only, so the client, the CLI and the HTTP
// tests never link RocksDB.
package snippet

import (
	"crypto/sha256"
)

// Metric says how two vectors of a collection are compared.
type Metric string

// The metrics. Cosine is the default; vectors of a cosine collection are
// scaled to unit length before they enter the log.
const (
	Cosine    Metric = "cosine"
	Dot       Metric = "dot"
	Euclidean Metric = "euclidean"
)

// Analyzer names the text analysis of a collection.
type Analyzer string

// The analyzers. Text search is built on them; until then the name is stored
// and validated only.
const (
	AnalyzerStandard Analyzer = "standard"
	AnalyzerEnglish  Analyzer = "english"
	AnalyzerSimple   Analyzer = "simple"
)

// Collection is a namespace of documents with its own vector dimension,
// metric and analyzer.
type Collection struct {
	Name string
	// ID is the collection's number in storage keys. It comes from the log and
	// is never used again after the collection is deleted, so a collection that
	// is deleted and created again shares no key with the old one.
	ID uint32
	// Dimension is the length of every vector; 0 until the first one is stored.
	Dimension int
	Metric    Metric
	Analyzer  Analyzer
	// CreatedMs and UpdatedMs are Unix milliseconds, given by the leader.
	CreatedMs, UpdatedMs int64
	// Revision is the Raft index of the last change of the collection itself,
	// not of its documents.
	Revision uint64
	// Documents, Snippets and Embedded count what the collection holds.
	Documents, Snippets, Embedded uint64
}

// Owner is whom a document belongs to (Julep: a user or an agent). The zero
// Owner means "none". It is fixed when the document is created.
type Owner struct {
	Type, ID string
}

// IsZero says whether the document has no owner.
func (o Owner) IsZero() bool { return o.Type == "" && o.ID == "" }

// Document is a document without its snippets.
type Document struct {
	ID    string
	Owner Owner
	// Ordinal is the document's number within its collection, in order of
	// creation. It comes from the log.
	Ordinal uint64
	Title   string
	// Metadata is a JSON object in canonical form (see CanonicalMetadata), or
	// nil, which means {}.
	Metadata []byte
	// CreatedMs and UpdatedMs are Unix milliseconds, given by the leader.
	CreatedMs, UpdatedMs int64
	// Revision is the Raft index of the last mutation; it is the ETag.
	Revision     uint64
	SnippetCount int
	// EmbeddedCount is how many of the snippets have an embedding.
	EmbeddedCount int
	// SnippetsSum is the sum over the meta rows of the snippets. The storage
	// keeps it, and nobody else writes it.
	SnippetsSum Sum
}

// Snippet is one piece of a document.
type Snippet struct {
	// Index runs from 0 to SnippetCount-1.
	Index       int
	Content     string
	ContentHash [32]byte
	// Embedded says whether the snippet has a vector. A snippet whose content
	// changes loses it in the same mutation.
	Embedded bool
	Model    string
	// Vector is nil if the snippet is not embedded, or if the reader did not
	// ask for vectors.
	Vector Vector
	// Revision is the Raft index of the last mutation of this snippet.
	Revision uint64
}

// HashContent returns the content hash that snippets carry: SHA-256.
func HashContent(content string) [32]byte { return sha256.Sum256([]byte(content)) }

// Order is the order of a listing.
type Order string

// The orders of a listing of documents; "-" is descending.
const (
	ByID          Order = "id"
	ByIDDesc      Order = "-id"
	ByCreated     Order = "created_at"
	ByCreatedDesc Order = "-created_at"
)

// ListQuery selects a page of documents of one collection.
type ListQuery struct {
	// Owner, when not zero, keeps the documents of that owner only.
	Owner Owner
	// Metadata keeps documents whose top-level metadata field has that value.
	// A string field matches its text; any other matches its JSON form.
	Metadata map[string]string
	Order    Order
	// Limit is the largest number of documents in the page, 1 to MaxPage.
	Limit int
	// Cursor is the NextCursor of the page before, or empty.
	Cursor string
}

// ListPage is a page of documents.
type ListPage struct {
	Documents []Document
	// NextCursor is empty on the last page. With a metadata filter a page may
	// hold fewer than Limit documents, even none, and still have a next page,
	// because one request reads at most MaxScan records.
	NextCursor string
}
