package failpoint

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The actions.
const (
	actionKill  = "kill"  // SIGKILL of this process
	actionSleep = "sleep" // sleep(ms)
	actionError = "error" // the operation fails with EIO
	actionSet   = "set"   // set(n): a value
)

// rule is one armed point: what, and at which hit.
type rule struct {
	name   Name
	action string
	pause  time.Duration
	number int64
	// at is the hit at which it happens, counted from 1; with from, at every
	// later one too.
	at   int
	from bool
}

// parse reads `name=action[@N[+]]`, several with commas or lines between. It
// names all mistakes at once.
func parse(text string) ([]rule, error) {
	var (
		rules []rule
		errs  []error
	)
	split := func(r rune) bool { return r == ',' || r == '\n' }
	for _, part := range strings.FieldsFunc(text, split) {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		r, err := parseRule(part)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", part, err))
		}
		rules = append(rules, r)
	}
	return rules, errors.Join(errs...)
}

func parseRule(text string) (rule, error) {
	name, what, found := strings.Cut(text, "=")
	r := rule{name: Name(strings.TrimSpace(name)), at: 1}
	k, known := points[r.name]
	if !known {
		return r, errors.New("there is no such point")
	}
	if !found {
		return r, errors.New("no action; write name=kill@N")
	}
	what, place, counted := strings.Cut(strings.TrimSpace(what), "@")
	if counted {
		number, from := strings.CutSuffix(place, "+")
		at, err := strconv.Atoi(number)
		if err != nil || at < 1 {
			return r, fmt.Errorf("hit %q is no number from 1 on", place)
		}
		r.at, r.from = at, from
	}
	return r, r.parseAction(k, what)
}

func (r *rule) parseAction(k kind, what string) error {
	action, argument, hasArgument := strings.Cut(what, "(")
	r.action = action
	var number int64
	if hasArgument {
		var err error
		if number, err = strconv.ParseInt(strings.TrimSuffix(argument, ")"), 10, 64); err != nil || !strings.HasSuffix(argument, ")") {
			return fmt.Errorf("%q is no whole number in brackets", argument)
		}
	}
	switch {
	case action == actionKill && k != value && !hasArgument:
	case action == actionError && k == fallible && !hasArgument:
	case action == actionSleep && k != value && hasArgument && number >= 0:
		r.pause = time.Duration(number) * time.Millisecond
	case action == actionSet && k == value && hasArgument:
		r.number, r.at, r.from = number, 1, true
	default:
		return fmt.Errorf("%q is no action of this point", what)
	}
	return nil
}
