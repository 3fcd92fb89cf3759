package mutants

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// check is one command that should fail when a mutant is on: a test binary,
// what of it is to run, and with which settings.
type check struct {
	// name is what the report calls it.
	name string
	// pkg is the package of the test binary.
	pkg string
	run string
	env []string
	// processes says that the mistake is made by the nodes that the test starts,
	// and not by the test's own process.
	processes bool
	// failed finds the checkers that failed in an output.
	failed func(out string) []string
	// by are the checkers whose failure is a catch: those that make sense for
	// the mistake. Another one might have failed for the machine. None: all.
	by []string
}

// The bounds of a run.
const (
	// chaosTime is how long the faults of a chaos run go on; its checks come on top.
	chaosTime = 20 * time.Second
	checkWait = 6 * time.Minute
)

// chaos is a chaos run with these kinds of faults.
func chaos(faults string, by ...string) check { return chaosFor(chaosTime, faults, by...) }

// chaosFor is a longer one, for what is not met in each fault.
func chaosFor(d time.Duration, faults string, by ...string) check {
	return check{
		name: "chaos " + faults, pkg: "cmd/chaos", run: "^TestChaos$", processes: true, failed: failedInChaos, by: by,
		env: []string{"SNIPDB_CHAOS_DURATION=" + d.String(), "SNIPDB_CHAOS_FAULTS=" + faults},
	}
}

// crash is a row of the crash matrix.
func crash(row string, by ...string) check { return crashRow("crash matrix", "MATRIX", row, by) }

// power is a row of the power cuts.
func power(row string, by ...string) check { return crashRow("power cut", "POWER", row, by) }

func crashRow(what, kind, row string, by []string) check {
	c := check{name: what + " " + row, pkg: "cmd/crashmatrix", processes: true, failed: failedInCrash, by: by}
	point := "SNIPDB_CRASH_POINT=^" + regexp.QuoteMeta(row) + "$"
	if kind == "POWER" {
		c.run, c.env = "^TestPowerCut$", []string{"SNIPDB_POWER_CUT=1", point}
	} else {
		c.run, c.env = "^TestCrashMatrix$", []string{"SNIPDB_CRASH_MATRIX=1", point}
	}
	return c
}

// unit are tests of a package, which makes the mistake in the test's process.
// Each of them is a checker.
func unit(pkg, tests string) check {
	return check{name: pkg + " " + tests, pkg: pkg, run: "^(" + tests + ")", failed: failedTests}
}

// What failures look like. A line of t.Log has the same beginning as one of
// t.Error, so the line of an error says itself that it is one.
var (
	failedTest = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)
	// A violation of the crash matrix names its checker.
	crashLine = regexp.MustCompile(`(?m)^ +\w+\.go:\d+: violation ([a-z_]+): `)
	// Package proctest ends a test with these two.
	startLine = regexp.MustCompile(`(?m)^ +\w+\.go:\d+: proctest: \S+ ended before it was ready`)
	readyLine = regexp.MustCompile(`(?m)^ +\w+\.go:\d+: \S+ is ready: not after`)
	// A chaos run ends with the number of its violations, and a line for each,
	// two columns further in than other lines.
	chaosEnd  = regexp.MustCompile(`(?m)^ +\w+\.go:\d+: seed \d+: \d+ violations\n((?: {8}.*\n?)*)`)
	chaosLine = regexp.MustCompile(`(?m)^ {10}([a-z_]+): `)
)

func failedTests(out string) []string { return names(failedTest.FindAllStringSubmatch(out, -1)) }

func failedInCrash(out string) []string {
	found := crashLine.FindAllStringSubmatch(out, -1)
	if startLine.MatchString(out) {
		found = append(found, []string{"", "start"})
	}
	if readyLine.MatchString(out) {
		found = append(found, []string{"", "ready"})
	}
	return names(found)
}

func failedInChaos(out string) []string {
	var found [][]string
	for _, end := range chaosEnd.FindAllStringSubmatch(out, -1) {
		found = append(found, chaosLine.FindAllStringSubmatch(end[1], -1)...)
	}
	return names(found)
}

// names are the first groups of matches, sorted, each once.
func names(matches [][]string) []string {
	found := map[string]bool{}
	for _, m := range matches {
		found[m[1]] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// caught divides the checkers that failed into those that catch the mutant and
// the others.
func (c check) caught(out string) (by, beside []string) {
	for _, name := range c.failed(out) {
		if len(c.by) == 0 || slices.Contains(c.by, name) {
			by = append(by, name)
		} else {
			beside = append(beside, name)
		}
	}
	return by, beside
}

// Only an error of a checker that may see the mistake is a catch.
func TestWhatIsACatch(t *testing.T) {
	const ofChaos = "--- FAIL: TestChaos (30.00s)\n    chaos_test.go:62: seed 7\n" +
		"    chaos_test.go:77: \n        seed  7\n          fresh: a line of the table\n" +
		"    chaos_test.go:80: seed 7: 2 violations\n          %s: of key\n          progress: no write\n" +
		"    proctest.go:400: the end of the log of n1:\n          session: what a node says\nFAIL\n"
	const ofCrash = "--- FAIL: TestCrashMatrix (3.00s)\n    --- FAIL: TestCrashMatrix/x (3.00s)\n        %s\n" +
		"        proctest.go:400: the end of the log of n1:\n            violation content: what a node says\nFAIL\n"
	c, x := chaos("ring", "fresh", "session"), crash("x", "content", "start")
	rows := []struct {
		check      check
		out        string
		by, beside string
	}{
		{c, fmt.Sprintf(ofChaos, "fresh"), "[fresh]", "[progress]"},
		{c, fmt.Sprintf(ofChaos, "leaks"), "[]", "[leaks progress]"},
		{c, "--- FAIL: TestChaos (1.00s)\n    run.go:9: no leader\n", "[]", "[]"},
		{x, fmt.Sprintf(ofCrash, "verify_test.go:1: violation content: n1: of 9 documents 1 are lost"), "[content]", "[]"},
		{x, fmt.Sprintf(ofCrash, "verify_test.go:1: violation nodes: n2 differs from n1"), "[]", "[nodes]"},
		{x, fmt.Sprintf(ofCrash, "run_test.go:1: proctest: n1 ended before it was ready: exit status 1"), "[start]", "[]"},
		{x, fmt.Sprintf(ofCrash, "run_test.go:1: n1 is ready: not after 1m0s: EOF"), "[]", "[ready]"},
		{x, fmt.Sprintf(ofCrash, "replay_test.go:1: the snapshot of n1 is of index 9, another node had applied 8 only: no digest"), "[]", "[]"},
		{unit("fsm", "TestX"), "--- FAIL: TestX (0.00s)\n    x_test.go:1: no\n", "[TestX]", "[]"},
	}
	for _, r := range rows {
		if by, beside := r.check.caught(r.out); fmt.Sprint(by) != r.by || fmt.Sprint(beside) != r.beside {
			t.Errorf("%s is caught by %v, and %v failed beside; want %s and %s:\n%s", r.check.name, by, beside, r.by, r.beside, r.out)
		}
	}
}

// A checker with another name than the one that the row has would never be
// seen; a row without names would take any failure.
func TestRowsNameCheckersThatExist(t *testing.T) {
	for _, r := range mutants {
		for _, c := range r.checks {
			if c.processes && len(c.by) == 0 {
				t.Errorf("%s: %s does not say which checkers may catch it", r.name, c.name)
			}
			text := source(t, c.pkg)
			for _, name := range c.by {
				ours := c.pkg == "cmd/crashmatrix" && (name == "start" || name == "ready")
				if !ours && !strings.Contains(text, `"`+name+`"`) {
					t.Errorf("%s: %s has no checker %s", r.name, c.name, name)
				}
			}
		}
	}
}

// source is the text of a package.
func source(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", pkg, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %d files", pkg, err, len(files))
	}
	var text strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(content)
	}
	return text.String()
}
