package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

// waitLimit bounds every wait for something that should happen; it is long
// because the race detector and other packages share two cores.
const waitLimit = 30 * time.Second

// proxy is the way into one node: it knows from the handshake which node
// dials, so that each direction of each pair can be cut.
type proxy struct {
	node     string
	net      *network
	listener net.Listener
	mu       sync.Mutex
	target   string
	conns    map[net.Conn]string // -> the node that dialled
	wg       sync.WaitGroup
}

// network holds what is cut: "from>to".
type network struct {
	mu    sync.Mutex
	cut   map[string]bool
	nodes map[string]*proxy
}

func (w *network) isCut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[from+">"+to]
}

// isolate cuts a node off in both directions, or lets it back.
func (w *network) isolate(id string, off bool) {
	w.mu.Lock()
	for other := range w.nodes {
		if other != id {
			w.cut[id+">"+other], w.cut[other+">"+id] = off, off
		}
	}
	proxies := slices.Collect(maps.Values(w.nodes))
	w.mu.Unlock()
	for _, p := range proxies {
		p.hangUp(func(from string) bool { return w.isCut(from, p.node) })
	}
}

func (p *proxy) hangUp(which func(from string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, from := range p.conns {
		if which(from) {
			_ = c.Close()
		}
	}
}

func newProxy(t testing.TB, w *network, node string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{node: node, net: w, listener: l, conns: map[net.Conn]string{}}
	p.wg.Go(p.accept)
	w.mu.Lock()
	w.nodes[node] = p
	w.mu.Unlock()
	return p
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.pass(c) })
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.setTarget("")
	p.hangUp(func(string) bool { return true })
	p.wg.Wait()
}

func (p *proxy) setTarget(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// pass reads the hello, and then carries bytes until either end or the
// network closes.
func (p *proxy) pass(in net.Conn) {
	defer in.Close()
	_ = in.SetReadDeadline(time.Now().Add(5 * time.Second))
	h, err := readHello(in)
	_ = in.SetReadDeadline(time.Time{})
	if err != nil || p.net.isCut(h.From, p.node) {
		return
	}
	p.mu.Lock()
	target := p.target
	if target == "" {
		p.mu.Unlock()
		return
	}
	p.conns[in] = h.From
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, in)
		p.mu.Unlock()
	}()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	frame, err := h.encode()
	if err != nil {
		return
	}
	if _, err := out.Write(frame); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
	_, _ = io.Copy(in, out)
	_ = in.Close()
	wg.Wait()
}

// testNode is one node with what outlives its process.
type testNode struct {
	id    string
	dir   string
	sm    *machine
	proxy *proxy
	*Node
}

// testCluster is a network of nodes in this process.
type testCluster struct {
	t     testing.TB
	root  string
	net   *network
	nodes map[string]*testNode
	mu    sync.Mutex // guards running, which Discover reads
	up    map[string]*Node
	opts  func(id string, o *Options)
	parts func(id string, p *Parts)
}

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	root := t.TempDir() // first: cleanups run backwards, and nodes must stop before it is removed
	ignore := goleak.IgnoreCurrent()
	c := &testCluster{t: t, root: root, net: &network{cut: map[string]bool{}, nodes: map[string]*proxy{}},
		nodes: map[string]*testNode{}, up: map[string]*Node{}}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			c.stop(n.id)
			n.proxy.close()
		}
		goleak.VerifyNone(t, ignore)
	})
	return c
}

// testLog shows the nodes' logs of a failed test.
func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("CLUSTER_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func testOptions(id, dir string) Options {
	o := DefaultOptions()
	o.NodeID, o.DataDir, o.RaftAddr, o.HTTPAdvertise, o.Version = id, dir, "127.0.0.1:0", "http://"+id, "test"
	o.HeartbeatTimeout, o.ElectionTimeout, o.LeaderLease = 600*time.Millisecond, 600*time.Millisecond, 500*time.Millisecond
	o.CommitTimeout, o.PollInterval, o.PromoteAfter = 10*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond
	o.SnapshotCheck = 50 * time.Millisecond
	return o
}

// start opens a node; expect and join are its flags.
func (c *testCluster) start(id string, expect int, join ...string) *testNode {
	c.t.Helper()
	n, err := c.open(id, expect, join...)
	if err != nil {
		c.t.Fatalf("open %s: %v", id, err)
	}
	return n
}

func (c *testCluster) open(id string, expect int, join ...string) (*testNode, error) {
	c.t.Helper()
	tn := c.nodes[id]
	if tn == nil {
		tn = &testNode{id: id, dir: filepath.Join(c.root, id), sm: newMachine(), proxy: newProxy(c.t, c.net, id)}
		c.nodes[id] = tn
		if err := os.Mkdir(tn.dir, 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	o := testOptions(id, tn.dir)
	o.RaftAdvertise, o.BootstrapExpect, o.Logger = tn.proxy.listener.Addr().String(), expect, testLog(c.t)
	for _, j := range join {
		o.Join = append(o.Join, "test://"+j)
	}
	o.Fatal = func(err error) { c.t.Errorf("node %s: fatal: %v", id, err) }
	if c.opts != nil {
		c.opts(id, &o)
	}
	node, err := Open(c.t.Context(), o, c.partsOf(tn))
	if err != nil {
		return nil, err
	}
	tn.Node = node
	tn.proxy.setTarget(node.mux.listener.Addr().String())
	c.mu.Lock()
	c.up[id] = node
	c.mu.Unlock()
	return tn, nil
}

// partsOf opens what a stopped node runs on.
func (c *testCluster) partsOf(tn *testNode) Parts {
	c.t.Helper()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(tn.dir, 1, hclog.NewNullLogger())
	if err != nil {
		c.t.Fatal(err)
	}
	log, err := OpenBoltLog(filepath.Join(tn.dir, "log.db"))
	if err != nil {
		c.t.Fatal(err)
	}
	p := Parts{StateMachine: tn.sm, Snapshots: snaps, Log: log, Discover: c.discover, StateHash: tn.sm.stateHash}
	if c.parts != nil {
		c.parts(tn.id, &p)
	}
	return p
}

// stop closes a node; its directory and its state machine stay.
func (c *testCluster) stop(id string) {
	c.t.Helper()
	c.mu.Lock()
	node := c.up[id]
	delete(c.up, id)
	c.mu.Unlock()
	if node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if err := node.Close(ctx); err != nil {
		c.t.Errorf("close %s: %v", id, err)
	}
	c.nodes[id].proxy.setTarget("")
}

// wipe empties a stopped node's directory and state.
func (c *testCluster) wipe(id string) {
	c.t.Helper()
	tn := c.nodes[id]
	if err := os.RemoveAll(tn.dir); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Mkdir(tn.dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	tn.sm = newMachine()
}

func (c *testCluster) discover(_ context.Context, url string) (contract.Identity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node := c.up[url[len("test://"):]]
	if node == nil {
		return contract.Identity{}, fmt.Errorf("%s does not answer", url)
	}
	return node.Identity(), nil
}

// three starts a cluster of three with the same command line, and waits until
// all are ready.
func (c *testCluster) three() {
	c.t.Helper()
	for _, id := range []string{"n1", "n2", "n3"} {
		c.start(id, 3, "n1", "n2", "n3")
	}
	c.allReady()
}

func (c *testCluster) running() []*testNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*testNode
	for _, id := range slices.Sorted(maps.Keys(c.up)) {
		out = append(out, c.nodes[id])
	}
	return out
}

func (c *testCluster) allReady() {
	c.t.Helper()
	for _, n := range c.running() {
		eventually(c.t, n.id+" is ready", func() error { return n.Ready() })
	}
}

// leader waits for a leader that is ready, among the nodes of which ok.
func (c *testCluster) leader(not ...string) *testNode {
	c.t.Helper()
	var leader *testNode
	eventually(c.t, "a leader", func() error {
		for _, n := range c.running() {
			if n.Leader().Self && n.Ready() == nil && !slices.Contains(not, n.id) {
				leader = n
				return nil
			}
		}
		return errors.New("no leader")
	})
	return leader
}

func (c *testCluster) follower() *testNode {
	c.t.Helper()
	leader := c.leader()
	for _, n := range c.running() {
		if n.id != leader.id {
			return n
		}
	}
	c.t.Fatal("no follower")
	return nil
}

// eventually polls until f returns nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(waitLimit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, waitLimit, err)
		}
		<-tick.C
	}
}

// remove removes a member; an election in between, as on a busy machine, does
// not matter.
func (c *testCluster) remove(id string) {
	c.t.Helper()
	eventually(c.t, "remove "+id, func() error {
		if err := c.leader().RemoveMember(c.t.Context(), id, false); !isNotFound(err) {
			return err
		}
		return nil
	})
}

// write proposes until it is applied: the caller doesn't care about elections.
func (c *testCluster) write(id, title string) *command.Result {
	c.t.Helper()
	var res *command.Result
	eventually(c.t, "write "+id, func() (err error) {
		res, err = c.leader().Propose(c.t.Context(), put(id, title))
		return err
	})
	return res
}
