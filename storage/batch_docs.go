package storage

import (
	"fmt"

	"github.com/snipdb/snipdb/storage/snippet"
)

// Document returns a document, or nil.
func (b *Batch) Document(coll uint32, id string) (*snippet.Document, error) {
	return readDocument(b, coll, id)
}

// PutDocument writes a document's record, and its listing rows if created is
// true. Id, owner and ordinal must not change afterwards.
func (b *Batch) PutDocument(coll uint32, d *snippet.Document, created bool) error {
	if err := b.usable(); err != nil {
		return err
	}
	b.documentRecord.set(d)
	row, err := marshalRecord(b.rowBuf[:0], "document", &b.documentRecord)
	if err != nil {
		return err
	}
	b.rowBuf = row
	b.put(cfDocs, appendDocumentKey(b.key(), coll, d.ID), row)
	if !created {
		return nil
	}
	b.putString(cfListing, appendOrdinalKey(b.key(), coll, d.Ordinal), d.ID)
	if !d.Owner.IsZero() {
		b.put(cfListing, appendOwnerIDKey(b.key(), coll, d.Owner, d.ID), nil)
		b.putString(cfListing, appendOwnerOrdinalKey(b.key(), coll, d.Owner, d.Ordinal), d.ID)
	}
	return nil
}

// maxPointDeletes is up to how many snippets a document's rows are deleted
// one by one. A range deletion is one row, whatever it covers, but every read
// must look at all range deletions nearby, so they are for large documents.
const maxPointDeletes = 256

// DeleteDocument deletes a document's record, its listing rows and all its
// snippets' rows. d must be as it is stored.
func (b *Batch) DeleteDocument(coll uint32, d *snippet.Document) error {
	if err := b.usable(); err != nil {
		return err
	}
	b.delete(cfDocs, appendDocumentKey(b.key(), coll, d.ID))
	b.delete(cfListing, appendOrdinalKey(b.key(), coll, d.Ordinal))
	if !d.Owner.IsZero() {
		b.delete(cfListing, appendOwnerIDKey(b.key(), coll, d.Owner, d.ID))
		b.delete(cfListing, appendOwnerOrdinalKey(b.key(), coll, d.Owner, d.Ordinal))
	}
	if d.SnippetCount <= maxPointDeletes {
		for i := range d.SnippetCount {
			b.deleteSnippetRows(coll, d, i)
		}
		return nil
	}
	lo, hi := appendSnippetKey(nil, coll, d, 0), appendSnippetKey(nil, coll, d, d.SnippetCount)
	for _, cf := range [...]int{cfSnippetMeta, cfText, cfVectors} {
		b.deleteRange(cf, lo, hi)
	}
	return nil
}

// SnippetMeta returns a snippet without its text and vector, or nil.
func (b *Batch) SnippetMeta(coll uint32, d *snippet.Document, index int) (*SnippetMeta, error) {
	return readSnippetMeta(b, coll, d, index)
}

// Snippet returns a snippet, or nil.
func (b *Batch) Snippet(coll uint32, d *snippet.Document, index int, withVector bool) (*snippet.Snippet, error) {
	return readSnippet(b, coll, d, index, withVector)
}

// PutSnippet writes a whole snippet. Without a vector the vector row is
// deleted, and the snippet is stored as not embedded.
func (b *Batch) PutSnippet(coll uint32, d *snippet.Document, s *snippet.Snippet) error {
	if err := b.usable(); err != nil {
		return err
	}
	meta := *metaOf(s)
	meta.Embedded = s.Vector != nil
	if err := b.putSnippetMeta(coll, d, s.Index, &meta); err != nil {
		return err
	}
	b.putString(cfText, appendSnippetKey(b.key(), coll, d, s.Index), s.Content)
	if s.Vector != nil {
		b.put(cfVectors, appendSnippetKey(b.key(), coll, d, s.Index), s.Vector)
	} else {
		b.delete(cfVectors, appendSnippetKey(b.key(), coll, d, s.Index))
	}
	return nil
}

// PutSnippetText writes a snippet's text and meta and leaves its vector row
// as it is: the caller says with s.Embedded whether there is one.
func (b *Batch) PutSnippetText(coll uint32, d *snippet.Document, s *snippet.Snippet) error {
	if err := b.usable(); err != nil {
		return err
	}
	if err := b.putSnippetMeta(coll, d, s.Index, metaOf(s)); err != nil {
		return err
	}
	b.putString(cfText, appendSnippetKey(b.key(), coll, d, s.Index), s.Content)
	return nil
}

// PutEmbedding writes a snippet's vector and meta; its text is not touched.
// The snippet must exist.
func (b *Batch) PutEmbedding(coll uint32, d *snippet.Document, index int, model string, v snippet.Vector, revision uint64) error {
	meta, err := b.SnippetMeta(coll, d, index)
	if err != nil {
		return err
	}
	if meta == nil {
		return fmt.Errorf("storage: put embedding: document %q has no snippet %d", d.ID, index)
	}
	meta.Model, meta.Embedded, meta.Revision = model, true, revision
	if err := b.putSnippetMeta(coll, d, index, meta); err != nil {
		return err
	}
	b.put(cfVectors, appendSnippetKey(b.key(), coll, d, index), v)
	return nil
}

func (b *Batch) putSnippetMeta(coll uint32, d *snippet.Document, index int, m *SnippetMeta) error {
	b.snippetRecord.set(m)
	row, err := marshalRecord(b.rowBuf[:0], "snippet", &b.snippetRecord)
	if err != nil {
		return err
	}
	b.rowBuf = row
	b.put(cfSnippetMeta, appendSnippetKey(b.key(), coll, d, index), row)
	return nil
}

// DeleteSnippet deletes the rows of one snippet. It renumbers nothing.
func (b *Batch) DeleteSnippet(coll uint32, d *snippet.Document, index int) error {
	if err := b.usable(); err != nil {
		return err
	}
	b.deleteSnippetRows(coll, d, index)
	return nil
}

func (b *Batch) deleteSnippetRows(coll uint32, d *snippet.Document, index int) {
	for _, cf := range [...]int{cfSnippetMeta, cfText, cfVectors} {
		b.delete(cf, appendSnippetKey(b.key(), coll, d, index))
	}
}

// OwnerDocuments returns up to limit ids of an owner's documents, in order of
// their ids, and whether there are more.
func (b *Batch) OwnerDocuments(coll uint32, o snippet.Owner, limit int) (ids []string, more bool, err error) {
	lo := appendOwner(appendListingPrefix(nil, coll, listOwnerID), o)
	err = b.scanMerged(cfListing, lo, prefixEnd(lo), func(key, _ []byte) (bool, error) {
		if len(ids) == limit {
			more = true
			return false, nil
		}
		ids = append(ids, string(key[len(lo):]))
		return true, nil
	})
	return ids, more, err
}
