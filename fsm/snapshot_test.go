package fsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
)

// filled is a machine with something of everything in it.
func filled(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	m.one(initCluster("cluster-1"))
	m.one(setMember("n1", "h:1"))
	m.must(ownedDoc("d", "o", embedded("a", 2), text("b")), in("other", putDoc("x", text("y"))))
	m.one(keyed("k", "r", mutation(putDoc("e", text(strings.Repeat("long ", 2000))))))
	return m
}

func TestSnapshotRestoreRoundTrip(t *testing.T) {
	m := filled(t)
	id := m.snapshot()
	want := m.dump()
	at, term := m.f.Applied()

	m.must(deleteDoc("d"), putDoc("late"))
	if err := m.restoreOwn(id); err != nil {
		t.Fatalf("own snapshot: %v", err)
	}
	if i, tm := m.f.Applied(); i != at || tm != term || m.dump() != want {
		t.Errorf("own snapshot: applied %d term %d", i, tm)
	}
	m.index = at
	m.must(putDoc("late"))
	m.restart()
	m.index = at + 1
	m.must(putDoc("later"))

	follower := newMachine(t)
	if err := follower.receive(m, m.snapshot()); err != nil {
		t.Fatalf("received snapshot: %v", err)
	}
	if follower.dump() != m.dump() || follower.f.ClusterID() != "cluster-1" || follower.snaps.ClusterID() != "cluster-1" {
		t.Error("received snapshot: another state")
	}
	follower.restart()
	if follower.dump() != m.dump() {
		t.Error("after the restart: another state")
	}

	direct := newMachine(t)
	if err := direct.f.Restore(foreign(m.stream(id2(t, m)))); err != nil {
		t.Fatalf("foreign stream: %v", err)
	}
	if direct.dump() != m.dump() {
		t.Error("foreign stream: another state")
	}
	for _, x := range []*machine{m, follower, direct} {
		waitFor(t, func() bool { dbs, err := x.store.Databases(); return err == nil && len(dbs) == 1 })
	}
}

func id2(t *testing.T, m *machine) string {
	t.Helper()
	newest, ok, err := m.snaps.Newest()
	if !ok || err != nil {
		t.Fatalf("Newest: %t %v", ok, err)
	}
	return newest.ID
}

// TestSnapshotIsExact is invariant F7: the state in a snapshot is not ahead of
// the index that Raft knows.
func TestSnapshotIsExact(t *testing.T) {
	m := filled(t)
	snap, err := m.f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	at, _ := m.f.Applied()
	m.must(putDoc("after")) // applied while the snapshot is on its way
	sink, err := m.snaps.Create(raft.SnapshotVersionMax, at, 1, configuration, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snap.Persist(sink), sink.Close()); err != nil {
		t.Fatal(err)
	}
	snap.Release()
	p, cluster, err := storage.VerifyCheckpoint(filepath.Join(m.snaps.Dir(), sink.ID(), "db"), storage.Options{Profile: storage.Small})
	if err != nil || p.Index != at || cluster != "cluster-1" {
		t.Errorf("the snapshot holds %s of %q, %v; want index %d", p, cluster, err, at)
	}

	// After a restart Raft replays what is applied already; until it is through,
	// it would give a snapshot a lower index than the state has.
	m.restart()
	if _, err := m.f.Snapshot(); !errors.Is(err, ErrReplaying) {
		t.Errorf("before the replay: %v", err)
	}
	m.f.Apply(logOf(at, 1, nil)) // skipped: not even decoded
	if _, err := m.f.Snapshot(); !errors.Is(err, ErrReplaying) {
		t.Errorf("during the replay: %v", err)
	}
	m.f.Apply(logOf(at+1, 1, nil))
	if _, err := m.snapshotQuietly(); err != nil {
		t.Errorf("after the replay: %v", err)
	}
}

func (m *machine) snapshotQuietly() (raft.FSMSnapshot, error) {
	snap, err := m.f.Snapshot()
	if err == nil {
		snap.Release()
	}
	return snap, err
}

func TestReleaseWithoutPersist(t *testing.T) {
	m := filled(t)
	snap, err := m.f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	wantEntries(t, m.snaps.Dir(), 1)
	snap.Release()
	snap.Release()
	wantEntries(t, m.snaps.Dir(), 0)
}

func TestPersistIntoAForeignSink(t *testing.T) {
	m := filled(t)
	inmem := raft.NewInmemSnapshotStore()
	snap, err := m.f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	at, term := m.f.Applied()
	_, transport := raft.NewInmemTransport("x")
	defer transport.Close()
	sink, err := inmem.Create(raft.SnapshotVersionMax, at, term, configuration, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snap.Persist(sink), sink.Close()); err != nil {
		t.Fatal(err)
	}
	_, r, err := inmem.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	other := newMachine(t)
	if err := other.f.Restore(r); err != nil {
		t.Fatal(err)
	}
	if other.dump() != m.dump() {
		t.Error("another state")
	}
}

// TestBarrierBeforeTheSnapshot: Raft's own entries never reach the state
// machine, so the state's index may be below the snapshot's. After the restore
// it must not be, or the start-up check would find A < S.
func TestBarrierBeforeTheSnapshot(t *testing.T) {
	m := filled(t)
	at, _ := m.f.Applied()
	snap, err := m.f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	sink, err := m.snaps.Create(raft.SnapshotVersionMax, at+3, 2, configuration, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snap.Persist(sink), sink.Close()); err != nil {
		t.Fatal(err)
	}
	other := newMachine(t)
	if err := other.receive(m, sink.ID()); err != nil {
		t.Fatal(err)
	}
	other.restart()
	if i, term := other.f.Applied(); i != at+3 || term != 2 || other.dump() != m.dump() {
		t.Errorf("applied %d term %d, want %d and 2", i, term, at+3)
	}
}

// damage returns the stream with bytes of one file changed, and the checksums
// of the stream made right again: only RocksDB can find it.
func damage(t *testing.T, stream []byte, name *regexp.Regexp, f func(file []byte)) []byte {
	t.Helper()
	b := slices.Clone(stream)
	table := crc32.MakeTable(crc32.Castagnoli)
	h := int(binary.LittleEndian.Uint32(b[12:]))
	at := 38 + int(binary.LittleEndian.Uint16(b[36:]))
	file, found := h+4, false
	for range binary.LittleEndian.Uint32(b[32:]) {
		n := int(b[at])
		size := int(binary.LittleEndian.Uint64(b[at+1+n:]))
		if !found && size > 0 && name.Match(b[at+1:at+1+n]) {
			found = true
			f(b[file : file+size])
			binary.LittleEndian.PutUint32(b[file+size:], crc32.Checksum(b[file:file+size], table))
		}
		at += 1 + n + 8
		file += size + 4
	}
	if !found {
		t.Fatalf("no file %s", name)
	}
	return b
}

// without returns the stream without the files of that name.
func without(t *testing.T, m *machine, id string, name *regexp.Regexp) []byte {
	t.Helper()
	_, r, err := m.snaps.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dir := t.TempDir()
	meta, err := snapshot.Materialize(r, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name.MatchString(e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	var b bytes.Buffer
	if err := snapshot.WriteCheckpoint(&b, dir, meta.ClusterID, meta.Index, meta.Term); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// broken is a stream whose reader fails in the middle.
type broken struct {
	io.Reader
	closed bool
}

func (b *broken) Close() error { b.closed = true; return nil }

var errNetwork = errors.New("the network is gone")

// TestFailedRestoreLeavesTheOldState is invariant F8.
func TestFailedRestoreLeavesTheOldState(t *testing.T) {
	source := filled(t)
	id := source.snapshot()
	good := source.stream(id)
	sst := regexp.MustCompile(`\.sst$`)
	flip := func(at func(n int) int) func([]byte) {
		return func(file []byte) { file[at(len(file))] ^= 0xff }
	}
	header := func(index, term uint64) []byte {
		b := slices.Clone(good)
		binary.LittleEndian.PutUint64(b[16:], index)
		binary.LittleEndian.PutUint64(b[24:], term)
		n := binary.LittleEndian.Uint32(b[12:])
		binary.LittleEndian.PutUint32(b[n:], crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)))
		return b
	}
	other := newMachine(t)
	other.one(initCluster("cluster-2"))
	at, _ := source.f.Applied()
	renamed := slices.Clone(good) // the header says cluster-2, the files cluster-1
	copy(renamed[38:], "cluster-2")
	n := binary.LittleEndian.Uint32(renamed[12:])
	binary.LittleEndian.PutUint32(renamed[n:], crc32.Checksum(renamed[:n], crc32.MakeTable(crc32.Castagnoli)))

	for _, tt := range []struct {
		name    string
		source  io.ReadCloser
		cluster string // of the machine that restores
		want    error
	}{
		{"nothing", foreign(nil), "cluster-1", snapshot.ErrCorrupt},
		{"half of it", foreign(good[:len(good)/2]), "cluster-1", snapshot.ErrCorrupt},
		{"a network that fails", &broken{Reader: io.MultiReader(bytes.NewReader(good[:5000]), errReader{})}, "cluster-1", errNetwork},
		{"another cluster", foreign(other.stream(other.snapshot())), "cluster-1", snapshot.ErrCluster},
		{"files of another cluster than the header says", foreign(renamed), "cluster-2", snapshot.ErrCluster},
		{"a state that is ahead of its index", foreign(header(at-1, 1)), "cluster-1", snapshot.ErrCorrupt},
		{"a state that is ahead of its term", foreign(header(at, 0)), "cluster-1", snapshot.ErrCorrupt},
		{"a changed byte in a table's data", foreign(damage(t, good, sst, flip(func(int) int { return 20 }))), "cluster-1", nil},
		{"a changed byte in a table's footer", foreign(damage(t, good, sst, flip(func(n int) int { return n - 10 }))), "cluster-1", nil},
		{"a changed byte in the manifest", foreign(damage(t, good, regexp.MustCompile(`^MANIFEST`), flip(func(n int) int { return n / 2 }))), "cluster-1", nil},
		{"a pointer to a manifest that is not there", foreign(damage(t, good, regexp.MustCompile(`^CURRENT`), flip(func(n int) int { return n - 2 }))), "cluster-1", nil},
		{"no table", foreign(without(t, source, id, sst)), "cluster-1", nil},
		{"no manifest", foreign(without(t, source, id, regexp.MustCompile(`^MANIFEST`))), "cluster-1", nil},
		{"no pointer", foreign(without(t, source, id, regexp.MustCompile(`^CURRENT`))), "cluster-1", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.one(initCluster(tt.cluster))
			m.must(putDoc("mine", text("x")))
			before, entries := m.dump(), dirNames(t, filepath.Join(m.dir, "state"))
			err := m.f.Restore(tt.source)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Fatalf("Restore: %v, want %v", err, tt.want)
			}
			if m.dump() != before {
				t.Error("the old state changed")
			}
			if m.fatal != nil || m.f.Restoring() {
				t.Errorf("fatal %v, restoring %t", m.fatal, m.f.Restoring())
			}
			if got := dirNames(t, filepath.Join(m.dir, "state")); !slices.Equal(got, entries) {
				t.Errorf("left behind: %v", got)
			}
			m.must(putDoc("more"))
			m.restart()
			m.must(deleteDoc("more"))
			if d, s := m.document("c", "mine"); d == nil || len(s) != 1 || s[0].Content != "x" {
				t.Errorf("the old state is gone: %v %v", d, s)
			}
		})
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errNetwork }

func dirNames(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// gate is a stream that stops in the middle until it is let go.
type gate struct {
	head, tail io.Reader
	reached    chan struct{}
	open       chan struct{}
	past       bool
}

func (g *gate) Read(p []byte) (int, error) {
	if !g.past {
		if n, err := g.head.Read(p); n > 0 || err != io.EOF {
			return n, err
		}
		g.past = true
		close(g.reached)
		<-g.open
	}
	return g.tail.Read(p)
}

func (g *gate) Close() error { return nil }

// TestReadsGoOnDuringARestore: the old state is read until the new one is
// whole, and views made before stay on it.
func TestReadsGoOnDuringARestore(t *testing.T) {
	source := filled(t)
	source.must(putDoc("new"))
	b := source.stream(source.snapshot())
	m := newMachine(t)
	m.must(putDoc("old"))
	before, err := m.f.View(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	g := &gate{head: bytes.NewReader(b[:len(b)/2]), tail: bytes.NewReader(b[len(b)/2:]), reached: make(chan struct{}), open: make(chan struct{})}
	restored := make(chan error, 1)
	go func() { restored <- m.f.Restore(g) }()
	<-g.reached
	if !m.f.Restoring() {
		t.Error("Restoring is false during a restore")
	}
	if d, _ := m.document("c", "old"); d == nil {
		t.Error("the old state can't be read during a restore")
	}
	waited := make(chan error, 1)
	at, _ := source.f.Applied()
	go func() { waited <- m.f.WaitApplied(context.Background(), at) }()
	close(g.open)
	if err := <-restored; err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("a wait for the restored index: %v", err)
	}
	if d, _ := m.document("c", "old"); d != nil || m.dump() != source.dump() {
		t.Error("the restored state is another one")
	}
	c, err := before.Collection("c")
	if err != nil || c == nil {
		t.Fatalf("the old view: %v", err)
	}
	if d, err := before.Document(c.ID, "old"); err != nil || d == nil {
		t.Errorf("the old view: %v", err)
	}
	if dbs, err := m.store.Databases(); err != nil || len(dbs) != 2 {
		t.Errorf("databases while the old view is open: %v %v", dbs, err)
	}
	before.Close()
	waitFor(t, func() bool { dbs, err := m.store.Databases(); return err == nil && len(dbs) == 1 })
}
