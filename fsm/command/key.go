package command

import "hash/maphash"

// ConflictKey names what a command changes, for the group commit: two
// commands of one entry must never change the same document, because the
// revision of a document is the index of the entry, and the second change
// would hide behind the revision of the first. Zero means "nothing that
// matters" (a Tick), Whole means "anything".
type ConflictKey uint64

// Whole is the key of a command that must be alone in its entry: a batch, or a
// mutation of a collection or of an owner's documents.
const Whole ConflictKey = 1

var keySeed = maphash.MakeSeed()

// ConflictKey returns the key of the command. It is for the proposing process
// only: it differs between processes.
func (c *Command) ConflictKey() ConflictKey {
	switch op := c.GetOp().(type) {
	case *Command_Tick:
		return 0
	case *Command_Mutation:
		if id := op.Mutation.DocumentID(); id != "" {
			return keyOf(op.Mutation.GetCollection(), id)
		}
	}
	return Whole
}

// DocumentID returns the id of the document that the mutation names, or ""
// if it is of a collection or an owner.
func (m *Mutation) DocumentID() string {
	switch op := m.GetOp().(type) {
	case *Mutation_PutDocument:
		return op.PutDocument.GetId()
	case *Mutation_PatchDocument:
		return op.PatchDocument.GetId()
	case *Mutation_DeleteDocument:
		return op.DeleteDocument.GetId()
	case *Mutation_PutSnippet:
		return op.PutSnippet.GetId()
	case *Mutation_PatchSnippet:
		return op.PatchSnippet.GetId()
	case *Mutation_DeleteSnippet:
		return op.DeleteSnippet.GetId()
	case *Mutation_PutEmbeddings:
		return op.PutEmbeddings.GetId()
	}
	return ""
}

func keyOf(collection, id string) ConflictKey {
	var h maphash.Hash
	h.SetSeed(keySeed)
	_, _ = h.WriteString(collection)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(id)
	return ConflictKey(h.Sum64() | 2) // never 0 nor Whole
}
