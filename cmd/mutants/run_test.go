package mutants

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/snipdb/snipdb/storage/mutant"
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
	// found are what its failures look like, and the checker that each of them
	// names. A failure that looks like none of them is not counted: it might be
	// one of the machine.
	found map[string]*regexp.Regexp
}

// The bounds of a run.
const (
	// chaosTime is how long the faults of a chaos run go on; its checks come on top.
	chaosTime = 20 * time.Second
	checkWait = 6 * time.Minute
)

// chaos is a chaos run with these kinds of faults.
func chaos(faults string) check { return chaosFor(chaosTime, faults) }

// chaosFor is a longer one, for what is not met in each fault.
func chaosFor(d time.Duration, faults string) check {
	return check{
		name: "chaos " + faults, pkg: "cmd/chaos", run: "^TestChaos$", processes: true, found: chaosCheckers,
		env: []string{"SNIPDB_CHAOS_DURATION=" + d.String(), "SNIPDB_CHAOS_FAULTS=" + faults},
	}
}

// crash is a row of the crash matrix.
func crash(rows string) check {
	return check{
		name: "crash matrix " + strings.TrimSuffix(rows, "$"), pkg: "cmd/crashmatrix", run: "^TestCrashMatrix$/^" + strings.TrimSuffix(rows, "$") + "$", processes: true,
		found: crashCheckers, env: []string{"SNIPDB_CRASH_MATRIX=1"},
	}
}

// power is a row of the power cuts.
func power(rows string) check {
	return check{
		name: "power cut " + strings.TrimSuffix(rows, "$"), pkg: "cmd/crashmatrix", run: "^TestPowerCut$/^" + strings.TrimSuffix(rows, "$") + "$", processes: true,
		found: crashCheckers, env: []string{"SNIPDB_POWER_CUT=1"},
	}
}

// unit are tests of a package, which makes the mistake in the test's process.
func unit(pkg, tests string) check {
	return check{name: pkg + " " + tests, pkg: pkg, run: "^(" + tests + ")", found: map[string]*regexp.Regexp{"": regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)}}
}

// chaosCheckers: a violation begins with the name of its checker, two columns
// further in than the lines of the table.
var chaosCheckers = map[string]*regexp.Regexp{
	"": regexp.MustCompile(`(?m)^ {10}([a-z_]+): `),
}

// crashCheckers are the failures of the crash matrix.
var crashCheckers = map[string]*regexp.Regexp{
	"acknowledged content":       regexp.MustCompile(`documents [1-9]\d* are lost|[1-9]\d* are wrong|[1-9]\d* are too many`),
	"listed twice":               regexp.MustCompile(`lists \d+ documents twice`),
	"nodes compared":             regexp.MustCompile(`n\d+ differs from n\d+`),
	"a node that began empty":    regexp.MustCompile(`scratch differs from|: scratch: of`),
	"replay of snapshot and log": regexp.MustCompile(`against a replay|replays to index \d+ differ|replay n\d+ to|is of index \d+, another node`),
	"inspect of the directory":   regexp.MustCompile(`inspect says of`),
	"the node starts again":      regexp.MustCompile(`ended before it was ready|is ready: not after`),
	"clients' expectations":      regexp.MustCompile(`try \d+: status|not acknowledged in|delete a snippet of`),
}

// settings are the variables of a run.
type settings struct {
	all  bool
	only []string
	seed uint64
}

func readSettings(t *testing.T) settings {
	t.Helper()
	s := settings{all: os.Getenv("SNIPDB_MUTANTS") == "1", seed: 7}
	s.only = strings.FieldsFunc(os.Getenv("SNIPDB_MUTANTS_ONLY"), func(r rune) bool { return r == ',' || r == ' ' })
	if text := os.Getenv("SNIPDB_MUTANTS_SEED"); text != "" {
		var err error
		if s.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SNIPDB_MUTANTS_SEED: %v", err)
		}
	}
	return s
}

// runner builds the binaries and runs the checks.
type runner struct {
	s     settings
	dir   string // of the binaries and marks
	built map[string]string
	// sound are the checks that were seen to pass without a mutant.
	sound   map[string]time.Duration
	results []*result
	start   time.Time
}

// result is what became of one mutant.
type result struct {
	row
	by     string   // the check that caught it
	found  []string // what failed in it
	missed []string // checks that did not see it
	// unsound is a check that failed without the mutant: nothing is known then.
	unsound string
	took    time.Duration
}

func newRunner(t *testing.T, s settings) *runner {
	return &runner{s: s, dir: t.TempDir(), built: map[string]string{}, sound: map[string]time.Duration{}, start: time.Now()}
}

// run is one mutant: its checks, until one catches it.
func (r *runner) run(t *testing.T, m row) {
	result := &result{row: m}
	r.results = append(r.results, result)
	begin := time.Now()
	defer func() { result.took = time.Since(begin) }()
	checks := m.checks
	if !r.s.all {
		checks = checks[len(checks)-1:] // the nearest, which costs the least
	}
	for _, c := range checks {
		if !r.baseline(t, c) {
			result.unsound = c.name
			return
		}
		out, reached, err := r.execute(t, c, m.name)
		if !reached {
			// It is no catch either, if it failed: it did so for another reason.
			t.Logf("%s never came to the mistake: %v, output in %s", c.name, err, keep(t, c.name, out))
			result.missed = append(result.missed, c.name+" (not reached)")
			continue
		}
		found := c.checkers(out)
		if err != nil && len(found) > 0 {
			result.by, result.found = c.name, found
			t.Logf("caught by %s: %s", c.name, strings.Join(found, ", "))
			return
		}
		if err != nil {
			t.Logf("%s failed, and not by what it looks for: %v, output in %s", c.name, err, keep(t, c.name, out))
		}
		result.missed = append(result.missed, c.name)
	}
	t.Errorf("%s survives: %s", m.name, mutant.All()[m.name])
}

// baseline runs a check without a mutant, once: it has to pass.
func (r *runner) baseline(t *testing.T, c check) bool {
	t.Helper()
	if _, done := r.sound[c.name]; done {
		return true
	}
	begin := time.Now()
	if out, _, err := r.execute(t, c, ""); err != nil {
		t.Errorf("%s fails without a mutant: %v, output in %s\n%s", c.name, err, keep(t, c.name, out), tail(out))
		return false
	}
	r.sound[c.name] = time.Since(begin)
	return true
}

// execute runs a check with a mutant. It says whether the mistake was reached.
func (r *runner) execute(t *testing.T, c check, name mutant.Name) (out string, reached bool, err error) {
	t.Helper()
	binary := r.test(t, c.pkg)
	mark := filepath.Join(r.dir, "reached")
	_ = os.Remove(mark)
	told := []string{"SNIPDB_MUTANT=" + string(name), "SNIPDB_MUTANT_MARK=" + mark}
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "SNIPDB_") })
	env = append(env, c.env...)
	if c.processes {
		env = append(env, "PROCTEST_SNIPDB="+r.server(t), "PROCTEST_ENV="+strings.Join(told, " "),
			fmt.Sprintf("SNIPDB_CHAOS_SEED=%d", r.s.seed), fmt.Sprintf("SNIPDB_CRASH_SEED=%d", r.s.seed))
	} else {
		env = append(env, told...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkWait+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run="+c.run, "-test.timeout="+checkWait.String(), "-test.v=false")
	cmd.Dir, cmd.Env = filepath.Join("..", "..", c.pkg), env
	text, err := cmd.CombinedOutput()
	if strings.Contains(string(text), "no tests to run") {
		t.Fatalf("%s: there is no such test", c.name)
	}
	_, statErr := os.Stat(mark)
	return string(text), statErr == nil, err
}

// checkers are the names of what failed.
func (c check) checkers(out string) []string {
	names := map[string]bool{}
	for name, pattern := range c.found {
		for _, m := range pattern.FindAllStringSubmatch(out, -1) {
			if name == "" {
				names[m[1]] = true
			} else {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// tags are those of all binaries.
const tags = "failpoints,mutants"

func (r *runner) server(t *testing.T) string {
	return r.build(t, "snipdb", "build", "./cmd/snipdb")
}

func (r *runner) test(t *testing.T, pkg string) string {
	return r.build(t, strings.ReplaceAll(pkg, "/", "-")+".test", "test", "./"+pkg, "-c")
}

func (r *runner) build(t *testing.T, file, verb, pkg string, flags ...string) string {
	t.Helper()
	if r.built[file] != "" {
		return r.built[file]
	}
	path := filepath.Join(r.dir, file)
	cmd := exec.Command("go", append(append([]string{verb}, flags...), "-tags", tags, "-buildvcs=false", "-o", path, pkg)...)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	r.built[file] = path
	return path
}

// keep leaves the output of a check that did not do what it should.
func keep(t *testing.T, name, out string) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), "snipdb-mutants")
	path := filepath.Join(dir, regexp.MustCompile(`[^\w.]+`).ReplaceAllString(t.Name()+"-"+name, "-")+".txt")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path, []byte(out), 0o600)); err != nil {
		return err.Error()
	}
	return path
}

// tail is the end of an output without the nodes' logs.
func tail(out string) string {
	const lines = 30
	all := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return strings.Contains(line, " level=") })
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// table is the report of a run.
func (r *runner) table() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "mutant\twhat it breaks\tcaught by\twhat failed\tnot by\ttook")
	caught, by := 0, map[string]int{}
	for _, m := range r.results {
		verdict := "SURVIVES"
		if m.by != "" {
			verdict, caught = m.by, caught+1
			by[strings.SplitN(m.by, " ", 2)[0]]++
		}
		if m.unsound != "" {
			verdict = "NOT JUDGED: " + m.unsound + " fails without it"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%v\n", m.name, mutant.All()[m.name], verdict, strings.Join(m.found, ", "), strings.Join(m.missed, ", "), m.took.Round(time.Second))
	}
	_ = w.Flush()
	var counts []string
	for _, name := range slices.Sorted(maps.Keys(by)) {
		counts = append(counts, fmt.Sprintf("%s %d", name, by[name]))
	}
	fmt.Fprintf(&text, "seed %d: %d of %d mutants caught (%s); %d checks passed without one; in %v\n",
		r.s.seed, caught, len(r.results), strings.Join(counts, ", "), len(r.sound), time.Since(r.start).Round(time.Second))
	return text.String()
}
