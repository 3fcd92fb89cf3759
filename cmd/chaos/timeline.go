package chaos

import (
	"cmp"
	"slices"
	"sort"

	"github.com/snipdb/snipdb/httpapi/client"
)

// field is a part of a document that some writes set and others leave alone.
type field int

const (
	fieldTitle field = iota
	fieldContent
	fieldModel
	fieldRest
	fields
)

func (f field) String() string { return [...]string{"title", "text", "model", "rest"}[f] }

// creates says that the write makes the document if it is absent.
func (o *Op) creates() bool {
	switch o.Kind {
	case KindPut, KindCollPut, KindCreate, KindImport, KindPairWrite:
		return true
	}
	return false
}

// deletes says that the document is gone after the write.
func (o *Op) deletes() bool {
	switch o.Kind {
	case KindDelete, KindDeleteOwner, KindPairDelete, KindCollDelete:
		return true
	}
	return false
}

// changesNothing says that the call is a deletion by owner that found nothing:
// it is acknowledged, and tells that the document is absent.
func (o *Op) changesNothing() bool {
	return o.Outcome == OK && o.Deleted == 0 && (o.Kind == KindDeleteOwner || o.Kind == KindPairDelete)
}

// sets returns what the write makes of a field; false if it leaves it alone.
func (o *Op) sets(f field) (string, bool) {
	switch {
	case o.deletes():
		return "", true
	case o.Kind == KindCollPut:
		if f == fieldTitle {
			return o.Token, true
		}
		return "", true
	case o.creates():
		switch {
		case f == fieldModel && !o.Model:
			return "", true
		case f == fieldRest:
			return restOf(o.Token), true
		}
		return o.Token, true
	case o.Kind == KindPatch:
		return o.Token, f == fieldTitle
	case o.Kind == KindPutSnippet, o.Kind == KindPatchSnippet:
		if f == fieldModel {
			return "", true // new text takes the embedding away
		}
		return o.Token, f == fieldContent
	case o.Kind == KindEmbed, o.Kind == KindVector:
		return o.Token, f == fieldModel
	}
	return "", false
}

// isWrite says that the call changes a document or a collection that reads
// look at.
func isWrite(o *Op) bool {
	return !o.IsRead() && (o.creates() || o.deletes() || isRegisterKind(o.Kind))
}

// timeline is what is known of one document by index: the revision of a
// document is the index of its last write, so acknowledged writes are in order.
type timeline struct {
	writes []*Op // acknowledged, by index
	// open are writes of unknown outcome, and those that may be applied again.
	open []opened
}

// opened is a write that may have been applied at any index above after: what
// had been acknowledged, on any document, when it was sent.
type opened struct {
	*Op
	after uint64
}

func timelines(ops []*Op) map[string]*timeline {
	all := map[string]*timeline{}
	known := newAcked(ops, func(o *Op) bool { return !o.IsRead() || o.Level == client.LevelLinearizable })
	for _, o := range ops {
		if !isWrite(o) || o.changesNothing() || o.Outcome != OK && o.Outcome != Unknown {
			continue
		}
		t := all[o.Key]
		if t == nil {
			t = &timeline{}
			all[o.Key] = t
		}
		if o.Outcome == OK {
			t.writes = append(t.writes, o)
		}
		if o.Outcome == Unknown || o.Again {
			t.open = append(t.open, opened{o, known.before(o.Call)})
		}
	}
	for _, t := range all {
		slices.SortFunc(t.writes, func(a, b *Op) int { return cmp.Compare(a.Index, b.Index) })
	}
	return all
}

// upTo are the acknowledged writes up to an index.
func (t *timeline) upTo(index uint64) []*Op {
	if t == nil {
		return nil
	}
	return t.writes[:sort.Search(len(t.writes), func(i int) bool { return t.writes[i].Index > index })]
}

// last is the last acknowledged write up to an index, or nil.
func (t *timeline) last(index uint64) *Op {
	writes := t.upTo(index)
	if len(writes) == 0 {
		return nil
	}
	return writes[len(writes)-1]
}

// writer is a write that may have made a field what a read shows.
type writer struct {
	*Op
	// from and to are the indices between which it was applied, both included.
	from, to uint64
	open     bool
}

// writers are those that may have made a field what a read shows in a state of
// revision rev: the last acknowledged one that sets the field, or one of unknown
// outcome that may have come behind it.
func (t *timeline) writers(f field, value string, rev uint64, read *Op) (found []writer) {
	last := uint64(0)
	writes := t.upTo(rev)
	for i := len(writes) - 1; i >= 0; i-- {
		if made, sets := writes[i].sets(f); sets {
			last = writes[i].Index
			if made == value && !writes[i].deletes() {
				found = append(found, writer{writes[i], last, last, false})
			}
			break
		}
	}
	for _, o := range t.openUntil(read) {
		made, sets := o.sets(f)
		if from := max(last, o.after) + 1; sets && made == value && !o.deletes() && from <= rev {
			found = append(found, writer{o.Op, from, rev, true})
		}
	}
	return found
}

// openUntil are the open writes that had been sent before a read returned.
func (t *timeline) openUntil(read *Op) (out []opened) {
	if t == nil {
		return nil
	}
	for _, o := range t.open {
		if o.Call < read.Return {
			out = append(out, o)
		}
	}
	return out
}

// explain returns why a read can't have seen what it saw, or "".
func (t *timeline) explain(o *Op) string {
	last, seen := t.last(o.Index), o.Seen
	switch {
	case seen == nil && (last == nil || last.deletes()):
		return ""
	case seen == nil:
		for _, open := range t.openUntil(o) {
			if open.deletes() && open.after < o.Index {
				return ""
			}
		}
		return describe("it is absent, after %s %s at %d was acknowledged", last.Kind, last.Token, last.Index)
	case seen.Damage != "":
		return seen.Damage
	case seen.Revision > o.Index:
		return describe("revision %d is of a later state", seen.Revision)
	case last != nil && seen.Revision < last.Index:
		return describe("it shows revision %d, and misses %s %s at %d", seen.Revision, last.Kind, last.Token, last.Index)
	}
	return t.explainFields(o, last)
}

// explainFields folds the writes up to the revision that a read shows: each
// field must be what the last write that sets it made of it.
func (t *timeline) explainFields(o, last *Op) string {
	seen := o.Seen
	values := []string{fieldTitle: seen.Title, fieldContent: seen.Content, fieldModel: seen.Model, fieldRest: seen.Rest}
	if seen.Titles {
		values = values[:fieldModel] // of two documents, see seePair
	}
	var choices [][]writer
	for f, value := range values {
		found := t.writers(field(f), value, seen.Revision, o)
		if len(found) == 0 {
			return describe("revision %d has the %s %q, and should have that of %s", seen.Revision, field(f), value, t.lastSetter(field(f), seen.Revision))
		}
		choices = append(choices, found)
	}
	if !fits(choices, nil, seen.Revision, last != nil && last.Index == seen.Revision) {
		return describe("revision %d (title %s, text %s, model %s, rest %s) was made by no order of writes that could have been applied",
			seen.Revision, seen.Title, seen.Content, seen.Model, seen.Rest)
	}
	return ""
}

// lastSetter names the last acknowledged write that sets a field.
func (t *timeline) lastSetter(f field, rev uint64) string {
	writes := t.upTo(rev)
	for i := len(writes) - 1; i >= 0; i-- {
		if _, sets := writes[i].sets(f); sets {
			return describe("%s %s at %d", writes[i].Kind, writes[i].Token, writes[i].Index)
		}
	}
	return "no write"
}

// fits says whether one writer can be chosen for each field, so that there is an
// order in which each field shows its last writer, and one of them made the
// revision. made says that an acknowledged write has made it.
func fits(choices [][]writer, chosen []writer, rev uint64, made bool) bool {
	if len(chosen) == len(choices) {
		return made || slices.ContainsFunc(chosen, func(w writer) bool { return w.open && w.to == rev && w.visible(chosen) })
	}
	for _, w := range choices[len(chosen)] {
		if ordered(append(slices.Clone(chosen), w)) && fits(choices, append(slices.Clone(chosen), w), rev, made) {
			return true
		}
	}
	return false
}

// ordered says that each writer can come before those of the other fields that
// it sets as well, and does not show in.
func ordered(chosen []writer) bool {
	for f, w := range chosen {
		for g, other := range chosen {
			if f == g || w.Op == other.Op {
				continue
			}
			_, over := w.sets(field(g))
			_, under := other.sets(field(f))
			if over && (under || w.from >= other.to) {
				return false
			}
		}
	}
	return true
}

// visible says that all that the write sets is what shows.
func (w writer) visible(chosen []writer) bool {
	for f, other := range chosen {
		if _, sets := w.sets(field(f)); sets && other.Op != w.Op {
			return false
		}
	}
	return true
}
