package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// path joins the parts to a path of the API, each escaped.
func path(parts ...string) string {
	p := "/v1"
	for _, part := range parts {
		if part == "." || part == ".." {
			// PathEscape leaves dots alone, and a path may be cleaned of these on its way.
			p += "/" + strings.ReplaceAll(part, ".", "%2E")
			continue
		}
		p += "/" + url.PathEscape(part)
	}
	return p
}

func docPath(coll, id string) string { return path("collections", coll, "docs", id) }

func snippetPath(coll, id string, index int) string {
	return path("collections", coll, "docs", id, "snippets", strconv.Itoa(index))
}

// PutDocument creates the document, or replaces it whole.
func (c *Client) PutDocument(ctx context.Context, coll, id string, in wire.DocumentInput, opts ...WriteOption) (*wire.Document, Meta, error) {
	in.ID = ""
	return write[wire.Document](ctx, c, http.MethodPut, docPath(coll, id), c.compactDocument(in), opts)
}

// CreateDocument creates a document. If in has no id, the node makes one; the
// idempotency key keeps a repeated attempt from making a second document. If it
// has one that exists, that is an error: see IsAlreadyExists.
func (c *Client) CreateDocument(ctx context.Context, coll string, in wire.DocumentInput, opts ...WriteOption) (*wire.Document, Meta, error) {
	return write[wire.Document](ctx, c, http.MethodPost, path("collections", coll, "docs"), c.compactDocument(in), opts)
}

// GetDocument returns the document with its snippets.
func (c *Client) GetDocument(ctx context.Context, coll, id string, opts ...ReadOption) (*wire.Document, Meta, error) {
	return read[wire.Document](ctx, c, docPath(coll, id), nil, opts)
}

// ListQuery selects a page of documents.
type ListQuery struct {
	// Owner keeps the documents of that owner only; nil for all.
	Owner *wire.Owner
	// Metadata keeps the documents whose top-level fields have these values.
	Metadata map[string]string
	// Order is "id", "-id", "created_at" or "-created_at"; empty is "id".
	Order string
	// Limit is the size of the page, 0 for the node's default.
	Limit int
	// Cursor is the NextCursor of the page before.
	Cursor string
}

func (q ListQuery) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Owner != nil {
		set(wire.ParamOwnerType, q.Owner.Type)
		set(wire.ParamOwnerID, q.Owner.ID)
	}
	for name, value := range q.Metadata {
		v.Set(wire.ParamMetadataPrefix+name, value)
	}
	set(wire.ParamOrder, q.Order)
	set(wire.ParamCursor, q.Cursor)
	if q.Limit > 0 {
		set(wire.ParamLimit, strconv.Itoa(q.Limit))
	}
	return v
}

// ListDocuments returns a page of documents without their snippets.
func (c *Client) ListDocuments(ctx context.Context, coll string, q ListQuery, opts ...ReadOption) (*wire.DocumentList, Meta, error) {
	return read[wire.DocumentList](ctx, c, path("collections", coll, "docs"), q.values(), opts)
}

// PatchDocument changes the title, or merges into the metadata (RFC 7396).
func (c *Client) PatchDocument(ctx context.Context, coll, id string, in wire.DocumentPatch, opts ...WriteOption) (*wire.Document, Meta, error) {
	return write[wire.Document](ctx, c, http.MethodPatch, docPath(coll, id), in, opts)
}

// DeleteDocument deletes the document and its snippets. Meta.Index is the
// index of the deletion.
func (c *Client) DeleteDocument(ctx context.Context, coll, id string, opts ...WriteOption) (Meta, error) {
	_, meta, err := write[json.RawMessage](ctx, c, http.MethodDelete, docPath(coll, id), nil, opts)
	return meta, err
}

// DeleteOwner deletes documents of an owner, a bounded number at once: repeat
// it while the result says More.
func (c *Client) DeleteOwner(ctx context.Context, coll string, owner wire.Owner, opts ...WriteOption) (*wire.DeleteOwnerResult, Meta, error) {
	q := url.Values{wire.ParamOwnerType: {owner.Type}, wire.ParamOwnerID: {owner.ID}}
	return writeQuery[wire.DeleteOwnerResult](ctx, c, http.MethodDelete, path("collections", coll, "docs"), q, nil, opts)
}

// GetSnippet returns one snippet.
func (c *Client) GetSnippet(ctx context.Context, coll, id string, index int, opts ...ReadOption) (*wire.Snippet, Meta, error) {
	return read[wire.Snippet](ctx, c, snippetPath(coll, id, index), nil, opts)
}

// ListSnippets returns a page of a document's snippets. limit 0 is the node's
// default, cursor the NextCursor of the page before.
func (c *Client) ListSnippets(ctx context.Context, coll, id string, limit int, cursor string, opts ...ReadOption) (*wire.SnippetList, Meta, error) {
	q := ListQuery{Limit: limit, Cursor: cursor}.values()
	return read[wire.SnippetList](ctx, c, path("collections", coll, "docs", id, "snippets"), q, opts)
}

// PutSnippet replaces a snippet, or appends one if index is the document's
// snippet count. Meta.Index is the document's new revision.
func (c *Client) PutSnippet(ctx context.Context, coll, id string, index int, in wire.SnippetInput, opts ...WriteOption) (*wire.Snippet, Meta, error) {
	c.compactVector(&in.Vector, &in.VectorBase64)
	return write[wire.Snippet](ctx, c, http.MethodPut, snippetPath(coll, id, index), in, opts)
}

// PutVector sets the vector of one snippet and leaves its text alone. It is sent
// as raw bytes. For many snippets of a document use PutEmbeddings or PutVectors.
func (c *Client) PutVector(ctx context.Context, coll, id string, index int, model string, vector []float32, opts ...WriteOption) (*wire.Snippet, Meta, error) {
	return writeQuery[wire.Snippet](ctx, c, http.MethodPut, snippetPath(coll, id, index), modelQuery(model), rawVector(littleEndian(vector)), opts)
}

func modelQuery(model string) url.Values {
	q := url.Values{}
	if model != "" {
		q.Set(wire.ParamModel, model)
	}
	return q
}

// PatchSnippet changes parts of a snippet. New content takes the embedding
// away, unless the patch brings one.
func (c *Client) PatchSnippet(ctx context.Context, coll, id string, index int, in wire.SnippetPatch, opts ...WriteOption) (*wire.Snippet, Meta, error) {
	c.compactVector(&in.Vector, &in.VectorBase64)
	return write[wire.Snippet](ctx, c, http.MethodPatch, snippetPath(coll, id, index), in, opts)
}

// DeleteSnippet deletes a snippet; those behind it move up by one.
func (c *Client) DeleteSnippet(ctx context.Context, coll, id string, index int, opts ...WriteOption) (Meta, error) {
	_, meta, err := write[json.RawMessage](ctx, c, http.MethodDelete, snippetPath(coll, id, index), nil, opts)
	return meta, err
}

// PutEmbeddings sets the vectors of many snippets of a document: all of them,
// or none.
func (c *Client) PutEmbeddings(ctx context.Context, coll, id string, in wire.EmbeddingsInput, opts ...WriteOption) (*wire.EmbeddingsResult, Meta, error) {
	in.Embeddings = c.compactEmbeddings(in.Embeddings)
	return write[wire.EmbeddingsResult](ctx, c, http.MethodPut, path("collections", coll, "docs", id, "embeddings"), in, opts)
}

// PutVectors sets the vectors of all snippets of a document, in their order: all
// of them, or none. It is PutEmbeddings as raw bytes, a quarter less than base64 and
// nothing to parse. There must be as many vectors as the document has snippets,
// all of the same length. Where others may write the document in between, give
// IfMatch: a vector belongs to the text that it was made of.
func (c *Client) PutVectors(ctx context.Context, coll, id, model string, vectors [][]float32, opts ...WriteOption) (*wire.EmbeddingsResult, Meta, error) {
	if len(vectors) == 0 {
		return nil, Meta{}, errors.New("client: there are no vectors to put")
	}
	raw := make(rawVector, 0, 4*len(vectors)*len(vectors[0]))
	for i, v := range vectors {
		if len(v) != len(vectors[0]) || len(v) == 0 {
			return nil, Meta{}, fmt.Errorf("client: vector %d has %d values, vector 0 has %d", i, len(v), len(vectors[0]))
		}
		raw = append(raw, littleEndian(v)...)
	}
	return writeQuery[wire.EmbeddingsResult](ctx, c, http.MethodPut, path("collections", coll, "docs", id, "embeddings"), modelQuery(model), raw, opts)
}

// Batch applies the operations in order: all of them, or none. A failed one is
// named by Error.Problem.Operation.
func (c *Client) Batch(ctx context.Context, coll string, ops []wire.Operation, opts ...WriteOption) (*wire.BatchResult, Meta, error) {
	in := wire.BatchInput{Operations: make([]wire.Operation, len(ops))}
	for i, op := range ops {
		in.Operations[i] = c.compactOperation(op)
	}
	return write[wire.BatchResult](ctx, c, http.MethodPost, path("collections", coll, "batch"), in, opts)
}

// PutCollection creates the collection, or changes its settings.
func (c *Client) PutCollection(ctx context.Context, coll string, in wire.CollectionInput, opts ...WriteOption) (*wire.Collection, Meta, error) {
	return write[wire.Collection](ctx, c, http.MethodPut, path("collections", coll), in, opts)
}

// GetCollection returns the collection's settings and counters.
func (c *Client) GetCollection(ctx context.Context, coll string, opts ...ReadOption) (*wire.Collection, Meta, error) {
	return read[wire.Collection](ctx, c, path("collections", coll), nil, opts)
}

// ListCollections returns a page of collections. limit 0 is the node's default.
func (c *Client) ListCollections(ctx context.Context, limit int, cursor string, opts ...ReadOption) (*wire.CollectionList, Meta, error) {
	return read[wire.CollectionList](ctx, c, path("collections"), ListQuery{Limit: limit, Cursor: cursor}.values(), opts)
}

// DeleteCollection deletes the collection with all its documents.
func (c *Client) DeleteCollection(ctx context.Context, coll string, opts ...WriteOption) (Meta, error) {
	_, meta, err := write[json.RawMessage](ctx, c, http.MethodDelete, path("collections", coll), nil, opts)
	return meta, err
}
