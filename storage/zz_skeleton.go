// Package storage: this file holds the signatures while the bodies are written; it goes away.
package storage

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/snipdb/snipdb/storage/snippet"
)

var (
	ErrCorrupt = errors.New("storage: the data is corrupt")
	ErrClosed  = errors.New("storage: closed")
	ErrFormat  = errors.New("storage: the data was written by another format version")
	errTODO    = errors.New("storage: not written yet")
)

// SystemClusterID is the key of the System row that holds the cluster's id as plain text; VerifyCheckpoint reads it.
const SystemClusterID = "cluster_id"

type Position struct{ Index, Term uint64 }
type Profile string

const (
	Small   Profile = "small"
	Default Profile = "default"
	Large   Profile = "large"
)

type Options struct {
	Profile        Profile
	MemoryBytes    int64
	Overrides      map[string]string
	OverrideSource map[string]string
	Logger         *slog.Logger
	ReadOnly       bool
	CloseTimeout   time.Duration
}
type OptionValue struct{ Value, Source string }
type KV struct {
	Key   string
	Value []byte
}

func DefaultOptions() Options                       { return Options{Profile: Default} }
func (o Options) Validate() error                   { return nil }
func (o Options) Effective() map[string]OptionValue { return nil }

type Shared struct{}

func NewShared(o Options) (*Shared, error) { return nil, errTODO }
func (s *Shared) Close()                   {}
func LinkedVersion() string                { return "" }
func CheckLinkedVersion() error            { return errTODO }
func LiveObjects() int64                   { return 0 }

type DB struct{}

func Open(dir string, o Options, s *Shared) (*DB, error) { return nil, errTODO }
func (db *DB) Close() error                              { return errTODO }
func (db *DB) Position() Position                        { return Position{} }
func (db *DB) NewBatch() *Batch                          { return nil }
func (db *DB) Commit(b *Batch, at Position) error        { return errTODO }
func (db *DB) View() (*View, error)                      { return nil, errTODO }
func (db *DB) Checkpoint(dir string) error               { return errTODO }
func (db *DB) Stats() (Stats, error)                     { return Stats{}, errTODO }
func (db *DB) Flush() error                              { return errTODO }
func VerifyCheckpoint(dir string, o Options) (Position, string, error) {
	return Position{}, "", errTODO
}

// Stats is what RocksDB says of itself (sums over the column families unless a field says otherwise).
type Stats struct {
	Stall                 string // "none", "slowdown" or "stop"
	WriteStopped          bool
	DelayedWriteRate      uint64 // bytes/s, 0 = not delayed
	L0Files               uint64 // largest count of one column family
	PendingBytes          uint64
	MemtableBytes         uint64
	ImmutableMemtables    uint64
	BlockCacheBytes       uint64
	BlockCachePinnedBytes uint64
	BlobBytes             uint64
	BlobFiles             uint64
	LiveSSTBytes          uint64
	BackgroundErrors      uint64
	Pressure              float64 // 0 idle … 1 RocksDB starts to slow writes; more = stop
	Options               map[string]OptionValue
}

type Store struct{}

func OpenStore(dir string, o Options, s *Shared) (*Store, error) { return nil, errTODO }
func (s *Store) DB() (*DB, func())                               { return nil, nil }
func (s *Store) View() (*View, error)                            { return nil, errTODO }
func (s *Store) NewScratch() (string, error)                     { return "", errTODO }
func (s *Store) Install(scratch string) error                    { return errTODO }
func (s *Store) Position() Position                              { return Position{} }
func (s *Store) Close() error                                    { return errTODO }

type Batch struct{}

// SnippetMeta is a snippet without its text and vector.
type SnippetMeta struct {
	ContentHash   [32]byte
	ContentLength int
	Model         string
	Embedded      bool
	Revision      uint64
}

func (b *Batch) Savepoint() int                                      { return 0 }
func (b *Batch) Rollback(savepoint int)                              {}
func (b *Batch) Destroy()                                            {}
func (b *Batch) Bytes() int                                          { return 0 }
func (b *Batch) Collection(name string) (*snippet.Collection, error) { return nil, errTODO }
func (b *Batch) PutCollection(c *snippet.Collection) error           { return errTODO }
func (b *Batch) DeleteCollection(c *snippet.Collection) error        { return errTODO }
func (b *Batch) NewCollectionID() (uint32, error)                    { return 0, errTODO }
func (b *Batch) CollectionCount() (int, error)                       { return 0, errTODO }
func (b *Batch) NewOrdinal(c *snippet.Collection) (uint64, error)    { return 0, errTODO }
func (b *Batch) Document(coll uint32, id string) (*snippet.Document, error) {
	return nil, errTODO
}
func (b *Batch) PutDocument(coll uint32, d *snippet.Document, created bool) error { return errTODO }
func (b *Batch) DeleteDocument(coll uint32, d *snippet.Document) error            { return errTODO }
func (b *Batch) SnippetMeta(coll uint32, d *snippet.Document, index int) (*SnippetMeta, error) {
	return nil, errTODO
}
func (b *Batch) Snippet(coll uint32, d *snippet.Document, index int, withVector bool) (*snippet.Snippet, error) {
	return nil, errTODO
}
func (b *Batch) PutSnippet(coll uint32, d *snippet.Document, s *snippet.Snippet) error {
	return errTODO
}

// PutSnippetText writes text and meta and keeps the vector row; s.Embedded and s.Model go into the meta as given.
func (b *Batch) PutSnippetText(coll uint32, d *snippet.Document, s *snippet.Snippet) error {
	return errTODO
}
func (b *Batch) PutEmbedding(coll uint32, d *snippet.Document, index int, model string, v snippet.Vector, revision uint64) error {
	return errTODO
}
func (b *Batch) DeleteSnippet(coll uint32, d *snippet.Document, index int) error { return errTODO }
func (b *Batch) OwnerDocuments(coll uint32, o snippet.Owner, limit int) (ids []string, more bool, err error) {
	return nil, false, errTODO
}
func (b *Batch) System(key string) ([]byte, error)            { return nil, errTODO }
func (b *Batch) PutSystem(key string, value []byte)           {}
func (b *Batch) DeleteSystem(key string)                      {}
func (b *Batch) SystemPrefix(prefix string) ([]KV, error)     { return nil, errTODO }
func (b *Batch) Idempotency(keyHash [32]byte) ([]byte, error) { return nil, errTODO }
func (b *Batch) PutIdempotency(keyHash [32]byte, expiresMs int64, index uint64, seq uint32, row []byte) error {
	return errTODO
}
func (b *Batch) ExpireIdempotency(nowMs int64, maxRows int64, atMost int) (int, error) {
	return 0, errTODO
}

type View struct{}

func (v *View) Position() Position                                  { return Position{} }
func (v *View) Close()                                              {}
func (v *View) Collection(name string) (*snippet.Collection, error) { return nil, errTODO }
func (v *View) Collections(after string, limit int) ([]snippet.Collection, error) {
	return nil, errTODO
}
func (v *View) Document(coll uint32, id string) (*snippet.Document, error) { return nil, errTODO }
func (v *View) Snippets(ctx context.Context, coll uint32, d *snippet.Document, from, limit int, withVectors bool) ([]snippet.Snippet, error) {
	return nil, errTODO
}
func (v *View) Documents(ctx context.Context, coll uint32, q snippet.ListQuery) (*snippet.ListPage, error) {
	return nil, errTODO
}
func (v *View) System(key string) ([]byte, error)        { return nil, errTODO }
func (v *View) SystemPrefix(prefix string) ([]KV, error) { return nil, errTODO }
func (v *View) Dump(ctx context.Context, fn func(cf, key, value []byte) error) error {
	return errTODO
}

// LogOptions; the zero value is usable.
type LogOptions struct {
	MemtableBytes int64 // 0: 64 MiB
	NoSync        bool  // for tests only
	Logger        *slog.Logger
}
type Log struct{}

func OpenLog(dir string, o LogOptions) (*Log, error)                { return nil, errTODO }
func (l *Log) Append(indexes []uint64, records [][]byte) error      { return errTODO }
func (l *Log) Get(index uint64) (record []byte, ok bool, err error) { return nil, false, errTODO }
func (l *Log) Bounds() (first, last uint64, err error)              { return 0, 0, errTODO }
func (l *Log) DeleteRange(min, max uint64) error                    { return errTODO }
func (l *Log) Bytes() uint64                                        { return 0 }
func (l *Log) Close() error                                         { return errTODO }
