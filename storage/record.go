package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/storage/snippet"
)

// formatVersion is the version of the key layout and the records. A database
// with another one is refused (ErrFormat): this release can't know what its
// rows mean. It grows with every change that is not a new field of a record.
const formatVersion = 2

// Position is a place in the Raft log. Every commit carries the position of
// the last entry that it contains.
type Position struct{ Index, Term uint64 }

// String is for logs and errors.
func (p Position) String() string { return fmt.Sprintf("index %d term %d", p.Index, p.Term) }

// positionBytes is the length of a position row.
const positionBytes = 16

func appendPosition(dst []byte, p Position) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, p.Index), p.Term)
}

func parsePosition(b []byte) (Position, error) {
	switch len(b) {
	case 0: // a database without a commit
		return Position{}, nil
	case positionBytes:
		return Position{Index: binary.BigEndian.Uint64(b), Term: binary.BigEndian.Uint64(b[8:])}, nil
	}
	return Position{}, fmt.Errorf("storage: read position: %d bytes: %w", len(b), ErrCorrupt)
}

// parseCounter reads a row that is one number; an absent row is 0.
func parseCounter(what string, b []byte) (uint64, error) {
	switch len(b) {
	case 0:
		return 0, nil
	case 8:
		return binary.BigEndian.Uint64(b), nil
	}
	return 0, fmt.Errorf("storage: read %s: %d bytes: %w", what, len(b), ErrCorrupt)
}

// marshalOptions make the encoding the same on every node that runs the same
// release; the records have no maps and no unknown fields.
var marshalOptions = proto.MarshalOptions{Deterministic: true}

func marshalRecord(dst []byte, what string, m proto.Message) ([]byte, error) {
	b, err := marshalOptions.MarshalAppend(dst, m)
	if err != nil {
		return nil, fmt.Errorf("storage: encode %s: %w", what, err)
	}
	return b, nil
}

func unmarshalRecord(what string, b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("storage: decode %s: %w: %v", what, ErrCorrupt, err)
	}
	return nil
}

func (r *CollectionRecord) set(c *snippet.Collection) {
	r.Id, r.Dimension, r.Metric, r.Analyzer = c.ID, uint32(c.Dimension), string(c.Metric), string(c.Analyzer)
	r.CreatedMs, r.UpdatedMs, r.Revision = c.CreatedMs, c.UpdatedMs, c.Revision
	r.Documents, r.Snippets, r.Embedded = c.Documents, c.Snippets, c.Embedded
}

func decodeCollection(name string, b []byte) (*snippet.Collection, error) {
	var r CollectionRecord
	if err := unmarshalRecord("collection", b, &r); err != nil {
		return nil, err
	}
	return &snippet.Collection{
		Name: name, ID: r.Id, Dimension: int(r.Dimension), Metric: snippet.Metric(r.Metric), Analyzer: snippet.Analyzer(r.Analyzer),
		CreatedMs: r.CreatedMs, UpdatedMs: r.UpdatedMs, Revision: r.Revision,
		Documents: r.Documents, Snippets: r.Snippets, Embedded: r.Embedded,
	}, nil
}

func (r *DocumentRecord) set(d *snippet.Document) {
	r.OwnerType, r.OwnerId, r.Ordinal, r.Title, r.Metadata = d.Owner.Type, d.Owner.ID, d.Ordinal, d.Title, d.Metadata
	r.CreatedMs, r.UpdatedMs, r.Revision = d.CreatedMs, d.UpdatedMs, d.Revision
	r.SnippetCount, r.EmbeddedCount = uint32(d.SnippetCount), uint32(d.EmbeddedCount)
	if r.SnippetsSum = r.SnippetsSum[:0]; !d.SnippetsSum.IsZero() {
		r.SnippetsSum = d.SnippetsSum.Append(r.SnippetsSum)
	}
}

func decodeDocument(id string, b []byte) (*snippet.Document, error) {
	var r DocumentRecord
	if err := unmarshalRecord("document", b, &r); err != nil {
		return nil, err
	}
	d := &snippet.Document{
		ID: id, Owner: snippet.Owner{Type: r.OwnerType, ID: r.OwnerId}, Ordinal: r.Ordinal, Title: r.Title,
		CreatedMs: r.CreatedMs, UpdatedMs: r.UpdatedMs, Revision: r.Revision,
		SnippetCount: int(r.SnippetCount), EmbeddedCount: int(r.EmbeddedCount),
	}
	if len(r.Metadata) > 0 {
		d.Metadata = r.Metadata // proto.Unmarshal has copied it
	}
	var err error
	if d.SnippetsSum, err = snippet.ParseSum(r.SnippetsSum); err != nil {
		return nil, fmt.Errorf("storage: decode document: %w: %v", ErrCorrupt, err)
	}
	return d, nil
}

// SnippetMeta is a snippet without its text and its vector.
type SnippetMeta struct {
	ContentHash [32]byte
	// ContentLength is the length of the text in bytes.
	ContentLength int
	Model         string
	Embedded      bool
	Revision      uint64
	// TextDigest and VectorDigest are of the rows in the other two families;
	// VectorDigest is 0 without a vector.
	TextDigest, VectorDigest uint64
}

func (r *SnippetRecord) set(m *SnippetMeta) {
	r.ContentHash, r.ContentLength, r.Model = m.ContentHash[:], uint32(m.ContentLength), m.Model
	r.Embedded, r.Revision = m.Embedded, m.Revision
	r.TextDigest, r.VectorDigest = m.TextDigest, m.VectorDigest
}

func decodeSnippetMeta(b []byte) (*SnippetMeta, error) {
	var r SnippetRecord
	if err := unmarshalRecord("snippet", b, &r); err != nil {
		return nil, err
	}
	m := &SnippetMeta{ContentLength: int(r.ContentLength), Model: r.Model, Embedded: r.Embedded, Revision: r.Revision,
		TextDigest: r.TextDigest, VectorDigest: r.VectorDigest}
	if len(r.ContentHash) != len(m.ContentHash) {
		return nil, fmt.Errorf("storage: decode snippet: hash of %d bytes: %w", len(r.ContentHash), ErrCorrupt)
	}
	copy(m.ContentHash[:], r.ContentHash)
	return m, nil
}

// metaOf returns the meta of a snippet, but for the digest of its vector.
func metaOf(s *snippet.Snippet) *SnippetMeta {
	return &SnippetMeta{ContentHash: s.ContentHash, ContentLength: len(s.Content), Model: s.Model, Embedded: s.Embedded, Revision: s.Revision,
		TextDigest: xxhash.Sum64String(s.Content)}
}

// joinSnippet puts a snippet together from its rows and checks that they
// belong together. text and vector are copied.
func joinSnippet(index int, m *SnippetMeta, text, vector []byte, withVector bool) (*snippet.Snippet, error) {
	if text == nil || len(text) != m.ContentLength {
		return nil, fmt.Errorf("storage: read snippet %d: the text has %d bytes, not %d: %w", index, len(text), m.ContentLength, ErrCorrupt)
	}
	s := &snippet.Snippet{Index: index, Content: string(text), ContentHash: m.ContentHash, Embedded: m.Embedded, Model: m.Model, Revision: m.Revision}
	if withVector && m.Embedded {
		if vector == nil {
			return nil, fmt.Errorf("storage: read snippet %d: it has no vector row: %w", index, ErrCorrupt)
		}
		s.Vector = bytes.Clone(vector)
	}
	return s, nil
}

// KV is a row of the system rows.
type KV struct {
	Key   string
	Value []byte
}
