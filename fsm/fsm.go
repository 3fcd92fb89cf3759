package fsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/snippet"
)

// The errors that callers branch on.
var (
	// ErrClosed: the state machine is closed; waits end with it.
	ErrClosed = errors.New("the state machine is closed")
	// ErrTooManyWaiters: MaxWaiters callers wait for an index already.
	ErrTooManyWaiters = errors.New("too many requests wait for the applied index")
	// ErrReplaying: no snapshot can be taken while Raft replays entries that
	// the state already holds.
	ErrReplaying = errors.New("entries that are already applied are being replayed")
	// ErrStopped: an earlier entry could not be applied; see Options.Fatal.
	ErrStopped = errors.New("the state machine has stopped after a failure")
)

// Options configures an FSM. The zero value is usable.
type Options struct {
	// Logger gets what an operator wants to see; nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil keeps them private.
	Registerer prometheus.Registerer
	// Fatal is called when an entry can't be applied. It must not return in a
	// server: the node would fall silent while it still votes. nil logs the
	// error and ends the process with status 1.
	Fatal func(error)
}

// FSM implements raft.BatchingFSM on a storage.Store. Raft calls Apply,
// ApplyBatch, Snapshot and Restore from one goroutine; everything else may be
// called from any.
type FSM struct {
	store   *storage.Store
	snaps   *snapshot.Store
	o       Options
	log     *slog.Logger
	metrics *metrics
	rules   rules

	// mu is held by ApplyBatch, Snapshot and Restore. Raft needs no lock, but
	// the start-up check restores too, before Raft runs.
	mu sync.Mutex
	// delivered is the highest index that Raft handed over since this process
	// started, applied or skipped. Guarded by mu.
	delivered uint64
	// stopped is set by the first failure, for ever. Guarded by mu.
	stopped error

	// now is the last committed state that readers may rest on. It is replaced,
	// never changed. Invariant F5: it is stored after the batch is written.
	now       atomic.Pointer[published]
	restoring atomic.Bool
	waiters   waiters
}

// published is one committed position with the small rows as of it.
type published struct {
	at   storage.Position
	sys  system
	hash stateHash
}

// stateHash is the state hash at a position, with the newest points before it.
type stateHash struct {
	sum    snippet.Sum
	points []storage.Point // replaced, never changed
}

// rules are the constants of the format that tests want smaller.
type rules struct {
	retentionMs  int64
	maxRows      int64
	maxMoved     int64
	maxVisited   int
	maxSnippets  int
	maxColls     int
	maxOwnerDocs int
	batchBytes   int
}

var _ raft.BatchingFSM = (*FSM)(nil)

// New makes a state machine of what the store holds. snaps is told the
// cluster's id, now or when it becomes known. Neither is closed by the FSM.
func New(store *storage.Store, snaps *snapshot.Store, o Options) (*FSM, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	log := o.Logger.With("component", "fsm")
	if o.Fatal == nil {
		o.Fatal = func(err error) {
			log.Error("the state machine can't go on; this process stops so that it does not diverge", "error", err)
			os.Exit(1)
		}
	}
	f := &FSM{store: store, snaps: snaps, o: o, log: log, rules: formatRules()}
	var err error
	if f.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, fmt.Errorf("fsm: register metrics: %w", err)
	}
	if err := f.reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// reload publishes what the store holds now.
func (f *FSM) reload() error {
	view, err := f.store.View()
	if err != nil {
		return fmt.Errorf("fsm: read state: %w", err)
	}
	defer view.Close()
	sys, err := loadSystem(view)
	if err != nil {
		return err
	}
	sum, points, err := view.StateHash()
	if err != nil {
		return fmt.Errorf("fsm: read state: %w", err)
	}
	f.publish(view.Position(), sys, stateHash{sum: sum, points: points})
	return nil
}

// publish makes a committed position visible and wakes its waiters.
func (f *FSM) publish(at storage.Position, sys system, hash stateHash) {
	if old := f.now.Load(); sys.clusterID != "" && (old == nil || old.sys.clusterID != sys.clusterID) {
		f.snaps.SetClusterID(sys.clusterID)
	}
	f.now.Store(&published{at: at, sys: sys, hash: hash})
	f.metrics.applied.Set(float64(at.Index))
	f.waiters.wake(at.Index)
}

// Close ends all waits with ErrClosed. It may be called more than once.
func (f *FSM) Close() { f.waiters.close() }

// Applied returns the position that is visible to reads.
func (f *FSM) Applied() (index, term uint64) {
	at := f.now.Load().at
	return at.Index, at.Term
}

// StateHash returns the state hash at the applied position, and those at the
// newest Ticks, oldest first, all of one moment. Nodes that applied the same log
// have the same (invariant F13). The slice must not be changed.
func (f *FSM) StateHash() (now storage.Point, points []storage.Point) {
	p := f.now.Load()
	return storage.Point{Position: p.at, Sum: p.hash.sum}, p.hash.points
}

// WaitApplied returns nil when the applied index is at least index. It
// returns the context's error, ErrClosed or ErrTooManyWaiters, wrapped.
func (f *FSM) WaitApplied(ctx context.Context, index uint64) error {
	if f.now.Load().at.Index >= index {
		return nil
	}
	err := f.waiters.wait(ctx, index, func() bool { return f.now.Load().at.Index >= index })
	if err != nil {
		return fmt.Errorf("fsm: wait for index %d, applied is %d: %w", index, f.now.Load().at.Index, err)
	}
	return nil
}

// View returns a view that holds at least the entry index, after a wait if
// need be. The caller closes it. Errors: those of WaitApplied and of storage.
func (f *FSM) View(ctx context.Context, index uint64) (*storage.View, error) {
	if err := f.WaitApplied(ctx, index); err != nil {
		return nil, err
	}
	view, err := f.store.View()
	if err != nil {
		return nil, fmt.Errorf("fsm: open view: %w", err)
	}
	return view, nil
}

// ClusterID returns the cluster's id, "" before the first command.
func (f *FSM) ClusterID() string { return f.now.Load().sys.clusterID }

// Members returns where the nodes can be reached, by node id. The caller must
// not change them.
func (f *FSM) Members() []*command.Member { return f.now.Load().sys.members }

// Limits returns the run-time limits. The caller must not change them.
func (f *FSM) Limits() []*command.RateLimit { return f.now.Load().sys.limits }

// ClockMs is the replicated clock, in Unix milliseconds; 0 before the first command.
func (f *FSM) ClockMs() int64 { return f.now.Load().sys.clockMs }

// TickTerm is the newest term of which a Tick is applied: a leader of that
// term has applied everything that was committed before its election.
func (f *FSM) TickTerm() uint64 { return f.now.Load().sys.tickTerm }

// Restoring says whether a snapshot is being installed; reads see the state
// from before.
func (f *FSM) Restoring() bool { return f.restoring.Load() }

// fail stops the state machine. f.mu is held.
func (f *FSM) fail(err error) {
	if f.stopped == nil {
		f.stopped = err
	}
	f.o.Fatal(err)
}
