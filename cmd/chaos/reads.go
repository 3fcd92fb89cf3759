package chaos

import (
	"cmp"
	"slices"
	"sort"

	"github.com/snipdb/snipdb/httpapi/client"
)

// CheckPrefix checks that each read, at whatever level and node, shows the
// state of exactly the index that it names, in all its parts: nothing of a later
// write, and nothing missing of an earlier one. name is the checker's.
func CheckPrefix(name string, ops []*Op, reads []*Op) (checked int, found []Violation) {
	all := timelines(ops)
	for _, o := range reads {
		if !o.IsRead() || o.Outcome != OK || o.Kind == KindQueueRead || o.Kind == KindLimitsRead {
			continue // the last two have checkers of their own
		}
		checked++
		if problem := all[o.Key].explain(o); problem != "" {
			found = append(found, violation(name, o.Key, "read #%d (%s, at %s, index %d): %s", o.ID, o.Level, o.Node, o.Index, problem))
		}
	}
	return checked, found
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

// CheckFresh checks the index that reads of a level were answered at against what had been
// acknowledged before: a linearizable read needs all of it, and all that
// earlier linearizable reads saw; a bounded one what was acknowledged before
// its bound. With CheckPrefix this covers every document.
func CheckFresh(ops []*Op, level string) (checked int, found []Violation) {
	writes := newAcked(ops, func(o *Op) bool { return !o.IsRead() })
	linearizable := newAcked(ops, func(o *Op) bool { return !o.IsRead() || o.Level == client.LevelLinearizable })
	for _, o := range ops {
		if !o.IsRead() || o.Outcome != OK || o.Level != level {
			continue
		}
		need := linearizable.before(o.Call)
		if level == client.LevelBounded {
			need = writes.before(o.Call - o.BoundMs*1e6)
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
		if o.Outcome == OK && o.Client >= 0 && o.Kind != KindImport { // an import is not part of a session
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
		if o.Kind == KindPairDelete && o.Outcome == OK && o.Deleted != 0 && o.Deleted != 2 {
			found = append(found, violation("atomic", o.Key, "deletion by owner #%d has deleted %d documents of a pair", o.ID, o.Deleted))
		}
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
