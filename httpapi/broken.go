package httpapi

import (
	"context"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

// The mistake of mutant.ConditionEarly, which needs more than a line. Nothing
// of this file is in a build without the tag `mutants`.

// checkEarly checks the condition of a write against what this node reads now.
// By the time the write is applied that may have changed.
func (s *Server) checkEarly(ctx context.Context, w *write) (*command.Result, error) {
	m := w.command.GetMutation()
	id := conditionOn(m)
	if m.GetCondition() == nil || id == "" {
		return nil, nil
	}
	view, stamp, err := s.backend.View(ctx, contract.Consistency{Level: contract.Linearizable})
	if err != nil {
		return nil, err
	}
	defer view.Close()
	revision := uint64(0)
	if coll, err := view.Collection(w.collection); err != nil {
		return nil, err
	} else if coll != nil {
		d, err := view.Document(coll.ID, id)
		if err != nil {
			return nil, err
		}
		if d != nil {
			revision = d.Revision
		}
	}
	refused := &command.Result{Index: stamp.Index, Term: stamp.Term, CurrentRevision: revision, Detail: "the revision is another one"}
	switch want := m.GetCondition(); {
	case want.GetIfAbsent() && revision != 0:
		refused.Outcome = command.Outcome_ALREADY_EXISTS
	case want.GetIfRevision() != 0 && want.GetIfRevision() != revision:
		refused.Outcome = command.Outcome_REVISION_MISMATCH
	default:
		return nil, nil
	}
	return refused, nil
}

// conditionOn names the document whose revision a mutation's condition is about.
func conditionOn(m *command.Mutation) string {
	switch op := m.GetOp().(type) {
	case *command.Mutation_PutDocument:
		return op.PutDocument.GetId()
	case *command.Mutation_PatchDocument:
		return op.PatchDocument.GetId()
	case *command.Mutation_DeleteDocument:
		return op.DeleteDocument.GetId()
	case *command.Mutation_PutSnippet:
		return op.PutSnippet.GetId()
	case *command.Mutation_PatchSnippet:
		return op.PatchSnippet.GetId()
	case *command.Mutation_DeleteSnippet:
		return op.DeleteSnippet.GetId()
	case *command.Mutation_PutEmbeddings:
		return op.PutEmbeddings.GetId()
	}
	return ""
}
