package doctor

import (
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func find(t *testing.T, checks []Check, name, where string) Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name && c.Where == where {
			return c
		}
	}
	t.Fatalf("no check %s of %s in %+v", name, where, checks)
	return Check{}
}

func TestNodes(t *testing.T) {
	good := func(id string) wire.NodeStatus {
		return wire.NodeStatus{ID: id, Voter: true, Reachable: true, DiskFreeBytes: 100 << 30, Storage: wire.StorageStatus{Stall: "none"},
			State: wire.StateStatus{Verdict: wire.StateAgreed}}
	}
	low := good("n2")
	low.DiskFreeBytes, low.Lag, low.Storage.Stall = 100<<20, 5000, "stop"
	low.State.Verdict = wire.StateDiverged
	dead := wire.NodeStatus{ID: "n3", Voter: true, Errors: []string{"refused"}}
	checks := Nodes(&wire.Status{Leader: "n1", Nodes: []wire.NodeStatus{good("n1"), low, dead}})
	for _, c := range []struct {
		name, where string
		want        Verdict
	}{
		{"leader", "cluster", OK},
		{"reachable", "n1", OK},
		{"disk space", "n1", OK},
		{"storage", "n1", OK},
		{"disk space", "n2", Fail},
		{"lag", "n2", Warn},
		{"storage", "n2", Fail},
		{"state", "n1", OK},
		{"state", "n2", Fail},
		{"reachable", "n3", Fail},
		{"majority", "cluster", Warn},
	} {
		got := find(t, checks, c.name, c.where)
		if got.Verdict != c.want || (got.Advice == "") != (c.want == OK) {
			t.Errorf("%s of %s: got %+v, want %s", c.name, c.where, got, c.want)
		}
	}
	if Worst(checks) != Fail {
		t.Error("the worst is not fail")
	}
	if got := find(t, Nodes(&wire.Status{Nodes: []wire.NodeStatus{good("n1")}}), "leader", "cluster"); got.Verdict != Fail {
		t.Errorf("without a leader: %+v", got)
	}
}

// The node's own mark decides, not what would be enough for another one.
func TestDiskIsJudgedByTheNodesMark(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name             string
		free, left, mark uint64
		refusing         []string
		want             Verdict
		advice           string
	}{
		{"below a high mark", 67 * gib, 66 * gib, 100 * gib, []string{"disk_low"}, Fail, "--disk-low-bytes"},
		{"below it by what is in memory", 101 * gib, 99 * gib, 100 * gib, nil, Fail, "Free space"},
		{"not yet back over it", 110 * gib, 110 * gib, 100 * gib, []string{"disk_low"}, Fail, "1.2 times"},
		{"near a high mark", 150 * gib, 150 * gib, 100 * gib, nil, Warn, "before it refuses"},
		{"well above a low mark", gib / 2, gib / 2, gib / 16, nil, OK, ""},
		{"space here, and not with the others", 500 * gib, 500 * gib, 2 * gib, []string{"disk_low"}, Fail, "too few voters"},
		{"a node that tells no mark", 67 * gib, 0, 0, nil, OK, ""},
		{"a node that tells no mark, with little", gib / 2, 0, 0, nil, Fail, "Free space"},
	} {
		n := wire.NodeStatus{ID: "n1", Reachable: true, DiskFreeBytes: c.free, DiskLeftBytes: c.left, DiskLowBytes: c.mark, Refusing: c.refusing}
		got := find(t, Nodes(&wire.Status{Leader: "n1", Nodes: []wire.NodeStatus{n}}), "disk space", "n1")
		if got.Verdict != c.want || !strings.Contains(got.Advice, c.advice) || (got.Advice == "") != (c.want == OK) {
			t.Errorf("%s: got %+v, want %s with %q", c.name, got, c.want, c.advice)
		}
	}
}

func TestANodeThatRefusesEveryWrite(t *testing.T) {
	for reason, want := range map[string]Verdict{"memory_low": Fail, "apply_lag": Fail, "storage_stalled": Fail, "queue_full": Warn, "a new one": Fail} {
		n := wire.NodeStatus{ID: "n1", Reachable: true, Refusing: []string{reason}}
		got := find(t, Nodes(&wire.Status{Leader: "n1", Nodes: []wire.NodeStatus{n}}), "writes", "n1")
		if got.Verdict != want || !strings.Contains(got.Found, reason) || got.Advice == "" {
			t.Errorf("%s: got %+v, want %s", reason, got, want)
		}
	}
}

func TestVersions(t *testing.T) {
	node := func(id, version string) wire.NodeStatus {
		return wire.NodeStatus{ID: id, Version: version, Reachable: true}
	}
	for _, c := range []struct {
		nodes []wire.NodeStatus
		want  Verdict
	}{
		{[]wire.NodeStatus{node("n1", "v1"), node("n2", "v1")}, OK},
		{[]wire.NodeStatus{node("n1", "v1"), node("n2", "v2")}, Warn},
		{[]wire.NodeStatus{node("n1", "v2"), node("n2", "v2")}, Warn},
	} {
		if got := Versions(&wire.Status{Nodes: c.nodes}, "v1"); got.Verdict != c.want {
			t.Errorf("%+v: got %+v, want %s", c.nodes, got, c.want)
		}
	}
}

func TestClocks(t *testing.T) {
	one, two := []string{"n1"}, []string{"n1", "n2"}
	now := time.UnixMilli(1_800_000_000_000)
	sample := func(node string, ahead, rtt time.Duration) ClockSample {
		return ClockSample{Node: node, ClockMs: now.Add(rtt/2 + ahead).UnixMilli(), Sent: now, RTT: rtt}
	}
	for _, c := range []struct {
		name    string
		nodes   []string
		samples []ClockSample
		want    Verdict
	}{
		{"in step", two, []ClockSample{sample("n1", 0, 2*time.Millisecond), sample("n2", 20*time.Millisecond, 2*time.Millisecond)}, OK},
		{"two seconds apart", two, []ClockSample{sample("n1", 0, 2*time.Millisecond), sample("n2", 2*time.Second, 2*time.Millisecond)}, Warn},
		{"an hour apart", two, []ClockSample{sample("n1", -time.Hour, 2*time.Millisecond), sample("n2", 0, 2*time.Millisecond)}, Fail},
		{"a slow answer proves nothing", two, []ClockSample{sample("n1", 0, 2*time.Millisecond), sample("n2", 600*time.Millisecond, 900*time.Millisecond)}, OK},
		{"the quickest answer counts", two, []ClockSample{sample("n1", 0, 2*time.Millisecond), sample("n2", time.Hour, time.Second), sample("n2", 0, 2*time.Millisecond)}, OK},
		{"one of two nodes", two, []ClockSample{sample("n1", 0, 2*time.Millisecond)}, Warn},
		{"one node", one, []ClockSample{sample("n1", 0, 2*time.Millisecond)}, Skip},
	} {
		if got := Clocks(c.nodes, c.samples); got.Verdict != c.want {
			t.Errorf("%s: got %+v, want %s", c.name, got, c.want)
		}
	}
	ahead := Clocks(two, []ClockSample{sample("n1", 0, time.Millisecond), sample("n2", 2*time.Second, time.Millisecond)})
	if !strings.Contains(ahead.Found, "n2 is ahead of n1") {
		t.Errorf("got %q", ahead.Found)
	}
	three := Clocks([]string{"n1", "n2", "n3"}, []ClockSample{sample("n1", 0, time.Millisecond), sample("n2", 0, time.Millisecond)})
	if three.Verdict != OK || !strings.Contains(three.Found, "no time from n3") {
		t.Errorf("two of three: %+v", three)
	}
}

func TestDiskIsMeasured(t *testing.T) {
	checks := Disk(t.Context(), t.TempDir())
	if got := checks[0]; got.Name != "fsync" || got.Verdict == Skip || !strings.Contains(got.Found, "p99") {
		t.Errorf("got %+v", got)
	}
	if got := Disk(t.Context(), "/does/not/exist")[0]; got.Verdict != Fail || got.Advice == "" {
		t.Errorf("a missing directory: %+v", got)
	}
}

func TestMetrics(t *testing.T) {
	values := map[string]float64{"process_open_fds": 900, "process_max_fds": 1000, "process_resident_memory_bytes": 8 << 30}
	checks := Metrics("n1", values, 1<<30)
	if len(checks) != 2 || checks[0].Verdict != Fail || checks[1].Verdict != Warn {
		t.Errorf("got %+v", checks)
	}
	values = map[string]float64{"process_open_fds": 90, "process_max_fds": 65536, "process_resident_memory_bytes": 1 << 30}
	if checks = Metrics("n1", values, 1<<30); Worst(checks) != OK {
		t.Errorf("got %+v", checks)
	}
}

func TestMachine(t *testing.T) {
	checks := Machine(1 << 60)
	if got := find(t, checks, "memory", "here"); got.Verdict != Fail {
		t.Errorf("an exbibyte of memory: %+v", got)
	}
	if got := find(t, Machine(1<<20), "memory", "here"); got.Verdict == Skip {
		t.Errorf("got %+v", got)
	}
}
