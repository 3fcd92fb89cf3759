package client

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// compactVector turns numbers into base64, unless the caller wants numbers. A
// vector with both forms set is left alone, for the node to refuse.
func (c *Client) compactVector(numbers *wire.Floats, base64 *string) {
	if c.core.opts.VectorsAsNumbers || len(*numbers) == 0 || *base64 != "" {
		return
	}
	*numbers, *base64 = nil, wire.EncodeBase64(littleEndian(*numbers))
}

// littleEndian is the vector as the API's bytes.
func littleEndian(numbers []float32) []byte {
	raw := make([]byte, 4*len(numbers))
	for i, x := range numbers {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
	}
	return raw
}

// compactDocument does it for all vectors of a document. Here and below, what
// the caller passed is copied where it is changed.
func (c *Client) compactDocument(in wire.DocumentInput) wire.DocumentInput {
	if c.core.opts.VectorsAsNumbers {
		return in
	}
	snippets := make([]wire.SnippetInput, len(in.Snippets))
	for i, s := range in.Snippets {
		c.compactVector(&s.Vector, &s.VectorBase64)
		snippets[i] = s
	}
	if len(snippets) > 0 {
		in.Snippets = snippets
	}
	return in
}

func (c *Client) compactEmbeddings(in []wire.EmbeddingInput) []wire.EmbeddingInput {
	out := make([]wire.EmbeddingInput, len(in))
	for i, e := range in {
		c.compactVector(&e.Vector, &e.VectorBase64)
		out[i] = e
	}
	return out
}

func (c *Client) compactOperation(op wire.Operation) wire.Operation {
	if op.Doc != nil {
		doc := c.compactDocument(*op.Doc)
		op.Doc = &doc
	}
	if op.Snippet != nil {
		s := *op.Snippet
		c.compactVector(&s.Vector, &s.VectorBase64)
		op.Snippet = &s
	}
	if op.SnipPatch != nil {
		p := *op.SnipPatch
		c.compactVector(&p.Vector, &p.VectorBase64)
		op.SnipPatch = &p
	}
	if op.Embeddings != nil {
		op.Embeddings = c.compactEmbeddings(op.Embeddings)
	}
	return op
}

// SnippetVector returns the vector of a snippet that was read WithEmbeddings,
// in whichever form it came. It is nil if the answer holds none.
func SnippetVector(s wire.Snippet) ([]float32, error) {
	if s.VectorBase64 == "" {
		return s.Vector, nil
	}
	raw, err := wire.DecodeBase64(s.VectorBase64)
	if err != nil {
		return nil, err
	}
	if len(raw)%4 != 0 {
		return nil, errors.New("client: the vector's length in bytes is not a multiple of 4")
	}
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out, nil
}
