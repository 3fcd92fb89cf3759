package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/snippet"
)

// The errors that callers branch on.
var (
	// ErrCorrupt: a file, a row or a key is not what this package wrote.
	ErrCorrupt = errors.New("the data is corrupt")
	// ErrClosed: the database, view or batch is closed.
	ErrClosed = errors.New("closed")
	// ErrFormat: the data is of another format version.
	ErrFormat = errors.New("the data is of another format version: use the release of snipdb that wrote it, or a newer one")
	// ErrReadOnly: the database was opened for reading.
	ErrReadOnly = errors.New("the database is open for reading only")
	// ErrPosition: a commit would move the position back.
	ErrPosition = errors.New("the position must not go back")
)

// SystemClusterID is the key of the system row with the cluster's id, as
// plain text. VerifyCheckpoint reads it.
const SystemClusterID = "cluster_id"

// DB is one RocksDB directory. Its methods may be called from any goroutine,
// except that one goroutine at a time makes batches and commits them.
type DB struct {
	dir    string
	opts   Options
	shared *Shared
	log    *slog.Logger
	limits limits
	// effective are the options that the database was opened with.
	effective map[string]OptionValue
	n         *native
	// pins counts the views, batches and calls that use n (S6).
	pins *pins
	// commits serialises Commit and Flush; no read takes it.
	commits sync.Mutex
	// position is that of the last commit.
	position    atomic.Pointer[Position]
	commitCount atomic.Uint64
	// idem is what the last committed batch knew of the idempotency queue.
	idem atomic.Pointer[idemState]
	// hash is the state hash as of the last commit.
	hash atomic.Pointer[hashState]
	// batches holds destroyed batches for use again.
	batches sync.Pool
	closing sync.Once
	closed  error
}

// Open opens a database, and creates it if the directory is empty or absent
// and o.ReadOnly is false. The error is ErrFormat or ErrCorrupt, wrapped, if
// that is what is wrong.
func Open(dir string, o Options, s *Shared) (*DB, error) {
	r, err := o.resolve()
	if err != nil {
		return nil, err
	}
	dbOpts, families, err := r.buildOptions(s, o.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("storage: open %s: %w", dir, err)
	}
	defer freeOptions(append(families, dbOpts)...)
	if !o.ReadOnly {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("storage: open %s: %w", dir, err)
		}
	}
	n, err := openNative(dir, o.ReadOnly, false, dbOpts, familyNames[:], families)
	if err != nil {
		return nil, fmt.Errorf("storage: open %s: %w", dir, err)
	}
	db := &DB{dir: dir, opts: o, shared: s, log: o.logger(), limits: r.limits(), effective: o.Effective(), n: n, pins: newPins()}
	if err := db.load(); err != nil {
		n.close()
		return nil, fmt.Errorf("storage: open %s: %w", dir, err)
	}
	return db, nil
}

// load checks the format, writes it into a new database, and reads the
// position.
func (db *DB) load() error {
	format, err := db.n.get(cfMeta, nil, keyFormat, nil)
	if err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	switch {
	case format == nil && db.opts.ReadOnly:
		return fmt.Errorf("no format row, so this is no database of snipdb: %w", ErrFormat)
	case format == nil:
		if err := db.create(); err != nil {
			return err
		}
	case len(format) != 4 || binary.BigEndian.Uint32(format) != formatVersion:
		return formatError(format)
	}
	row, err := db.n.get(cfMeta, nil, keyPosition, nil)
	if err != nil {
		return fmt.Errorf("read position: %w", err)
	}
	p, err := parsePosition(row)
	if err != nil {
		return err
	}
	h, err := loadHash(func(key []byte) ([]byte, error) { return db.n.get(cfMeta, nil, key, nil) })
	if err != nil {
		return err
	}
	db.position.Store(&p)
	db.hash.Store(&h)
	return nil
}

// formatError says what to do about a database of another format.
func formatError(format []byte) error {
	if len(format) == 4 && binary.BigEndian.Uint32(format) < formatVersion {
		return fmt.Errorf("it has format %d of an earlier release, this release writes %d and does not convert it"+
			" (empty the data directory and let the node join again, if the other nodes have the data): %w",
			binary.BigEndian.Uint32(format), formatVersion, ErrFormat)
	}
	return fmt.Errorf("format %x, this release knows %d: %w", format, formatVersion, ErrFormat)
}

// create writes the format row of a new database. It is flushed, because a
// database without it could not be told from a foreign one.
func (db *DB) create() error {
	sc := db.n.newScan(cfMeta, nil, nil, nil, scanKeysOnly, nil)
	_, _, found := sc.next()
	err := sc.err
	sc.close()
	if err == nil && found {
		err = fmt.Errorf("there are rows but no format row: %w", ErrFormat)
	}
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.CreateFormat)
	w := newRep(nil)
	w.put(db.n.families[cfMeta].id, keyFormat, binary.BigEndian.AppendUint32(nil, formatVersion))
	if err := db.n.writeRep(w.bytes()); err != nil {
		return fmt.Errorf("write format: %w", err)
	}
	return db.n.flush()
}

// Dir returns the directory.
func (db *DB) Dir() string { return db.dir }

// Position returns the position of the last commit.
func (db *DB) Position() Position { return *db.position.Load() }

// Close waits until all views and batches are closed, and closes the
// database. If they are not within Options.CloseTimeout, it returns an error
// and leaves the database open, because RocksDB must not be freed under a
// reader; no new one is let in. Calling it again returns the same.
func (db *DB) Close() error {
	db.closing.Do(func() {
		db.pins.close()
		if err := db.pins.wait(db.opts.closeTimeout()); err != nil {
			db.closed = fmt.Errorf("storage: close %s: %w", db.dir, err)
			return
		}
		db.n.close()
	})
	return db.closed
}

// enter pins the database for one call.
func (db *DB) enter(verb string) error {
	if !db.pins.acquire() {
		return fmt.Errorf("storage: %s %s: %w", verb, db.dir, ErrClosed)
	}
	return nil
}

// Commit writes the batch and the position in one atomic write. It is the
// only way to change a database.
//
// Invariant S1: the position row is in the same write as the data it covers.
// Invariant S2: the position never goes back.
//
// The write is in RocksDB's log but not synced: a crash of the process loses
// nothing, a power loss may lose the newest commits, all column families to
// the same point, and the Raft log has them. After an error the state of the
// database is not known to the caller: stop the process. The batch must be
// destroyed afterwards in any case. Errors: ErrClosed, ErrReadOnly,
// ErrPosition, wrapped, or RocksDB's own.
func (db *DB) Commit(b *Batch, at Position) error {
	db.commits.Lock()
	defer db.commits.Unlock()
	switch now := db.Position(); {
	case b.db != db:
		return fmt.Errorf("storage: commit: the batch is destroyed or of another database: %w", ErrClosed)
	case b.failed != nil:
		return fmt.Errorf("storage: commit: %w", b.failed)
	case db.opts.ReadOnly:
		return fmt.Errorf("storage: commit: %w", ErrReadOnly)
	case b.base != db.commitCount.Load():
		return fmt.Errorf("storage: commit: another batch was committed since this one began, so it has read an older state")
	case at.Index < now.Index:
		return fmt.Errorf("storage: commit %s after %s: %w", at, now, ErrPosition)
	}
	had := db.hash.Load()
	b.writeSums(had)
	if b.failed != nil {
		return fmt.Errorf("storage: commit: %w", b.failed)
	}
	var row [positionBytes]byte
	b.rep.put(db.n.families[cfMeta].id, keyPosition, appendPosition(row[:0], at))
	b.failed = errCommitted
	if err := db.n.writeRep(b.rep.bytes()); err != nil {
		return fmt.Errorf("storage: commit %s: %w", at, err)
	}
	idem := b.idem
	db.idem.Store(&idem)
	db.hash.Store(&hashState{total: b.acct.total, points: b.acct.points})
	db.commitCount.Add(1)
	db.position.Store(&at)
	return nil
}

// Checkpoint writes a copy of the database to dir, which must not exist and
// must be on the same file system: data files become hard links. All
// memtables are flushed first, so the database itself is on stable storage up
// to the checkpoint's position. Call it from the goroutine that commits if
// the checkpoint's position must be exact.
func (db *DB) Checkpoint(dir string) error {
	if err := db.enter("checkpoint"); err != nil {
		return err
	}
	defer db.pins.release()
	if err := db.n.checkpoint(dir); err != nil {
		return fmt.Errorf("storage: checkpoint to %s: %w", dir, err)
	}
	return nil
}

// Flush writes all memtables to files and waits for it.
func (db *DB) Flush() error {
	if err := db.enter("flush"); err != nil {
		return err
	}
	defer db.pins.release()
	if err := db.n.flush(); err != nil {
		return fmt.Errorf("storage: flush %s: %w", db.dir, err)
	}
	return nil
}

// verifyRows is how many rows VerifyCheckpoint reads per crossing.
const verifyRows = 100_000

// VerifyCheckpoint opens a checkpoint for reading, reads every row of it, so
// that every checksum in use is checked, and returns its position and its
// cluster's id ("" if it has none). It changes nothing. The error is
// ErrCorrupt or ErrFormat, wrapped, or what the operating system says.
func VerifyCheckpoint(dir string, o Options) (Position, string, error) {
	if _, err := os.Stat(dir); err != nil {
		return Position{}, "", fmt.Errorf("storage: verify: %w", err)
	}
	// A cache of its own and small, so that the live database's is left alone.
	s, err := NewShared(Options{Profile: Small, MemoryBytes: minMemoryBytes})
	if err != nil {
		return Position{}, "", err
	}
	defer s.Close()
	o.ReadOnly = true
	db, err := Open(dir, o, s)
	if err != nil {
		return Position{}, "", err
	}
	p, clusterID, err := db.verify()
	if err := errors.Join(err, db.Close()); err != nil {
		return Position{}, "", fmt.Errorf("storage: verify %s: %w", dir, err)
	}
	return p, clusterID, nil
}

func (db *DB) verify() (Position, string, error) {
	for cf := range familyCount {
		sc := db.n.newScan(cf, nil, nil, nil, scanPast, nil)
		for {
			rows, err := sc.drain(verifyRows)
			if err != nil {
				sc.close()
				return Position{}, "", fmt.Errorf("column family %s: %w", familyName(cf), err)
			}
			if rows == 0 {
				break
			}
		}
		sc.close()
	}
	clusterID, err := db.n.get(cfMeta, nil, appendSystemKey(nil, SystemClusterID), nil)
	return db.Position(), string(clusterID), err
}

// reader is what a View and a Batch have in common: point reads and ordered
// reads of decoded rows. get's result is valid until the next call.
type reader interface {
	get(cf int, key []byte) ([]byte, error)
	key() []byte // scratch space for a key
}

func readCollection(r reader, name string) (*snippet.Collection, error) {
	v, err := r.get(cfMeta, appendCollectionKey(r.key(), name))
	if err != nil || v == nil {
		return nil, err
	}
	return decodeCollection(name, v)
}

func readDocument(r reader, coll uint32, id string) (*snippet.Document, error) {
	v, err := r.get(cfDocs, appendDocumentKey(r.key(), coll, id))
	if err != nil || v == nil {
		return nil, err
	}
	return decodeDocument(id, v)
}

func readSystem(r reader, key string) ([]byte, error) {
	v, err := r.get(cfMeta, appendSystemKey(r.key(), key))
	if err != nil || v == nil {
		return nil, err
	}
	return append([]byte{}, v...), nil
}

func readSnippetMeta(r reader, coll uint32, d *snippet.Document, index int) (*SnippetMeta, error) {
	v, err := r.get(cfSnippetMeta, appendSnippetKey(r.key(), coll, d, index))
	if err != nil || v == nil {
		return nil, err
	}
	return decodeSnippetMeta(v)
}

func readSnippet(r reader, coll uint32, d *snippet.Document, index int, withVector bool) (*snippet.Snippet, error) {
	meta, err := readSnippetMeta(r, coll, d, index)
	if err != nil || meta == nil {
		return nil, err
	}
	text, err := r.get(cfText, appendSnippetKey(r.key(), coll, d, index))
	if err != nil {
		return nil, err
	}
	s, err := joinSnippet(index, meta, text, nil, false)
	if err != nil || !withVector || !meta.Embedded {
		return s, err
	}
	vector, err := r.get(cfVectors, appendSnippetKey(r.key(), coll, d, index))
	if err != nil {
		return nil, err
	}
	if vector == nil {
		return nil, fmt.Errorf("storage: read document %q: snippet %d has no vector row: %w", d.ID, index, ErrCorrupt)
	}
	s.Vector = bytes.Clone(vector)
	return s, nil
}
