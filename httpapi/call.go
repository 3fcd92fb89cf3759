package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// call is one request on its way through the server.
type call struct {
	s         *Server
	g         *gin.Context
	route     *route
	requestID string
	start     time.Time
	// timeout is the request's deadline as the client wished it, bounded.
	timeout time.Duration
	// index and term are the position that the answer names; 0: the newest
	// that this node has applied.
	index, term uint64
	// proposed is set before a write may reach the log: from then on a panic
	// has an unknown outcome.
	proposed bool
	received int64
}

// reply is an answer. With written set, the handler wrote it itself.
type reply struct {
	status   int
	body     any    // JSON, or nil
	raw      []byte // in place of body, with contentType
	etag     uint64 // 0: none
	location string
	replayed bool
	written  bool

	contentType string
}

// handler serves a route: it is the one place where requests begin and end.
func (s *Server) handler(r *route) gin.HandlerFunc {
	return func(g *gin.Context) {
		c := &call{s: s, g: g, route: r, start: s.opts.Now(), requestID: requestID(g.GetHeader(wire.HeaderRequestID))}
		defer c.finish()
		rep, err := c.serve()
		if err != nil {
			c.fail(err)
			return
		}
		c.answer(rep)
	}
}

// serve passes the gates, reads the body and calls the route.
func (c *call) serve() (*reply, error) {
	r := c.route
	if r == &noRoute || r == &noMethod {
		return r.Plain(c) // whatever else is wrong with the request does not matter
	}
	if err := c.s.reserved(c); err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	if r.Class != classAdmin && r.Class != classHealth {
		if err := c.s.backend.Diverged(); err != nil {
			return nil, err
		}
	}
	ctx := c.g.Request.Context()
	if r.Stream == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
		c.g.Request = c.g.Request.WithContext(ctx)
	}
	if r.Class == classWrite {
		c.s.pace.leads(c.s.backend.Leader())
	}
	leave, err := c.s.gates.enter(ctx, r.Class)
	if err != nil {
		return nil, err
	}
	defer leave()
	if r.Stream == nil {
		c.setDeadlines() // behind the gate: they cost more than a refusal needs
	}
	switch {
	case r.Read != nil:
		return c.serveRead()
	case r.Write != nil || r.Admin != nil:
		return c.serveWrite()
	case r.Stream != nil:
		return c.serveStream()
	default:
		if err := c.refuseBody(); err != nil {
			return nil, err
		}
		return r.Plain(c)
	}
}

// begin checks what can be checked from the header alone.
func (c *call) begin() error {
	if err := c.checkParams(); err != nil {
		return err
	}
	if err := c.parseTimeout(); err != nil {
		return err
	}
	if err := c.checkRedirect(); err != nil {
		return err
	}
	if err := c.checkConditionHeaders(); err != nil {
		return err
	}
	return c.checkContentType()
}

// ctx is the context of the request, with its deadline.
func (c *call) ctx() context.Context { return c.g.Request.Context() }

// setDeadlines bounds the time on the connection by the request's own
// deadline. The read deadline is later than the context's, because net/http
// cancels the request when it passes while the handler works.
func (c *call) setDeadlines() {
	control := http.NewResponseController(c.g.Writer)
	now := time.Now()
	// A writer without deadlines, as in tests, has nothing to bound.
	_ = control.SetReadDeadline(now.Add(c.timeout + time.Second))
	_ = control.SetWriteDeadline(now.Add(c.timeout + answerGrace))
}

// answer writes a reply.
func (c *call) answer(rep *reply) {
	if rep.written {
		return
	}
	h := c.g.Writer.Header()
	if rep.etag != 0 {
		h.Set("ETag", etag(rep.etag))
	}
	if rep.location != "" {
		h.Set("Location", rep.location)
	}
	if rep.replayed {
		h.Set(wire.HeaderReplayed, "true")
	}
	body, contentType := rep.raw, rep.contentType
	if rep.body != nil {
		encoded, err := encodeJSON(rep.body)
		if err != nil {
			c.fail(err)
			return
		}
		body, contentType = encoded, wire.TypeJSON
	}
	c.send(rep.status, contentType, body)
}

// fail translates an error and writes it. What is not the client's fault is
// logged here, and nowhere below.
func (c *call) fail(err error) {
	e := translate(err)
	outcome := ""
	if c.route.mutates() || c.refusedWrite() {
		outcome = contract.Outcome(err)
	}
	if e.code == wire.CodeOutcomeUnknown {
		outcome = contract.OutcomeUnknown
	}
	if e.code == wire.CodeInternal {
		if c.proposed {
			outcome = contract.OutcomeUnknown
		}
		c.s.log.Error("a request failed", "request_id", c.requestID, "route", c.route.Path, "method", c.g.Request.Method, "err", err)
	}
	if c.g.Writer.Written() {
		// The status is sent; all that is left is to make the answer visibly
		// incomplete.
		panic(http.ErrAbortHandler)
	}
	h := c.g.Writer.Header()
	h.Del("ETag")
	if seconds := e.retryAfterSeconds(); seconds > 0 {
		h.Set("Retry-After", strconv.Itoa(seconds))
	}
	if e.code == wire.CodeBodyTooLarge {
		h.Set("Connection", "close")
	}
	p := e.problem(c.requestID, outcome)
	if c.route.Creates && e.code == wire.CodeAlreadyExists {
		// The client set no condition that could fail: 412 would speak of one.
		p.Status = http.StatusConflict
	}
	body, err := encodeJSON(p)
	if err != nil {
		body = nil // a problem is made of texts and numbers: it can't fail
	}
	c.send(p.Status, wire.TypeProblem, body)
}

// refusedWrite says that the request is no route, or no method of one, and
// that its method is one that writes: then nothing was.
func (c *call) refusedWrite() bool {
	if c.route != &noRoute && c.route != &noMethod {
		return false
	}
	switch c.g.Request.Method {
	case http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete:
		return true
	}
	return false
}

// send writes the header that every answer has, and the body.
func (c *call) send(status int, contentType string, body []byte) {
	c.setHeaders()
	h := c.g.Writer.Header()
	if len(body) > 0 {
		h.Set("Content-Type", contentType)
	}
	if status != http.StatusNoContent && status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	c.g.Writer.WriteHeader(status)
	c.g.Writer.WriteHeaderNow()
	if len(body) > 0 && !c.head() {
		// An error here is a client that went away.
		_, _ = c.g.Writer.Write(body)
	}
}

// head says whether the answer is its header only.
func (c *call) head() bool { return c.g.Request.Method == http.MethodHead }

// setHeaders sets what every answer carries, unless the answer is the
// leader's, which brought its own.
func (c *call) setHeaders() {
	h := c.g.Writer.Header()
	h.Set(wire.HeaderRequestID, c.requestID)
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get(wire.HeaderNode) != "" {
		return
	}
	if c.index == 0 {
		c.index, c.term = c.s.backend.AppliedPosition()
	}
	h.Set(wire.HeaderNode, c.s.backend.NodeID())
	if id := c.s.backend.ClusterID(); id != "" {
		h.Set(wire.HeaderCluster, id)
	}
	h.Set(wire.HeaderIndex, strconv.FormatUint(c.index, 10))
	h.Set(wire.HeaderTerm, strconv.FormatUint(c.term, 10))
}

// finish recovers from a panic and counts the request.
func (c *call) finish() {
	cause := recover()
	if cause != nil && cause != any(http.ErrAbortHandler) {
		c.s.metrics.panics.Inc()
		c.s.log.Error("a handler panicked", "request_id", c.requestID, "route", c.route.Path,
			"method", c.g.Request.Method, "panic", cause, "stack", string(debug.Stack()))
		if !c.g.Writer.Written() {
			err := errors.New("httpapi: a handler panicked")
			if c.proposed {
				err = &contract.OutcomeUnknownError{Cause: err}
			}
			c.fail(err)
			cause = nil
		}
	}
	m, class := c.s.metrics, string(c.route.Class)
	m.received.WithLabelValues(class).Add(float64(c.received))
	if !c.head() { // net/http drops what is written in answer to HEAD
		m.sent.WithLabelValues(class).Add(float64(max(c.g.Writer.Size(), 0)))
	}
	method := c.route.Method
	if method == "" {
		method = "other" // no route: the method is the client's invention
	}
	status := strconv.Itoa(c.g.Writer.Status()/100) + "xx"
	m.duration.WithLabelValues(c.route.Path, method, status).Observe(c.s.opts.Now().Sub(c.start).Seconds())
	if cause != nil {
		panic(http.ErrAbortHandler) // net/http closes the connection, quietly
	}
}

// readBody reads the body whole, within the route's limit and the memory for
// bodies. release gives the memory back; it is never nil.
func (c *call) readBody() (body []byte, release func(), err error) {
	release = func() {}
	if c.route.MaxBody == 0 {
		return nil, release, c.refuseBody()
	}
	length := c.g.Request.ContentLength
	if length > c.route.MaxBody {
		return nil, release, &http.MaxBytesError{Limit: c.route.MaxBody}
	}
	if length == 0 {
		return nil, release, c.missingBody()
	}
	reserve := length
	if reserve < 0 {
		reserve = c.route.MaxBody // its length is not known before it is read
	}
	if c.route.Class != classAdmin { // theirs are few and small, and wait for no other (H9)
		if release, err = c.s.gates.body.reserve(c.ctx(), reserve); err != nil {
			return nil, func() {}, err
		}
	}
	var buf bytes.Buffer
	if length > 0 {
		buf.Grow(int(length) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(http.MaxBytesReader(c.g.Writer, c.g.Request.Body, c.route.MaxBody))
	c.received += n
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = badRequest(wire.CodeInvalidJSON, "", "the body ended before its Content-Length")
	case err == nil && n == 0:
		err = c.missingBody()
	}
	return buf.Bytes(), release, err
}

func (c *call) missingBody() error {
	if c.route.OptionalBody {
		return nil
	}
	return badRequest(wire.CodeInvalidJSON, "", "the body is empty; this route takes %s", c.route.Types[0])
}

// refuseBody makes sure that there is no body where none is taken: a client
// that sends one believes that it says something.
func (c *call) refuseBody() error {
	if c.g.Request.ContentLength == 0 || c.g.Request.Body == nil {
		return nil
	}
	var one [1]byte
	n, err := io.ReadFull(c.g.Request.Body, one[:])
	if n > 0 {
		c.g.Writer.Header().Set("Connection", "close")
		return badRequest(wire.CodeInvalidJSON, "", "this route takes no body")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return badRequest(wire.CodeInvalidJSON, "", "the body can't be read")
	}
	return nil
}

// encodeJSON writes v without HTML escapes, with a final newline.
func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// requestID takes the client's id if it is sane, or makes one.
func requestID(wish string) string {
	if wish != "" && len(wish) <= 64 && visible(wish) {
		return wish
	}
	id, err := uuid.NewV7()
	if err != nil {
		id = uuid.New() // NewV7 fails only if the random source does
	}
	return id.String()
}

// etag renders a revision as an entity tag.
func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }
