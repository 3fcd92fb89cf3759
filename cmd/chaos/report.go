package chaos

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// Figures are what a run has done and found.
type Figures struct {
	Restarts, FailStops, Elections, Terms, Snapshots, Installs, StartupRestores int

	faults  map[string]int
	windows []Span
	calms   []Span // between two faults, when all nodes are back
	calm    []Calm
	// calls are counted by kind and outcome; latencies by whether a fault held.
	calls             map[string]map[Outcome]int
	reads, writes     latencies
	readsIn, writesIn latencies
	replayed, retried int
	forwarded, total  int
	levels            map[string]int
	gap               Span
	Durable, Once     int
	Lost, Duplicated  int
	Dumps             int   // whole states that were read and compared
	Scanned           int64 // rows whose hash was computed anew
	Checks            []checkFigure
	proofs            []proof
	Linear            Linearized
	Errors            []string

	unknown, writesSent int
	// rest is what each process held at the end.
	rest []string
}

type checkFigure struct {
	what            string
	checked, broken int
}

type latencies []time.Duration

// quantile returns a quantile of the latencies.
func (l latencies) quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(l))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Round(100 * time.Microsecond)
}

func (f *Figures) fault(name string, window Span) {
	if f.faults == nil {
		f.faults = map[string]int{}
	}
	f.faults[name]++
	f.windows = append(f.windows, window)
}

func (f *Figures) count(c Counted) {
	f.Once += c.Checked
	f.Lost += c.Lost
	f.Duplicated += c.Duplicated
}

// inFault says whether a fault held at any time of a call.
func (f *Figures) inFault(o *Op) bool {
	for _, w := range f.windows {
		if o.Call < w.To && o.Return > w.From {
			return true
		}
	}
	return false
}

// history counts the calls.
func (f *Figures) history(ops []*Op, gap Span) {
	f.calls, f.levels, f.gap, f.total = map[string]map[Outcome]int{}, map[string]int{}, gap, len(ops)
	for _, o := range ops {
		if f.calls[o.Kind] == nil {
			f.calls[o.Kind] = map[Outcome]int{}
		}
		f.calls[o.Kind][o.Outcome]++
		if !o.IsRead() {
			f.writesSent++
			if o.Outcome == Unknown {
				f.unknown++
			}
		}
		if o.Replayed {
			f.replayed++
		}
		if o.Attempts > 1 {
			f.retried++
		}
		if o.Via != "" {
			f.forwarded++
		}
		if o.Outcome != OK {
			continue
		}
		took, in := time.Duration(o.Return-o.Call), f.inFault(o)
		switch {
		case o.IsRead() && in:
			f.readsIn = append(f.readsIn, took)
		case o.IsRead():
			f.reads = append(f.reads, took)
		case in:
			f.writesIn = append(f.writesIn, took)
		default:
			f.writes = append(f.writes, took)
		}
		if o.IsRead() {
			f.levels[o.Level]++
		}
	}
}

// Report writes the table.
func (r *Run) Report(w io.Writer, took time.Duration) {
	f := &r.figures
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("seed", "%d", r.o.Seed)
	line("time", "%v under faults, %v in all; disks of their own: %v, soak: %v", r.o.Duration, took.Round(time.Second), r.o.Disks, r.o.Soak)
	line("calls", "%d (%.0f/s), of which %d were sent more than once, %d forwarded by a follower, %d answers replayed",
		f.total, float64(f.total)/r.o.Duration.Seconds(), f.retried, f.forwarded, f.replayed)
	line("outcomes", "%s", f.outcomes())
	line("writes of unknown outcome", "%d of %d", f.unknown, f.writesSent)
	for _, kind := range slices.Sorted(maps.Keys(f.calls)) {
		c := f.calls[kind]
		line("  "+kind, "ok %d, refused %d, failed %d, unknown %d", c[OK], c[Refused], c[Failed], c[Unknown])
	}
	line("reads by level", "%s", counts(f.levels))
	line("faults", "%d: %s", len(f.windows), counts(f.faults))
	line("restarts of processes, ended by themselves as they should", "%d, %d", f.Restarts, f.FailStops)
	line("elections won, terms with a leader", "%d, %d", f.Elections, f.Terms)
	line("snapshots taken, installed, restored at a start", "%d, %d, %d", f.Snapshots, f.Installs, f.StartupRestores)
	stats := r.network.Stats()
	line("connections through the proxies", "%d, %d reset, %.1f MB", stats.Connections, stats.Resets, float64(stats.Bytes)/1e6)
	line("longest time without a writer", "%v, from %.1fs", f.gap.Length().Round(time.Millisecond), time.Duration(f.gap.From).Seconds())
	line("latency of reads in calm", "p50 %v, p99 %v", f.reads.quantile(0.5), f.reads.quantile(0.99))
	line("latency of reads in faults", "p50 %v, p99 %v", f.readsIn.quantile(0.5), f.readsIn.quantile(0.99))
	line("latency of writes in calm", "p50 %v, p99 %v", f.writes.quantile(0.5), f.writes.quantile(0.99))
	line("latency of writes in faults", "p50 %v, p99 %v", f.writesIn.quantile(0.5), f.writesIn.quantile(0.99))
	for _, c := range f.calm {
		line("in "+c.Length.Round(time.Millisecond).String()+" of calm", "%v", c)
	}
	for _, c := range f.Checks {
		line("checked: "+c.what, "%d, violations %d", c.checked, c.broken)
	}
	line("porcupine", "%d calls of %d documents, at most %d calls and %d of unknown outcome in one, %v",
		f.Linear.Ops, f.Linear.Keys, f.Linear.MostOps, f.Linear.MostUnknowns, f.Linear.Took.Round(time.Millisecond))
	line("documents compared at the end, on all nodes", "%d", f.Durable)
	line("exactly-once writes compared, on all nodes", "%d", f.Once)
	line("whole states of nodes compared, rows hashed anew", "%d, %d", f.Dumps, f.Scanned)
	line("state hashes seen, compared with another node's", "%d, %d", r.hashes.Hashes, r.hashes.Compared)
	line("logs read, committed entries in them, compared with another node's", "%d, %d, %d", r.book.Logs, r.book.Entries, r.book.Compared)
	line("lost, duplicated", "%d, %d", f.Lost, f.Duplicated)
	line("a fresh process", "%v", r.fresh)
	for _, text := range f.rest {
		line("at rest", "%s", text)
	}
	line("lines of level error in the logs, without Raft's own", "%d", len(f.Errors))
	line("violations", "%d", len(r.violations))
	_ = t.Flush()
	for i, text := range f.Errors {
		if i == 10 {
			break
		}
		fmt.Fprintf(w, "log: %.400s\n", text)
	}
}

// outcomes are the calls of all kinds by outcome.
func (f *Figures) outcomes() string {
	sum := map[string]int{}
	for _, c := range f.calls {
		for outcome, n := range c {
			sum[string(outcome)] += n
		}
	}
	return counts(sum)
}

func counts(m map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
	}
	return strings.Join(parts, ", ")
}

// keep moves what a failed run has left to a folder with a name, before the
// harness removes it; of a run that was expected to fail too (proctest.Keep).
func (r *Run) keep() {
	if !r.tb.Failed() && proctest.Keep() == "" || r.o.Keep == "" {
		return
	}
	for _, disk := range r.disks {
		disk.Thaw()
	}
	for _, n := range r.cluster.Nodes {
		if n.Running() {
			n.Kill()
		}
		// The folder may be on another file system.
		if out, err := exec.Command("cp", "-a", n.Dir, filepath.Join(r.o.Keep, n.ID)).CombinedOutput(); err != nil && n != r.extra {
			r.tb.Logf("keep the data of %s: %v: %s", n.ID, err, out)
		}
		_ = os.WriteFile(filepath.Join(r.o.Keep, n.ID+".log"), []byte(n.Log()), 0o600)
	}
	_ = r.history.Save(filepath.Join(r.o.Keep, "history.jsonl"))
	r.mu.Lock()
	events := strings.Join(r.events, "\n") + "\n"
	r.mu.Unlock()
	_ = os.WriteFile(filepath.Join(r.o.Keep, "events.txt"), []byte(events), 0o600)
	r.tb.Logf("history, events, logs and data are in %s", r.o.Keep)
	target, only := "chaos", ""
	if r.o.Soak {
		target = "soak"
	}
	if len(r.o.Faults) > 0 {
		only = " FAULTS=" + strings.Join(r.o.Faults, ",")
	}
	r.tb.Logf("to repeat: make %s SEED=%d DURATION=%v%s", target, r.o.Seed, r.o.Duration, only)
}
