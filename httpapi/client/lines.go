package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

const (
	// maxResultLine bounds one line of an import's answer.
	maxResultLine = 1 << 20
	// stallFactor times Timeout is how long an import goes on without any
	// new answer before it gives up; one attempt waits one Timeout for one.
	stallFactor = 4
)

// lines is a piece of an import: documents as NDJSON lines, each without its
// line end. It stays in memory until each line has its answer, so that the
// rest can be sent again.
type lines [][]byte

func (l lines) bytes() int64 {
	n := int64(len(l))
	for _, line := range l {
		n += int64(len(line))
	}
	return n
}

func (l lines) reader() io.Reader {
	buffers := make(net.Buffers, 0, 2*len(l))
	for _, line := range l {
		buffers = append(buffers, line, []byte{'\n'})
	}
	return &buffers
}

// callbackError marks an error of the caller's own function.
type callbackError struct{ err error }

func (e *callbackError) Error() string { return e.err.Error() }
func (e *callbackError) Unwrap() error { return e.err }

// sendLines imports the lines and calls fn with the answer of each, in order,
// once. It returns how often it resumed, and an error if there are lines
// without an answer, or one that the request stops at: an *Error, or what fn
// returned.
func (c *core) sendLines(ctx context.Context, r *request, maxResumes int, l lines, fn func(i int, res wire.ImportResult) error) (resumes int, err error) {
	if c.isClosed() {
		return 0, ErrClosed
	}
	maybe := false
	for done := 0; ; {
		n, epochResumes, err := c.sendEpoch(ctx, r, maxResumes, &maybe, l[done:], func(i int, res wire.ImportResult) error { return fn(done+i, res) })
		done += n
		resumes += epochResumes
		if err != nil || done == len(l) {
			return resumes, err
		}
	}
}

// sendEpoch tries until an attempt brings answers, and returns their number.
// Answers renew the patience: the deadline of an epoch bounds the waits
// without any, and does not end a stream that is under way.
func (c *core) sendEpoch(ctx context.Context, r *request, maxResumes int, maybe *bool, l lines, fn func(int, wire.ImportResult) error) (answered, resumes int, err error) {
	t := newTrial(c, r)
	t.maxSpent, t.maybe = maxResumes+1, *maybe
	epoch, cancel := context.WithTimeout(ctx, stallFactor*c.opts.Timeout)
	defer cancel()
	for {
		ep, err := t.pick()
		if err != nil {
			return 0, resumes, err
		}
		n, fail, err := c.importAttempt(ctx, ep, r, l, fn)
		t.attempts++
		switch {
		case err != nil:
			return n, resumes, err
		case fail == nil:
			return n, resumes, nil
		}
		again := t.again(epoch, ep, fail)
		*maybe = t.maybe
		if !again {
			return n, resumes, t.final(epoch, fail)
		}
		resumes++
		if n > 0 {
			return n, resumes, nil
		}
	}
}

// importAttempt sends the lines to one node and reads the answers. n lines
// were answered for good; err is fn's.
func (c *core) importAttempt(ctx context.Context, ep *endpoint, r *request, l lines, fn func(int, wire.ImportResult) error) (n int, fail *failure, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.opts.Timeout, func() { cancel(errStalled) })
	defer watchdog.Stop()
	failed := func(cause error, sent bool) (int, *failure, error) {
		timeout := isContextError(cause)
		if timeout && context.Cause(ctx) != nil {
			cause = context.Cause(ctx)
		}
		return n, &failure{err: &Error{Method: r.method, Path: r.path, Endpoint: ep.url, Cause: cause}, sent: sent, timeout: timeout, partial: sent}, nil
	}
	req, err := c.newRequest(ctx, ep, r, l.reader())
	if err != nil {
		return failed(err, false)
	}
	req.ContentLength = l.bytes()
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(l.reader()), nil }
	resp, sent, err := c.send(req)
	if err != nil {
		return failed(err, sent)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := readAnswer(resp, maxResultLine)
		if err != nil {
			return failed(err, true)
		}
		return 0, &failure{err: problemOf(r, ep, resp, body), header: resp.Header, sent: true}, nil
	}
	in := bufio.NewReaderSize(resp.Body, 32<<10)
	for n < len(l) {
		res, err := readResult(in)
		if err != nil {
			return failed(err, true)
		}
		watchdog.Reset(c.opts.Timeout)
		if fail := resultFailure(r, ep, resp, res, n+1); fail != nil {
			return n, fail, nil
		}
		if err := observeLine(r, ep, resp, res); err != nil {
			return n, nil, err
		}
		if err := fn(n, res); err != nil {
			return n, nil, &callbackError{err}
		}
		n++
		if r.stopOnError && !applied(res) {
			return c.stoppedAttempt(r, ep, resp, in, watchdog, l, n, res, fn)
		}
	}
	// The rest is the summary; reading it lets the connection be used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(in, maxResultLine))
	(&trial{c: c, r: r}).succeeded(ep, metaOf(&answer{header: resp.Header}, nil, ep, 1))
	return n, nil, nil
}

// observeLine shows the revision that a line has made to the session, before
// the caller hears of it. The index in the header is that of the start.
func observeLine(r *request, ep *endpoint, resp *http.Response, res wire.ImportResult) error {
	if r.session == nil || !applied(res) {
		return nil
	}
	header := http.Header{}
	header.Set(wire.HeaderCluster, resp.Header.Get(wire.HeaderCluster))
	header.Set(wire.HeaderIndex, strconv.FormatUint(res.Revision, 10))
	return observe(r.session, r, &answer{status: res.Status, header: header}, nil, ep, 1)
}

// stoppedAttempt ends an attempt at a refused line. The node still answers the
// lines behind it that were under way; what became of those without an answer
// is not known.
func (c *core) stoppedAttempt(r *request, ep *endpoint, resp *http.Response, in *bufio.Reader, watchdog *time.Timer, l lines, n int, refused wire.ImportResult, fn func(int, wire.ImportResult) error) (int, *failure, error) {
	for ; n < len(l); n++ {
		res, err := readResult(in)
		if err != nil || res.Done || res.Line != n+1 {
			break
		}
		watchdog.Reset(c.opts.Timeout)
		if err := observeLine(r, ep, resp, res); err != nil {
			return n, nil, err
		}
		if err := fn(n, res); err != nil {
			return n, nil, &callbackError{err}
		}
	}
	return n, nil, &Error{Method: r.method, Path: r.path, Endpoint: ep.url, Status: refused.Status, Problem: wire.Problem{
		Status: refused.Status, Code: wire.Code(refused.Code), Detail: fmt.Sprintf("%s (document %q)", refused.Detail, refused.ID), Outcome: refused.Outcome,
	}}
}

var errStalled = errors.New("client: the import got no answer in time")

// readResult reads one line of the answer.
func readResult(in *bufio.Reader) (res wire.ImportResult, err error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxResultLine {
			return res, ErrAnswerTooLarge
		}
		if err == nil {
			break
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // half a line counts for nothing
		}
		return res, fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(line, &res); err != nil {
		return res, fmt.Errorf("decode line %.100q of the answer: %w", line, err)
	}
	return res, nil
}

// resultFailure returns nil for a line's final answer, and a failure for one
// that says "not now": the import resumes at that line. What lies behind it
// was sent, and is sent again.
func resultFailure(r *request, ep *endpoint, resp *http.Response, res wire.ImportResult, want int) *failure {
	e := &Error{Method: r.method, Path: r.path, Endpoint: ep.url, Status: res.Status}
	e.Problem = wire.Problem{Status: res.Status, Code: wire.Code(res.Code), Detail: res.Detail, Outcome: res.Outcome}
	f := &failure{err: e, header: resp.Header, sent: true, partial: true}
	switch {
	case res.Done:
		// The node ended the stream before the last line.
		if e.Problem.Code == "" {
			e.Status, e.Cause = 0, fmt.Errorf("the node answered %d lines only: %w", want-1, io.ErrUnexpectedEOF)
		} else if e.Status == 0 {
			e.Status = e.Problem.Code.Info().Status
		}
		return f
	case res.Line != want:
		e.Status, e.Problem = 0, wire.Problem{}
		e.Cause = fmt.Errorf("the node answered line %d, the next is line %d", res.Line, want)
		return f
	}
	if res.Status >= 500 || res.Status == http.StatusTooManyRequests || wire.Code(res.Code) == wire.CodeWriteConflict {
		e.Problem.Detail = fmt.Sprintf("%s (document %q)", res.Detail, res.ID)
		return f
	}
	return nil
}
