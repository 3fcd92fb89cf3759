package crashmatrix

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// table is a set of rows that one make target runs.
type table struct {
	target string
	rows   []row
}

var (
	matrixTable = table{"crash-matrix", matrix}
	powerTable  = table{"power-cut", powerCuts}
	tables      = []table{matrixTable, powerTable}
)

// names are those of all rows.
func (t table) names() []string {
	names := make([]string, len(t.rows))
	for i, r := range t.rows {
		names[i] = r.name()
	}
	return names
}

// repeat is the command that runs one row again with the moments of a seed.
// make takes a dollar for the start of a variable, so it is written twice.
func (t table) repeat(name string, seed uint64) string {
	return fmt.Sprintf("make %s SEED=%d POINT='^%s$$'", t.target, seed, regexp.QuoteMeta(name))
}

// chosen are the numbers of the rows to run. Nothing to run is a mistake of
// whoever chose, and would look like a success.
func (t table) chosen(s settings) ([]int, error) {
	point, err := regexp.Compile(s.point)
	if err != nil {
		return nil, fmt.Errorf("POINT: %w", err)
	}
	first, end := 0, len(t.rows)
	if s.parts > 0 {
		first, end = (s.part-1)*len(t.rows)/s.parts, s.part*len(t.rows)/s.parts
	}
	var chosen []int
	for i, name := range t.names() {
		if i >= first && i < end && point.MatchString(name) && (s.all || t.rows[i].quick) {
			chosen = append(chosen, i)
		}
	}
	if len(chosen) == 0 {
		return nil, t.none(s)
	}
	return chosen, nil
}

func (t table) none(s settings) error {
	return fmt.Errorf("no row of make %s is chosen by POINT=%q and PART=%q; these are there:\n  %s",
		t.target, s.point, s.partText(), strings.Join(t.names(), "\n  "))
}

// settings are the variables of a run.
type settings struct {
	all  bool
	seed uint64
	// point is a pattern for the names of rows; "" is every one.
	point string
	// part of parts is run; 0 of 0 is all.
	part, parts int
	// keep is the folder for the data of rows that fail; with always also for
	// that of rows that pass.
	keep   string
	always bool
}

func (s settings) partText() string {
	if s.parts == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.part, s.parts)
}

// readSettings reads the variables; on is the one that asks for all rows.
func readSettings(t *testing.T, on, folder string) settings {
	t.Helper()
	s := settings{all: os.Getenv(on) == "1", seed: uint64(time.Now().UnixNano()) % 1e6, point: os.Getenv("SNIPDB_CRASH_POINT")}
	if text := os.Getenv("SNIPDB_CRASH_SEED"); text != "" {
		var err error
		if s.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SNIPDB_CRASH_SEED: %v", err)
		}
	}
	if text := os.Getenv("SNIPDB_CRASH_PART"); text != "" {
		if _, err := fmt.Sscanf(text, "%d/%d", &s.part, &s.parts); err != nil || s.part < 1 || s.part > s.parts {
			t.Fatalf("SNIPDB_CRASH_PART is %q; it must be like 2/5", text)
		}
	}
	if s.keep = proctest.Keep(); s.keep != "" {
		s.always = true
	} else {
		s.keep = filepath.Join(os.TempDir(), fmt.Sprintf("snipdb-%s-%d", folder, s.seed))
	}
	return s
}

// runAll runs the rows that were chosen, each with run, and shows the table.
func (t table) runAll(test *testing.T, s settings, run func(t *testing.T, s settings, r *result)) {
	test.Logf("seed %d", s.seed)
	rows, err := t.chosen(s)
	if err != nil {
		test.Fatal(err)
	}
	start := time.Now()
	var results []*result
	for _, i := range rows {
		test.Run(t.rows[i].name(), func(test *testing.T) {
			result := &result{row: t.rows[i], table: t, seed: s.seed + uint64(i), started: time.Now()}
			results = append(results, result)
			run(test, s, result)
		})
	}
	if len(results) == 0 { // go test -run did not choose any
		test.Error(t.none(s))
	}
	test.Logf("\n%s", report(results, s.seed, time.Since(start)))
	// Nothing but the folders of failures is left.
	_ = os.Remove(s.keep)
}

// What is printed when a row fails must run that row, and no other one.
func TestTheRepeatCommandChoosesItsRow(t *testing.T) {
	command := regexp.MustCompile(`^make ([\w-]+) SEED=7 POINT='(.*)'$`)
	for _, table := range tables {
		for i, r := range table.rows {
			m := command.FindStringSubmatch(table.repeat(r.name(), 7))
			if m == nil || m[1] != table.target || strings.Contains(m[2], "'") {
				t.Fatalf("%s: it says %q", r.name(), table.repeat(r.name(), 7))
			}
			got, err := table.chosen(settings{all: true, point: strings.ReplaceAll(m[2], "$$", "$")})
			if err != nil || !slices.Equal(got, []int{i}) {
				t.Errorf("%s is row %d; %q runs %v, %v", r.name(), i, m[0], got, err)
			}
		}
	}
}

// The shell and make hand the pattern on as it is meant.
func TestMakeHandsThePatternOn(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("there is no make")
	}
	for _, table := range tables {
		name := table.rows[len(table.rows)-1].name()
		cmd := exec.Command("sh", "-c", table.repeat(name, 7)+" -n")
		cmd.Dir = filepath.Join("..", "..")
		// make hands its own variables on to one that it runs.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "MAKEFLAGS=") })
		out, err := cmd.CombinedOutput()
		for _, part := range []string{"SNIPDB_CRASH_POINT='^" + regexp.QuoteMeta(name) + "$'", "SNIPDB_CRASH_SEED=7"} {
			if err != nil || !strings.Contains(string(out), part) {
				t.Errorf("make %s: %v, without %s in it:\n%s", table.target, err, part, out)
			}
		}
	}
}

// What chooses nothing fails, and says what could be chosen.
func TestNothingChosenIsAnError(t *testing.T) {
	for _, s := range []settings{
		{all: true, point: "no.such.point"},
		{all: true, point: "("},
		{all: true, point: "^" + regexp.QuoteMeta(matrix[0].name()) + "$", part: 5, parts: 5},
	} {
		rows, err := matrixTable.chosen(s)
		if err == nil || rows != nil {
			t.Errorf("%+v chooses %v", s, rows)
		} else if s.point != "(" && !strings.Contains(err.Error(), "\n  "+matrix[1].name()+"\n") {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// The parts are all rows, each once.
func TestThePartsAreTheWhole(t *testing.T) {
	for _, table := range tables {
		var all []int
		for part := range 5 {
			rows, err := table.chosen(settings{all: true, part: part + 1, parts: 5})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rows...)
		}
		if len(all) != len(table.rows) || !slices.IsSorted(all) || len(slices.Compact(all)) != len(table.rows) {
			t.Errorf("the parts of %s are %v", table.target, all)
		}
	}
}
