package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/cmd/snipctl/bench"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// The size of a run of embed-workflows in the tests: hundreds of documents,
// each of 10 snippets, of more workers than a group commit takes at once.
var workflowFlags = []string{
	"bench", "embed-workflows", "--quiet", "-o", "json", "--workers", "64", "--docs", "600",
	"--snippets", "10", "--snippet-bytes", "1024", "--dim", "256", "--think", "50ms", "--verify", "all",
}

// startWorkflows runs snipctl's benchmark against the cluster. The function
// waits for its end and returns what it found.
func startWorkflows(t *testing.T, c *proctest.Cluster, more ...string) func() *bench.WorkflowResult {
	t.Helper()
	var endpoints []string
	for _, n := range c.Nodes {
		endpoints = append(endpoints, n.URL)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	args := append([]string{"--endpoints", strings.Join(endpoints, ",")}, workflowFlags...)
	cmd := exec.CommandContext(ctx, proctest.Binary(t, "snipctl"), append(args, more...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return func() *bench.WorkflowResult {
		t.Helper()
		err := <-done
		var report struct{ Runs []*bench.WorkflowResult }
		if jsonErr := json.Unmarshal(out.Bytes(), &report); jsonErr != nil || len(report.Runs) != 1 {
			t.Fatalf("snipctl bench: %v, %v\n%s\n%s", err, jsonErr, out.String(), errOut.String())
		}
		if err != nil {
			t.Errorf("snipctl bench ended with %v: %s", err, errOut.String())
		}
		return report.Runs[0]
	}
}

// checkWorkflows fails unless every workflow was done, once, on every node.
func checkWorkflows(t *testing.T, c *proctest.Cluster, r *bench.WorkflowResult) {
	t.Helper()
	t.Logf("%d of %d workflows in %.1f s, %.0f/s; create p99 %.0f ms, embed p99 %.0f ms; retries %s; %d 429, %d 503, %d replayed",
		r.Completed, r.Started, r.Seconds, r.PerSecond, r.Create.P99, r.Embed.P99, bench.Counts(r.Retries), r.TooMany, r.Unavailable, r.Replayed)
	if r.Failed != 0 || r.Completed != r.Started || r.Completed == 0 {
		t.Errorf("%d of %d workflows failed: %s %q", r.Failed, r.Started, bench.Counts(r.Errors), r.Examples)
	}
	v := r.Verification
	if v == nil || !v.OK || len(v.Nodes) != len(c.Nodes) {
		t.Fatalf("the verification is %+v", v)
	}
	for _, n := range v.Nodes {
		if n.Documents != r.Completed || n.Lost+n.Wrong+n.Duplicated+n.Unknown != 0 || n.Skipped != "" {
			t.Errorf("%s: %d documents of %d, %d lost, %d wrong, %d duplicated, %d unknown %s",
				n.ID, n.Documents, r.Completed, n.Lost, n.Wrong, n.Duplicated, n.Unknown, n.Skipped)
		}
	}
}

func TestHundredsOfWorkflowsAtOnceNoneFails(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	checkWorkflows(t, c, startWorkflows(t, c)())
}

// The same with the leader killed in the middle, and back before the end: the
// client rides through.
func TestWorkflowsRideThroughTheDeathOfTheLeader(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	wait := startWorkflows(t, c, "--docs", "1500", "--collection", "killed")
	waitDocuments(t, c.Nodes[0], "killed", 200)
	leader := c.Leader()
	leader.Kill()
	waitLeader(t, c, time.Now())
	leader.Start()
	leader.WaitReady()
	t.Logf("%d of 1500 documents were there when the old leader was back", documents(c.Nodes[0], "killed"))
	checkWorkflows(t, c, wait())
}

// A follower that is stopped, and not dead: its connections stay open, and yet
// nobody waits for it for long.
func TestWorkflowsGoOnWhileAFollowerIsStopped(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	leader, follower := c.Leader(), c.Followers()[0]
	wait := startWorkflows(t, c, "--docs", "1000", "--collection", "stopped")
	waitDocuments(t, leader, "stopped", 200)
	follower.Signal(stopSignal)
	start := time.Now()
	waitDocuments(t, leader, "stopped", 700)
	t.Logf("500 documents took %v with a stopped follower", time.Since(start).Round(time.Millisecond))
	follower.Signal(continueSignal)
	checkWorkflows(t, c, wait())
}

// documents is how many documents a node has in a collection, -1 if it does not say.
func documents(n *proctest.Node, collection string) int {
	answer, err := n.Do(context.Background(), http.MethodGet, "/v1/collections/"+collection, nil)
	var coll wire.Collection
	if err != nil || answer.Status != http.StatusOK || answer.JSON(&coll) != nil {
		return -1
	}
	return int(coll.Documents)
}

func waitDocuments(t *testing.T, n *proctest.Node, collection string, want int) {
	t.Helper()
	proctest.Eventually(t, time.Minute, fmt.Sprintf("%s has %d documents", n.ID, want), func() error {
		if have := documents(n, collection); have < want {
			return fmt.Errorf("%d documents", have)
		}
		return nil
	})
}

// flood is an open loop: writes begin at a rate, whatever becomes of those
// before. It looks at each answer for what an overloaded node may say.
type flood struct {
	node  *proctest.Node
	bytes int // of each document

	mu       sync.Mutex // guards what follows
	accepted map[string]uint64
	refused  map[string]int
	wrong    []string
}

func newFlood(n *proctest.Node) *flood {
	return &flood{node: n, bytes: 1 << 10, accepted: map[string]uint64{}, refused: map[string]int{}}
}

// run sends writes at the rate for the time; at most clients are under way.
func (f *flood) run(prefix string, rate float64, clients int, d time.Duration) {
	load := bench.Load{Workers: clients, Duration: d, Rate: rate}
	load.Run(context.Background(), func(ctx context.Context, _ int, n int64, _ time.Time) {
		f.write(ctx, fmt.Sprintf("%s-%d", prefix, n), bench.Text(1, n, 0, f.bytes))
	}, nil) // what was not started is no write that was lost
}

func (f *flood) write(ctx context.Context, id, content string) {
	answer, err := f.node.Do(ctx, http.MethodPut, docs+"/"+id, map[string]any{"content": content})
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil:
		f.complain("%s: %v", id, err)
	case answer.Status == http.StatusCreated:
		f.accepted[id] = answer.Index()
	default:
		p := answer.Problem()
		f.refused[fmt.Sprintf("%d %s %s", answer.Status, p.Code, p.Reason)]++
		if fault := badRefusal(answer); fault != "" {
			f.complain("%s: %s: %.300s", id, fault, answer.Body)
		}
	}
}

func (f *flood) complain(format string, args ...any) {
	if len(f.wrong) < 10 {
		f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
	}
}

// badRefusal says what is wrong with the refusal of a write by a node that
// can't take more; "" if nothing is.
func badRefusal(answer *proctest.Answer) string {
	p := answer.Problem()
	after, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	switch {
	case answer.Status != http.StatusTooManyRequests && answer.Status != http.StatusServiceUnavailable:
		return fmt.Sprintf("status %d", answer.Status)
	case err != nil || after < 1:
		return fmt.Sprintf("Retry-After is %q", answer.Header.Get("Retry-After"))
	case p.Outcome != "not_applied":
		return fmt.Sprintf("the outcome is %q", p.Outcome)
	case p.Reason == "" || p.Status != answer.Status:
		return "there is no reason"
	}
	return ""
}

func (f *flood) report(t *testing.T, what string, d time.Duration) {
	t.Helper()
	refused := 0
	for _, n := range f.refused {
		refused += n
	}
	t.Logf("%s: %d accepted (%.0f/s), %d refused %v", what, len(f.accepted), float64(len(f.accepted))/d.Seconds(), refused, f.refused)
	for _, text := range f.wrong {
		t.Errorf("%s: %s", what, text)
	}
}

// The limits of an overloaded node in the test.
const (
	routeWait = time.Second
	// rssCap is the most that a node with the profile "small" may hold: 128 MiB
	// for RocksDB, 64 MiB of bodies, as much for what is in flight, and Go's
	// heap, which is allowed to double before it is collected.
	rssCap = 512 << 20
)

// watchedRoutes must answer while nothing else does.
var watchedRoutes = []string{"/livez", "/readyz", "/metrics", "/v1/cluster/status", "/v1/cluster/members", "/v1/cluster/limits"}

// watcher asks the watched routes of all nodes until it is stopped.
type watcher struct {
	stop    chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex // guards what follows
	slowest map[string]time.Duration
	asked   int
	late    int
	rss     map[string]float64
	errs    []error
}

func watch(c *proctest.Cluster) *watcher {
	w := &watcher{stop: make(chan struct{}), slowest: map[string]time.Duration{}, rss: map[string]float64{}}
	for _, n := range c.Nodes {
		w.wg.Go(func() {
			for {
				for _, path := range watchedRoutes {
					select {
					case <-w.stop:
						return
					default:
						w.ask(n, path)
					}
				}
			}
		})
	}
	return w
}

func (w *watcher) ask(n *proctest.Node, path string) {
	start := time.Now()
	answer, err := n.Do(context.Background(), http.MethodGet, path, nil)
	took := time.Since(start)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	w.slowest[path] = max(w.slowest[path], took)
	if took > routeWait {
		w.late++
	}
	switch {
	case err != nil:
		w.errs = append(w.errs, fmt.Errorf("%s at %s: %w", path, n.ID, err))
	case answer.Status != http.StatusOK:
		w.errs = append(w.errs, fmt.Errorf("%s at %s: status %d: %.300s", path, n.ID, answer.Status, answer.Body))
	case path == "/metrics":
		w.rss[n.ID] = max(w.rss[n.ID], metric(answer.Body, "process_resident_memory_bytes"))
	}
}

func (w *watcher) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.wg.Wait()
	t.Logf("%d questions meanwhile, the slowest %v; most memory, in MiB: %v", w.asked, w.slowest, mebibytes(w.rss))
	for i, err := range w.errs {
		if i == 5 {
			break
		}
		t.Errorf("during the overload: %v", err)
	}
	// One in a hundred may be late: the clients of the overload, and other
	// tests, use the same cores.
	if w.late > 1+w.asked/100 {
		t.Errorf("during the overload %d of %d answers took more than %v", w.late, w.asked, routeWait)
	}
	for id, rss := range w.rss {
		if rss > rssCap {
			t.Errorf("%s held %.0f MiB, more than %d", id, rss/(1<<20), rssCap>>20)
		}
	}
}

func mebibytes(bytes map[string]float64) map[string]int {
	out := map[string]int{}
	for id, n := range bytes {
		out[id] = int(n) >> 20
	}
	return out
}

// metric finds a sample without labels in Prometheus' text format, -1 if it is not there.
func metric(text []byte, name string) float64 {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err == nil {
				return value
			}
		}
	}
	return -1
}

// Three times what the cluster can do, of clients that do not wait: what it
// can't take it refuses, and says so; what it takes it does; and whoever looks
// after it can.
func TestOverloadIsRefusedAndNothingElseSuffers(t *testing.T) {
	skipIfShort(t)
	const peakTime, floodTime = 2 * time.Second, 5 * time.Second
	c := proctest.Start(t, proctest.Options{Args: []string{
		// A node that refuses early: the client of this test, on the same two
		// cores, could not fill the default queues.
		"--max-in-flight", "64", "--max-concurrent-writes", "128", "--body-memory", "64MiB", "--memory-limit", "1GiB",
	}})
	leader := c.Leader()
	peak := newFlood(leader)
	peak.run("peak", 0, 64, peakTime)
	peak.report(t, "64 clients", peakTime)
	capacity := float64(len(peak.accepted)) / peakTime.Seconds()

	over := newFlood(leader)
	w := watch(c)
	// In the middle of it an operator lowers the limits: admin writes pass.
	set := make(chan error, 1)
	time.AfterFunc(floodTime/2, func() { set <- setLimits(leader, nil) })
	over.run("over", 3*capacity, 400, floodTime)
	w.end(t)
	over.report(t, fmt.Sprintf("%.0f writes/s offered", 3*capacity), floodTime)
	if err := <-set; err != nil {
		t.Errorf("the limits could not be set during the overload: %v", err)
	}
	if len(over.refused) == 0 {
		t.Error("nothing was refused: that was no overload")
	}
	ended := time.Now()
	proctest.Eventually(t, 5*time.Second, "back to normal", func() error { return lightLoad(leader, ended) })
	t.Logf("back to normal %v after the overload", time.Since(ended).Round(time.Millisecond))
	verifyAccepted(t, c, peak.accepted, over.accepted)
}

// lightLoad does a few writes, one after the other, each of which must be
// done at once.
func lightLoad(n *proctest.Node, at time.Time) error {
	for i := range 20 {
		start := time.Now()
		answer, err := n.Do(context.Background(), http.MethodPut, fmt.Sprintf("%s/light-%d-%d", docs, at.UnixNano(), i), map[string]any{"content": "x"})
		switch {
		case err != nil:
			return err
		case answer.Status >= 300:
			return fmt.Errorf("status %d: %.200s", answer.Status, answer.Body)
		case time.Since(start) > 300*time.Millisecond:
			return fmt.Errorf("a write took %v", time.Since(start))
		}
	}
	return nil
}

// verifyAccepted looks in the listing of every node for each write that was
// accepted: that is one request in place of a thousand.
func verifyAccepted(t *testing.T, c *proctest.Cluster, accepted ...map[string]uint64) {
	t.Helper()
	for _, n := range c.Nodes {
		have, count, lost := listIDs(t, n), 0, 0
		for _, ids := range accepted {
			for id := range ids {
				count++
				if have[id] != 1 {
					lost++
				}
			}
		}
		if lost > 0 {
			t.Errorf("%s: of %d accepted writes %d are not there once", n.ID, count, lost)
		}
	}
}

func listIDs(t *testing.T, n *proctest.Node) map[string]int {
	t.Helper()
	ids := map[string]int{}
	query := "?limit=1000&consistency=linearizable"
	for {
		var page struct {
			Items      []struct{ ID string }
			NextCursor string `json:"next_cursor"`
		}
		n.Must(http.StatusOK, http.MethodGet, docs+query, nil, &page)
		for _, item := range page.Items {
			ids[item.ID]++
		}
		if page.NextCursor == "" {
			return ids
		}
		query = "?limit=1000&consistency=linearizable&cursor=" + page.NextCursor
	}
}

// setLimits replaces the rate limits of the cluster.
func setLimits(n *proctest.Node, limits []wire.RateLimit) error {
	if limits == nil {
		limits = []wire.RateLimit{}
	}
	answer, err := n.Do(context.Background(), http.MethodPut, "/v1/cluster/limits", wire.Limits{RateLimits: limits})
	if err == nil && answer.Status != http.StatusOK {
		err = fmt.Errorf("status %d: %.300s", answer.Status, answer.Body)
	}
	return err
}

// A limit that is set at one node holds wherever the writes come in, and after
// the leader has changed.
func TestRateLimitsHoldOnEveryNode(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	put(c.Nodes[0], "before", "x")
	follower := c.Followers()[0]
	limits := []wire.RateLimit{{Scope: "collection", Name: "e2e", WritesPerSecond: 0.01, Burst: 5}}
	if err := setLimits(follower, limits); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		proctest.Eventually(t, 10*time.Second, n.ID+" knows the limits", func() error {
			var got wire.Limits
			n.Must(http.StatusOK, http.MethodGet, "/v1/cluster/limits", nil, &got)
			if len(got.RateLimits) != 1 || got.RateLimits[0] != limits[0] {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
	}
	limited(t, c, "first", 5)
	// Another collection has no limit, and reads have none.
	c.Nodes[1].Must(http.StatusCreated, http.MethodPut, "/v1/collections/other/docs/x", map[string]any{"content": "x"}, nil)
	if err := readBack(follower, document{"before", "x", 0}, "consistency=linearizable"); err != nil {
		t.Error(err)
	}
	// A new leader has the limits, and allowances of its own.
	leader := c.Leader()
	leader.Must(http.StatusOK, http.MethodPost, "/v1/cluster/transfer-leader", map[string]any{"to": follower.ID}, nil)
	proctest.Eventually(t, 20*time.Second, follower.ID+" leads", func() error {
		if follower.Role() != "leader" {
			return errNot
		}
		return nil
	})
	limited(t, c, "second", 5)
	if err := setLimits(c.Nodes[0], nil); err != nil {
		t.Fatal(err)
	}
	proctest.Eventually(t, 10*time.Second, "the limits are lifted", func() error {
		answer, err := c.Nodes[0].Do(context.Background(), http.MethodPut, docs+"/lifted", map[string]any{"content": "x"})
		if err == nil && answer.Status >= 300 {
			err = fmt.Errorf("status %d: %.300s", answer.Status, answer.Body)
		}
		return err
	})
}

// limited writes through all nodes in turn, and fails unless just the burst is
// taken and the rest refused with 429 rate_limited.
func limited(t *testing.T, c *proctest.Cluster, prefix string, burst int) {
	t.Helper()
	var taken, refused atomic.Int64
	inParallel(t, 4, 30, func(i int) error {
		answer, err := c.Nodes[i%len(c.Nodes)].Do(context.Background(), http.MethodPut, fmt.Sprintf("%s/%s-%d", docs, prefix, i), map[string]any{"content": "x"})
		if err != nil {
			return err
		}
		p := answer.Problem()
		switch {
		case answer.Status == http.StatusCreated:
			taken.Add(1)
			return nil
		case answer.Status != http.StatusTooManyRequests || p.Code != wire.CodeRateLimited || p.Reason != "rate_limited":
			return fmt.Errorf("status %d: %.300s", answer.Status, answer.Body)
		}
		refused.Add(1)
		if fault := badRefusal(answer); fault != "" {
			return errors.New(fault)
		}
		return nil
	})
	if taken.Load() != int64(burst) || refused.Load() != int64(30-burst) {
		t.Errorf("%s: %d were taken and %d refused; the burst is %d", prefix, taken.Load(), refused.Load(), burst)
	}
}
