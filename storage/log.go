package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"

	"github.com/linxGnu/grocksdb"
)

// LogOptions configure a Log. The zero value is usable.
type LogOptions struct {
	// MemtableBytes is how much is kept in memory before it is written to a
	// file: 0 is 64 MiB, the least is 1 MiB. Entries that are deleted before
	// that are never written to a file at all. A restart reads up to twice as
	// much from RocksDB's log.
	MemtableBytes int64
	// CacheBytes is the block cache, for entries that are read back from
	// files: 0 is 8 MiB. It is the log's own.
	CacheBytes int64
	// NoSync leaves the writes in the page cache: a power loss takes
	// acknowledged entries with it. For tests.
	NoSync bool
	// Logger gets slow and rare events; nil discards them.
	Logger *slog.Logger
}

// The defaults and bounds of LogOptions.
const (
	defaultLogMemtable = 64 << 20
	minLogMemtable     = 1 << 20
	defaultLogCache    = 8 << 20
	logMemtables       = 4
	logFileBytes       = 64 << 20
)

// Log is an ordered record log on a RocksDB instance of its own: the entries
// of the Raft log, by index. An append is one synced write. It may be used
// from any goroutine.
//
//	key    1 byte 'e' | 8 bytes index, big-endian
//	value  8 bytes: record bytes appended up to and with this one, big-endian | record
//	key    1 byte 'f' | value 4 bytes format version, big-endian
//
// The running total makes Bytes two reads, whatever the length of the log.
//
// Invariant L1: first and last are the first and last index in the database,
// 0 and 0 if it is empty.
// Invariant L2: an append is on stable storage when it returns.
type Log struct {
	dir string
	n   *native
	// pins counts the calls that use n.
	pins *pins
	// writes serialises changes, which is what RocksDB would do anyway.
	writes  sync.Mutex
	buf     []byte
	closing sync.Once

	// mu guards the fields below; it is held for no I/O, so readers never wait
	// for a sync.
	mu          sync.Mutex
	first, last uint64
	// before is the running total before the first record, total with the last.
	before, total uint64
}

// logFormat is the version of the layout above.
const logFormat = 1

const (
	logEntryPrefix = 'e'
	logTotalBytes  = 8
)

var (
	keyLogFormat = []byte{'f'}
	logLo, logHi = []byte{logEntryPrefix}, []byte{logEntryPrefix + 1}
)

func appendLogKey(dst []byte, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, logEntryPrefix), index)
}

// OpenLog opens a log, and creates it if the directory is empty or absent.
func OpenLog(dir string, o LogOptions) (*Log, error) {
	if o.MemtableBytes == 0 {
		o.MemtableBytes = defaultLogMemtable
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultLogCache
	}
	if o.MemtableBytes < minLogMemtable || o.CacheBytes < 0 {
		return nil, fmt.Errorf("storage: open log: the memtable must have at least %d bytes and the cache 0, they have %d and %d",
			minLogMemtable, o.MemtableBytes, o.CacheBytes)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("storage: open log: %w", err)
	}
	opts, free := logNativeOptions(o)
	defer free()
	n, err := openNative(dir, false, !o.NoSync, opts, []string{"default"}, []*grocksdb.Options{opts})
	if err != nil {
		return nil, fmt.Errorf("storage: open log %s: %w", dir, err)
	}
	l := &Log{dir: dir, n: n, pins: newPins()}
	if err := l.load(); err != nil {
		n.close()
		return nil, fmt.Errorf("storage: open log %s: %w", dir, err)
	}
	return l, nil
}

// logNativeOptions are RocksDB's options for a queue: written at one end,
// deleted at the other, read near the ends.
func logNativeOptions(o LogOptions) (*grocksdb.Options, func()) {
	s := newNativeShared(o.CacheBytes, 0, false, 0.5, 0, 0)
	opts, table := newOptions(), newTableOptions()
	s.setTable(table)
	table.SetFormatVersion(tableFormatVersion)
	opts.SetBlockBasedTableFactory(table)
	opts.SetCreateIfMissing(true)
	opts.SetWriteBufferSize(uint64(o.MemtableBytes))
	opts.SetMaxWriteBufferNumber(logMemtables)
	opts.SetMaxTotalWalSize(uint64(2 * o.MemtableBytes))
	opts.SetTargetFileSizeBase(logFileBytes)
	opts.SetMaxBackgroundJobs(2)
	opts.SetCompression(grocksdb.NoCompression) // entries are short-lived
	opts.SetParanoidChecks(true)
	opts.SetBytesPerSync(1 << 20)
	opts.SetMaxLogFileSize(4 << 20)
	opts.SetKeepLogFileNum(2)
	opts.SetStatsDumpPeriodSec(0)
	opts.SetSkipStatsUpdateOnDBOpen(true)
	// Everything acknowledged was synced, so only an incomplete record at the
	// very end of the log may be missing. Damage before it is an error: to go
	// on without an acknowledged entry would break Raft's promise silently.
	opts.SetWALRecoveryMode(grocksdb.TolerateCorruptedTailRecordsRecovery)
	return opts, func() {
		freeTableOptions(table)
		freeOptions(opts)
		s.free()
	}
}

// load checks the format and finds both ends.
func (l *Log) load() error {
	format, err := l.n.get(0, nil, keyLogFormat, nil)
	if err != nil {
		return err
	}
	if format == nil {
		w := newRep(nil)
		w.put(0, keyLogFormat, binary.BigEndian.AppendUint32(nil, logFormat))
		if err := l.n.writeRep(w.bytes()); err != nil {
			return err
		}
	} else if len(format) != 4 || binary.BigEndian.Uint32(format) != logFormat {
		return fmt.Errorf("format %x, this release knows %d: %w", format, logFormat, ErrFormat)
	}
	first, err := l.end(logLo, logHi, 0)
	if err != nil {
		return err
	}
	last, err := l.end(logLo, logHi, scanReverse)
	if err != nil {
		return err
	}
	l.setEnds(first, last)
	return nil
}

// logEnd is the first or last record of a range.
type logEnd struct {
	index  uint64
	total  uint64 // running total with this record
	length uint64
}

// end returns the first record in [lo, hi), or the last one; zero if none.
func (l *Log) end(lo, hi []byte, flags int) (logEnd, error) {
	sc := l.n.newScan(0, nil, lo, hi, flags, nil)
	defer sc.close()
	sc.fill = 1
	key, value, ok := sc.next()
	if !ok {
		return logEnd{}, sc.err
	}
	if len(key) != 9 || len(value) < logTotalBytes {
		return logEnd{}, fmt.Errorf("log row %x of %d bytes: %w", key, len(value), ErrCorrupt)
	}
	return logEnd{index: binary.BigEndian.Uint64(key[1:]), total: binary.BigEndian.Uint64(value), length: uint64(len(value) - logTotalBytes)}, nil
}

// setEnds publishes both ends.
func (l *Log) setEnds(first, last logEnd) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first, l.last = first.index, last.index
	l.before, l.total = first.total-first.length, last.total
}

func (l *Log) enter(verb string) error {
	if !l.pins.acquire() {
		return fmt.Errorf("storage: %s log %s: %w", verb, l.dir, ErrClosed)
	}
	return nil
}

// Append writes records under their indexes, which must rise, as one atomic
// synced write. A record that exists is replaced. After an error nothing is
// known of what is on disk: stop the process.
func (l *Log) Append(indexes []uint64, records [][]byte) error {
	if len(indexes) != len(records) {
		return fmt.Errorf("storage: append to log: %d indexes for %d records", len(indexes), len(records))
	}
	if len(indexes) == 0 {
		return nil
	}
	for i, index := range indexes {
		if index == 0 || i > 0 && index <= indexes[i-1] {
			return fmt.Errorf("storage: append to log: index %d at place %d: indexes must rise, from 1 on", index, i)
		}
	}
	if err := l.enter("append to"); err != nil {
		return err
	}
	defer l.pins.release()
	l.writes.Lock()
	defer l.writes.Unlock()

	_, last, _ := l.Bounds()
	l.mu.Lock()
	total := l.total
	l.mu.Unlock()
	w := newRep(l.buf)
	var key [9]byte
	var head [logTotalBytes]byte
	for i, record := range records {
		total += uint64(len(record))
		binary.BigEndian.PutUint64(head[:], total)
		w.putTwo(0, appendLogKey(key[:0], indexes[i]), head[:], record)
	}
	if cap(w.b) <= keptRepBytes {
		l.buf = w.b
	}
	if err := l.n.writeRep(w.bytes()); err != nil {
		return fmt.Errorf("storage: append to log: %w", err)
	}
	if indexes[0] <= last {
		return l.reload() // replaced records: rare, and the totals must be right
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == 0 {
		l.first, l.before = indexes[0], l.total
	}
	l.last, l.total = indexes[len(indexes)-1], total
	return nil
}

// reload finds both ends again.
func (l *Log) reload() error {
	first, err := l.end(logLo, logHi, 0)
	if err != nil {
		return fmt.Errorf("storage: read log: %w", err)
	}
	last, err := l.end(logLo, logHi, scanReverse)
	if err != nil {
		return fmt.Errorf("storage: read log: %w", err)
	}
	l.setEnds(first, last)
	return nil
}

// Get returns a record, or ok == false if there is none.
func (l *Log) Get(index uint64) (record []byte, ok bool, err error) {
	if err := l.enter("read"); err != nil {
		return nil, false, err
	}
	defer l.pins.release()
	if first, last, _ := l.Bounds(); index < first || index > last || last == 0 {
		return nil, false, nil
	}
	var key [9]byte
	value, err := l.n.get(0, nil, appendLogKey(key[:0], index), nil)
	if err != nil {
		return nil, false, fmt.Errorf("storage: read log at %d: %w", index, err)
	}
	if value == nil {
		return nil, false, nil
	}
	if len(value) < logTotalBytes {
		return nil, false, fmt.Errorf("storage: read log at %d: %d bytes: %w", index, len(value), ErrCorrupt)
	}
	return value[logTotalBytes:], true, nil
}

// Bounds returns the first and the last index; 0 and 0 if the log is empty.
func (l *Log) Bounds() (first, last uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, l.last, nil
}

// Bytes is how many bytes of records the log holds. Records that were deleted
// from its middle, or replaced, are still counted until an end passes them.
func (l *Log) Bytes() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total - min(l.before, l.total)
}

// DeleteRange deletes the records from min to max, both included, whether
// they exist or not, as one synced write. Its cost does not grow with their
// number.
func (l *Log) DeleteRange(min, max uint64) error {
	if min > max {
		return nil
	}
	if err := l.enter("delete from"); err != nil {
		return err
	}
	defer l.pins.release()
	l.writes.Lock()
	defer l.writes.Unlock()
	w := newRep(l.buf)
	w.deleteRange(0, appendLogKey(nil, min), behind(max))
	if err := l.n.writeRep(w.bytes()); err != nil {
		return fmt.Errorf("storage: delete %d to %d from log: %w", min, max, err)
	}
	return l.trim(min, max)
}

// trim moves the ends after a deletion.
func (l *Log) trim(min, max uint64) error {
	first, last, _ := l.Bounds()
	if last == 0 || max < first || min > last {
		return nil
	}
	if min > first && max < last {
		return nil // a hole; both ends stay
	}
	var (
		a, b logEnd
		err  error
	)
	if min <= first && max >= last {
		l.mu.Lock()
		l.first, l.last, l.before = 0, 0, l.total // the total goes on
		l.mu.Unlock()
		return nil
	}
	// The scans begin behind what was deleted, not at the old end, so that
	// they meet no remains of it.
	lo, hi := appendLogKey(nil, first), behind(last)
	if min <= first {
		lo = behind(max)
	} else {
		hi = appendLogKey(nil, min)
	}
	if a, err = l.end(lo, logHi, 0); err == nil {
		b, err = l.end(logLo, hi, scanReverse)
	}
	if err != nil {
		return fmt.Errorf("storage: read log: %w", err)
	}
	l.setEnds(a, b)
	return nil
}

// behind returns the first key behind an index.
func behind(index uint64) []byte {
	if index == math.MaxUint64 {
		return logHi
	}
	return appendLogKey(nil, index+1)
}

// logCloseTimeout bounds the wait for calls that are running.
const logCloseTimeout = defaultCloseTimeout

// Close waits for running calls and closes the log. Calling it again does
// nothing.
func (l *Log) Close() error {
	var err error
	l.closing.Do(func() {
		l.pins.close()
		if err = l.pins.wait(logCloseTimeout); err != nil {
			err = fmt.Errorf("storage: close log %s: %w", l.dir, errors.Join(ErrClosed, err))
			return
		}
		l.n.close()
	})
	return err
}
