package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// The import: lines of NDJSON come in, lines of NDJSON go out, at the same time
// on one connection. Each line is a command of its own (the group commit below
// joins them), so there is nothing to undo and nothing to remember. At most
// Options.ImportWindow lines are between the reader and the writer; when the
// client does not read its answers, the writer stands still, then the window
// is full, then nothing is read any more, and TCP holds the client back.

const (
	// importBuffer is the reader's buffer; lines may be longer.
	importBuffer = 64 << 10
	// importRetryBase and importRetryMax bound the pauses of the retries while
	// the node is overloaded.
	importRetryBase = 50 * time.Millisecond
	importRetryMax  = 5 * time.Second
	// importLinger and importLingerBytes bound what is read of a client that
	// has not seen yet that its import ended.
	importLinger      = time.Second
	importLingerBytes = 64 << 20
)

// importLine is one line on its way. Its result is there when done is closed.
type importLine struct {
	number int
	text   []byte
	id     string
	in     wire.DocumentInput
	// ahead is the line in front of it. A line enters the chain of its id
	// (importer.inFlight) only after the line ahead has, and closes chained
	// then; so the chains have the order of the lines although the lines are
	// decoded side by side.
	ahead   *importLine
	chained chan struct{}
	// before is the line before it with the same id, still in flight: the two
	// must be applied in their order.
	before *importLine
	result wire.ImportResult
	// stops is set when the import ends with this line: when the result is the
	// node's trouble and not the line's, because the lines behind it would fare
	// no better, and with stop_on_error.
	stops bool
	done  chan struct{}
}

// importer is one import.
type importer struct {
	c           *call
	collection  string
	stopOnError bool
	// queue holds the lines in their order. Who puts one there has a place of
	// slots, which is the window, so that it never waits.
	queue chan *importLine
	slots chan struct{}
	// memory bounds the bytes of the lines in the window.
	memory *semaphore.Weighted
	// giveUp ends the waits of lines that are not proposed yet, with the error
	// that they would meet.
	giveUp context.CancelCauseFunc
	// mu guards what follows.
	mu sync.Mutex
	// inFlight is the newest line of each id that is in flight.
	inFlight map[string]*importLine
	// readErr is why no more is read: io.EOF after a whole body, nil if a line
	// or the server ended the import. It is there when ended is closed, and
	// queue is closed with it: no line is started after that.
	readErr error
	ended   chan struct{}
	workers sync.WaitGroup
	// newest is the line that was read last; only the reader uses it.
	newest *importLine
	body   *deadlineReader
}

// serveStream serves the import at the leader, or passes it on.
func (c *call) serveStream() (*reply, error) {
	if leader := c.s.backend.Leader(); !leader.Self {
		return c.toLeader(leader, nil)
	}
	if err := c.admitStream(); err != nil {
		return nil, err
	}
	if err := c.route.Stream(c); err != nil {
		return nil, err
	}
	return &reply{written: true}, nil
}

// admitStream refuses an import that would begin with a wait. What is refused
// later holds the client back (see apply): by then it has sent half of its lines.
func (c *call) admitStream() error {
	collection, err := c.collectionName()
	if err != nil {
		return err
	}
	// Imports of one collection share its allowance by waiting for it a line at
	// a time, so a short wait says only that there is another one.
	wait, _ := c.s.rates.take(c.s.backend.Limits(), collection, c.tokenID(), lookLine)
	if wait > minRetryAfter {
		err = overRate(collection, wait)
		c.s.metrics.refused.WithLabelValues("rate", string(contract.RateLimited)).Inc()
	} else {
		err = c.s.backend.AdmitWrite(0, false)
	}
	if err != nil {
		// The body is not read to its end.
		c.g.Writer.Header().Set("Connection", "close")
	}
	return err
}

func postImport(c *call) error {
	collection, err := c.collectionName()
	if err != nil {
		return err
	}
	stopOnError, err := c.flag(wire.ParamStopOnError)
	if err != nil {
		return err
	}
	if err := c.s.backend.Ready(); err != nil {
		return err
	}
	im := &importer{
		c: c, collection: collection, stopOnError: stopOnError,
		queue:    make(chan *importLine, c.s.opts.ImportWindow),
		slots:    make(chan struct{}, c.s.opts.ImportWindow),
		memory:   semaphore.NewWeighted(c.s.opts.ImportWindowBytes),
		inFlight: map[string]*importLine{},
		ended:    make(chan struct{}),
	}
	return im.run()
}

// run reads in the background and writes here. It returns when both are done.
func (im *importer) run() error {
	control := http.NewResponseController(im.c.g.Writer)
	if err := control.EnableFullDuplex(); err != nil && im.c.g.Request.ProtoMajor < 2 {
		return fmt.Errorf("httpapi: import: %w", err)
	}
	ctx, cancel, body := detach(im.c, control, im.stopped)
	defer cancel()
	waits, giveUp := context.WithCancelCause(ctx)
	im.body, im.giveUp = body, giveUp
	im.body.ask(im.c.g.GetHeader("Expect"))
	lines := bufio.NewReaderSize(im.body, importBuffer)
	// The header goes out before the first line comes in, so that a client that
	// waits for it before it sends does not wait for ever.
	_ = control.SetWriteDeadline(time.Now().Add(im.c.s.opts.ImportIdle))
	im.c.startStream(wire.TypeNDJSON, 0)
	im.c.g.Writer.Flush()

	reading, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reading)
		err := im.read(ctx, waits, lines)
		if errors.Is(err, contract.ErrShutdown) {
			giveUp(err) // the node that passes the import on waits for its end
		}
		im.end(err)
	}()
	go func() {
		defer close(watched)
		im.watch(ctx)
	}()
	writeErr := im.write(ctx, control)
	cancel()
	im.end(nil)
	if writeErr == nil {
		im.body.linger(reading)
	} else {
		im.body.endBy(time.Unix(1, 0))
	}
	<-reading
	<-watched
	im.workers.Wait()
	return writeErr
}

// watch ends the import when the server stops. What is proposed by then is
// waited for, by the server's Shutdown.
func (im *importer) watch(ctx context.Context) {
	select {
	case <-im.c.s.stopping:
		im.giveUp(contract.ErrShutdown)
		im.end(nil)
	case <-ctx.Done():
	}
}

// end stops the reading; the first one says why.
func (im *importer) end(why error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.stopped() {
		return
	}
	im.readErr = why
	close(im.ended)
	close(im.queue)
}

// stopped says whether no more lines are started.
func (im *importer) stopped() bool {
	select {
	case <-im.ended:
		return true
	default:
		return false
	}
}

// start puts a line into the window, waiting until there is room, and sets a
// worker on it. It returns false if the import ended instead.
func (im *importer) start(ctx, waits context.Context, number int, text []byte) bool {
	line := &importLine{number: number, text: text, ahead: im.newest, done: make(chan struct{}), chained: make(chan struct{})}
	if im.memory.Acquire(ctx, int64(len(text))) != nil {
		return false
	}
	if !im.enqueue(line) {
		im.memory.Release(int64(len(text)))
		return false
	}
	im.newest = line
	go func() {
		defer im.workers.Done()
		defer im.memory.Release(int64(len(text)))
		defer close(line.done)
		im.serve(ctx, waits, line)
	}()
	return true
}

// enqueue gives the line to the writer, and counts its worker, unless the
// import has ended.
func (im *importer) enqueue(line *importLine) bool {
	select {
	case im.slots <- struct{}{}:
	case <-im.ended:
		return false
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.stopped() {
		return false // nobody asks for the slots any more
	}
	im.queue <- line
	im.workers.Add(1)
	return true
}

// chain remembers the line as the newest of its id.
func (im *importer) chain(line *importLine) {
	im.mu.Lock()
	defer im.mu.Unlock()
	line.before = im.inFlight[line.id]
	im.inFlight[line.id] = line
}

// unchain forgets the line, if no later one has its id.
func (im *importer) unchain(line *importLine) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.inFlight[line.id] == line {
		delete(im.inFlight, line.id)
	}
	line.before = nil
}

// serve applies one line and fills in its result.
func (im *importer) serve(ctx, waits context.Context, line *importLine) {
	err := im.serveLine(ctx, waits, line)
	line.result.Line, line.result.ID = line.number, line.id
	line.text, line.in = nil, wire.DocumentInput{} // the window may wait for the client; it needs no more of it
	if err == nil {
		im.c.s.metrics.importLines.WithLabelValues("applied").Inc()
		return
	}
	e := translate(err)
	line.result.Status, line.result.Code, line.result.Detail = e.code.Info().Status, string(e.code), e.detail
	line.result.Outcome = contract.Outcome(err)
	if nodesTrouble(&line.result) {
		line.stops = true
		im.giveUp(err)
	}
	if line.stops = line.stops || im.stopOnError; line.stops {
		im.end(nil)
	}
	kind := "refused"
	if line.result.Outcome == contract.OutcomeUnknown {
		kind = "unknown"
	}
	im.c.s.metrics.importLines.WithLabelValues(kind).Inc()
}

// serveLine decodes one line, waits for its turn, and applies it. A panic here
// would end the process, because no handler is above; it becomes an error.
func (im *importer) serveLine(ctx, waits context.Context, line *importLine) (err error) {
	var once sync.Once
	chained := func() { once.Do(func() { close(line.chained) }) }
	defer chained()
	defer func() {
		if cause := recover(); cause != nil {
			im.c.s.metrics.panics.Inc()
			im.c.s.log.Error("an import line panicked", "request_id", im.c.requestID, "panic", cause, "stack", string(debug.Stack()))
			err = &contract.OutcomeUnknownError{Cause: errors.New("httpapi: an import line panicked")}
		}
	}()
	decodeErr := decodeJSON(line.text, &line.in)
	line.id = line.in.ID
	if line.ahead != nil {
		<-line.ahead.chained
		line.ahead = nil // or the whole import would hang on its last line
	}
	if decodeErr != nil {
		return decodeErr
	}
	im.chain(line)
	chained()
	defer im.unchain(line)
	if line.before != nil {
		select {
		case <-line.before.done:
		case <-waits.Done():
			return gaveUp(waits)
		}
	}
	return im.apply(ctx, waits, line)
}

// gaveUp is the error of a line whose wait ended before it was proposed: the
// trouble that ended it, if it is one that every line meets.
func gaveUp(waits context.Context) error {
	cause := context.Cause(waits)
	if translate(cause).code.Info().Status == http.StatusServiceUnavailable {
		return cause
	}
	return &requestError{code: wire.CodeTimeout, detail: "the import ended before this line was proposed; nothing was written"}
}

// apply writes one document, as PUT does, and tries again while the node is
// overloaded or the collection is over its rate: the client is held back by
// that, and not turned away.
func (im *importer) apply(ctx, waits context.Context, line *importLine) error {
	if err := snippet.ValidateID("id", line.id); err != nil {
		return err
	}
	b := newBuilder(im.collection)
	m, err := b.putDocument(line.id, &line.in)
	if err != nil {
		return err
	}
	w := newWrite(b, m, nil)
	s := im.c.s
	giveUp := time.Now().Add(s.opts.ImportRetry)
	for attempt := 0; ; attempt++ {
		if err := s.rates.waitTurn(waits, s.backend.Limits, im.collection, im.c.tokenID()); err != nil {
			return gaveUp(waits)
		}
		one, cancel := context.WithTimeout(ctx, im.c.timeout)
		result, err := s.propose(one, w)
		cancel()
		var overload *contract.OverloadError
		switch {
		case err == nil:
			if result.GetOutcome() == command.Outcome_WRITE_CONFLICT && time.Now().Before(giveUp) {
				break // it asks to be repeated
			}
			if err := refusal(result, false); err != nil {
				return err
			}
			line.result.Status = appliedStatus[result.GetOutcome()]
			line.result.Revision = result.GetDocument().GetRevision()
			return nil
		case !errors.As(err, &overload) || time.Now().After(giveUp):
			return err
		}
		s.metrics.importRetry.Inc()
		backoff := min(importRetryBase<<min(attempt, 8), importRetryMax)
		if overload != nil {
			backoff = min(max(backoff, overload.RetryAfter), importRetryMax)
		}
		if err := pause(waits, rand.N(backoff)+1); err != nil {
			return gaveUp(waits)
		}
	}
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
