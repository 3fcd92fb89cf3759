package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

// trailerEnd is a trailer of a forwarded import. It says that the body is not
// whole, and why: the follower ends it well in any case, because a broken
// request would take the leader's answers with it.
const (
	trailerEnd = "X-Snipdb-Import-End"
	// endBroken: the client's body broke off, or nothing came of it for too long.
	endBroken = "broken"
	// endStopping: the follower is stopping.
	endStopping = "stopping"
)

// trailerErrors is what a reader of the forwarded body makes of the trailer.
var trailerErrors = map[string]error{endBroken: io.ErrUnexpectedEOF, endStopping: contract.ErrShutdown}

// read cuts the body into lines and starts each, until the import is stopped
// or something else ends the reading, which is returned: io.EOF is the end of
// a whole body. Blank lines count, and are skipped.
func (im *importer) read(ctx, waits context.Context, body *bufio.Reader) error {
	for number := 1; ; number++ {
		text, err := readLine(body, maxImportLine)
		im.c.received += int64(len(text))
		if im.stopped() {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err // the last line may be half of one
		}
		if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 {
			if !im.start(ctx, waits, number, trimmed) {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
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
//
// A read that fails makes net/http cancel the request and forget the body. So
// a read that waits is left waiting when an import ends early, until all is
// answered, and what the import does has a context of its own (detach).
type deadlineReader struct {
	request *http.Request
	control *http.ResponseController
	idle    time.Duration
	stopped func() bool
	// gone is called when the client goes away after its whole body was read.
	gone func()
	// mu makes "not stopped, so a new deadline" one step: otherwise a reader
	// could overwrite the deadline by which its wait is to end.
	mu sync.Mutex
	// eof is set at the end of the body. Only who reads, or who waited for
	// the reader, looks at it.
	eof bool
	// first is what ask has read.
	first []byte
}

// detach returns the context of an import. The request's own ends at the
// first failed read, and then the answers of the lines under way would be lost,
// and their proposals cut off. Until the end of the body its reader sees that a
// client is gone, and who writes to it; only behind that does the
// request's context say so.
func detach(c *call, control *http.ResponseController, stopped func() bool) (context.Context, context.CancelFunc, *deadlineReader) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.ctx()))
	return ctx, cancel, &deadlineReader{request: c.g.Request, control: control, idle: c.s.opts.ImportIdle, stopped: stopped, gone: cancel}
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
	if d.stopped() {
		d.mu.Unlock()
		return 0, io.EOF
	}
	_ = d.control.SetReadDeadline(time.Now().Add(d.idle))
	d.mu.Unlock()
	n, err := d.request.Body.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if !d.eof {
		d.eof = true
		_ = d.control.SetReadDeadline(time.Time{})
		context.AfterFunc(d.request.Context(), d.gone)
	}
	if cause := trailerErrors[d.request.Trailer.Get(trailerEnd)]; cause != nil {
		err = cause
	}
	return n, err
}

// linger ends the reading, which must be stopped already: what the client
// still sends is read for a moment. To close a connection with unread bytes
// resets it, and the reset would take the last answers from the client. It
// returns when nobody reads any more.
func (d *deadlineReader) linger(reading <-chan struct{}) {
	d.endBy(time.Now().Add(importLinger))
	<-reading
	if !d.eof {
		_, _ = io.CopyN(io.Discard, d.request.Body, importLingerBytes)
	}
}

// endBy gives a read that waits its last deadline.
func (d *deadlineReader) endBy(deadline time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.control.SetReadDeadline(deadline)
}
