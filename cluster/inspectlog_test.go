package cluster

import (
	"testing"

	"github.com/hashicorp/raft"
)

// A log that differs in one byte, or in a term, has another digest there, and
// the same everywhere else; when an entry was appended does not count.
func TestInspectLogTellsEntriesApart(t *testing.T) {
	read := func(entries ...*raft.Log) []LogEntry {
		t.Helper()
		store := raft.NewInmemStore()
		if err := store.StoreLogs(entries); err != nil {
			t.Fatal(err)
		}
		got, err := InspectLog(inmemLog{store})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := read(); len(got) != 0 {
		t.Errorf("an empty log has %v", got)
	}
	a := read(&raft.Log{Index: 3, Term: 1, Data: []byte("one")}, &raft.Log{Index: 5, Term: 2, Data: []byte("two")})
	b := read(&raft.Log{Index: 3, Term: 1, Data: []byte("one")}, &raft.Log{Index: 5, Term: 2, Data: []byte("twO")})
	c := read(&raft.Log{Index: 3, Term: 2, Data: []byte("one")}, &raft.Log{Index: 5, Term: 2, Data: []byte("two"), AppendedAt: testEntry(1, 1).AppendedAt})
	if len(a) != 2 || a[0].Index != 3 || a[1].Term != 2 || a[1].Bytes != 3 || a[1].Type != "LogCommand" {
		t.Fatalf("got %v", a)
	}
	if a[0] != b[0] || a[1].Digest == b[1].Digest || a[0].Digest == c[0].Digest || a[1] != c[1] {
		t.Errorf("the digests are\n%v\n%v\n%v", a, b, c)
	}
}

type inmemLog struct{ *raft.InmemStore }

func (inmemLog) Close() error { return nil }
