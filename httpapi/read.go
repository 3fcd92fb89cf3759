package httpapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// serveRead passes the consistency gate and serves the read from one view.
func (c *call) serveRead() (*reply, error) {
	if err := c.refuseBody(); err != nil {
		return nil, err
	}
	want, err := c.consistency()
	if err != nil {
		return nil, err
	}
	view, _, err := c.s.backend.View(c.ctx(), want)
	if err != nil {
		return nil, waited(want, err)
	}
	defer view.Close()
	c.index, c.term = view.AppliedPosition()
	return c.route.Read(c, view)
}

// waited says what a wait for the gate that ran into the deadline was for:
// the state asked for did not come, which another node may have.
func waited(want contract.Consistency, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if want.Level == contract.Bounded {
		return fmt.Errorf("%w: %w", contract.ErrTooStale, err)
	}
	return fmt.Errorf("%w: %w", contract.ErrBehind, err)
}

// openCollection returns the collection of the path, or 404.
func (c *call) openCollection(v View) (*snippet.Collection, error) {
	name, err := c.collectionName()
	if err != nil {
		return nil, err
	}
	coll, err := v.Collection(name)
	if err == nil && coll == nil {
		err = badRequest(wire.CodeNotFound, "", "there is no collection %q", name)
	}
	return coll, err
}

// openDocument returns the document of the path and its collection, or 404.
func (c *call) openDocument(v View) (*snippet.Collection, *snippet.Document, error) {
	id, err := c.documentID()
	if err != nil {
		return nil, nil, err
	}
	coll, err := c.openCollection(v)
	if err != nil {
		return nil, nil, err
	}
	doc, err := v.Document(coll.ID, id)
	if err == nil && doc == nil {
		err = badRequest(wire.CodeNotFound, "", "there is no document %q in collection %q", id, coll.Name)
	}
	return coll, doc, err
}

// cursorOf and parseCursor wrap the place where a listing goes on. The kind
// is the listing and the version of its cursors, so that a cursor of another
// listing is an error and not a wrong page.
func cursorOf(kind, place string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + place))
}

func parseCursor(kind, cursor string) (place string, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err == nil {
		if rest, ok := strings.CutPrefix(string(raw), kind+":"); ok {
			return rest, nil
		}
	}
	return "", badRequest(wire.CodeInvalidParameter, wire.ParamCursor, "the cursor is not one of this listing; begin without a cursor")
}
