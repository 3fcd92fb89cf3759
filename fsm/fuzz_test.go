package fsm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
)

// FuzzIdempotencyRow: a row is damaged, or means the same when it is written
// again.
func FuzzIdempotencyRow(f *testing.F) {
	row, err := encodeRow([]byte("hash"), &command.Result{Outcome: command.Outcome_DONE, Detail: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(row)
	f.Add(row[:3])
	f.Add([]byte{rowVersion, 255, 1})
	f.Fuzz(func(t *testing.T, row []byte) {
		hash, result, err := decodeRow(row)
		if err != nil {
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		again, err := encodeRow(hash, result)
		if err != nil {
			// Text that is no UTF-8 can't be written; it can't be read either.
			t.Fatalf("%x is read, and can't be written: %v", row, err)
		}
		hash2, result2, err := decodeRow(again)
		if err != nil || !bytes.Equal(hash, hash2) || !proto.Equal(result, result2) {
			t.Errorf("%x is %x %v, and written and read again %x %v, %v", row, hash, result, hash2, result2, err)
		}
	})
}

// FuzzEntry: an entry that the codec takes can be applied, whatever it says.
// An error here would stop every node of a cluster, for ever: the entry is in
// the log. And it has one outcome: applied twice to the same state it answers
// the same.
func FuzzEntry(f *testing.F) {
	m := newMachine(f)
	m.rules.maxSnippets = 1 << 10 // so that one entry can't take seconds
	m.f.rules = m.rules
	m.one(initCluster("cluster-1"))
	m.one(setMember("n1", "h:1"))
	m.must(ownedDoc("d", "o", embedded("a", 2), text("b")), in("other", putDoc("x", text("y"))))
	m.one(keyed("k", "r", mutation(putDoc("e", text("long")))))
	for _, c := range []*command.Command{
		initCluster("cluster-2"), setMember("n2", ""), keyed("k", "r", mutation(putDoc("e"))), keyed("k", "s", mutation(deleteDoc("d"))),
		mutation(ownedDoc("d", "o", embedded("a", 3))), mutation(deleteDoc("d")), mutation(in("other", deleteDoc("x"))),
		mutation(patchDoc("d", "T", `{"a":{"b":null}}`)), mutation(putSnip("d", 2, text("c"))), mutation(deleteSnip("d", 0)),
		mutation(embed("d", 2, 0, 1)), mutation(deleteOwner("o")), mutation(deleteColl()), tick(), removeMember("n1"),
		mutation(putColl(&command.PutCollection{Dimension: proto.Uint32(3)})), setLimits(&command.RateLimit{}),
		batchOf(putDoc("p", text("1")), deleteSnip("p", 0), patchDoc("p", "T", "")),
		mutation(when(&command.Condition{}, deleteDoc("d"))), mutation(patchSnip(&command.PatchSnippet{Id: "d", Index: 1})),
	} {
		f.Add(entryOf(f, c))
	}
	f.Add(entryOf(f, mutation(putDoc("a")), mutation(putDoc("a")), keyed("k", "", mutation(putDoc("b")))))
	f.Fuzz(func(t *testing.T, data []byte) {
		decoded, err := command.Decode(data)
		if err != nil {
			return
		}
		first, size := tryEntry(t, m, data)
		second, again := tryEntry(t, m, data)
		if len(first) != len(decoded.GetCommands()) || len(first) != len(second) || size != again {
			t.Fatalf("%d commands have %d results in a batch of %d bytes, then %d in %d", len(decoded.GetCommands()), len(first), size, len(second), again)
		}
		for i := range first {
			if first[i] == nil || !proto.Equal(first[i], second[i]) {
				t.Errorf("command %d: %v, then %v", i, first[i], second[i])
			}
			if _, err := encodeRow(nil, first[i]); err != nil {
				t.Errorf("the result of command %d can't be kept: %v", i, err)
			}
		}
	})
}

// tryEntry applies an entry to a batch that is thrown away, so that each input
// meets the same state.
func tryEntry(t *testing.T, m *machine, data []byte) ([]*command.Result, int) {
	t.Helper()
	now := m.f.now.Load()
	db, release := m.store.DB()
	defer release()
	s := slice{f: m.f, db: db, b: db.NewBatch(), at: now.at, sys: now.sys}
	defer s.drop()
	s.at.Index++
	results, err := s.entry(&raft.Log{Index: s.at.Index, Term: s.at.Term, Type: raft.LogCommand, Data: data})
	if err != nil {
		t.Fatalf("the codec takes the entry, and apply fails: %v", err)
	}
	return results, s.b.Bytes()
}
