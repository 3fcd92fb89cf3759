package chaos

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/client"
)

// calls makes n calls a second in the first seconds of a run.
func calls(seconds, n int, make func() *Op) (ops []*Op) {
	for i := range seconds * n {
		o := make()
		o.Call = int64(i) * int64(time.Second) / int64(n)
		o.Return = o.Call + 1e6
		if o.Outcome == "" {
			o.Outcome = OK
		}
		ops = append(ops, o)
	}
	return ops
}

// aGoodRun is what the clients do in ten seconds.
func aGoodRun() []*Op {
	ops := calls(10, 20, func() *Op { return &Op{Kind: KindPut} })
	for _, level := range []string{client.LevelLinearizable, client.LevelBounded, client.LevelSession, client.LevelLocal} {
		ops = append(ops, calls(10, 10, func() *Op { return &Op{Kind: KindRead, Level: level} })...)
	}
	return ops
}

func TestAClassThatStandsStillIsFound(t *testing.T) {
	calms := []Span{{0, 4e9}, {6e9, 10e9}}
	if _, found := CheckCalm(aGoodRun(), calms); len(found) != 0 {
		t.Errorf("a good run: %v", found)
	}
	for _, k := range classes {
		ops := aGoodRun()
		for _, o := range ops {
			if k.has(o) {
				o.Outcome, o.Error, o.Return = Failed, "no_leader", o.Return+int64(3*time.Second)
			}
		}
		if _, found := CheckCalm(ops, calms); len(found) != 1 || !strings.Contains(found[0].Detail, k.name) {
			t.Errorf("no %s succeed: %v", k.name, found)
		}
		ops = slices.DeleteFunc(aGoodRun(), k.has)
		if _, found := CheckCalm(ops, calms); len(found) != 1 || !strings.Contains(found[0].Detail, k.name) {
			t.Errorf("there are no %s: %v", k.name, found)
		}
	}
	ops := aGoodRun()
	for i, o := range ops {
		if !o.IsRead() && i%12 != 0 {
			o.Outcome, o.Error = Failed, "overloaded"
		}
	}
	if _, found := CheckCalm(ops, calms); len(found) != 1 {
		t.Errorf("most writes fail: %v", found)
	}
	// What happens in a fault says nothing.
	for _, o := range ops {
		if o.Call < 4e9 || o.Call >= 6e9 {
			o.Outcome = OK
		}
	}
	if _, found := CheckCalm(ops, calms); len(found) != 0 {
		t.Errorf("most writes fail in a fault: %v", found)
	}
}

func TestAnAnswerThatNoFaultExplainsIsFound(t *testing.T) {
	for _, c := range []struct {
		op    Op
		right bool
	}{
		{Op{Kind: KindPut, Status: 413, Code: "body_too_large"}, false},
		{Op{Kind: KindPut, Status: 503, Code: "no_leader"}, true},
		{Op{Kind: KindPut, Status: 404, Code: "not_found"}, false},
		{Op{Kind: KindPatch, Status: 404, Code: "not_found"}, true},
		{Op{Kind: KindRead, Status: 404, Code: "not_found"}, true},
		{Op{Kind: KindRead, Status: 400, Code: "invalid_parameter"}, false},
		{Op{Kind: KindPut, Status: 412, Code: "revision_mismatch"}, false},
		{Op{Kind: KindPut, Status: 412, Code: "revision_mismatch", IfMatch: 7}, true},
		{Op{Kind: KindCollPut, Status: 412, Code: "already_exists"}, false},
		{Op{Kind: KindCollPut, Status: 412, Code: "already_exists", IfAbsent: true}, true},
		{Op{Kind: KindPut, Status: 409, Code: "write_conflict"}, true},
		{Op{Kind: KindImport, Status: 422, Code: "invalid_field"}, false},
		{Op{Kind: KindPatch, Status: 429, Code: "rate_limited"}, false},
		{Op{Kind: KindAppend, Status: 404, Code: "not_found"}, false},
	} {
		if found := CheckAnswers([]*Op{&c.op}); (len(found) == 0) != c.right {
			t.Errorf("%+v: %v", c.op, found)
		}
	}
}

func TestACheckerThatHadNothingToCheckIsFound(t *testing.T) {
	for _, c := range []struct {
		n    int
		rate float64
		want int
	}{
		{0, 0, 1}, {1, 0, 0}, {1, 0.01, 0}, {99, 1, 1}, {100, 1, 0},
	} {
		if found := CheckProved([]proof{{"reads", c.n, c.rate}}, 100*time.Second); len(found) != c.want {
			t.Errorf("%+v: %v", c, found)
		}
	}
}

func TestAFaultThatIsNotIsAnError(t *testing.T) {
	none := errors.New("only root can mount a file system")
	for _, c := range []struct {
		faults string
		disks  error
		says   string
	}{
		{"kill_leader,ring", none, ""},
		{"kill_leader,disk_hang", nil, ""},
		{"kill_leader,nosuch_fault,", nil, `"nosuch_fault", ""; there are kill_one, `},
		{"ring,disk_hang,disk_full_leader", none, "disk_hang, disk_full_leader: each node needs a disk of its own"},
	} {
		err := checkFaults(strings.Split(c.faults, ","), c.disks)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.faults, err)
		}
	}
	if err := checkFaults(nil, none); err != nil {
		t.Errorf("a run of all faults: %v", err)
	}
}

// The node that comes and goes is looked at as the others are.
func TestTheLogOfTheAddedNodeIsRead(t *testing.T) {
	r := &Run{nodes: []*proctest.Node{{ID: "n1"}}, extra: &proctest.Node{ID: "x1"}, history: NewHistory()}
	fmt.Fprintln(r.nodes[0], `level=INFO msg="election won" term=3`)
	fmt.Fprintln(r.extra, `level=INFO msg="election won" term=3`)
	fmt.Fprintln(r.extra, `panic: oh`)
	r.readLogs(nil)
	checkers := map[string]bool{}
	for _, v := range r.violations {
		checkers[v.Checker] = true
	}
	if !checkers["log"] || !checkers["one_leader"] {
		t.Errorf("found are %v", r.violations)
	}
}

// A server with the race detector says what it finds where its log is, and goes
// on.
func TestADataRaceIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program with the race detector")
	}
	n := &proctest.Node{ID: "n1"}
	cmd := exec.Command("go", "run", "-race", "./testdata/race")
	cmd.Stdout, cmd.Stderr = n, n // as of a node
	cmd.Env = append(cmd.Environ(), (&Run{points: t.TempDir()}).nodeEnv(n)...)
	err := cmd.Run()
	if f := ReadLog(n.ID, n.Log()); len(f.Alarms) == 0 || !strings.Contains(n.Log(), "it went on") {
		t.Errorf("the log has no alarm (%v):\n%s", err, n.Log())
	}
}

func TestLimitsAreFollowed(t *testing.T) {
	sets := []*Op{
		{Kind: KindLimits, Token: "1", Outcome: OK, Index: 10, Call: 1},
		{Kind: KindLimits, Token: "2", Outcome: OK, Index: 20, Call: 2},
		{Kind: KindLimits, Token: "3", Outcome: Unknown, Call: 3},
		{Kind: KindLimits, Token: "4", Outcome: Failed, Call: 4},
	}
	for _, c := range []struct {
		token string
		index uint64
		right bool
	}{
		{"", 9, true}, {"1", 9, true}, {"1", 15, true}, {"2", 15, true}, {"3", 25, true}, {"2", 25, true},
		{"", 10, false}, {"1", 20, false}, {"4", 25, false}, {"5", 25, false},
	} {
		read := &Op{Kind: KindLimitsRead, Outcome: OK, Index: c.index, Call: 5, Return: 6}
		if c.token != "" {
			read.Seen = &Seen{Title: c.token}
		}
		if n, found := CheckLimits(sets, []*Op{read}); n != 1 || (len(found) == 0) != c.right {
			t.Errorf("%q at %d: %v", c.token, c.index, found)
		}
	}
	other := limitOf(3)
	other.RateLimits[0].Burst++
	if seeLimits(&other).Damage == "" {
		t.Error("limits of two values are right")
	}
}

func TestReadsOfQueuesAreFollowed(t *testing.T) {
	ops := []*Op{
		{Kind: KindAppend, Token: "a", Outcome: OK, Index: 10}, {Kind: KindAppend, Token: "b", Outcome: OK, Index: 11},
		{Kind: KindPop, Outcome: OK, Index: 12}, {Kind: KindAppend, Token: "c", Outcome: OK, Index: 12},
		{Kind: KindAppend, Token: "d", Outcome: Unknown},
	}
	for _, c := range []struct {
		content  string // "" is absent
		rev, at  uint64
		accepted bool
	}{
		{"", 0, 9, true}, {"a", 10, 10, true}, {"a b", 11, 11, true}, {"b c", 12, 15, true}, {"b c d", 14, 15, true},
		{"", 0, 10, false}, {"a", 10, 11, false}, {"b", 12, 12, false}, {"b c c", 12, 12, false}, {"a b", 11, 12, false}, {"b c", 13, 15, false},
	} {
		read := &Op{Kind: KindQueueRead, Outcome: OK, Index: c.at}
		if c.content != "" {
			read.Seen = &Seen{Revision: c.rev, Parts: strings.Fields(c.content)}
		}
		if n, found := CheckQueueReads(append(ops, read)); n != 1 || (len(found) == 0) != c.accepted {
			t.Errorf("%q at %d: %v", c.content, c.at, found)
		}
	}
}
