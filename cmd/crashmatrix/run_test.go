package crashmatrix

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/storage/failpoint"
)

// crash is one row in progress.
type crash struct {
	*proctest.Cluster
	t      *testing.T
	dir    string
	load   *load
	resume func() // of a load that is paused
	result *result
	disks  *disks // nil: the nodes are on the test's own file system
}

// result is what a row found.
type result struct {
	row
	table   table // that the row is of
	seed    uint64
	started time.Time
	hit     int
	node    string
	// plan is what inspect says that the next start would do.
	plan    string
	restart time.Duration
	took    time.Duration
	writes  int
	retries int
	docs    int
	replay  string // how the new node got the state
	passed  bool
	sums
}

// sums are what the rows count, for the last lines of the report.
type sums struct {
	// kills are processes that ended by SIGKILL at their point or with all
	// others; cuts are those of them that lost their power as well.
	kills, cuts int
	// compared is how many documents were read from nodes and compared with
	// what was acknowledged; the next three are of these.
	compared, lost, wrong, extra int
	// rebuilt is how many states were compared, row by row, with a replay of
	// snapshot and log; fromNothing of them began with an empty state, and
	// notRebuilt could not be, because the crash left an older state than its
	// snapshot. digests is how many replays of different nodes to one index
	// had to come to the same bytes.
	rebuilt, fromNothing, notRebuilt, digests int
}

func (s *sums) add(o sums) {
	s.kills += o.kills
	s.cuts += o.cuts
	s.compared += o.compared
	s.lost += o.lost
	s.wrong += o.wrong
	s.extra += o.extra
	s.rebuilt += o.rebuilt
	s.fromNothing += o.fromNothing
	s.notRebuilt += o.notRebuilt
	s.digests += o.digests
}

// mixer is the other half of each seed: with a zero there, seeds that are near
// each other begin with the same small numbers.
const mixer = 0x9e3779b97f4a7c15

// newCrash prepares one row: its moment, and its folder.
func newCrash(t *testing.T, s settings, r *result) *crash {
	t.Helper()
	r.hit = max(r.at, 1)
	if r.within > 1 {
		r.hit += rand.New(rand.NewPCG(r.seed, mixer)).IntN(r.within)
	}
	dir := filepath.Join(s.keep, r.name())
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := &crash{t: t, dir: dir, result: r, resume: func() {}}
	t.Cleanup(func() { c.keep(s) })
	return c
}

// run is one row.
func run(t *testing.T, s settings, r *result) {
	c := newCrash(t, s, r)
	dead := c.crash()
	c.examine(dead)
	if r.drive.moved {
		c.move(dead)
	}
	c.restart(dead)
	c.verify()
	r.passed = !t.Failed()
}

// crash starts the cluster with its load and kills a node.
func (c *crash) crash() *proctest.Node {
	d := c.result.drive
	o := proctest.Options{Nodes: d.nodes, Args: d.args, Tags: []string{"failpoints"}, Dir: c.dir, NodeEnv: c.environment}
	if d.former > 0 {
		return c.form(c.t, o)
	}
	c.Cluster = proctest.Start(c.t, o)
	c.begin()
	c.load.waitFor(c.t, 60)
	return d.kill(c)
}

// begin makes the collection and starts the load.
func (c *crash) begin() {
	c.Leader().Must(201, "PUT", collection, map[string]any{"dimension": dimension, "metric": "cosine"}, nil)
	history, err := newHistory(filepath.Join(c.dir, historyFile))
	if err != nil {
		c.t.Fatal(err)
	}
	c.load = startLoad(c.Cluster, c.result.seed, max(trimmers, c.result.drive.trimmers), history)
	c.t.Cleanup(func() { c.load.abandon(c.t, c.resume) })
}

// environment is a node's: the values of the drive, and the file that arms it.
func (c *crash) environment(n *proctest.Node) []string {
	if former := c.result.drive.former; former > 0 && n.ID == fmt.Sprintf("n%d", former) {
		c.arm(n, c.result.point, c.result.hit)
	}
	values := c.result.drive.values
	if n.ID == scratchID {
		values += fmt.Sprintf(",%s=set(%d)", failpoint.ClockOffset, scratchAheadMs)
	}
	if c.disks != nil {
		c.disks.mount(n)
	}
	return []string{"SNIPDB_FAILPOINTS=" + values, "SNIPDB_FAILPOINTS_FILE=" + c.file(n)}
}

func (c *crash) file(n *proctest.Node) string { return filepath.Join(c.dir, n.ID+".failpoints") }

// arm arms a node, running or not. The file appears at once and whole.
func (c *crash) arm(n *proctest.Node, point failpoint.Name, hit int) {
	c.t.Helper()
	text := fmt.Sprintf("%s=kill@%d\n", point, hit)
	if err := os.WriteFile(c.file(n)+".tmp", []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.file(n)+".tmp", c.file(n)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *crash) disarm(n *proctest.Node) {
	c.t.Helper()
	// An empty file, and not none: a process that runs forgets what it read.
	if err := os.WriteFile(c.file(n), nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// checker names what a row looks at. Its failures begin with that name, and so
// can be told from what is only noted: cmd/mutants counts them.
type checker string

const (
	byContent   checker = "content"    // what is acknowledged is there, once
	byNodes     checker = "nodes"      // all nodes show the same
	byScratch   checker = "empty_node" // and so does one that began with nothing
	byReplay    checker = "replay"     // the state is what snapshot and log make
	byDigest    checker = "digest"     // equal logs make equal bytes
	byInspect   checker = "inspect"    // a directory is one that a node may have
	byLeftovers checker = "leftovers"  // nothing half-made is left
	byAnswer    checker = "answer"     // each answer is one that the client may get
	byProgress  checker = "progress"   // what is sent again is acknowledged in the end
)

// violate fails the row.
func (c *crash) violate(name checker, format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("violation %s: %s", name, fmt.Sprintf(format, args...))
}

var fallLine = regexp.MustCompile(`failpoint (\S+): kill at hit (\d+)`)

// noteFall reads where a dead node died. Anything but the point is a failure.
func (c *crash) noteFall(n *proctest.Node, point failpoint.Name) {
	c.t.Helper()
	err := n.Wait()
	falls := fallLine.FindAllStringSubmatch(n.Log(), -1)
	if len(falls) == 0 || falls[len(falls)-1][1] != string(point) {
		c.t.Fatalf("%s ended (%v), and not at %s: %v", n.ID, err, point, falls)
	}
	c.result.kills++
	if point == c.result.point {
		c.result.node = n.ID
		c.result.hit, _ = strconv.Atoi(falls[len(falls)-1][2])
	}
}

// restart starts the node again and lets the load go on with it.
func (c *crash) restart(dead *proctest.Node) {
	start := time.Now()
	dead.Start()
	dead.WaitReady()
	c.result.restart = time.Since(start)
	c.WaitReady()
	c.resume()
	if c.load == nil {
		c.begin()
	}
	c.load.waitFor(c.t, 60)
	for _, f := range c.load.end() {
		c.violate(f.name, "%s", f.text)
	}
	c.result.writes, c.result.retries, c.result.docs = c.load.acked, c.load.retries, len(c.load.want)
}

// keep removes the data of a row that passed, and says how to repeat one that
// did not. It runs when no node runs any more.
func (c *crash) keep(s settings) {
	r := c.result
	r.took = time.Since(r.started)
	if !c.t.Failed() && !s.always {
		_ = os.RemoveAll(c.dir)
		return
	}
	if c.Cluster != nil {
		for _, n := range c.Nodes {
			_ = os.WriteFile(filepath.Join(c.dir, n.ID+".log"), []byte(n.Log()), 0o600)
		}
	}
	c.t.Logf("the history of the load, the logs and the data (after a power cut: images of file systems) are in %s; the same again:\n  %s",
		c.dir, r.table.repeat(r.name(), s.seed))
}

// report is what a run says at its end.
func report(results []*result, seed uint64, took time.Duration) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "point\tdrive\tafter\tnode\thit\tinspect\trestart\twrites\tretries\tdocs\treplay\ttook\tverdict")
	passed := 0
	points := map[failpoint.Name]bool{}
	for _, r := range results {
		verdict := "FAILED"
		if r.passed {
			verdict, passed = "ok", passed+1
			if r.point != "" {
				points[r.point] = true
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%v\t%d\t%d\t%d\t%s\t%v\t%s\n", r.point, r.drive.name, orDash(string(r.before)), orDash(r.node), r.hit,
			orDash(r.plan), r.restart.Round(10*time.Millisecond), r.writes, r.retries, r.docs, orDash(r.replay), r.took.Round(100*time.Millisecond), verdict)
	}
	_ = w.Flush()
	var total sums
	writes, retries := 0, 0
	for _, r := range results {
		total.add(r.sums)
		writes, retries = writes+r.writes, retries+r.retries
	}
	fmt.Fprintf(&text, "seed %d: %d of %d rows passed, %d of %d points fired, %d kills, %d power cuts, in %v\n", seed, passed, len(results), len(points), len(failpoint.Names()), total.kills, total.cuts, took.Round(time.Second))
	fmt.Fprintf(&text, "writes: %d acknowledged, %d tries repeated; %d documents compared on all nodes: %d lost, %d wrong, %d too many or twice\n",
		writes, retries, total.compared, total.lost, total.wrong, total.extra)
	fmt.Fprintf(&text, "replays: %d states equal to a replay row by row (%d of them from nothing), %d older than their snapshot at the crash, %d replays of nodes to one index with one digest\n",
		total.rebuilt, total.fromNothing, total.notRebuilt, total.digests)
	return text.String()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
