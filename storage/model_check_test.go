package storage

import (
	"bytes"
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/snipdb/snipdb/storage/snippet"
)

// check compares all that a batch can read.
func (m *machine) check(rt *rapid.T) {
	for _, name := range collNames {
		got, err := m.b.Collection(name)
		noErr(rt, err)
		checkCollection(rt, got, m.now.colls, name)
	}
	n, err := m.b.CollectionCount()
	noErr(rt, err)
	equal(rt, "number of collections", n, len(m.now.colls))
	for _, c := range m.now.colls {
		m.checkBatchDocuments(rt, c)
	}
	for _, k := range sysKeys {
		got, err := m.b.System(k)
		noErr(rt, err)
		checkBytes(rt, "system "+k, got, m.now.system, k)
	}
	rows, err := m.b.SystemPrefix("member/")
	noErr(rt, err)
	equal(rt, "system rows", rows, m.now.systemPrefix("member/"))
	for i := range 6 {
		got, err := m.b.Idempotency(idemHash(i))
		noErr(rt, err)
		want, exists := m.now.idem[idemHash(i)]
		if exists != (got != nil) || exists && string(got) != want.row {
			rt.Fatalf("idempotency %d is %q, want %q, %v", i, got, want.row, exists)
		}
	}
}

func (m *machine) checkBatchDocuments(rt *rapid.T, c snippet.Collection) {
	for _, id := range docIDs {
		got, err := m.b.Document(c.ID, id)
		noErr(rt, err)
		want, exists := m.now.docs[c.ID][id]
		if exists != (got != nil) {
			rt.Fatalf("document %s exists: %v, want %v", id, got != nil, exists)
		}
		if !exists {
			continue
		}
		equal(rt, "document", *got, want.d)
		for i := range len(want.snippets) + 1 {
			s, err := m.b.Snippet(c.ID, got, i, true)
			noErr(rt, err)
			if i == len(want.snippets) {
				equal(rt, "snippet behind the end", s, (*snippet.Snippet)(nil))
			} else {
				equal(rt, "snippet", *s, want.snippets[i])
			}
		}
	}
	for _, o := range owners[1:] {
		limit := 2
		ids, more, err := m.b.OwnerDocuments(c.ID, o, limit)
		noErr(rt, err)
		all := m.now.ownerDocuments(c.ID, o)
		equal(rt, "owner's documents", ids, all[:min(limit, len(all))])
		equal(rt, "more of the owner's documents", more, len(all) > limit)
	}
}

func (m *model) ownerDocuments(coll uint32, o snippet.Owner) []string {
	var ids []string
	for id, d := range m.docs[coll] {
		if d.d.Owner == o {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (m *model) systemPrefix(prefix string) []KV {
	var rows []KV
	for _, k := range slices.Sorted(maps.Keys(m.system)) {
		if strings.HasPrefix(k, prefix) {
			rows = append(rows, KV{Key: k, Value: []byte(m.system[k])})
		}
	}
	return rows
}

// checkView compares all that a view can read.
func (m *machine) checkView(rt *rapid.T, v *View, want *model) {
	list, err := v.Collections("", 0)
	noErr(rt, err)
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
		checkCollection(rt, &c, want.colls, c.Name)
	}
	equal(rt, "collections", names, slices.Sorted(maps.Keys(want.colls)))
	for k := range want.system {
		got, err := v.System(k)
		noErr(rt, err)
		checkBytes(rt, "system "+k, got, want.system, k)
	}
	rows, err := v.SystemPrefix("member/")
	noErr(rt, err)
	equal(rt, "system rows", rows, want.systemPrefix("member/"))
	for id, docs := range want.docs {
		page, err := v.Documents(context.Background(), id, snippet.ListQuery{})
		noErr(rt, err)
		equal(rt, "number of documents", len(page.Documents), len(docs))
		for _, d := range page.Documents {
			equal(rt, "document", d, docs[d.ID].d)
			got, err := v.Snippets(context.Background(), id, &d, 0, 0, true)
			noErr(rt, err)
			equal(rt, "number of snippets", len(got), len(docs[d.ID].snippets))
			for i := range got {
				equal(rt, "snippet", got[i], docs[d.ID].snippets[i])
			}
		}
	}
	m.checkRows(rt, v, want)
}

// checkRows counts the rows, so that nothing stays that no read would show.
func (m *machine) checkRows(rt *rapid.T, v *View, want *model) {
	got := map[string]int{}
	noErr(rt, v.Dump(context.Background(), func(cf, key, _ []byte) error {
		if _, err := DescribeKey(string(cf), key); err != nil {
			return err
		}
		if string(cf) != "meta" || key[0] != metaHash && key[0] != metaPoints {
			got[string(cf)]++
		}
		return nil
	}))
	m.checkHash(rt, v)
	rows := map[string]int{}
	for _, docs := range want.docs {
		for _, d := range docs {
			rows["docs"]++
			rows["listing"]++
			if !d.d.Owner.IsZero() {
				rows["listing"] += 2
			}
			rows["snippet_meta"] += len(d.snippets)
			rows["snippet_text"] += len(d.snippets)
			rows["embeddings"] += d.d.EmbeddedCount
		}
	}
	rows["meta"] = len(want.colls) + len(want.ordinals) + len(want.system)
	if want.nextID > 1 {
		rows["meta"] += 2 // next collection id, number of collections
	}
	for _, cf := range []string{"meta", "docs", "listing", "snippet_meta", "snippet_text", "embeddings"} {
		equal(rt, "rows of "+cf, got[cf], rows[cf])
	}
	if n := got["idempotency"]; n > 2*len(want.idem)+1 || n < 2*len(want.idem) {
		rt.Fatalf("%d rows of idempotency for %d keys", n, len(want.idem))
	}
}

// checkHash compares the state hash that was kept, step by step, with one made
// of all rows, and the newest point with the hash when it was marked.
func (m *machine) checkHash(rt *rapid.T, v *View) {
	r, err := v.Verify(context.Background(), VerifyOptions{})
	noErr(rt, err)
	if !r.OK() {
		rt.Fatalf("verification: %s", strings.Join(r.Problems, "\n"))
	}
	sum, points, err := v.StateHash()
	noErr(rt, err)
	equal(rt, "state hash", sum, r.Computed)
	index := v.Position().Index
	if index == 0 {
		return
	}
	equal(rt, "points", len(points), min(int(index), MaxPoints))
	equal(rt, "newest point", points[len(points)-1], Point{Position: v.Position(), Sum: sum})
}

func checkCollection(rt *rapid.T, got *snippet.Collection, colls map[string]snippet.Collection, name string) {
	want, exists := colls[name]
	if exists != (got != nil) || exists && *got != want {
		rt.Fatalf("collection %s is %+v, want %+v", name, got, want)
	}
}

func checkBytes(rt *rapid.T, what string, got []byte, all map[string]string, key string) {
	want, exists := all[key]
	if exists != (got != nil) || exists && !bytes.Equal(got, []byte(want)) {
		rt.Fatalf("%s is %q, want %q, %v", what, got, want, exists)
	}
}

func equal(rt *rapid.T, what string, got, want any) {
	if reflect.ValueOf(got).Kind() == reflect.Slice && reflect.ValueOf(got).Len() == 0 && reflect.ValueOf(want).Len() == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		rt.Fatalf("%s is %+v, want %+v", what, got, want)
	}
}
