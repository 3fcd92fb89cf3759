package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
)

// The shape of the load.
const (
	// generation is how long a set of documents is used, and liveKeys how many
	// are in it: so that one has some hundred calls, and few of unknown outcome.
	generation = 4 * time.Second
	liveKeys   = 12
	// The deadlines of a call. A write with a key is sent again until its
	// deadline; a fault is over by then, mostly.
	readWait, plainWait, keyedWait = 3 * time.Second, 4 * time.Second, 12 * time.Second
	attemptWait                    = 2500 * time.Millisecond
	// boundMs is for bounded reads.
	boundMs = 600
	// maxQueue is how long a queue grows.
	maxQueue = 12
)

// Workload is the clients.
type Workload struct {
	history   *History
	endpoints []string
	workers   []*worker
	rate      float64 // calls per second of one worker
	stop      chan struct{}
	wg        sync.WaitGroup
	inFlight  atomic.Int64
	made      atomic.Int64 // values of which there are numbers only

	mu         sync.Mutex // guards what follows
	others     []other    // the newest documents that were created and imported
	remembered int
}

// NewWorkload makes clients for the nodes at endpoints; rate is the calls per
// second of all together.
func NewWorkload(h *History, endpoints []string, seed uint64, workers int, rate float64) (*Workload, error) {
	w := &Workload{history: h, endpoints: endpoints, rate: rate / float64(workers), stop: make(chan struct{})}
	for i := range workers {
		c, err := newClient(endpoints)
		if err != nil {
			return nil, err
		}
		rng := rand.New(rand.NewPCG(seed, uint64(i)+1))
		w.workers = append(w.workers, &worker{
			load: w, id: i, client: c, session: c.NewSession(), rng: rng, revisions: map[string]uint64{},
			queue: fmt.Sprintf("q%d", i), pair: fmt.Sprintf("p%d", i),
		})
	}
	return w, nil
}

// newClient makes a client that retries as often as its deadline allows: the
// budget protects overloaded nodes, which these are not.
func newClient(endpoints []string) (*client.Client, error) {
	return client.New(endpoints, client.Options{
		Timeout: 30 * time.Second, AttemptTimeout: attemptWait, MaxAttempts: 1000,
		BaseBackoff: 20 * time.Millisecond, MaxBackoff: 500 * time.Millisecond,
		Budget:      client.RetryBudget{Ratio: 1, Burst: 1e6, PerSecond: 1000},
		NoDiscovery: true,
	})
}

// Start starts the clients.
func (w *Workload) Start() {
	for _, one := range w.workers {
		w.wg.Go(one.run)
	}
}

// Stop ends the clients and waits until their last calls have returned.
func (w *Workload) Stop() {
	close(w.stop)
	w.wg.Wait()
}

// Close settles what is open once the cluster is well again, and closes the
// clients.
func (w *Workload) Close(ctx context.Context) {
	var wg sync.WaitGroup
	for _, one := range w.workers {
		wg.Go(func() {
			one.settle(ctx)
			one.client.Close()
		})
	}
	wg.Wait()
}

// worker is one client: a session, one call at a time.
type worker struct {
	load    *Workload
	id      int
	client  *client.Client
	session *client.Session
	rng     *rand.Rand
	count   int
	// revisions are the newest that this client has seen of documents.
	revisions map[string]uint64

	queue, pair string
	// length and made are what this client believes of its queue; pending is a
	// call on it whose outcome is not known yet, and is asked for again.
	length, made int
	pending      *queueCall
}

// run makes calls at the rate, one at a time. A call that took long is made up
// for, up to a bound, so that the rate does not depend on how long a call takes.
func (w *worker) run() {
	const maxBehind = time.Second
	next := time.Now()
	for {
		next = next.Add(min(time.Duration(w.rng.ExpFloat64()/w.load.rate*float64(time.Second)), 2*time.Second))
		if behind := time.Now().Add(-maxBehind); next.Before(behind) {
			next = behind
		}
		select {
		case <-w.load.stop:
			return
		case <-time.After(time.Until(next)):
		}
		w.load.inFlight.Add(1)
		w.one()
		w.load.inFlight.Add(-1)
	}
}

// choices are the calls and their shares.
var choices = []struct {
	share int
	do    func(w *worker)
}{
	{22, func(w *worker) { w.read(client.Linearizable()) }},
	{8, func(w *worker) { w.read(client.Bounded(boundMs * time.Millisecond)) }},
	{8, func(w *worker) { w.read(client.Consistency{Level: client.LevelSession}) }},
	{7, func(w *worker) { w.read(client.Local()) }},
	{10, func(w *worker) { w.put(false) }},
	{8, func(w *worker) { w.put(true) }},
	{5, (*worker).patch},
	{5, (*worker).putSnippet},
	{3, (*worker).patchSnippet},
	{4, (*worker).embed},
	{2, (*worker).vector},
	{4, (*worker).remove},
	{2, (*worker).removeOwner},
	{3, (*worker).batch},
	{4, (*worker).mixedBatch},
	{6, (*worker).create},
	{2, (*worker).importDocuments},
	{7, (*worker).readOther},
	{5, (*worker).queueStep},
	{3, (*worker).readQueue},
	{3, (*worker).pairWrite},
	{2, (*worker).pairRemove},
	{4, (*worker).pairRead},
	{3, (*worker).collPut},
	{2, (*worker).collRemove},
	{3, (*worker).collRead},
	{2, (*worker).limits},
	{2, (*worker).readLimits},
}

var totalShare = func() (total int) {
	for _, c := range choices {
		total += c.share
	}
	return total
}()

func (w *worker) one() {
	at := w.rng.IntN(totalShare)
	for _, c := range choices {
		if at -= c.share; at < 0 {
			c.do(w)
			return
		}
	}
}

// token makes a value that nobody else writes.
func (w *worker) token() string {
	w.count++
	return fmt.Sprintf("t%d-%d", w.id, w.count)
}

// key chooses one of the documents in use.
func (w *worker) key() string {
	round := w.load.history.Now() / int64(generation)
	return fmt.Sprintf("r%d-%d", round, w.rng.IntN(liveKeys))
}

// endpoint chooses a node to be asked and no other.
func (w *worker) endpoint() string { return w.load.endpoints[w.rng.IntN(len(w.load.endpoints))] }

// begin makes the record of a call that begins now.
func (w *worker) begin(kind, key string) *Op {
	return &Op{Client: w.id, Kind: kind, Key: key, Call: w.load.history.Now()}
}

// finishBatch does what finish does for a batch. If one operation was refused, it
// is only known of the others that they were not applied; ops are then all
// operations in their order. results takes in what an applied batch answered.
func (w *worker) finishBatch(meta client.Meta, err error, results func(), ops ...*Op) {
	w.ended(meta, err, ops...)
	if err == nil {
		results()
	}
	var e *client.Error
	if ops[0].Outcome == Refused && errors.As(err, &e) {
		for i, o := range ops {
			if e.Problem.Operation == nil || *e.Problem.Operation != i {
				o.Outcome, o.Code, o.Error, o.Status, o.Current = Failed, "", "", 0, 0
			}
		}
	}
	w.load.history.Add(ops...)
}

// finish records the end of calls that were one request.
func (w *worker) finish(meta client.Meta, err error, ops ...*Op) {
	w.ended(meta, err, ops...)
	w.load.history.Add(ops...)
}

func (w *worker) ended(meta client.Meta, err error, ops ...*Op) {
	now := w.load.history.Now()
	for _, o := range ops {
		o.Return = now
		o.answered(meta, err)
		if o.Outcome == OK && !o.IsRead() {
			w.revisions[o.Key] = max(w.revisions[o.Key], o.Index)
		}
	}
}
