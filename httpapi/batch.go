package httpapi

import (
	"fmt"
	"net/http"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// operationBody is wire.Operation with embeddings whose index can be missing.
type operationBody struct {
	wire.Operation
	Embeddings []embeddingBody `json:"embeddings,omitempty"`
}

type batchBody struct {
	Operations []operationBody `json:"operations"`
}

// operations says which fields each operation takes and how it is built.
// "id" and the conditions are of all that name a document.
var operations = map[string]struct {
	needs []string // must be there
	takes []string // may be there
	// whole is set if it is of the collection and takes no id, and
	// unconditional if it takes no condition.
	whole, unconditional bool
	build                func(b *builder, o *operationBody) (*command.Mutation, error)
}{
	wire.OpPutDoc: {needs: []string{"doc"}, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		b.prefix += "doc."
		if o.Doc.ID != "" && o.Doc.ID != o.ID {
			return nil, b.wrong("id", "is %q, and the operation's id is %q; leave it out", o.Doc.ID, o.ID)
		}
		return b.putDocument(o.ID, o.Doc)
	}},
	wire.OpPatchDoc: {needs: []string{"patch"}, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		b.prefix += "patch."
		return b.patchDocument(o.ID, o.Patch)
	}},
	wire.OpDeleteDoc: {build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		m := b.mutation()
		m.Op = &command.Mutation_DeleteDocument{DeleteDocument: &command.DeleteDocument{Id: o.ID}}
		return m, nil
	}},
	wire.OpPutSnippet: {needs: []string{"index", "snippet"}, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		b.prefix += "snippet."
		return b.putSnippet(o.ID, *o.Index, o.Snippet)
	}},
	wire.OpPatchSnippet: {needs: []string{"index", "snippet_patch"}, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		b.prefix += "snippet_patch."
		return b.patchSnippet(o.ID, *o.Index, o.SnipPatch)
	}},
	wire.OpDeleteSnippet: {needs: []string{"index"}, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		m := b.mutation()
		m.Op = &command.Mutation_DeleteSnippet{DeleteSnippet: &command.DeleteSnippet{Id: o.ID, Index: uint32(*o.Index)}}
		return m, nil
	}},
	wire.OpPutEmbeddings: {needs: []string{"embeddings"}, takes: []string{"model"}, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		return b.putEmbeddings(o.ID, o.Model, o.Embeddings)
	}},
	wire.OpDeleteOwner: {needs: []string{"owner"}, whole: true, unconditional: true, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		return b.deleteOwner(o.Owner)
	}},
	wire.OpPutCollection: {takes: []string{"collection"}, whole: true, build: func(b *builder, o *operationBody) (*command.Mutation, error) {
		b.prefix += "collection."
		in := o.Collection
		if in == nil {
			in = &wire.CollectionInput{}
		}
		return b.putCollection(in)
	}},
	wire.OpDeleteCollection: {whole: true, build: func(b *builder, _ *operationBody) (*command.Mutation, error) {
		b.vectors.change(collectionChange{deleted: true})
		m := b.mutation()
		m.Op = &command.Mutation_DeleteCollection{DeleteCollection: &command.DeleteCollection{}}
		return m, nil
	}},
}

// optionalFields are the fields that only some operations take.
var optionalFields = []string{"collection", "doc", "embeddings", "index", "model", "owner", "patch", "snippet", "snippet_patch"}

// present returns the names of the optional fields that the operation has.
func (o *operationBody) present() map[string]bool {
	return map[string]bool{
		"index": o.Index != nil, "doc": o.Doc != nil, "patch": o.Patch != nil, "snippet": o.Snippet != nil,
		"snippet_patch": o.SnipPatch != nil, "model": o.Model != "", "embeddings": o.Embeddings != nil,
		"owner": o.Owner != nil, "collection": o.Collection != nil,
	}
}

func postBatch(c *call, body []byte) (*write, error) {
	collection, err := c.collectionName()
	if err != nil {
		return nil, err
	}
	var in batchBody
	if err := decodeJSON(body, &in); err != nil {
		return nil, err
	}
	if len(in.Operations) == 0 || len(in.Operations) > snippet.MaxBatch {
		return nil, badRequest(wire.CodeInvalidField, "operations", "operations must have 1 to %d items, it has %d", snippet.MaxBatch, len(in.Operations))
	}
	b := newBuilder(collection)
	mutations := make([]*command.Mutation, len(in.Operations))
	for i := range in.Operations {
		b.operation, b.prefix = i, fmt.Sprintf("operations[%d].", i)
		if mutations[i], err = b.operationMutation(&in.Operations[i]); err != nil {
			return nil, err
		}
	}
	return &write{
		collection: collection, vectors: b.vectors, batch: len(mutations),
		command: &command.Command{Op: &command.Command_Batch{Batch: &command.Batch{Mutations: mutations}}},
		reply:   func(r *command.Result) *reply { return batchReply(r, in.Operations) },
	}, nil
}

// operationMutation checks one operation of a batch and builds its mutation.
func (b *builder) operationMutation(o *operationBody) (*command.Mutation, error) {
	kind, known := operations[o.Op]
	if !known {
		return nil, b.wrong("op", "is %.40q, which is no operation", o.Op)
	}
	if kind.whole {
		if o.ID != "" {
			return nil, b.wrong("id", "is not a field of %s, which is of the collection of the path", o.Op)
		}
	} else if err := snippet.ValidateID(b.field("id"), o.ID); err != nil {
		return nil, b.invalid(err)
	}
	if kind.unconditional && (o.IfAbsent || o.IfRevision != 0) {
		return nil, b.wrong("if_revision", "and if_absent are not fields of %s", o.Op)
	}
	present := o.present()
	for _, name := range kind.needs {
		if !present[name] {
			return nil, b.wrong(name, "is missing; %s needs it", o.Op)
		}
		delete(present, name)
	}
	for _, name := range kind.takes {
		delete(present, name)
	}
	for _, name := range optionalFields {
		if present[name] {
			return nil, b.wrong(name, "is not a field of %s", o.Op)
		}
	}
	if o.Index != nil && (*o.Index < 0 || *o.Index >= snippet.MaxSnippets) {
		return nil, b.wrong("index", "must be a number from 0 to %d", snippet.MaxSnippets-1)
	}
	if o.IfAbsent && o.IfRevision != 0 {
		return nil, b.wrong("if_absent", "and if_revision exclude each other")
	}
	m, err := kind.build(b, o)
	if err != nil {
		return nil, err
	}
	if o.IfAbsent || o.IfRevision != 0 {
		m.Condition = &command.Condition{IfAbsent: o.IfAbsent, IfRevision: o.IfRevision}
	}
	return m, nil
}

// batchReply renders the results of a batch that was applied. The names come
// from the request, which a replay has as well: its hash is the same.
func batchReply(r *command.Result, ops []operationBody) *reply {
	out := wire.BatchResult{Index: r.GetIndex(), Results: make([]wire.OperationResult, len(ops))}
	for i := range ops {
		out.Results[i] = wire.OperationResult{Op: ops[i].Op, ID: ops[i].ID, Status: http.StatusOK, Revision: r.GetIndex()}
		if i >= len(r.GetItems()) {
			continue
		}
		item := r.GetItems()[i]
		if status, ok := appliedStatus[item.GetOutcome()]; ok {
			out.Results[i].Status = status
		}
		if doc := item.GetDocument(); doc.GetRevision() != 0 {
			out.Results[i].Revision = doc.GetRevision()
		}
		out.Results[i].Updated = int(item.GetUpdated())
		if ops[i].Op == wire.OpDeleteOwner {
			// As the route of its own, it has something to show.
			out.Results[i].Status, out.Results[i].More = http.StatusOK, item.GetMore()
		}
	}
	return &reply{status: http.StatusOK, body: out}
}
