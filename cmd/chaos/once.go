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
// created twice is there twice. there is how often each title is on a node.
func CheckCreates(ops []*Op, node string, there map[string]int) (Counted, []Violation) {
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
		n := there[o.Token]
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
	}
	for title := range there {
		if !known[title] {
			found = append(found, violation(checker, title, "nobody wrote it, and it is on %s", node))
		}
	}
	return count, found
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
