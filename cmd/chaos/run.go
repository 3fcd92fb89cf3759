package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
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
	// phaseOps is the least number of calls that succeed in a phase, from the
	// beginning of a fault to that of the next, and phaseRate how many they must
	// be in each second of the calm at its end: a dead cluster can't pass. Of all
	// writes maxUnknown may have an unknown outcome.
	phaseOps, phaseRate, maxUnknown = 10, 5.0, 0.1
	// maxLag is how many entries a node may be behind and count as caught up.
	maxLag     = 200
	sampleEach = 400 * time.Millisecond
	// growing is the length of a run from which on the state gets large.
	growing = 10 * time.Minute
	// enough violations end a run: it has failed, and more say no more.
	enough = 50
	// reportEach is the time between two lines of progress.
	reportEach = time.Minute
	// In a soak there is a quiet phase after so many faults.
	quietAfter, quietFor = 5, 15 * time.Second
)

// Options are those of a run.
type Options struct {
	Seed     uint64
	Duration time.Duration
	// Workers and Rate are the clients and their calls per second together; 0
	// means 36 and 280. Many a client waits for a node that can't answer, so
	// that fewer calls are made: 150 to 250 a second.
	Workers int
	Rate    float64
	// Faults are the kinds of faults to draw from; none means all that the run
	// has what is needed for.
	Faults []string
	// Disks gives each node a disk of its own, where that is possible.
	Disks bool
	// Soak makes quiet phases between the faults, in which what two processes
	// hold is looked at; they live from the beginning to the end.
	Soak bool
	// Keep is where a failed run leaves its history and data.
	Keep string
}

// Run is one run.
type Run struct {
	tb      testing.TB
	o       Options
	network *Network
	cluster *proctest.Cluster
	// nodes are the voters and the learner; extra comes and goes with a fault.
	nodes, voters, spared []*proctest.Node
	extra                 *proctest.Node
	disks                 map[string]*Disk
	// points is the folder of the failpoints; days is by how many times 30
	// hours the clocks were set ahead; excused are the nodes that may end by
	// themselves, with the reason.
	points  string
	days    int
	excused map[string]string
	fresh   Held
	samples map[string][]Held
	tags    []string
	stuck   error // why the run was given up, nil if it was not
	history *History
	load    *Workload
	admin   *client.Client
	probe   *probe
	figures Figures

	mu         sync.Mutex // guards what follows
	violations []Violation
	events     []string
	reigns     []Reign
	book       LogBook
	hashes     HashBook
}

// smallLimits make snapshots and installs happen all the time. How much of the
// log stays behind a snapshot is the seed's, from nearly nothing to so much that
// many a node catches up by it. In a long run the state grows, and with it the
// time that an install takes; where the log behind the snapshot is gone by then,
// a node is sent the next one, and so on for ever.
func smallLimits(seed uint64, duration time.Duration) []string {
	trailing := []string{"16KiB", "64KiB", "256KiB"}[seed%3]
	if duration > growing {
		trailing = "8MiB"
	}
	return []string{
		"--snapshot-log-bytes", "64KiB", "--trailing-log-bytes", trailing, "--snapshot-check-interval", "250ms",
		"--request-timeout", "5s", "--tick-interval", "1s", "--poll-interval", "100ms", "--log-write-limit", writeLimit.String(),
	}
}

// Start starts the processes behind their proxies.
func Start(tb testing.TB, o Options) *Run {
	tb.Helper()
	if o.Workers == 0 {
		o.Workers = 36
	}
	if o.Rate == 0 {
		o.Rate = 280
	}
	r := &Run{tb: tb, o: o, network: NewNetwork(), history: NewHistory(), points: tb.TempDir(), disks: map[string]*Disk{},
		excused: map[string]string{}, samples: map[string][]Held{}, tags: []string{"failpoints"}}
	tb.Cleanup(r.network.Close)
	removeStale(tb)
	disks := disksWork()
	if err := checkFaults(o.Faults, disks); err != nil {
		tb.Fatal(err)
	}
	if disks != nil && o.Disks {
		tb.Logf("no faults of disks: %v", disks)
		r.o.Disks = false
	}
	r.cluster = proctest.Start(tb, proctest.Options{Args: smallLimits(o.Seed, o.Duration), NodeArgs: r.nodeArgs, NodeEnv: r.nodeEnv, Tags: r.tags})
	tb.Cleanup(r.keep)
	r.voters = append(r.voters, r.cluster.Nodes...)
	learner := r.cluster.AddNode("l1", "--learner")
	learner.Start()
	learner.WaitReady()
	r.nodes = append(slices.Clone(r.voters), learner)
	r.spared = []*proctest.Node{r.voters[0], learner}
	r.extra = r.cluster.AddNode("x1")

	var endpoints []string
	for _, n := range r.nodes {
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
	r.fresh = r.freshest()
	return r
}

// freshest is the most that any node holds before there is any load.
func (r *Run) freshest() (most Held) {
	for _, n := range r.nodes {
		h, err := r.held(n)
		if err != nil {
			r.tb.Fatalf("what %s holds: %v", n.ID, err)
		}
		most = Held{Goroutines: max(most.Goroutines, h.Goroutines), Sockets: max(most.Sockets, h.Sockets),
			Files: max(most.Files, h.Files), Memory: max(most.Memory, h.Memory)}
	}
	return most
}

// can says whether this run has what a fault needs.
func (r *Run) can(what need) bool {
	switch what {
	case ownDisks:
		return r.o.Disks
	case longRun:
		return r.o.Duration >= time.Minute
	case noSoak:
		return !r.o.Soak
	}
	return true
}

// nodeArgs gives a node its disk and its proxies.
func (r *Run) nodeArgs(n *proctest.Node) []string {
	args := r.advertise(n)
	if !r.o.Disks {
		return args
	}
	disk, err := NewDisk(r.tb, n.ID)
	if err != nil {
		r.tb.Fatal(err)
	}
	r.disks[n.ID] = disk
	n.Dir = filepath.Join(disk.Dir, "data")
	return append(args, "--disk-low-bytes", fmt.Sprint(lowBytes))
}

// nodeEnv lets the failpoints of a node be set while it runs.
func (r *Run) nodeEnv(n *proctest.Node) []string {
	// A race detector, if the server has one, writes to where the log is.
	return []string{"SNIPDB_FAILPOINTS_FILE=" + r.pointsFile(n), "GORACE=log_path=stderr"}
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
	plan, start := newSchedule(r.o.Seed, r.o.Faults, r.can), time.Now()
	defer func() {
		r.load.Stop()
		cancel()
		wg.Wait()
	}()
	wg.Go(func() { r.sample(ctx) })
	r.load.Start()
	r.waitAck(r.history.Now())
	for reported := start; time.Since(start) < r.o.Duration && r.stuck == nil && r.count() < enough; {
		kind, p := plan.next()
		r.phase(kind, p)
		if r.o.Soak && len(r.figures.windows)%quietAfter == 0 && r.stuck == nil {
			r.quiet()
		}
		if time.Since(reported) >= reportEach {
			reported = time.Now()
			r.progress(time.Since(start))
		}
	}
}

// progress prints a line on how it goes.
func (r *Run) progress(since time.Duration) {
	oks, acks, _ := r.history.Progress()
	r.tb.Logf("%v: %d faults, %d calls and %d writes succeeded, longest without a writer %v, %d violations",
		since.Round(time.Second), len(r.figures.windows), oks, acks, r.history.LongestGap().Length().Round(time.Millisecond), r.count())
	for id, samples := range r.samples {
		if len(samples) > 0 {
			r.tb.Logf("   %s: %v", id, samples[len(samples)-1])
		}
	}
}

// quiet is a phase without a fault.
func (r *Run) quiet() {
	r.note("quiet for %v", quietFor)
	oks, _, _ := r.history.Progress()
	calm := r.history.Now()
	time.Sleep(quietFor)
	r.figures.calms = append(r.figures.calms, Span{calm, r.history.Now()})
	r.soakSample()
	oksNow, _, _ := r.history.Progress()
	if least := int(phaseRate * quietFor.Seconds()); oksNow-oks < least {
		r.violate("progress", "", "only %d calls succeeded in %v without a fault; %d are the least", oksNow-oks, quietFor, least)
	}
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
	clear(r.excused)
	wholeOks, _, _ := r.history.Progress()
	calm := r.history.Now()
	time.Sleep(p.Gap)
	oksNow, acksNow, _ := r.history.Progress()
	r.figures.calms = append(r.figures.calms, Span{calm, r.history.Now()})
	r.note("phase %s: %d calls and %d writes succeeded", kind.name, oksNow-oks, acksNow-acks)
	least := 0
	if p.Gap >= time.Second { // some clients still wait before they try again
		least = int(phaseRate * p.Gap.Seconds())
	}
	if r.stuck == nil && (oksNow-oks < phaseOps || oksNow-wholeOks < least) {
		r.violate("progress", "", "%d calls succeeded around %s and %d in %v after it; %d and %d are the least",
			oksNow-oks, kind.name, oksNow-wholeOks, p.Gap, phaseOps, least)
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
			// There is nothing more to learn from faults; what was promised so
			// far is checked all the same.
			r.stuck = fmt.Errorf("the cluster is not whole %v after the fault: %w", wholeWait, err)
			r.violate("progress", "", "%v", r.stuck)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// whole returns nil if all nodes run, are members in their places, and have
// caught up.
func (r *Run) whole() error {
	for _, n := range r.nodes {
		if !n.Running() {
			r.endedByItself(n)
			r.start(n)
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
	r.seeHashes(status.Nodes)
	if len(status.Nodes) != len(r.nodes) || voters != len(r.voters) || status.Leader == "" {
		return fmt.Errorf("%d members, %d voters, leader %q", len(status.Nodes), voters, status.Leader)
	}
	return nil
}

// endedByItself looks at a process that nobody has stopped. There is one reason
// for which a node is meant to do that here: a log that conflicts with a
// snapshot, which Raft's library never drops, and the next start does.
func (r *Run) endedByItself(n *proctest.Node) {
	exit := n.Wait()
	if why := r.excused[n.ID]; why != "" {
		r.note("%s ended itself, for %s: %v", n.ID, why, exit)
		r.figures.FailStops++
		return
	}
	if report := r.inspect(n); strings.Contains(report, "the log's entry at the snapshot's index") {
		r.note("%s ended itself, for its log conflicts with its snapshot: %v", n.ID, exit)
		r.figures.FailStops++
		return
	}
	r.violate("process", "", "%s ended by itself: %v: %s", n.ID, exit, lastError(n.Log()))
}

// inspect is what `snipdb inspect` says of a node that does not run.
func (r *Run) inspect(n *proctest.Node) string {
	out, _ := exec.Command(proctest.Binary(r.tb, "snipdb", r.tags...), "inspect", "--data-dir", n.Dir).CombinedOutput()
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
		status, _, err := r.admin.Status(call, client.OnEndpoint(r.nodes[i%len(r.nodes)].URL))
		cancel()
		if err != nil {
			continue
		}
		r.seeHashes(status.Nodes)
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
		o.Seen = see(doc, collRegisters, o.Key)
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
