package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage/failpoint"
)

// stream reads a checkpoint directory as a stream (see format.go).
type stream struct {
	dir   string
	files []File

	ready []byte // header or checksum bytes that go out next
	file  *os.File
	next  int
	left  int64
	sum   uint32
	err   error // sticky
}

// newStream checks that each file is there and has the length that the
// header announces, so that a damaged snapshot fails before the first byte.
func newStream(dir string, h *header) (*stream, error) {
	for _, f := range h.files {
		info, err := os.Lstat(filepath.Join(dir, f.Name))
		if err != nil {
			return nil, fmt.Errorf("snapshot: read: %w: %v", ErrCorrupt, err)
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size {
			return nil, fmt.Errorf("snapshot: read: file %s has %d bytes, %d were written: %w", f.Name, info.Size(), f.Size, ErrCorrupt)
		}
	}
	head, err := h.encode()
	if err != nil {
		return nil, fmt.Errorf("snapshot: read: %w", err)
	}
	return &stream{dir: dir, files: h.files, ready: head}, nil
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for s.err == nil && len(p) > 0 {
		if len(s.ready) > 0 {
			n := copy(p, s.ready)
			s.ready = s.ready[n:]
			return n, nil
		}
		if s.file != nil {
			if n := s.readFile(p); n > 0 {
				return n, nil
			}
			continue
		}
		s.openNext()
	}
	return 0, s.err
}

// openNext opens the next file, or ends the stream.
func (s *stream) openNext() {
	if s.next == len(s.files) {
		s.err = io.EOF
		return
	}
	f := s.files[s.next]
	s.next++
	s.left, s.sum = f.Size, 0
	if s.file, s.err = os.Open(filepath.Join(s.dir, f.Name)); s.err != nil {
		s.file, s.err = nil, fmt.Errorf("snapshot: read: %w", s.err)
	}
}

// readFile reads from the open file; at its end it makes the checksum ready.
func (s *stream) readFile(p []byte) int {
	if s.left == 0 {
		_ = s.file.Close()
		s.file = nil
		s.ready = binary.LittleEndian.AppendUint32(s.ready[:0], s.sum)
		return 0
	}
	n, err := s.file.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	s.sum = crc32.Update(s.sum, castagnoli, p[:n])
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the file became shorter
		}
		s.err = fmt.Errorf("snapshot: read: %w", err)
	}
	return n
}

func (s *stream) close() {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	if s.err == nil {
		s.err = fmt.Errorf("snapshot: read: %w", os.ErrClosed)
	}
}

// Reader is an open snapshot: a stream of exactly Meta.Size bytes. A restore
// on the same node doesn't read it but links its files (Materialize).
type Reader struct {
	store *Store
	meta  *metaFile

	mu     sync.Mutex
	stream *stream
	closed bool
}

// newReader opens a snapshot; the caller pins it.
func newReader(s *Store, m *metaFile) (*Reader, error) {
	st, err := newStream(filepath.Join(s.dir, m.Raft.ID, dbName), m.header())
	if err != nil {
		return nil, err
	}
	return &Reader{store: s, meta: m, stream: st}, nil
}

// Meta says what is read.
func (r *Reader) Meta() Meta { return r.meta.public() }

// SnapshotIndex is the index of the snapshot that is read. Package cluster asks
// for it by this method, because it must not import this package.
func (r *Reader) SnapshotIndex() uint64 { return r.meta.Raft.Index }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stream.Read(p)
}

// Close releases the snapshot. Further calls do nothing.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	r.stream.close()
	r.store.unpin(r.meta.Raft.ID)
	return nil
}

// linkInto fills an existing, empty directory.
func (r *Reader) linkInto(dir string) error {
	from := filepath.Join(r.store.dir, r.meta.Raft.ID, dbName)
	for _, f := range r.meta.Files {
		if err := linkOrCopy(from, dir, f); err != nil {
			return err
		}
		if err := failpoint.Error(failpoint.RestoreMiddle); err != nil {
			return err
		}
	}
	return syncPath(dir)
}

// Materialize rebuilds the checkpoint that a snapshot holds in dir, an
// existing and empty directory. src is what FSM.Restore is given: this
// package's Reader, however wrapped, is linked, and anything else is read as a
// stream. A stream of a cluster other than clusterID (unless that is "") is
// refused with ErrCluster. After an error the caller removes dir.
func Materialize(src io.ReadCloser, dir, clusterID string) (Meta, error) {
	check := func(h *header) error {
		if clusterID != "" && h.clusterID != clusterID {
			return fmt.Errorf("cluster %q, this node is in %q: %w", h.clusterID, clusterID, ErrCluster)
		}
		return nil
	}
	if r, ok := unwrap(src).(*Reader); ok {
		if err := check(r.meta.header()); err != nil {
			return Meta{}, fmt.Errorf("snapshot: restore: %w", err)
		}
		return r.Meta(), r.linkInto(dir)
	}
	h, err := receiveAll(dir, src, check)
	if err != nil {
		return Meta{}, err
	}
	size, err := h.streamSize()
	return Meta{Index: h.index, Term: h.term, ClusterID: h.clusterID, Size: size, Files: len(h.files)}, err
}

// unwrap takes the wrappers of hashicorp/raft off (it counts bytes for its
// progress log).
func unwrap(rc io.ReadCloser) io.ReadCloser {
	for {
		w, ok := rc.(raft.ReadCloserWrapper)
		if !ok {
			return rc
		}
		rc = w.WrappedReadCloser()
	}
}
