package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

func describe(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// Counted is what an exactly-once checker has counted.
type Counted struct {
	Checked, Lost, Duplicated int
}

// CheckCreates checks the documents whose ids the server makes: one that is
// created twice is there twice, and each has what the client sent. there are the
// documents on a node, by title.
func CheckCreates(ops []*Op, node string, there map[string][]*Seen) (Counted, []Violation) {
	const checker = "exactly_once"
	var (
		count Counted
		found []Violation
		known = map[string]bool{}
	)
	for _, o := range ops {
		if o.Kind != KindCreate {
			continue
		}
		count.Checked++
		known[o.Token] = true
		n := len(there[o.Token])
		switch {
		case n > 1:
			count.Duplicated++
			found = append(found, violation(checker, o.Token, "#%d (%s) was applied %d times on %s", o.ID, o.Outcome, n, node))
		case n == 0 && o.Outcome == OK:
			count.Lost++
			found = append(found, violation(checker, o.Token, "#%d was acknowledged at index %d and is not on %s", o.ID, o.Index, node))
		case n == 1 && o.Outcome != OK && o.Outcome != Unknown:
			found = append(found, violation(checker, o.Token, "#%d was answered %s (%s), and is on %s", o.ID, o.Outcome, o.Code, node))
		}
		for _, seen := range there[o.Token] {
			if problem := created(o, seen); problem != "" {
				found = append(found, violation("durability", o.Token, "#%d on %s: %s", o.ID, node, problem))
			}
		}
	}
	for title := range there {
		if !known[title] {
			found = append(found, violation(checker, title, "nobody wrote it, and it is on %s", node))
		}
	}
	return count, found
}

// created says what is wrong with a document that was created and never changed.
func created(o *Op, seen *Seen) string {
	want := Seen{Revision: seen.Revision, Title: o.Token, Content: o.Token, Rest: restOf(o.Token)}
	if o.Outcome == OK {
		want.Revision = o.Index
	}
	switch {
	case seen.Damage != "":
		return seen.Damage
	case seen.Revision != want.Revision || seen.Content != want.Content || seen.Rest != want.Rest || seen.Model != "":
		return describe("it is %+v, and was created as %+v", *seen, want)
	}
	return ""
}

// CheckLimits checks reads of the limits: each shows what was set last up to its
// index, or later, because limits are shown as they are now.
func CheckLimits(ops, reads []*Op) (checked int, found []Violation) {
	sets, acked := map[string]*Op{}, []uint64{}
	for _, o := range ops {
		if o.Kind != KindLimits || o.Outcome != OK && o.Outcome != Unknown {
			continue
		}
		sets[o.Token] = o
		if o.Outcome == OK {
			acked = append(acked, o.Index)
		}
	}
	slices.Sort(acked)
	for _, r := range reads {
		if r.Kind != KindLimitsRead || r.Outcome != OK {
			continue
		}
		checked++
		last := uint64(0)
		if i, exact := slices.BinarySearch(acked, r.Index); exact {
			last = r.Index
		} else if i > 0 {
			last = acked[i-1]
		}
		if problem := limitsShow(r, last, sets); problem != "" {
			found = append(found, violation("limits", "", "read #%d (%s, at %s, index %d): %s", r.ID, r.Level, r.Node, r.Index, problem))
		}
	}
	return checked, found
}

// limitsShow says what is wrong with a read of the limits, which were set by an
// acknowledged call at last, if not at 0.
func limitsShow(r *Op, last uint64, sets map[string]*Op) string {
	if r.Seen == nil {
		if last > 0 {
			return describe("there are none, and they were set at %d", last)
		}
		return ""
	}
	o := sets[r.Seen.Title]
	switch {
	case r.Seen.Damage != "":
		return r.Seen.Damage
	case o == nil || o.Call >= r.Return:
		return describe("they are %s, which nobody has set", r.Seen.Title)
	case o.Outcome == OK && o.Index < last:
		return describe("they are %s of %d, and were set at %d again", r.Seen.Title, o.Index, last)
	}
	return ""
}

// CheckQueueReads checks that each read of a queue shows exactly what the calls
// up to its index made of it. A queue has one client, which makes a call when
// the one before is acknowledged; so only the last can be of unknown outcome.
func CheckQueueReads(ops []*Op) (checked int, found []Violation) {
	calls, reads := map[string][]*Op{}, map[string][]*Op{}
	for _, o := range ops {
		switch {
		case o.Kind == KindQueueRead && o.Outcome == OK:
			reads[o.Key] = append(reads[o.Key], o)
		case (o.Kind == KindAppend || o.Kind == KindPop) && (o.Outcome == OK || o.Outcome == Unknown):
			calls[o.Key] = append(calls[o.Key], o)
		}
	}
	for key, mine := range reads {
		checked += len(mine)
		slices.SortStableFunc(mine, func(a, b *Op) int { return cmp.Compare(a.Index, b.Index) })
		found = append(found, followQueue(key, calls[key], mine)...)
	}
	return checked, found
}

// followQueue goes through the calls and the reads of a queue, by index.
func followQueue(key string, calls, reads []*Op) (found []Violation) {
	var open []*Op
	acked := slices.DeleteFunc(slices.Clone(calls), func(o *Op) bool {
		if o.Outcome == Unknown {
			open = append(open, o)
		}
		return o.Outcome == Unknown
	})
	slices.SortStableFunc(acked, func(a, b *Op) int { return cmp.Compare(a.Index, b.Index) })
	var content []string
	at, revision := 0, uint64(0)
	for _, r := range reads {
		for ; at < len(acked) && acked[at].Index <= r.Index; at++ {
			content, _ = applyQueue(acked[at], content)
			revision = acked[at].Index
		}
		late, ok := content, true
		for _, o := range open {
			if late, ok = applyQueue(o, late); !ok {
				break
			}
		}
		if problem := queueShows(r, content, revision); problem != "" && (len(open) == 0 || !slices.Equal(r.Seen.parts(), late)) {
			found = append(found, violation("prefix", key, "read #%d (%s, at %s, index %d): %s", r.ID, r.Level, r.Node, r.Index, problem))
		}
	}
	return found
}

// parts are those of a queue, none if it is absent.
func (s *Seen) parts() []string {
	if s == nil {
		return nil
	}
	return s.Parts
}

// queueShows says what is wrong with a read of a queue that has a content.
func queueShows(r *Op, content []string, revision uint64) string {
	switch {
	case r.Seen == nil && revision == 0:
		return ""
	case r.Seen == nil:
		return describe("it is absent, and was written at %d", revision)
	case r.Seen.Damage != "":
		return r.Seen.Damage
	case r.Seen.Revision != revision || !slices.Equal(r.Seen.Parts, content):
		return describe("it is %v (revision %d), and should be %v (%d)", r.Seen.Parts, r.Seen.Revision, content, revision)
	}
	return ""
}

// maxQueues bounds the contents that a queue may have, when outcomes are unknown.
const maxQueues = 4096

// CheckQueue checks a document to which one client appends snippets and from
// which it takes the first: an append or a removal that is applied twice, or
// not at all, or late, shows. content are the tokens of the snippets on a node.
func CheckQueue(ops []*Op, key, node string, content []string) (Counted, []Violation) {
	const checker = "exactly_once"
	var mine []*Op
	for _, o := range ops {
		if o.Key == key && (o.Kind == KindAppend || o.Kind == KindPop) {
			mine = append(mine, o)
		}
	}
	slices.SortStableFunc(mine, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	possible := map[string][]string{"": nil}
	for _, o := range mine {
		if o.Outcome != OK && o.Outcome != Unknown {
			continue
		}
		next := map[string][]string{}
		for text, q := range possible {
			if o.Outcome == Unknown {
				next[text] = q
			}
			if applied, ok := applyQueue(o, q); ok {
				next[strings.Join(applied, " ")] = applied
			}
		}
		if len(next) > maxQueues {
			return Counted{}, []Violation{violation(checker, key, "too many writes of unknown outcome to say anything")}
		}
		possible = next
	}
	count := Counted{Checked: len(mine)}
	if _, ok := possible[strings.Join(content, " ")]; ok {
		return count, nil
	}
	count.Lost, count.Duplicated = compareQueue(possible, content)
	return count, []Violation{violation(checker, key, "after %d calls %s has %v; it should have %v", len(mine), node, content, someOf(possible))}
}

func applyQueue(o *Op, q []string) ([]string, bool) {
	if o.Kind == KindAppend {
		return append(slices.Clone(q), o.Token), true
	}
	if len(q) == 0 {
		return nil, false
	}
	return q[1:], true
}

// compareQueue counts what is missing and what is there twice, against one of
// the possible contents.
func compareQueue(possible map[string][]string, content []string) (lost, duplicated int) {
	there := map[string]int{}
	for _, token := range content {
		if there[token]++; there[token] > 1 {
			duplicated++
		}
	}
	for _, token := range someOf(possible) {
		if there[token] == 0 {
			lost++
		}
	}
	return lost, duplicated
}

// someOf is the shortest of the possible contents: what must be there in any case.
func someOf(possible map[string][]string) []string {
	var shortest []string
	for i, text := range slices.Sorted(maps.Keys(possible)) {
		if q := possible[text]; i == 0 || len(q) < len(shortest) {
			shortest = q
		}
	}
	return shortest
}
