package fsm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/failpoint"
)

// taken is a checkpoint on its way into the snapshot store.
type taken struct {
	f         *FSM
	dir       string
	clusterID string
	at        storage.Position

	once sync.Once
}

var _ raft.FSMSnapshot = (*taken)(nil)

// Snapshot implements raft.FSM. The checkpoint is taken here, while no entry
// is applied: it holds exactly the published position, and its flush makes the
// live database durable up to there. Writes wait for that flush, not for any copy.
//
// Invariant F7: the position inside a snapshot is not above the index that
// Raft gives it. Raft counts what it delivered; right after a restart that is
// less than what the state holds, and then the snapshot is refused.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return nil, fmt.Errorf("fsm: snapshot: %w", ErrStopped)
	}
	now := f.now.Load()
	if f.delivered < now.at.Index {
		return nil, fmt.Errorf("fsm: snapshot: delivered up to %d, applied %d: %w", f.delivered, now.at.Index, ErrReplaying)
	}
	start := time.Now()
	dir := f.snaps.Scratch()
	db, release := f.store.DB()
	defer release()
	if db == nil {
		return nil, fmt.Errorf("fsm: snapshot: %w", ErrClosed)
	}
	err := failpoint.Error(failpoint.CheckpointBefore)
	if err == nil {
		err = db.Checkpoint(dir)
	}
	if err != nil {
		f.metrics.snapshotFailures.Inc()
		return nil, errors.Join(fmt.Errorf("fsm: snapshot at index %d: %w", now.at.Index, err), os.RemoveAll(dir))
	}
	failpoint.Hit(failpoint.CheckpointAfter)
	f.metrics.snapshotSeconds.WithLabelValues("checkpoint").Observe(time.Since(start).Seconds())
	return &taken{f: f, dir: dir, clusterID: now.sys.clusterID, at: now.at}, nil
}

// Persist implements raft.FSMSnapshot: a rename if the sink is ours, a stream
// if not. Raft closes or cancels the sink.
func (t *taken) Persist(sink raft.SnapshotSink) error {
	start := time.Now()
	var err error
	if own, ok := sink.(*snapshot.Sink); ok {
		err = own.Adopt(t.dir, t.clusterID)
	} else {
		err = snapshot.WriteCheckpoint(sink, t.dir, t.clusterID, t.at.Index, t.at.Term)
	}
	if err != nil {
		t.f.metrics.snapshotFailures.Inc()
		return fmt.Errorf("fsm: persist snapshot at index %d: %w", t.at.Index, err)
	}
	t.f.metrics.snapshotSeconds.WithLabelValues("persist").Observe(time.Since(start).Seconds())
	return nil
}

// Release implements raft.FSMSnapshot. It is called whatever came of Persist;
// a checkpoint that was not adopted goes away.
func (t *taken) Release() {
	t.once.Do(func() {
		if err := os.RemoveAll(t.dir); err != nil {
			t.f.log.Warn("checkpoint stays until the next start", "dir", t.dir, "error", err)
		}
	})
}

// Restore implements raft.FSM. It builds the snapshot's state beside the old
// one, verifies it, and swaps; reads go on from the old state until then, and
// readers that still hold it keep it until they are done.
//
// Invariant F8: after an error the old state is untouched and goes on.
func (f *FSM) Restore(source io.ReadCloser) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil {
		return fmt.Errorf("fsm: restore: %w", ErrStopped)
	}
	f.restoring.Store(true)
	defer f.restoring.Store(false)
	failpoint.Hit(failpoint.RestoreBefore)
	start := time.Now()
	meta, err := f.install(source)
	if err != nil {
		f.metrics.restoreFailures.Inc()
		return fmt.Errorf("fsm: restore: %w", err)
	}
	// The state is another one now. If it can't be read there is no way back.
	if err := f.adopt(meta); err != nil {
		f.fail(fmt.Errorf("fsm: restore: read the installed state: %w", err))
		return err
	}
	failpoint.Hit(failpoint.RestoreAfter)
	f.metrics.restoreSeconds.Observe(time.Since(start).Seconds())
	f.log.Info("snapshot installed", "index", meta.Index, "term", meta.Term, "files", meta.Files, "bytes", meta.Size, "dur_ms", time.Since(start).Milliseconds())
	return nil
}

// install brings the snapshot's state into the store.
func (f *FSM) install(source io.ReadCloser) (meta snapshot.Meta, err error) {
	scratch, err := f.store.NewScratch()
	if err != nil {
		return meta, err
	}
	installed := false
	defer func() {
		if !installed {
			err = errors.Join(err, os.RemoveAll(scratch))
		}
	}()
	mine := f.ClusterID()
	if meta, err = snapshot.Materialize(source, scratch, mine); err != nil {
		return meta, err
	}
	failpoint.Hit(failpoint.RestoreCopied)
	at, clusterID, err := f.peek(scratch)
	if err != nil {
		return meta, err
	}
	// What the files say counts; the header came with them and may be wrong.
	if clusterID != meta.ClusterID {
		return meta, fmt.Errorf("the state is of cluster %q, the snapshot says %q: %w", clusterID, meta.ClusterID, snapshot.ErrCluster)
	}
	if at.Index > meta.Index || at.Term > meta.Term {
		return meta, fmt.Errorf("the state is at index %d term %d, the snapshot says %d and %d: %w",
			at.Index, at.Term, meta.Index, meta.Term, snapshot.ErrCorrupt)
	}
	if err := f.store.Install(scratch); err != nil {
		return meta, err
	}
	failpoint.Hit(failpoint.RestoreInstalled)
	installed = true
	return meta, nil
}

// peek reads what the files in a directory are of. Only those rows are read
// here: Store.Install reads all of them, and there is no need to do it twice.
func (f *FSM) peek(dir string) (at storage.Position, clusterID string, err error) {
	// Memory of its own, so that the live database's cache is left alone.
	shared, err := storage.NewShared(storage.Options{Profile: storage.Small})
	if err != nil {
		return at, "", err
	}
	defer shared.Close()
	db, err := storage.Open(dir, storage.Options{Profile: storage.Small, ReadOnly: true, Logger: f.o.Logger}, shared)
	if err != nil {
		return at, "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	view, err := db.View()
	if err != nil {
		return at, "", err
	}
	defer view.Close()
	id, err := view.System(clusterKey)
	return view.Position(), string(id), err
}

// adopt publishes the installed state. Its position is the snapshot's: the
// entries between what it applied last and the snapshot's index were none that
// reach a state machine (barriers).
func (f *FSM) adopt(meta snapshot.Meta) error {
	want := storage.Position{Index: meta.Index, Term: meta.Term}
	if f.store.Position() != want {
		if err := f.moveTo(want); err != nil {
			return err
		}
	}
	f.delivered = meta.Index
	return f.reload()
}

// moveTo commits a position without any change.
func (f *FSM) moveTo(at storage.Position) error {
	db, release := f.store.DB()
	defer release()
	if db == nil {
		return ErrClosed
	}
	b := db.NewBatch()
	defer b.Destroy()
	return db.Commit(b, at)
}
