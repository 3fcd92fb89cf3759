package chaos

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

const (
	// identifyWait bounds the wait for the first bytes of a connection.
	identifyWait = 10 * time.Second
	// pieceBytes and maxPieces bound what one direction holds: a sender whose
	// bytes are held back soon waits, as it would with a real network.
	pieceBytes, maxPieces = 16 << 10, 64
	proxyDialWait         = 2 * time.Second
)

// identify reads the first bytes of a connection and says which node dials;
// "" is none. head is what it has read, to be forwarded.
type identify func(r *bufio.Reader) (from string, head []byte, err error)

// identifyPeer reads the handshake of the peer port: eight bytes of header
// with the length of the body in the last two, and in the body the cluster and
// the sender, each with a length of one byte (cluster/DESIGN.md, "Handshake").
func identifyPeer(r *bufio.Reader) (string, []byte, error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(head[6:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return "", nil, err
	}
	rest := body
	var names [2]string
	for i := range names {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return "", nil, fmt.Errorf("chaos: the handshake %q has no sender", head)
		}
		names[i], rest = string(rest[1:1+rest[0]]), rest[1+rest[0]:]
	}
	return names[1], append(head, body...), nil
}

// identifyHTTP reads the header of the first request. A node that passes a
// write on puts its name there, and no connection is shared by two nodes.
func identifyHTTP(r *bufio.Reader) (string, []byte, error) {
	const maxHeader = 64 << 10
	var head []byte
	from := ""
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", nil, err
		}
		head = append(head, line...)
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte(wire.HeaderHop)) {
			from = string(bytes.TrimSpace(value))
		}
		if len(bytes.TrimSpace(line)) == 0 {
			return from, head, nil
		}
		if len(head) > maxHeader {
			return "", nil, errors.New("chaos: the header is too long")
		}
	}
}

// proxy stands in front of one port of one node.
type proxy struct {
	net      *Network
	node     string
	target   string
	identify identify
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	conns  map[*proxied]struct{}
}

// PeerProxy listens for the peer port of a node and returns the address for
// the others; HTTPProxy does the same for its API.
func (n *Network) PeerProxy(node, target string) (string, error) {
	return n.proxy(node, target, identifyPeer)
}

// HTTPProxy is PeerProxy for the API.
func (n *Network) HTTPProxy(node, target string) (string, error) {
	return n.proxy(node, target, identifyHTTP)
}

func (n *Network) proxy(node, target string, who identify) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("chaos: proxy of %s: %w", node, err)
	}
	p := &proxy{net: n, node: node, target: target, identify: who, listener: l, conns: map[*proxied]struct{}{}}
	n.mu.Lock()
	n.proxies = append(n.proxies, p)
	n.mu.Unlock()
	p.wg.Go(p.accept)
	return l.Addr().String(), nil
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(c.(*net.TCPConn)) })
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.end()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// add registers a connection, unless the proxy is closed.
func (p *proxy) add(c *proxied) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) remove(c *proxied) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// proxied is one connection through a proxy.
type proxied struct {
	near *net.TCPConn
	mu   sync.Mutex   // guards far
	far  *net.TCPConn // nil before it is dialled
	done chan struct{}
	once sync.Once
}

// end resets both sides: what was under way is lost.
func (c *proxied) end() { c.finish(true) }

func (c *proxied) finish(reset bool) {
	c.once.Do(func() {
		close(c.done)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, side := range []*net.TCPConn{c.near, c.far} {
			if side == nil {
				continue
			}
			if reset {
				_ = side.SetLinger(0)
			}
			_ = side.Close()
		}
	})
}

// serve carries one connection until both directions have ended.
func (p *proxy) serve(near *net.TCPConn) {
	c := &proxied{near: near, done: make(chan struct{})}
	defer c.end()
	if !p.add(c) {
		return
	}
	defer p.remove(c)
	_ = near.SetReadDeadline(time.Now().Add(identifyWait))
	reader := bufio.NewReaderSize(near, pieceBytes)
	from, head, err := p.identify(reader)
	if err != nil {
		return
	}
	_ = near.SetReadDeadline(time.Time{})
	there, back := p.net.link(from, p.node), p.net.link(p.node, from)
	if from == "" {
		back = newLink()
	}
	// In a partition nobody answers; a connection is made when it is over.
	if !hold(there, c.done) {
		p.net.count(func(s *NetworkStats) { s.Resets++ })
		return
	}
	conn, err := net.DialTimeout("tcp", p.target, proxyDialWait)
	if err != nil {
		return // nothing listens there: the caller gets a reset
	}
	far := conn.(*net.TCPConn)
	c.mu.Lock()
	c.far = far
	c.mu.Unlock()
	select {
	case <-c.done:
		_ = far.Close()
		return
	default:
	}
	p.net.count(func(s *NetworkStats) { s.Connections++ })
	var both sync.WaitGroup
	both.Go(func() { p.carry(c, io.MultiReader(bytes.NewReader(head), reader), far, there) })
	both.Go(func() { p.carry(c, far, near, back) })
	both.Wait()
	c.finish(false) // both directions came to their own end, if none was reset
}

// hold waits while the link is a blackhole; false means that the connection is
// to be reset.
func hold(l *link, done <-chan struct{}) bool {
	for {
		mode, changed := l.get()
		switch mode.Kind {
		case Reset:
			return false
		case Blackhole:
		default:
			return true
		}
		select {
		case <-changed:
		case <-done:
			return false
		}
	}
}

// piece is what was read at once, or the end of the stream.
type piece struct {
	data []byte
	at   time.Time
	err  error
}

// carry moves one direction of a connection. Reading is apart from writing, so
// that pieces that are delayed do not delay each other.
func (p *proxy) carry(c *proxied, from io.Reader, to *net.TCPConn, l *link) {
	pieces := make(chan piece, maxPieces)
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			data := make([]byte, pieceBytes)
			n, err := from.Read(data)
			select {
			case pieces <- piece{data[:n], time.Now(), err}:
			case <-c.done:
				return
			}
			if err != nil {
				return
			}
		}
	})
	if !p.write(c, pieces, to, l) {
		c.end()
	}
	reading.Wait()
}

// write sends the pieces when the link lets them pass. It returns false if the
// connection is to be reset, true after a clean end of the stream.
func (p *proxy) write(c *proxied, pieces <-chan piece, to *net.TCPConn, l *link) bool {
	for {
		mode, changed := l.get()
		if mode.Kind == Reset {
			p.net.count(func(s *NetworkStats) { s.Resets++ })
			return false
		}
		var next piece
		select {
		case next = <-pieces:
		case <-changed:
			continue
		case <-c.done:
			return false
		}
		if !await(l, next, c.done) {
			return false
		}
		if len(next.data) > 0 {
			if _, err := to.Write(next.data); err != nil {
				return false
			}
			p.net.count(func(s *NetworkStats) { s.Bytes += int64(len(next.data)) })
		}
		if next.err != nil {
			// The end of one direction is passed on; the other may go on.
			return errors.Is(next.err, io.EOF) && to.CloseWrite() == nil
		}
	}
}

// await waits until the link lets a piece pass; false means that the
// connection is to be reset.
func await(l *link, next piece, done <-chan struct{}) bool {
	jitter := rand.Float64()*2 - 1 // the same for this piece, however often the mode changes
	for {
		mode, changed := l.get()
		wait := time.Duration(0)
		switch mode.Kind {
		case Pass:
			return true
		case Reset:
			return false
		case Blackhole:
			wait = time.Hour // until it changes
		case Delay:
			wait = time.Until(next.at.Add(mode.Delay + time.Duration(jitter*float64(mode.Jitter))))
		case Bandwidth:
			wait = time.Duration(float64(len(next.data)) / float64(mode.BytesPerSecond) * float64(time.Second))
		}
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			if mode.Kind != Blackhole {
				return true
			}
		case <-changed:
			timer.Stop()
		case <-done:
			timer.Stop()
			return false
		}
	}
}
