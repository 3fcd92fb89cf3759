package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

// noLeak checks, when the test ends, that it left no goroutine behind. Call it
// before anything that is cleaned up.
func noLeak(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

// startMux opens a mux on a free port and checks, when the test ends, that it
// closes without leaving a goroutine.
func startMux(t *testing.T, nodeID, clusterID string, change ...func(*muxOptions)) *mux {
	t.Helper()
	noLeak(t)
	return openMux(t, nodeID, clusterID, change...)
}

func openMux(t *testing.T, nodeID, clusterID string, change ...func(*muxOptions)) *mux {
	t.Helper()
	o := muxOptions{Bind: "127.0.0.1:0", NodeID: nodeID, ClusterID: func() string { return clusterID }}
	for _, f := range change {
		f(&o)
	}
	m, err := newMux(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m
}

// echo sends back what it reads on every connection, until the listener closes.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = l.Close() })
}

func roundTrip(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := tryRoundTrip(c, text); err != nil {
		t.Fatal(err)
	}
}

func tryRoundTrip(c net.Conn, text string) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("sent " + text + ", got " + string(got))
	}
	return nil
}

// within polls until the condition holds.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestBothKindsShareThePort(t *testing.T) {
	a, b := startMux(t, "n1", "c1"), startMux(t, "n2", "c1")
	layer := b.raftLayer()
	go func() {
		c, err := layer.Accept()
		if err == nil {
			_, _ = c.Write([]byte("raft"))
			_ = c.Close()
		}
	}()
	echo(t, b.peerListener())
	c, err := a.raftLayer().Dial(raft.ServerAddress(b.addr()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "raft" {
		t.Errorf("the Raft side says %q, %v", got, err)
	}
	_ = c.Close()
	p, err := a.dialPeer(t.Context(), b.addr(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	roundTrip(t, p, "peer")
	if from := p.(*muxConn).peer; from.From != "n2" || from.Cluster != "c1" {
		t.Errorf("the other side is %+v", from)
	}
}

func TestHandshakeDecidesWhoMayTalk(t *testing.T) {
	no := errors.New("not this one")
	for name, c := range map[string]struct {
		caller, callee string // cluster ids
		from, to       string
		kind           connKind
		acceptCluster  func(string) error
		acceptUnnamed  func(string, string) error
		notOpen        bool
		want           error
		text           string
		wantCode       refusal
	}{
		"members of one cluster":                  {caller: "c1", callee: "c1", kind: kindRaft},
		"two new nodes":                           {kind: kindPeer},
		"a new node asks a member":                {callee: "c1", kind: kindPeer},
		"a member calls a new node":               {caller: "c1", kind: kindRaft},
		"a new node refuses a cluster":            {caller: "c1", kind: kindRaft, acceptCluster: func(string) error { return no }, want: errForeignCluster, text: no.Error(), wantCode: refuseCluster},
		"a member refuses a node without cluster": {callee: "c1", kind: kindRaft, acceptUnnamed: func(string, string) error { return no }, want: errForeignCluster, text: no.Error(), wantCode: refuseCluster},
		"a foreign cluster":                       {caller: "c1", callee: "c2", kind: kindRaft, want: errForeignCluster, text: "node n2 belongs to cluster c2, the caller n1 to cluster c1", wantCode: refuseCluster},
		"a foreign cluster's peer RPC":            {caller: "c1", callee: "c2", kind: kindPeer, want: errForeignCluster, text: "belongs to cluster c2", wantCode: refuseCluster},
		"another node than wanted":                {caller: "c1", callee: "c1", to: "n3", kind: kindPeer, want: errWrongNode, text: "this is node n2, not n3", wantCode: refuseNode},
		"a second node of the same id":            {caller: "c1", callee: "c1", from: "n2", kind: kindRaft, want: errWrongNode, text: "has this node's id", wantCode: refuseNode},
		"before Raft runs":                        {caller: "c1", callee: "c1", kind: kindRaft, notOpen: true, want: errPeerNotReady, text: "does not run Raft", wantCode: refuseNotReady},
		"an unknown kind":                         {caller: "c1", callee: "c1", kind: 9, text: "kind 9 is unknown", wantCode: refuseKind},
	} {
		t.Run(name, func(t *testing.T) {
			var logged lockedBuffer
			from := c.from
			if from == "" {
				from = "n1"
			}
			a := startMux(t, from, c.caller)
			b := startMux(t, "n2", c.callee, func(o *muxOptions) {
				o.AcceptCluster, o.AcceptUnnamed = c.acceptCluster, c.acceptUnnamed
				o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
			})
			if !c.notOpen {
				echo(t, b.raftLayer())
				echo(t, b.peerListener())
			}
			conn, err := a.dial(t.Context(), b.addr(), hello{Kind: c.kind, To: c.to})
			if c.wantCode == welcome {
				if err != nil {
					t.Fatal(err)
				}
				roundTrip(t, conn, "hello")
				_ = conn.Close()
				return
			}
			var refused *refusedError
			if !errors.As(err, &refused) || refused.Code != c.wantCode || (c.want != nil && !errors.Is(err, c.want)) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("error is %v; want code %d and %q", err, c.wantCode, c.text)
			}
			if refused.Node != "n2" || refused.Addr != b.addr() {
				t.Errorf("refused by %q at %q", refused.Node, refused.Addr)
			}
			within(t, "the other side logs why", func() bool { return strings.Contains(logged.String(), c.wantCode.label()) })
		})
	}
}

// lockedBuffer is a log that two goroutines may use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestStrangersGetAnAnswer(t *testing.T) {
	m := startMux(t, "n1", "c1")
	for name, c := range map[string]struct {
		send string
		code refusal
	}{
		"HTTP":             {"GET / HTTP/1.1\r\n\r\n", refuseFrame},
		"the next version": {"snpd\x02\x01\x00\x00", refuseVersion},
		"a huge frame":     {"snpd\x01\x01\xff\xff", refuseFrame},
	} {
		conn, err := net.Dial("tcp", m.addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write([]byte(c.send)); err != nil {
			t.Fatal(err)
		}
		a, err := readAnswer(conn)
		if err != nil || a.Code != c.code || a.Node != "n1" {
			t.Errorf("%s: answer %+v, %v; want code %d", name, a, err, c.code)
		}
		_ = conn.Close()
	}
}

// TestSilentConnectionsKeepNobodyOut is a slowloris: more silent connections
// than may wait at once, and a peer that still gets in.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	b := startMux(t, "n2", "c1", func(o *muxOptions) { o.HandshakeTimeout = time.Minute })
	echo(t, b.peerListener())
	a := startMux(t, "n1", "c1")
	var silent []net.Conn
	for range 2 * maxPendingHandshakes {
		c, err := net.Dial("tcp", b.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write([]byte("s")) // the first byte of the magic, and no more
		silent = append(silent, c)
	}
	c, err := a.dialPeer(t.Context(), b.addr(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c, "still there")
	// The oldest were closed to make room.
	_ = silent[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := silent[0].Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the oldest silent connection reads %v", err)
	}
	if n := testutil.ToFloat64(b.metrics.refused.WithLabelValues("evicted")); n < maxPendingHandshakes {
		t.Errorf("%v connections evicted; want at least %d", n, maxPendingHandshakes)
	}
}

func TestHandshakeHasADeadline(t *testing.T) {
	m := startMux(t, "n1", "c1", func(o *muxOptions) { o.HandshakeTimeout = 50 * time.Millisecond })
	conn, err := net.Dial("tcp", m.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a silent connection reads %v; want EOF", err)
	}
}

func TestDialHasADeadline(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts by the kernel, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	m := startMux(t, "n1", "c1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.dialPeer(ctx, silent.Addr().String(), ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := m.dialPeer(ctx, silent.Addr().String(), ""); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	b := startMux(t, "n2", "c1", func(o *muxOptions) { o.MaxConns = 2 })
	echo(t, b.peerListener())
	a := startMux(t, "n1", "c1")
	var open []net.Conn
	for range 2 {
		c, err := a.dialPeer(t.Context(), b.addr(), "")
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, c, "x")
		open = append(open, c)
	}
	if _, err := a.dialPeer(t.Context(), b.addr(), ""); err == nil {
		t.Fatal("a third connection got in")
	}
	_ = open[0].Close()
	within(t, "a place is free again", func() bool {
		c, err := a.dialPeer(t.Context(), b.addr(), "")
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	_ = open[1].Close()
}

func TestIdleRaftConnectionIsClosed(t *testing.T) {
	b := startMux(t, "n2", "c1", func(o *muxOptions) { o.IdleTimeout = 50 * time.Millisecond })
	echo(t, b.raftLayer())
	a := startMux(t, "n1", "c1")
	c, err := a.dial(t.Context(), b.addr(), hello{Kind: kindRaft})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection reads %v; want EOF", err)
	}
}

// TestPooledConnectionIsRenewed: what the other side closed while it was idle
// must not cost a vote.
func TestPooledConnectionIsRenewed(t *testing.T) {
	b := startMux(t, "n2", "c1", func(o *muxOptions) { o.IdleTimeout = 30 * time.Millisecond })
	echo(t, b.raftLayer())
	a := startMux(t, "n1", "c1", func(o *muxOptions) { o.NodeIDOf = func(string) string { return "n2" } })
	c, err := a.raftLayer().Dial(raft.ServerAddress(b.addr()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c, "first")
	pooled := c.(*pooledConn)
	before := pooled.current()
	within(t, "the other side closes the idle connection", func() bool { return !before.alive() })
	if err := before.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, "second")
	if pooled.current() == before {
		t.Error("the dead connection was used again")
	}
}

func TestPooledConnectionIsNotRenewedInTheMiddleOfARequest(t *testing.T) {
	b := startMux(t, "n2", "c1")
	echo(t, b.raftLayer())
	a := startMux(t, "n1", "c1")
	c, err := a.raftLayer().Dial(raft.ServerAddress(b.addr()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c, "first")
	if _, err := c.Write([]byte("half a request")); err != nil {
		t.Fatal(err)
	}
	pooled := c.(*pooledConn)
	before := pooled.current()
	_ = before.Conn.Close()
	if _, err := c.Write([]byte("the other half")); err == nil {
		t.Error("the other half was sent")
	}
	if pooled.current() != before {
		t.Error("the request was split over two connections")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	b := startMux(t, "n2", "c1")
	l := b.peerListener()
	layer := b.raftLayer()
	a := startMux(t, "n1", "c1")
	pending, err := net.Dial("tcp", b.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer pending.Close()
	got := make(chan error, 2)
	for _, accept := range []func() (net.Conn, error){l.Accept, layer.Accept} {
		go func() {
			c, err := accept()
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			got <- err
		}()
	}
	c, err := a.dialPeer(t.Context(), b.addr(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case err := <-got:
			if err == nil {
				t.Error("a read went on after the close")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a read or an Accept still waits after the close")
		}
	}
	if _, err := b.dialPeer(t.Context(), a.addr(), ""); err == nil {
		t.Error("a closed mux dials")
	}
}

func TestCloseForeign(t *testing.T) {
	var mu sync.Mutex
	own := ""
	b := startMux(t, "n2", "", func(o *muxOptions) {
		o.ClusterID = func() string {
			mu.Lock()
			defer mu.Unlock()
			return own
		}
	})
	echo(t, b.raftLayer())
	var conns []*muxConn
	for _, cluster := range []string{"c1", "c2"} {
		c, err := startMux(t, "n1", cluster).dial(t.Context(), b.addr(), hello{Kind: kindRaft})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		roundTrip(t, c, "x")
		conns = append(conns, c)
	}
	mu.Lock()
	own = "c1"
	mu.Unlock()
	b.closeForeign()
	roundTrip(t, conns[0], "own cluster")
	if err := tryRoundTrip(conns[1], "foreign"); err == nil {
		t.Error("the connection of the foreign cluster is still open")
	}
}

func TestMuxOptionsThatCannotWork(t *testing.T) {
	for name, o := range map[string]muxOptions{
		"no node id":                     {Bind: "127.0.0.1:0"},
		"a node id with a newline":       {Bind: "127.0.0.1:0", NodeID: "a\nb"},
		"an address nobody can dial":     {Bind: "0.0.0.0:0", NodeID: "n1"},
		"an address that is not ours":    {Bind: "192.0.2.1:1", NodeID: "n1"},
		"an address that is not address": {Bind: "nonsense", NodeID: "n1"},
	} {
		if m, err := newMux(o); err == nil {
			_ = m.close()
			t.Errorf("%s: no error", name)
		}
	}
	m := startMux(t, "n1", "", func(o *muxOptions) { o.Bind, o.Advertise = "0.0.0.0:0", "db.example:7001" })
	if m.addr() != "db.example:7001" || m.raftLayer().Addr().String() != "db.example:7001" {
		t.Errorf("advertised %s and %s", m.addr(), m.raftLayer().Addr())
	}
}

// testTLS returns a configuration with a certificate for 127.0.0.1, for both sides.
func testTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func TestHandshakeInsideMutualTLS(t *testing.T) {
	config := testTLS(t)
	withTLS := func(o *muxOptions) { o.TLS = config }
	b := startMux(t, "n2", "c1", withTLS, func(o *muxOptions) { o.IdleTimeout = 50 * time.Millisecond })
	echo(t, b.raftLayer())
	a := startMux(t, "n1", "c1", withTLS)
	c, err := a.raftLayer().Dial(raft.ServerAddress(b.addr()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c, "first")
	if !c.(*pooledConn).current().alive() {
		t.Error("a fresh TLS connection counts as dead: every request would dial again")
	}
	within(t, "the idle connection is closed", func() bool { return !c.(*pooledConn).current().alive() })
	roundTrip(t, c, "second")

	clear := startMux(t, "n3", "c1", func(o *muxOptions) { o.HandshakeTimeout = 200 * time.Millisecond })
	if _, err := clear.dialPeer(t.Context(), b.addr(), ""); err == nil {
		t.Error("a node without TLS got in")
	}
	echo(t, clear.peerListener())
	if _, err := a.dialPeer(t.Context(), clear.addr(), ""); err == nil {
		t.Error("a node with TLS talked to one without")
	}
	stranger := startMux(t, "n4", "c1", func(o *muxOptions) {
		o.TLS = testTLS(t)
		o.TLS.RootCAs = config.RootCAs
	})
	if _, err := stranger.dialPeer(t.Context(), b.addr(), ""); err == nil {
		t.Error("a node with a certificate of another authority got in")
	}
}
