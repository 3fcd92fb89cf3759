package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

// skipIfShort skips the tests that start processes.
func skipIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
}

const docs = "/v1/collections/e2e/docs"

// The consistency levels as query strings; %d is the index of a write.
var levels = []string{
	"consistency=session&min_index=%d", "consistency=linearizable", "consistency=bounded&max_staleness=5s", "consistency=local",
}

func atLevel(level string, index uint64) string {
	if level == levels[0] {
		return fmt.Sprintf(level, index)
	}
	return level
}

// document is what a test keeps of a document that it wrote.
type document struct {
	id, content string
	index       uint64
}

// put writes a document and fails unless it is created.
func put(n *proctest.Node, id, content string) document {
	answer := n.Must(http.StatusCreated, http.MethodPut, docs+"/"+id, map[string]any{"content": content}, nil)
	return document{id, content, answer.Index()}
}

// readBack returns an error unless the node has the document at that level.
func readBack(n *proctest.Node, d document, level string) error {
	answer, err := n.Do(context.Background(), http.MethodGet, docs+"/"+d.id+"?"+atLevel(level, d.index), nil)
	if err != nil {
		return err
	}
	var got struct {
		Snippets []struct{ Content string }
	}
	if answer.Status != http.StatusOK {
		return fmt.Errorf("%s from %s with %s: status %d: %.300s", d.id, n.ID, level, answer.Status, answer.Body)
	}
	if err := answer.JSON(&got); err != nil {
		return err
	}
	if len(got.Snippets) != 1 || got.Snippets[0].Content != d.content {
		return fmt.Errorf("%s from %s with %s: %.300s; want %q", d.id, n.ID, level, answer.Body, d.content)
	}
	if level == levels[0] && answer.Index() < d.index {
		return fmt.Errorf("%s from %s was read at %d, before %d", d.id, n.ID, answer.Index(), d.index)
	}
	return nil
}

// inParallel calls f for 0 to n-1 from several goroutines, and fails the test
// with the first errors.
func inParallel(t *testing.T, workers, n int, f func(i int) error) {
	t.Helper()
	var (
		next   atomic.Int64
		wg     sync.WaitGroup
		failed atomic.Int64
	)
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					if failed.Add(1) <= 5 {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// load writes documents from several clients until it is stopped, as a client
// does that wants each to be there exactly once: a write whose outcome it does
// not know it sends again with the same idempotency key, at any node. The id is
// the server's, so that a write that is applied twice makes two documents.
type load struct {
	cluster *proctest.Cluster
	stop    chan struct{}
	wg      sync.WaitGroup

	mu       sync.Mutex // guards what follows
	acked    map[string]uint64
	maxIndex uint64
	lastAck  time.Time
	failures []error
}

func startLoad(c *proctest.Cluster, clients int) *load {
	l := &load{cluster: c, stop: make(chan struct{}), acked: map[string]uint64{}}
	for client := range clients {
		l.wg.Go(func() {
			for n := 0; !l.stopped(); n++ {
				l.write(fmt.Sprintf("client-%d-write-%d", client, n))
			}
		})
	}
	return l
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// write sends one document until it is acknowledged. When the load is stopped
// it gives up: such a write may be there, once, or not.
func (l *load) write(title string) {
	for !l.stopped() {
		node := l.cluster.Nodes[rand.IntN(len(l.cluster.Nodes))]
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		answer, err := node.Do(ctx, http.MethodPost, docs,
			map[string]any{"title": title, "content": title}, wire.HeaderIdempotencyKey, title)
		cancel()
		switch {
		case err == nil && answer.Status == http.StatusCreated:
			l.ack(title, answer.Index())
			return
		case err == nil && answer.Status < 500 && answer.Status != http.StatusTooManyRequests && answer.Status != http.StatusConflict:
			l.mu.Lock()
			l.failures = append(l.failures, fmt.Errorf("%s at %s: status %d: %.300s", title, node.ID, answer.Status, answer.Body))
			l.mu.Unlock()
			return
		}
		time.Sleep(20 * time.Millisecond) // a client's pause before it tries again
	}
}

func (l *load) ack(title string, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[title] = index
	l.maxIndex = max(l.maxIndex, index)
	l.lastAck = time.Now()
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// waitForMore waits until so many more writes are acknowledged.
func (l *load) waitForMore(t *testing.T, more int) {
	t.Helper()
	before := l.count()
	proctest.Eventually(t, time.Minute, "writes go on", func() error {
		if n := l.count() - before; n < more {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
}

// end stops the clients and fails the test if a write was refused for good.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	for _, err := range l.failures {
		t.Error(err)
	}
}

// verify reads every document from every node, and compares: each write that
// was acknowledged is there once, each other one at most once, and all nodes
// have the same.
func (l *load) verify(t *testing.T) {
	t.Helper()
	var first []string
	for _, node := range l.cluster.Nodes {
		titles := listTitles(t, node, l.maxIndex)
		seen := map[string]int{}
		for _, title := range titles {
			seen[title]++
		}
		lost, twice := 0, 0
		for title := range l.acked {
			if seen[title] == 0 {
				lost++
			}
		}
		for _, n := range seen {
			if n > 1 {
				twice++
			}
		}
		t.Logf("%s: %d acknowledged, %d there, %d lost, %d twice", node.ID, len(l.acked), len(titles), lost, twice)
		if lost > 0 || twice > 0 {
			t.Errorf("%s: %d acknowledged writes are lost, %d documents are there twice", node.ID, lost, twice)
		}
		sort.Strings(titles)
		if first == nil {
			first = titles
		} else if fmt.Sprint(first) != fmt.Sprint(titles) {
			t.Errorf("%s has other documents than %s", node.ID, l.cluster.Nodes[0].ID)
		}
	}
}

// listTitles pages through all documents of a node as of an index or later,
// and as of what the leader has committed now, so that all nodes are compared
// at the same state.
func listTitles(t *testing.T, n *proctest.Node, index uint64) []string {
	t.Helper()
	var titles []string
	cursor := ""
	for {
		query := "?limit=500&consistency=linearizable"
		if cursor != "" {
			query += "&cursor=" + url.QueryEscape(cursor)
		}
		var page struct {
			Items []struct {
				Title string
			}
			NextCursor string `json:"next_cursor"`
		}
		answer := n.Must(http.StatusOK, http.MethodGet, docs+query, nil, &page)
		if answer.Index() < index {
			t.Fatalf("%s answered a linearizable read at %d, after a write at %d", n.ID, answer.Index(), index)
		}
		for _, item := range page.Items {
			titles = append(titles, item.Title)
		}
		if page.NextCursor == "" {
			return titles
		}
		cursor = page.NextCursor
	}
}

func TestThreeProcessesServeEveryDocumentAtEveryLevel(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	const count = 2000
	written := make([]document, count)
	start := time.Now()
	var forwarded atomic.Int64
	inParallel(t, 16, count, func(i int) error {
		// In turn at each node: two of three are written through a follower.
		node, id := c.Nodes[i%len(c.Nodes)], "doc-"+strconv.Itoa(i)
		answer, err := node.Do(context.Background(), http.MethodPut, docs+"/"+id, map[string]any{"content": "content of " + id})
		if err != nil {
			return err
		}
		if answer.Status != http.StatusCreated || answer.Index() == 0 {
			return fmt.Errorf("%s at %s: status %d, index %d: %.300s", id, node.ID, answer.Status, answer.Index(), answer.Body)
		}
		if answer.Header.Get(wire.HeaderForwardedBy) != "" {
			forwarded.Add(1)
		}
		written[i] = document{id, "content of " + id, answer.Index()}
		// Read your write, at once, from a node that did not write it.
		return readBack(c.Nodes[(i+1)%len(c.Nodes)], written[i], levels[0])
	})
	t.Logf("%d documents written and read back in %v, %d through followers", count, time.Since(start).Round(time.Millisecond), forwarded.Load())
	if forwarded.Load() < count/2 {
		t.Errorf("only %d writes were forwarded by a follower", forwarded.Load())
	}
	for _, node := range c.Nodes {
		for _, level := range levels {
			start := time.Now()
			inParallel(t, 16, count, func(i int) error { return readBack(node, written[i], level) })
			t.Logf("%s read all at %-40s in %v", node.ID, level, time.Since(start).Round(time.Millisecond))
		}
	}
}

func TestOfTwoWritersWithTheSameRevisionOneWins(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	for round := range 100 {
		id := fmt.Sprintf("contended-%d", round)
		revision := put(c.Nodes[0], id, "first").index
		var statuses [2]int
		inParallel(t, 2, 2, func(i int) error {
			answer, err := c.Nodes[(round+i)%3].Do(context.Background(), http.MethodPut, docs+"/"+id,
				map[string]any{"content": fmt.Sprintf("writer %d", i)}, "If-Match", fmt.Sprintf("%q", strconv.FormatUint(revision, 10)))
			if err != nil {
				return err
			}
			if answer.Status != http.StatusOK && answer.Status != http.StatusPreconditionFailed {
				return fmt.Errorf("status %d: %.300s", answer.Status, answer.Body)
			}
			statuses[i] = answer.Status
			return nil
		})
		if (statuses[0] == http.StatusOK) == (statuses[1] == http.StatusOK) {
			t.Fatalf("round %d: statuses %v; exactly one may win", round, statuses)
		}
	}
}

// errNot is for a check that has nothing to say but that it does not hold yet.
var errNot = errors.New("not yet")
