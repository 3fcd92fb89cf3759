package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/storage/failpoint"
)

const (
	// defaultWriteLimit is how long one write may take. A disk that needs
	// longer makes a leader that commits nothing, and keeps its office,
	// because heartbeats do not touch the disk.
	defaultWriteLimit = 10 * time.Second
	// entryOverhead is added to the data of each entry: what the record, its
	// key and its index entry take, roughly. It keeps a log of many tiny
	// entries from looking free.
	entryOverhead = 64
)

// logStoreOptions configure the fail-stop stores.
type logStoreOptions struct {
	// Limit is how long one write may take; 0 is 10 s.
	Limit time.Duration
	// Fatal must end the process. nil logs and exits with status 1: no panic,
	// which somebody could recover from, and no deferred call, which could
	// wait for the very disk that hangs.
	Fatal func(error)
	// Excuse says that a write that takes long has a reason that is no fault of
	// the disk: the time does not count. nil: never.
	Excuse     func() bool
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// errStopped is what a store answers after its Fatal was called.
var errStopped = errors.New("cluster: the store has failed and takes no more work")

// guard makes a store fail-stop: an error, or a write that takes longer than
// the limit, ends the process.
//
// Why not return the error to raft: after a failed append raft's idea of its
// last entry can be wrong (its own comment in appendEntries says so), a leader
// steps down only to be elected again (hashicorp/raft #614), and a write that
// was given up as too slow may still land, under entries of a later term.
type guard struct {
	what  string
	limit time.Duration
	fatal func(error)
	// excuse is Excuse of the options.
	excuse func() bool
	// state is 0, guardFailed or guardStopped.
	state atomic.Int32
}

const (
	guardFailed  = 1
	guardStopped = 2
)

func newGuard(what string, o logStoreOptions) *guard {
	g := &guard{what: what, limit: o.Limit, fatal: o.Fatal, excuse: o.Excuse}
	if g.excuse == nil {
		g.excuse = func() bool { return false }
	}
	if g.limit <= 0 {
		g.limit = defaultWriteLimit
	}
	if g.fatal == nil {
		logger := o.Logger
		if logger == nil {
			logger = slog.Default()
		}
		g.fatal = func(err error) {
			logger.Error("this node stops: its storage failed", "error", err)
			os.Exit(1)
		}
	}
	return g
}

// watchSteps is into how many ticks the limit is cut: see watch.
const watchSteps = 10

// watch is the watchdog of one write. It runs on timers, that is on goroutines
// of the runtime, so that a hung disk can't keep the process. It counts ticks
// instead of looking at the clock: a process that was stopped for a while
// (SIGSTOP, a virtual machine on its way to another host) comes back one tick
// older, and does not take its own sleep for a hung disk.
type watch struct {
	step    time.Duration
	expired func()
	excuse  func() bool

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	ticks int
	done  bool
}

func startWatch(limit time.Duration, excuse func() bool, expired func()) *watch {
	w := &watch{step: limit / watchSteps, expired: expired, excuse: excuse}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.step, w.tick)
	return w
}

func (w *watch) tick() {
	w.mu.Lock()
	if w.done {
		w.mu.Unlock()
		return
	}
	if w.excuse() {
		w.ticks = 0
	} else {
		w.ticks++
	}
	if w.ticks < watchSteps {
		w.timer.Reset(w.step)
		w.mu.Unlock()
		return
	}
	w.done = true
	w.mu.Unlock()
	w.expired()
}

// inTime ends the watch; false if it has expired.
func (w *watch) inTime() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return false
	}
	w.done = true
	w.timer.Stop()
	return true
}

// do runs one write under the watchdog.
func (g *guard) do(op string, f func() error) error {
	if g.state.Load() == guardFailed {
		return errStopped
	}
	w := startWatch(g.limit, g.excuse, func() {
		g.fail(fmt.Errorf("cluster: %s: %s: the disk did not answer in %v: check the disk; this node restarts without loss", g.what, op, g.limit))
	})
	err := f()
	if !w.inTime() {
		// Too late, whatever f says: see the type's comment.
		return errStopped
	}
	if err != nil {
		err = fmt.Errorf("cluster: %s: %s: %w", g.what, op, err)
		g.fail(err)
	}
	return err
}

// fail calls Fatal, once, unless the store is being closed: then an error is
// that of a late reader.
func (g *guard) fail(err error) {
	if g.state.CompareAndSwap(0, guardFailed) {
		g.fatal(err)
	}
}

// stop ends the watch: call it before the close.
func (g *guard) stop() { g.state.CompareAndSwap(0, guardStopped) }

// logStore wraps a LogStore: it is fail-stop, and knows how many bytes lie
// behind each index, because everything that is bounded here is bounded in
// bytes while raft counts entries.
//
// It does not say that it is monotonic. raft would then drop the whole log
// after it installed a snapshot, even entries above the snapshot that this
// node has already acknowledged (Raft, figure 13, rule 6: retain them), if an
// InstallSnapshot that was given up arrives late.
type logStore struct {
	store   LogStore
	guard   *guard
	metrics *logMetrics

	mu    sync.Mutex // guards sizes; never held over I/O
	sizes logSizes
}

// newLogStore reads the log once, for the sizes, and owns it.
func newLogStore(l LogStore, o logStoreOptions) (*logStore, error) {
	s := &logStore{store: l, guard: newGuard("log", o)}
	if err := s.scan(); err != nil {
		return nil, err
	}
	s.metrics = newLogMetrics(o.Registerer, func() float64 { return float64(s.bytes()) })
	return s, nil
}

// scan reads from the last entry down to the first gap. A gap is what raft
// leaves when it installs a snapshot above the end of the log; what lies below
// it is in the snapshot and of no use to a follower.
//
// Invariant L2: after the open the log is contiguous. What is below the
// highest gap is deleted.
func (s *logStore) scan() error {
	first, last, err := logBounds(s.store)
	if err != nil {
		return fmt.Errorf("cluster: scan log: %w", err)
	}
	if first == 0 {
		return nil
	}
	var sizes []uint64
	index := last
	for ; index >= first; index-- {
		var l raft.Log
		err := s.store.GetLog(index, &l)
		if errors.Is(err, raft.ErrLogNotFound) {
			break
		}
		if err != nil {
			return fmt.Errorf("cluster: scan log at entry %d: %w", index, err)
		}
		sizes = append(sizes, entrySize(&l))
	}
	for i := range sizes {
		s.sizes.add(index+1+uint64(i), sizes[len(sizes)-1-i])
	}
	if index < first {
		return nil
	}
	if err := s.store.DeleteRange(first, index); err != nil {
		return fmt.Errorf("cluster: scan log: delete entries %d to %d below a gap: %w", first, index, err)
	}
	return nil
}

func entrySize(l *raft.Log) uint64 {
	return uint64(len(l.Data)) + uint64(len(l.Extensions)) + entryOverhead
}

// FirstIndex returns the lowest index, 0 if the log is empty.
func (s *logStore) FirstIndex() (uint64, error) {
	first, err := s.store.FirstIndex()
	return first, s.read("first index", err)
}

// LastIndex returns the highest index, 0 if the log is empty.
func (s *logStore) LastIndex() (uint64, error) {
	last, err := s.store.LastIndex()
	return last, s.read("last index", err)
}

// GetLog reads an entry; raft.ErrLogNotFound if there is none.
func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	return s.read("read entry", s.store.GetLog(index, l))
}

// read makes an error of a read fatal: an entry that can't be read can't be
// replicated or applied, and raft panics on it at best.
func (s *logStore) read(op string, err error) error {
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	err = fmt.Errorf("cluster: log: %s: %w", op, err)
	s.guard.fail(err)
	return err
}

// StoreLog writes one entry.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes entries in one durable write.
//
// Invariant L1: they ascend and lie above the last one. raft truncates before
// it overwrites; if it ever does not, the log is not what it believes.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	var total uint64
	s.mu.Lock()
	last := s.sizes.last()
	s.mu.Unlock()
	for _, l := range logs {
		if l.Index <= last {
			err := fmt.Errorf("cluster: log: L1 violated: entry %d written after entry %d", l.Index, last)
			s.guard.fail(err)
			return err
		}
		last = l.Index
		total += entrySize(l)
	}
	start := time.Now()
	op := fmt.Sprintf("write entries %d to %d", logs[0].Index, last)
	err := s.guard.do(op, func() error {
		if err := failpoint.Error(failpoint.LogStoreBefore); err != nil {
			return err
		}
		return s.store.StoreLogs(logs)
	})
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.LogStoreAfter)
	s.metrics.write.Observe(time.Since(start).Seconds())
	s.metrics.written.Add(float64(total))
	s.metrics.entries.Add(float64(len(logs)))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range logs {
		s.sizes.add(l.Index, entrySize(l))
	}
	return nil
}

// DeleteRange removes min to max, both included.
func (s *logStore) DeleteRange(min, max uint64) error {
	start := time.Now()
	op := fmt.Sprintf("delete entries %d to %d", min, max)
	failpoint.Hit(failpoint.LogDeleteBefore)
	if err := s.guard.do(op, func() error { return s.store.DeleteRange(min, max) }); err != nil {
		return err
	}
	failpoint.Hit(failpoint.LogDeleteAfter)
	s.metrics.remove.Observe(time.Since(start).Seconds())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes.remove(min, max)
	return nil
}

// Close closes the store. Call it after raft has ended.
func (s *logStore) Close() error {
	s.guard.stop()
	return s.store.Close()
}

// bytes is the size of all entries, with entryOverhead for each.
func (s *logStore) bytes() uint64 { return s.bytesSince(0) }

// bytesSince is the size of the entries above index.
func (s *logStore) bytesSince(index uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sizes.since(index)
}

// indexForTrailingBytes returns how many of the newest entries fit into so
// many bytes: what raft's TrailingLogs is to be for a byte-bounded log.
func (s *logStore) indexForTrailingBytes(bytes uint64) (trailingEntries uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sizes.trailing(bytes)
}
