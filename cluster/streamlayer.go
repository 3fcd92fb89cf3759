package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// tune sets what a fresh TCP connection needs to notice a dead peer.
func tune(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
	return errors.Join(tcp.SetKeepAliveConfig(keepAlive), setUserTimeout(tcp, userTimeout))
}

// muxConn is a connection after the handshake. Reads and writes of an accepted
// Raft connection set their own deadlines, because hashicorp/raft sets none on
// that side: a leader that vanishes in the middle of a snapshot would hold the
// follower's main loop until TCP gives up.
type muxConn struct {
	net.Conn
	mux *mux
	// peer is who is at the other end.
	peer     hello
	kind     connKind
	accepted bool
}

func (c *muxConn) direction() string {
	if c.accepted {
		return "in"
	}
	return "out"
}

func (c *muxConn) guarded() bool { return c.accepted && c.kind == kindRaft }

// Read reads; an accepted Raft connection may be silent for IdleTimeout.
func (c *muxConn) Read(p []byte) (int, error) {
	if c.guarded() {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.mux.o.IdleTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write writes; an accepted Raft connection must take an answer in peerWriteTimeout.
func (c *muxConn) Write(p []byte) (int, error) {
	if c.guarded() {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(peerWriteTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// Close closes the connection and takes it off the books.
func (c *muxConn) Close() error {
	c.mux.forget(c)
	if t, ok := c.Conn.(*tls.Conn); ok {
		// A TLS close first writes an alert, which would wait for a peer that
		// does not read. The stream has its own framing: the alert is no loss.
		return t.NetConn().Close()
	}
	return c.Conn.Close()
}

// alive reports whether an idle connection can take a request.
func (c *muxConn) alive() bool {
	conn := c.Conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	return !ok || quiet(tcp)
}

// subListener is one kind of the port's connections.
type subListener struct {
	mux  *mux
	kind connKind
	// conns has no buffer: a connection is either with its handshake or with
	// the one that accepted it, so that none is forgotten at the close.
	conns chan net.Conn

	mu     sync.Mutex // guards opened and the closing of done
	opened bool
	done   chan struct{}
}

func newSubListener(m *mux, kind connKind) *subListener {
	return &subListener{mux: m, kind: kind, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *subListener) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened = true
}

// isOpen is whether someone accepts.
func (l *subListener) isOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		return false
	default:
		return l.opened
	}
}

// deliver hands a connection to Accept, or closes it after the timeout.
func (l *subListener) deliver(c *muxConn, timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case l.conns <- c:
		return
	case <-l.done:
	case <-timer.C:
		l.mux.logRefusal(refuseNotReady, "peer port: nobody takes the connection", "kind", l.kind.String(), "peer", c.peer.From)
	}
	_ = c.Close()
}

// Accept returns the next connection of this kind, or net.ErrClosed.
func (l *subListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and closes the accepted connections of this kind: neither
// raft nor an aborted http.Server would.
func (l *subListener) Close() error {
	l.mu.Lock()
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	l.mu.Unlock()
	if l.kind == kindRaft {
		l.mux.closeConns(func(c *muxConn) bool { return c.accepted && c.kind == kindRaft })
	}
	return nil
}

// Addr is the advertised address, which raft puts into its messages.
func (l *subListener) Addr() net.Addr { return advertised(l.mux.advertise) }

// advertised is a host:port that may have a name for a host.
type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }

// dialPeer opens a connection for peer RPC. wantNodeID "" takes any node.
func (m *mux) dialPeer(ctx context.Context, addr, wantNodeID string) (net.Conn, error) {
	return m.dial(ctx, addr, hello{Kind: kindPeer, To: wantNodeID})
}

// dial connects, and runs the handshake within the context and HandshakeTimeout.
func (m *mux) dial(ctx context.Context, addr string, h hello) (*muxConn, error) {
	ctx, cancel := context.WithTimeout(ctx, m.o.HandshakeTimeout)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	dialer := net.Dialer{}
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cluster: dial peer: %w", err)
	}
	// The past as a deadline ends a read or write that is on its way.
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	conn, peer, err := m.introduce(ctx, raw, addr, h)
	if !stop() && err == nil {
		err = fmt.Errorf("cluster: dial peer %s: %w", addr, ctx.Err())
	}
	if err != nil {
		_ = raw.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("cluster: dial peer %s: %w", addr, context.Cause(ctx))
		}
		return nil, err
	}
	c := m.register(conn, peer, h.Kind, false)
	if c == nil {
		_ = raw.Close()
		return nil, fmt.Errorf("cluster: dial peer %s: %w", addr, net.ErrClosed)
	}
	return c, nil
}

// introduce is the dialling side of the handshake. It returns who answered.
func (m *mux) introduce(ctx context.Context, raw net.Conn, addr string, h hello) (net.Conn, hello, error) {
	if err := tune(raw); err != nil {
		m.o.Logger.Debug("dial peer: tune", "error", err)
	}
	conn := raw
	if m.o.TLS != nil {
		config := m.o.TLS
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(addr)
		}
		t := tls.Client(raw, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, hello{}, fmt.Errorf("cluster: dial peer %s: %w", addr, err)
		}
		conn = t
	}
	h.From, h.Cluster = m.o.NodeID, m.o.ClusterID()
	out, err := h.encode()
	if err != nil {
		return nil, hello{}, err
	}
	if _, err := conn.Write(out); err != nil {
		return nil, hello{}, fmt.Errorf("cluster: dial peer %s: %w", addr, err)
	}
	a, err := readAnswer(conn)
	if err != nil {
		return nil, hello{}, fmt.Errorf("cluster: dial peer %s: %w", addr, err)
	}
	if a.Code != welcome {
		return nil, hello{}, &refusedError{Addr: addr, answer: a}
	}
	// The other side has checked the same, but it is the other side.
	if h.To != "" && a.Node != h.To {
		a.Code, a.Text = refuseNode, fmt.Sprintf("the node at this address is %s, not %s", a.Node, h.To)
		return nil, hello{}, &refusedError{Addr: addr, answer: a}
	}
	return conn, hello{Kind: h.Kind, Cluster: a.Cluster, From: a.Node, To: h.From}, nil
}

// raftLayer is raft's view of the port.
type raftLayer struct {
	*subListener
	mux *mux
}

// Dial opens a Raft connection to the node that is expected at the address.
func (l *raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	dial := func(ctx context.Context) (*muxConn, error) {
		return l.mux.dial(ctx, string(address), hello{Kind: kindRaft, To: l.mux.o.NodeIDOf(string(address))})
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	return &pooledConn{dial: dial, timeout: l.mux.o.HandshakeTimeout, conn: c}, nil
}

// pooledConn is a dialled Raft connection. raft keeps them in a pool and does
// not look at them before use: after a peer restarted, or ended an idle
// connection, the next request on it fails, and if that is a vote, a whole
// election round is lost. So the first write of a request looks whether the
// connection is still open, and dials again if it is not. A request is sent
// at most once: nothing was written before the new dial.
type pooledConn struct {
	dial    func(context.Context) (*muxConn, error)
	timeout time.Duration

	mu       sync.Mutex // guards conn and closed against a Close from CloseStreams
	conn     *muxConn
	closed   bool
	deadline time.Time
	// answered is true after a read: the next write begins a request.
	answered bool
}

func (c *pooledConn) current() *muxConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// Read reads an answer.
func (c *pooledConn) Read(p []byte) (int, error) {
	c.answered = true
	return c.current().Read(p)
}

// Write sends a request or a part of it.
func (c *pooledConn) Write(p []byte) (int, error) {
	conn := c.current()
	if c.answered && !conn.alive() {
		var err error
		if conn, err = c.renew(); err != nil {
			return 0, err
		}
	}
	c.answered = false
	return conn.Write(p)
}

func (c *pooledConn) renew() (*muxConn, error) {
	deadline := c.deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(c.timeout)
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	fresh, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.Close()
	c.conn = fresh
	if c.closed {
		_ = fresh.Close()
		return nil, net.ErrClosed
	}
	return fresh, fresh.SetDeadline(c.deadline)
}

// Close closes the connection.
func (c *pooledConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.conn.Close()
}

// SetDeadline bounds one request and its answer.
func (c *pooledConn) SetDeadline(t time.Time) error {
	c.deadline = t
	return c.current().SetDeadline(t)
}

// SetReadDeadline bounds reads.
func (c *pooledConn) SetReadDeadline(t time.Time) error { return c.current().SetReadDeadline(t) }

// SetWriteDeadline bounds writes.
func (c *pooledConn) SetWriteDeadline(t time.Time) error { return c.current().SetWriteDeadline(t) }

// LocalAddr is this end.
func (c *pooledConn) LocalAddr() net.Addr { return c.current().LocalAddr() }

// RemoteAddr is the other end.
func (c *pooledConn) RemoteAddr() net.Addr { return c.current().RemoteAddr() }
