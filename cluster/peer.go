package cluster

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// Peer RPC is how nodes talk beside Raft: read index, join, status. It is
// HTTP/1.1 with JSON bodies over the peer port, after the handshake, so that
// it needs no second port, no second TLS and no codec of its own. Unknown
// fields are ignored, because the other node may run the next release.
const (
	peerPrefix = "/peer/v1/"
	// maxPeerBody bounds a request or an answer: the status of 15 nodes with
	// all their options is a few hundred KiB.
	maxPeerBody = 4 << 20
	// defaultPeerTimeout bounds a call whose context has no deadline, and
	// maxPeerTimeout what a caller may ask a handler for.
	defaultPeerTimeout = 10 * time.Second
	maxPeerTimeout     = 2 * time.Minute
	// peerIdleClient is below peerIdleServer, so that it is the client that
	// ends an idle connection: it can't be about to send on it.
	peerIdleClient = 60 * time.Second
	peerIdleServer = 90 * time.Second
	// maxPeerConnsPerHost bounds what one node opens to one other.
	maxPeerConnsPerHost = 16
	// headerDeadline carries how many milliseconds the caller still waits.
	headerDeadline = "Snipdb-Timeout-Ms"
)

// The codes that calls themselves end in; handlers have their own.
const (
	peerInternal   = "internal"
	peerBadRequest = "bad_request"
	peerNoRoute    = "no_route"
	peerTimeout    = "timeout"
)

// peerError is an error that the other node answered with.
type peerError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *peerError) Error() string { return e.Message + " (" + e.Code + ")" }

// newPeerError returns an error that keeps its code on the way to the caller.
func newPeerError(code, format string, args ...any) *peerError {
	return &peerError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// peerHandler serves peer RPC.
type peerHandler = http.Handler

// peerFromKey is the context key of the calling node's id.
type peerFromKey struct{}

// handlePeer registers f for a route. from is the node id of the handshake.
// The context ends when the caller's does. An error that is no *peerError
// reaches the caller as "internal" with its text: the callers are nodes.
func handlePeer[Req, Resp any](mux *http.ServeMux, route string, f func(ctx context.Context, from string, req *Req) (*Resp, error)) {
	mux.HandleFunc("POST "+peerPrefix+route, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), peerTimeoutOf(r))
		defer cancel()
		from, _ := ctx.Value(peerFromKey{}).(string)
		req := new(Req)
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPeerBody))
		if err == nil {
			err = json.Unmarshal(body, req)
		}
		if err != nil {
			writePeerError(w, newPeerError(peerBadRequest, "peer RPC %s: read request: %v", route, err))
			return
		}
		resp, err := f(ctx, from, req)
		if err != nil {
			writePeerError(w, err)
			return
		}
		writePeerJSON(w, http.StatusOK, resp)
	})
}

func peerTimeoutOf(r *http.Request) time.Duration {
	ms, err := strconv.ParseInt(r.Header.Get(headerDeadline), 10, 64)
	if err != nil || ms <= 0 {
		return defaultPeerTimeout
	}
	return min(time.Duration(min(ms, maxPeerTimeout.Milliseconds()))*time.Millisecond, maxPeerTimeout)
}

func writePeerError(w http.ResponseWriter, err error) {
	var known *peerError
	switch {
	case errors.As(err, &known):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		known = newPeerError(peerTimeout, "%v", err)
	default:
		known = newPeerError(peerInternal, "%v", err)
	}
	status := http.StatusConflict
	switch known.Code {
	case peerInternal:
		status = http.StatusInternalServerError
	case peerBadRequest:
		status = http.StatusBadRequest
	case peerTimeout:
		status = http.StatusServiceUnavailable
	}
	writePeerJSON(w, status, known)
}

func writePeerJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err == nil && len(body) > maxPeerBody {
		err = fmt.Errorf("answer of %d bytes, at most %d", len(body), maxPeerBody)
	}
	if err != nil {
		status = http.StatusInternalServerError
		body, _ = json.Marshal(newPeerError(peerInternal, "peer RPC: encode answer: %v", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller is gone, and finds out itself
}

// peerServer serves peer RPC on the mux. Its connections are bounded by those
// of the mux, and its work by its connections.
type peerServer struct {
	listener net.Listener
	server   *http.Server
	done     chan struct{}
	logger   *slog.Logger
}

// newPeerServer returns a server that is not started.
func newPeerServer(m *mux, h peerHandler, logger *slog.Logger) *peerServer {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &peerServer{listener: m.peerListener(), done: make(chan struct{}), logger: logger}
	s.server = &http.Server{
		Handler:           s.recovering(h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		// A handler may wait for maxPeerTimeout; then the answer is written.
		WriteTimeout:   maxPeerTimeout + 10*time.Second,
		IdleTimeout:    peerIdleServer,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if mc, ok := c.(*muxConn); ok {
				return context.WithValue(ctx, peerFromKey{}, mc.peer.From)
			}
			return ctx
		},
	}
	return s
}

// recovering turns a panic of a handler into an answer: it must not end the
// process of a node that did nothing wrong but ask.
func (s *peerServer) recovering(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				s.logger.Error("peer RPC: handler panicked", "route", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				writePeerError(w, newPeerError(peerInternal, "peer RPC %s: the handler failed", r.URL.Path))
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// start serves until shutdown.
func (s *peerServer) start() {
	go func() {
		defer close(s.done)
		if err := s.server.Serve(s.listener); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.logger.Error("peer RPC: serve", "error", err)
		}
	}()
}

// shutdown takes no more calls, waits for those that run, and cuts them off
// when the context ends. It must come after start.
func (s *peerServer) shutdown(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("cluster: stop peer RPC: %w", err), s.server.Close())
	}
	<-s.done
	return err
}

// peerClient calls other nodes. It keeps a few connections to each.
type peerClient struct {
	transport *http.Transport
	client    *http.Client
}

// newPeerClient returns a client over the mux.
func newPeerClient(m *mux) *peerClient {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, host string) (net.Conn, error) {
			addr, node, err := decodePeerHost(host)
			if err != nil {
				return nil, err
			}
			return m.dialPeer(ctx, addr, node)
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    4,
		MaxConnsPerHost:        maxPeerConnsPerHost,
		IdleConnTimeout:        peerIdleClient,
		MaxResponseHeaderBytes: 16 << 10,
	}
	return &peerClient{transport: t, client: &http.Client{
		Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("cluster: peer RPC is never redirected")
		},
	}}
}

// close ends the idle connections; calls that run end with their contexts.
func (c *peerClient) close() { c.transport.CloseIdleConnections() }

// encodePeerHost packs address and wanted node into the host of a URL, because
// http.Transport keeps its connections by host: a connection to a node must
// not be used for a call that wants another one at the same address.
func encodePeerHost(addr, node string) string {
	return hex.EncodeToString([]byte(addr)) + "." + hex.EncodeToString([]byte(node))
}

func decodePeerHost(host string) (addr, node string, err error) {
	host, _, _ = strings.Cut(host, ":") // http.Transport adds a port
	a, n, ok := strings.Cut(host, ".")
	addrBytes, errA := hex.DecodeString(a)
	nodeBytes, errN := hex.DecodeString(n)
	if err := errors.Join(errA, errN); err != nil || !ok {
		return "", "", fmt.Errorf("cluster: peer host %q: %w", host, errors.Join(err, errors.New("not address and node")))
	}
	return string(addrBytes), string(nodeBytes), nil
}

// call sends a request to a route of the node at addr and reads its answer.
// An answer that is an error is a *peerError; a refused handshake is a
// *refusedError, and then the call has not begun. With any other error it may
// have been carried out. A call is never repeated.
func (c *peerClient) call(ctx context.Context, addr, wantNodeID, route string, request, response any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultPeerTimeout)
		defer cancel()
	}
	fail := func(err error) error { return fmt.Errorf("cluster: call %s of %s: %w", route, addr, err) }
	body, err := json.Marshal(request)
	if err != nil {
		return fail(err)
	}
	if len(body) > maxPeerBody {
		return fail(fmt.Errorf("request of %d bytes, at most %d", len(body), maxPeerBody))
	}
	target := "http://" + encodePeerHost(addr, wantNodeID) + peerPrefix + route
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	req.Host = "snipdb"
	req.Header.Set("Content-Type", "application/json")
	deadline, _ := ctx.Deadline()
	// At least one millisecond: 0 would mean the default.
	req.Header.Set(headerDeadline, strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10))
	resp, err := c.client.Do(req)
	if err != nil {
		return fail(unwrapURLError(err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxPeerBody+1))
	if err != nil {
		return fail(err)
	}
	if len(answer) > maxPeerBody {
		return fail(fmt.Errorf("answer of more than %d bytes", maxPeerBody))
	}
	if resp.StatusCode != http.StatusOK {
		return fail(remoteError(resp, answer))
	}
	if err := json.Unmarshal(answer, response); err != nil {
		return fail(err)
	}
	return nil
}

// remoteError makes a *peerError of an answer that is none of 200.
func remoteError(resp *http.Response, body []byte) error {
	e := new(peerError)
	if resp.Header.Get("Content-Type") == "application/json" && json.Unmarshal(body, e) == nil && e.Code != "" {
		return e
	}
	if resp.StatusCode == http.StatusNotFound {
		return newPeerError(peerNoRoute, "the other node does not know this call; it may run an older release")
	}
	return newPeerError(peerInternal, "the other node answered %s", resp.Status)
}

// unwrapURLError takes off the hexadecimal URL, which tells nobody anything.
func unwrapURLError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
