package chaos

import (
	"cmp"
	"slices"
	"sort"

	"github.com/snipdb/snipdb/httpapi/client"
)

// timeline is what is known of one document by index: the revision of a
// document is the index of its last write, so acknowledged writes are in order.
type timeline struct {
	writes []*Op // acknowledged, by index
	// open are the tokens of writes of unknown outcome; openDelete says that a
	// deletion is among them.
	open       map[string]bool
	openDelete bool
}

// isWrite says that the call changes a document that reads look at.
func isWrite(o *Op) bool { return !o.IsRead() && (isRegisterKind(o.Kind) || o.Kind == KindPairWrite) }

func timelines(ops []*Op) map[string]*timeline {
	all := map[string]*timeline{}
	for _, o := range ops {
		if !isWrite(o) {
			continue
		}
		t := all[o.Key]
		if t == nil {
			t = &timeline{open: map[string]bool{}}
			all[o.Key] = t
		}
		switch o.Outcome {
		case OK:
			t.writes = append(t.writes, o)
		case Unknown:
			t.open[o.Token] = true
			t.openDelete = t.openDelete || o.Kind == KindDelete
		}
	}
	for _, t := range all {
		slices.SortFunc(t.writes, func(a, b *Op) int { return cmp.Compare(a.Index, b.Index) })
	}
	return all
}

// last is the last acknowledged write up to an index, or nil.
func (t *timeline) last(index uint64) *Op {
	if t == nil {
		return nil
	}
	i := sort.Search(len(t.writes), func(i int) bool { return t.writes[i].Index > index })
	if i == 0 {
		return nil
	}
	return t.writes[i-1]
}

// CheckPrefix checks that each read, at whatever level and node, shows the
// state of exactly the index that it names: nothing of a later write, and
// nothing missing of an earlier one. name is the checker's.
func CheckPrefix(name string, ops []*Op, reads []*Op) (checked int, found []Violation) {
	all := timelines(ops)
	for _, o := range reads {
		if !o.IsRead() || o.Outcome != OK {
			continue
		}
		checked++
		if problem := all[o.Key].explain(o); problem != "" {
			found = append(found, violation(name, o.Key, "read #%d (%s, at %s, index %d): %s", o.ID, o.Level, o.Node, o.Index, problem))
		}
	}
	return checked, found
}

// explain returns why a read can't have seen what it saw, or "".
func (t *timeline) explain(o *Op) string {
	last, seen := t.last(o.Index), o.Seen
	switch {
	case seen == nil && (last == nil || last.Kind == KindDelete || t.openDelete):
		return ""
	case seen == nil:
		return describe("the document is absent, after %s %s at %d was acknowledged", last.Kind, last.Token, last.Index)
	case seen.Damage != "":
		return seen.Damage
	case seen.Revision > o.Index:
		return describe("revision %d is of a later state", seen.Revision)
	case last != nil && seen.Revision < last.Index:
		return describe("it shows revision %d, and misses %s %s at %d", seen.Revision, last.Kind, last.Token, last.Index)
	case last != nil && seen.Revision == last.Index:
		return last.contradicts(seen)
	case t == nil || !t.open[seen.Title] && !t.open[seen.Content] && !t.open[seen.Model]:
		return describe("revision %d (title %s, text %s, model %s) was made by no write that could have been applied", seen.Revision, seen.Title, seen.Content, seen.Model)
	}
	return ""
}

// contradicts compares a read with the write that made the revision it shows.
func (o *Op) contradicts(seen *Seen) string {
	want := *seen
	r := register{present: true, title: seen.Title, content: seen.Content, model: seen.Model}
	if o.Kind == KindPairWrite {
		r.title, r.content = o.Token, o.Token
	} else {
		r.apply(o)
	}
	if !r.present {
		return describe("revision %d is a deletion", o.Index)
	}
	want.Title, want.Content, want.Model = r.title, r.content, r.model
	if want != *seen {
		return describe("revision %d has title %s, text %s, model %s, and was written by %s %s", o.Index, seen.Title, seen.Content, seen.Model, o.Kind, o.Token)
	}
	return ""
}

// acked answers "which index was acknowledged by then", over all documents.
type acked struct {
	at    []int64
	index []uint64 // the highest up to then
}

// newAcked takes the calls that keep says, by the time at which they returned.
func newAcked(ops []*Op, keep func(o *Op) bool) *acked {
	var sorted []*Op
	for _, o := range ops {
		if o.Outcome == OK && keep(o) {
			sorted = append(sorted, o)
		}
	}
	slices.SortFunc(sorted, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
	a := &acked{}
	highest := uint64(0)
	for _, o := range sorted {
		highest = max(highest, o.Index)
		a.at, a.index = append(a.at, o.Return), append(a.index, highest)
	}
	return a
}

// before returns the highest index acknowledged before a time.
func (a *acked) before(at int64) uint64 {
	i := sort.Search(len(a.at), func(i int) bool { return a.at[i] >= at })
	if i == 0 {
		return 0
	}
	return a.index[i-1]
}

// CheckFresh checks the index that reads were answered at against what had been
// acknowledged before: a linearizable read needs all of it, and all that
// earlier linearizable reads saw; a bounded one what was acknowledged before
// its bound. With CheckPrefix this covers every document.
func CheckFresh(ops []*Op) (checked int, found []Violation) {
	writes := newAcked(ops, func(o *Op) bool { return !o.IsRead() })
	linearizable := newAcked(ops, func(o *Op) bool { return !o.IsRead() || o.Level == client.LevelLinearizable })
	for _, o := range ops {
		if !o.IsRead() || o.Outcome != OK {
			continue
		}
		var need uint64
		switch o.Level {
		case client.LevelLinearizable:
			need = linearizable.before(o.Call)
		case client.LevelBounded:
			need = writes.before(o.Call - o.BoundMs*1e6)
		default:
			continue
		}
		checked++
		if o.Index < need {
			found = append(found, violation("fresh", o.Key, "%s read #%d at %s was answered at index %d; %d was acknowledged before (bound %d ms)",
				o.Level, o.ID, o.Node, o.Index, need, o.BoundMs))
		}
	}
	return checked, found
}

// CheckSessions checks that a client, whose calls all belong to one session,
// never goes back: session reads are at least at the highest index that the
// session has seen, and a document's revision never falls.
func CheckSessions(ops []*Op) (checked int, found []Violation) {
	sessions := map[int][]*Op{}
	for _, o := range ops {
		if o.Outcome == OK && o.Client >= 0 {
			sessions[o.Client] = append(sessions[o.Client], o)
		}
	}
	for id, calls := range sessions {
		slices.SortStableFunc(calls, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
		highest, revisions := uint64(0), map[string]uint64{}
		for _, o := range calls {
			if o.Level == client.LevelSession {
				checked++
				if o.Index < highest {
					found = append(found, violation("session", o.Key, "client %d: read #%d at %s was answered at index %d; the session had seen %d", id, o.ID, o.Node, o.Index, highest))
				}
				if o.Seen != nil && o.Seen.Revision < revisions[o.Key] {
					found = append(found, violation("session", o.Key, "client %d: read #%d at %s shows revision %d; the session had seen %d", id, o.ID, o.Node, o.Seen.Revision, revisions[o.Key]))
				}
			}
			highest = max(highest, o.Index)
			switch {
			case o.Seen != nil:
				revisions[o.Key] = max(revisions[o.Key], o.Seen.Revision)
			case isWrite(o):
				revisions[o.Key] = max(revisions[o.Key], o.Index)
			}
		}
	}
	return checked, found
}

// CheckPairs checks that the two documents of a batch are never seen apart. A
// read of both comes from one view, at any level.
func CheckPairs(ops []*Op) (checked int, found []Violation) {
	for _, o := range ops {
		if o.Kind != KindPairRead || o.Outcome != OK || o.Seen == nil {
			continue
		}
		checked++
		if o.Seen.Title != o.Seen.Content {
			found = append(found, violation("atomic", o.Key, "read #%d at %s shows %s beside %s", o.ID, o.Node, o.Seen.Title, o.Seen.Content))
		}
	}
	return checked, found
}
