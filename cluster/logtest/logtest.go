// Package logtest is the conformance suite of Raft log stores: every store
// that a node may be opened over must pass Run.
package logtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Store is a log store under test. It has the methods of cluster.LogStore.
type Store interface {
	raft.LogStore
	io.Closer
}

// Run runs the suite. open opens the store of a directory, and makes it if the
// directory is empty; it fails the test itself.
func Run(t *testing.T, open func(tb testing.TB, dir string) Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		f    func(t *testing.T, h *harness)
	}{
		{"an empty log has no bounds and no entries", empty},
		{"an entry comes back with all its fields", fields},
		{"entries survive a reopen", survives},
		{"a batch becomes visible as a whole", batch},
		{"the head is deleted", deleteHead},
		{"the tail is deleted and written again in a later term", deleteTail},
		{"the whole log is deleted and goes on above a gap", deleteAll},
		{"a range without entries is deleted without an error", deleteNothing},
		{"entries read belong to the reader", ownership},
		{"an entry of a megabyte is kept", large},
		{"storing nothing changes nothing", storeNothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &harness{T: t, dir: t.TempDir(), openStore: open}
			h.reopen()
			defer func() {
				if err := h.s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.f(t, h)
		})
	}
}

type harness struct {
	*testing.T
	dir       string
	openStore func(tb testing.TB, dir string) Store
	s         Store
}

func (h *harness) reopen() {
	h.Helper()
	if h.s != nil {
		if err := h.s.Close(); err != nil {
			h.Fatalf("close: %v", err)
		}
	}
	h.s = h.openStore(h.T, h.dir)
}

// entry is a distinguishable entry of an index and a term.
func entry(index, term uint64) *raft.Log {
	return &raft.Log{
		Index: index, Term: term, Type: raft.LogCommand,
		Data:       []byte(fmt.Sprintf("entry %d of term %d", index, term)),
		AppendedAt: time.Unix(1700000000, int64(index)),
	}
}

// Entries are distinguishable entries of one term, first to last.
func Entries(first, last, term uint64) []*raft.Log {
	var logs []*raft.Log
	for i := first; i <= last; i++ {
		logs = append(logs, entry(i, term))
	}
	return logs
}

func (h *harness) store(logs ...*raft.Log) {
	h.Helper()
	if err := h.s.StoreLogs(logs); err != nil {
		h.Fatalf("StoreLogs: %v", err)
	}
}

func (h *harness) remove(min, max uint64) {
	h.Helper()
	if err := h.s.DeleteRange(min, max); err != nil {
		h.Fatalf("DeleteRange(%d, %d): %v", min, max, err)
	}
}

func (h *harness) wantBounds(first, last uint64) {
	h.Helper()
	f, err := h.s.FirstIndex()
	if err != nil {
		h.Fatalf("FirstIndex: %v", err)
	}
	l, err := h.s.LastIndex()
	if err != nil {
		h.Fatalf("LastIndex: %v", err)
	}
	if f != first || l != last {
		h.Fatalf("bounds are %d, %d; want %d, %d", f, l, first, last)
	}
}

func (h *harness) wantEntries(logs ...*raft.Log) {
	h.Helper()
	for _, want := range logs {
		var got raft.Log
		if err := h.s.GetLog(want.Index, &got); err != nil {
			h.Fatalf("GetLog(%d): %v", want.Index, err)
		}
		if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type ||
			!bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) ||
			!got.AppendedAt.Equal(want.AppendedAt) {
			h.Fatalf("entry %d is %+v; want %+v", want.Index, got, *want)
		}
	}
}

func (h *harness) wantNone(indexes ...uint64) {
	h.Helper()
	for _, index := range indexes {
		if err := h.s.GetLog(index, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			h.Fatalf("GetLog(%d): error %v; want %v", index, err, raft.ErrLogNotFound)
		}
	}
}

func empty(_ *testing.T, h *harness) {
	h.wantBounds(0, 0)
	h.wantNone(0, 1, 1<<63)
	h.reopen()
	h.wantBounds(0, 0)
}

func fields(t *testing.T, h *harness) {
	logs := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte{0, 1, 255}, Extensions: []byte("ext"), AppendedAt: time.Unix(1, 2)},
		{Index: 2, Term: 1, Type: raft.LogNoop},
		{Index: 3, Term: 1 << 62, Type: raft.LogBarrier, Data: []byte{}, AppendedAt: time.Now()},
	}
	if err := h.s.StoreLog(logs[0]); err != nil {
		t.Fatalf("StoreLog: %v", err)
	}
	h.store(logs[1:]...)
	h.wantEntries(logs...)
	h.reopen()
	h.wantEntries(logs...)
}

func survives(_ *testing.T, h *harness) {
	h.store(Entries(1, 100, 3)...)
	h.reopen()
	h.wantBounds(1, 100)
	h.wantEntries(Entries(1, 100, 3)...)
	h.wantNone(101)
}

func batch(_ *testing.T, h *harness) {
	h.store(Entries(1, 64, 1)...)
	h.store(Entries(65, 128, 1)...)
	h.wantBounds(1, 128)
	h.wantEntries(Entries(1, 128, 1)...)
}

func deleteHead(_ *testing.T, h *harness) {
	h.store(Entries(1, 50, 1)...)
	h.remove(1, 30)
	for range 2 {
		h.wantBounds(31, 50)
		h.wantNone(1, 30)
		h.wantEntries(Entries(31, 50, 1)...)
		h.reopen()
	}
}

func deleteTail(_ *testing.T, h *harness) {
	h.store(Entries(1, 50, 1)...)
	h.remove(40, 50)
	h.wantBounds(1, 39)
	h.wantNone(40, 50)
	h.store(Entries(40, 45, 2)...)
	for range 2 {
		h.wantBounds(1, 45)
		h.wantEntries(Entries(1, 39, 1)...)
		h.wantEntries(Entries(40, 45, 2)...)
		h.wantNone(46, 50)
		h.reopen()
	}
}

func deleteAll(_ *testing.T, h *harness) {
	h.store(Entries(5, 20, 1)...)
	h.remove(5, 20)
	h.wantBounds(0, 0)
	h.reopen()
	h.wantBounds(0, 0)
	h.store(Entries(1001, 1003, 4)...)
	h.reopen()
	h.wantBounds(1001, 1003)
	h.wantNone(20, 1000)
	h.wantEntries(Entries(1001, 1003, 4)...)
}

func deleteNothing(_ *testing.T, h *harness) {
	h.remove(1, 10)
	h.store(Entries(5, 6, 1)...)
	h.remove(7, 100)
	h.remove(1, 4)
	h.wantBounds(5, 6)
}

// ownership catches stores that hand out memory of a transaction, or keep the
// caller's.
func ownership(t *testing.T, h *harness) {
	mine := entry(1, 1)
	h.store(mine)
	mine.Data[0] ^= 0xff
	h.wantEntries(entry(1, 1))
	var got raft.Log
	if err := h.s.GetLog(1, &got); err != nil {
		t.Fatal(err)
	}
	h.remove(1, 1)
	h.store(Entries(2, 50, 9)...)
	if !bytes.Equal(got.Data, entry(1, 1).Data) {
		t.Fatalf("an entry that was read changed to %q after it was deleted", got.Data)
	}
}

func large(_ *testing.T, h *harness) {
	l := entry(1, 1)
	l.Data = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	h.store(l)
	h.reopen()
	h.wantEntries(l)
}

func storeNothing(_ *testing.T, h *harness) {
	h.store()
	h.wantBounds(0, 0)
	h.store(Entries(1, 2, 1)...)
	h.store()
	h.wantBounds(1, 2)
}
