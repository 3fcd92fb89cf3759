package importer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// Target is where documents go. httpapi/client satisfies it through a small
// adapter; a test gives its own.
type Target interface {
	// Import streams documents and calls fn with one result per document, in
	// order, from one goroutine. It must not pull from docs after it returned.
	Import(ctx context.Context, docs iter.Seq[wire.DocumentInput], fn func(wire.ImportResult) error) error
	// Append applies operations on one document in one atomic batch.
	Append(ctx context.Context, ops []wire.Operation) error
}

// The bounds of a run.
const (
	// windowBytes bounds the documents that are sent and not yet answered;
	// minCost is what the smallest document counts, so that the window holds
	// at most 1024 of them.
	windowBytes = 32 << 20
	minCost     = windowBytes / 1024
	// maxRounds is how many streams in a row may end without one document
	// done; with the pauses between them that is about a minute.
	maxRounds = 12
	// maxFailures bounds the failures that a report lists.
	maxFailures = 1000
	// appendWorkers bounds the follow-up batches under way.
	appendWorkers = 4
)

// Failure is one document that was not imported.
type Failure struct {
	Number int    `json:"number"`
	ID     string `json:"id,omitempty"`
	Status int    `json:"status,omitempty"`
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail"`
}

// Report is the result of a run.
type Report struct {
	Documents int   `json:"documents"`
	Snippets  int   `json:"snippets"`
	Bytes     int64 `json:"bytes"`
	Skipped   int   `json:"skipped"`
	Failed    int   `json:"failed"`
	// Failures lists the first 1000 of the failed.
	Failures []Failure `json:"failures"`
	// Rounds is how many streams it took; 1 if nothing was interrupted.
	Rounds  int           `json:"rounds"`
	Elapsed time.Duration `json:"-"`
	Seconds float64       `json:"seconds"`
	// ContinueFrom is the number of the first document that is not imported,
	// 0 if all are.
	ContinueFrom int `json:"continue_from,omitempty"`
}

// Options of a run.
type Options struct {
	// ContinueFrom skips all items with a smaller number.
	ContinueFrom int
	// OnFailure is called for each document that failed, from one goroutine
	// at a time. May be nil.
	OnFailure func(Failure)
	// Pause is the first wait after an interrupted stream; it doubles up to
	// 8 s. 0 means 250 ms.
	Pause time.Duration
	// Progress, if not nil, is kept up to date during the run.
	Progress *Progress
}

// pending is a document on its way.
type pending struct {
	number   int
	doc      wire.DocumentInput
	rest     [][]wire.SnippetInput
	snippets int
	bytes    int64
	cost     int64
}

// runner is the state of one run. mu guards everything below it.
type runner struct {
	target  Target
	opts    Options
	window  *semaphore.Weighted
	appends chan struct{} // a slot per follow-up under way
	wait    sync.WaitGroup

	pull      sync.Mutex // held while the source is read
	next      func() (Item, bool)
	exhausted bool // guarded by pull
	fatal     error

	mu       sync.Mutex
	inflight []*pending // sent in this round and not answered, in order
	retry    []*pending // to be sent again
	held     *pending   // read when the window was full: first of the next round
	open     map[int]bool
	lastRead int
	stop     bool // no more documents in this round
	advanced bool // something was done in this round
	report   Report
}

// Run writes the documents of source to target. The error says why the run
// ended early; failures of single documents are in the report only.
func Run(ctx context.Context, target Target, source Source, o Options) (*Report, error) {
	if o.Pause <= 0 {
		o.Pause = 250 * time.Millisecond
	}
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	next, stop := iter.Pull(source.Items)
	defer stop()
	r := &runner{
		target: target, opts: o, next: next,
		window:  semaphore.NewWeighted(windowBytes),
		appends: make(chan struct{}, appendWorkers),
		open:    map[int]bool{},
	}
	r.report.Failures = []Failure{}
	o.Progress.begin(source)
	begin := time.Now()
	err := r.rounds(ctx)
	r.wait.Wait()
	r.report.Elapsed = time.Since(begin)
	r.report.Seconds = r.report.Elapsed.Seconds()
	r.report.ContinueFrom = r.firstOpen(err != nil)
	return &r.report, err
}

// rounds repeats streams until every document is done or failed.
func (r *runner) rounds(ctx context.Context) error {
	pause, idle := r.opts.Pause, 0
	for {
		r.report.Rounds++
		err := r.round(ctx)
		r.mu.Lock()
		left, advanced := len(r.retry), r.advanced
		more := r.held != nil
		r.mu.Unlock()
		r.pull.Lock()
		exhausted, fatal := r.exhausted, r.fatal
		r.pull.Unlock()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("importer: interrupted: %w", context.Cause(ctx))
		case left == 0 && exhausted && !more:
			return fatal
		case err != nil && permanent(err):
			return fmt.Errorf("importer: %w", err)
		case err == nil && left == 0 && advanced:
			continue // the window was full; nothing went wrong
		}
		if advanced {
			pause, idle = r.opts.Pause, 0
		} else if idle++; idle >= maxRounds {
			if err == nil {
				err = errors.New("the cluster refused every document")
			}
			return fmt.Errorf("importer: gave up after %d attempts: %w", idle, err)
		}
		r.opts.Progress.Retries.Add(1)
		// Full jitter: several importers must not come back at the same moment.
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		}
		pause = min(2*pause, 8*time.Second)
	}
}

// permanent says whether a stream's error will be the same next time.
func permanent(err error) bool {
	var status interface{ Permanent() bool }
	return errors.As(err, &status) && status.Permanent()
}

// round is one stream. What it leaves unanswered goes to the retry list.
func (r *runner) round(ctx context.Context) error {
	r.mu.Lock()
	again := r.retry
	if r.held != nil {
		again = append(again, r.held)
	}
	r.retry, r.held, r.inflight, r.stop, r.advanced = nil, nil, nil, false, false
	r.mu.Unlock()
	sent := 0
	err := r.target.Import(ctx, func(yield func(wire.DocumentInput) bool) {
		for {
			var p *pending
			if sent < len(again) {
				p = again[sent]
				sent++
			} else if p = r.read(ctx); p == nil {
				return
			}
			r.mu.Lock()
			if r.stop {
				r.retry = append(r.retry, p)
				r.mu.Unlock()
				return
			}
			r.inflight = append(r.inflight, p)
			r.mu.Unlock()
			if !yield(p.doc) {
				return
			}
		}
	}, func(result wire.ImportResult) error { return r.answer(ctx, result) })
	r.wait.Wait() // follow-ups put their documents into the retry list
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retry = append(append(r.inflight, again[sent:]...), r.retry...)
	r.inflight = nil
	return err
}

// read takes the next usable item from the source. nil: the source is at its
// end, the window is full, or the round is over.
func (r *runner) read(ctx context.Context) *pending {
	r.pull.Lock()
	defer r.pull.Unlock()
	for !r.exhausted && ctx.Err() == nil && !r.stopping() {
		item, ok := r.next()
		if !ok {
			r.exhausted = true
			return nil
		}
		var fatal *FatalError
		switch {
		case errors.As(item.Err, &fatal):
			r.exhausted, r.fatal = true, item.Err
			r.note(item.Number)
			return nil
		case item.Number < r.opts.ContinueFrom || errors.Is(item.Err, errSkip):
			r.skip()
			continue
		case item.Err == nil:
			item.Err = checkSizes(&item.Doc)
		}
		if item.Err != nil {
			r.note(item.Number)
			r.fail(Failure{Number: item.Number, ID: item.Doc.ID, Detail: item.Err.Error()})
			continue
		}
		r.note(item.Number)
		p := &pending{number: item.Number, bytes: documentBytes(&item.Doc)}
		p.snippets = len(item.Doc.Snippets) + len(item.Doc.Content)
		p.doc, p.rest = chunk(item.Doc)
		p.cost = min(max(p.bytes, minCost), windowBytes)
		if r.window.TryAcquire(p.cost) {
			return p
		}
		// The window is full. Waiting here could wait for ever: Import may
		// gather documents before it sends any. So this stream ends, and the
		// next begins with this document, the only one beyond the window.
		p.cost = 0
		r.mu.Lock()
		r.held = p
		r.mu.Unlock()
		return nil
	}
	return nil
}

// answer takes the stream's result for the oldest document under way.
func (r *runner) answer(ctx context.Context, result wire.ImportResult) error {
	if result.Done {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.inflight) == 0 {
		return fmt.Errorf("the server answered line %d, which was not sent", result.Line)
	}
	p := r.inflight[0]
	if result.ID != "" && result.ID != p.doc.ID {
		return fmt.Errorf("the server answered for %q where %q was next", result.ID, p.doc.ID)
	}
	r.inflight = r.inflight[1:]
	switch {
	case result.Status >= 200 && result.Status < 300 && len(p.rest) > 0:
		r.wait.Go(func() { r.grow(ctx, p) })
	case result.Status >= 200 && result.Status < 300:
		r.doneLocked(p)
	case retryable(result.Status):
		r.againLocked(p)
	default:
		r.failLocked(Failure{Number: p.number, ID: p.doc.ID, Status: result.Status, Code: result.Code, Detail: result.Detail})
		r.window.Release(p.cost)
	}
	return nil
}

// retryable says whether the same line may succeed later. 504 is an unknown
// outcome; a put may be repeated after it.
func retryable(status int) bool {
	return status == 429 || status == 503 || status == 504 || status == 502 || status == 0
}

// grow appends what did not fit into the first entry of a document.
func (r *runner) grow(ctx context.Context, p *pending) {
	select {
	case r.appends <- struct{}{}:
		defer func() { <-r.appends }()
	case <-ctx.Done():
		r.again(p)
		return
	}
	index := len(p.doc.Snippets)
	for _, group := range p.rest {
		ops := make([]wire.Operation, len(group))
		for i := range group {
			at := index + i
			ops[i] = wire.Operation{Op: wire.OpPutSnippet, ID: p.doc.ID, Index: &at, Snippet: &group[i]}
		}
		if err := r.target.Append(ctx, ops); err != nil {
			if ctx.Err() != nil || !permanent(err) {
				r.again(p)
				return
			}
			r.mu.Lock()
			r.failLocked(Failure{Number: p.number, ID: p.doc.ID, Detail: fmt.Sprintf("snippets %d to %d: %v", index, index+len(group)-1, err)})
			r.window.Release(p.cost)
			r.mu.Unlock()
			return
		}
		index += len(group)
	}
	r.mu.Lock()
	r.doneLocked(p)
	r.mu.Unlock()
}

// again puts a document back, from its beginning.
func (r *runner) again(p *pending) {
	r.mu.Lock()
	r.againLocked(p)
	r.mu.Unlock()
}

// againLocked ends the sending of this round: more documents into a cluster
// that refuses them would only fill the retry list.
func (r *runner) againLocked(p *pending) {
	r.retry = append(r.retry, p)
	r.stop = true
}

func (r *runner) stopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop
}

func (r *runner) note(number int) {
	r.mu.Lock()
	r.open[number] = true
	r.lastRead = number
	r.mu.Unlock()
}

func (r *runner) skip() {
	r.mu.Lock()
	r.report.Skipped++
	r.mu.Unlock()
	r.opts.Progress.Items.Add(1)
}

func (r *runner) doneLocked(p *pending) {
	delete(r.open, p.number)
	r.advanced = true
	r.report.Documents++
	r.report.Snippets += p.snippets
	r.report.Bytes += p.bytes
	r.window.Release(p.cost)
	r.opts.Progress.done(p)
}

func (r *runner) fail(f Failure) {
	r.mu.Lock()
	r.failLocked(f)
	r.mu.Unlock()
}

// failLocked records a failure. The number stays open: a later run that
// continues from it tries it again.
func (r *runner) failLocked(f Failure) {
	r.advanced = true
	r.report.Failed++
	r.opts.Progress.Failed.Add(1)
	r.opts.Progress.Items.Add(1)
	if len(r.report.Failures) < maxFailures {
		r.report.Failures = append(r.report.Failures, f)
	}
	if r.opts.OnFailure != nil {
		r.opts.OnFailure(f)
	}
}

// firstOpen is the number to continue from: the smallest that was read and is
// not imported, or the one behind the last that was read.
func (r *runner) firstOpen(early bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := 0
	for number := range r.open {
		if first == 0 || number < first {
			first = number
		}
	}
	if first == 0 && early {
		return max(r.lastRead+1, r.opts.ContinueFrom)
	}
	return first
}
