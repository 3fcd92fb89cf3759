package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/snipdb/snipdb/storage/snippet"
)

// Documents returns a page of a collection's documents. The error is a
// *snippet.FieldError if the query is wrong ("cursor", "limit", "order"); a
// limit of 0 means snippet.DefaultPage, an empty order means by id. One call
// reads at most snippet.MaxScan records.
//
// Pages of one listing neither repeat nor skip a document that exists all the
// time, whatever is written between them: a page begins behind the key where
// the one before ended.
func (v *View) Documents(ctx context.Context, coll uint32, q snippet.ListQuery) (*snippet.ListPage, error) {
	l, err := newListing(coll, q)
	if err != nil {
		return nil, err
	}
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	return l.page(ctx, s)
}

// listing is one call of Documents.
type listing struct {
	coll   uint32
	q      snippet.ListQuery
	filter metadataFilter
	cf     int
	prefix []byte // what the keys of the scanned rows begin with
	lo, hi []byte
	flags  int
}

// newListing checks the query and chooses the rows that answer it.
func newListing(coll uint32, q snippet.ListQuery) (*listing, error) {
	if q.Order == "" {
		q.Order = snippet.ByID
	}
	if q.Limit == 0 {
		q.Limit = snippet.DefaultPage
	}
	if err := snippet.ValidateOrder("order", q.Order); err != nil {
		return nil, err
	}
	if q.Limit < 0 || q.Limit > snippet.MaxPage {
		return nil, &snippet.FieldError{Field: "limit", Reason: fmt.Sprintf("must be 1 to %d, it is %d", snippet.MaxPage, q.Limit)}
	}
	l := &listing{coll: coll, q: q, filter: newMetadataFilter(q.Metadata), cf: cfListing}
	switch owned := !q.Owner.IsZero(); {
	case owned && byOrdinal(q.Order):
		l.prefix = appendOwner(appendListingPrefix(nil, coll, listOwnerOrdinal), q.Owner)
	case owned:
		l.prefix = appendOwner(appendListingPrefix(nil, coll, listOwnerID), q.Owner)
	case byOrdinal(q.Order):
		l.prefix = appendListingPrefix(nil, coll, listOrdinal)
	default:
		l.cf, l.prefix = cfDocs, appendCollectionPrefix(nil, coll)
	}
	l.lo, l.hi = l.prefix, prefixEnd(l.prefix)
	if descending(q.Order) {
		l.flags = scanReverse
	}
	if q.Cursor == "" {
		return l, nil
	}
	place, err := decodeCursor(coll, &l.q)
	if err != nil {
		return nil, err
	}
	last := append(bytes.Clone(l.prefix), place...)
	if l.flags&scanReverse != 0 {
		l.hi = last // not included
	} else {
		l.lo = append(last, 0) // the first key behind it
	}
	return l, nil
}

// page reads the page.
func (l *listing) page(ctx context.Context, s session) (*snippet.ListPage, error) {
	page := &snippet.ListPage{}
	sc := s.scan(l.cf, l.lo, l.hi, l.flags)
	defer sc.close()
	var place []byte
	for read := 0; ; read++ {
		if read%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("storage: list documents: %w", err)
			}
		}
		key, value, ok := sc.next()
		if !ok {
			return page, scanError(l.cf, sc)
		}
		// One row more is there, so there is a next page.
		if len(page.Documents) == l.q.Limit || read == snippet.MaxScan {
			page.NextCursor = encodeCursor(l.coll, &l.q, place)
			return page, nil
		}
		place = append(place[:0], key[len(l.prefix):]...)
		d, err := l.document(s, key[len(l.prefix):], value)
		if err != nil {
			return nil, err
		}
		if l.filter.matches(d.Metadata) {
			page.Documents = append(page.Documents, *d)
		}
	}
}

// document returns the document of a scanned row.
func (l *listing) document(s session, place, value []byte) (*snippet.Document, error) {
	if l.cf == cfDocs {
		return decodeDocument(string(place), value)
	}
	id := string(value)
	if !byOrdinal(l.q.Order) {
		id = string(place)
	}
	d, err := readDocument(s, l.coll, id)
	if err == nil && d == nil {
		err = fmt.Errorf("storage: list documents: %q is listed but does not exist: %w", id, ErrCorrupt)
	}
	return d, err
}

// metadataFilter keeps documents by top-level fields of their metadata.
type metadataFilter struct {
	want map[string]string
	// needles are texts that the canonical metadata must contain if it is to
	// match: a cheap way out before it is parsed.
	needles [][]byte
}

func newMetadataFilter(want map[string]string) metadataFilter {
	f := metadataFilter{want: want}
	for k := range want {
		if plainText(k) {
			f.needles = append(f.needles, []byte(`"`+k+`":`))
		}
	}
	return f
}

// plainText says whether a string is written in JSON without any escape.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.ValidString(s)
}

// matches says whether the metadata has all wanted fields.
func (f *metadataFilter) matches(metadata []byte) bool {
	if len(f.want) == 0 {
		return true
	}
	for _, needle := range f.needles {
		if !bytes.Contains(metadata, needle) {
			return false
		}
	}
	var fields map[string]json.RawMessage
	if len(metadata) == 0 || json.Unmarshal(metadata, &fields) != nil {
		return false
	}
	for k, want := range f.want {
		raw, ok := fields[k]
		if !ok {
			return false
		}
		if raw[0] == '"' {
			var text string
			if json.Unmarshal(raw, &text) != nil || text != want {
				return false
			}
		} else if string(raw) != want {
			return false
		}
	}
	return true
}
