package httpapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
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
	body := newStreamBody(c, control)
	body.ask(c.g.GetHeader("Expect")) // the leader answers before it has read anything
	_ = control.SetWriteDeadline(time.Now().Add(c.timeout + answerGrace))
	resp, err := c.roundTrip(leader, body, -1)
	if err != nil {
		body.finish()
		c.g.Writer.Header().Set("Connection", "close") // the body is not read to its end
		c.fail(err)
		body.linger()
		return &reply{written: true}, nil
	}
	defer func() {
		_ = resp.Body.Close()
		body.finish()
		body.linger()
	}()
	c.copyHeaders(resp)
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminBody))
		if err != nil {
			return nil, &contract.OutcomeUnknownError{Cause: err}
		}
		c.s.metrics.forwarded.WithLabelValues(forwardAnswered).Inc()
		c.g.Writer.Header().Set("Connection", "close") // the body is not read to its end
		c.send(resp.StatusCode, resp.Header.Get("Content-Type"), answer)
		return &reply{written: true}, nil
	}
	c.startStream(wire.TypeNDJSON, 0)
	c.g.Writer.Flush()
	return &reply{written: true}, c.copyLines(resp.Body, control)
}

// streamBody is the client's body on its way to the leader. The transport
// reads it in a goroutine of its own; the handler must not return before that
// has ended, because the connection serves the next request then.
type streamBody struct {
	deadlineReader
	finished   chan struct{} // closed by finish
	finishOnce sync.Once
	closed     chan struct{} // closed by the transport, which reads no more then
	closeOnce  sync.Once
	watched    chan struct{} // closed when the watcher has ended
}

func newStreamBody(c *call, control *http.ResponseController) *streamBody {
	b := &streamBody{finished: make(chan struct{}), closed: make(chan struct{}), watched: make(chan struct{})}
	b.deadlineReader.body, b.control, b.idle = c.g.Request.Body, control, c.s.opts.ImportIdle
	b.stopped = func() bool {
		select {
		case <-b.finished:
			return true
		case <-c.s.stopping: // the leader then sees the end of the body, and ends well
			return true
		default:
			return false
		}
	}
	go func() {
		defer close(b.watched)
		select {
		case <-c.s.stopping:
			b.wake()
		case <-b.finished:
		}
	}()
	return b
}

// Close is called by the transport when it reads no more.
func (b *streamBody) Close() error {
	b.closeOnce.Do(func() { close(b.closed) })
	return nil
}

// finish ends the reading and waits until it has ended.
func (b *streamBody) finish() {
	b.finishOnce.Do(func() { close(b.finished) })
	b.wake()
	<-b.closed
	<-b.watched
}

// copyLines passes the leader's lines to the client.
func (c *call) copyLines(from io.Reader, control *http.ResponseController) error {
	lines := bufio.NewReaderSize(from, importBuffer)
	out := bufio.NewWriterSize(c.g.Writer, importBuffer)
	var last wire.ImportResult
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
		last.LastLine = result.Line
		if result.Code == "" {
			last.Applied++
		} else {
			last.Failed++
		}
		if lines.Buffered() == 0 {
			if err := errors.Join(out.Flush(), control.Flush()); err != nil {
				return fmt.Errorf("httpapi: forward import: %w", err)
			}
		}
	}
	c.s.metrics.forwarded.WithLabelValues(forwardUnknown).Inc()
	e := translate(&contract.OutcomeUnknownError{})
	last.Done, last.Status, last.Code, last.Outcome = true, e.code.Info().Status, string(e.code), contract.OutcomeUnknown
	last.Detail = fmt.Sprintf("the leader broke off; the lines up to %d are answered, send those behind it again", last.LastLine)
	answer, err := encodeJSON(&last)
	if err != nil {
		return err
	}
	_, _ = out.Write(answer)
	return errors.Join(out.Flush(), control.Flush())
}
