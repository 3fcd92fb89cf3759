package storage

import (
	"fmt"

	"github.com/cespare/xxhash/v2"

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
	if key := appendDocumentKey(b.key(), coll, d.ID); created {
		putNew(b, cfDocs, key, row)
	} else {
		b.put(cfDocs, key, row)
		return b.usable()
	}
	putNew(b, cfListing, appendOrdinalKey(b.key(), coll, d.Ordinal), d.ID)
	if !d.Owner.IsZero() {
		putNew(b, cfListing, appendOwnerIDKey(b.key(), coll, d.Owner, d.ID), "")
		putNew(b, cfListing, appendOwnerOrdinalKey(b.key(), coll, d.Owner, d.Ordinal), d.ID)
	}
	return b.usable()
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
	b.deleteKnown(cfListing, appendOrdinalKey(b.key(), coll, d.Ordinal), d.ID)
	if !d.Owner.IsZero() {
		b.deleteKnown(cfListing, appendOwnerIDKey(b.key(), coll, d.Owner, d.ID), "")
		b.deleteKnown(cfListing, appendOwnerOrdinalKey(b.key(), coll, d.Owner, d.Ordinal), d.ID)
	}
	if !b.acct.off {
		b.change(cfSnippetMeta, appendSnippetKey(b.key(), coll, d, 0), snippet.Sum{}, d.SnippetsSum)
	}
	if d.SnippetCount <= maxPointDeletes {
		for i := range d.SnippetCount {
			b.deleteSnippetRows(coll, d, i)
		}
		return b.usable()
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
//
// created says that there is no snippet at that index yet.
//
// Like all changes of snippets it changes d.SnippetsSum, so the document must
// be written after it (PutDocument), and d must be the one that is written.
func (b *Batch) PutSnippet(coll uint32, d *snippet.Document, s *snippet.Snippet, created bool) error {
	if err := b.usable(); err != nil {
		return err
	}
	meta := *metaOf(s)
	if meta.Embedded = s.Vector != nil; meta.Embedded {
		meta.VectorDigest = xxhash.Sum64(s.Vector)
	}
	if err := b.putSnippetMeta(coll, d, s.Index, &meta, created); err != nil {
		return err
	}
	putNew(b, cfText, appendSnippetKey(b.key(), coll, d, s.Index), s.Content)
	switch {
	case s.Vector != nil:
		b.put(cfVectors, appendSnippetKey(b.key(), coll, d, s.Index), s.Vector)
	case !created:
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
	meta := metaOf(s)
	if s.Embedded {
		old, err := b.SnippetMeta(coll, d, s.Index)
		if err != nil {
			return err
		}
		if old == nil || !old.Embedded {
			return fmt.Errorf("storage: put text: snippet %d of document %q has no vector to keep", s.Index, d.ID)
		}
		meta.VectorDigest = old.VectorDigest
	}
	if err := b.putSnippetMeta(coll, d, s.Index, meta, false); err != nil {
		return err
	}
	putNew(b, cfText, appendSnippetKey(b.key(), coll, d, s.Index), s.Content)
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
	meta.Model, meta.Embedded, meta.Revision, meta.VectorDigest = model, true, revision, xxhash.Sum64(v)
	if err := b.putSnippetMeta(coll, d, index, meta, false); err != nil {
		return err
	}
	b.put(cfVectors, appendSnippetKey(b.key(), coll, d, index), v)
	return nil
}

func (b *Batch) putSnippetMeta(coll uint32, d *snippet.Document, index int, m *SnippetMeta, created bool) error {
	b.snippetRecord.set(m)
	row, err := marshalRecord(b.rowBuf[:0], "snippet", &b.snippetRecord)
	if err != nil {
		return err
	}
	b.rowBuf = row
	before := b.acct.total
	if key := appendSnippetKey(b.key(), coll, d, index); created {
		putNew(b, cfSnippetMeta, key, row)
	} else {
		b.put(cfSnippetMeta, key, row)
	}
	d.SnippetsSum = d.SnippetsSum.Add(b.acct.total.Sub(before))
	return b.usable()
}

// DeleteSnippet deletes the rows of one snippet. It renumbers nothing. See
// PutSnippet for d.
func (b *Batch) DeleteSnippet(coll uint32, d *snippet.Document, index int) error {
	if err := b.usable(); err != nil {
		return err
	}
	if !b.acct.off {
		key := appendSnippetKey(b.key(), coll, d, index)
		old := b.oldSum(cfSnippetMeta, key)
		b.change(cfSnippetMeta, key, snippet.Sum{}, old)
		d.SnippetsSum = d.SnippetsSum.Sub(old)
	}
	b.deleteSnippetRows(coll, d, index)
	return b.usable()
}

// deleteSnippetRows deletes rows that are taken out of the state hash already.
func (b *Batch) deleteSnippetRows(coll uint32, d *snippet.Document, index int) {
	for _, cf := range [...]int{cfSnippetMeta, cfText, cfVectors} {
		b.deleteCounted(cf, appendSnippetKey(b.key(), coll, d, index))
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
