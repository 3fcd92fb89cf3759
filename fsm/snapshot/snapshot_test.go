package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content is a checkpoint as a map; the names are those that RocksDB 7.8 makes.
type content map[string]string

func checkpoint() content {
	big := strings.Repeat("0123456789abcdef", 40<<10/16)
	return content{
		"000009.sst": big, "000010.sst": "small", "000011.blob": big + "x", "000012.log": "",
		"MANIFEST-000008": "manifest", "OPTIONS-000013": "options", "CURRENT": "MANIFEST-000008\n",
	}
}

func newStore(tb testing.TB, dir string, o Options) *Store {
	tb.Helper()
	s, err := NewStore(dir, o)
	if err != nil {
		tb.Fatalf("NewStore: %v", err)
	}
	return s
}

func writeDir(tb testing.TB, dir string, c content) {
	tb.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	for name, text := range c {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func readDir(tb testing.TB, dir string) content {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	c := content{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		c[e.Name()] = string(b)
	}
	return c
}

func names(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

var configuration = raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: "n1", Address: "h:1"}}}

func create(tb testing.TB, s *Store, index, term uint64) *Sink {
	tb.Helper()
	sink, err := s.Create(raft.SnapshotVersionMax, index, term, configuration, 1, nil)
	if err != nil {
		tb.Fatalf("Create: %v", err)
	}
	return sink.(*Sink)
}

// take makes a snapshot of a checkpoint, as FSM.Snapshot and Persist do.
func take(tb testing.TB, s *Store, index, term uint64, c content) string {
	tb.Helper()
	dir := s.Scratch()
	writeDir(tb, dir, c)
	sink := create(tb, s, index, term)
	if err := sink.Adopt(dir, "cluster-1"); err != nil {
		tb.Fatalf("Adopt: %v", err)
	}
	if err := sink.Close(); err != nil {
		tb.Fatalf("Close: %v", err)
	}
	return sink.ID()
}

// stream returns a snapshot's bytes.
func streamOf(tb testing.TB, s *Store, id string) []byte {
	tb.Helper()
	meta, r, err := s.Open(id)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		tb.Fatalf("read: %v", err)
	}
	if int64(len(b)) != meta.Size {
		tb.Fatalf("the stream has %d bytes, meta.Size is %d", len(b), meta.Size)
	}
	return b
}

// receive writes a stream to a new sink in pieces of the given size.
func receive(tb testing.TB, s *Store, index, term uint64, b []byte, piece int) (*Sink, error) {
	tb.Helper()
	sink := create(tb, s, index, term)
	for p := range slices.Chunk(b, piece) {
		if _, err := sink.Write(p); err != nil {
			return sink, errors.Join(err, sink.Cancel())
		}
	}
	return sink, sink.Close()
}

func TestTakeListOpen(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	s := newStore(t, t.TempDir(), Options{Now: func() time.Time { return now }})
	if _, ok, err := s.Newest(); ok || err != nil {
		t.Fatalf("Newest of an empty store: %t, %v", ok, err)
	}
	id := take(t, s, 42, 3, checkpoint())
	if id != "3-42-1700000000000" {
		t.Errorf("id %s", id)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("List: %v, %v", list, err)
	}
	if m := list[0]; m.Index != 42 || m.Term != 3 || m.ID != id || !reflect.DeepEqual(m.Configuration, configuration) || m.ConfigurationIndex != 1 || m.Version != 1 {
		t.Errorf("meta %+v", m)
	}
	newest, ok, err := s.Newest()
	if err != nil || !ok || newest.ClusterID != "cluster-1" || newest.Index != 42 || !newest.Taken.Equal(now) || newest.Files != 7 || newest.Size != list[0].Size {
		t.Errorf("Newest: %+v, %t, %v", newest, ok, err)
	}
	streamOf(t, s, id)
	if got := names(t, s.Dir()); !slices.Equal(got, []string{id}) {
		t.Errorf("the store holds %v", got)
	}
}

func TestAdoptCopiesNothing(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	dir := s.Scratch()
	writeDir(t, dir, checkpoint())
	before, err := os.Stat(filepath.Join(dir, "000009.sst"))
	if err != nil {
		t.Fatal(err)
	}
	sink := create(t, s, 1, 1)
	if err := sink.Adopt(dir, ""); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(s.Dir(), sink.ID(), "db", "000009.sst"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was not renamed: %v", err)
	}
}

func TestReceiveInAnyPieces(t *testing.T) {
	leader := newStore(t, t.TempDir(), Options{})
	b := streamOf(t, leader, take(t, leader, 7, 2, checkpoint()))
	for _, piece := range []int{1, 3, 16, 17, 4096, len(b)} {
		t.Run(fmt.Sprint(piece), func(t *testing.T) {
			s := newStore(t, t.TempDir(), Options{})
			s.SetClusterID("cluster-1")
			sink, err := receive(t, s, 7, 2, b, piece)
			if err != nil {
				t.Fatal(err)
			}
			if got := readDir(t, filepath.Join(s.Dir(), sink.ID(), "db")); !reflect.DeepEqual(got, checkpoint()) {
				t.Error("other files arrived")
			}
			if again := streamOf(t, s, sink.ID()); !bytes.Equal(again, b) {
				t.Error("the received snapshot gives another stream")
			}
		})
	}
}

// late receives a snapshot that another store took.
func late(t *testing.T, s *Store, index, term uint64) string {
	t.Helper()
	other := newStore(t, t.TempDir(), Options{})
	sink, err := receive(t, s, index, term, streamOf(t, other, take(t, other, index, term, checkpoint())), 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

// A snapshot of the node's own that a received one has overtaken is refused:
// raft would believe that it is the newest.
func TestOutdatedIsRefused(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	dir := s.Scratch()
	writeDir(t, dir, checkpoint())
	own := create(t, s, 2398, 5)
	if err := own.Adopt(dir, "cluster-1"); err != nil {
		t.Fatal(err)
	}
	received := late(t, s, 2409, 5)
	if err := own.Close(); !errors.Is(err, ErrOutdated) {
		t.Errorf("Close: %v", err)
	}
	if got := names(t, s.Dir()); !slices.Equal(got, []string{received}) {
		t.Errorf("the store holds %v", got)
	}
}

func TestRetainOne(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	first := take(t, s, 10, 2, checkpoint())
	_, r, err := s.Open(first)
	if err != nil {
		t.Fatal(err)
	}
	second := late(t, s, 9, 3) // a later term is newer, whatever the index
	if got := names(t, s.Dir()); !slices.Equal(got, []string{first, second}) {
		t.Errorf("while the old one is read: %v", got)
	}
	if b, err := io.ReadAll(r); err != nil || len(b) == 0 {
		t.Errorf("the pinned snapshot can't be read: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 2 || list[0].ID != second {
		t.Errorf("List: %v %v", list, err)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if got := names(t, s.Dir()); !slices.Equal(got, []string{second}) {
		t.Errorf("after the reader is closed: %v", got)
	}
	third := take(t, s, 100, 3, checkpoint())
	if got := names(t, s.Dir()); !slices.Equal(got, []string{third}) {
		t.Errorf("the store holds %v", got)
	}
	// An older one, received late, stays for its maker until the next.
	older := late(t, s, 50, 3)
	if list, err := s.List(); err != nil || len(list) != 2 || list[0].ID != third {
		t.Errorf("List: %v %v", list, err)
	}
	if _, r, err = s.Open(older); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	if got := names(t, s.Dir()); !slices.Equal(got, []string{third}) {
		t.Errorf("after the late one was read: %v", got)
	}
}

func TestSameIndexWithinAMillisecond(t *testing.T) {
	now := time.UnixMilli(5)
	s := newStore(t, t.TempDir(), Options{Now: func() time.Time { return now }})
	a, b := take(t, s, 1, 1, checkpoint()), take(t, s, 1, 1, checkpoint())
	if a == b {
		t.Errorf("two snapshots are called %s", a)
	}
}

func TestOpenRemovesHalfMade(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir, Options{})
	id := take(t, s, 10, 2, checkpoint())
	writeDir(t, s.Scratch(), checkpoint()) // a checkpoint that was not adopted
	create(t, s, 11, 2)                    // a sink that was not closed
	half := create(t, s, 12, 2)
	if _, err := half.Write(streamOf(t, s, id)[:3000]); err == nil {
		t.Error("a stream of another index was accepted")
	}
	if n := len(names(t, dir)); n != 4 {
		t.Fatalf("%d entries before the restart", n)
	}
	newStore(t, dir, Options{})
	if got := names(t, dir); !slices.Equal(got, []string{id}) {
		t.Errorf("after the restart: %v", got)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	b := streamOf(t, s, take(t, s, 10, 2, checkpoint()))
	before := names(t, s.Dir())
	sink := create(t, s, 10, 2)
	if _, err := sink.Write(b[:len(b)/2]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Cancel(), sink.Cancel(), sink.Close()); err != nil {
		t.Error(err)
	}
	if _, err := sink.Write(b); err == nil {
		t.Error("a cancelled sink takes bytes")
	}
	empty := create(t, s, 11, 2)
	if err := empty.Close(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Close of an empty sink: %v", err)
	}
	if got := names(t, s.Dir()); !slices.Equal(got, before) {
		t.Errorf("left behind: %v", got)
	}
}

// mutate changes a valid stream; fixSum makes the header's checksum right
// again, so that the checks behind it are reached.
func fixSum(b []byte) []byte {
	n := binary.LittleEndian.Uint32(b[12:])
	binary.LittleEndian.PutUint32(b[n:], crc32.Checksum(b[:n], castagnoli))
	return b
}

func TestReceiveRefuses(t *testing.T) {
	leader := newStore(t, t.TempDir(), Options{})
	good := streamOf(t, leader, take(t, leader, 7, 2, checkpoint()))
	// rename puts another name of the same length in the place of 000010.sst.
	rename := func(name string) []byte {
		b := bytes.Replace(slices.Clone(good), []byte("000010.sst"), []byte(name), 1)
		return fixSum(b)
	}
	edit := func(f func(b []byte)) []byte {
		b := slices.Clone(good)
		f(b)
		return b
	}
	sizeAt := bytes.Index(good, []byte("000010.sst")) + len("000010.sst")
	for _, tt := range []struct {
		name string
		data []byte
		want error
	}{
		{"nothing", nil, ErrCorrupt},
		{"a header that is cut off", good[:30], ErrCorrupt},
		{"a stream that is cut off in a file", good[:len(good)/2], ErrCorrupt},
		{"a stream without its last byte", good[:len(good)-1], ErrCorrupt},
		{"a byte too many", append(slices.Clone(good), 0), ErrCorrupt},
		{"other magic", edit(func(b []byte) { b[0]++ }), ErrCorrupt},
		{"a newer format", fixSum(edit(func(b []byte) { b[8] = 2 })), ErrCorrupt},
		{"a header of 4 GiB", edit(func(b []byte) { copy(b[12:], "\xff\xff\xff\xff") }), ErrCorrupt},
		{"a header checksum that is wrong", edit(func(b []byte) { b[17]++ }), ErrCorrupt},
		{"another index than announced", fixSum(edit(func(b []byte) { b[16]++ })), ErrCorrupt},
		{"another term than announced", fixSum(edit(func(b []byte) { b[24]++ })), ErrCorrupt},
		{"more files than the list has", fixSum(edit(func(b []byte) { b[32]++ })), ErrCorrupt},
		{"fewer files than the list has", fixSum(edit(func(b []byte) { b[32]-- })), ErrCorrupt},
		{"four billion files", fixSum(edit(func(b []byte) { copy(b[32:], "\xff\xff\xff\xff") })), ErrCorrupt},
		{"a name that leaves the directory", rename("../../.sst"), ErrCorrupt},
		{"a name with a separator", rename("0000/1.sst"), ErrCorrupt},
		{"a hidden name", rename(".00010.sst"), ErrCorrupt},
		{"a name that RocksDB does not make", rename("000010.exe"), ErrCorrupt},
		{"the same name twice", rename("000009.sst"), ErrCorrupt},
		{"a negative size", fixSum(edit(func(b []byte) { b[sizeAt+7] = 0x80 })), ErrCorrupt},
		{"sizes that overflow", fixSum(edit(func(b []byte) { copy(b[sizeAt:], "\xff\xff\xff\xff\xff\xff\xff\x7f") })), ErrCorrupt},
		{"a size that no disk has", fixSum(edit(func(b []byte) { b[sizeAt+6] = 0x10 })), ErrSpace},
		{"a size that is one too small", fixSum(edit(func(b []byte) { b[sizeAt]-- })), ErrCorrupt},
		{"a size that is one too large", fixSum(edit(func(b []byte) { b[sizeAt]++ })), ErrCorrupt},
		{"a changed byte in a file", edit(func(b []byte) { b[len(b)-20000]++ }), ErrCorrupt},
		{"a changed checksum of a file", edit(func(b []byte) { b[len(b)-1]++ }), ErrCorrupt},
		{"another cluster", fixSum(bytes.Replace(slices.Clone(good), []byte("cluster-1"), []byte("cluster-2"), 1)), ErrCluster},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t, t.TempDir(), Options{})
			s.SetClusterID("cluster-1")
			_, err := receive(t, s, 7, 2, tt.data, 1000)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if got := names(t, s.Dir()); len(got) != 0 {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

func TestSpaceIsCheckedFirst(t *testing.T) {
	leader := newStore(t, t.TempDir(), Options{})
	b := streamOf(t, leader, take(t, leader, 7, 2, checkpoint()))
	s := newStore(t, t.TempDir(), Options{ReserveBytes: 1000, FreeBytes: func(string) (uint64, error) { return uint64(len(b)), nil }})
	if _, err := receive(t, s, 7, 2, b, 4096); !errors.Is(err, ErrSpace) {
		t.Errorf("%v, want ErrSpace", err)
	}
}

func TestUnreadableSnapshotIsAnError(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir, Options{})
	path := filepath.Join(dir, take(t, s, 7, 2, checkpoint()), "meta.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, raw[:len(raw)/2], bytes.Replace(raw, []byte(`"Index":7`), []byte(`"Index":8`), 1)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.List(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("List with a damaged meta.json: %v", err)
		}
		if _, err := NewStore(dir, Options{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("NewStore with a damaged meta.json: %v", err)
		}
	}
}

func TestOpenFindsDamage(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	id := take(t, s, 7, 2, checkpoint())
	if _, _, err := s.Open("1-1-1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open of nothing: %v", err)
	}
	if _, _, err := s.Open("../" + id); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open of a path: %v", err)
	}
	if err := os.Truncate(filepath.Join(s.Dir(), id, "db", "000009.sst"), 10); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Open(id); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Open with a file cut off: %v", err)
	}
	if err := os.Remove(filepath.Join(s.Dir(), id, "db", "000009.sst")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Open(id); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Open with a file missing: %v", err)
	}
}

func TestAdoptRefusesOtherFiles(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	for _, bad := range []string{"LOCK", "link", "dir"} {
		dir := s.Scratch()
		writeDir(t, dir, checkpoint())
		var err error
		switch bad {
		case "LOCK":
			err = os.WriteFile(filepath.Join(dir, bad), nil, 0o600)
		case "link":
			err = os.Symlink("/etc/passwd", filepath.Join(dir, "000099.sst"))
		case "dir":
			err = os.Mkdir(filepath.Join(dir, "000099.sst"), 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
		sink := create(t, s, 1, 1)
		if err := sink.Adopt(dir, ""); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", bad, err)
		}
		if err := sink.Cancel(); err != nil {
			t.Error(err)
		}
	}
}

// wrapped is how raft hands a reader to FSM.Restore.
type wrapped struct{ io.ReadCloser }

func (w wrapped) WrappedReadCloser() io.ReadCloser { return w.ReadCloser }

func TestMaterialize(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	id := take(t, s, 7, 2, checkpoint())
	_, r, err := s.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	linked := t.TempDir()
	meta, err := Materialize(wrapped{wrapped{r}}, linked, "cluster-1")
	if err != nil || meta.Index != 7 || meta.Term != 2 || meta.ClusterID != "cluster-1" {
		t.Fatalf("own reader: %+v, %v", meta, err)
	}
	if got := readDir(t, linked); !reflect.DeepEqual(got, checkpoint()) {
		t.Error("other files than in the checkpoint")
	}
	for name := range checkpoint() {
		a, errA := os.Stat(filepath.Join(linked, name))
		b, errB := os.Stat(filepath.Join(s.Dir(), id, "db", name))
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		// A file that the new database writes to must not be the snapshot's own.
		if want := strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob"); os.SameFile(a, b) != want {
			t.Errorf("%s is a link: %t, want %t", name, !want, want)
		}
	}

	foreign := t.TempDir()
	stream := io.NopCloser(bytes.NewReader(streamOf(t, s, id)))
	if meta, err = Materialize(stream, foreign, ""); err != nil || meta.Index != 7 || meta.ClusterID != "cluster-1" {
		t.Fatalf("foreign stream: %+v, %v", meta, err)
	}
	if got := readDir(t, foreign); !reflect.DeepEqual(got, checkpoint()) {
		t.Error("other files than in the stream")
	}
	for name, src := range map[string]io.ReadCloser{"own": r, "foreign": io.NopCloser(bytes.NewReader(streamOf(t, s, id)))} {
		if _, err := Materialize(src, t.TempDir(), "cluster-2"); !errors.Is(err, ErrCluster) {
			t.Errorf("%s reader of another cluster: %v", name, err)
		}
	}
}

func TestWriteCheckpointIsTheSameStream(t *testing.T) {
	s := newStore(t, t.TempDir(), Options{})
	want := streamOf(t, s, take(t, s, 7, 2, checkpoint()))
	dir := filepath.Join(t.TempDir(), "cp")
	writeDir(t, dir, checkpoint())
	var got bytes.Buffer
	if err := WriteCheckpoint(&got, dir, "cluster-1", 7, 2); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes, %v; want %d", got.Len(), err, len(want))
	}
}

// TestGoldenStream holds the bytes of stream version 1: a cluster is upgraded
// node by node, and releases send each other snapshots.
func TestGoldenStream(t *testing.T) {
	small := content{"000009.sst": "abc", "MANIFEST-000008": "", "CURRENT": "MANIFEST-000008\n"}
	s := newStore(t, t.TempDir(), Options{})
	got := streamOf(t, s, take(t, s, 42, 3, small))
	path := filepath.Join("testdata", "stream-v1.bin")
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the stream changed:\n got %q\nwant %q", got, want)
	}
	follower := newStore(t, t.TempDir(), Options{})
	if _, err := receive(t, follower, 42, 3, want, 5); err != nil {
		t.Errorf("the golden stream is refused: %v", err)
	}
}
