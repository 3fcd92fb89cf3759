package fsm

import (
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage"
)

// TestTickMarksTheState: the mark of an entry with a Tick is the hash of the
// state after the whole entry, with its clock and what it expired (invariant
// F13), also if the entry is in the middle of a slice; it is there after a
// restart and goes with a snapshot.
func TestTickMarksTheState(t *testing.T) {
	m := newMachine(t)
	m.rules.retentionMs = 1000
	m.f.rules = m.rules
	m.apply(initCluster("c"))
	m.apply(keyed("k1", "r", mutation(putDoc("d", embedded("text", 2)))), keyed("k2", "r", mutation(putDoc("e"))))
	before, marks := m.verified()
	if len(marks) != 0 {
		t.Fatalf("marks without a Tick: %v", marks)
	}
	m.apply(at(t0+5000, tick())) // the clock moves, and both keys expire
	now, marks := m.verified()
	if rowOf(m, "k1") != nil || now.Sum == before.Sum {
		t.Fatal("nothing has expired, so this test tests nothing")
	}
	if len(marks) != 1 || marks[0] != now {
		t.Fatalf("the mark is %v, the state %v", marks, now)
	}
	// In the middle of a slice, with other commands beside it.
	logs := []*raft.Log{
		logOf(m.index+1, 1, entryOf(t, mutation(putDoc("f")), at(t0+6000, tick()), mutation(putDoc("g")))),
		logOf(m.index+2, 1, entryOf(t, mutation(deleteDoc("d")))),
	}
	other := newMachine(t)
	other.rules.retentionMs = 1000
	other.f.rules = other.rules
	other.index = m.index
	if err := other.receive(m, m.snapshot()); err != nil {
		t.Fatal(err)
	}
	m.f.ApplyBatch(logs)
	other.f.ApplyBatch(logs[:1])
	middle, _ := other.verified()
	other.f.ApplyBatch(logs[1:])
	end, marks := m.verified()
	otherEnd, otherMarks := other.verified()
	if end != otherEnd || !slices.Equal(marks, otherMarks) || end.Sum == middle.Sum {
		t.Errorf("%v %v and %v %v", end, marks, otherEnd, otherMarks)
	}
	if want := []storage.Point{now, middle}; !slices.Equal(marks, want) {
		t.Errorf("marks %v, want %v", marks, want)
	}
	m.restart()
	if again, kept := m.verified(); again != end || !slices.Equal(kept, marks) {
		t.Errorf("after a restart: %v %v", again, kept)
	}
}
