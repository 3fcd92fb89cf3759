package cluster

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/command"
)

func TestPlanStartup(t *testing.T) {
	for _, row := range []struct {
		name          string
		s             diskState
		drop, restore bool
		err           string
	}{
		{"an empty directory", diskState{}, false, false, ""},
		{"only a log", diskState{First: 1, Last: 9}, false, false, ""},
		{"the state is behind the log: it is replayed", diskState{Applied: 5, AppliedTerm: 2, First: 1, Last: 9, TermAtApplied: 2}, false, false, ""},
		{"all in step", diskState{Applied: 9, AppliedTerm: 2, Snapshot: 7, SnapshotTerm: 2, First: 3, Last: 9, TermAtSnapshot: 2, TermAtApplied: 2}, false, false, ""},
		{"I1: a crash between an install and its restore", diskState{Applied: 5, AppliedTerm: 1, Snapshot: 100, SnapshotTerm: 3}, false, true, ""},
		{"I1: the state lost its tail", diskState{Applied: 5, AppliedTerm: 1, Snapshot: 8, SnapshotTerm: 1, First: 3, Last: 20, TermAtSnapshot: 1, TermAtApplied: 1}, false, true, ""},
		{"I1: only a no-op is between", diskState{Applied: 7, AppliedTerm: 1, Snapshot: 8, SnapshotTerm: 2, First: 3, Last: 20, TermAtSnapshot: 2, TermAtApplied: 1, GapIsNoops: true}, false, false, ""},
		{"I2: the log begins after a gap", diskState{Applied: 5, AppliedTerm: 1, First: 8, Last: 20}, false, false, "I2 violated"},
		{"I2: the log begins right behind the snapshot", diskState{Applied: 7, AppliedTerm: 1, Snapshot: 7, SnapshotTerm: 1, First: 8, Last: 20}, false, false, ""},
		{"I2: a restore does not close the gap", diskState{Applied: 2, AppliedTerm: 1, Snapshot: 5, SnapshotTerm: 1, First: 8, Last: 20}, false, true, "I2 violated"},
		{"I3: the state is ahead of the log", diskState{Applied: 21, AppliedTerm: 1, First: 1, Last: 20}, false, false, "I3 violated"},
		{"I3: the state is ahead of an empty log", diskState{Applied: 1, AppliedTerm: 1}, false, false, "I3 violated"},
		{"I3: the snapshot covers it", diskState{Applied: 20, AppliedTerm: 1, Snapshot: 20, SnapshotTerm: 1}, false, false, ""},
		{"I4: the state comes from another log", diskState{Applied: 5, AppliedTerm: 1, First: 1, Last: 20, TermAtApplied: 2}, false, false, "I4 violated"},
		{"#697: the log conflicts with the snapshot", diskState{Applied: 8, AppliedTerm: 3, Snapshot: 8, SnapshotTerm: 3, First: 1, Last: 20, TermAtSnapshot: 2, TermAtApplied: 2}, true, false, ""},
		{"#697: and the state has not seen the snapshot", diskState{Applied: 5, AppliedTerm: 1, Snapshot: 8, SnapshotTerm: 3, First: 1, Last: 20, TermAtSnapshot: 2, TermAtApplied: 1}, true, true, ""},
		{"#697: but the state is beyond it", diskState{Applied: 12, AppliedTerm: 3, Snapshot: 8, SnapshotTerm: 3, First: 1, Last: 20, TermAtSnapshot: 2, TermAtApplied: 3}, true, false, "I3 violated"},
		{"I5: the votes are lost", diskState{First: 1, Last: 9, LastTerm: 2}, false, false, "I5 violated"},
		{"I5: the votes are of another time", diskState{First: 1, Last: 9, LastTerm: 3, Term: 2}, false, false, "I5 violated"},
		{"I5: only a snapshot is left", diskState{Applied: 7, AppliedTerm: 2, Snapshot: 7, SnapshotTerm: 2, Term: 1}, false, false, "I5 violated"},
		{"I5: a vote in a term without an entry", diskState{First: 1, Last: 9, LastTerm: 2, Term: 5}, false, false, ""},
		{"a crash before the log was cut", diskState{Applied: 100, AppliedTerm: 3, Snapshot: 100, SnapshotTerm: 3, First: 1, Last: 50}, true, false, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.s.Term == 0 && !strings.Contains(row.name, "I5") {
				row.s.Term = 9
			}
			p, err := planStartup(row.s)
			if row.err == "" && err != nil || row.err != "" && (err == nil || !strings.Contains(err.Error(), row.err)) {
				t.Fatalf("error %v, want %q", err, row.err)
			}
			if err != nil && !strings.Contains(err.Error(), advice) {
				t.Errorf("the text does not say what to do: %v", err)
			}
			if p.DropLog != row.drop || p.Restore != row.restore {
				t.Errorf("plan %+v, want drop %v, restore %v", p, row.drop, row.restore)
			}
		})
	}
}

// disk builds parts whose numbers are those of a crash.
type disk struct {
	t     *testing.T
	parts Parts
	sm    *machine
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	dir := t.TempDir()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 1, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	log, err := OpenBoltLog(filepath.Join(dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	sm := newMachine()
	return &disk{t: t, sm: sm, parts: Parts{StateMachine: sm, Snapshots: snaps, Log: log}}
}

// logs appends entries of a term; kind is raft.LogCommand or LogNoop.
func (d *disk) logs(from, to, term uint64, kind raft.LogType) {
	d.t.Helper()
	for i := from; i <= to; i++ {
		enc, _ := command.Encode(put("d", "x"))
		l := &raft.Log{Index: i, Term: term, Type: kind, Data: command.AppendCommand(command.NewEntry(0), enc)}
		if err := d.parts.Log.StoreLog(l); err != nil {
			d.t.Fatal(err)
		}
	}
}

// snapshot writes one whose content is at applied.
func (d *disk) snapshot(index, term, applied uint64) {
	d.t.Helper()
	m := newMachine()
	m.s.Index, m.s.Term, m.s.Cluster = applied, term, "c"
	fs, err := m.Snapshot()
	if err != nil {
		d.t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("")
	defer trans.Close()
	sink, err := d.parts.Snapshots.Create(1, index, term, raft.Configuration{}, 1, trans)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := fs.Persist(sink); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) check() error {
	return checkStartup(d.parts, d.parts.Log, 9, slog.New(slog.DiscardHandler))
}

func (d *disk) last() uint64 {
	d.t.Helper()
	last, err := d.parts.Log.LastIndex()
	if err != nil {
		d.t.Fatal(err)
	}
	return last
}

func TestCheckStartupRestoresWhatAnInstallLeft(t *testing.T) {
	d := newDisk(t)
	d.logs(1, 10, 1, raft.LogCommand)
	d.sm.s.Index, d.sm.s.Term = 7, 1
	d.snapshot(100, 3, 99) // taken right after an election: its state is one behind
	for range 2 {          // a second start must find nothing wrong
		if err := d.check(); err != nil {
			t.Fatal(err)
		}
		if a, _ := d.sm.Applied(); a != 99 {
			t.Errorf("the state is at %d", a)
		}
		if d.last() != 0 {
			t.Errorf("the log ends at %d", d.last())
		}
	}
}

func TestCheckStartupDropsAConflictingLog(t *testing.T) {
	d := newDisk(t)
	d.logs(1, 10, 1, raft.LogCommand)
	d.sm.s.Index, d.sm.s.Term = 8, 2
	d.snapshot(8, 2, 8)
	if err := d.check(); err != nil {
		t.Fatal(err)
	}
	if d.last() != 0 || d.sm.restores != 0 {
		t.Errorf("log ends at %d, %d restores", d.last(), d.sm.restores)
	}
}

func TestCheckStartupKnowsANoop(t *testing.T) {
	d := newDisk(t)
	d.logs(1, 7, 1, raft.LogCommand)
	d.logs(8, 8, 2, raft.LogNoop)
	d.logs(9, 10, 2, raft.LogCommand)
	d.sm.s.Index, d.sm.s.Term = 7, 1
	d.snapshot(8, 2, 7)
	if err := d.check(); err != nil {
		t.Fatal(err)
	}
	if d.sm.restores != 0 {
		t.Error("a snapshot was restored although nothing was missing")
	}
}

func TestCheckStartupRefusesALogThatLostItsTail(t *testing.T) {
	d := newDisk(t)
	d.logs(1, 5, 1, raft.LogCommand)
	d.sm.s.Index, d.sm.s.Term = 9, 1
	if err := d.check(); err == nil || !strings.Contains(err.Error(), "I3 violated") {
		t.Errorf("got %v", err)
	}
}
