package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// The pool of connections to the leader.
const (
	// forwardIdle is how many connections stay open between bursts; opening
	// one costs less than a write, so a few hundred are enough.
	forwardIdle = 256
	// forwardDial bounds the connecting: the leader is in the same network.
	forwardDial = 2 * time.Second
)

// The values of the metric forwarded_total.
const (
	forwardAnswered = "answered"
	forwardNotSent  = "not_sent"
	forwardUnknown  = "unknown"
)

// forwarder carries writes to the leader's API.
type forwarder struct {
	transport http.RoundTripper
	own       *http.Transport // nil if the transport is the caller's
}

func newForwarder(transport http.RoundTripper) *forwarder {
	if transport != nil {
		return &forwarder{transport: transport}
	}
	own := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: forwardDial, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConns:        forwardIdle,
		MaxIdleConnsPerHost: forwardIdle,
		IdleConnTimeout:     idleTimeout / 2, // before the leader closes them
		DisableCompression:  true,
	}
	return &forwarder{transport: own, own: own}
}

func (f *forwarder) close() {
	if f.own != nil {
		f.own.CloseIdleConnections()
	}
}

// toLeader answers a write at a node that does not lead. A body that was read
// already is given; nil means that it is still to be read.
func (c *call) toLeader(leader contract.LeaderInfo, body []byte) (*reply, error) {
	if c.g.GetHeader(wire.HeaderHop) != "" {
		// Another node took this one for the leader. To pass it on again
		// could go in circles while a leader is being elected.
		if leader.ID == "" {
			return nil, contract.ErrNoLeader
		}
		return nil, &contract.NotLeaderError{Leader: leader}
	}
	if leader.HTTPAddr == "" {
		return nil, contract.ErrNoLeader
	}
	redirect, err := c.flag(wire.ParamRedirect)
	if err != nil {
		return nil, err
	}
	if redirect {
		c.s.metrics.redirected.Inc()
		target, err := c.leaderURL(leader, wire.ParamRedirect)
		if err != nil {
			return nil, err
		}
		return &reply{status: http.StatusTemporaryRedirect, location: target}, nil
	}
	if c.route.Stream != nil {
		return c.forwardStream(leader)
	}
	if body == nil {
		read, release, err := c.readBody()
		defer release()
		if err != nil {
			return nil, err
		}
		body = read
	}
	resp, err := c.roundTrip(leader, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		// The leader decided, but what it decided was lost on the way.
		c.s.metrics.forwarded.WithLabelValues(forwardUnknown).Inc()
		return nil, &contract.OutcomeUnknownError{Cause: err}
	}
	c.s.metrics.forwarded.WithLabelValues(forwardAnswered).Inc()
	if c.route.Class == classWrite { // admin routes have places of their own at the leader
		c.s.pace.answered(leader, resp.StatusCode, answer)
	}
	c.copyHeaders(resp)
	c.send(resp.StatusCode, resp.Header.Get("Content-Type"), answer)
	return &reply{written: true}, nil
}

// leaderOf returns the leader that a NotLeaderError names.
func leaderOf(err error) (contract.LeaderInfo, bool) {
	var moved *contract.NotLeaderError
	if errors.As(err, &moved) {
		return moved.Leader, !moved.Leader.Self
	}
	return contract.LeaderInfo{}, false
}

// leaderURL is this request's address at the leader, without the parameters
// named.
func (c *call) leaderURL(leader contract.LeaderInfo, without ...string) (string, error) {
	if _, err := url.Parse(leader.HTTPAddr); err != nil {
		return "", fmt.Errorf("httpapi: leader %q has address %q: %w", leader.ID, leader.HTTPAddr, contract.ErrNoLeader)
	}
	query := c.g.Request.URL.Query()
	for _, name := range without {
		query.Del(name)
	}
	target := strings.TrimSuffix(leader.HTTPAddr, "/") + c.g.Request.URL.EscapedPath()
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	return target, nil
}

// forwardedHeaders are what the leader needs of the request.
var forwardedHeaders = []string{"Content-Type", "Accept", "If-Match", "If-None-Match", "Authorization", "User-Agent"}

// roundTrip sends the request to the leader, once. An error from before a
// connection was there means "not applied"; any later one is
// an OutcomeUnknownError, because the leader may have the request.
func (c *call) roundTrip(leader contract.LeaderInfo, body io.Reader, length int64) (*http.Response, error) {
	// The time that is left goes in a header; a redirected client comes with
	// its own timeout again.
	target, err := c.leaderURL(leader, wire.ParamRedirect, wire.ParamTimeout)
	if err != nil {
		closeBody(body)
		return nil, err
	}
	var connected atomic.Bool
	ctx := httptrace.WithClientTrace(c.ctx(), &httptrace.ClientTrace{
		// The transport takes another connection if the pooled one turned out
		// to be dead before anything was written on it; then it is not sent yet.
		GetConn: func(string) { connected.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, c.g.Request.Method, target, body)
	if err != nil {
		closeBody(body)
		return nil, fmt.Errorf("httpapi: leader %q has address %q: %w", leader.ID, leader.HTTPAddr, contract.ErrNoLeader)
	}
	req.ContentLength = length
	if length == 0 {
		req.Body = http.NoBody
	}
	if stream, ok := body.(*streamBody); ok {
		req.Trailer = stream.trailer
	}
	for _, name := range forwardedHeaders {
		if value := c.g.GetHeader(name); value != "" {
			req.Header.Set(name, value)
		}
	}
	// net/http repeats a request by itself if it has a header of exactly this
	// spelling. Header names have no case on the wire.
	if key := c.g.GetHeader(wire.HeaderIdempotencyKey); key != "" {
		req.Header[strings.ToLower(wire.HeaderIdempotencyKey)] = []string{key}
	}
	req.Header.Set(wire.HeaderRequestID, c.requestID)
	req.Header.Set(wire.HeaderHop, c.s.backend.NodeID())
	if deadline, ok := ctx.Deadline(); ok {
		// The leader gives up a little earlier, so that its answer is what the
		// client gets, and not this node's guess.
		left := time.Until(deadline)
		req.Header.Set(wire.HeaderTimeout, max(left-min(left/10, 100*time.Millisecond), time.Millisecond).String())
	}
	c.proposed = true
	resp, err := c.s.forward.transport.RoundTrip(req)
	switch {
	case err == nil:
		return resp, nil
	case connected.Load():
		c.s.metrics.forwarded.WithLabelValues(forwardUnknown).Inc()
		return nil, &contract.OutcomeUnknownError{Cause: err}
	case c.ctx().Err() != nil && !errors.Is(err, context.Canceled):
		c.s.metrics.forwarded.WithLabelValues(forwardNotSent).Inc()
		return nil, fmt.Errorf("httpapi: connect to leader: %w: %w", contract.ErrExpired, err)
	}
	c.s.metrics.forwarded.WithLabelValues(forwardNotSent).Inc()
	return nil, fmt.Errorf("httpapi: connect to leader %q at %s: %w: %w", leader.ID, leader.HTTPAddr, contract.ErrNoLeader, err)
}

// closeBody closes a body that the transport never saw.
func closeBody(body io.Reader) {
	if closer, ok := body.(io.Closer); ok {
		_ = closer.Close()
	}
}

// copyHeaders takes the leader's header over, but for what belongs to the
// connection.
func (c *call) copyHeaders(resp *http.Response) {
	h := c.g.Writer.Header()
	for name, values := range resp.Header {
		switch name {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Date", "Trailer", "Upgrade":
		default:
			h[name] = values
		}
	}
	h.Set(wire.HeaderForwardedBy, c.s.backend.NodeID())
}
