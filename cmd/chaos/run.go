package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/client"
)

// The limits of a run.
const (
	// recoverWait is how long the cluster may take, after a fault is over,
	// until a write is acknowledged; wholeWait until every node is back and
	// has caught up. They are generous, because the machine is shared.
	recoverWait = 20 * time.Second
	wholeWait   = 60 * time.Second
	// phaseOps is the least number of calls that succeed in a phase: from the
	// beginning of a fault to that of the next.
	phaseOps = 10
	// maxLag is how many entries a node may be behind and count as caught up.
	maxLag     = 200
	sampleEach = 400 * time.Millisecond
	// reportEach is the number of faults between two lines of progress.
	reportEach = 25
)

// Options are those of a run.
type Options struct {
	Seed     uint64
	Duration time.Duration
	// Workers and Rate are the clients and their calls per second together; 0
	// means 24 and 300.
	Workers int
	Rate    float64
	// Faults are the kinds of faults to draw from; none means all.
	Faults []string
	// Keep is where a failed run leaves its history and data.
	Keep string
}

// Run is one run.
type Run struct {
	tb      testing.TB
	o       Options
	network *Network
	cluster *proctest.Cluster
	voters  []*proctest.Node
	history *History
	load    *Workload
	admin   *client.Client
	probe   *probe
	figures Figures

	mu         sync.Mutex // guards what follows
	violations []Violation
	events     []string
	reigns     []Reign
}

// smallLimits make snapshots and installs happen all the time.
var smallLimits = []string{
	"--snapshot-log-bytes", "64KiB", "--trailing-log-bytes", "16KiB", "--snapshot-check-interval", "250ms",
	"--request-timeout", "5s", "--tick-interval", "1s", "--poll-interval", "100ms",
}

// Start starts the processes behind their proxies.
func Start(tb testing.TB, o Options) *Run {
	tb.Helper()
	if o.Workers == 0 {
		o.Workers = 24
	}
	if o.Rate == 0 {
		o.Rate = 300
	}
	r := &Run{tb: tb, o: o, network: NewNetwork(), history: NewHistory()}
	tb.Cleanup(r.network.Close)
	r.cluster = proctest.Start(tb, proctest.Options{Args: smallLimits, NodeArgs: r.advertise})
	tb.Cleanup(r.keep)
	r.voters = append(r.voters, r.cluster.Nodes...)
	learner := r.cluster.AddNode("l1", "--learner")
	learner.Start()
	learner.WaitReady()

	var endpoints []string
	for _, n := range r.cluster.Nodes {
		endpoints = append(endpoints, n.URL)
	}
	var err error
	if r.admin, err = newClient(endpoints); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.admin.Close)
	r.probe = &probe{history: r.history, client: r.admin}
	if r.load, err = NewWorkload(r.history, endpoints, o.Seed, o.Workers, o.Rate); err != nil {
		tb.Fatal(err)
	}
	return r
}

// advertise makes the proxies of a node and tells it to name them to the others.
func (r *Run) advertise(n *proctest.Node) []string {
	raft, err := r.network.PeerProxy(n.ID, n.RaftAddr)
	if err != nil {
		r.tb.Fatal(err)
	}
	api, err := r.network.HTTPProxy(n.ID, n.HTTPAddr)
	if err != nil {
		r.tb.Fatal(err)
	}
	return []string{"--raft-advertise", raft, "--http-advertise", "http://" + api}
}

// note records an event of the run.
func (r *Run) note(format string, args ...any) {
	line := fmt.Sprintf("%8.3fs  ", time.Duration(r.history.Now()).Seconds()) + fmt.Sprintf(format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, line)
}

func (r *Run) violate(checker, key, format string, args ...any) {
	r.found(violation(checker, key, format, args...))
}

// found records what is wrong.
func (r *Run) found(violations ...Violation) {
	for _, v := range violations {
		r.note("VIOLATION %s", v)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, violations...)
}

// count is the number of violations so far.
func (r *Run) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.violations)
}

// leader waits for a leader.
func (r *Run) leader() *proctest.Node { return r.cluster.Leader() }

// Faults runs the schedule for the duration, under load.
func (r *Run) Faults() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.sample(ctx) })
	if len(newSchedule(0, r.o.Faults).kinds) == 0 {
		r.tb.Fatalf("there is no fault called any of %v", r.o.Faults)
	}
	r.load.Start()
	plan, start := newSchedule(r.o.Seed, r.o.Faults), time.Now()
	r.waitAck(r.history.Now())
	for time.Since(start) < r.o.Duration {
		kind, p := plan.next()
		r.phase(kind, p)
		if done := len(r.figures.windows); done%reportEach == 0 {
			oks, acks, _ := r.history.Progress()
			r.tb.Logf("%v: %d faults, %d calls and %d writes succeeded, %d violations",
				time.Since(start).Round(time.Second), done, oks, acks, r.count())
		}
	}
	r.load.Stop()
	cancel()
	wg.Wait()
}

// phase is one fault, and what must come after it.
func (r *Run) phase(kind faultKind, p Planned) {
	began := r.history.Now()
	oks, acks, _ := r.history.Progress()
	r.note("fault %s", kind.name)
	kind.run(r, p)
	healed := r.history.Now()
	r.figures.fault(kind.name, Span{began, healed})
	r.waitAck(healed)
	r.waitWhole()
	time.Sleep(p.Gap)
	oksNow, acksNow, _ := r.history.Progress()
	r.note("phase %s: %d calls and %d writes succeeded", kind.name, oksNow-oks, acksNow-acks)
	if oksNow-oks < phaseOps {
		r.violate("progress", "", "only %d calls succeeded around %s", oksNow-oks, kind.name)
	}
}

// waitAck waits until a write is acknowledged that came after a time.
func (r *Run) waitAck(since int64) {
	deadline := time.Now().Add(recoverWait)
	for {
		if _, _, last := r.history.Progress(); last > since {
			return
		}
		if time.Now().After(deadline) {
			r.violate("progress", "", "no write was acknowledged for %v after the fault was over", recoverWait)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// waitWhole waits until every node is back.
func (r *Run) waitWhole() {
	deadline := time.Now().Add(wholeWait)
	for {
		err := r.whole()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.violate("progress", "", "the cluster is not whole %v after the fault: %v", wholeWait, err)
			r.tb.Fatalf("seed %d: the cluster is not whole: %v", r.o.Seed, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// whole returns nil if all nodes run, are members in their places, and have
// caught up.
func (r *Run) whole() error {
	for _, n := range r.cluster.Nodes {
		if !n.Running() {
			r.endedByItself(n)
			n.Start()
			r.figures.Restarts++
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	status, _, err := r.admin.Status(ctx)
	if err != nil {
		return err
	}
	voters := 0
	for _, n := range status.Nodes {
		if !n.Reachable || n.Lag > maxLag || n.Restoring {
			return fmt.Errorf("%s: reachable %v, lag %d, restoring %v", n.ID, n.Reachable, n.Lag, n.Restoring)
		}
		if n.Voter {
			voters++
		}
	}
	if len(status.Nodes) != len(r.cluster.Nodes) || voters != len(r.voters) || status.Leader == "" {
		return fmt.Errorf("%d members, %d voters, leader %q", len(status.Nodes), voters, status.Leader)
	}
	return nil
}

// endedByItself looks at a process that nobody has stopped. There is one reason
// for which a node is meant to do that here: a log that conflicts with a
// snapshot, which Raft's library never drops, and the next start does.
func (r *Run) endedByItself(n *proctest.Node) {
	exit := n.Wait()
	if report := inspect(r.tb, n); strings.Contains(report, "the log's entry at the snapshot's index") {
		r.note("%s ended itself, for its log conflicts with its snapshot: %v", n.ID, exit)
		r.figures.FailStops++
		return
	}
	r.violate("process", "", "%s ended by itself: %v: %s", n.ID, exit, lastError(n.Log()))
}

// inspect is what `snipdb inspect` says of a node that does not run.
func inspect(tb testing.TB, n *proctest.Node) string {
	out, _ := exec.Command(proctest.Binary(tb, "snipdb"), "inspect", "--data-dir", n.Dir).CombinedOutput()
	return string(out)
}

// lastError is the last line of a log that says why a process ends.
func lastError(log string) string {
	last := ""
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=ERROR") && !strings.Contains(line, "component=raft") || strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "snipdb:") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// sample asks the nodes who leads. A node's term and role are not read in one
// moment, so what counts is what two samples in a row say.
func (r *Run) sample(ctx context.Context) {
	before := map[Reign]bool{}
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sampleEach):
		}
		call, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		status, _, err := r.admin.Status(call, client.OnEndpoint(r.cluster.Nodes[i%len(r.cluster.Nodes)].URL))
		cancel()
		if err != nil {
			continue
		}
		now := map[Reign]bool{}
		for _, n := range status.Nodes {
			if n.Reachable && n.Role == "leader" {
				reign := Reign{n.Term, n.ID, "status"}
				now[reign] = true
				if before[reign] {
					r.mu.Lock()
					r.reigns = append(r.reigns, reign)
					r.mu.Unlock()
				}
			}
		}
		before = now
	}
}

// probe reads from nodes on behalf of the faults.
type probe struct {
	history *History
	client  *client.Client
}

func (p *probe) readAt(url string, key int, level client.Consistency) {
	o := &Op{Client: -1, Kind: KindRead, Level: level.Level, BoundMs: level.MaxStaleness.Milliseconds(), Call: p.history.Now()}
	o.Key = fmt.Sprintf("r%d-%d", o.Call/int64(generation), key)
	ctx, cancel := context.WithTimeout(context.Background(), readWait)
	defer cancel()
	doc, meta, err := p.client.GetDocument(ctx, collRegisters, o.Key, client.OnEndpoint(url), client.WithConsistency(level))
	if err == nil {
		o.Seen = see(doc)
	}
	o.Return = p.history.Now()
	o.answered(meta, err)
	p.history.Add(o)
}

// Result returns what is wrong, as an error, or nil.
func (r *Run) Result() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.violations) == 0 {
		return nil
	}
	const show = 20
	var text strings.Builder
	fmt.Fprintf(&text, "%d violations", len(r.violations))
	for _, v := range r.violations[:min(show, len(r.violations))] {
		fmt.Fprintf(&text, "\n  %s", v)
	}
	return errors.New(text.String())
}
