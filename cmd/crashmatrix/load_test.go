package crashmatrix

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
)

const (
	collection = "/v1/collections/crash"
	docs       = collection + "/docs"
	dimension  = 8
	// clients is how many write at once; more would take the two cores from
	// the nodes.
	clients = 6
	// trimmers of them delete snippets without a key: see trim.
	trimmers = 2
	// writeWait bounds one try, opWait all tries of one operation.
	writeWait = 3 * time.Second
	opWait    = 90 * time.Second
)

// filler makes the log grow as fast as the smallest limits of a node need it.
var filler = strings.Repeat("lorem ipsum dolor ", 20)

// document is what must be there when the load has ended.
type document struct {
	title    string
	contents []string
	embedded bool
	// open: the first content may be gone as well. Nobody was told.
	open bool
}

// load is a set of clients, each with documents of its own, that do one
// operation after the other and repeat each with the same idempotency key
// until it is acknowledged. When they are told to end, they finish what they
// have begun. So nothing is left open, but the last deletion of a trimmer:
// there is exactly one right content of the collection, and an operation that
// is lost or applied twice makes another.
type load struct {
	cluster *proctest.Cluster
	nodes   int           // of the cluster that the clients talk to
	stop    chan struct{} // closed: begin nothing more
	over    chan struct{} // closed: the row has ended, give up
	history *history
	wg      sync.WaitGroup
	// gate is held for reading by an operation, and for writing by a pause.
	gate sync.RWMutex

	mu       sync.Mutex // guards what follows
	want     map[string]document
	acked    int
	maxIndex uint64
	retries  int
	failures []failure
}

// failure is an operation that ended as none may.
type failure struct {
	name checker
	text string
}

func startLoad(c *proctest.Cluster, seed uint64, trimmers int, history *history) *load {
	l := &load{cluster: c, nodes: len(c.Nodes), stop: make(chan struct{}), over: make(chan struct{}), history: history, want: map[string]document{}}
	for id := range clients {
		w := &client{load: l, name: fmt.Sprintf("c%d", id), random: rand.New(rand.NewPCG(seed, mixer+uint64(id)))}
		w.work = w.workflow
		if id < trimmers {
			w.work = w.trim
		}
		l.wg.Go(w.run)
	}
	return l
}

func (l *load) stopped() bool { return closed(l.stop) || closed(l.over) }

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// abandon ends the clients of a row that failed in the middle, so that they
// don't take the cores from the next one.
func (l *load) abandon(t testing.TB, resume func()) {
	close(l.over)
	resume()
	l.wg.Wait()
	if err := l.history.close(); err != nil {
		t.Logf("the history of the load is not whole: %v", err)
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// waitFor waits until so many more operations are acknowledged.
func (l *load) waitFor(t testing.TB, more int) {
	t.Helper()
	before := l.count()
	proctest.Eventually(t, opWait, fmt.Sprintf("%d more operations are acknowledged", more), func() error {
		if n := l.count() - before; n < more {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

// pause waits until no operation is on its way and lets none begin until the
// function that it returns is called.
func (l *load) pause() (resume func()) {
	l.gate.Lock()
	return sync.OnceFunc(l.gate.Unlock)
}

// end lets the clients finish, and returns the first of what failed.
func (l *load) end() []failure {
	close(l.stop)
	l.wg.Wait()
	return l.failures[:min(5, len(l.failures))]
}

func (l *load) ack(answer *proctest.Answer, change func(want map[string]document)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked++
	l.maxIndex = max(l.maxIndex, answer.Index())
	change(l.want)
}

// note changes what must be there without an acknowledgement.
func (l *load) note(change func(want map[string]document)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.want)
}

func (l *load) fail(name checker, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, failure{name, fmt.Sprintf(format, args...)})
}

// client is one writer.
type client struct {
	load   *load
	name   string
	random *rand.Rand
	ops    int
	// work is the life of one document; false: an operation failed for good.
	work func(title string, n int) bool
}

func (c *client) run() {
	for n := 0; !c.load.stopped(); n++ {
		if !c.work(fmt.Sprintf("%s-d%d", c.name, n), n) {
			return
		}
	}
}

// workflow is the life of one document: it is created with an id of the
// server's (so that a creation that happens twice makes two), gets its vectors,
// and perhaps a new content, and an end. false: an operation failed for good.
func (c *client) workflow(title string, n int) bool {
	contents := []string{title + " first " + filler, title + " second " + filler}
	var made wire.Document
	input := map[string]any{"title": title, "content": contents}
	if !c.do(http.MethodPost, docs, input, &made, func(want map[string]document) {
		want[made.ID] = document{title: title, contents: contents}
	}) {
		return false
	}
	path := docs + "/" + made.ID
	var embedded wire.EmbeddingsResult
	if !c.do(http.MethodPut, path+"/embeddings", embeddings(len(contents), n), &embedded, func(want map[string]document) {
		want[made.ID] = document{title: title, contents: contents, embedded: true}
	}) {
		return false
	}
	if n%3 == 1 {
		// With the revision that it has to have: if anything was applied twice
		// or not at all, this is refused.
		contents := []string{title + " replaced"}
		if !c.do(http.MethodPut, path, map[string]any{"title": title, "content": contents}, nil, func(want map[string]document) {
			want[made.ID] = document{title: title, contents: contents}
		}, "If-Match", strconv.Quote(strconv.FormatUint(embedded.Revision, 10))) {
			return false
		}
	}
	if n%4 == 3 {
		return c.do(http.MethodDelete, path, nil, nil, func(want map[string]document) { delete(want, made.ID) })
	}
	if n%5 == 2 {
		return c.batch(title)
	}
	return true
}

// trim makes a document of many snippets and deletes the first of them again
// and again, without a key. Nothing else here would tell an entry that was
// applied twice: the keys answer from their rows, and most operations have the
// same effect again. This one has another: each snippet has the number of the
// one before it now. It is sent once; if its outcome is not known, the document
// is left as it is.
func (c *client) trim(title string, _ int) bool {
	contents := make([]string, 24)
	for i := range contents {
		contents[i] = fmt.Sprintf("%s part %d", title, i)
	}
	var made wire.Document
	if !c.do(http.MethodPost, docs, map[string]any{"title": title, "content": contents}, &made, func(want map[string]document) {
		want[made.ID] = document{title: title, contents: contents}
	}) {
		return false
	}
	for len(contents) > 1 && !c.load.stopped() {
		answer, err := c.once(http.MethodDelete, docs+"/"+made.ID+"/snippets/0")
		switch {
		case err == nil && answer.Status < 300:
			contents = contents[1:]
			c.load.ack(answer, func(want map[string]document) { want[made.ID] = document{title: title, contents: contents} })
		case errors.Is(err, syscall.ECONNREFUSED), err == nil && answer.Status >= 429 && answer.Problem().Outcome == "not_applied":
			time.Sleep(20 * time.Millisecond) // a client's pause before it tries again
		case err == nil && answer.Status < 500:
			c.load.fail(byAnswer, "delete a snippet of %s: status %d: %.400s", made.ID, answer.Status, answer.Body)
			return false
		default:
			c.load.note(func(want map[string]document) { want[made.ID] = document{title: title, contents: contents, open: true} })
			return true
		}
	}
	return true
}

// once sends a request to some node, one time.
func (c *client) once(method, path string) (*proctest.Answer, error) {
	c.load.gate.RLock()
	defer c.load.gate.RUnlock()
	_, answer, err := c.send(1, method, path, nil)
	return answer, err
}

// send is one try of an operation at some node. It goes into the history.
func (c *client) send(try int, method, path string, body any, header ...string) (*proctest.Node, *proctest.Answer, error) {
	node := c.load.cluster.Nodes[c.random.IntN(c.load.nodes)]
	ctx, cancel := context.WithTimeout(context.Background(), writeWait)
	defer cancel()
	call := &Call{Client: c.name, Try: try, Node: node.ID, Method: method, Path: path, Header: header, Body: body}
	c.load.history.begin(call)
	answer, err := node.Do(ctx, method, path, body, header...)
	c.load.history.end(call, answer, err)
	return node, answer, err
}

// batch puts two documents at once.
func (c *client) batch(title string) bool {
	ids := [2]string{title + "-x", title + "-y"}
	operations := make([]map[string]any, len(ids))
	for i, id := range ids {
		operations[i] = map[string]any{"op": "put_doc", "id": id, "doc": map[string]any{"title": id, "content": "of " + id}}
	}
	return c.do(http.MethodPost, collection+"/batch", map[string]any{"operations": operations}, nil, func(want map[string]document) {
		for _, id := range ids {
			want[id] = document{title: id, contents: []string{"of " + id}}
		}
	})
}

// embeddings are vectors that differ for each document and snippet.
func embeddings(count, n int) map[string]any {
	list := make([]map[string]any, count)
	for i := range list {
		vector := make([]float64, dimension)
		for d := range vector {
			vector[d] = float64(1 + (n+i*3+d*7)%11)
		}
		list[i] = map[string]any{"index": i, "vector": vector}
	}
	return map[string]any{"model": "m", "embeddings": list}
}

// do repeats one operation until it is acknowledged, and then notes its effect.
func (c *client) do(method, path string, body, into any, change func(map[string]document), header ...string) bool {
	c.load.gate.RLock()
	defer c.load.gate.RUnlock()
	c.ops++
	header = append(header, wire.HeaderIdempotencyKey, fmt.Sprintf("%s-op%d", c.name, c.ops))
	deadline := time.Now().Add(opWait)
	for try := 0; ; try++ {
		node, answer, err := c.send(try+1, method, path, body, header...)
		switch {
		case err == nil && answer.Status < 300:
			if into != nil {
				if err := answer.JSON(into); err != nil {
					c.load.fail(byAnswer, "%s %s: %v", method, path, err)
					return false
				}
			}
			c.load.ack(answer, change)
			return true
		case err == nil && answer.Status < 500 && answer.Status != http.StatusTooManyRequests && answer.Problem().Code != wire.CodeWriteConflict:
			c.load.fail(byAnswer, "%s %s at %s, try %d: status %d: %.400s", method, path, node.ID, try+1, answer.Status, answer.Body)
			return false
		case err == nil:
			err = fmt.Errorf("status %d: %.300s", answer.Status, answer.Body)
		}
		if time.Now().After(deadline) || closed(c.load.over) {
			c.load.fail(byProgress, "%s %s: not acknowledged in %v: %v", method, path, opWait, err)
			return false
		}
		c.load.mu.Lock()
		c.load.retries++
		c.load.mu.Unlock()
		time.Sleep(20 * time.Millisecond) // a client's pause before it tries again
	}
}
