package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/storage/snippet"
)

func (m *memory) View(ctx context.Context, c contract.Consistency) (View, contract.ReadStamp, error) {
	if m.onView != nil {
		if err := m.onView(ctx, c); err != nil {
			return nil, contract.ReadStamp{}, err
		}
	}
	if m.reads != nil {
		return m.reads.View(ctx, c)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.MinIndex > m.index {
		return nil, contract.ReadStamp{}, contract.ErrBehind
	}
	return &memoryView{state: m.state, index: m.index}, contract.ReadStamp{Index: m.index, Term: 1}, nil
}

type memoryView struct {
	state memoryState
	index uint64
}

func (v *memoryView) AppliedPosition() (uint64, uint64) { return v.index, 1 }
func (v *memoryView) Close()                            {}

func (v *memoryView) Collection(name string) (*snippet.Collection, error) {
	c := v.state.collections[name]
	if c == nil {
		return nil, nil
	}
	out := c.Collection
	for _, d := range c.docs {
		out.Documents++
		out.Snippets += uint64(d.SnippetCount)
	}
	return &out, nil
}

func (v *memoryView) Collections(after string, limit int) ([]snippet.Collection, error) {
	var out []snippet.Collection
	for _, name := range slices.Sorted(maps.Keys(v.state.collections)) {
		if name > after && len(out) < limit {
			out = append(out, v.state.collections[name].Collection)
		}
	}
	return out, nil
}

func (v *memoryView) doc(coll uint32, id string) *memoryDoc {
	for _, c := range v.state.collections {
		if c.ID == coll {
			return c.docs[id]
		}
	}
	return nil
}

func (v *memoryView) Document(coll uint32, id string) (*snippet.Document, error) {
	d := v.doc(coll, id)
	if d == nil {
		return nil, nil
	}
	return &d.Document, nil
}

func (v *memoryView) Snippets(ctx context.Context, coll uint32, d *snippet.Document, from, limit int, withVectors bool) ([]snippet.Snippet, error) {
	all := v.doc(coll, d.ID).snippets
	out := slices.Clone(all[min(from, len(all)):min(from+limit, len(all))])
	for i := range out {
		if !withVectors {
			out[i].Vector = nil
		}
	}
	return out, ctx.Err()
}

func (v *memoryView) Documents(_ context.Context, coll uint32, q snippet.ListQuery) (*snippet.ListPage, error) {
	after := ""
	if q.Cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(q.Cursor)
		if err != nil || !bytes.HasPrefix(raw, []byte("m1:")) {
			return nil, &snippet.FieldError{Field: "cursor", Reason: "is not a cursor"}
		}
		after = string(raw[3:])
	}
	var all []snippet.Document
	for _, c := range v.state.collections {
		for _, d := range c.docs {
			if c.ID == coll && (q.Owner.IsZero() || q.Owner == d.Owner) && matches(d.Metadata, q.Metadata) {
				all = append(all, d.Document)
			}
		}
	}
	slices.SortFunc(all, func(a, b snippet.Document) int {
		order := cmp.Compare(a.ID, b.ID)
		if q.Order == snippet.ByIDDesc || q.Order == snippet.ByCreatedDesc {
			order = -order
		}
		return order
	})
	page := &snippet.ListPage{}
	skipping := after != ""
	for _, d := range all {
		if skipping {
			skipping = d.ID != after
			continue
		}
		if len(page.Documents) == q.Limit {
			page.NextCursor = base64.RawURLEncoding.EncodeToString([]byte("m1:" + page.Documents[q.Limit-1].ID))
			break
		}
		page.Documents = append(page.Documents, d)
	}
	return page, nil
}

func matches(metadata []byte, want map[string]string) bool {
	var fields map[string]any
	_ = json.Unmarshal(metadata, &fields)
	for name, value := range want {
		if text, ok := fields[name].(string); !ok || text != value {
			return false
		}
	}
	return true
}

// The admin side.
