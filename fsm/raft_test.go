package fsm

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/command"
)

// raftNode is a machine under a real hashicorp/raft, in memory but for the
// state and the snapshots.
type raftNode struct {
	*machine
	raft      *raft.Raft
	transport *raft.InmemTransport
	logs      *raft.InmemStore
	id        raft.ServerID
}

func newRaftNode(t *testing.T, id string) *raftNode {
	t.Helper()
	n := &raftNode{machine: newMachine(t), logs: raft.NewInmemStore(), id: raft.ServerID(id)}
	n.start()
	return n
}

func (n *raftNode) start() {
	n.tb.Helper()
	_, n.transport = raft.NewInmemTransport(raft.ServerAddress(n.id))
	c := raft.DefaultConfig()
	c.LocalID, c.LogOutput, c.NoSnapshotRestoreOnStart = n.id, io.Discard, true
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout, c.CommitTimeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond, 5*time.Millisecond
	c.SnapshotInterval, c.SnapshotThreshold, c.TrailingLogs = time.Hour, 1<<40, 2
	var err error
	if n.raft, err = raft.NewRaft(c, n.f, n.logs, n.logs, n.snaps, n.transport); err != nil {
		n.tb.Fatalf("NewRaft: %v", err)
	}
}

func (n *raftNode) stop() {
	n.tb.Helper()
	if err := n.raft.Shutdown().Error(); err != nil {
		n.tb.Errorf("Shutdown: %v", err)
	}
	_ = n.transport.Close()
}

// propose proposes an entry and returns its results.
func (n *raftNode) propose(commands ...*command.Command) []*command.Result {
	n.tb.Helper()
	future := n.raft.Apply(entryOf(n.tb, commands...), 10*time.Second)
	if err := future.Error(); err != nil {
		n.tb.Fatalf("Apply: %v", err)
	}
	return future.Response().([]*command.Result)
}

// TestUnderRaft runs the state machine under the library it is made for: a
// snapshot that trims the log, a node that joins behind it and gets it over
// the wire, and a restart that replays what is applied already.
func TestUnderRaft(t *testing.T) {
	a := newRaftNode(t, "a")
	if err := a.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}).Error(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return a.raft.State() == raft.Leader })
	a.propose(initCluster("cluster-1"))
	for i := range 20 {
		rs := a.propose(mutation(ownedDoc(fmt.Sprint("d", i), "o", embedded("x", 2))), tick())
		if len(rs) != 2 || rs[0].GetOutcome() != created {
			t.Fatalf("results %v", rs)
		}
	}
	if err := a.raft.Snapshot().Error(); err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	a.propose(mutation(deleteDoc("d0")))
	if first, err := a.logs.FirstIndex(); err != nil || first < 15 {
		t.Errorf("the log begins at %d, %v", first, err)
	}

	b := newRaftNode(t, "b")
	a.transport.Connect("b", b.transport)
	b.transport.Connect("a", a.transport)
	if err := a.raft.AddVoter("b", "b", 0, 0).Error(); err != nil {
		t.Fatalf("AddVoter: %v", err)
	}
	same := func() bool {
		x, _ := a.f.Applied()
		y, _ := b.f.Applied()
		return x == y
	}
	waitFor(t, same)
	if a.dump() != b.dump() || b.f.ClusterID() != "cluster-1" {
		t.Error("the state that came over the wire is another one")
	}
	if m, ok, err := b.snaps.Newest(); err != nil || !ok {
		t.Errorf("node b was not given a snapshot: %+v %v", m, err)
	}

	// Raft replays from its snapshot on; the state is ahead of it.
	before, applied := a.dump(), func() uint64 { i, _ := a.f.Applied(); return i }()
	a.stop()
	a.restart()
	if i, _ := a.f.Applied(); i != applied {
		t.Errorf("applied %d after the restart, %d before", i, applied)
	}
	a.start()
	a.transport.Connect("b", b.transport)
	b.transport.Connect("a", a.transport)
	waitFor(t, func() bool { return a.raft.State() == raft.Leader || b.raft.State() == raft.Leader })
	leader := a
	if b.raft.State() == raft.Leader {
		leader = b
	}
	if a.dump() != before {
		t.Error("the replay changed the state")
	}
	leader.propose(mutation(putDoc("after")))
	waitFor(t, same)
	if a.dump() != b.dump() {
		t.Error("the states differ after the restart")
	}
	a.stop()
	b.stop()
	if a.fatal != nil || b.fatal != nil {
		t.Errorf("Fatal: %v, %v", a.fatal, b.fatal)
	}
}
