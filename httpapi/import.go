package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	// stops is set when the result is the node's trouble and not the line's:
	// the lines behind it would fare no better.
	stops bool
	done  chan struct{}
}

// importer is one import.
type importer struct {
	c           *call
	collection  string
	stopOnError bool
	// queue holds the lines in their order; its capacity is the window.
	queue chan *importLine
	// memory bounds the bytes of the lines in the window.
	memory *semaphore.Weighted
	// inFlight is the newest line of each id that is in flight, guarded by mu.
	mu       sync.Mutex
	inFlight map[string]*importLine
	// ended is closed when a line says that no more are to be read.
	ended   chan struct{}
	endOnce sync.Once
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
		memory:   semaphore.NewWeighted(c.s.opts.ImportWindowBytes),
		inFlight: map[string]*importLine{},
		ended:    make(chan struct{}),
	}
	return im.run()
}

// run reads in the background and writes here. It returns when both are done.
func (im *importer) run() error {
	ctx, cancel := context.WithCancel(im.c.ctx())
	control := http.NewResponseController(im.c.g.Writer)
	if err := control.EnableFullDuplex(); err != nil && im.c.g.Request.ProtoMajor < 2 {
		cancel()
		return fmt.Errorf("httpapi: import: %w", err)
	}
	im.body = &deadlineReader{body: im.c.g.Request.Body, control: control, idle: im.c.s.opts.ImportIdle, stopped: im.stopped}
	im.body.ask(im.c.g.GetHeader("Expect"))
	lines := bufio.NewReaderSize(im.body, importBuffer)
	// The header goes out before the first line comes in, so that a client that
	// waits for it before it sends does not wait for ever.
	_ = control.SetWriteDeadline(time.Now().Add(im.c.s.opts.ImportIdle))
	im.c.startStream(wire.TypeNDJSON, 0)
	im.c.g.Writer.Flush()

	var readErr error
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		defer close(im.queue)
		readErr = im.read(ctx, lines)
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		im.watch(reading)
	}()
	writeErr := im.write(ctx, control, reading, &readErr)
	cancel()
	im.end()
	<-reading
	<-watched
	for range im.queue { // what was read after the writer gave up
	}
	im.workers.Wait()
	if writeErr == nil {
		im.body.linger()
	}
	return writeErr
}

// watch wakes a reader that waits for the client when the import is stopped.
func (im *importer) watch(reading <-chan struct{}) {
	select {
	case <-im.ended:
	case <-im.c.s.stopping:
	case <-reading:
		return
	}
	im.body.wake()
}

// end stops the reading.
func (im *importer) end() { im.endOnce.Do(func() { close(im.ended) }) }

// stopped says whether no more lines are to be read.
func (im *importer) stopped() bool {
	select {
	case <-im.ended:
		return true
	case <-im.c.s.stopping:
		return true
	default:
		return false
	}
}

// read cuts the body into lines and starts each, until the body ends, a line
// is too long, or the import is stopped. Blank lines count, and are skipped.
func (im *importer) read(ctx context.Context, body *bufio.Reader) error {
	for number := 1; !im.stopped(); number++ {
		text, err := readLine(body, maxImportLine)
		im.c.received += int64(len(text))
		if im.stopped() {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 {
			if !im.start(ctx, number, trimmed) {
				return nil
			}
		}
		if err != nil {
			return nil
		}
	}
	return nil
}

// errLineTooLong is the error of a line that no command could hold.
var errLineTooLong = errors.New("httpapi: import line too long")

// readLine reads one line, with its newline if it has one. The last line comes
// together with io.EOF.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		piece, err := r.ReadSlice('\n')
		if len(line)+len(piece) > limit {
			return nil, errLineTooLong
		}
		line = append(line, piece...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// deadlineReader gives the client a new deadline for each read. At the end of
// the body the deadline is taken away, because net/http would take it for the
// end of the request while the last lines are still in flight.
type deadlineReader struct {
	body    io.Reader
	control *http.ResponseController
	idle    time.Duration
	stopped func() bool // may be nil
	// mu makes "not stopped, so a new deadline" one step: otherwise a reader
	// could overwrite the deadline by which wake ends its wait.
	mu sync.Mutex
	// eof is set at the end of the body. Only who reads, or who waited for
	// the reader, looks at it.
	eof bool
	// first is what ask has read.
	first []byte
}

// ask reads the first byte of a body that the client holds back until it is
// asked for (RFC 9110 section 10.1.1): the server asks when the body is read,
// and after the answer has begun it would be too late. An error comes again.
func (d *deadlineReader) ask(expect string) {
	if expect == "" {
		return
	}
	one := make([]byte, 1)
	n, _ := d.Read(one)
	d.first = one[:n]
}

func (d *deadlineReader) Read(p []byte) (int, error) {
	if len(d.first) > 0 {
		n := copy(p, d.first)
		d.first = d.first[n:]
		return n, nil
	}
	d.mu.Lock()
	if d.stopped != nil && d.stopped() {
		d.mu.Unlock()
		return 0, io.EOF
	}
	_ = d.control.SetReadDeadline(time.Now().Add(d.idle))
	d.mu.Unlock()
	n, err := d.body.Read(p)
	if errors.Is(err, io.EOF) {
		d.eof = true
		_ = d.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// linger reads what the client still sends after an import that ended early,
// for a moment. To close a connection with unread bytes resets it, and the
// reset would take the last answers from the client. Nobody else may be
// reading any more.
func (d *deadlineReader) linger() {
	if d.eof {
		return
	}
	_ = d.control.SetReadDeadline(time.Now().Add(importLinger))
	_, _ = io.CopyN(io.Discard, d.body, importLingerBytes)
}

// wake ends a read that waits; stopped must be true already.
func (d *deadlineReader) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.control.SetReadDeadline(time.Unix(1, 0))
}

// start puts a line into the window, waiting until there is room, and sets a
// worker on it. It returns false if the import ended instead.
func (im *importer) start(ctx context.Context, number int, text []byte) bool {
	line := &importLine{number: number, text: text, ahead: im.newest, done: make(chan struct{}), chained: make(chan struct{})}
	if im.memory.Acquire(ctx, int64(len(text))) != nil {
		return false
	}
	select {
	case im.queue <- line:
	case <-ctx.Done():
		im.memory.Release(int64(len(text)))
		return false
	}
	im.newest = line
	im.workers.Add(1)
	go func() {
		defer im.workers.Done()
		defer im.memory.Release(int64(len(text)))
		defer close(line.done)
		im.serve(ctx, line)
	}()
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
func (im *importer) serve(ctx context.Context, line *importLine) {
	err := im.serveLine(ctx, line)
	line.result.Line, line.result.ID = line.number, line.id
	line.text, line.in = nil, wire.DocumentInput{} // the window may wait for the client; it needs no more of it
	if err == nil {
		im.c.s.metrics.importLines.WithLabelValues("applied").Inc()
		return
	}
	e := translate(err)
	line.result.Status, line.result.Code, line.result.Detail = e.code.Info().Status, string(e.code), e.detail
	line.result.Outcome = contract.Outcome(err)
	line.stops = line.result.Status >= 500 || im.stopOnError
	if line.stops {
		im.end()
	}
	kind := "refused"
	if line.result.Outcome == contract.OutcomeUnknown {
		kind = "unknown"
	}
	im.c.s.metrics.importLines.WithLabelValues(kind).Inc()
}

// serveLine decodes one line, waits for its turn, and applies it. A panic here
// would end the process, because no handler is above; it becomes an error.
func (im *importer) serveLine(ctx context.Context, line *importLine) (err error) {
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
		case <-ctx.Done():
			return contract.ErrExpired
		}
	}
	return im.apply(ctx, line)
}

// apply writes one document, as PUT does, and tries again while the node is
// overloaded or the collection is over its rate: the client is held back by
// that, and not turned away.
func (im *importer) apply(ctx context.Context, line *importLine) error {
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
		if err := s.rates.waitTurn(ctx, s.backend.Limits, im.collection, im.c.tokenID()); err != nil {
			return contract.ErrExpired
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
		if err := pause(ctx, rand.N(backoff)+1); err != nil {
			return contract.ErrExpired
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

// write sends the results in the order of the lines, and the last line, which
// says why the import ended and up to where it is answered.
func (im *importer) write(ctx context.Context, control *http.ResponseController, reading <-chan struct{}, readErr *error) error {
	out := bufio.NewWriterSize(im.c.g.Writer, importBuffer)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	send := func(v *wire.ImportResult) error { return enc.Encode(v) }
	flush := func() error {
		_ = control.SetWriteDeadline(time.Now().Add(im.c.s.opts.ImportIdle))
		if err := out.Flush(); err != nil {
			return err
		}
		return control.Flush()
	}
	last := wire.ImportResult{Done: true}
	for {
		line, ok := im.next(out, flush)
		if !ok {
			break
		}
		if err := im.await(ctx, line, out, flush); err != nil {
			return fmt.Errorf("httpapi: import: write results: %w", err)
		}
		last.LastLine = line.number
		if line.result.Code == "" {
			last.Applied++
		} else {
			last.Failed++
		}
		if line.stops && last.Code == "" {
			last.Status, last.Code, last.Detail = line.result.Status, line.result.Code, fmt.Sprintf("the import ended at line %d: %s", line.number, line.result.Detail)
		}
		_ = control.SetWriteDeadline(time.Now().Add(im.c.s.opts.ImportIdle))
		if err := send(&line.result); err != nil {
			return fmt.Errorf("httpapi: import: write results: %w", err)
		}
	}
	<-reading
	im.explainEnd(&last, *readErr)
	if err := send(&last); err != nil {
		return fmt.Errorf("httpapi: import: write results: %w", err)
	}
	if err := flush(); err != nil {
		return fmt.Errorf("httpapi: import: write results: %w", err)
	}
	return nil
}

// next returns the next line of the window. Before it waits for the client, it
// sends what is in the buffer.
func (im *importer) next(out *bufio.Writer, flush func() error) (*importLine, bool) {
	select {
	case line, ok := <-im.queue:
		return line, ok
	default:
	}
	if out.Buffered() > 0 {
		_ = flush() // the error comes again with the next line
	}
	line, ok := <-im.queue
	return line, ok
}

// await waits until the line has its result. Before it waits, it sends what is
// in the buffer: the client may wait for these answers before it goes on.
func (im *importer) await(ctx context.Context, line *importLine, out *bufio.Writer, flush func() error) error {
	select {
	case <-line.done:
		return nil
	default:
	}
	if out.Buffered() > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	select {
	case <-line.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// explainEnd says in the last line why the import ended before its body did.
func (im *importer) explainEnd(last *wire.ImportResult, readErr error) {
	if last.Code != "" {
		return
	}
	var e *requestError
	switch {
	case errors.Is(readErr, errLineTooLong):
		e = &requestError{code: wire.CodeBodyTooLarge, detail: fmt.Sprintf("the line after %d is longer than %d bytes; nothing behind it was read", last.LastLine, maxImportLine)}
	case readErr != nil:
		e = &requestError{code: wire.CodeTimeout, detail: fmt.Sprintf("the body broke off, or nothing came for %v", im.c.s.opts.ImportIdle)}
	default:
		select {
		case <-im.c.s.stopping:
			e = translate(contract.ErrShutdown)
		default:
			return
		}
	}
	last.Status, last.Code, last.Detail = e.code.Info().Status, string(e.code), e.detail
}
