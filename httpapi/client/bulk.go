package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// The defaults of BulkOptions.
const (
	DefaultBulkBytes    = 1 << 20
	DefaultBulkCount    = 256
	DefaultBulkLinger   = 20 * time.Millisecond
	DefaultBulkInFlight = 4
)

// BulkOptions are the settings of a BulkWriter. The zero value works.
type BulkOptions struct {
	// MaxBytes and MaxCount bound one request; it is sent when either is
	// reached. 0 means the default.
	MaxBytes int
	MaxCount int
	// Linger is how long a document waits for others. 0 means the default.
	Linger time.Duration
	// MaxInFlight is how many requests are under way at once. The memory is
	// bounded by MaxInFlight+1 times MaxBytes, plus one document. 0 means
	// the default.
	MaxInFlight int
	// MaxResumes is that of ImportOptions.
	MaxResumes int
	// OnResult, if set, gets the result of each document, in the goroutine that
	// sent it, one call at a time. It must not call the BulkWriter.
	OnResult func(BulkItem)
}

// BulkItem is the result of one document.
type BulkItem struct {
	ID string
	// Status is the node's: 201 created, 200 replaced, or that of the error.
	Status   int
	Revision uint64
	// Err is nil for a document that is stored. Otherwise it is an *Error, or
	// ErrClosed; OutcomeUnknown tells whether it may be stored all the same. To
	// put it again is safe.
	Err error
}

// BulkStats are the counters of a BulkWriter.
type BulkStats struct {
	Put, Applied, Failed, Requests, Resumes uint64
}

// BulkError says that documents failed since the last Flush.
type BulkError struct {
	Failed int
	// First is the first error, of the document FirstID.
	First   error
	FirstID string
}

func (e *BulkError) Error() string {
	return fmt.Sprintf("client: %d documents failed, the first is %q: %v", e.Failed, e.FirstID, e.First)
}

// Unwrap returns the first error.
func (e *BulkError) Unwrap() error { return e.First }

// BulkWriter collects documents and puts them in the background. It is safe
// for concurrent use. Documents with the same id are stored in the order of
// the Puts; others in any order.
type BulkWriter struct {
	c    *Client
	o    BulkOptions
	req  *request
	ctx  context.Context // the life of the writer, ended by Close or Client.Close
	stop context.CancelFunc
	// results makes the calls of OnResult one at a time. It is taken before mu.
	results sync.Mutex

	// mu guards what follows.
	mu sync.Mutex
	// buf waits to be sent; due says that it should not wait for more.
	buf []bulkDoc
	// bufBytes is the sum of its lines.
	bufBytes int
	due      bool
	// timer runs while buf holds documents that are not due; round tells its
	// calls from those of an earlier buffer.
	timer *time.Timer
	round uint64
	// ids are the documents that have no result yet, each with the channel that
	// its result closes. An id is there once: the next Put of it waits.
	ids map[string]chan struct{}
	// inFlight is the number of requests under way.
	inFlight int
	closed   bool
	// changed is closed and replaced whenever a result came in or room was made.
	changed chan struct{}
	// failures since the last Flush that reported them.
	failures *BulkError
	stats    BulkStats
	wg       sync.WaitGroup
}

// bulkDoc is a document on its way.
type bulkDoc struct {
	id   string
	line []byte
}

// NewBulkWriter returns a BulkWriter for one collection. Close it.
func (c *Client) NewBulkWriter(coll string, o BulkOptions) (*BulkWriter, error) {
	orInt(&o.MaxBytes, DefaultBulkBytes)
	orInt(&o.MaxCount, DefaultBulkCount)
	orInt(&o.MaxInFlight, DefaultBulkInFlight)
	orInt(&o.MaxResumes, c.core.opts.MaxAttempts)
	orDuration(&o.Linger, DefaultBulkLinger)
	if o.MaxBytes < 1 || o.MaxCount < 1 || o.MaxInFlight < 1 || o.MaxResumes < 1 || o.Linger < 0 {
		return nil, errors.New("client: BulkOptions must not be negative")
	}
	b := &BulkWriter{c: c, o: o, req: importRequest(c.session, coll, "", false), ids: map[string]chan struct{}{}, changed: make(chan struct{})}
	b.ctx, b.stop = context.WithCancel(c.core.ctx)
	return b, nil
}

// Put hands a document over. It waits while the buffer is full, or while an
// earlier document with the same id has no result. A document without an id
// gets one. The error is about the handing over only: the context's, ErrClosed,
// or that the document can't be encoded; the result comes to OnResult, and to Flush.
func (b *BulkWriter) Put(ctx context.Context, doc wire.DocumentInput) error {
	if doc.ID == "" {
		// Made here and not by the node, so that repeating makes no second one.
		id, err := newKey()
		if err != nil {
			return err
		}
		doc.ID = id
	}
	line, err := b.c.encodeLine(doc)
	if err != nil {
		return err
	}
	for {
		accepted, changed, err := b.offer(bulkDoc{id: doc.ID, line: line})
		if accepted || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// offer adds the document to the buffer if there is room. If not, changed is
// closed when it is worth another try.
func (b *BulkWriter) offer(d bulkDoc) (accepted bool, changed <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.ctx.Err() != nil {
		return false, nil, ErrClosed
	}
	if _, busy := b.ids[d.id]; busy {
		b.due = len(b.buf) > 0 // it may be in the buffer
		b.startLocked()
		return false, b.changed, nil
	}
	if len(b.buf) > 0 && b.bufBytes+len(d.line) > b.o.MaxBytes || len(b.buf) >= b.o.MaxCount {
		b.due = true
		b.startLocked()
		if len(b.buf) > 0 {
			return false, b.changed, nil
		}
	}
	b.buf, b.bufBytes = append(b.buf, d), b.bufBytes+len(d.line)
	b.ids[d.id] = make(chan struct{})
	b.stats.Put++
	switch {
	case b.bufBytes >= b.o.MaxBytes || len(b.buf) >= b.o.MaxCount:
		b.due = true
		b.startLocked()
	case len(b.buf) == 1:
		b.round++
		round := b.round
		b.timer = time.AfterFunc(b.o.Linger, func() { b.lingered(round) })
	}
	return true, nil, nil
}

// lingered is called when the first document of the buffer has waited long enough.
func (b *BulkWriter) lingered(round uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if round != b.round || len(b.buf) == 0 {
		return
	}
	b.due = true
	b.startLocked()
}

// startLocked sends the buffer if it is due and a place is free.
func (b *BulkWriter) startLocked() {
	if !b.due || len(b.buf) == 0 || b.inFlight >= b.o.MaxInFlight {
		return
	}
	docs := b.buf
	b.buf, b.bufBytes, b.due = nil, 0, false
	b.round++
	if b.timer != nil {
		b.timer.Stop()
	}
	b.inFlight++
	b.stats.Requests++
	b.wg.Go(func() { b.send(docs) })
}

// send puts the documents, and reports a result for each.
func (b *BulkWriter) send(docs []bulkDoc) {
	l := make(lines, len(docs))
	for i, d := range docs {
		l[i] = d.line
	}
	answered := 0
	resumes, err := b.c.core.sendLines(b.ctx, b.req, b.o.MaxResumes, l, func(i int, res wire.ImportResult) error {
		b.result(docs[i], BulkItem{ID: docs[i].id, Status: res.Status, Revision: res.Revision, Err: b.itemError(res)})
		answered++
		return nil
	})
	for _, d := range docs[answered:] {
		item := BulkItem{ID: d.id, Err: err}
		var e *Error
		if errors.As(err, &e) {
			item.Status = e.Status
		}
		b.result(d, item)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
	b.stats.Resumes += uint64(resumes)
	b.startLocked()
	b.changedLocked()
}

// itemError makes the error of a document that the node refused.
func (b *BulkWriter) itemError(res wire.ImportResult) error {
	if res.Status >= 200 && res.Status < 300 {
		return nil
	}
	info := wire.Code(res.Code).Info()
	return &Error{
		Method: b.req.method, Path: b.req.path, Status: res.Status, Attempts: 1,
		Problem: wire.Problem{Type: wire.TypePrefix + res.Code, Title: info.Title, Status: res.Status, Code: wire.Code(res.Code), Detail: res.Detail, Outcome: res.Outcome},
	}
}

// result takes in the result of one document.
func (b *BulkWriter) result(d bulkDoc, item BulkItem) {
	if b.o.OnResult != nil {
		b.results.Lock()
		b.o.OnResult(item)
		b.results.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ids[d.id])
	delete(b.ids, d.id)
	if item.Err == nil {
		b.stats.Applied++
	} else {
		b.stats.Failed++
		if b.failures == nil {
			b.failures = &BulkError{First: item.Err, FirstID: item.ID}
		}
		b.failures.Failed++
	}
	b.changedLocked()
}

// Flush sends what is buffered and waits for the results of all documents that
// were put before it. It returns a *BulkError if documents have failed since
// the last Flush, or the context's error.
func (b *BulkWriter) Flush(ctx context.Context) error {
	for _, done := range b.pending() {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	failures := b.failures
	b.failures = nil
	if failures == nil {
		return nil // not the nil pointer in an interface
	}
	return failures
}

// pending makes the buffer due, and returns what has no result.
func (b *BulkWriter) pending() []chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = len(b.buf) > 0
	b.startLocked()
	out := make([]chan struct{}, 0, len(b.ids))
	for _, done := range b.ids {
		out = append(out, done)
	}
	return out
}

// Close takes no more documents, and does what Flush does. If the context ends
// before that, what is left is given up, and each document still gets its
// result. When Close returns, no goroutine of the BulkWriter runs any more. It
// may be called twice.
func (b *BulkWriter) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	b.changedLocked() // wakes the Puts that wait
	b.mu.Unlock()
	err := b.Flush(ctx)
	b.stop()
	b.wg.Wait()
	return err
}

// Stats returns the counters.
func (b *BulkWriter) Stats() BulkStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

func (b *BulkWriter) changedLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}
