package fsm

import (
	"fmt"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/mutant"
	"github.com/snipdb/snipdb/storage/snippet"
)

// change is one mutation. Its functions refuse before they write where they
// can; where they can't, the rollback of the command undoes it.
type change struct {
	*execution
	name      string
	condition *command.Condition
	coll      *snippet.Collection // nil: there is none of that name
}

// open reads the collection.
func (c *change) open() error {
	if err := snippet.ValidateName("collection", c.name); err != nil {
		return invalid(err)
	}
	var err error
	c.coll, err = c.b.Collection(c.name)
	return err
}

// existing refuses if the collection does not exist.
func (c *change) existing() error {
	if c.coll == nil {
		return refuse(command.Outcome_COLLECTION_NOT_FOUND, "collection %q does not exist", c.name)
	}
	return nil
}

// check tests the condition on something that has revision, 0 if it does not exist.
func (c *change) check(revision uint64) error {
	want := c.condition
	switch {
	case want == nil || mutant.On(mutant.ConditionEarly):
	case want.GetIfAbsent() && revision != 0:
		return refuseMismatch(command.Outcome_ALREADY_EXISTS, revision, "it exists already, at revision %d", revision)
	case want.GetIfPresent() && revision == 0:
		return refuseMismatch(command.Outcome_REVISION_MISMATCH, 0, "it does not exist")
	case want.GetIfRevision() != 0 && want.GetIfRevision() != revision:
		return refuseMismatch(command.Outcome_REVISION_MISMATCH, revision, "it is at revision %d, not %d", revision, want.GetIfRevision())
	}
	return nil
}

// createCollection makes a collection with the defaults. It is not written
// yet: its maker does that, when the rest is known.
func (c *change) createCollection() error {
	if err := c.claim(target{collection: c.name}); err != nil {
		return err
	}
	n, err := c.b.CollectionCount()
	if err != nil {
		return err
	}
	if n >= c.f.rules.maxColls {
		return refuse(command.Outcome_LIMIT_EXCEEDED, "a cluster has at most %d collections: delete one first", c.f.rules.maxColls)
	}
	id, err := c.b.NewCollectionID()
	if err != nil {
		return err
	}
	c.coll = &snippet.Collection{
		Name: c.name, ID: id, Metric: snippet.Cosine, Analyzer: snippet.AnalyzerStandard,
		CreatedMs: c.proposedMs, UpdatedMs: c.proposedMs, Revision: c.at.Index,
	}
	return nil
}

// putCollection creates a collection or changes its settings.
func (c *change) putCollection(op *command.Mutation_PutCollection) (*command.Result, error) {
	if err := c.claimCollection(c.name); err != nil {
		return nil, err
	}
	outcome, revision := command.Outcome_UPDATED, uint64(0)
	if c.coll != nil {
		revision = c.coll.Revision
	}
	if err := c.check(revision); err != nil {
		return nil, err
	}
	if c.coll == nil {
		outcome = command.Outcome_CREATED
		if err := c.createCollection(); err != nil {
			return nil, err
		}
	}
	if err := c.configure(op.PutCollection); err != nil {
		return nil, err
	}
	c.coll.Revision = c.at.Index
	c.coll.UpdatedMs = max(c.coll.UpdatedMs, c.proposedMs)
	if err := c.b.PutCollection(c.coll); err != nil {
		return nil, err
	}
	return &command.Result{Outcome: outcome, Collection: collectionResult(c.coll)}, nil
}

// configure sets what the command names. Dimension and metric say how the
// stored vectors are to be read, so they stay while there are any.
func (c *change) configure(op *command.PutCollection) error {
	if op.Dimension != nil {
		d := int(op.GetDimension())
		if err := snippet.ValidateDimension("dimension", d); err != nil {
			return invalid(err)
		}
		if d != c.coll.Dimension && c.coll.Embedded > 0 {
			return refuse(command.Outcome_COLLECTION_CONFLICT, "the dimension is %d and can't become %d while %d vectors are stored", c.coll.Dimension, d, c.coll.Embedded)
		}
		c.coll.Dimension = d
	}
	if op.Metric != nil {
		m := snippet.Metric(op.GetMetric())
		if err := snippet.ValidateMetric("metric", m); err != nil {
			return invalid(err)
		}
		if m != c.coll.Metric && c.coll.Embedded > 0 {
			return refuse(command.Outcome_COLLECTION_CONFLICT, "the metric is %s and can't become %s while %d vectors are stored", c.coll.Metric, m, c.coll.Embedded)
		}
		c.coll.Metric = m
	}
	if op.Analyzer != nil {
		a := snippet.Analyzer(op.GetAnalyzer())
		if err := snippet.ValidateAnalyzer("analyzer", a); err != nil {
			return invalid(err)
		}
		c.coll.Analyzer = a
	}
	return nil
}

// deleteCollection deletes a collection with all that it holds.
func (c *change) deleteCollection(*command.Mutation_DeleteCollection) (*command.Result, error) {
	if err := c.claimCollection(c.name); err != nil {
		return nil, err
	}
	if err := c.existing(); err != nil {
		return nil, err
	}
	if err := c.check(c.coll.Revision); err != nil {
		return nil, err
	}
	if err := c.b.DeleteCollection(c.coll); err != nil {
		return nil, err
	}
	return &command.Result{Outcome: command.Outcome_DELETED, Collection: collectionResult(c.coll)}, nil
}

// deleteOwner deletes the documents of one owner, a bounded number at a time.
func (c *change) deleteOwner(op *command.Mutation_DeleteOwner) (*command.Result, error) {
	owner := ownerOf(op.DeleteOwner.GetOwner())
	if err := snippet.ValidateOwner("owner", owner); err != nil {
		return nil, invalid(err)
	}
	if owner.IsZero() || c.condition != nil {
		return nil, refuse(command.Outcome_INVALID, "a deletion by owner needs an owner and takes no condition")
	}
	if err := c.existing(); err != nil {
		return nil, err
	}
	ids, more, err := c.b.OwnerDocuments(c.coll.ID, owner, c.f.rules.maxOwnerDocs-c.spent.ownerDocs)
	if err != nil {
		return nil, err
	}
	c.spent.ownerDocs += len(ids)
	for _, id := range ids {
		if err := c.claimDocument(c.name, id); err != nil {
			return nil, err
		}
		d, err := c.b.Document(c.coll.ID, id)
		if err != nil {
			return nil, err
		}
		if d == nil {
			return nil, fmt.Errorf("fsm: F10 violated: document %q of collection %q is listed under its owner but does not exist", id, c.name)
		}
		if err := c.remove(d); err != nil {
			return nil, err
		}
	}
	if err := c.b.PutCollection(c.coll); err != nil {
		return nil, err
	}
	return &command.Result{Outcome: command.Outcome_DELETED, Updated: uint32(len(ids)), More: more}, nil
}

// collectionResult is the collection as a result shows it.
func collectionResult(c *snippet.Collection) *command.ResultCollection {
	return &command.ResultCollection{
		Name: c.Name, Dimension: uint32(c.Dimension), Metric: string(c.Metric), Analyzer: string(c.Analyzer),
		CreatedMs: c.CreatedMs, UpdatedMs: c.UpdatedMs, Revision: c.Revision,
		Documents: c.Documents, Snippets: c.Snippets, Embedded: c.Embedded,
	}
}
