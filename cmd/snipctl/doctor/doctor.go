// Package doctor looks at what an operator should check first: the disk under
// a data directory, the limits of the machine, and what the nodes of a cluster
// say of themselves. It measures and judges; it changes nothing.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// Verdict is the result of a check.
type Verdict string

// The verdicts. Skip means that nothing was measured, and says why.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
	Skip Verdict = "skip"
)

// Check is one finding.
type Check struct {
	Name    string  `json:"name"`
	Where   string  `json:"where"` // a node, an endpoint, a directory, or "here"
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	// Advice says what to do; empty if the verdict is ok.
	Advice string `json:"advice,omitempty"`
}

// The limits of the verdicts. They are for a small development machine; each
// is where something else begins to suffer.
const (
	// A write waits for one fsync on a quorum; at 10 ms a lone client gets 100
	// writes a second. At 100 ms a full log write nears the election timeout.
	fsyncWarn = 10 * time.Millisecond
	fsyncFail = 100 * time.Millisecond
	// No disk with a power-loss guarantee answers in less.
	fsyncTooFast = 15 * time.Microsecond
	// RocksDB keeps hundreds of files open, and each client is one.
	filesWarn, filesFail = 16384, 1024
	// Compaction and snapshots need room for a while. These are for a directory,
	// and for a node that does not tell its low-water mark; one that does is
	// judged by that, and less than diskSpare marks left is too near to it.
	diskWarn, diskFail = 5 << 30, 1 << 30
	diskSpare          = 2
	// Clocks only date documents and expire idempotency keys.
	clockWarn, clockFail = 500 * time.Millisecond, time.Minute
	// A follower this many entries behind serves old reads.
	lagWarn, lagFail = 1000, 100_000
)

// judge returns Fail if bad, else Warn if doubtful, else OK.
func judge(bad, doubtful bool) Verdict {
	switch {
	case bad:
		return Fail
	case doubtful:
		return Warn
	}
	return OK
}

// advise leaves the advice out of a good finding.
func (c Check) advise(format string, args ...any) Check {
	if c.Verdict != OK {
		c.Advice = fmt.Sprintf(format, args...)
	}
	return c
}

// Worst is the worst verdict of all.
func Worst(checks []Check) Verdict {
	worst := OK
	for _, c := range checks {
		if c.Verdict == Fail || c.Verdict == Warn && worst != Fail {
			worst = c.Verdict
		}
	}
	return worst
}

// Nodes judges the cluster's status.
func Nodes(s *wire.Status) []Check {
	var out []Check
	leader := Check{Name: "leader", Where: "cluster", Verdict: judge(s.Leader == "", false), Found: "none"}
	if s.Leader != "" {
		leader.Found = fmt.Sprintf("%s, term %d", s.Leader, s.Term)
	}
	out = append(out, leader.advise("Start enough voters for a majority; the nodes' logs say why none is elected."))
	voters, up := 0, 0
	for _, n := range s.Nodes {
		if n.Voter {
			voters++
			if n.Reachable {
				up++
			}
		}
		reach := Check{Name: "reachable", Where: where(n), Verdict: judge(!n.Reachable, false), Found: "yes"}
		if !n.Reachable {
			reach.Found = "no: " + strings.Join(n.Errors, "; ")
		}
		out = append(out, reach.advise("Start the node or mend its network; remove it with `snipctl members remove` if it is gone for good."))
		if n.Reachable {
			out = append(out, node(n)...)
		}
	}
	quorum := voters/2 + 1
	spare := Check{Name: "majority", Where: "cluster", Verdict: judge(up < quorum, up == quorum && voters > 1),
		Found: fmt.Sprintf("%d of %d voters are up, %d are needed", up, voters, quorum)}
	return append(out, spare.advise("One more failure stops the writes: bring the missing nodes back."))
}

func where(n wire.NodeStatus) string {
	if n.ID == "" || n.ID == "?" {
		return n.HTTPAddr
	}
	return n.ID
}

// node judges one reachable node.
func node(n wire.NodeStatus) []Check {
	st := n.Storage
	out := []Check{
		Check{Name: "lag", Where: n.ID, Verdict: judge(n.Lag > lagFail, n.Lag > lagWarn || n.Restoring), Found: fmt.Sprintf("%d entries", n.Lag)}.
			advise("The node applies more slowly than the leader writes: look at its disk, its CPU and its storage stalls."),
		diskOf(n),
		Check{Name: "storage", Where: n.ID, Verdict: judge(st.Stall == "stop" || st.BackgroundErrors > 0, st.Stall == "slowdown"),
			Found: fmt.Sprintf("stall %s, %d background errors, %d L0 files", st.Stall, st.BackgroundErrors, st.L0Files)}.
			advise("RocksDB holds writers back: compaction can't keep up (see --profile and --rocksdb-option), or the disk fails."),
		Check{Name: "state", Where: n.ID, Verdict: judge(n.State.Verdict == wire.StateDiverged || n.State.Verdict == wire.StateDisputed, false),
			Found: fmt.Sprintf("%s, compared up to entry %d", n.State.Verdict, n.State.ComparedIndex)}.
			advise("The node's data is not that of the others: see snipctl check consistency. A diverged node must be stopped, its directory emptied, and started again."),
	}
	out = append(out, gates(n)...)
	if len(n.Errors) > 0 {
		out = append(out, Check{Name: "errors", Where: n.ID, Verdict: Warn, Found: strings.Join(n.Errors, "; ")}.
			advise("See the node's other findings here, and its log."))
	}
	return out
}

// refusesDisk is the reason of a node that refuses writes for want of space.
const refusesDisk = "disk_low"

// diskOf judges a node's disk by the mark by which the node itself does.
func diskOf(n wire.NodeStatus) Check {
	c := Check{Name: "disk space", Where: n.ID, Found: bytesText(n.DiskFreeBytes) + " free"}
	mark, left, refuses := n.DiskLowBytes, n.DiskLeftBytes, slices.Contains(n.Refusing, refusesDisk)
	if mark > 0 {
		c.Found += fmt.Sprintf(", %s when what is in memory is in files; the low-water mark is %s", bytesText(left), bytesText(mark))
	}
	switch {
	case refuses && left >= mark+mark/5:
		c.Verdict, c.Found = Fail, c.Found+"; it refuses writes (disk_low)"
		return c.advise("This disk has space. Either too few voters have: free space on theirs, or start those that are down. Or the writes on their way would need more than there is: send less.")
	case refuses || left < mark:
		c.Verdict, c.Found = Fail, c.Found+"; it refuses writes (disk_low)"
		return c.advise("Free space or enlarge the disk; it takes writes again at 1.2 times the mark, without a restart. If the mark is too high for this disk, restart the node with a lower --disk-low-bytes.")
	case mark > 0:
		c.Verdict = judge(false, left < diskSpare*mark)
	default:
		c.Verdict = judge(n.DiskFreeBytes < diskFail, n.DiskFreeBytes < diskWarn)
	}
	return c.advise("Free space on the node's disk before it refuses writes (--disk-low-bytes).")
}

// gateAdvice is what to do about a gate that refuses every write.
var gateAdvice = map[string]string{
	"memory_low":      "The process is at its memory limit: lower --memory or --body-memory, or give it more and raise --memory-limit.",
	"apply_lag":       "The node applies more slowly than the cluster commits: look at its disk, its CPU and its storage stalls.",
	"storage_stalled": "RocksDB is near a write stall: compaction can't keep up (see --profile and --rocksdb-option), or the disk fails.",
	"queue_full":      "More writes are on their way than the node takes at once: the clients repeat them. If it stays so, send less.",
}

// gates judges what else a node refuses writes for. A full queue drains in
// moments, and is what an overload should look like; the others are faults.
func gates(n wire.NodeStatus) []Check {
	var out []Check
	for _, reason := range n.Refusing {
		if reason == refusesDisk {
			continue // see diskOf
		}
		out = append(out, Check{Name: "writes", Where: n.ID, Verdict: judge(reason != "queue_full", true), Found: "every write is refused: " + reason}.
			advise("%s", cmp.Or(gateAdvice[reason], "See the node's log.")))
	}
	return out
}

// Versions judges whether all nodes, and snipctl, are of one version.
func Versions(s *wire.Status, own string) Check {
	byVersion := map[string][]string{}
	for _, n := range s.Nodes {
		if n.Reachable {
			byVersion[n.Version] = append(byVersion[n.Version], n.ID)
		}
	}
	var parts []string
	for version, ids := range byVersion {
		slices.Sort(ids)
		parts = append(parts, version+" ("+strings.Join(ids, ", ")+")")
	}
	slices.Sort(parts)
	other := len(byVersion) == 1 && byVersion[own] == nil
	if other {
		parts = append(parts, own+" (snipctl)")
	}
	return Check{Name: "version", Where: "cluster", Verdict: judge(false, len(byVersion) > 1 || other), Found: strings.Join(parts, ", ")}.
		advise("Bring all nodes and snipctl to one version, one node after the other, the leader last.")
}

// ClockSample is one answer of a node's clock.
type ClockSample struct {
	Node    string
	ClockMs int64
	// Sent is when the question left, RTT how long the answer took.
	Sent time.Time
	RTT  time.Duration
}

// offset is the node's clock less ours, taking the answer's clock to be read
// in the middle of the round trip; the error is at most half of it.
func (c ClockSample) offset() time.Duration {
	return time.UnixMilli(c.ClockMs).Sub(c.Sent.Add(c.RTT / 2))
}

// Clocks judges the differences between the clocks of the given nodes. Of
// several samples of a node the one with the shortest round trip counts.
func Clocks(nodes []string, samples []ClockSample) Check {
	best := map[string]ClockSample{}
	for _, s := range samples {
		if b, ok := best[s.Node]; s.ClockMs != 0 && (!ok || s.RTT < b.RTT) {
			best[s.Node] = s
		}
	}
	check := Check{Name: "clocks", Where: "cluster", Verdict: Skip, Found: "there is one node, and nothing to compare it with"}
	if len(nodes) < 2 {
		return check
	}
	silent := slices.DeleteFunc(slices.Clone(nodes), func(id string) bool { _, ok := best[id]; return ok })
	if len(best) < 2 {
		check.Verdict, check.Found = Warn, "no time from "+strings.Join(silent, ", ")
		return check.advise("Start the nodes, or give addresses of theirs that can be reached from here with --endpoints.")
	}
	var low, high ClockSample
	first, fault := true, time.Duration(0)
	for _, s := range best {
		if first || s.offset() < low.offset() {
			low = s
		}
		if first || s.offset() > high.offset() {
			high = s
		}
		fault = max(fault, s.RTT/2)
		first = false
	}
	apart := high.offset() - low.offset()
	check.Verdict = judge(apart-2*fault > clockFail, apart-2*fault > clockWarn)
	check.Found = fmt.Sprintf("at most %s apart, ± %s", apart.Round(time.Millisecond), (2 * fault).Round(time.Microsecond))
	if check.Verdict != OK {
		check.Found += fmt.Sprintf(" (%s is ahead of %s)", high.Node, low.Node)
	}
	if len(silent) > 0 {
		check.Found += "; no time from " + strings.Join(silent, ", ")
	}
	return check.advise("Run a time service (chrony, systemd-timesyncd) on every node.")
}

// Metrics judges what a node's process says in /metrics, given as the values
// of the metrics without labels. budget is RocksDB's memory, 0 if unknown.
func Metrics(name string, values map[string]float64, budget uint64) []Check {
	var out []Check
	if most, ok := values["process_max_fds"]; ok {
		open := values["process_open_fds"]
		out = append(out, Check{Name: "open files", Where: name, Verdict: judge(most < filesFail || open > 0.9*most, most < filesWarn || open > 0.7*most),
			Found: fmt.Sprintf("%.0f of %.0f", open, most)}.
			advise("Start the node with a higher limit: ulimit -n 65536, or LimitNOFILE=65536 in its systemd unit."))
	}
	if resident, ok := values["process_resident_memory_bytes"]; ok {
		check := Check{Name: "memory", Where: name, Verdict: OK, Found: bytesText(uint64(resident)) + " resident"}
		if budget > 0 {
			// The budget is RocksDB's; Go's heap, connections and requests come on top.
			check.Found += fmt.Sprintf(", %s budgeted for RocksDB", bytesText(budget))
			check.Verdict = judge(false, resident > 2*float64(budget)+1<<30)
		}
		out = append(out, check.advise("The process holds much more than RocksDB's budget: lower --memory, --max-in-flight-bytes or --body-memory."))
	}
	return out
}

// bytesText renders bytes for people.
func bytesText(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1fGiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1fMiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%dKiB", n>>10)
	}
}
