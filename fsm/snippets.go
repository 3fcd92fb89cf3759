package fsm

import (
	"fmt"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/snippet"
)

// snippetMeta reads the meta row of a snippet that must exist. Each mutation
// of snippets begins with it, so this is where their number is bounded.
func (c *change) snippetMeta(d *snippet.Document, index int) (*storage.SnippetMeta, error) {
	if c.spent.visited++; c.spent.visited > c.f.rules.maxVisited {
		return nil, overspent(c.spent.visited-c.before.visited > c.f.rules.maxVisited,
			"the command changes or moves more than %d snippets: split it", c.f.rules.maxVisited)
	}
	m, err := c.b.SnippetMeta(c.coll.ID, d, index)
	if err == nil && m == nil {
		err = fmt.Errorf("fsm: F10 violated: document %q of collection %q has %d snippets, but none at %d", d.ID, c.name, d.SnippetCount, index)
	}
	return m, err
}

// snippet reads a snippet that must exist.
func (c *change) snippet(d *snippet.Document, index int, withVector bool) (*snippet.Snippet, error) {
	s, err := c.b.Snippet(c.coll.ID, d, index, withVector)
	if err == nil && s == nil {
		err = fmt.Errorf("fsm: F10 violated: document %q of collection %q has %d snippets, but no text at %d", d.ID, c.name, d.SnippetCount, index)
	}
	return s, err
}

// checkVector refuses a vector that the collection can't take; the empty one
// is none. The first vector that a collection stores fixes its dimension.
func (c *change) checkVector(vector []byte, metric string) error {
	if len(vector) == 0 {
		return nil
	}
	if len(vector)%4 != 0 {
		return refuse(command.Outcome_INVALID, "a vector has 4 bytes for each value, this one has %d bytes", len(vector))
	}
	// The proposer scaled the vectors for the metric that it saw. If the
	// collection was made anew since, they are of the wrong length.
	if metric != string(c.coll.Metric) {
		return refuse(command.Outcome_METRIC_CONFLICT, "the vectors were prepared for metric %q, the collection's is now %q: retry", metric, c.coll.Metric)
	}
	dimension := snippet.Vector(vector).Dimension()
	if c.coll.Dimension == 0 {
		if err := snippet.ValidateDimension("vector dimension", dimension); err != nil {
			return invalid(err)
		}
		c.coll.Dimension = dimension
	}
	if dimension != c.coll.Dimension {
		return refuse(command.Outcome_DIMENSION_MISMATCH, "collection %q holds vectors of %d values, this one has %d", c.name, c.coll.Dimension, dimension)
	}
	return nil
}

// validateSnippet refuses what can't be stored.
func validateSnippet(in *command.SnippetInput) error {
	if err := snippet.ValidateContent("content", in.GetContent()); err != nil {
		return invalid(err)
	}
	if err := snippet.ValidateModel("model", in.GetModel()); err != nil {
		return invalid(err)
	}
	if n := len(in.GetContentHash()); n != 32 {
		return refuse(command.Outcome_INVALID, "a content hash has 32 bytes, this one has %d", n)
	}
	return nil
}

// storeSnippet makes `in` the snippet at index; old is what is there, or nil.
//
// Content that stays the same is not written again, and keeps its embedding
// unless the command brings another; content that changes loses it.
func (c *change) storeSnippet(d *snippet.Document, index int, in *command.SnippetInput, old *storage.SnippetMeta) error {
	if err := validateSnippet(in); err != nil {
		return err
	}
	vector, hash := in.GetVector(), [32]byte(in.GetContentHash())
	if old != nil && old.ContentHash == hash {
		if len(vector) == 0 {
			return nil
		}
		return c.storeVector(d, index, in.GetModel(), vector, old)
	}
	s := &snippet.Snippet{Index: index, Content: in.GetContent(), ContentHash: hash, Revision: c.at.Index}
	if len(vector) > 0 {
		s.Embedded, s.Model, s.Vector = true, in.GetModel(), vector
	}
	if old == nil {
		d.SnippetCount++
		c.coll.Snippets++
	}
	c.countEmbedding(d, old != nil && old.Embedded, s.Embedded)
	return c.b.PutSnippet(c.coll.ID, d, s, old == nil)
}

// storeVector sets the embedding of a snippet and leaves its text alone.
func (c *change) storeVector(d *snippet.Document, index int, model string, vector []byte, old *storage.SnippetMeta) error {
	c.countEmbedding(d, old.Embedded, true)
	return c.b.PutEmbedding(c.coll.ID, d, index, model, vector, c.at.Index)
}

// countEmbedding keeps the counters of embedded snippets.
func (c *change) countEmbedding(d *snippet.Document, before, after bool) {
	switch {
	case after && !before:
		d.EmbeddedCount++
		c.coll.Embedded++
	case before && !after:
		d.EmbeddedCount--
		c.coll.Embedded--
	}
}

// dropSnippet deletes the rows of one snippet and takes it out of the counters.
func (c *change) dropSnippet(d *snippet.Document, index int) error {
	old, err := c.snippetMeta(d, index)
	if err != nil {
		return err
	}
	c.countEmbedding(d, old.Embedded, false)
	d.SnippetCount--
	c.coll.Snippets--
	return c.b.DeleteSnippet(c.coll.ID, d, index)
}

// putSnippet replaces a snippet, or appends one.
func (c *change) putSnippet(op *command.Mutation_PutSnippet) (*command.Result, error) {
	in := op.PutSnippet
	d, err := c.document(in.GetId())
	if err != nil {
		return nil, err
	}
	index, outcome := int(in.GetIndex()), command.Outcome_UPDATED
	var old *storage.SnippetMeta
	switch {
	case index > d.SnippetCount:
		return nil, refuse(command.Outcome_SNIPPET_GAP, "document %q has %d snippets: the next index is %d, not %d", d.ID, d.SnippetCount, d.SnippetCount, index)
	case index < d.SnippetCount:
		if old, err = c.snippetMeta(d, index); err != nil {
			return nil, err
		}
	case d.SnippetCount >= c.f.rules.maxSnippets:
		return nil, refuse(command.Outcome_LIMIT_EXCEEDED, "a document has at most %d snippets", c.f.rules.maxSnippets)
	default:
		outcome = command.Outcome_CREATED
	}
	if err := c.checkVector(in.GetSnippet().GetVector(), in.GetMetric()); err != nil {
		return nil, err
	}
	if err := c.storeSnippet(d, index, in.GetSnippet(), old); err != nil {
		return nil, err
	}
	return c.snippetStored(d, index, outcome)
}

// patchSnippet changes what the command names of one snippet.
func (c *change) patchSnippet(op *command.Mutation_PatchSnippet) (*command.Result, error) {
	in := op.PatchSnippet
	d, err := c.document(in.GetId())
	if err != nil {
		return nil, err
	}
	index := int(in.GetIndex())
	if index >= d.SnippetCount {
		return nil, refuseSnippet(d, index)
	}
	old, err := c.snippetMeta(d, index)
	if err != nil {
		return nil, err
	}
	if err := c.checkVector(in.GetVector(), in.GetMetric()); err != nil {
		return nil, err
	}
	model := old.Model
	if in.Model != nil {
		model = in.GetModel()
	}
	next := &command.SnippetInput{Content: in.GetContent(), ContentHash: in.GetContentHash(), Vector: in.GetVector(), Model: model}
	if in.Content == nil {
		next.ContentHash = old.ContentHash[:]
	}
	if err := validateSnippet(next); err != nil {
		return nil, err
	}
	switch {
	case [32]byte(next.ContentHash) != old.ContentHash || len(next.Vector) > 0:
		err = c.storeSnippet(d, index, next, old)
	case in.Model != nil:
		err = c.renameModel(d, index, model, old)
	}
	if err != nil {
		return nil, err
	}
	return c.snippetStored(d, index, command.Outcome_UPDATED)
}

// renameModel changes the model's name of an embedding that stays.
func (c *change) renameModel(d *snippet.Document, index int, model string, old *storage.SnippetMeta) error {
	if !old.Embedded {
		return refuse(command.Outcome_INVALID, "snippet %d of document %q has no embedding whose model could change", index, d.ID)
	}
	s, err := c.snippet(d, index, false)
	if err != nil {
		return err
	}
	s.Model, s.Revision = model, c.at.Index
	return c.b.PutSnippetText(c.coll.ID, d, s)
}

// refuseSnippet says that an index does not exist.
func refuseSnippet(d *snippet.Document, index int) error {
	return refuse(command.Outcome_SNIPPET_NOT_FOUND, "document %q has %d snippets: there is none at %d", d.ID, d.SnippetCount, index)
}

// snippetStored ends a mutation of one snippet: the result shows it.
func (c *change) snippetStored(d *snippet.Document, index int, outcome command.Outcome) (*command.Result, error) {
	// outcome speaks of the snippet; the document is there already.
	r, err := c.store(d, command.Outcome_UPDATED)
	if err != nil {
		return nil, err
	}
	s, err := c.snippet(d, index, false)
	if err != nil {
		return nil, err
	}
	r.Outcome = outcome
	r.Snippet = &command.ResultSnippet{Index: uint32(index), Content: s.Content, ContentHash: s.ContentHash[:],
		Embedded: s.Embedded, Model: s.Model, Revision: s.Revision}
	return r, nil
}

// deleteSnippet removes one snippet. Those behind it move up by one: they get
// other keys, so their text and vectors are written again.
func (c *change) deleteSnippet(op *command.Mutation_DeleteSnippet) (*command.Result, error) {
	in := op.DeleteSnippet
	d, err := c.document(in.GetId())
	if err != nil {
		return nil, err
	}
	index, last := int(in.GetIndex()), d.SnippetCount-1
	if index > last {
		return nil, refuseSnippet(d, index)
	}
	old, err := c.snippetMeta(d, index)
	if err != nil {
		return nil, err
	}
	if err := c.reserveMove(d, index+1); err != nil {
		return nil, err
	}
	for i := index; i < last; i++ {
		s, err := c.snippet(d, i+1, true)
		if err != nil {
			return nil, err
		}
		s.Index, s.Revision = i, c.at.Index
		if err := c.b.PutSnippet(c.coll.ID, d, s, false); err != nil {
			return nil, err
		}
	}
	if err := c.b.DeleteSnippet(c.coll.ID, d, last); err != nil {
		return nil, err
	}
	c.countEmbedding(d, old.Embedded, false)
	d.SnippetCount--
	c.coll.Snippets--
	r, err := c.store(d, command.Outcome_UPDATED)
	if err != nil {
		return nil, err
	}
	r.Outcome = command.Outcome_DELETED
	return r, nil
}

// reserveMove refuses to move more in one entry than MaxMovedBytes. The
// lengths are in the small meta rows: nothing large is read for the decision.
func (c *change) reserveMove(d *snippet.Document, from int) error {
	var bytes int64
	for i := from; i < d.SnippetCount; i++ {
		m, err := c.snippetMeta(d, i)
		if err != nil {
			return err
		}
		bytes += int64(m.ContentLength)
		if m.Embedded {
			bytes += 4 * int64(c.coll.Dimension)
		}
	}
	if c.spent.moved += bytes; c.spent.moved <= c.f.rules.maxMoved {
		return nil
	}
	mine := c.spent.moved - c.before.moved
	return overspent(mine > c.f.rules.maxMoved,
		"the deletion would move %d bytes of the snippets behind it, at most %d may move: delete from the end, or replace the document", mine, c.f.rules.maxMoved)
}

// putEmbeddings sets the vectors of many snippets, all or none.
func (c *change) putEmbeddings(op *command.Mutation_PutEmbeddings) (*command.Result, error) {
	in := op.PutEmbeddings
	d, err := c.document(in.GetId())
	if err != nil {
		return nil, err
	}
	if err := snippet.ValidateModel("model", in.GetModel()); err != nil {
		return nil, invalid(err)
	}
	if len(in.GetEmbeddings()) == 0 {
		return nil, refuse(command.Outcome_INVALID, "there is no embedding to set")
	}
	seen := make(map[uint32]struct{}, len(in.GetEmbeddings()))
	for _, e := range in.GetEmbeddings() {
		index := int(e.GetIndex())
		if index >= d.SnippetCount {
			return nil, refuse(command.Outcome_EMBEDDING_INDEX, "document %q has %d snippets: there is none at %d; nothing was changed", d.ID, d.SnippetCount, index)
		}
		if _, twice := seen[e.GetIndex()]; twice {
			return nil, refuse(command.Outcome_INVALID, "index %d is given twice", index)
		}
		seen[e.GetIndex()] = struct{}{}
		if len(e.GetVector()) == 0 {
			return nil, refuse(command.Outcome_INVALID, "the vector for index %d is empty", index)
		}
		if err := c.checkVector(e.GetVector(), in.GetMetric()); err != nil {
			return nil, err
		}
		old, err := c.snippetMeta(d, index)
		if err != nil {
			return nil, err
		}
		if err := c.storeVector(d, index, in.GetModel(), e.GetVector(), old); err != nil {
			return nil, err
		}
	}
	r, err := c.store(d, command.Outcome_UPDATED)
	if err != nil {
		return nil, err
	}
	r.Updated = uint32(len(in.GetEmbeddings()))
	return r, nil
}
