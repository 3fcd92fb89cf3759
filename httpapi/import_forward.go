package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// forwardStream passes an import on to the leader, both ways at once. Nothing
// is kept: a line that the leader does not take stays in the client's socket.
// Whole lines are passed back, so that a leader that dies in the middle leaves
// a readable answer, with a last line from this node that says what happened.
func (c *call) forwardStream(leader contract.LeaderInfo) (*reply, error) {
	control := http.NewResponseController(c.g.Writer)
	if err := control.EnableFullDuplex(); err != nil && c.g.Request.ProtoMajor < 2 {
		return nil, fmt.Errorf("httpapi: forward import: %w", err)
	}
	body, cancel := newStreamBody(c, control)
	defer cancel()
	body.client.ask(c.g.GetHeader("Expect")) // the leader answers before it has read anything
	go body.pump()
	go body.watch(c, cancel)
	defer body.finish()
	_ = control.SetWriteDeadline(time.Now().Add(c.timeout + answerGrace))
	// The leader answers before it reads, so this is not about the import's length.
	patience := time.AfterFunc(c.timeout+answerGrace, cancel)
	resp, err := c.roundTrip(leader, body, -1)
	patience.Stop()
	if err != nil {
		c.g.Writer.Header().Set("Connection", "close") // the body is not read to its end
		c.fail(err)
		c.g.Writer.Flush()
		return &reply{written: true}, nil
	}
	defer func() { _ = resp.Body.Close() }()
	c.copyHeaders(resp)
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminBody))
		if err != nil {
			return nil, &contract.OutcomeUnknownError{Cause: err}
		}
		c.s.metrics.forwarded.WithLabelValues(forwardAnswered).Inc()
		c.g.Writer.Header().Set("Connection", "close") // the body is not read to its end
		c.send(resp.StatusCode, resp.Header.Get("Content-Type"), answer)
		c.g.Writer.Flush()
		return &reply{written: true}, nil
	}
	c.startStream(wire.TypeNDJSON, 0)
	c.g.Writer.Flush()
	return &reply{written: true}, c.copyLines(resp.Body, control)
}

// streamBody is the client's body on its way to the leader. One goroutine
// reads it and another, the transport's, takes it, so that it can end for the
// leader while the read from the client still waits.
type streamBody struct {
	client *deadlineReader
	out    *io.PipeReader
	in     *io.PipeWriter
	// trailer tells the leader why the body ended, if it is not whole. Only
	// the transport uses it, to send it behind the body, and Read, which it calls.
	trailer  http.Header
	broken   chan struct{} // closed when the client's body has ended early
	finished chan struct{} // closed by finish
	pumped   chan struct{} // closed when the pump has ended
	watched  chan struct{} // closed when the watcher has ended
}

// newStreamBody gives the call a context of its own (see detach), which cancel ends.
func newStreamBody(c *call, control *http.ResponseController) (*streamBody, context.CancelFunc) {
	b := &streamBody{
		trailer: http.Header{trailerEnd: nil},
		broken:  make(chan struct{}), finished: make(chan struct{}),
		pumped: make(chan struct{}), watched: make(chan struct{}),
	}
	b.out, b.in = io.Pipe()
	ctx, cancel, client := detach(c, control, func() bool {
		select {
		case <-b.finished:
			return true
		default:
			return false
		}
	})
	b.client = client
	c.g.Request = c.g.Request.WithContext(ctx)
	return b, cancel
}

// pump passes on what the client sends.
func (b *streamBody) pump() {
	defer close(b.pumped)
	_, err := io.Copy(b.in, b.client)
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		close(b.broken)
	}
	_ = b.in.CloseWithError(err)
}

// watch ends the body when this node stops. Whoever ended the body early, the
// leader has to answer what it has within the time that a client gets.
func (b *streamBody) watch(c *call, cancel context.CancelFunc) {
	defer close(b.watched)
	select {
	case <-c.s.stopping:
		_ = b.in.CloseWithError(contract.ErrShutdown)
	case <-b.broken:
	case <-b.finished:
		return
	}
	patience := time.NewTimer(c.s.opts.ImportIdle)
	defer patience.Stop()
	select {
	case <-patience.C:
		cancel()
	case <-b.finished:
	}
}

// Read is called by the transport. An error would break the request, and
// the answers with it; so the body ends, and the trailer says the rest.
func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.out.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe):
		return n, err
	case errors.Is(err, contract.ErrShutdown):
		b.trailer.Set(trailerEnd, endStopping)
	default:
		b.trailer.Set(trailerEnd, endBroken)
	}
	return n, io.EOF
}

// Close is called by the transport when it reads no more.
func (b *streamBody) Close() error { return b.out.Close() }

// finish ends the reading and waits until it has ended.
func (b *streamBody) finish() {
	close(b.finished)
	_ = b.out.Close()
	b.client.linger(b.pumped)
	<-b.watched
}

// copyLines passes the leader's lines to the client.
func (c *call) copyLines(from io.Reader, control *http.ResponseController) error {
	lines := bufio.NewReaderSize(from, importBuffer)
	out := bufio.NewWriterSize(c.g.Writer, importBuffer)
	stopOnError, _ := c.flag(wire.ParamStopOnError) // the leader has checked it
	sum := importSum{stopOnError: stopOnError}
	for {
		text, err := readLine(lines, maxImportLine)
		if err != nil {
			break // without a last line, the leader broke off
		}
		var result wire.ImportResult
		if json.Unmarshal(text, &result) != nil {
			break
		}
		_ = control.SetWriteDeadline(time.Now().Add(c.s.opts.ImportIdle))
		if _, err := out.Write(text); err != nil {
			return fmt.Errorf("httpapi: forward import: %w", err)
		}
		if result.Done {
			c.s.metrics.forwarded.WithLabelValues(forwardAnswered).Inc()
			return errors.Join(out.Flush(), control.Flush())
		}
		sum.add(&result)
		if lines.Buffered() == 0 {
			if err := errors.Join(out.Flush(), control.Flush()); err != nil {
				return fmt.Errorf("httpapi: forward import: %w", err)
			}
		}
	}
	c.s.metrics.forwarded.WithLabelValues(forwardUnknown).Inc()
	last, e := sum.last, translate(&contract.OutcomeUnknownError{})
	last.Done, last.Status, last.Code, last.Outcome = true, e.code.Info().Status, string(e.code), contract.OutcomeUnknown
	last.Detail = fmt.Sprintf("the leader broke off; the lines up to %d are answered, send those behind it again", last.LastLine)
	answer, err := encodeJSON(&last)
	if err != nil {
		return err
	}
	_, _ = out.Write(answer)
	return errors.Join(out.Flush(), control.Flush())
}
