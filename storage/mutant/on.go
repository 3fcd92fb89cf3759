//go:build mutants

package mutant

import (
	"fmt"
	"os"
	"sync"
)

// Enabled says whether this binary was built with the tag.
const Enabled = true

// The variables that are read.
const (
	variable     = "SNIPDB_MUTANT"
	markVariable = "SNIPDB_MUTANT_MARK"
)

// chosen is the mutant of this process, "" for none. It is read once. A name
// that is none ends the process: a test of it would prove nothing.
var chosen = sync.OnceValue(func() Name {
	name := Name(os.Getenv(variable))
	if name != "" && All()[name] == "" {
		fmt.Fprintf(os.Stderr, "mutant: there is none called %q\n", name)
		os.Exit(2)
	}
	return name
})

// mark says once that the mistake was reached: a run that never came to it
// has tested nothing.
var mark = sync.OnceFunc(func() {
	fmt.Fprintf(os.Stderr, "mutant %s: reached\n", chosen())
	if path := os.Getenv(markVariable); path != "" {
		if err := os.WriteFile(path, []byte(chosen()), 0o600); err != nil {
			fmt.Fprintf(os.Stderr, "mutant: %v\n", err)
			os.Exit(2)
		}
	}
})

// On says whether a mistake is to be made.
func On(name Name) bool {
	if name != chosen() {
		return false
	}
	mark()
	return true
}

// IsVariable says whether an environment variable is this package's.
func IsVariable(name string) bool { return name == variable || name == markVariable }
