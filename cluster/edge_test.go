package cluster

import (
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
)

// A log that begins right behind the snapshot: what comes before its first
// entry is the snapshot's last, and Raft alone would refuse it for ever.
func TestTheEntryBeforeTheLogIsTheSnapshots(t *testing.T) {
	inner := raft.NewInmemStore()
	for i := uint64(164); i <= 183; i++ {
		if err := inner.StoreLog(&raft.Log{Index: i, Term: 2, Type: raft.LogNoop}); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := newLogStore(closable{inner}, logStoreOptions{Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	snaps := raft.NewInmemSnapshotStore()
	sink, err := snaps.Create(raft.SnapshotVersionMax, 163, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name             string
		applied          uint64
		prev, prevTerm   uint64
		wantPrev, wantAt uint64
	}{
		{"the snapshot's last entry", 163, 163, 2, 0, 0},
		{"a later state", 170, 163, 2, 0, 0},
		{"of another term", 163, 163, 1, 163, 1},
		{"a snapshot that is not restored", 162, 163, 2, 163, 2},
		{"older than the snapshot", 163, 162, 2, 162, 2},
		{"in the log", 163, 170, 2, 170, 2},
		{"the last one of the log", 163, 183, 2, 183, 2},
		{"beyond the log", 163, 190, 2, 190, 2},
	} {
		sm := newMachine()
		sm.s.Index, sm.s.Term = c.applied, 2
		n := &Node{logs: logs, p: Parts{StateMachine: sm, Snapshots: snaps}, log: slog.New(slog.DiscardHandler)}
		a := &raft.AppendEntriesRequest{PrevLogEntry: c.prev, PrevLogTerm: c.prevTerm, Entries: []*raft.Log{{Index: c.prev + 1, Term: 2}}}
		n.atSnapshot(a)
		if a.PrevLogEntry != c.wantPrev || a.PrevLogTerm != c.wantAt {
			t.Errorf("%s: the entry before is %d of term %d", c.name, a.PrevLogEntry, a.PrevLogTerm)
		}
	}
}

type closable struct{ *raft.InmemStore }

func (closable) Close() error { return nil }

// The library's own part: what it refuses with the snapshot's last entry it
// takes without, and cuts off what conflicts. If a later release looks into its
// snapshot itself, atSnapshot can go.
func TestRaftLooksForTheEntryBeforeInItsLogOnly(t *testing.T) {
	for _, term := range []uint64{2, 3} { // the same entries, and others
		log := raft.NewInmemStore()
		for i := uint64(164); i <= 183; i++ {
			if err := log.StoreLog(&raft.Log{Index: i, Term: 2, Type: raft.LogNoop}); err != nil {
				t.Fatal(err)
			}
		}
		addr, trans := raft.NewInmemTransport("f")
		_, leader := raft.NewInmemTransport("l")
		leader.Connect(addr, trans)
		servers := raft.Configuration{Servers: []raft.Server{{ID: "f", Address: addr}, {ID: "l", Address: leader.LocalAddr()}}}
		snaps := raft.NewInmemSnapshotStore()
		sink, err := snaps.Create(raft.SnapshotVersionMax, 163, 2, servers, 1, trans)
		if err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		conf := raft.DefaultConfig()
		conf.LocalID, conf.Logger, conf.NoSnapshotRestoreOnStart = "f", newRaftLogger(slog.New(slog.DiscardHandler)), true
		r, err := raft.NewRaft(conf, newMachine(), log, raft.NewInmemStore(), snaps, trans)
		if err != nil {
			t.Fatal(err)
		}
		ask := func(prev uint64) bool {
			request := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("l"), Addr: []byte(leader.LocalAddr())},
				Term: 3, PrevLogEntry: prev, PrevLogTerm: map[bool]uint64{true: 2}[prev > 0], Entries: []*raft.Log{{Index: 164, Term: term, Type: raft.LogNoop}}}
			var response raft.AppendEntriesResponse
			if err := leader.AppendEntries("f", addr, request, &response); err != nil {
				t.Fatal(err)
			}
			return response.Success
		}
		if ask(163) {
			t.Error("the library takes the snapshot's last entry for the one before")
		}
		if !ask(0) {
			t.Error("a request without an entry before is refused")
		}
		if last, _ := log.LastIndex(); last != map[uint64]uint64{2: 183, 3: 164}[term] {
			t.Errorf("entries of term %d: the log ends at %d", term, last)
		}
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
		_ = leader.Close()
	}
}
