package httpapi

import (
	"errors"
	"fmt"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// vectors are the vectors of one write, still as the client sent them. Before
// each proposal they are prepared for the collection's metric, because what
// enters the log for a cosine collection has unit length.
type vectors struct {
	slots   []vectorSlot
	metrics []*string // the metric fields of the mutations that carry vectors
	// changes are what a batch does to its collection before later vectors.
	changes []collectionChange
}

// collectionChange is an operation of a batch on the collection itself. The
// vectors behind it are for the collection as it is then.
type collectionChange struct {
	metrics int // how many of vectors.metrics are in front of it
	deleted bool
	metric  *string // nil: it stays
}

func (v *vectors) change(c collectionChange) {
	c.metrics = len(v.metrics)
	v.changes = append(v.changes, c)
}

// vectorSlot is the place of one vector in a command.
type vectorSlot struct {
	place *[]byte
	raw   snippet.Vector
	field string
	// operation is the number in a batch, or -1.
	operation int
	changes   int // how many of the batch's changes are in front of it
}

// builder turns wire structs into mutations of one collection. It checks
// every value; its errors name the field.
type builder struct {
	collection string
	vectors    vectors
	// prefix begins the names of fields, and operation is the number of the
	// operation: of a batch.
	prefix    string
	operation int
}

func newBuilder(collection string) *builder { return &builder{collection: collection, operation: -1} }

// field returns the full path of a field of the input.
func (b *builder) field(format string, args ...any) string {
	return b.prefix + fmt.Sprintf(format, args...)
}

// wrong is a field with a value that can't be stored.
func (b *builder) wrong(field, format string, args ...any) error {
	field = b.field("%s", field)
	return b.inOperation(badRequest(wire.CodeInvalidField, field, "%s %s", field, fmt.Sprintf(format, args...)))
}

// inOperation names the operation of a batch in an error.
func (b *builder) inOperation(err error) error {
	if err == nil || b.operation < 0 {
		return err
	}
	e := *translate(err)
	n := b.operation
	e.operation = &n
	return &e
}

// invalid passes a validation error of package snippet on.
func (b *builder) invalid(err error) error { return b.inOperation(err) }

func (b *builder) mutation() *command.Mutation {
	return &command.Mutation{Collection: b.collection}
}

func (b *builder) putDocument(id string, in *wire.DocumentInput) (*command.Mutation, error) {
	doc := &command.PutDocument{Id: id, Title: in.Title}
	if err := snippet.ValidateTitle(b.field("title"), in.Title); err != nil {
		return nil, b.invalid(err)
	}
	if in.Owner != nil {
		owner := snippet.Owner{Type: in.Owner.Type, ID: in.Owner.ID}
		if owner.IsZero() {
			return nil, b.wrong("owner", "needs a type and an id")
		}
		if err := snippet.ValidateOwner(b.field("owner"), owner); err != nil {
			return nil, b.invalid(err)
		}
		doc.Owner = &command.Owner{Type: owner.Type, Id: owner.ID}
	}
	var err error
	if doc.Metadata, err = snippet.CanonicalMetadata(b.field("metadata"), in.Metadata); err != nil {
		return nil, b.invalid(err)
	}
	if doc.Snippets, err = b.snippets(in, &doc.Metric); err != nil {
		return nil, err
	}
	m := b.mutation()
	m.Op = &command.Mutation_PutDocument{PutDocument: doc}
	return m, nil
}

// snippets returns the snippets of a document, from the list or the shorthand.
func (b *builder) snippets(in *wire.DocumentInput, metric *string) ([]*command.SnippetInput, error) {
	if in.Content != nil && in.Snippets != nil {
		return nil, b.wrong("content", "is the shorthand for snippets; send one of the two")
	}
	if n := max(len(in.Content), len(in.Snippets)); n > snippet.MaxSnippets {
		return nil, b.inOperation(badRequest(wire.CodeLimitExceeded, b.field("snippets"), "a document has at most %d snippets, this one has %d", snippet.MaxSnippets, n))
	}
	out := make([]*command.SnippetInput, 0, max(len(in.Content), len(in.Snippets)))
	for i, text := range in.Content {
		s, err := b.snippet(fmt.Sprintf("content[%d]", i), "", &wire.SnippetInput{Content: text}, metric)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	for i := range in.Snippets {
		path := fmt.Sprintf("snippets[%d]", i)
		s, err := b.snippet(path+".content", path+".", &in.Snippets[i], metric)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// snippet checks one snippet. contentField is the path of its text, path the
// beginning of its other fields.
func (b *builder) snippet(contentField, path string, in *wire.SnippetInput, metric *string) (*command.SnippetInput, error) {
	if err := b.content(contentField, in.Content); err != nil {
		return nil, err
	}
	hash := snippet.HashContent(in.Content)
	s := &command.SnippetInput{Content: in.Content, ContentHash: hash[:], Model: in.Model}
	if err := snippet.ValidateModel(b.field("%smodel", path), in.Model); err != nil {
		return nil, b.invalid(err)
	}
	has, err := b.vector(path, in.Vector, in.VectorBase64, &s.Vector)
	if err != nil {
		return nil, err
	}
	if has {
		b.vectors.metrics = append(b.vectors.metrics, metric)
	} else if in.Model != "" {
		return nil, b.wrong(path+"model", "names the model of a vector, and there is no vector")
	}
	return s, nil
}

// content checks a text. An empty one could neither be embedded nor found, and
// is what a forgotten field looks like.
func (b *builder) content(field, text string) error {
	if text == "" {
		return b.wrong(field, "must not be empty")
	}
	return b.invalid(snippet.ValidateContent(b.field("%s", field), text))
}

// vector takes a vector in either form and remembers its place in the
// command. It returns false if there is none.
func (b *builder) vector(path string, numbers wire.Floats, base64 string, place *[]byte) (has bool, err error) {
	field := path + "vector"
	switch {
	case numbers != nil && base64 != "":
		return false, b.wrong(path+"vector_base64", "is another form of vector; send one of the two")
	case numbers != nil:
		return true, b.rawVector(field, snippet.VectorOf(numbers), place)
	case base64 != "":
		field += "_base64"
		raw, err := wire.DecodeBase64(base64)
		if err != nil {
			return false, b.wrongVector(field, err)
		}
		return true, b.rawVector(field, raw, place)
	}
	return false, nil
}

func (b *builder) rawVector(field string, v snippet.Vector, place *[]byte) error {
	if err := v.Validate(); err != nil {
		return b.wrongVector(field, err)
	}
	b.vectors.slots = append(b.vectors.slots, vectorSlot{place: place, raw: v, field: b.field("%s", field), operation: b.operation, changes: len(b.vectors.changes)})
	return nil
}

func (b *builder) wrongVector(field string, err error) error {
	field = b.field("%s", field)
	return b.inOperation(badRequest(wire.CodeInvalidVector, field, "%s is not usable: %v", field, err))
}

func (b *builder) putCollection(in *wire.CollectionInput) (*command.Mutation, error) {
	put := &command.PutCollection{Metric: in.Metric, Analyzer: in.Analyzer}
	if in.Dimension != nil {
		if err := snippet.ValidateDimension(b.field("dimension"), *in.Dimension); err != nil {
			return nil, b.invalid(err)
		}
		dimension := uint32(*in.Dimension)
		put.Dimension = &dimension
	}
	if in.Metric != nil {
		if err := snippet.ValidateMetric(b.field("metric"), snippet.Metric(*in.Metric)); err != nil {
			return nil, b.invalid(err)
		}
	}
	if in.Analyzer != nil {
		if err := snippet.ValidateAnalyzer(b.field("analyzer"), snippet.Analyzer(*in.Analyzer)); err != nil {
			return nil, b.invalid(err)
		}
	}
	b.vectors.change(collectionChange{metric: in.Metric})
	m := b.mutation()
	m.Op = &command.Mutation_PutCollection{PutCollection: put}
	return m, nil
}

// deleteOwner needs an owner: without one it would be anybody's documents.
func (b *builder) deleteOwner(in *wire.Owner) (*command.Mutation, error) {
	owner := snippet.Owner{Type: in.Type, ID: in.ID}
	if owner.IsZero() {
		return nil, b.wrong("owner", "needs a type and an id")
	}
	if err := snippet.ValidateOwner(b.field("owner"), owner); err != nil {
		return nil, b.invalid(err)
	}
	m := b.mutation()
	m.Op = &command.Mutation_DeleteOwner{DeleteOwner: &command.DeleteOwner{Owner: &command.Owner{Type: owner.Type, Id: owner.ID}}}
	return m, nil
}

func (b *builder) patchDocument(id string, in *wire.DocumentPatch) (*command.Mutation, error) {
	patch := &command.PatchDocument{Id: id, Title: in.Title}
	if in.Title != nil {
		if err := snippet.ValidateTitle(b.field("title"), *in.Title); err != nil {
			return nil, b.invalid(err)
		}
	}
	var err error
	if patch.MetadataPatch, err = snippet.CanonicalMetadata(b.field("metadata"), in.Metadata); err != nil {
		return nil, b.invalid(err)
	}
	if in.Title == nil && in.Metadata == nil {
		return nil, b.wrong("title", "or metadata is needed: the patch changes nothing")
	}
	m := b.mutation()
	m.Op = &command.Mutation_PatchDocument{PatchDocument: patch}
	return m, nil
}

func (b *builder) putSnippet(id string, index int, in *wire.SnippetInput) (*command.Mutation, error) {
	put := &command.PutSnippet{Id: id, Index: uint32(index)}
	var err error
	if put.Snippet, err = b.snippet("content", "", in, &put.Metric); err != nil {
		return nil, err
	}
	m := b.mutation()
	m.Op = &command.Mutation_PutSnippet{PutSnippet: put}
	return m, nil
}

func (b *builder) patchSnippet(id string, index int, in *wire.SnippetPatch) (*command.Mutation, error) {
	patch := &command.PatchSnippet{Id: id, Index: uint32(index), Model: in.Model, Content: in.Content}
	if in.Content != nil {
		if err := b.content("content", *in.Content); err != nil {
			return nil, err
		}
		hash := snippet.HashContent(*in.Content)
		patch.ContentHash = hash[:]
	}
	if in.Model != nil {
		if err := snippet.ValidateModel(b.field("model"), *in.Model); err != nil {
			return nil, b.invalid(err)
		}
	}
	has, err := b.vector("", in.Vector, in.VectorBase64, &patch.Vector)
	if err != nil {
		return nil, err
	}
	if has {
		b.vectors.metrics = append(b.vectors.metrics, &patch.Metric)
	}
	if !has && in.Content == nil && in.Model == nil {
		return nil, b.wrong("content", "or a vector or model is needed: the patch changes nothing")
	}
	m := b.mutation()
	m.Op = &command.Mutation_PatchSnippet{PatchSnippet: patch}
	return m, nil
}

// embeddingBody is wire.EmbeddingInput with an index that can be missing: a
// forgotten one must not be 0.
type embeddingBody struct {
	Index        *int        `json:"index"`
	Vector       wire.Floats `json:"vector,omitempty"`
	VectorBase64 string      `json:"vector_base64,omitempty"`
}

// embeddingsBody is wire.EmbeddingsInput with them.
type embeddingsBody struct {
	Model      string          `json:"model"`
	Embeddings []embeddingBody `json:"embeddings"`
}

func (b *builder) putEmbeddings(id, model string, in []embeddingBody) (*command.Mutation, error) {
	put := &command.PutEmbeddings{Id: id, Model: model}
	if err := snippet.ValidateModel(b.field("model"), model); err != nil {
		return nil, b.invalid(err)
	}
	if len(in) == 0 || len(in) > snippet.MaxSnippets {
		return nil, b.wrong("embeddings", "must have 1 to %d items, it has %d", snippet.MaxSnippets, len(in))
	}
	seen := make(map[int]bool, len(in))
	put.Embeddings = make([]*command.EmbeddingInput, len(in))
	for i := range in {
		path := fmt.Sprintf("embeddings[%d].", i)
		if in[i].Index == nil || *in[i].Index < 0 || *in[i].Index >= snippet.MaxSnippets {
			return nil, b.wrong(path+"index", "must be a number from 0 to %d", snippet.MaxSnippets-1)
		}
		index := *in[i].Index
		if seen[index] {
			return nil, b.wrong(path+"index", "is %d, which another item has as well", index)
		}
		seen[index] = true
		put.Embeddings[i] = &command.EmbeddingInput{Index: uint32(index)}
		has, err := b.vector(path, in[i].Vector, in[i].VectorBase64, &put.Embeddings[i].Vector)
		if err != nil {
			return nil, err
		}
		if !has {
			return nil, b.wrongVector(path+"vector", errors.New("it is missing"))
		}
	}
	b.vectors.metrics = append(b.vectors.metrics, &put.Metric)
	m := b.mutation()
	m.Op = &command.Mutation_PutEmbeddings{PutEmbeddings: put}
	return m, nil
}

// prepare fills the vectors into the command, for a collection that is nil if
// there is none yet: then it will be made with the defaults, and the first
// vector fixes its dimension. With judge it refuses vectors that the collection
// can't take; without, the state machine does.
func (v *vectors) prepare(coll *snippet.Collection, judge bool) error {
	metric, dimension := snippet.Cosine, 0
	if coll != nil {
		metric, dimension = coll.Metric, coll.Dimension
	}
	metrics := v.metricsFrom(metric)
	for _, slot := range v.slots {
		judge = judge && slot.changes == 0 // else it is another collection by then
		if dimension == 0 {
			dimension = slot.raw.Dimension()
		}
		if got := slot.raw.Dimension(); judge && got != dimension {
			e := &requestError{
				code: wire.CodeDimensionMismatch, field: slot.field,
				detail: fmt.Sprintf("%s has %d values, the collection's dimension is %d", slot.field, got, dimension),
			}
			if slot.operation >= 0 {
				e.operation = &slot.operation
			}
			return e
		}
		if metrics[slot.changes] == snippet.Cosine {
			*slot.place = slot.raw.Normalize()
		} else {
			*slot.place = slot.raw
		}
	}
	changes := 0
	for i, m := range v.metrics {
		for changes < len(v.changes) && v.changes[changes].metrics <= i {
			changes++
		}
		*m = string(metrics[changes])
	}
	return nil
}

// metricsFrom returns the collection's metric before each change of the batch,
// and behind the last one.
func (v *vectors) metricsFrom(now snippet.Metric) []snippet.Metric {
	out := append(make([]snippet.Metric, 0, len(v.changes)+1), now)
	for _, c := range v.changes {
		if c.deleted {
			now = snippet.Cosine // made anew, with the defaults
		} else if c.metric != nil {
			now = snippet.Metric(*c.metric)
		}
		out = append(out, now)
	}
	return out
}
