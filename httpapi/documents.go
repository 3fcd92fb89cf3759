package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// The size of the pieces in which snippets are read and answered: with the
// largest texts and vectors one piece is a few MiB, so a document of any size
// costs no more memory than that.
const (
	snippetPiece = 16
	// snippetPageBytes ends a page of snippets early.
	snippetPageBytes = 4 << 20
)

func listDocuments(c *call, v View) (*reply, error) {
	query, err := c.listQuery()
	if err != nil {
		return nil, err
	}
	coll, err := c.openCollection(v)
	if err != nil {
		return nil, err
	}
	found, err := v.Documents(c.ctx(), coll.ID, query)
	var field *snippet.FieldError
	if errors.As(err, &field) {
		return nil, badParameter(field.Field, err)
	}
	if err != nil {
		return nil, err
	}
	page := wire.DocumentList{Items: make([]wire.Document, len(found.Documents)), NextCursor: found.NextCursor}
	for i := range found.Documents {
		page.Items[i] = renderDocument(coll.Name, &found.Documents[i])
	}
	return &reply{status: 200, body: page}, nil
}

func getDocument(c *call, v View) (*reply, error) {
	form, err := c.withEmbeddings()
	if err != nil {
		return nil, err
	}
	coll, doc, err := c.openDocument(v)
	if err != nil {
		return nil, err
	}
	if c.notModified(doc.Revision) {
		return &reply{status: 304, etag: doc.Revision}, nil
	}
	return c.streamDocument(v, coll, doc, form)
}

// streamDocument writes a document with all its snippets, piece by piece. The
// first piece is read before the status is sent, so that nearly every error
// is a proper answer; a later one breaks the connection off.
func (c *call) streamDocument(v View, coll *snippet.Collection, doc *snippet.Document, form vectorForm) (*reply, error) {
	head, err := json.Marshal(renderDocument(coll.Name, doc))
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	buf.Write(head[:len(head)-1]) // without its closing brace
	buf.WriteString(`,"snippets":[`)
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	for from := 0; from < doc.SnippetCount; {
		piece, err := v.Snippets(c.ctx(), coll.ID, doc, from, snippetPiece, form != noVectors)
		if err != nil {
			return nil, err
		}
		if len(piece) == 0 {
			return nil, fmt.Errorf("httpapi: document %q has %d snippets, number %d is missing", doc.ID, doc.SnippetCount, from)
		}
		for i := range piece {
			if from+i > 0 {
				buf.WriteByte(',')
			}
			if err := enc.Encode(renderSnippet(&piece[i], form)); err != nil {
				return nil, err
			}
			buf.Truncate(buf.Len() - 1) // Encode ends with a newline
		}
		if from += len(piece); from < doc.SnippetCount {
			c.startStream(wire.TypeJSON, doc.Revision)
			if c.head() {
				return &reply{written: true}, nil
			}
			if _, err := c.g.Writer.Write(buf.Bytes()); err != nil {
				return nil, fmt.Errorf("httpapi: write answer: %w", err)
			}
			buf.Reset()
		}
	}
	buf.WriteString("]}\n")
	if !c.g.Writer.Written() {
		return &reply{status: 200, raw: buf.Bytes(), contentType: wire.TypeJSON, etag: doc.Revision}, nil
	}
	_, _ = c.g.Writer.Write(buf.Bytes()) // an error is a client that went away
	return &reply{written: true}, nil
}

// startStream sends the header of an answer whose length is not known.
func (c *call) startStream(contentType string, revision uint64) {
	if c.g.Writer.Written() {
		return
	}
	c.setHeaders()
	h := c.g.Writer.Header()
	h.Set("Content-Type", contentType)
	if c.route.Stream != nil {
		// An import may end before its body. With full duplex, net/http would
		// take what is left of the body for the next request.
		h.Set("Connection", "close")
	}
	if revision != 0 {
		h.Set("ETag", etag(revision))
	}
	c.g.Writer.WriteHeader(http.StatusOK)
	c.g.Writer.WriteHeaderNow()
}

func createDocument(c *call, body []byte) (*write, error) {
	collection, err := c.collectionName()
	if err != nil {
		return nil, err
	}
	var in wire.DocumentInput
	if err := decodeJSON(body, &in); err != nil {
		return nil, err
	}
	id := in.ID
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("httpapi: make a document id: %w", err)
		}
		id = made.String()
	} else if err := snippet.ValidateID("id", id); err != nil {
		return nil, err
	}
	b := newBuilder(collection)
	m, err := b.putDocument(id, &in)
	if err != nil {
		return nil, err
	}
	m.Condition = &command.Condition{IfAbsent: true}
	return newWrite(b, m, documentReply), nil
}

func putDocument(c *call, body []byte) (*write, error) {
	var in wire.DocumentInput
	return c.documentWrite(body, &in, documentReply, func(b *builder, id string) (*command.Mutation, error) {
		if in.ID != "" && in.ID != id {
			return nil, b.wrong("id", "is %q, and the path says %q; leave it out", in.ID, id)
		}
		return b.putDocument(id, &in)
	})
}

func patchDocument(c *call, body []byte) (*write, error) {
	var in wire.DocumentPatch
	return c.documentWrite(body, &in, documentReply, func(b *builder, id string) (*command.Mutation, error) {
		return b.patchDocument(id, &in)
	})
}

func deleteDocument(c *call, _ []byte) (*write, error) {
	return c.documentWrite(nil, nil, deleted, func(b *builder, id string) (*command.Mutation, error) {
		m := b.mutation()
		m.Op = &command.Mutation_DeleteDocument{DeleteDocument: &command.DeleteDocument{Id: id}}
		return m, nil
	})
}

// documentWrite parses what all writes to the path's document have, decodes
// the body into in (nil: there is none), and lets build make the mutation.
func (c *call) documentWrite(body []byte, in any, rep func(*command.Result) *reply,
	build func(b *builder, id string) (*command.Mutation, error),
) (*write, error) {
	collection, err := c.collectionName()
	if err != nil {
		return nil, err
	}
	id, err := c.documentID()
	if err != nil {
		return nil, err
	}
	condition, err := c.condition()
	if err != nil {
		return nil, err
	}
	if in != nil {
		if err := decodeJSON(body, in); err != nil {
			return nil, err
		}
	}
	b := newBuilder(collection)
	m, err := build(b, id)
	if err != nil {
		return nil, err
	}
	m.Condition = condition
	return newWrite(b, m, rep), nil
}

// documentReply answers with the document of the result.
func documentReply(r *command.Result) *reply {
	rep := applied(r, renderResultDocument(r.GetDocument()))
	if rep.status == http.StatusCreated {
		rep.location = documentPath(r.GetDocument().GetCollection(), r.GetDocument().GetId())
	}
	return rep
}

func deleteOwner(c *call, _ []byte) (*write, error) {
	collection, err := c.collectionName()
	if err != nil {
		return nil, err
	}
	owner, err := c.owner()
	if err != nil {
		return nil, err
	}
	if owner.IsZero() {
		return nil, badRequest(wire.CodeInvalidParameter, wire.ParamOwnerType, "owner_type and owner_id say whose documents to delete; to delete all, delete the collection")
	}
	b := newBuilder(collection)
	m, err := b.deleteOwner(&wire.Owner{Type: owner.Type, ID: owner.ID})
	if err != nil {
		return nil, err
	}
	return newWrite(b, m, func(r *command.Result) *reply {
		return &reply{status: http.StatusOK, body: wire.DeleteOwnerResult{Deleted: int(r.GetUpdated()), More: r.GetMore(), Revision: r.GetIndex()}}
	}), nil
}
