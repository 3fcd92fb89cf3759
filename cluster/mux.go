package cluster

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

// The limits of the peer port.
const (
	// defaultHandshakeTimeout is from the first packet to the answer, TLS
	// included. A peer needs milliseconds.
	defaultHandshakeTimeout = 5 * time.Second
	// defaultIdleTimeout ends an accepted Raft connection from which nothing
	// was read for so long. A leader's heartbeats come several times a second.
	defaultIdleTimeout = 60 * time.Second
	// defaultMaxConns is many times what 15 nodes with a pool of 4 need.
	defaultMaxConns = 256
	// maxPendingHandshakes bounds the connections that have not said who they
	// are. One more closes the oldest: a peer is done in milliseconds, so the
	// oldest is the one that does not mean to finish, and a flood of silent
	// connections can't keep a peer out.
	maxPendingHandshakes = 32
	// peerWriteTimeout ends an accepted Raft connection that does not take an answer.
	peerWriteTimeout = 10 * time.Second
	// userTimeout is how long sent data may stay unacknowledged.
	userTimeout = 20 * time.Second
	// refusalLogEvery keeps a peer that tries again and again out of the log.
	refusalLogEvery = 10 * time.Second
)

// muxOptions configure the peer port.
type muxOptions struct {
	// Bind is the address to listen on. Advertise is what other nodes dial;
	// "" is the address that was bound.
	Bind, Advertise string
	NodeID          string
	// ClusterID returns "" while this node is no member.
	ClusterID func() string
	// AcceptCluster decides on a connection of cluster id while this node is
	// no member. nil accepts.
	AcceptCluster func(id string) error
	// AcceptUnnamed decides on a connection of a node that names no cluster
	// while this one has one: a new node, or a member that has not yet applied
	// the entry with the cluster's id. kind is "raft" or "peer". nil accepts.
	AcceptUnnamed func(kind, fromNode string) error
	// NodeIDOf returns the node that Raft expects at an address, "" for any.
	NodeIDOf func(addr string) string
	// TLS is used for both sides; nil is clear text. Its certificates name the
	// node; the handshake runs inside.
	TLS *tls.Config
	// HandshakeTimeout 0 is 5 s, IdleTimeout 0 is 60 s, MaxConns 0 is 256.
	HandshakeTimeout, IdleTimeout time.Duration
	MaxConns                      int
	Logger                        *slog.Logger
	Registerer                    prometheus.Registerer
}

func (o *muxOptions) setDefaults() {
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = defaultHandshakeTimeout
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = defaultIdleTimeout
	}
	if o.MaxConns <= 0 {
		o.MaxConns = defaultMaxConns
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ClusterID == nil {
		o.ClusterID = func() string { return "" }
	}
	if o.NodeIDOf == nil {
		o.NodeIDOf = func(string) string { return "" }
	}
}

// mux is the peer port of a process: one TCP listener for Raft streams and
// peer RPC, told apart by the handshake. Accept never waits for a client:
// every handshake has a goroutine and a deadline of its own.
type mux struct {
	o         muxOptions
	listener  *net.TCPListener
	advertise string
	raft      *subListener
	peer      *subListener
	metrics   *muxMetrics

	// ctx ends with close, and ends every wait of the mux.
	ctx    context.Context
	cancel context.CancelFunc
	// wg counts the accept loop and the handshakes.
	wg sync.WaitGroup

	// mu guards what follows. It is held for no I/O.
	mu       sync.Mutex
	closed   bool
	pending  *list.List // of net.Conn, oldest first
	conns    map[*muxConn]struct{}
	accepted int // of conns
	logged   map[refusal]time.Time
}

// newMux listens. Raft and peer connections are refused as "not ready" until
// raftLayer and peerListener are called.
func newMux(o muxOptions) (*mux, error) {
	o.setDefaults()
	if err := errors.Join(checkName(o.NodeID), checkName(o.ClusterID())); err != nil {
		return nil, err
	}
	if o.NodeID == "" {
		return nil, errors.New("cluster: open peer port: no node id")
	}
	listener, err := net.Listen("tcp", o.Bind)
	if err != nil {
		return nil, fmt.Errorf("cluster: open peer port %s: %w", o.Bind, err)
	}
	tcp := listener.(*net.TCPListener)
	advertise := o.Advertise
	if advertise == "" {
		if tcp.Addr().(*net.TCPAddr).IP.IsUnspecified() {
			_ = listener.Close()
			return nil, fmt.Errorf("cluster: open peer port %s: other nodes can't dial this address: set the address to advertise", o.Bind)
		}
		advertise = tcp.Addr().String()
	}
	m := &mux{
		o: o, listener: tcp, advertise: advertise, metrics: newMuxMetrics(o.Registerer),
		pending: list.New(), conns: map[*muxConn]struct{}{}, logged: map[refusal]time.Time{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.raft = newSubListener(m, kindRaft)
	m.peer = newSubListener(m, kindPeer)
	m.wg.Add(1)
	go m.accept()
	return m, nil
}

// addr is the address that other nodes dial.
func (m *mux) addr() string { return m.advertise }

// raftLayer is the Raft side of the port. From the first call on, Raft
// connections are let in.
func (m *mux) raftLayer() raft.StreamLayer {
	m.raft.open()
	return &raftLayer{subListener: m.raft, mux: m}
}

// peerListener is the peer RPC side of the port. From the first call on, peer
// connections are let in.
func (m *mux) peerListener() net.Listener {
	m.peer.open()
	return m.peer
}

// close closes the port and every connection of it, dialled ones too, and
// waits for the goroutines of the mux. It may be called twice.
func (m *mux) close() error {
	m.mu.Lock()
	first := !m.closed
	m.closed = true
	for e := m.pending.Front(); e != nil; e = e.Next() {
		_ = e.Value.(net.Conn).Close()
	}
	conns := m.connsLocked(func(*muxConn) bool { return true })
	m.mu.Unlock()
	m.cancel()
	var err error
	if first {
		err = m.listener.Close()
	}
	_ = m.raft.Close()
	_ = m.peer.Close()
	for _, c := range conns {
		_ = c.Close()
	}
	m.wg.Wait()
	return err
}

// closeForeign closes what other clusters have open. Call it when this node
// became a member: until then it may have let several clusters in.
func (m *mux) closeForeign() {
	own := m.o.ClusterID()
	m.closeConns(func(c *muxConn) bool { return c.peer.Cluster != "" && own != "" && c.peer.Cluster != own })
}

func (m *mux) closeConns(which func(*muxConn) bool) {
	m.mu.Lock()
	conns := m.connsLocked(which)
	m.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// connsLocked must be called with mu held.
func (m *mux) connsLocked(which func(*muxConn) bool) []*muxConn {
	var out []*muxConn
	for c := range m.conns {
		if which(c) {
			out = append(out, c)
		}
	}
	return out
}

// accept is the loop of the listener. It ends when the listener is closed.
func (m *mux) accept() {
	defer m.wg.Done()
	const firstDelay, maxDelay = 5 * time.Millisecond, time.Second
	delay := firstDelay
	for {
		conn, err := m.listener.Accept()
		if err == nil {
			delay = firstDelay
			m.admit(conn)
			continue
		}
		if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// Too many open files, most often: waiting lets others close theirs.
		m.o.Logger.Error("peer port: accept failed", "error", err, "retry_ms", delay.Milliseconds())
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, maxDelay)
	}
}

// admit starts the handshake of a new connection, or closes it.
func (m *mux) admit(conn net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		_ = conn.Close()
		return
	}
	if m.accepted >= m.o.MaxConns {
		m.metrics.refused.WithLabelValues("busy").Inc()
		m.logRefusalLocked(refusal(0), "peer port: too many connections", "max", m.o.MaxConns)
		_ = conn.Close()
		return
	}
	if m.pending.Len() >= maxPendingHandshakes {
		m.metrics.refused.WithLabelValues("evicted").Inc()
		oldest := m.pending.Front()
		m.pending.Remove(oldest)
		_ = oldest.Value.(net.Conn).Close()
	}
	element := m.pending.PushBack(conn)
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		m.welcome(conn, element)
	}()
}

// logRefusalLocked logs at most one refusal of a kind in refusalLogEvery. It
// must be called with mu held.
func (m *mux) logRefusalLocked(code refusal, msg string, args ...any) {
	if now := time.Now(); now.Sub(m.logged[code]) >= refusalLogEvery {
		m.logged[code] = now
		m.o.Logger.Warn(msg, args...)
	}
}

func (m *mux) logRefusal(code refusal, msg string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logRefusalLocked(code, msg, args...)
}

// welcome runs the handshake of one accepted connection and hands it over.
func (m *mux) welcome(raw net.Conn, element *list.Element) {
	deadline := time.Now().Add(m.o.HandshakeTimeout)
	_ = raw.SetDeadline(deadline)
	conn, h, err := m.greet(raw)
	m.mu.Lock()
	m.pending.Remove(element)
	m.mu.Unlock()
	if err != nil {
		_ = raw.Close()
		return
	}
	sub := m.raft
	if h.Kind == kindPeer {
		sub = m.peer
	}
	c := m.register(conn, h, h.Kind, true)
	if c == nil {
		_ = raw.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	sub.deliver(c, m.o.HandshakeTimeout)
}

// greet reads the hello and answers it.
func (m *mux) greet(raw net.Conn) (net.Conn, hello, error) {
	if err := tune(raw); err != nil {
		m.o.Logger.Debug("peer port: tune", "error", err)
	}
	conn := raw
	if m.o.TLS != nil {
		conn = tls.Server(raw, m.o.TLS)
	}
	h, err := readHello(conn)
	verdict := answer{Code: refuseFrame}
	var version *versionError
	switch {
	case err == nil:
		verdict = m.judge(h)
	case errors.As(err, &version):
		verdict.Code = refuseVersion
		verdict.Text = err.Error()
	case errors.Is(err, errBadHandshake):
		verdict.Text = err.Error()
	default:
		// Nobody there to answer: closed, timed out, evicted, bad TLS.
		m.metrics.refused.WithLabelValues("broken").Inc()
		m.o.Logger.Debug("peer port: handshake failed", "remote", raw.RemoteAddr().String(), "error", err)
		return nil, h, err
	}
	verdict.Node, verdict.Cluster = m.o.NodeID, m.o.ClusterID()
	out, encodeErr := verdict.encode()
	if encodeErr != nil {
		return nil, h, encodeErr
	}
	_, writeErr := conn.Write(out)
	if verdict.Code != welcome {
		m.metrics.refused.WithLabelValues(verdict.Code.label()).Inc()
		m.logRefusal(verdict.Code, "peer port: connection refused", "remote", raw.RemoteAddr().String(),
			"peer", h.From, "reason", verdict.Code.label(), "detail", verdict.Text)
		return nil, h, &refusedError{Addr: raw.RemoteAddr().String(), answer: verdict}
	}
	return conn, h, writeErr
}

// judge decides on a hello. Who and which cluster come before readiness, so
// that a misconfigured node learns of its fault at once.
func (m *mux) judge(h hello) answer {
	refuse := func(code refusal, format string, args ...any) answer {
		return answer{Code: code, Text: fmt.Sprintf(format, args...)}
	}
	if h.Kind != kindRaft && h.Kind != kindPeer {
		return refuse(refuseKind, "connection kind %d is unknown to this release", byte(h.Kind))
	}
	if h.To != "" && h.To != m.o.NodeID {
		return refuse(refuseNode, "this is node %s, not %s: check the peer addresses of both", m.o.NodeID, h.To)
	}
	if h.Kind == kindRaft && h.From == m.o.NodeID {
		return refuse(refuseNode, "the caller has this node's id, %s: every node needs an id of its own", m.o.NodeID)
	}
	own := m.o.ClusterID()
	var err error
	switch {
	case own == h.Cluster:
	case own == "":
		if m.o.AcceptCluster != nil {
			err = m.o.AcceptCluster(h.Cluster)
		}
	case h.Cluster == "":
		if m.o.AcceptUnnamed != nil {
			err = m.o.AcceptUnnamed(h.Kind.String(), h.From)
		}
	default:
		err = fmt.Errorf("node %s belongs to cluster %s, the caller %s to cluster %s: check the addresses, or empty the data directory of the node that is to change over",
			m.o.NodeID, own, h.From, h.Cluster)
	}
	if err != nil {
		return refuse(refuseCluster, "%v", err)
	}
	if sub := m.raft; h.Kind == kindRaft && !sub.isOpen() {
		return refuse(refuseNotReady, "node %s does not run Raft now", m.o.NodeID)
	}
	if sub := m.peer; h.Kind == kindPeer && !sub.isOpen() {
		return refuse(refuseNotReady, "node %s is starting or stopping", m.o.NodeID)
	}
	return answer{}
}

// register puts a connection under the care of the mux; nil if it is closed.
func (m *mux) register(conn net.Conn, peer hello, kind connKind, accepted bool) *muxConn {
	c := &muxConn{Conn: conn, mux: m, peer: peer, kind: kind, accepted: accepted}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.conns[c] = struct{}{}
	if accepted {
		m.accepted++
	}
	m.metrics.conns.WithLabelValues(kind.String(), c.direction()).Inc()
	return c
}

func (m *mux) forget(c *muxConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.conns[c]; !ok {
		return
	}
	delete(m.conns, c)
	if c.accepted {
		m.accepted--
	}
	m.metrics.conns.WithLabelValues(c.kind.String(), c.direction()).Dec()
}
