package fsm

import (
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/snippet"
)

// document claims and reads the document that a mutation needs, and checks
// the condition on it.
func (c *change) document(id string) (*snippet.Document, error) {
	if err := snippet.ValidateID("id", id); err != nil {
		return nil, invalid(err)
	}
	if err := c.existing(); err != nil {
		return nil, err
	}
	if err := c.claimDocument(c.name, id); err != nil {
		return nil, err
	}
	d, err := c.b.Document(c.coll.ID, id)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, refuse(command.Outcome_DOCUMENT_NOT_FOUND, "document %q does not exist in collection %q", id, c.name)
	}
	return d, c.check(d.Revision)
}

// store writes a document that this mutation changed, with its collection's
// counters, and makes the result.
func (c *change) store(d *snippet.Document, outcome command.Outcome) (*command.Result, error) {
	d.Revision = c.at.Index
	d.UpdatedMs = max(d.UpdatedMs, c.proposedMs)
	if err := c.b.PutDocument(c.coll.ID, d, outcome == command.Outcome_CREATED); err != nil {
		return nil, err
	}
	if err := c.b.PutCollection(c.coll); err != nil {
		return nil, err
	}
	return &command.Result{Outcome: outcome, Document: c.documentResult(d)}, nil
}

// putDocument creates or replaces a whole document.
func (c *change) putDocument(op *command.Mutation_PutDocument) (*command.Result, error) {
	in := op.PutDocument
	if err := c.validateDocument(in); err != nil {
		return nil, err
	}
	if err := c.claimDocument(c.name, in.GetId()); err != nil {
		return nil, err
	}
	var d *snippet.Document
	var err error
	if c.coll != nil {
		if d, err = c.b.Document(c.coll.ID, in.GetId()); err != nil {
			return nil, err
		}
	}
	revision := uint64(0)
	if d != nil {
		revision = d.Revision
	}
	if err := c.check(revision); err != nil {
		return nil, err
	}
	if c.coll == nil {
		if err := c.createCollection(); err != nil {
			return nil, err
		}
	}
	outcome := command.Outcome_UPDATED
	if d == nil {
		outcome = command.Outcome_CREATED
		if d, err = c.newDocument(in); err != nil {
			return nil, err
		}
	} else if owner := ownerOf(in.GetOwner()); !owner.IsZero() && owner != d.Owner {
		return nil, refuse(command.Outcome_OWNER_CONFLICT, "the owner of document %q was fixed when it was created", d.ID)
	}
	d.Title, d.Metadata = in.GetTitle(), in.GetMetadata()
	if err := c.replaceSnippets(d, in); err != nil {
		return nil, err
	}
	return c.store(d, outcome)
}

// validateDocument refuses what the storage's keys and the limits can't hold.
// The proposer has checked all of it, with better messages; here it protects the
// state from a proposer that did not.
func (c *change) validateDocument(in *command.PutDocument) error {
	if err := snippet.ValidateID("id", in.GetId()); err != nil {
		return invalid(err)
	}
	if err := snippet.ValidateOwner("owner", ownerOf(in.GetOwner())); err != nil {
		return invalid(err)
	}
	if err := snippet.ValidateTitle("title", in.GetTitle()); err != nil {
		return invalid(err)
	}
	if len(in.GetMetadata()) > snippet.MaxMetadataBytes {
		return refuse(command.Outcome_INVALID, "metadata may have at most %d bytes, it has %d", snippet.MaxMetadataBytes, len(in.GetMetadata()))
	}
	if n := len(in.GetSnippets()); n > c.f.rules.maxSnippets {
		return refuse(command.Outcome_LIMIT_EXCEEDED, "a document has at most %d snippets, this one has %d", c.f.rules.maxSnippets, n)
	}
	return nil
}

// newDocument makes a document; its number comes from the log.
func (c *change) newDocument(in *command.PutDocument) (*snippet.Document, error) {
	ordinal, err := c.b.NewOrdinal(c.coll)
	if err != nil {
		return nil, err
	}
	c.coll.Documents++
	return &snippet.Document{
		ID: in.GetId(), Owner: ownerOf(in.GetOwner()), Ordinal: ordinal,
		CreatedMs: c.proposedMs, UpdatedMs: c.proposedMs,
	}, nil
}

// replaceSnippets makes the document's snippets those of the command. What
// stays the same is not written again.
func (c *change) replaceSnippets(d *snippet.Document, in *command.PutDocument) error {
	count := d.SnippetCount
	for i, s := range in.GetSnippets() {
		var old *storage.SnippetMeta
		if i < count {
			var err error
			if old, err = c.snippetMeta(d, i); err != nil {
				return err
			}
		}
		if err := c.checkVector(s.GetVector(), in.GetMetric()); err != nil {
			return err
		}
		if err := c.storeSnippet(d, i, s, old); err != nil {
			return err
		}
	}
	for i := len(in.GetSnippets()); i < count; i++ {
		if err := c.dropSnippet(d, i); err != nil {
			return err
		}
	}
	return nil
}

// patchDocument changes title and metadata.
func (c *change) patchDocument(op *command.Mutation_PatchDocument) (*command.Result, error) {
	in := op.PatchDocument
	d, err := c.document(in.GetId())
	if err != nil {
		return nil, err
	}
	if in.Title != nil {
		if err := snippet.ValidateTitle("title", in.GetTitle()); err != nil {
			return nil, invalid(err)
		}
		d.Title = in.GetTitle()
	}
	if len(in.GetMetadataPatch()) > 0 {
		// The error's own text comes from encoding/json and may differ between
		// releases of Go; a result must not.
		if d.Metadata, err = snippet.MergeMetadata(d.Metadata, in.GetMetadataPatch()); err != nil {
			return nil, refuse(command.Outcome_INVALID, "the metadata patch does not give metadata within the limits of %d bytes and %d levels",
				snippet.MaxMetadataBytes, snippet.MaxMetadataDepth)
		}
	}
	return c.store(d, command.Outcome_UPDATED)
}

// deleteDocument deletes a document with its snippets.
func (c *change) deleteDocument(op *command.Mutation_DeleteDocument) (*command.Result, error) {
	d, err := c.document(op.DeleteDocument.GetId())
	if err != nil {
		return nil, err
	}
	if err := c.remove(d); err != nil {
		return nil, err
	}
	if err := c.b.PutCollection(c.coll); err != nil {
		return nil, err
	}
	d.Revision = c.at.Index
	return &command.Result{Outcome: command.Outcome_DELETED, Document: c.documentResult(d)}, nil
}

// remove deletes the document's rows and takes it out of the counters; the
// caller writes the collection.
func (c *change) remove(d *snippet.Document) error {
	c.coll.Documents--
	c.coll.Snippets -= uint64(d.SnippetCount)
	c.coll.Embedded -= uint64(d.EmbeddedCount)
	return c.b.DeleteDocument(c.coll.ID, d)
}

// documentResult is the document as a result shows it.
func (c *change) documentResult(d *snippet.Document) *command.ResultDocument {
	r := &command.ResultDocument{
		Collection: c.name, Id: d.ID, Title: d.Title, Metadata: d.Metadata,
		CreatedMs: d.CreatedMs, UpdatedMs: d.UpdatedMs, Revision: d.Revision, SnippetCount: uint32(d.SnippetCount),
	}
	if !d.Owner.IsZero() {
		r.Owner = &command.Owner{Type: d.Owner.Type, Id: d.Owner.ID}
	}
	return r
}

// ownerOf translates an owner; none is the zero Owner.
func ownerOf(o *command.Owner) snippet.Owner {
	return snippet.Owner{Type: o.GetType(), ID: o.GetId()}
}
