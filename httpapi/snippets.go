package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// snippetCursor is the kind of the cursors of the list of snippets.
const snippetCursor = "s1"

func listSnippets(c *call, v View) (*reply, error) {
	form, err := c.withEmbeddings()
	if err != nil {
		return nil, err
	}
	limit, err := c.limit()
	if err != nil {
		return nil, err
	}
	from := 0
	if cursor, ok := c.param(wire.ParamCursor); ok {
		if from, err = parseSnippetCursor(cursor); err != nil {
			return nil, err
		}
	}
	coll, doc, err := c.openDocument(v)
	if err != nil {
		return nil, err
	}
	page := wire.SnippetList{Items: []wire.Snippet{}}
	end, bytes := min(from+limit, doc.SnippetCount), 0
	for from < end && bytes < snippetPageBytes {
		piece, err := v.Snippets(c.ctx(), coll.ID, doc, from, min(snippetPiece, end-from), form != noVectors)
		if err != nil {
			return nil, err
		}
		if len(piece) == 0 {
			break
		}
		for i := range piece {
			bytes += len(piece[i].Content) + len(piece[i].Vector)
			page.Items = append(page.Items, renderSnippet(&piece[i], form))
		}
		from += len(piece)
	}
	if from < doc.SnippetCount {
		page.NextCursor = cursorOf(snippetCursor, strconv.Itoa(from))
	}
	return &reply{status: 200, body: page, etag: doc.Revision}, nil
}

func parseSnippetCursor(cursor string) (int, error) {
	place, err := parseCursor(snippetCursor, cursor)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(place, 10, 31)
	if err != nil || n > snippet.MaxSnippets {
		return 0, badRequest(wire.CodeInvalidParameter, wire.ParamCursor, "the cursor is not one of this listing; begin without a cursor")
	}
	return int(n), nil
}

// getSnippet answers JSON, or the raw vector to a client that asks for its
// media type. The entity tag is the document's: that is what If-Match is
// compared with.
func getSnippet(c *call, v View) (*reply, error) {
	form, err := c.withEmbeddings()
	if err != nil {
		return nil, err
	}
	index, err := c.snippetIndex()
	if err != nil {
		return nil, err
	}
	coll, doc, err := c.openDocument(v)
	if err != nil {
		return nil, err
	}
	if index >= doc.SnippetCount {
		return nil, badRequest(wire.CodeNotFound, "", "document %q has %d snippets, there is none with index %d", doc.ID, doc.SnippetCount, index)
	}
	raw := strings.Contains(c.g.GetHeader("Accept"), wire.TypeVector)
	if c.notModified(doc.Revision) {
		return &reply{status: 304, etag: doc.Revision}, nil
	}
	found, err := v.Snippets(c.ctx(), coll.ID, doc, index, 1, raw || form != noVectors)
	if err != nil {
		return nil, err
	}
	switch {
	case len(found) == 0:
		return nil, badRequest(wire.CodeNotFound, "", "document %q has no snippet %d", doc.ID, index)
	case raw && len(found[0].Vector) == 0:
		return nil, badRequest(wire.CodeNotFound, "", "snippet %d of document %q has no embedding", index, doc.ID)
	case raw:
		return &reply{status: 200, raw: found[0].Vector, contentType: wire.TypeVector, etag: doc.Revision}, nil
	}
	return &reply{status: 200, body: renderSnippet(&found[0], form), etag: doc.Revision}, nil
}

// putSnippet takes a snippet as JSON, or only its vector as raw float32.
func putSnippet(c *call, body []byte) (*write, error) {
	index, err := c.snippetIndex()
	if err != nil {
		return nil, err
	}
	if c.mediaType() == wire.TypeVector {
		return c.putRawVector(index, body)
	}
	if _, ok := c.param(wire.ParamModel); ok {
		return nil, badRequest(wire.CodeInvalidParameter, wire.ParamModel, "model is for a body of type %s; in JSON it is a field", wire.TypeVector)
	}
	var in wire.SnippetInput
	return c.documentWrite(body, &in, snippetReply, func(b *builder, id string) (*command.Mutation, error) {
		return b.putSnippet(id, index, &in)
	})
}

// putRawVector sets the vector of a snippet and leaves its text alone.
func (c *call) putRawVector(index int, body []byte) (*write, error) {
	return c.documentWrite(nil, nil, snippetReply, func(b *builder, id string) (*command.Mutation, error) {
		patch := &command.PatchSnippet{Id: id, Index: uint32(index)}
		if model, ok := c.param(wire.ParamModel); ok {
			if err := snippet.ValidateModel(wire.ParamModel, model); err != nil {
				return nil, badParameter(wire.ParamModel, err)
			}
			patch.Model = &model
		}
		if err := b.rawVector("vector", body, &patch.Vector); err != nil {
			return nil, err
		}
		b.vectors.metrics = append(b.vectors.metrics, &patch.Metric)
		m := b.mutation()
		m.Op = &command.Mutation_PatchSnippet{PatchSnippet: patch}
		return m, nil
	})
}

func patchSnippet(c *call, body []byte) (*write, error) {
	index, err := c.snippetIndex()
	if err != nil {
		return nil, err
	}
	var in wire.SnippetPatch
	return c.documentWrite(body, &in, snippetReply, func(b *builder, id string) (*command.Mutation, error) {
		return b.patchSnippet(id, index, &in)
	})
}

func deleteSnippet(c *call, _ []byte) (*write, error) {
	index, err := c.snippetIndex()
	if err != nil {
		return nil, err
	}
	rep := func(r *command.Result) *reply {
		return &reply{status: http.StatusNoContent, etag: r.GetDocument().GetRevision()}
	}
	return c.documentWrite(nil, nil, rep, func(b *builder, id string) (*command.Mutation, error) {
		m := b.mutation()
		m.Op = &command.Mutation_DeleteSnippet{DeleteSnippet: &command.DeleteSnippet{Id: id, Index: uint32(index)}}
		return m, nil
	})
}

// snippetReply answers with the snippet of the result.
func snippetReply(r *command.Result) *reply {
	rep := applied(r, renderResultSnippet(r.GetSnippet()))
	if rep.status == http.StatusNoContent {
		rep.status = http.StatusOK
	}
	return rep
}
