package fsm

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
)

// TestABatchMayReplaceItsCollection deletes a collection and makes it anew in
// one command: what was in it is gone, and what comes behind is there.
func TestABatchMayReplaceItsCollection(t *testing.T) {
	m := newMachine(t)
	m.must(ownedDoc("old", "o", text("x")))
	m.must(ownedDoc("older", "o", text("x")))
	before := m.dump()
	if r := m.one(batchOf(deleteOwner("o"), deleteColl(), putDoc("old", text("y")), deleteDoc("older"))); r.GetOutcome() != documentNotFound || r.GetFailedOperation() != 3 {
		t.Errorf("%s", show(r))
	}
	if after := m.dump(); after != before {
		t.Errorf("a refused batch changed the state:\n%s\n%s", before, after)
	}
	r := m.one(batchOf(putDoc("third"), deleteOwner("o"), deleteColl(), putColl(&command.PutCollection{Dimension: proto.Uint32(3)}), putDoc("old", text("y")), deleteOwner("o")))
	want := []command.Outcome{created, deleted, deleted, created, created, deleted}
	if r.GetOutcome() != done_ || len(r.GetItems()) != len(want) {
		t.Fatalf("%s", show(r))
	}
	for i, item := range r.GetItems() {
		if item.GetOutcome() != want[i] {
			t.Errorf("item %d: %s, want %s", i, show(item), want[i])
		}
	}
	if n := r.GetItems()[1].GetUpdated(); n != 2 {
		t.Errorf("%d documents of the owner were deleted", n)
	}
	if n := r.GetItems()[5].GetUpdated(); n != 0 {
		t.Errorf("%d documents of the old collection were deleted in the new one", n)
	}
	if r := m.must(putDoc("old", text("y"))); r.GetOutcome() != updated {
		t.Errorf("%s", show(r))
	}
}
