package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/linxGnu/grocksdb"

	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// LogOptions configure a Log. The zero value is usable.
type LogOptions struct {
	// MemtableBytes is how much is kept in memory before it is written to a
	// file: 0 is 16 MiB, the least is 64 KiB. A file is written at once, so a
	// large memtable makes a burst that the appends' syncs have to wait behind,
	// and a small one costs more syncs. A restart reads RocksDB's log, which
	// has one to two memtables, and up to four if the disk was behind.
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
	defaultLogMemtable = 16 << 20
	minLogMemtable     = 64 << 10
	defaultLogCache    = 8 << 20
	logMemtables       = 4
	// logFilesMax is how many files there may be before they are merged. A log
	// of the size that the snapshots leave has a dozen; only one that nobody
	// truncates, or a node that starts again and again, gets there.
	logFilesMax = 64
	// logNever is a number of files that is out of reach.
	logNever = 1 << 30
)

// logMemory is what a log with the default options takes at most.
const logMemory = logMemtables*defaultLogMemtable + defaultLogCache

// LogOptions are the log's within the memory budget: the defaults, or smaller
// ones if they would take more than logPercent of it.
func (o Options) LogOptions() (LogOptions, error) {
	r, err := o.resolve()
	if err != nil {
		return LogOptions{}, err
	}
	log := r.logOptions()
	log.Logger = o.Logger
	return log, nil
}

func (r *resolved) logOptions() LogOptions {
	share := min(r.memory/100*logPercent, logMemory)
	cache := share / 9 // as the defaults stand to each other
	return LogOptions{MemtableBytes: max((share-cache)/logMemtables, minLogMemtable), CacheBytes: cache}
}

// Log is an ordered record log on a RocksDB instance of its own: the entries
// of the Raft log, by index. An append is one synced write. It may be used
// from any goroutine.
//
//	key    1 byte 'e' | 8 bytes index, big-endian
//	value  8 bytes: record bytes appended up to and with this one, big-endian | record
//	key    1 byte 'F' | value 4 bytes format version, big-endian
//
// The running total makes Bytes two reads, whatever the length of the log.
// Files are not merged: what was truncated goes away with the whole file.
//
// Invariant L1: first and last are the first and last index in the database,
// 0 and 0 if it is empty.
// Invariant L2: an append is on stable storage when it returns.
// Invariant L3: a file is removed only if a deletion that covers all of it is
// on stable storage, and only if it is older than all other files.
type Log struct {
	dir string
	n   *native
	log *slog.Logger
	// pins counts the calls that use n.
	pins *pins
	// writes serialises changes, which is what RocksDB would do anyway.
	writes  sync.Mutex
	buf     []byte
	closing sync.Once
	// drops counts the goroutine that removes files: one or none.
	drops sync.WaitGroup

	// mu guards the fields below; it is held for no I/O, so readers never wait
	// for a sync.
	mu          sync.Mutex
	first, last uint64
	// before is the running total before the first record, total with the last.
	before, total uint64
	// garbage are files to remove, oldest first; dropping says that there is a
	// goroutine that does it.
	garbage  []string
	dropping bool
}

// logFormat is the version of the layout above.
const logFormat = 2

const (
	logEntryPrefix = 'e'
	logTotalBytes  = 8
)

var (
	// keyLogFormat sorts below all entries, so that a file's largest key is
	// that of an entry or the end of a deletion: see dead.
	keyLogFormat = []byte{'F'}
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
	o.MemtableBytes = failpoint.Value(failpoint.LogMemtable, o.MemtableBytes)
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
	n, err := openNative(dir, false, !o.NoSync && !mutant.On(mutant.LogUnsynced), opts, []string{"default"}, []*grocksdb.Options{opts})
	if err != nil {
		return nil, fmt.Errorf("storage: open log %s: %w", dir, err)
	}
	l := &Log{dir: dir, n: n, pins: newPins(), log: o.Logger}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if err := l.load(); err != nil {
		n.close()
		return nil, fmt.Errorf("storage: open log %s: %w", dir, err)
	}
	if err := l.dropLeft(); err != nil {
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
	setSpaceEnv(opts)
	opts.SetCreateIfMissing(true)
	opts.SetWriteBufferSize(uint64(o.MemtableBytes))
	opts.SetMaxWriteBufferNumber(logMemtables)
	// Every entry is written once to RocksDB's log and once to a file, and not
	// again: there is no merging below logFilesMax files, and nothing but full
	// memtables holds a writer up.
	// Universal compaction puts many small files together, which come from many
	// starts; level compaction would leave them small, as they don't overlap.
	opts.SetCompactionStyle(grocksdb.UniversalCompactionStyle)
	opts.SetNumLevels(1)
	opts.SetLevel0FileNumCompactionTrigger(logFilesMax)
	opts.SetLevel0SlowdownWritesTrigger(logNever)
	opts.SetLevel0StopWritesTrigger(logNever)
	opts.SetSoftPendingCompactionBytesLimit(math.MaxInt64)
	opts.SetHardPendingCompactionBytesLimit(math.MaxInt64)
	opts.SetMaxBackgroundJobs(2)
	opts.SetCompression(grocksdb.NoCompression) // LZ4 took more time than it saved
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
	if format != nil && (len(format) != 4 || binary.BigEndian.Uint32(format) != logFormat) {
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
	if format == nil && last.index != 0 {
		return fmt.Errorf("entries without a format: %w", ErrFormat)
	}
	if format == nil {
		w := newRep(nil)
		putLogFormat(&w)
		if err := l.n.writeRep(w.bytes()); err != nil {
			return err
		}
	}
	l.setEnds(first, last)
	return nil
}

func putLogFormat(w *rep) {
	w.put(0, keyLogFormat, binary.BigEndian.AppendUint32(nil, logFormat))
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
// they exist or not, as one synced write, and removes the files that have
// nothing else. Its cost does not grow with their number.
func (l *Log) DeleteRange(min, max uint64) error {
	if err := l.enter("delete from"); err != nil {
		return err
	}
	defer l.pins.release()
	files, err := l.deleteRange(min, max)
	if err == nil && len(files) > 0 {
		l.startDrop(files)
	}
	return err
}

// deleteRange writes the deletion, and returns the files without a live record.
func (l *Log) deleteRange(lo, hi uint64) ([]string, error) {
	l.writes.Lock()
	defer l.writes.Unlock()
	// Only what may exist: a deletion up to the end of the numbers would keep
	// its own file from ever looking dead.
	first, last, _ := l.Bounds()
	lo, hi = max(lo, first), min(hi, last)
	if last == 0 || lo > hi {
		return nil, nil
	}
	w := newRep(l.buf)
	w.deleteRange(0, appendLogKey(nil, lo), behind(hi))
	// Again, because the file with the row before may be removed.
	putLogFormat(&w)
	if err := l.n.writeRep(w.bytes()); err != nil {
		return nil, fmt.Errorf("storage: delete %d to %d from log: %w", lo, hi, err)
	}
	if err := l.trim(lo, hi); err != nil || lo > first {
		return nil, err
	}
	if hi == math.MaxUint64 {
		return nil, nil
	}
	// Not the first record: behind a gap, it would make the file of this very
	// deletion look dead, and with it the format row.
	return l.dead(hi + 1), nil
}

// dropLeft removes what a crash between a deletion and its drop has left.
func (l *Log) dropLeft() error {
	first, last, _ := l.Bounds()
	if last == 0 {
		return nil
	}
	files := l.dead(first)
	if len(files) == 0 {
		return nil
	}
	w := newRep(nil)
	putLogFormat(&w) // the newest one may be in such a file
	if err := l.n.writeRep(w.bytes()); err != nil {
		return err
	}
	l.startDrop(files)
	return nil
}

// dead lists the files, oldest first, whose largest key is below that of an
// index below which nothing is live. Such a file has no live record, no
// format row that a deletion behind it has not repeated, and no deletion that
// anything needs, if all older files go first. It must be called where no
// append can bring an index below first back.
func (l *Log) dead(first uint64) []string {
	var (
		bound = appendLogKey(nil, first)
		names []string
	)
	// RocksDB lists the newest first, and lets go of the oldest only.
	for _, f := range slices.Backward(l.n.db.GetLiveFilesMetaData()) {
		if bytes.Compare(f.LargestKey, bound) >= 0 {
			break
		}
		names = append(names, f.Name)
	}
	return names
}

// startDrop has the files removed in the background: each costs a sync, and a
// truncation of a large log has many. The list is the newest, so it has
// whatever an older one has left.
func (l *Log) startDrop(files []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.garbage = files
	if len(files) > 0 && !l.dropping {
		l.dropping = true
		l.drops.Add(1) // the caller's pin keeps Close from waiting already
		go l.drop()
	}
}

// drop removes files until there are no more, or the log is closed. What is
// left goes after the next deletion or open, so a failure costs space only; a
// disk that fails for good fails the next append.
func (l *Log) drop() {
	defer l.drops.Done()
	for {
		name, ok := l.nextGarbage()
		if !ok {
			return
		}
		failpoint.Hit(failpoint.LogFileBefore)
		err := l.n.deleteFile(name)
		failpoint.Hit(failpoint.LogFileAfter)
		l.pins.release()
		// A newer list may have been made before this goroutine went through
		// the older one.
		if err != nil && !strings.Contains(err.Error(), "File not found") {
			l.log.Warn("a file of the Raft log that is not needed any more stays for now", "file", name, "error", err)
			l.mu.Lock()
			l.garbage = nil
			l.mu.Unlock()
		}
	}
}

// nextGarbage takes a file and a pin; ok is false if there is nothing to do.
func (l *Log) nextGarbage() (name string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.garbage) == 0 || !l.pins.acquire() {
		l.dropping = false
		return "", false
	}
	name, l.garbage = l.garbage[0], l.garbage[1:]
	return name, true
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
		l.drops.Wait() // it has no pin any more, so it is about to end
		l.n.close()
	})
	return err
}
