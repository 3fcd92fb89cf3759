package httpapi

import (
	"errors"
	"fmt"
	"math"
	"net/http"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// putEmbeddings takes the vectors of many snippets as JSON, or those of all
// snippets of the document as raw float32.
func putEmbeddings(c *call, body []byte) (*write, error) {
	rep := func(r *command.Result) *reply {
		rep := applied(r, wire.EmbeddingsResult{
			ID: r.GetDocument().GetId(), Revision: r.GetDocument().GetRevision(), Updated: int(r.GetUpdated()),
		})
		rep.status = http.StatusOK
		return rep
	}
	if c.mediaType() == wire.TypeVector {
		return c.putRawEmbeddings(body, rep)
	}
	if _, ok := c.param(wire.ParamModel); ok {
		return nil, badRequest(wire.CodeInvalidParameter, wire.ParamModel, "model is for a body of type %s; in JSON it is a field", wire.TypeVector)
	}
	var in embeddingsBody
	if err := decodeEmbeddings(body, &in); err != nil {
		return nil, err
	}
	return c.documentWrite(nil, nil, rep, func(b *builder, id string) (*command.Mutation, error) {
		return b.putEmbeddings(id, in.Model, in.Embeddings)
	})
}

// putRawEmbeddings takes the vectors one after the other. Where one ends is not
// known from the body: see rawEmbeddings.
func (c *call) putRawEmbeddings(body []byte, rep func(*command.Result) *reply) (*write, error) {
	raw := &rawEmbeddings{body: body, put: &command.PutEmbeddings{}}
	w, err := c.documentWrite(nil, nil, rep, func(b *builder, id string) (*command.Mutation, error) {
		if model, ok := c.param(wire.ParamModel); ok {
			if err := snippet.ValidateModel(wire.ParamModel, model); err != nil {
				return nil, badParameter(wire.ParamModel, err)
			}
			raw.put.Model = model
		}
		if err := finite(raw.body); err != nil {
			return nil, b.wrongVector("vectors", err)
		}
		raw.put.Id = id
		m := b.mutation()
		m.Op = &command.Mutation_PutEmbeddings{PutEmbeddings: raw.put}
		return m, nil
	})
	if err != nil {
		return nil, err
	}
	w.raw = raw
	return w, nil
}

// finite checks the values of vectors without knowing where each ends.
func finite(v snippet.Vector) error {
	if len(v)%4 != 0 {
		return snippet.ErrVectorLength
	}
	for i := range v.Dimension() {
		if x := float64(v.At(i)); math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("%w, at value %d", snippet.ErrVectorNaN, i)
		}
	}
	return nil
}

// rawEmbeddings are the vectors of the snippets 0 to n-1 of a document, one
// after the other: n is the number of its snippets, and the length of each the
// collection's dimension. Both are read just before the command is made, from a
// state that holds every write that was acknowledged before.
//
// What does not fit is proposed as well, cut in a way that the state machine
// refuses, whatever has changed by then: it looks at the idempotency key and the
// condition first, and its answer is the one that a repeated request gets again.
type rawEmbeddings struct {
	body snippet.Vector
	put  *command.PutEmbeddings
}

// split fills the command and the slots of its vectors.
func (e *rawEmbeddings) split(v View, w *write, judge bool) error {
	e.put.Embeddings = nil // which is refused, but "not found" comes first
	w.vectors = vectors{metrics: []*string{&e.put.Metric}}
	coll, err := v.Collection(w.collection)
	if err != nil || coll == nil {
		return err
	}
	doc, err := v.Document(coll.ID, e.put.GetId())
	if err != nil || doc == nil {
		return err
	}
	dimension := coll.Dimension
	if dimension == 0 {
		if doc.SnippetCount == 0 {
			return nil
		}
		// Rounded up, so that what can't be divided leaves a shorter last vector.
		dimension = (e.body.Dimension() + doc.SnippetCount - 1) / doc.SnippetCount
	}
	for at := 0; at < len(e.body); at += 4 * dimension {
		if len(e.put.GetEmbeddings()) > snippet.MaxSnippets {
			break // no document has a snippet with the last index
		}
		piece := e.body[at:min(at+4*dimension, len(e.body))]
		if err := e.add(piece, w, judge); err != nil {
			return err
		}
	}
	if len(e.put.GetEmbeddings()) < doc.SnippetCount {
		e.empty() // the first of those that are missing
	}
	return nil
}

// add takes the vector of the next snippet. One of zeros can't be scaled, and so
// not be proposed: an empty one is, and refused.
func (e *rawEmbeddings) add(v snippet.Vector, w *write, judge bool) error {
	index := len(e.put.GetEmbeddings())
	if errors.Is(v.Validate(), snippet.ErrVectorZero) {
		if judge {
			field := fmt.Sprintf("vectors[%d]", index)
			return badRequest(wire.CodeInvalidVector, field, "%s is not usable: %v", field, snippet.ErrVectorZero)
		}
		e.empty()
		return nil
	}
	in := &command.EmbeddingInput{Index: uint32(index)}
	e.put.Embeddings = append(e.put.GetEmbeddings(), in)
	w.vectors.slots = append(w.vectors.slots, vectorSlot{place: &in.Vector, raw: v, field: fmt.Sprintf("vectors[%d]", index), operation: -1})
	return nil
}

// empty adds an embedding without a vector, which no state takes.
func (e *rawEmbeddings) empty() {
	e.put.Embeddings = append(e.put.GetEmbeddings(), &command.EmbeddingInput{Index: uint32(len(e.put.GetEmbeddings()))})
}
