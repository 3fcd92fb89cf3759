package httpapi

import (
	"net/url"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// collectionCursor is the kind of the cursors of the list of collections.
const collectionCursor = "c1"

func listCollections(c *call, v View) (*reply, error) {
	limit, err := c.limit()
	if err != nil {
		return nil, err
	}
	after := ""
	if cursor, ok := c.param(wire.ParamCursor); ok {
		if after, err = parseCursor(collectionCursor, cursor); err != nil {
			return nil, err
		}
	}
	found, err := v.Collections(after, limit+1) // one more, to know whether there is a next page
	if err != nil {
		return nil, err
	}
	page := wire.CollectionList{Items: make([]wire.Collection, 0, min(limit, len(found)))}
	for i := range found[:min(limit, len(found))] {
		page.Items = append(page.Items, renderCollection(&found[i]))
	}
	if len(found) > limit {
		page.NextCursor = cursorOf(collectionCursor, found[limit-1].Name)
	}
	return &reply{status: 200, body: page}, nil
}

func getCollection(c *call, v View) (*reply, error) {
	coll, err := c.openCollection(v)
	if err != nil {
		return nil, err
	}
	if c.notModified(coll.Revision) {
		return &reply{status: 304, etag: coll.Revision}, nil
	}
	return &reply{status: 200, body: renderCollection(coll), etag: coll.Revision}, nil
}

func putCollection(c *call, body []byte) (*write, error) {
	var in wire.CollectionInput
	if len(body) > 0 {
		if err := decodeJSON(body, &in); err != nil {
			return nil, err
		}
	}
	put, err := newBuilder("").putCollection(&in)
	if err != nil {
		return nil, err
	}
	return c.collectionWrite(put, func(r *command.Result) *reply {
		rep := applied(r, renderResultCollection(r.GetCollection()))
		if rep.status == 201 {
			rep.location = "/v1/collections/" + url.PathEscape(r.GetCollection().GetName())
		}
		return rep
	})
}

func deleteCollection(c *call, _ []byte) (*write, error) {
	return c.collectionWrite(&command.Mutation{Op: &command.Mutation_DeleteCollection{DeleteCollection: &command.DeleteCollection{}}}, deleted)
}

// collectionWrite completes a mutation of the path's collection itself.
func (c *call) collectionWrite(m *command.Mutation, rep func(*command.Result) *reply) (*write, error) {
	name, err := c.collectionName()
	if err != nil {
		return nil, err
	}
	m.Collection = name
	if m.Condition, err = c.condition(); err != nil {
		return nil, err
	}
	return newWrite(newBuilder(name), m, rep), nil
}
