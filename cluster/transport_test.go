package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// listFSM remembers what was applied.
type listFSM struct {
	mu   sync.Mutex
	list []string
}

func (f *listFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, string(l.Data))
	return nil
}

func (f *listFSM) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("no snapshots here") }
func (f *listFSM) Restore(io.ReadCloser) error         { return errors.New("no snapshots here") }

func (f *listFSM) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.list)
}

// plumbedNode is a raft instance on the plumbing of this package, with real
// sockets and real files.
type plumbedNode struct {
	id    string
	dir   string
	mux   *mux
	trans *transport
	logs  *logStore
	vote  *stableStore
	fsm   *listFSM
	raft  *raft.Raft
}

func raftConfig(id string) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(id)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = time.Second, time.Second, 900*time.Millisecond
	c.CommitTimeout = 10 * time.Millisecond
	c.Logger = newRaftLogger(nil)
	return c
}

func startPlumbed(t *testing.T, id, dir, bind string) *plumbedNode {
	t.Helper()
	n := &plumbedNode{id: id, dir: dir, fsm: &listFSM{}}
	n.mux = openMux(t, id, "c1", func(o *muxOptions) { o.Bind = bind })
	n.trans = newTransport(n.mux, transportOptions{Timeout: 2 * time.Second})
	var err error
	if n.logs, err = newLogStore(openTestBolt(t, dir), logStoreOptions{Fatal: failNow(t)}); err != nil {
		t.Fatal(err)
	}
	n.vote = openTestStable(t, dir+"/vote.db")
	cache, err := raft.NewLogCache(128, n.logs)
	if err != nil {
		t.Fatal(err)
	}
	n.raft, err = raft.NewRaft(raftConfig(id), n.fsm, cache, n.vote, raft.NewInmemSnapshotStore(), n.trans)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.stop)
	return n
}

func (n *plumbedNode) stop() {
	if n.raft == nil {
		return
	}
	_ = n.raft.Shutdown().Error()
	_ = n.trans.Close()
	_ = n.mux.close()
	_ = n.logs.Close()
	_ = n.vote.Close()
	n.raft = nil
}

func bootstrapPlumbed(t *testing.T, nodes ...*plumbedNode) {
	t.Helper()
	var servers []raft.Server
	for _, n := range nodes {
		servers = append(servers, raft.Server{ID: raft.ServerID(n.id), Address: raft.ServerAddress(n.mux.addr())})
	}
	if err := nodes[0].raft.BootstrapCluster(raft.Configuration{Servers: servers}).Error(); err != nil {
		t.Fatal(err)
	}
}

func plumbedLeader(t *testing.T, nodes ...*plumbedNode) *plumbedNode {
	t.Helper()
	var leader *plumbedNode
	within(t, "a leader is elected", func() bool {
		for _, n := range nodes {
			if n.raft != nil && n.raft.State() == raft.Leader {
				leader = n
			}
		}
		return leader != nil
	})
	return leader
}

func TestRaftElectsAndReplicatesOverTheMux(t *testing.T) {
	noLeak(t)
	var nodes []*plumbedNode
	for i := range 3 {
		nodes = append(nodes, startPlumbed(t, fmt.Sprint("n", i), t.TempDir(), "127.0.0.1:0"))
	}
	bootstrapPlumbed(t, nodes...)
	leader := plumbedLeader(t, nodes...)
	for i := range 50 {
		if err := leader.raft.Apply(bytes.Repeat([]byte{byte(i)}, 1000), 5*time.Second).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		within(t, n.id+" has applied everything", func() bool { return n.fsm.len() == 50 })
		if b := n.logs.bytes(); b < 50*1000 {
			t.Errorf("%s: log of %d bytes", n.id, b)
		}
	}
	// A restarted node catches up, and the others' idle connections to its
	// former life cost nothing but a new dial.
	var victim *plumbedNode
	for _, n := range nodes {
		if n != leader {
			victim = n
		}
	}
	addr := victim.mux.addr()
	victim.stop()
	if err := leader.raft.Apply([]byte("while away"), 5*time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	again := startPlumbed(t, victim.id, victim.dir, addr)
	within(t, "the restarted node has applied everything", func() bool { return again.fsm.len() == 51 })
}

// TestHeartbeatsReachTheMainLoop: the handler that raft sets for the fast path
// is never called; a heartbeat comes through the consumer channel.
func TestHeartbeatsReachTheMainLoop(t *testing.T) {
	b := startMux(t, "n2", "c1")
	trans := newTransport(b, transportOptions{})
	t.Cleanup(func() { _ = trans.Close() })
	trans.SetHeartbeatHandler(func(raft.RPC) { t.Error("the heartbeat took the fast path") })
	a := startMux(t, "n1", "c1")
	caller := newTransport(a, transportOptions{Timeout: 5 * time.Second})
	t.Cleanup(func() { _ = caller.Close() })
	result := make(chan error, 1)
	go func() {
		heartbeat := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{Addr: []byte("n1")}, Term: 3}
		var resp raft.AppendEntriesResponse
		err := caller.AppendEntries("n2", raft.ServerAddress(b.addr()), heartbeat, &resp)
		if err == nil && resp.Term != 7 {
			err = fmt.Errorf("answer of term %d", resp.Term)
		}
		result <- err
	}()
	select {
	case rpc := <-trans.Consumer():
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); !ok || req.Term != 3 {
			t.Errorf("consumed %+v", rpc.Command)
		}
		rpc.Respond(&raft.AppendEntriesResponse{Term: 7, Success: true}, nil)
	case <-time.After(10 * time.Second):
		t.Fatal("no heartbeat on the consumer channel")
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if _, err := trans.AppendEntriesPipeline("n1", "x"); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("a pipeline: %v", err)
	}
	if trans.TimeoutScale != snapshotBytesPerTimeout {
		t.Errorf("TimeoutScale is %d", trans.TimeoutScale)
	}
}

// TestForeignRaftIsRefused: two clusters that were given each other's
// addresses stay apart.
func TestForeignRaftIsRefused(t *testing.T) {
	b := startMux(t, "n2", "c2")
	trans := newTransport(b, transportOptions{})
	t.Cleanup(func() { _ = trans.Close() })
	a := newTransport(startMux(t, "n1", "c1"), transportOptions{})
	t.Cleanup(func() { _ = a.Close() })
	err := a.RequestVote("n2", raft.ServerAddress(b.addr()), &raft.RequestVoteRequest{Term: 9}, &raft.RequestVoteResponse{})
	if !errors.Is(err, errForeignCluster) {
		t.Errorf("error is %v; want %v", err, errForeignCluster)
	}
	select {
	case rpc := <-trans.Consumer():
		t.Errorf("the vote request arrived: %+v", rpc.Command)
	default:
	}
}

// TestAbandonedSnapshotDoesNotHoldTheFollower: the leader vanishes in the
// middle of a snapshot, and the reader is let go by the idle deadline.
func TestAbandonedSnapshotDoesNotHoldTheFollower(t *testing.T) {
	b := startMux(t, "n2", "c1", func(o *muxOptions) { o.IdleTimeout = 100 * time.Millisecond })
	trans := newTransport(b, transportOptions{})
	t.Cleanup(func() { _ = trans.Close() })
	caller := newTransport(startMux(t, "n1", "c1"), transportOptions{})
	t.Cleanup(func() { _ = caller.Close() })
	stalled, release := io.Pipe()
	t.Cleanup(func() { _ = release.Close() })
	go func() {
		_, _ = release.Write(make([]byte, 300<<10)) // more than the buffers, less than the size
	}()
	result := make(chan error, 1)
	go func() {
		req := &raft.InstallSnapshotRequest{Term: 1, Size: 1 << 20}
		result <- caller.InstallSnapshot("n2", raft.ServerAddress(b.addr()), req, &raft.InstallSnapshotResponse{}, stalled)
	}()
	rpc := <-trans.Consumer()
	start := time.Now()
	n, err := io.Copy(io.Discard, rpc.Reader)
	if err == nil || n >= 1<<20 || time.Since(start) > 5*time.Second {
		t.Errorf("read %d bytes in %v: %v", n, time.Since(start), err)
	}
	rpc.Respond(&raft.InstallSnapshotResponse{}, err)
	_ = release.Close()
	<-result
}

// A leader's append to a node that is away ends when the node is back, when
// the leader stops, or when it is leader no more; a heartbeat never waits.
func TestAppendWaitsForTheReturn(t *testing.T) {
	away := startMux(t, "n2", "c1")
	addr := away.addr()
	if err := away.close(); err != nil {
		t.Fatal(err)
	}
	var leading atomic.Bool
	start := func() (*transport, func(*raft.AppendEntriesRequest) chan error) {
		tr := newTransport(startMux(t, "n1", "c1"), transportOptions{Timeout: time.Second, Sends: func(id raft.ServerID, to raft.ServerAddress) bool {
			return leading.Load() && id == "n2" && string(to) == addr
		}})
		t.Cleanup(func() { _ = tr.Close() })
		return tr, func(req *raft.AppendEntriesRequest) chan error {
			done := make(chan error, 1)
			go func() {
				done <- tr.AppendEntries("n2", raft.ServerAddress(addr), req, &raft.AppendEntriesResponse{})
			}()
			return done
		}
	}
	ends := func(what string, done chan error) {
		t.Helper()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: the append to a node that is away succeeded", what)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the append did not end", what)
		}
	}
	waits := func(what string, done chan error) {
		t.Helper()
		select {
		case err := <-done:
			t.Fatalf("%s: the append ended: %v", what, err)
		case <-time.After(3 * returnPoll):
		}
	}
	heartbeat := &raft.AppendEntriesRequest{Term: 1}
	entries := &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 1, PrevLogTerm: 1}

	leading.Store(true)
	tr, send := start()
	ends("heartbeat", send(heartbeat))
	done := send(entries)
	waits("leader", done)
	leading.Store(false)
	ends("no leader any more", done)

	leading.Store(true)
	done = send(entries)
	waits("leader", done)
	tr.stopWaiting()
	ends("stopped", done)

	_, send = start()
	done = send(entries)
	waits("leader", done)
	back, err := newMux(muxOptions{Bind: addr, NodeID: "n2", ClusterID: func() string { return "c1" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = back.close() })
	_ = back.raftLayer()
	ends("the node is back", done)
}
