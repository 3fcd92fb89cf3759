package mutants

import (
	"context"
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

// chosen are the rows to run: all, those that were named, or the quick ones.
// A name that is none is a mistake, and would look like a success.
func (s settings) chosen() ([]row, error) {
	rows := slices.DeleteFunc(slices.Clone(mutants), func(m row) bool {
		if len(s.only) > 0 {
			return !slices.Contains(s.only, string(m.name))
		}
		return !s.all && !m.quick
	})
	for _, name := range s.only {
		if mutant.All()[mutant.Name(name)] == "" {
			var all []string
			for _, m := range mutants {
				all = append(all, string(m.name))
			}
			return nil, fmt.Errorf("there is no mutant %q; these are there:\n  %s", name, strings.Join(all, "\n  "))
		}
	}
	return rows, nil
}

// repeat is the command that runs one mutant again.
func (s settings) repeat(m row) string {
	return fmt.Sprintf("make mutants MUTANT=%s SEED=%d", m.name, s.seed)
}

// runner builds the binaries and runs the checks.
type runner struct {
	s   settings
	dir string // of the binaries and marks
	// keep is the folder for what a run leaves that did not do what it should.
	keep  string
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
	t.Helper()
	keep, err := os.MkdirTemp("", fmt.Sprintf("snipdb-mutants-%d-", s.seed))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(keep) }) // if nothing was left in it
	return &runner{s: s, dir: t.TempDir(), keep: keep, built: map[string]string{}, sound: map[string]time.Duration{}, start: time.Now()}
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
		if !r.baseline(t, m, c) {
			result.unsound = c.name
			return
		}
		if result.found = r.try(t, m, c); len(result.found) > 0 {
			result.by = c.name
			t.Logf("caught by %s: %s", c.name, strings.Join(result.found, ", "))
			_ = os.RemoveAll(filepath.Join(r.keep, string(m.name)))
			return
		}
		result.missed = append(result.missed, c.name)
	}
	t.Errorf("%s survives: %s; what the runs have left is in %s; the same again:\n  %s",
		m.name, mutant.All()[m.name], filepath.Join(r.keep, string(m.name)), r.s.repeat(m))
}

// try runs a check with the mutant and returns the checkers that caught it.
func (r *runner) try(t *testing.T, m row, c check) []string {
	t.Helper()
	out, reached, err := r.execute(t, c, m.name, r.evidence(m, c.name))
	by, beside := c.caught(out)
	switch {
	case !reached:
		// It is no catch either, if it failed: it did so for another reason.
		t.Logf("%s never came to the mistake: %v", c.name, err)
	case err != nil && len(by) > 0:
		return by
	case err != nil:
		t.Logf("%s failed (%v), and not by a checker that sees such a mistake: %v, not %v", c.name, err, beside, c.by)
	}
	return nil
}

// evidence is the folder for what a check leaves.
func (r *runner) evidence(m row, name string) string {
	return filepath.Join(r.keep, string(m.name), regexp.MustCompile(`[^\w.]+`).ReplaceAllString(name, "-"))
}

// baseline runs a check without a mutant, once: it has to pass.
func (r *runner) baseline(t *testing.T, m row, c check) bool {
	t.Helper()
	if _, done := r.sound[c.name]; done {
		return true
	}
	begin := time.Now()
	keep := r.evidence(m, "without-it-"+c.name)
	if out, _, err := r.execute(t, c, "", keep); err != nil {
		t.Errorf("%s fails without a mutant: %v; what it has left is in %s; the same again:\n  %s\n%s", c.name, err, keep, r.s.repeat(m), tail(out))
		return false
	}
	_ = os.RemoveAll(keep)
	_ = os.Remove(filepath.Dir(keep)) // if nothing else is in it
	r.sound[c.name] = time.Since(begin)
	return true
}

// execute runs a check with a mutant. It says whether the mistake was reached.
// All that the check leaves, passed or not, is in the folder keep.
func (r *runner) execute(t *testing.T, c check, name mutant.Name, keep string) (out string, reached bool, err error) {
	t.Helper()
	binary := r.test(t, c.pkg)
	mark := filepath.Join(r.dir, "reached")
	_ = os.Remove(mark)
	told := []string{"SNIPDB_MUTANT=" + string(name), "SNIPDB_MUTANT_MARK=" + mark}
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "SNIPDB_") })
	env = append(env, c.env...)
	env = append(env, "PROCTEST_KEEP="+keep, "SNIPDB_CHAOS_KEEP="+keep)
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
	if err := os.MkdirAll(keep, 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := cmd.CombinedOutput()
	if err := os.WriteFile(filepath.Join(keep, "output.txt"), text, 0o600); err != nil {
		t.Logf("the output of %s is not kept: %v", c.name, err)
	}
	if strings.Contains(string(text), "no tests to run") {
		t.Fatalf("%s: there is no such test", c.name)
	}
	_, statErr := os.Stat(mark)
	return string(text), statErr == nil, err
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
