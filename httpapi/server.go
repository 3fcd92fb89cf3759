package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/gin-gonic/gin"
	"golang.org/x/net/netutil"
)

// Server is the HTTP API of one node.
type Server struct {
	backend Backend
	admin   Admin
	opts    Options
	log     *slog.Logger
	metrics *metrics
	gates   *gates
	rates   *rateLimits
	forward *forwarder
	pace    *pace
	engine  *gin.Engine
	http    *http.Server
	// conns counts the open connections, for the reserve.
	conns atomic.Int64
	// stopping is closed when Shutdown begins: imports end at the next line.
	stopping chan struct{}
	stopOnce sync.Once
	// served is what Serve returned, for Start.
	served chan error
	mu     sync.Mutex
	// addr is guarded by mu.
	addr string
}

// New builds a server. It starts nothing.
func New(b Backend, a Admin, o Options) (*Server, error) {
	if b == nil || a == nil {
		return nil, errors.New("httpapi: a server needs a backend and an admin")
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("httpapi: register metrics: %w", err)
	}
	s := &Server{
		backend:  b,
		admin:    a,
		opts:     o,
		log:      o.Logger.With("component", "httpapi"),
		metrics:  m,
		gates:    newGates(o, m),
		rates:    newRateLimits(o.Now),
		forward:  newForwarder(o.ForwardTransport),
		stopping: make(chan struct{}),
		served:   make(chan error, 1),
	}
	s.pace = newPace(s.gates.byClass[classWrite])
	s.engine = s.newEngine()
	s.http = &http.Server{
		Handler:           s.engine,
		ReadHeaderTimeout: readHeaderTimeout,
		// ReadTimeout and WriteTimeout are set for each request from its own
		// deadline (see call.setDeadlines); these only cover what comes before.
		ReadTimeout:    o.MaxTimeout + answerGrace,
		WriteTimeout:   o.MaxTimeout + 2*answerGrace,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnState:      s.connState,
		ConnContext:    s.connContext,
	}
	return s, nil
}

// newEngine builds the router from the table of routes.
func (s *Server) newEngine() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false
	e.ContextWithFallback = true
	// Ids may hold '/', '+' and '%'. gin unescapes a path as if it were a
	// query, which makes a blank of '+', so it hands out the escaped text and
	// call.pathValue unescapes it.
	e.UseEscapedPath = true
	e.UnescapePathValues = false
	// No proxy is trusted to say who the client is.
	if err := e.SetTrustedProxies(nil); err != nil {
		panic(err) // nil can't be wrong
	}
	for i := range routes {
		e.Handle(routes[i].Method, routes[i].Path, s.handler(&routes[i]))
		if routes[i].Method == http.MethodGet {
			// RFC 9110 9.1 asks for both. The same handler serves HEAD, so
			// that it has the same status and header.
			head := routes[i]
			head.Method = http.MethodHead
			e.Handle(head.Method, head.Path, s.handler(&head))
		}
	}
	e.NoRoute(s.handler(&noRoute))
	e.NoMethod(s.handler(&noMethod))
	return e
}

// Handler returns the API for tests and for callers with a server of their own.
func (s *Server) Handler() http.Handler { return s.engine }

// Start listens on the address and serves in the background until Shutdown.
// Done tells if it ends before.
func (s *Server) Start(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("httpapi: listen on %s: %w", addr, err)
	}
	s.mu.Lock()
	s.addr = l.Addr().String()
	s.mu.Unlock()
	go func() { s.served <- s.Serve(l) }()
	return nil
}

// Addr returns the address that Start listens on, with its port.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Done receives one value when the serving that Start began has ended: nil
// after Shutdown.
func (s *Server) Done() <-chan error { return s.served }

// Serve answers the listener's connections until Shutdown, then returns nil.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(netutil.LimitListener(l, s.opts.MaxConnections))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("httpapi: serve %s: %w", l.Addr(), err)
}

// Shutdown stops accepting, ends the imports at their next line, and waits
// for the requests in progress until ctx ends; then it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stopping) })
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("httpapi: requests are cut off: %w", err), s.http.Close())
	}
	s.forward.close()
	return err
}

type reservedKey struct{}

// connContext marks a connection that came when only the reserve was left.
func (s *Server) connContext(ctx context.Context, _ net.Conn) context.Context {
	if s.conns.Load() >= int64(s.opts.MaxConnections-s.opts.ReservedConnections) {
		return context.WithValue(ctx, reservedKey{}, true)
	}
	return ctx
}

// connState counts the open connections. net/http reports StateNew right
// after the accept, and one of StateClosed and StateHijacked at the end. It
// calls ConnContext before StateNew, so a connection does not count itself
// there.
func (s *Server) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.metrics.connections.Set(float64(s.conns.Add(1)))
	case http.StateClosed, http.StateHijacked:
		s.metrics.connections.Set(float64(s.conns.Add(-1)))
	}
}
