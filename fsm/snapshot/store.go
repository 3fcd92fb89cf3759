package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage/failpoint"
)

// Names inside the store's directory.
const (
	metaName  = "meta.json"
	dbName    = "db"
	tmpSuffix = ".tmp"
)

// maxMetaBytes bounds meta.json: the file list of MaxFiles and the members.
const maxMetaBytes = 16 << 20

// DefaultReserveBytes is what a received snapshot must leave free on the
// disk, for the Raft log and RocksDB, which stop the process when they can't write.
const DefaultReserveBytes = 64 << 20

// idPattern is `<term>-<index>-<ms>`.
var idPattern = regexp.MustCompile(`^(\d{1,20})-(\d{1,20})-(\d{1,20})$`)

// Options configures a Store.
type Options struct {
	// Logger gets one line for each snapshot made visible or removed; nil discards.
	Logger *slog.Logger
	// ReserveBytes must stay free after a snapshot is received; 0 means
	// DefaultReserveBytes, negative none.
	ReserveBytes int64
	// FreeBytes says how much may be written to dir's file system; nil asks
	// the operating system.
	FreeBytes func(dir string) (uint64, error)
	// Now dates snapshots (their names and ages, nothing else); nil is time.Now.
	Now func() time.Time
}

// Meta is what a visible snapshot says of itself.
type Meta struct {
	ID          string
	Index, Term uint64
	ClusterID   string
	Taken       time.Time
	// Size is the length of the stream; Files is how many files it has.
	Size  int64
	Files int
}

// Store is a raft.SnapshotStore of checkpoint directories. It keeps one
// snapshot, the newest. Its methods may be called from any goroutine.
type Store struct {
	dir     string
	o       Options
	log     *slog.Logger
	cluster atomic.Pointer[string]

	// mu guards the directory's visible entries and what follows. It is held
	// for directory operations only, never while files are read or written.
	mu sync.Mutex
	// pins counts the open readers of each snapshot. Invariant S5: a pinned
	// directory is not removed.
	pins map[string]int
	// scratch numbers the directories for checkpoints.
	scratch uint64
}

// metaFile is what meta.json holds, inside an envelope.
type metaFile struct {
	Format    int               `json:"format"`
	ClusterID string            `json:"cluster_id"`
	Raft      raft.SnapshotMeta `json:"raft"`
	Files     []File            `json:"files"`
}

// envelope is meta.json. The checksum (CRC-32C) is over the bytes of Meta as
// they stand in the file, so that another release, whose raft.SnapshotMeta may
// have other fields, can still check it.
type envelope struct {
	Checksum uint32          `json:"crc32c"`
	Meta     json.RawMessage `json:"meta"`
}

var _ raft.SnapshotStore = (*Store)(nil)

// NewStore opens the store in dir, which it creates if it must, and removes
// what a crash left half made.
func NewStore(dir string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FreeBytes == nil {
		o.FreeBytes = freeBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = DefaultReserveBytes
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("snapshot: create %s: %w", dir, err)
	}
	s := &Store{dir: dir, o: o, log: o.Logger.With("component", "snapshot"), pins: map[string]int{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("snapshot: open %s: %w", dir, err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("snapshot: remove half-made %s: %w", e.Name(), err)
			}
			s.log.Info("half-made snapshot removed", "name", e.Name())
		}
	}
	metas, err := s.metas()
	if err != nil {
		return nil, err
	}
	if len(metas) > 1 {
		s.reap(metas[0].Raft.ID)
	}
	return s, nil
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// SetClusterID says which cluster this node belongs to. From then on streams
// of another one are refused. Until then any is taken: a new node learns its
// cluster from the first snapshot or the first entries.
func (s *Store) SetClusterID(id string) {
	if id != "" {
		s.cluster.Store(&id)
	}
}

// ClusterID returns what SetClusterID said, or "".
func (s *Store) ClusterID() string {
	if id := s.cluster.Load(); id != nil {
		return *id
	}
	return ""
}

// checkCluster returns ErrCluster if a snapshot of cluster id is not ours.
func (s *Store) checkCluster(id string) error {
	if mine := s.ClusterID(); mine != "" && mine != id {
		return fmt.Errorf("cluster %q, this node is in %q: %w", id, mine, ErrCluster)
	}
	return nil
}

// Scratch returns a fresh name inside the store for a checkpoint that Adopt
// will rename. Nothing is created: RocksDB wants to create it itself. A crash
// leaves a directory that NewStore removes.
func (s *Store) Scratch() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		s.scratch++
		dir := filepath.Join(s.dir, "checkpoint-"+strconv.FormatUint(s.scratch, 10)+tmpSuffix)
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			return dir
		}
	}
}

// Create implements raft.SnapshotStore. The snapshot becomes visible when the
// sink is closed.
func (s *Store) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("snapshot: create: snapshot version %d is not supported", version)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ms := s.o.Now().UnixMilli()
	var id, tmp string
	for ; ; ms++ { // two snapshots of one index within a millisecond
		id = fmt.Sprintf("%d-%d-%d", term, index, ms)
		tmp = filepath.Join(s.dir, id+tmpSuffix)
		if _, err := os.Lstat(filepath.Join(s.dir, id)); err == nil {
			continue
		}
		err := os.Mkdir(tmp, dirMode)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("snapshot: create %s: %w", id, err)
		}
	}
	return &Sink{store: s, tmp: tmp, meta: metaFile{Format: formatVersion, Raft: raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}}, nil
}

// List implements raft.SnapshotStore: newest first. A snapshot that can't be
// read is an error, not a gap in the list: with the log trimmed up to it, to
// go on as if it weren't there would lose data.
func (s *Store) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.metas()
	if err != nil {
		return nil, err
	}
	list := make([]*raft.SnapshotMeta, len(metas))
	for i := range metas {
		list[i] = &metas[i].Raft
	}
	return list, nil
}

// Newest returns the newest snapshot's meta; false if there is none.
func (s *Store) Newest() (Meta, bool, error) {
	metas, err := s.metas()
	if err != nil || len(metas) == 0 {
		return Meta{}, false, err
	}
	return metas[0].public(), true, nil
}

// Open implements raft.SnapshotStore. The reader is a *Reader; it pins the
// snapshot until it is closed.
func (s *Store) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.readMeta(id)
	if err != nil {
		return nil, nil, err
	}
	r, err := newReader(s, m)
	if err != nil {
		return nil, nil, err
	}
	s.pins[id]++
	return &m.Raft, r, nil
}

// unpin is called once by each reader's Close.
func (s *Store) unpin(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[id]--; s.pins[id] > 0 {
		return
	}
	delete(s.pins, id)
	metas, err := s.metas()
	if err != nil || len(metas) == 0 || metas[0].Raft.ID == id {
		return
	}
	s.reap(metas[0].Raft.ID)
}

// reap removes the snapshots that are older than the newest. keep stays in
// any case: it has just been made, and its maker is about to open it. mu is held,
// or nobody else has the store yet. A failure is logged only: the next
// snapshot tries again, and a snapshot too many harms nobody but the disk.
func (s *Store) reap(keep string) {
	metas, err := s.metas()
	if err != nil {
		s.log.Warn("old snapshots stay", "error", err)
		return
	}
	for i, m := range metas {
		id := m.Raft.ID
		if i == 0 || id == keep || s.pins[id] > 0 {
			continue
		}
		// First out of sight, then away: a crash in between must not leave a
		// visible directory with half of its files.
		gone := filepath.Join(s.dir, id+".old"+tmpSuffix)
		err := os.Rename(filepath.Join(s.dir, id), gone)
		failpoint.Hit(failpoint.ReapMiddle)
		if err == nil {
			err = os.RemoveAll(gone)
		}
		if err != nil {
			s.log.Warn("old snapshot stays", "id", id, "error", err)
		}
	}
}

// metas reads all visible snapshots, newest first.
func (s *Store) metas() ([]metaFile, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("snapshot: list %s: %w", s.dir, err)
	}
	var metas []metaFile
	for _, e := range entries {
		if !e.IsDir() || !idPattern.MatchString(e.Name()) {
			continue
		}
		m, err := s.readMeta(e.Name())
		if errors.Is(err, ErrNotFound) {
			continue // reaped meanwhile
		}
		if err != nil {
			return nil, err
		}
		metas = append(metas, *m)
	}
	slices.SortFunc(metas, func(a, b metaFile) int { return compareIDs(b.Raft.ID, a.Raft.ID) })
	return metas, nil
}

// compareIDs orders ids by term, index and time, as numbers.
func compareIDs(a, b string) int {
	x, y := idPattern.FindStringSubmatch(a), idPattern.FindStringSubmatch(b)
	for i := 1; i <= 3; i++ {
		m, _ := strconv.ParseUint(x[i], 10, 64)
		n, _ := strconv.ParseUint(y[i], 10, 64)
		if m != n {
			if m < n {
				return -1
			}
			return 1
		}
	}
	return 0
}

// readMeta reads and checks one meta.json.
func (s *Store) readMeta(id string) (*metaFile, error) {
	if !idPattern.MatchString(id) {
		return nil, fmt.Errorf("snapshot: open %q: %w", id, ErrNotFound)
	}
	f, err := os.Open(filepath.Join(s.dir, id, metaName))
	if errors.Is(err, os.ErrNotExist) {
		if _, derr := os.Lstat(filepath.Join(s.dir, id)); derr != nil {
			return nil, fmt.Errorf("snapshot: open %s: %w", id, ErrNotFound)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot: open %s: %w", id, err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxMetaBytes))
	if err != nil {
		return nil, fmt.Errorf("snapshot: read %s of %s: %w", metaName, id, err)
	}
	m, err := decodeMeta(raw)
	if err != nil || m.Raft.ID != id {
		return nil, fmt.Errorf("snapshot: %s of %s in %s: %w; move the directory away, and if this node does not start then, wipe it and let it join again",
			metaName, id, s.dir, errors.Join(err, ErrCorrupt))
	}
	return m, nil
}

func decodeMeta(raw []byte) (*metaFile, error) {
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	if got := crc32.Checksum(e.Meta, castagnoli); got != e.Checksum {
		return nil, fmt.Errorf("checksum %08x, written %08x", got, e.Checksum)
	}
	var m metaFile
	if err := json.Unmarshal(e.Meta, &m); err != nil {
		return nil, err
	}
	if m.Format != formatVersion {
		return nil, fmt.Errorf("format version %d, this release reads %d", m.Format, formatVersion)
	}
	return &m, nil
}

func encodeMeta(m metaFile) ([]byte, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Checksum: crc32.Checksum(raw, castagnoli), Meta: raw})
}

func (m *metaFile) header() *header {
	return &header{clusterID: m.ClusterID, index: m.Raft.Index, term: m.Raft.Term, files: m.Files}
}

func (m *metaFile) public() Meta {
	ms, _ := strconv.ParseInt(idPattern.FindStringSubmatch(m.Raft.ID)[3], 10, 64)
	return Meta{ID: m.Raft.ID, Index: m.Raft.Index, Term: m.Raft.Term, ClusterID: m.ClusterID,
		Taken: time.UnixMilli(ms), Size: m.Raft.Size, Files: len(m.Files)}
}
