package storage

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/snipdb/snipdb/storage/snippet"
)

// TestPages walks listings of all orders and filters with random page sizes,
// while documents come and go between the pages: what exists all the time is
// listed exactly once, in order.
func TestPages(t *testing.T) {
	o := small()
	shared := newShared(t, o)
	rapid.Check(t, func(rt *rapid.T) {
		db, err := Open(t.TempDir(), o, shared)
		noErr(rt, err)
		defer func() { noErr(rt, db.Close()) }()
		var c *snippet.Collection
		docs := map[string]snippet.Document{}
		owners := []snippet.Owner{{}, {Type: "a", ID: "x"}, {Type: "a", ID: "xy"}}
		write := func(id string, o snippet.Owner, lang string) {
			commit(t, db, func(b *Batch) {
				if c == nil {
					c = newCollection(t, b, "c")
				}
				ordinal, err := b.NewOrdinal(c)
				noErr(rt, err)
				d := snippet.Document{ID: id, Owner: o, Ordinal: ordinal, Metadata: fmt.Appendf(nil, `{"lang":%q,"n":7}`, lang)}
				noErr(rt, b.PutDocument(c.ID, &d, true))
				docs[id] = d
			})
		}
		n := rapid.IntRange(1, 40).Draw(rt, "documents")
		for i := range n {
			write(fmt.Sprintf("%02d", (i*17)%100), rapid.SampledFrom(owners).Draw(rt, "owner"), rapid.SampledFrom([]string{"en", "de"}).Draw(rt, "lang"))
		}
		q := snippet.ListQuery{Limit: rapid.IntRange(1, 15).Draw(rt, "limit")}
		q.Order = rapid.SampledFrom([]snippet.Order{snippet.ByID, snippet.ByIDDesc, snippet.ByCreated, snippet.ByCreatedDesc}).Draw(rt, "order")
		q.Owner = rapid.SampledFrom(owners).Draw(rt, "filter owner")
		if rapid.Bool().Draw(rt, "filter") {
			q.Metadata = map[string]string{"lang": "en", "n": "7"}
		}
		stable := wanted(docs, q)
		added := 0
		var got []string
		for range 100 {
			v, err := db.View()
			noErr(rt, err)
			page, err := v.Documents(context.Background(), c.ID, q)
			v.Close()
			noErr(rt, err)
			for _, d := range page.Documents {
				if _, stays := slices.BinarySearch(sortedIDs(stable), d.ID); stays {
					got = append(got, d.ID)
				}
				equal(rt, "document", d, docs[d.ID])
			}
			if page.NextCursor == "" {
				break
			}
			q.Cursor = page.NextCursor
			added++
			write(fmt.Sprintf("new%03d", added), rapid.SampledFrom(owners).Draw(rt, "owner"), "en")
		}
		var want []string
		for _, d := range stable {
			want = append(want, d.ID)
		}
		equal(rt, "listed documents", got, want)
	})
}

func sortedIDs(docs []snippet.Document) []string {
	var ids []string
	for _, d := range docs {
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	return ids
}

// wanted answers a query from plain data.
func wanted(docs map[string]snippet.Document, q snippet.ListQuery) []snippet.Document {
	var list []snippet.Document
	f := newMetadataFilter(q.Metadata)
	for _, d := range docs {
		if (q.Owner.IsZero() || d.Owner == q.Owner) && f.matches(d.Metadata) {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b snippet.Document) int {
		n := 0
		if byOrdinal(q.Order) {
			n = int(a.Ordinal) - int(b.Ordinal)
		} else if a.ID != b.ID {
			n = map[bool]int{true: -1, false: 1}[a.ID < b.ID]
		}
		if descending(q.Order) {
			n = -n
		}
		return n
	})
	return list
}

// TestPageEnds checks the sizes around the end of a listing, and that a scan
// is bounded.
func TestPageEnds(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	var c *snippet.Collection
	const n = snippet.MaxScan + 10
	commit(t, db, func(b *Batch) {
		c = newCollection(t, b, "c")
		for i := range n {
			d := snippet.Document{ID: fmt.Sprintf("%06d", i), Ordinal: uint64(i + 1)}
			if i == n-1 {
				d.Metadata = []byte(`{"last":true}`)
			}
			must(t, b.PutDocument(c.ID, &d, true))
		}
	})
	v, err := db.View()
	must(t, err)
	defer v.Close()
	ctx := context.Background()
	q := snippet.ListQuery{Metadata: map[string]string{"last": "true"}}
	page, err := v.Documents(ctx, c.ID, q)
	must(t, err)
	if len(page.Documents) != 0 || page.NextCursor == "" {
		t.Fatalf("one page read past MaxScan: %d documents, cursor %q", len(page.Documents), page.NextCursor)
	}
	q.Cursor = page.NextCursor
	page, err = v.Documents(ctx, c.ID, q)
	must(t, err)
	if len(page.Documents) != 1 || page.NextCursor != "" {
		t.Fatalf("the second page: %d documents, cursor %q", len(page.Documents), page.NextCursor)
	}
	// A page that ends exactly at the end has no cursor.
	q = snippet.ListQuery{Limit: 1000, Order: snippet.ByCreated}
	for want := n; want > 0; want -= 1000 {
		page, err := v.Documents(ctx, c.ID, q)
		must(t, err)
		if len(page.Documents) != min(want, 1000) || (page.NextCursor == "") != (want <= 1000) {
			t.Fatalf("%d documents with %d left, cursor %q", len(page.Documents), want, page.NextCursor)
		}
		q.Cursor = page.NextCursor
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := v.Documents(stopped, c.ID, snippet.ListQuery{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled listing: %v", err)
	}
	if _, err := v.Snippets(stopped, c.ID, &snippet.Document{SnippetCount: 100}, 0, 0, false); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read: %v", err)
	}
}

// TestListErrors checks that wrong queries are told by field.
func TestListErrors(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	var c *snippet.Collection
	commit(t, db, func(b *Batch) {
		c = newCollection(t, b, "c")
		for i := range 3 {
			newDocument(t, b, c, fmt.Sprint(i), snippet.Owner{}, 0, 0)
		}
	})
	v, err := db.View()
	must(t, err)
	defer v.Close()
	page, err := v.Documents(context.Background(), c.ID, snippet.ListQuery{Limit: 1})
	must(t, err)
	cursor := page.NextCursor
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	must(t, err)
	change := func(i int, by byte) string {
		b := slices.Clone(raw)
		b[i] += by
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for name, q := range map[string]snippet.ListQuery{
		"order":           {Order: "created_at desc"},
		"limit, negative": {Limit: -1},
		"limit, too high": {Limit: snippet.MaxPage + 1},
		"cursor, no text": {Cursor: "?"},
		"cursor, short":   {Cursor: "AQ"},
		"cursor, damaged": {Cursor: change(len(raw)-1, 1)},
		"cursor, place":   {Cursor: change(len(raw)-5, 1)},
		"cursor, version": {Cursor: change(0, 1)},
		"cursor, order":   {Cursor: cursor, Order: snippet.ByCreated},
		"cursor, owner":   {Cursor: cursor, Owner: snippet.Owner{Type: "a", ID: "b"}},
		"cursor, filter":  {Cursor: cursor, Metadata: map[string]string{"a": "b"}},
		"cursor, long":    {Cursor: string(make([]byte, 10_000))},
	} {
		_, err := v.Documents(context.Background(), c.ID, q)
		var field *snippet.FieldError
		if !errors.As(err, &field) || field.Field != name[:len(field.Field)] {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Every part of the query is bound.
	whole := snippet.ListQuery{Order: snippet.ByID, Owner: snippet.Owner{Type: "a", ID: "b"}, Metadata: map[string]string{"k": "v"}}
	bound := encodeCursor(c.ID, &whole, []byte("d"))
	for name, change := range map[string]func(q *snippet.ListQuery){
		"owner type":   func(q *snippet.ListQuery) { q.Owner.Type = "z" },
		"owner id":     func(q *snippet.ListQuery) { q.Owner.ID = "z" },
		"key":          func(q *snippet.ListQuery) { q.Metadata = map[string]string{"z": "v"} },
		"value":        func(q *snippet.ListQuery) { q.Metadata = map[string]string{"k": "z"} },
		"another pair": func(q *snippet.ListQuery) { q.Metadata = map[string]string{"k": "v", "z": ""} },
		"order":        func(q *snippet.ListQuery) { q.Order = snippet.ByIDDesc },
	} {
		q := whole
		q.Cursor = bound
		if _, err := decodeCursor(c.ID, &q); err != nil {
			t.Fatal(err)
		}
		if change(&q); !errors.Is(func() error { _, err := decodeCursor(c.ID, &q); return err }(), snippet.ErrInvalid) {
			t.Errorf("a cursor of another %s was accepted", name)
		}
	}
	if _, err := v.Documents(context.Background(), c.ID+1, snippet.ListQuery{Cursor: cursor}); !errors.Is(err, snippet.ErrInvalid) {
		t.Errorf("the cursor of another collection: %v", err)
	}
	if _, err := v.Documents(context.Background(), c.ID, snippet.ListQuery{Cursor: cursor, Limit: 2}); err != nil {
		t.Errorf("another limit with the same cursor: %v", err)
	}
}

func TestMetadataFilter(t *testing.T) {
	for _, c := range []struct {
		metadata, key, value string
		want                 bool
	}{
		{`{"lang":"en"}`, "lang", "en", true},
		{`{"lang":"en"}`, "lang", "de", false},
		{`{"lang":"en"}`, "la", "en", false},
		{`{"n":1.50}`, "n", "1.50", true},
		{`{"n":1.50}`, "n", "1.5", false},
		{`{"b":true}`, "b", "true", true},
		{`{"s":"true"}`, "s", "true", true},
		{`{"z":null}`, "z", "null", true},
		{`{"o":{"lang":"en"}}`, "lang", "en", false},
		{`{"o":{"lang":"en"}}`, "o", `{"lang":"en"}`, true},
		{`{"q\"k":"a\"b"}`, `q"k`, `a"b`, true},
		{`{"ü":"ö"}`, "ü", "ö", true},
		{``, "lang", "", false},
	} {
		f := newMetadataFilter(map[string]string{c.key: c.value})
		if got := f.matches([]byte(c.metadata)); got != c.want {
			t.Errorf("%s with %s=%s: %v", c.metadata, c.key, c.value, got)
		}
	}
}

// FuzzCursor looks for a cursor that panics, or that is accepted with a place
// that can't be one.
func FuzzCursor(f *testing.F) {
	q := snippet.ListQuery{Order: snippet.ByID}
	f.Add(encodeCursor(1, &q, []byte("doc")), false)
	f.Add(encodeCursor(1, &snippet.ListQuery{Order: snippet.ByCreated}, make([]byte, 8)), true)
	f.Add("", false)
	f.Fuzz(func(t *testing.T, cursor string, created bool) {
		q := snippet.ListQuery{Order: snippet.ByID, Cursor: cursor}
		if created {
			q.Order = snippet.ByCreated
		}
		place, err := decodeCursor(1, &q)
		if err != nil {
			if !errors.Is(err, snippet.ErrInvalid) {
				t.Errorf("%v is no field error", err)
			}
			return
		}
		if back := encodeCursor(1, &q, place); back != cursor {
			t.Errorf("%q is accepted, but the same place is %q", cursor, back)
		}
	})
}
