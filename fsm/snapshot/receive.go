package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"

	"github.com/snipdb/snipdb/storage/failpoint"
)

// receiver rebuilds a snapshot's directory from its stream. The stream is
// pushed into it (Write) in pieces of any size, because that is how
// hashicorp/raft hands it over. It trusts nothing: memory grows with the bytes
// that arrived, never with the numbers they announce.
//
// Invariant S3: a file is complete, checksummed and synced before the next
// one is begun, and finish succeeds only if every byte that the header
// announces has arrived and not one more.
type receiver struct {
	root   *os.Root // no name can leave it, whatever the pattern let through
	dir    string
	accept func(*header) error // called once, before any file is created

	buffer []byte // the header, or a file's checksum, as far as it arrived
	want   int    // how long buffer must become; 0 while a file's bytes are read
	head   *header

	next int // the file being read
	file *os.File
	left int64
	sum  hash.Hash32

	done bool
	err  error // sticky
}

// newReceiver starts in an existing, empty directory.
func newReceiver(dir string, accept func(*header) error) (*receiver, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("snapshot: receive into %s: %w", dir, err)
	}
	return &receiver{root: root, dir: dir, accept: accept, want: 16, sum: crc32.New(castagnoli)}, nil
}

// Write takes the next piece of the stream.
func (r *receiver) Write(p []byte) (int, error) {
	n := 0
	for r.err == nil && n < len(p) {
		var used int
		used, r.err = r.step(p[n:])
		n += used
	}
	if r.err != nil {
		return n, fmt.Errorf("snapshot: receive: %w", r.err)
	}
	return n, nil
}

// step uses some of p, at least one byte, or fails.
func (r *receiver) step(p []byte) (int, error) {
	if r.done {
		return 0, fmt.Errorf("bytes behind the last file: %w", ErrCorrupt)
	}
	if r.want == 0 {
		return r.fileBytes(p)
	}
	n := min(len(p), r.want-len(r.buffer))
	r.buffer = append(r.buffer, p[:n]...)
	if len(r.buffer) < r.want {
		return n, nil
	}
	if r.head == nil {
		return n, r.headerBytes()
	}
	return n, r.endFile()
}

// headerBytes is called when the header's first 16 bytes, or all of them, are here.
func (r *receiver) headerBytes() error {
	if len(r.buffer) == 16 {
		var err error
		r.want, err = headerLength(r.buffer)
		return err
	}
	head, err := decodeHeader(r.buffer)
	if err != nil {
		return err
	}
	if err := r.accept(head); err != nil {
		return err
	}
	r.head = head
	return r.startFile()
}

// startFile creates the next file, or ends the stream.
func (r *receiver) startFile() error {
	r.buffer, r.want = r.buffer[:0], 0
	if r.next == len(r.head.files) {
		r.done = true
		return syncPath(r.dir)
	}
	f := r.head.files[r.next]
	file, err := r.root.OpenFile(f.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	r.file, r.left = file, f.Size
	r.sum.Reset()
	if f.Size == 0 {
		r.want = checksumBytes
	}
	return nil
}

// fileBytes writes what p holds of the current file.
func (r *receiver) fileBytes(p []byte) (int, error) {
	n := int(min(int64(len(p)), r.left))
	if _, err := r.file.Write(p[:n]); err != nil {
		return 0, err
	}
	failpoint.Hit(failpoint.ReceiveMiddle)
	_, _ = r.sum.Write(p[:n]) // hash.Hash never returns an error
	if r.left -= int64(n); r.left == 0 {
		r.want = checksumBytes
	}
	return n, nil
}

// endFile compares the checksum and makes the file durable.
func (r *receiver) endFile() error {
	name := r.head.files[r.next].Name
	if binary.LittleEndian.Uint32(r.buffer) != r.sum.Sum32() {
		return fmt.Errorf("checksum of file %s: %w", name, ErrCorrupt)
	}
	file := r.file
	r.file = nil
	err := file.Sync()
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("file %s: %w", name, err)
	}
	failpoint.Hit(failpoint.ReceiveFileEnd)
	r.next++
	return r.startFile()
}

// finish ends the stream. It returns ErrCorrupt if something is missing.
func (r *receiver) finish() error {
	if r.err == nil && !r.done {
		r.err = fmt.Errorf("the stream ends early: %w", ErrCorrupt)
	}
	r.close()
	if r.err != nil {
		return fmt.Errorf("snapshot: receive: %w", r.err)
	}
	return nil
}

// close frees what is open; the caller removes the directory after a failure.
func (r *receiver) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
	_ = r.root.Close()
	if r.err == nil && !r.done {
		r.err = os.ErrClosed
	}
}

// receiveAll rebuilds a directory from a whole stream.
func receiveAll(dir string, src io.Reader, accept func(*header) error) (*header, error) {
	r, err := newReceiver(dir, accept)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{r}, src, make([]byte, 256<<10)); err != nil {
		r.close()
		return nil, err
	}
	return r.head, r.finish()
}
