package fsm

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
)

// logged is a machine whose entries are in a log as well, with raft's own
// no-ops between them.
func logged(t *testing.T) (*machine, *raft.InmemStore) {
	t.Helper()
	m, log := newMachine(t), raft.NewInmemStore()
	add := func(l *raft.Log) {
		m.index++
		l.Index, l.Term = m.index, m.term
		if err := log.StoreLog(l); err != nil {
			t.Fatal(err)
		}
		if l.Type != raft.LogNoop {
			m.f.ApplyBatch([]*raft.Log{l})
		}
	}
	add(&raft.Log{Type: raft.LogConfiguration})
	add(&raft.Log{Type: raft.LogNoop})
	add(&raft.Log{Type: raft.LogCommand, Data: entryOf(t, initCluster("cluster-1"))})
	for i := range rebuildSlice + 10 {
		doc := putDoc(string(rune('a'+i%20)), embedded("a", 2), text("b"))
		add(&raft.Log{Type: raft.LogCommand, Data: entryOf(t, keyed("k"+string(rune('a'+i)), "r", mutation(doc)))})
	}
	add(&raft.Log{Type: raft.LogNoop})
	return m, log
}

// rebuilt opens an empty store beside the machine's snapshots and rebuilds.
func rebuilt(t *testing.T, m *machine, log raft.LogStore, to uint64) (dumped string, snapshotIndex, entries uint64, err error) {
	t.Helper()
	other := &machine{tb: t, dir: t.TempDir(), rules: m.rules, shared: m.shared}
	if other.store, err = storage.OpenStore(filepath.Join(other.dir, "state"), storage.Options{Profile: storage.Small}, m.shared); err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if other.snaps, err = snapshot.NewStore(m.snaps.Dir(), snapshot.Options{}); err != nil {
		t.Fatal(err)
	}
	if other.f, err = New(other.store, other.snaps, Options{Fatal: func(error) {}}); err != nil {
		t.Fatal(err)
	}
	snapshotIndex, entries, err = other.f.Rebuild(log, to)
	return other.dump(), snapshotIndex, entries, err
}

func TestRebuildFromNothingAndFromASnapshot(t *testing.T) {
	m, log := logged(t)
	middle := m.index - 20
	whole := m.dump()
	dumped, from, entries, err := rebuilt(t, m, log, m.index)
	// Two of the entries are raft's no-ops, which no state machine sees.
	if err != nil || dumped != whole || from != 0 || entries != m.index-2 {
		t.Errorf("from nothing: snapshot %d, %d entries, the same: %v, %v", from, entries, dumped == whole, err)
	}
	if dumped, _, _, err = rebuilt(t, m, log, middle); err != nil || dumped == whole {
		t.Errorf("up to the middle: the same as the end: %v, %v", dumped == whole, err)
	}
	if _, _, _, err = rebuilt(t, m, log, m.index+1); !errors.Is(err, ErrNotRebuildable) {
		t.Errorf("beyond the log: %v", err)
	}
	// With a snapshot the log may begin behind it, and nothing older is to be had.
	m.snapshot()
	at, _ := m.f.Applied()
	if err := log.DeleteRange(1, at-5); err != nil {
		t.Fatal(err)
	}
	if dumped, from, entries, err = rebuilt(t, m, log, at); err != nil || dumped != whole || from != at || entries != 0 {
		t.Errorf("from the snapshot: snapshot %d, %d entries, the same: %v, %v", from, entries, dumped == whole, err)
	}
	if _, _, _, err = rebuilt(t, m, log, at-1); !errors.Is(err, ErrNotRebuildable) {
		t.Errorf("older than the snapshot: %v", err)
	}
	for range 2 {
		m.must(putDoc("late", text("late")))
		data := entryOf(t, mutation(putDoc("late", text("late"))))
		if err := log.StoreLog(&raft.Log{Index: m.index, Term: m.term, Type: raft.LogCommand, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	dumped, from, entries, err = rebuilt(t, m, log, m.index)
	if err != nil || dumped != m.dump() || from != at {
		t.Errorf("behind the snapshot: snapshot %d, %d entries, the same: %v, %v", from, entries, dumped == m.dump(), err)
	}
	// A log that begins too late is refused, not begun in the middle.
	if err := log.DeleteRange(1, m.index-1); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err = rebuilt(t, m, log, m.index); !errors.Is(err, ErrNotRebuildable) {
		t.Errorf("a log with a hole behind the snapshot: %v", err)
	}
}

// An entry that this version can't apply is an error, and not skipped.
func TestRebuildStopsAtWhatItCannotApply(t *testing.T) {
	m, log := logged(t)
	if err := log.StoreLog(&raft.Log{Index: m.index + 1, Term: m.term, Type: raft.LogCommand, Data: []byte{99}}); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := rebuilt(t, m, log, m.index+1); err == nil || errors.Is(err, ErrNotRebuildable) {
		t.Errorf("got %v", err)
	}
}
