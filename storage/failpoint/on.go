//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Enabled says whether this binary was built with the tag.
const Enabled = true

// The variables that Arm reads.
const (
	variable     = "SNIPDB_FAILPOINTS"
	fileVariable = "SNIPDB_FAILPOINTS_FILE"
)

// set is what this process is armed with.
var set struct {
	mu sync.Mutex // guards what follows; never held over an action
	// file is read again when its modification time changes.
	file    string
	changed time.Time
	fixed   map[Name]*armed // from the environment
	armed   map[Name]*armed // from the file, which has the last word
}

// armed is a point with its action.
type armed struct {
	rule
	hits int // since it was armed
}

// IsVariable says whether an environment variable is Arm's.
func IsVariable(name string) bool { return name == variable || name == fileVariable }

// Arm reads the environment (as os.Environ gives it). It refuses names that
// are no points and actions that a point does not have: a test with a spelling
// mistake would pass without testing anything.
func Arm(environment []string) error {
	set.mu.Lock()
	defer set.mu.Unlock()
	set.file, set.changed, set.fixed, set.armed = "", time.Time{}, nil, nil
	for _, entry := range environment {
		name, text, _ := strings.Cut(entry, "=")
		switch name {
		case variable:
			rules, err := parse(text)
			if err != nil {
				return fmt.Errorf("failpoint: %s: %w", variable, err)
			}
			set.fixed = arm(rules)
		case fileVariable:
			set.file = text
		}
	}
	return reread()
}

func arm(rules []rule) map[Name]*armed {
	m := map[Name]*armed{}
	for _, r := range rules {
		m[r.name] = &armed{rule: r}
	}
	return m
}

// reread reads the file if it has changed; that it is not there means that
// nothing is armed by it. set.mu is held.
func reread() error {
	if set.file == "" {
		return nil
	}
	info, err := os.Stat(set.file)
	if err != nil || info.ModTime().Equal(set.changed) {
		return nil
	}
	text, err := os.ReadFile(set.file)
	if err != nil {
		return nil
	}
	rules, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("failpoint: %s: %w", set.file, err)
	}
	set.changed, set.armed = info.ModTime(), arm(rules)
	return nil
}

// due counts a hit and returns the rule, if it is to be followed now.
func due(name Name) (rule, int, bool) {
	set.mu.Lock()
	defer set.mu.Unlock()
	if err := reread(); err != nil {
		// The test that wrote the file is wrong, and must not pass.
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	a := set.armed[name]
	if a == nil {
		a = set.fixed[name]
	}
	if a == nil {
		return rule{}, 0, false
	}
	a.hits++
	return a.rule, a.hits, a.hits == a.at || a.from && a.hits > a.at
}

// Hit marks a point.
func Hit(name Name) { _ = Error(name) }

// Error marks a point that can fail.
func Error(name Name) error {
	if _, known := points[name]; !known {
		panic("failpoint: " + string(name) + " is not in the list of points")
	}
	r, hits, now := due(name)
	if !now {
		return nil
	}
	// The line is what a test waits for; it is written before the action,
	// because after a kill there is nobody to write it.
	fmt.Fprintf(os.Stderr, "failpoint %s: %s at hit %d\n", name, r.action, hits)
	switch r.action {
	case actionKill:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the kernel takes its time; nothing behind the point may run
	case actionSleep:
		time.Sleep(r.pause)
	case actionError:
		return fmt.Errorf("failpoint %s: %w", name, syscall.EIO)
	}
	return nil
}

// Value returns what the value is set to, or def.
func Value(name Name, def int64) int64 {
	if r, _, now := due(name); now && r.action == actionSet {
		return r.number
	}
	return def
}
