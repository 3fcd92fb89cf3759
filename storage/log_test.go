package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func openLog(tb testing.TB, dir string, o LogOptions) *Log {
	tb.Helper()
	l, err := OpenLog(dir, o)
	must(tb, err)
	tb.Cleanup(func() { must(tb, l.Close()) })
	return l
}

func appendOne(tb testing.TB, l *Log, index uint64, record string) {
	tb.Helper()
	must(tb, l.Append([]uint64{index}, [][]byte{[]byte(record)}))
}

// logMachine compares a log with a map.
type logMachine struct {
	dir  string
	l    *Log
	want map[uint64]string
	next uint64
}

// TestLogModel holds the log against a map: appends, gaps, replacements,
// deletions at both ends and in the middle, reopening.
func TestLogModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "log")
		noErr(rt, err)
		m := &logMachine{dir: dir, want: map[uint64]string{}, next: rapid.Uint64Range(1, 5).Draw(rt, "first")}
		m.open(rt)
		defer func() { noErr(rt, m.l.Close()) }()
		rt.Repeat(map[string]func(*rapid.T){
			"append":         func(rt *rapid.T) { m.append(rt, m.next) },
			"append a gap":   func(rt *rapid.T) { m.append(rt, m.next+5) },
			"append batch":   m.appendBatch,
			"replace":        m.replace,
			"delete front":   func(rt *rapid.T) { m.deleteRange(rt, 0, m.draw(rt, "max")) },
			"delete back":    func(rt *rapid.T) { m.deleteRange(rt, m.draw(rt, "min"), m.next+3) },
			"delete to end":  func(rt *rapid.T) { m.deleteRange(rt, m.draw(rt, "min"), math.MaxUint64) },
			"delete middle":  func(rt *rapid.T) { m.deleteRange(rt, m.draw(rt, "min"), m.draw(rt, "max")) },
			"delete nothing": func(rt *rapid.T) { m.deleteRange(rt, m.next, m.next+10) },
			"reopen": func(rt *rapid.T) {
				noErr(rt, m.l.Close())
				m.open(rt)
			},
			// Into a file of its own, so that deletions find whole files to drop.
			"flush": func(rt *rapid.T) { noErr(rt, m.l.n.flush()) },
			"crash between a deletion and its drop": func(rt *rapid.T) {
				hi := m.draw(rt, "max")
				_, err := m.l.deleteRange(0, hi)
				noErr(rt, err)
				maps.DeleteFunc(m.want, func(i uint64, _ string) bool { return i <= hi })
				noErr(rt, m.l.Close())
				m.open(rt)
			},
			"": m.check,
		})
	})
}

func (m *logMachine) open(rt *rapid.T) {
	l, err := OpenLog(m.dir, LogOptions{NoSync: true, MemtableBytes: minLogMemtable})
	noErr(rt, err)
	m.l = l
}

func (m *logMachine) draw(rt *rapid.T, what string) uint64 {
	return rapid.Uint64Range(0, m.next+1).Draw(rt, what)
}

func (m *logMachine) append(rt *rapid.T, index uint64) {
	record := rapid.StringN(0, 20, -1).Draw(rt, "record")
	noErr(rt, m.l.Append([]uint64{index}, [][]byte{[]byte(record)}))
	m.want[index] = record
	m.next = max(m.next, index+1)
}

func (m *logMachine) appendBatch(rt *rapid.T) {
	var indexes []uint64
	var records [][]byte
	for range rapid.IntRange(0, 5).Draw(rt, "records") {
		record := rapid.StringN(0, 20, -1).Draw(rt, "record")
		indexes, records = append(indexes, m.next), append(records, []byte(record))
		m.want[m.next] = record
		m.next++
	}
	noErr(rt, m.l.Append(indexes, records))
}

func (m *logMachine) replace(rt *rapid.T) {
	if len(m.want) == 0 {
		rt.Skip()
	}
	m.append(rt, rapid.SampledFrom(slices.Sorted(maps.Keys(m.want))).Draw(rt, "index"))
}

func (m *logMachine) deleteRange(rt *rapid.T, lo, hi uint64) {
	noErr(rt, m.l.DeleteRange(lo, hi))
	maps.DeleteFunc(m.want, func(i uint64, _ string) bool { return lo <= i && i <= hi })
}

func (m *logMachine) check(rt *rapid.T) {
	first, last, err := m.l.Bounds()
	noErr(rt, err)
	var wantFirst, wantLast uint64
	if keys := slices.Sorted(maps.Keys(m.want)); len(keys) > 0 {
		wantFirst, wantLast = keys[0], keys[len(keys)-1]
	}
	if first != wantFirst || last != wantLast {
		rt.Fatalf("L1: bounds %d to %d, want %d to %d", first, last, wantFirst, wantLast)
	}
	for i := range m.next + 8 {
		record, ok, err := m.l.Get(i)
		noErr(rt, err)
		want, exists := m.want[i]
		if ok != exists || string(record) != want {
			rt.Fatalf("record %d is %q, %v, want %q, %v", i, record, ok, want, exists)
		}
	}
}

// TestLogBytes checks the running total over appends, both truncations and a
// restart.
func TestLogBytes(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, LogOptions{NoSync: true})
	want := uint64(0)
	size := func(i uint64) uint64 { return i * 10 }
	for i := uint64(1); i <= 100; i++ {
		must(t, l.Append([]uint64{i}, [][]byte{make([]byte, size(i))}))
		want += size(i)
	}
	check := func(when string) {
		t.Helper()
		if got := l.Bytes(); got != want {
			t.Errorf("%s: %d bytes, want %d", when, got, want)
		}
	}
	check("appended")
	must(t, l.DeleteRange(0, 10))
	for i := uint64(1); i <= 10; i++ {
		want -= size(i)
	}
	check("front deleted")
	must(t, l.DeleteRange(91, 100))
	for i := uint64(91); i <= 100; i++ {
		want -= size(i)
	}
	check("back deleted")
	must(t, l.Close())
	l = openLog(t, dir, LogOptions{NoSync: true})
	check("reopened")
	must(t, l.DeleteRange(0, math.MaxUint64))
	want = 0
	check("emptied")
	appendOne(t, l, 500, "12345")
	want = 5
	check("appended again")
}

// dataBytes is what a log's directory takes, without RocksDB's own LOG.
func dataBytes(tb testing.TB, dir string) (total int64) {
	tb.Helper()
	for _, pattern := range []string{"*.sst", "*.log"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		must(tb, err)
		for _, name := range names {
			if fi, err := os.Stat(name); err == nil { // else removed meanwhile
				total += fi.Size()
			}
		}
	}
	return total
}

// TestLogSpaceComesBack appends much more than is kept: the directory stays
// small, although nothing is ever merged. A deletion to the end of the numbers
// and one behind a gap must not hold files back.
func TestLogSpaceComesBack(t *testing.T) {
	const memtable, record, kept = 256 << 10, 8 << 10, 1 << 20
	dir := t.TempDir()
	o := LogOptions{NoSync: true, MemtableBytes: memtable}
	l := openLog(t, dir, o)
	var largest int64
	index := uint64(0)
	for i := range 8 << 10 {
		index++
		must(t, l.Append([]uint64{index}, [][]byte{make([]byte, record)}))
		if i%64 == 63 {
			must(t, l.DeleteRange(index-3, math.MaxUint64)) // as after a conflict
			index -= 4
			must(t, l.DeleteRange(0, index-kept/record))
			index += 10 // a gap, as behind an installed snapshot
			l.drops.Wait()
			largest = max(largest, dataBytes(t, dir))
		}
		if i == 4<<10 {
			must(t, l.Close())
			l = openLog(t, dir, o)
		}
	}
	// What is kept, a window of appends, and the memtables on their way.
	if bound := int64(kept + 64*record + 3*logMemtables*memtable); largest > bound {
		t.Errorf("the directory grew to %d bytes, more than %d; %d were written", largest, bound, 8<<10*record)
	}
	must(t, l.DeleteRange(0, math.MaxUint64))
	must(t, l.n.flush())
	appendOne(t, l, index+1, "x")
	must(t, l.DeleteRange(0, index+1))
	l.drops.Wait()
	if left := dataBytes(t, dir); left > 2*memtable {
		t.Errorf("an empty log takes %d bytes", left)
	}
}

// TestLogDropKeepsWhatLives looks at single files: the newest dead file, the
// oldest live one, and the one with the only format row.
func TestLogDropKeepsWhatLives(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, LogOptions{})
	for i := range uint64(5) { // five files of ten
		for j := range uint64(10) {
			appendOne(t, l, i*10+j+1, "record")
		}
		must(t, l.n.flush())
	}
	count := func() int { return len(l.n.db.GetLiveFilesMetaData()) }
	for _, c := range []struct {
		delete uint64
		files  int
	}{{9, 5}, {10, 4}, {29, 3}, {30, 2}} {
		must(t, l.DeleteRange(0, c.delete))
		l.drops.Wait()
		if n := count(); n != c.files {
			t.Errorf("deleted up to %d: %d files, want %d", c.delete, n, c.files)
		}
	}
	must(t, l.Close())
	l = openLog(t, dir, LogOptions{})
	if first, last, _ := l.Bounds(); first != 31 || last != 50 {
		t.Errorf("bounds %d to %d, want 31 to 50", first, last)
	}
}

// TestLogManyFiles starts so often that the files are merged in the background,
// and still drops what is dead.
func TestLogManyFiles(t *testing.T) {
	l := openLog(t, t.TempDir(), LogOptions{NoSync: true})
	for i := range uint64(logFilesMax + 10) {
		appendOne(t, l, i+1, "record")
		must(t, l.n.flush())
	}
	files := func() int { return len(l.n.db.GetLiveFilesMetaData()) }
	for deadline := time.Now().Add(10 * time.Second); files() >= logFilesMax; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d files, and no merge", files())
		}
	}
	must(t, l.DeleteRange(0, logFilesMax+9))
	l.drops.Wait()
	if n := files(); n > 1 {
		t.Errorf("%d files for one record", n)
	}
	if _, ok, err := l.Get(logFilesMax + 10); !ok || err != nil {
		t.Errorf("the last record: %v, %v", ok, err)
	}
}

func TestLogErrors(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, LogOptions{})
	for name, c := range map[string][]uint64{"zero": {0}, "falling": {2, 1}, "twice": {1, 1}, "too many": {1, 2, 3}} {
		records := make([][]byte, min(len(c), 2))
		if err := l.Append(c, records); err == nil {
			t.Errorf("%s: appended", name)
		}
	}
	if _, last, _ := l.Bounds(); last != 0 {
		t.Errorf("a refused append changed the log: last is %d", last)
	}
	if _, err := OpenLog(dir, LogOptions{}); err == nil {
		t.Error("a log was opened twice")
	}
	if _, err := OpenLog(t.TempDir(), LogOptions{MemtableBytes: 1}); err == nil {
		t.Error("a tiny memtable was accepted")
	}
	must(t, l.Close())
	must(t, l.Close())
	if _, _, err := l.Get(1); !errors.Is(err, ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	if err := l.Append([]uint64{1}, [][]byte{nil}); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}
	if err := l.DeleteRange(1, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("DeleteRange after Close: %v", err)
	}
	// Another format is refused.
	l = openLog(t, t.TempDir(), LogOptions{})
	w := newRep(nil)
	w.put(0, keyLogFormat, []byte{9, 9, 9, 9})
	must(t, l.n.writeRep(w.bytes()))
	if err := l.load(); !errors.Is(err, ErrFormat) {
		t.Errorf("another format: %v", err)
	}
}

// TestLogTornTail cuts the end of RocksDB's log, as a power loss does to an
// append that was not acknowledged: the whole records before it are there.
// Damage before the end is refused: it would be the loss of acknowledged
// entries.
func TestLogTornTail(t *testing.T) {
	build := func(t *testing.T) (string, string) {
		dir := t.TempDir()
		l, err := OpenLog(dir, LogOptions{})
		must(t, err)
		for i := range uint64(10) {
			appendOne(t, l, i+1, string(bytes.Repeat([]byte{byte(i)}, 1000)))
		}
		// Copied while it is open: what a crash leaves.
		crashed := t.TempDir()
		must(t, os.CopyFS(filepath.Join(crashed, "log"), os.DirFS(dir)))
		must(t, l.Close())
		return filepath.Join(crashed, "log"), one(t, filepath.Join(crashed, "log"), "*.log")
	}
	t.Run("torn", func(t *testing.T) {
		dir, wal := build(t)
		fi, err := os.Stat(wal)
		must(t, err)
		must(t, os.Truncate(wal, fi.Size()-300))
		l := openLog(t, dir, LogOptions{})
		if first, last, _ := l.Bounds(); first != 1 || last != 9 {
			t.Errorf("bounds %d to %d, want 1 to 9", first, last)
		}
		appendOne(t, l, 10, "again")
	})
	t.Run("damaged before the end", func(t *testing.T) {
		dir, wal := build(t)
		flip(t, wal, 4000)
		if l, err := OpenLog(dir, LogOptions{}); err == nil {
			_, last, _ := l.Bounds()
			must(t, l.Close())
			t.Errorf("opened, with entries up to %d of 10", last)
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("the error is %v, want ErrCorrupt", err)
		}
	})
}

// TestLogReadersAndWriter reads while the writer appends and truncates. Run
// it with -race.
func TestLogReadersAndWriter(t *testing.T) {
	l := openLog(t, t.TempDir(), LogOptions{NoSync: true, MemtableBytes: minLogMemtable})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, last, _ := l.Bounds()
				record, ok, err := l.Get(last)
				if err != nil || ok && string(record[:len(fmt.Sprint(last))]) != fmt.Sprint(last) {
					t.Errorf("record %d is %.10q, %v", last, record, err)
					return
				}
			}
		}()
	}
	for i := uint64(1); i <= 3000; i++ {
		must(t, l.Append([]uint64{i}, [][]byte{append(fmt.Append(nil, i), make([]byte, 2000)...)}))
		if i%100 == 0 {
			must(t, l.DeleteRange(0, i-50))
		}
	}
	close(stop)
	wg.Wait()
	if first, last, _ := l.Bounds(); first != 2951 || last != 3000 {
		t.Errorf("bounds %d to %d", first, last)
	}
}
