package cluster

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/snipdb/snipdb/cluster/logtest"
)

func TestLogStoresConform(t *testing.T) {
	t.Run("bolt", func(t *testing.T) {
		logtest.Run(t, func(tb testing.TB, dir string) logtest.Store { return openTestBolt(tb, dir) })
	})
	t.Run("entry log", func(t *testing.T) {
		var disk sync.Map
		logtest.Run(t, func(_ testing.TB, dir string) logtest.Store {
			l, _ := disk.LoadOrStore(dir, newMemLog())
			return NewEntryLogStore(l.(*memLog))
		})
	})
	t.Run("wrapped bolt", func(t *testing.T) {
		logtest.Run(t, func(tb testing.TB, dir string) logtest.Store {
			s, err := newLogStore(openTestBolt(tb, dir), logStoreOptions{Fatal: failNow(tb)})
			if err != nil {
				tb.Fatal(err)
			}
			return s
		})
	})
}

func openTestBolt(tb testing.TB, dir string) LogStore {
	tb.Helper()
	s, err := OpenBoltLog(filepath.Join(dir, "log.bolt"))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func failNow(tb testing.TB) func(error) {
	return func(err error) { tb.Errorf("fatal: %v", err) }
}

// memLog is an EntryLog that outlives its Close, as a disk does.
type memLog struct {
	mu      sync.Mutex
	records map[uint64][]byte
}

func newMemLog() *memLog { return &memLog{records: map[uint64][]byte{}} }

func (l *memLog) Append(indexes []uint64, records [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, index := range indexes {
		l.records[index] = bytes.Clone(records[i])
	}
	return nil
}

func (l *memLog) Get(index uint64) ([]byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.records[index]
	return bytes.Clone(r), ok, nil
}

func (l *memLog) Bounds() (first, last uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for index := range l.records {
		if first == 0 || index < first {
			first = index
		}
		last = max(last, index)
	}
	return first, last, nil
}

func (l *memLog) DeleteRange(min, max uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for index := range l.records {
		if index >= min && index <= max {
			delete(l.records, index)
		}
	}
	return nil
}

func (l *memLog) Bytes() uint64 { return 0 }
func (l *memLog) Close() error  { return nil }

func testEntry(index uint64, size int) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: make([]byte, size)}
}

func TestRecordOfVersion1IsReadAsWritten(t *testing.T) {
	l := &raft.Log{
		Index: 7, Term: 3, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("x"),
		AppendedAt: time.Unix(0, 0x0102030405060708),
	}
	// version, type, term, time, length, data, length, extensions, checksum
	golden := "01" + "05" + "0000000000000003" + "0102030405060708" + "00000004" + hex.EncodeToString([]byte("data")) + "00000001" + "78"
	got, err := encodeRecord(l)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got[:len(got)-4]) != golden {
		t.Errorf("record is %x\nwant      %s", got, golden)
	}
	if sum := hex.EncodeToString(got[len(got)-4:]); sum != goldenRecordSum {
		t.Errorf("checksum is %s; want %s", sum, goldenRecordSum)
	}
}

// goldenRecordSum is CRC-32C over index 7 and the record above, computed once
// with another implementation.
const goldenRecordSum = "0c761614"

func TestDamagedRecordIsFound(t *testing.T) {
	record, err := encodeRecord(&raft.Log{Index: 7, Term: 3, Data: []byte("data"), Extensions: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := decodeRecord(8, record, &l); !errors.Is(err, errCorruptRecord) {
		t.Errorf("record of entry 7 read as entry 8: %v", err)
	}
	for i := range record {
		damaged := slices.Clone(record)
		damaged[i] ^= 0x10
		if err := decodeRecord(7, damaged, &l); !errors.Is(err, errCorruptRecord) {
			t.Errorf("byte %d damaged: error %v", i, err)
		}
		if err := decodeRecord(7, record[:i], &l); !errors.Is(err, errCorruptRecord) {
			t.Errorf("cut to %d bytes: error %v", i, err)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	record, _ := encodeRecord(&raft.Log{Index: 7, Term: 3, Data: []byte("data"), Extensions: []byte("x")})
	f.Add(record, true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, sum bool) {
		if sum && len(b) >= 4 { // get past the checksum
			b = slices.Clone(b)
			body := b[:len(b)-4]
			b = append(slices.Clone(body), byte(recordSum(7, body)>>24), byte(recordSum(7, body)>>16), byte(recordSum(7, body)>>8), byte(recordSum(7, body)))
		}
		var l raft.Log
		if decodeRecord(7, b, &l) != nil {
			return
		}
		again, err := encodeRecord(&l)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x (%v)", b, l, again, err)
		}
	})
}

// TestLogSizesAgainstModel compares the sums with a plain map.
func TestLogSizesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s logSizes
		model := map[uint64]uint64{}
		next := rapid.Uint64Range(1, 50).Draw(t, "first")
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				next += rapid.Uint64Range(0, 20).Draw(t, "gap")
				fallthrough
			case 1:
				for range rapid.IntRange(1, 10).Draw(t, "n") {
					size := rapid.Uint64Range(0, 100).Draw(t, "size")
					s.add(next, size)
					model[next] = size
					next++
				}
			default:
				min := rapid.Uint64Range(0, next+5).Draw(t, "min")
				max := min + rapid.Uint64Range(0, 30).Draw(t, "len")
				s.remove(min, max)
				var top uint64
				for index := range model {
					if index >= min && index <= max {
						delete(model, index)
						continue
					}
					top = maxOf(top, index)
				}
				if top+1 < next && rapid.Bool().Draw(t, "rewind") {
					next = top + 1
				}
			}
			checkSizes(t, &s, model, next)
		}
	})
}

func maxOf(a, b uint64) uint64 {
	if a > b {
		return a
	}
	return b
}

func checkSizes(t *rapid.T, s *logSizes, model map[uint64]uint64, next uint64) {
	var last uint64
	for index := range model {
		last = maxOf(last, index)
	}
	if s.last() != last {
		t.Fatalf("last is %d; want %d", s.last(), last)
	}
	for index := uint64(0); index <= next+1; index++ {
		var want uint64
		for i, size := range model {
			if i > index {
				want += size
			}
		}
		if got := s.since(index); got != want {
			t.Fatalf("since(%d) is %d; want %d of %v", index, got, want, model)
		}
	}
	for _, budget := range []uint64{0, 1, 50, 200, 1 << 40} {
		var want, sum uint64
		for index := last; index > 0; index-- {
			size, ok := model[index]
			if !ok || sum+size > budget {
				break
			}
			sum += size
			want++
		}
		if got := s.trailing(budget); got != want {
			t.Fatalf("trailing(%d) is %d; want %d of %v", budget, got, want, model)
		}
	}
}

func TestLogStoreTracksBytesOverTruncationAndReopen(t *testing.T) {
	dir := t.TempDir()
	open := func() *logStore {
		s, err := newLogStore(openTestBolt(t, dir), logStoreOptions{Fatal: failNow(t)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	for i := uint64(1); i <= 100; i++ {
		if err := s.StoreLog(testEntry(i, 1000-entryOverhead)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(bytes, since, trailing uint64) {
		t.Helper()
		if s.bytes() != bytes || s.bytesSince(90) != since || s.indexForTrailingBytes(10_500) != trailing {
			t.Fatalf("bytes %d, since 90 %d, trailing %d; want %d, %d, %d",
				s.bytes(), s.bytesSince(90), s.indexForTrailingBytes(10_500), bytes, since, trailing)
		}
	}
	want(100_000, 10_000, 10)
	if err := s.DeleteRange(1, 60); err != nil {
		t.Fatal(err)
	}
	want(40_000, 10_000, 10)
	if err := s.DeleteRange(96, 100); err != nil {
		t.Fatal(err)
	}
	want(35_000, 5_000, 10)
	if err := s.StoreLog(testEntry(96, 3000-entryOverhead)); err != nil {
		t.Fatal(err)
	}
	want(38_000, 8_000, 8)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	want(38_000, 8_000, 8)
}

func TestLogStoreDropsWhatIsBelowAGapAtOpen(t *testing.T) {
	bolt := openTestBolt(t, t.TempDir())
	defer bolt.Close()
	for _, index := range []uint64{1, 2, 3, 1_000_000_000, 1_000_000_001} {
		if err := bolt.StoreLog(testEntry(index, 1)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := newLogStore(bolt, logStoreOptions{Fatal: failNow(t)})
	if err != nil {
		t.Fatal(err)
	}
	if first, _ := s.FirstIndex(); first != 1_000_000_000 || s.indexForTrailingBytes(1<<30) != 2 || s.bytes() != 2*(entryOverhead+1) {
		t.Fatalf("first index %d, %d trailing entries, %d bytes", first, s.indexForTrailingBytes(1<<30), s.bytes())
	}
}

// brokenStore is a LogStore whose writes fail or hang on demand.
type brokenStore struct {
	LogStore
	mu   sync.Mutex
	err  error
	hang chan struct{} // closed to let go
}

func (b *brokenStore) fault() error {
	b.mu.Lock()
	err, hang := b.err, b.hang
	b.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return err
}

func (b *brokenStore) StoreLogs(l []*raft.Log) error {
	if err := b.fault(); err != nil {
		return err
	}
	return b.LogStore.StoreLogs(l)
}

func (b *brokenStore) DeleteRange(min, max uint64) error {
	if err := b.fault(); err != nil {
		return err
	}
	return b.LogStore.DeleteRange(min, max)
}

func (b *brokenStore) GetLog(index uint64, l *raft.Log) error {
	if err := b.fault(); err != nil {
		return err
	}
	return b.LogStore.GetLog(index, l)
}

func openBroken(t *testing.T, limit time.Duration) (*logStore, *brokenStore, chan error) {
	t.Helper()
	b := &brokenStore{LogStore: NewEntryLogStore(newMemLog())}
	fatal := make(chan error, 10)
	s, err := newLogStore(b, logStoreOptions{Limit: limit, Fatal: func(err error) { fatal <- err }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLog(testEntry(1, 1)); err != nil {
		t.Fatal(err)
	}
	return s, b, fatal
}

func TestLogStoreFailsStop(t *testing.T) {
	broken := errors.New("input/output error")
	for name, op := range map[string]func(*logStore) error{
		"write":  func(s *logStore) error { return s.StoreLog(testEntry(2, 1)) },
		"delete": func(s *logStore) error { return s.DeleteRange(1, 1) },
		"read":   func(s *logStore) error { return s.GetLog(1, new(raft.Log)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, b, fatal := openBroken(t, time.Minute)
			b.err = broken
			if err := op(s); !errors.Is(err, broken) {
				t.Fatalf("error is %v", err)
			}
			select {
			case err := <-fatal:
				if !errors.Is(err, broken) {
					t.Errorf("fatal error is %v", err)
				}
			default:
				t.Fatal("Fatal was not called")
			}
			b.err = nil
			if err := s.StoreLog(testEntry(2, 1)); !errors.Is(err, errStopped) {
				t.Errorf("a write after the failure: %v; want %v", err, errStopped)
			}
			if len(fatal) != 0 {
				t.Error("Fatal was called twice")
			}
		})
	}
}

func TestMissingEntryIsNotFatal(t *testing.T) {
	s, _, fatal := openBroken(t, time.Minute)
	if err := s.GetLog(99, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) || len(fatal) != 0 {
		t.Fatalf("error %v, %d fatal calls", err, len(fatal))
	}
}

func TestWriteBelowTheEndViolatesL1(t *testing.T) {
	s, _, fatal := openBroken(t, time.Minute)
	if err := s.StoreLog(testEntry(1, 1)); err == nil || !strings.Contains(err.Error(), "L1 violated") || len(fatal) != 1 {
		t.Fatalf("error %v, %d fatal calls", err, len(fatal))
	}
}

// TestHungWriteCallsFatalWhileItHangs: the watchdog must not wait for the write.
func TestHungWriteCallsFatalWhileItHangs(t *testing.T) {
	s, b, fatal := openBroken(t, 20*time.Millisecond)
	hang := make(chan struct{})
	b.mu.Lock()
	b.hang = hang
	b.mu.Unlock()
	result := make(chan error, 1)
	go func() { result <- s.StoreLog(testEntry(2, 1)) }()
	select {
	case err := <-fatal:
		if !strings.Contains(err.Error(), "did not answer in 20ms") {
			t.Errorf("fatal error is %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Fatal was not called while the write hung")
	}
	select {
	case err := <-result:
		t.Fatalf("the write returned (%v) while the disk hung", err)
	default:
	}
	// The late success must not reach raft as one.
	close(hang)
	if err := <-result; !errors.Is(err, errStopped) {
		t.Errorf("the late write returned %v; want %v", err, errStopped)
	}
}

func TestNoFatalAfterClose(t *testing.T) {
	s, b, fatal := openBroken(t, time.Minute)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b.err = errors.New("database not open")
	if err := s.GetLog(1, new(raft.Log)); err == nil || len(fatal) != 0 {
		t.Fatalf("error %v, %d fatal calls", err, len(fatal))
	}
}

// TestHungDiskEndsTheProcess runs this test binary as a node whose disk hangs
// for ever, with the default Fatal.
func TestHungDiskEndsTheProcess(t *testing.T) {
	if os.Getenv("SNIPDB_TEST_HUNG_DISK") == "1" {
		b := &brokenStore{LogStore: NewEntryLogStore(newMemLog()), hang: make(chan struct{})}
		s, err := newLogStore(b, logStoreOptions{Limit: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.StoreLog(testEntry(1, 1))
		t.Fatal("the write returned")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestHungDiskEndsTheProcess$")
	cmd.Env = append(os.Environ(), "SNIPDB_TEST_HUNG_DISK=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "this node stops: its storage failed") {
		t.Fatalf("the process ended with %v and wrote:\n%s", err, out)
	}
}

// TestStoppedProcessIsNoHungDisk stops a process in the middle of a write, for
// longer than the limit, and lets it go on.
func TestStoppedProcessIsNoHungDisk(t *testing.T) {
	if os.Getenv("SNIPDB_TEST_STOPPED") == "1" {
		b := &brokenStore{LogStore: NewEntryLogStore(newMemLog()), hang: make(chan struct{})}
		s, err := newLogStore(b, logStoreOptions{Limit: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			fmt.Println("writing")
			for range 3 { // after the stop, one of these is still to come
				time.Sleep(100 * time.Millisecond)
			}
			close(b.hang)
		}()
		if err := s.StoreLog(testEntry(1, 1)); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestStoppedProcessIsNoHungDisk$")
	cmd.Env = append(os.Environ(), "SNIPDB_TEST_STOPPED=1")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() //nolint:errcheck // it has ended, if all is well
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// This is the stop itself, and no waiting for anything.
	time.Sleep(1500 * time.Millisecond)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the process ended with %v and wrote:\n%s%s", err, rest, errOut.String())
	}
}

func TestMigrateLog(t *testing.T) {
	from := openTestBolt(t, t.TempDir())
	defer from.Close()
	var logs []*raft.Log
	for i := uint64(5); i < 3000; i++ {
		l := testEntry(i, int(i%7)*10)
		l.AppendedAt, l.Extensions = time.Unix(0, int64(i)*1e9), []byte(fmt.Sprint(i))
		logs = append(logs, l)
	}
	if err := from.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	to := NewEntryLogStore(newMemLog())
	n, err := MigrateLog(from, to)
	if err != nil || n != uint64(len(logs)) {
		t.Fatalf("migrated %d entries: %v", n, err)
	}
	back := openTestBolt(t, t.TempDir())
	defer back.Close()
	if n, err := MigrateLog(to, back); err != nil || n != uint64(len(logs)) {
		t.Fatalf("migrated %d entries back: %v", n, err)
	}
	if _, err := MigrateLog(from, to); err == nil || !strings.Contains(err.Error(), "already holds entries") {
		t.Errorf("migration into a log with entries: %v", err)
	}
	if n, err := MigrateLog(NewEntryLogStore(newMemLog()), NewEntryLogStore(newMemLog())); n != 0 || err != nil {
		t.Errorf("migration of nothing: %d, %v", n, err)
	}
}

// forgetfulStore loses an entry, as a store with a fault might.
type forgetfulStore struct{ LogStore }

func (f forgetfulStore) StoreLogs(logs []*raft.Log) error {
	changed := *logs[len(logs)/2]
	changed.Data = []byte("something else")
	copied := slices.Clone(logs)
	copied[len(logs)/2] = &changed
	return f.LogStore.StoreLogs(copied)
}

func TestMigrateLogFindsADifference(t *testing.T) {
	from := NewEntryLogStore(newMemLog())
	if err := from.StoreLogs([]*raft.Log{testEntry(1, 1), testEntry(2, 1), testEntry(3, 1)}); err != nil {
		t.Fatal(err)
	}
	_, err := MigrateLog(from, forgetfulStore{NewEntryLogStore(newMemLog())})
	if err == nil || !strings.Contains(err.Error(), "entry 2 differs") {
		t.Fatalf("error is %v", err)
	}
}
