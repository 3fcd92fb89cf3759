package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage/failpoint"
)

// Sink makes one snapshot, in one of two ways: Adopt takes a checkpoint
// directory that this node made, Write takes a stream from another node.
// Close makes it visible, Cancel removes it.
type Sink struct {
	store *Store
	tmp   string

	mu   sync.Mutex
	meta metaFile
	recv *receiver // not nil once Write was called
	full bool      // db/ is complete
	over bool      // closed or cancelled
}

var _ raft.SnapshotSink = (*Sink)(nil)

// errSink is the misuse of a sink: a fault of the program, not of the data.
var errSink = errors.New("the sink is used twice or after its end")

// ID implements raft.SnapshotSink.
func (s *Sink) ID() string { return s.meta.Raft.ID }

// Adopt makes a checkpoint directory the content of the snapshot, by renaming
// it: it must be on the same file system (Store.Scratch). After an error the
// directory is still the caller's.
func (s *Sink) Adopt(checkpoint, clusterID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.full || s.recv != nil {
		return fmt.Errorf("snapshot: adopt %s: %w", checkpoint, errSink)
	}
	files, err := listFiles(checkpoint)
	if err != nil {
		return err
	}
	s.meta.ClusterID, s.meta.Files = clusterID, files
	if err := s.measure(); err != nil {
		return err
	}
	// RocksDB syncs what it copies, but doesn't promise it for each file.
	if err := syncFiles(checkpoint, files); err != nil {
		return err
	}
	failpoint.Hit(failpoint.PersistBeforeRename)
	if err := os.Rename(checkpoint, filepath.Join(s.tmp, dbName)); err != nil {
		return fmt.Errorf("snapshot: adopt %s: %w", checkpoint, err)
	}
	failpoint.Hit(failpoint.PersistAfterRename)
	s.full = true
	return nil
}

// measure sets the size that the stream will have.
func (s *Sink) measure() error {
	size, err := s.meta.header().streamSize()
	if err != nil {
		return fmt.Errorf("snapshot: measure %s: %w", s.ID(), err)
	}
	s.meta.Raft.Size = size
	return nil
}

// Write implements io.Writer: the next piece of a stream (see format.go).
func (s *Sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.full {
		return 0, fmt.Errorf("snapshot: write %s: %w", s.ID(), errSink)
	}
	if s.recv == nil {
		db := filepath.Join(s.tmp, dbName)
		if err := os.Mkdir(db, dirMode); err != nil {
			return 0, fmt.Errorf("snapshot: write %s: %w", s.ID(), err)
		}
		recv, err := newReceiver(db, s.accept)
		if err != nil {
			return 0, err
		}
		s.recv = recv
	}
	return s.recv.Write(p)
}

// accept checks a stream's header before the first file is created.
func (s *Sink) accept(h *header) error {
	if h.index != s.meta.Raft.Index || h.term != s.meta.Raft.Term {
		return fmt.Errorf("the stream is of index %d term %d, announced were %d and %d: %w",
			h.index, h.term, s.meta.Raft.Index, s.meta.Raft.Term, ErrCorrupt)
	}
	if err := s.store.checkCluster(h.clusterID); err != nil {
		return err
	}
	if err := s.store.checkSpace(h); err != nil {
		return err
	}
	s.meta.ClusterID, s.meta.Files = h.clusterID, h.files
	return s.measure()
}

// checkSpace returns ErrSpace if the files of a stream don't fit.
func (s *Store) checkSpace(h *header) error {
	total, err := h.total()
	if err != nil {
		return err
	}
	free, err := s.o.FreeBytes(s.dir)
	if err != nil {
		return err
	}
	need := uint64(total) + uint64(max(s.o.ReserveBytes, 0))
	if need > free {
		return fmt.Errorf("%d bytes and a reserve of %d are needed, %d are free in %s: %w",
			total, max(s.o.ReserveBytes, 0), free, s.dir, ErrSpace)
	}
	return nil
}

// Close implements raft.SnapshotSink: it makes the snapshot durable, then
// visible, then removes older ones. After an error, and after Cancel, nothing
// of the snapshot is left. Calls after the first return nil.
//
// Invariant S1: a visible directory is complete and durable; the rename is
// the only step that makes it visible, and it comes last.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	if err := s.publish(); err != nil {
		return errors.Join(err, os.RemoveAll(s.tmp))
	}
	return nil
}

func (s *Sink) publish() error {
	if s.recv != nil {
		if err := s.recv.finish(); err != nil {
			return err
		}
		s.full = true
	}
	if !s.full {
		return fmt.Errorf("snapshot: close %s: nothing was written: %w", s.ID(), ErrCorrupt)
	}
	raw, err := encodeMeta(s.meta)
	if err != nil {
		return fmt.Errorf("snapshot: encode %s: %w", metaName, err)
	}
	path := filepath.Join(s.tmp, metaName)
	if err := os.WriteFile(path, raw, fileMode); err != nil {
		return fmt.Errorf("snapshot: write %s: %w", metaName, err)
	}
	if err := errors.Join(syncPath(path), syncPath(s.tmp), failpoint.Error(failpoint.PublishBeforeRename)); err != nil {
		return err
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if err := s.outdated(); err != nil {
		return err
	}
	if err := os.Rename(s.tmp, filepath.Join(s.store.dir, s.ID())); err != nil {
		return fmt.Errorf("snapshot: publish %s: %w", s.ID(), err)
	}
	failpoint.Hit(failpoint.PublishAfterRename)
	if err := syncPath(s.store.dir); err != nil {
		// Visible, but perhaps not for ever: the old one must stay, and raft
		// must not trim its log. Take it back.
		return errors.Join(err, os.RemoveAll(filepath.Join(s.store.dir, s.ID())))
	}
	s.store.log.Info("snapshot stored", "id", s.ID(), "index", s.meta.Raft.Index, "term", s.meta.Raft.Term,
		"files", len(s.meta.Files), "bytes", s.meta.Raft.Size, "received", s.recv != nil)
	s.store.reap(s.ID())
	return nil
}

// outdated refuses a snapshot of this node's own that a received one has
// overtaken: raft would take its index for the newest (takeSnapshot sets
// lastSnapshot without a look), and the log would end before the state. The
// store's lock is held.
func (s *Sink) outdated() error {
	if s.recv != nil {
		return nil
	}
	metas, err := s.store.metas()
	if err != nil {
		return err
	}
	for _, m := range metas {
		if m.Raft.Index > s.meta.Raft.Index {
			return fmt.Errorf("snapshot: publish %s: %w: %s is there", s.ID(), ErrOutdated, m.Raft.ID)
		}
	}
	return nil
}

// Cancel implements raft.SnapshotSink. After Close it does nothing.
func (s *Sink) Cancel() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	if s.recv != nil {
		s.recv.close()
	}
	if err := os.RemoveAll(s.tmp); err != nil {
		return fmt.Errorf("snapshot: cancel %s: %w", s.ID(), err)
	}
	return nil
}

// WriteCheckpoint writes the stream of a checkpoint directory to a sink that
// is not this package's, for example raft.InmemSnapshotStore's.
func WriteCheckpoint(w io.Writer, checkpoint, clusterID string, index, term uint64) error {
	files, err := listFiles(checkpoint)
	if err != nil {
		return err
	}
	r, err := newStream(checkpoint, &header{clusterID: clusterID, index: index, term: term, files: files})
	if err != nil {
		return err
	}
	defer r.close()
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("snapshot: write %s: %w", checkpoint, err)
	}
	return nil
}
