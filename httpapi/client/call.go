package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// kind is what a request may be done with.
type kind int

const (
	// kindRead may go to any node, and be repeated.
	kindRead kind = iota
	// kindWrite goes to the leader; it is repeated after it may have been sent
	// only if it has a key.
	kindWrite
	// kindNode is about one node, whichever its role: any, or a pinned one.
	kindNode
)

// request is one call. It does not change over the attempts: body and key are
// made once.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         []byte
	contentType  string
	kind         kind
	// key is the idempotency key, "" for none.
	key string
	// pin is the only endpoint to use, "" for any.
	pin string
	// resumes says that only what has no answer yet is sent again.
	resumes bool
	// stopOnError says that the first refused line of an import ends it.
	stopOnError bool
	// session is what the answers of an import's lines are shown to; nil for
	// none. Other calls show theirs in do.
	session *sessionState
	// once forbids retries.
	once bool
	// also is a status that is an answer beside 2xx, 0 for none.
	also int
}

// repeatable says whether the request may be sent again after it may have
// been applied.
func (r *request) repeatable() bool {
	switch r.kind {
	case kindRead:
		return true
	case kindNode:
		return r.method == http.MethodGet
	}
	return r.key != "" || r.resumes
}

// mutates says whether a failure has an outcome.
func (r *request) mutates() bool { return r.method != http.MethodGet }

// answer is a whole answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// read does a read with its options.
func read[T any](ctx context.Context, c *Client, path string, q url.Values, opts []ReadOption) (*T, Meta, error) {
	cfg := readConfig(opts)
	if q == nil {
		q = url.Values{}
	}
	level := c.core.opts.DefaultConsistency
	if cfg.hasConsistency {
		level = cfg.consistency
	}
	if err := level.validate(); err != nil {
		return nil, Meta{}, err
	}
	if cfg.hasConsistency || c.session == nil || !c.session.addTo(q) {
		level.addTo(q)
	}
	if cfg.embeddings != "" {
		q.Set(wire.ParamWithEmbeddings, cfg.embeddings)
	}
	return call[T](ctx, c, &request{method: http.MethodGet, path: path, query: q, kind: kindRead, pin: cfg.endpoint})
}

// ask does a read of a node's own knowledge. It has no consistency, so to ask for
// one is an error: the answer would not be what the caller believes.
func ask[T any](ctx context.Context, c *Client, method, path string, opts []ReadOption) (*T, Meta, error) {
	cfg := readConfig(opts)
	if cfg.hasConsistency || cfg.embeddings != "" {
		return nil, Meta{}, fmt.Errorf("client: %s %s shows what one node knows; it takes OnEndpoint, and no other option", method, path)
	}
	return call[T](ctx, c, &request{method: method, path: path, kind: kindNode, pin: cfg.endpoint})
}

// write does a write of data, with a key unless the caller wants none.
func write[T any](ctx context.Context, c *Client, method, path string, in any, opts []WriteOption) (*T, Meta, error) {
	return writeQuery[T](ctx, c, method, path, nil, in, opts)
}

func writeQuery[T any](ctx context.Context, c *Client, method, path string, q url.Values, in any, opts []WriteOption) (*T, Meta, error) {
	cfg := writeConfig(opts)
	if cfg.key == "" && !cfg.noKey {
		key, err := newKey()
		if err != nil {
			return nil, Meta{}, err
		}
		cfg.key = key
	}
	return mutate[T](ctx, c, method, path, q, in, cfg)
}

// change does a change of the membership: without a key, for it is not a
// command of the state machine.
func change[T any](ctx context.Context, c *Client, method, path string, in any, opts []WriteOption) (*T, Meta, error) {
	cfg := writeConfig(opts)
	cfg.key = ""
	return mutate[T](ctx, c, method, path, nil, in, cfg)
}

// rawVector is a body of little-endian float32 values.
type rawVector []byte

func mutate[T any](ctx context.Context, c *Client, method, path string, q url.Values, in any, cfg *callConfig) (*T, Meta, error) {
	r := &request{method: method, path: path, query: q, kind: kindWrite, key: cfg.key, pin: cfg.endpoint, header: http.Header{}}
	if err := cfg.conditions(r.header); err != nil {
		return nil, Meta{}, err
	}
	if raw, ok := in.(rawVector); ok {
		r.body, r.contentType = raw, wire.TypeVector
	} else if in != nil {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(in); err != nil {
			return nil, Meta{}, fmt.Errorf("client: encode the body of %s %s: %w", method, path, err)
		}
		r.body, r.contentType = bytes.TrimSuffix(buf.Bytes(), []byte("\n")), wire.TypeJSON
	}
	return call[T](ctx, c, r)
}

// call does a request and decodes the answer.
func call[T any](ctx context.Context, c *Client, r *request) (*T, Meta, error) {
	a, meta, err := c.core.do(ctx, c.session, r)
	if err != nil {
		return nil, meta, err
	}
	out := new(T)
	if len(a.body) == 0 {
		return out, meta, nil
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		// The call was done; what can't be read is its answer.
		return nil, meta, fmt.Errorf("client: decode the answer of %s %s: %w", r.method, r.path, err)
	}
	return out, meta, nil
}

// newKey makes an idempotency key: a UUID of version 7, so that the rows that
// the keys become are in order of time.
func newKey() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("client: make an idempotency key: %w", err)
	}
	return id.String(), nil
}

// do sends a request until it is answered, or may not or need not be repeated.
func (c *core) do(ctx context.Context, session *sessionState, r *request) (*answer, Meta, error) {
	if c.isClosed() {
		return nil, Meta{}, ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	t := newTrial(c, r)
	for {
		ep, err := t.pick()
		if err != nil {
			return nil, Meta{}, err
		}
		a, fail := c.attempt(ctx, ep, r)
		t.attempts++
		meta := metaOf(a, fail, ep, t.attempts)
		if serr := observe(session, r, a, fail, ep, t.attempts); serr != nil {
			return nil, meta, serr
		}
		if fail == nil {
			t.succeeded(ep, meta)
			return a, meta, nil
		}
		if !t.again(ctx, ep, fail) {
			return nil, meta, t.final(ctx, fail)
		}
	}
}

// observe shows an answer to the session. What it returns is an *Error.
func observe(s *sessionState, r *request, a *answer, fail *failure, ep *endpoint, attempts int) error {
	if s == nil || r.kind == kindNode {
		return nil
	}
	if fail != nil {
		if fail.err.Problem.Code == wire.CodeWrongCluster {
			s.reset()
		}
		if fail.header == nil {
			return nil
		}
		a = &answer{status: fail.err.Status, header: fail.header}
	}
	err := s.observe(a.status, a.header)
	if err == nil {
		return nil
	}
	detail := err.Error()
	if r.mutates() && a.status < 300 {
		detail += "; the write was applied there"
	}
	info := wire.CodeWrongCluster.Info()
	return &Error{
		Method: r.method, Path: r.path, Status: info.Status, Endpoint: ep.url, Attempts: attempts,
		Problem: wire.Problem{Type: wire.TypePrefix + string(info.Code), Title: info.Title, Status: info.Status, Code: info.Code, Detail: detail},
	}
}

// failure is a failed attempt.
type failure struct {
	err *Error
	// header is the answer's, nil if there was none.
	header http.Header
	// sent says that the node may have received the request.
	sent bool
	// timeout says that the attempt's own time was up.
	timeout bool
	// partial says that an import broke in the middle: what was sent and not
	// answered may have been applied, whatever the node says of one line.
	partial bool
}

// attempt sends the request to one node, once.
func (c *core) attempt(ctx context.Context, ep *endpoint, r *request) (*answer, *failure) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.AttemptTimeout)
	defer cancel()
	failed := func(cause error, sent bool) *failure {
		return &failure{
			err:  &Error{Method: r.method, Path: r.path, Endpoint: ep.url, Cause: cause},
			sent: sent, timeout: isContextError(cause),
		}
	}
	var reader io.Reader
	if r.body != nil {
		reader = bytes.NewReader(r.body)
	}
	req, err := c.newRequest(ctx, ep, r, reader)
	if err != nil {
		return nil, failed(err, false)
	}
	resp, sent, err := c.send(req)
	if err != nil {
		return nil, failed(err, sent)
	}
	defer resp.Body.Close()
	body, err := readAnswer(resp, c.opts.MaxAnswerBytes)
	if err != nil {
		return nil, failed(err, true)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 || resp.StatusCode == r.also {
		return &answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
	}
	return nil, &failure{err: problemOf(r, ep, resp, body), header: resp.Header, sent: true}
}

// send sends a request and returns the answer's beginning. sent is false only
// if the request certainly was not written: after a refused connection, but
// not after a reset one.
func (c *core) send(req *http.Request) (resp *http.Response, sent bool, err error) {
	var wrote atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }}
	resp, err = c.http.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // it repeats the method and the address
	}
	return resp, wrote.Load(), err
}

// newRequest builds the request of one attempt. A context without a deadline
// tells the node of none.
func (c *core) newRequest(ctx context.Context, ep *endpoint, r *request, body io.Reader) (*http.Request, error) {
	target := ep.url + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.key != "" {
		req.Header.Set(wire.HeaderIdempotencyKey, r.key)
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if c.opts.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.opts.Token)
	}
	if deadline, ok := ctx.Deadline(); ok {
		req.Header.Set(wire.HeaderTimeout, serverTimeout(time.Until(deadline)).String())
	}
	return req, nil
}

// serverTimeout is what the node is told of the time that is left: a little
// less, so that its own clear answer comes before the client hangs up.
func serverTimeout(left time.Duration) time.Duration {
	left -= min(left/10, 250*time.Millisecond)
	return max(left.Truncate(time.Millisecond), time.Millisecond)
}

// readAnswer reads an answer's body within the bound.
func readAnswer(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, ErrAnswerTooLarge
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, ErrAnswerTooLarge
	}
	return body, nil
}

// problemOf makes an Error from an answer that is not 2xx.
func problemOf(r *request, ep *endpoint, resp *http.Response, body []byte) *Error {
	e := &Error{Method: r.method, Path: r.path, Status: resp.StatusCode, Endpoint: ep.url, RetryAfter: retryAfter(resp.Header)}
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if media == wire.TypeProblem && json.Unmarshal(body, &e.Problem) == nil && e.Problem.Code != "" {
		return e
	}
	// A proxy, or something that is no snipdb at all.
	e.Problem = wire.Problem{Status: resp.StatusCode, Title: http.StatusText(resp.StatusCode), Detail: fmt.Sprintf("%.200q", body)}
	return e
}

// retryAfter parses Retry-After, in seconds or as a date.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

func metaOf(a *answer, fail *failure, ep *endpoint, attempts int) Meta {
	m := Meta{Attempts: attempts, Endpoint: ep.url}
	var h http.Header
	if fail == nil {
		m.Status, h = a.status, a.header
	} else {
		m.Status, h = fail.err.Status, fail.header
	}
	m.Index, _ = strconv.ParseUint(h.Get(wire.HeaderIndex), 10, 64)
	m.Term, _ = strconv.ParseUint(h.Get(wire.HeaderTerm), 10, 64)
	m.Node, m.Cluster, m.ForwardedBy = h.Get(wire.HeaderNode), h.Get(wire.HeaderCluster), h.Get(wire.HeaderForwardedBy)
	m.Replayed = h.Get(wire.HeaderReplayed) == "true"
	m.ETag, m.RequestID = h.Get("ETag"), h.Get(wire.HeaderRequestID)
	return m
}
