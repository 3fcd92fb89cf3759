package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snipdb/snipdb/storage/failpoint"
)

// The files of the data directory that this package owns.
const (
	identityFile   = "identity.json"
	lockFile       = "LOCK"
	stableFile     = "vote.db"
	identityFormat = 1
)

// identityRecord is identity.json. It is written rarely (when the node is
// new, joins, forms a cluster), always by tmp + fsync + rename.
type identityRecord struct {
	Format    int    `json:"format"`
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id,omitempty"`
	// Founder is true from the moment this node is one of those that form
	// the cluster until the first entry of it is applied here. It tells a
	// crash in between (the Raft state may still be empty, and that is fine)
	// from a node whose Raft state was wiped (which must not vote before the
	// leader took it in again).
	Founder bool `json:"founder,omitempty"`
	// Pending are the voters that this node, which claimed the cluster, must
	// bootstrap Raft with. Set with Founder, cleared with it.
	Pending []claimServer `json:"pending,omitempty"`
	// LogLost says that this node's log was gone at a start, and that no leader
	// has taken it in since: it has no vote.
	LogLost bool `json:"log_lost,omitempty"`
	// Diverged says that this node's state is not that of the majority. It is
	// cleared by nothing but Recover: only an empty directory begins anew.
	Diverged *divergence `json:"diverged,omitempty"`
}

// identity is the node's place in the world, on disk. A directory belongs to
// one node id and one cluster id for ever.
type identity struct {
	dir  string
	lock *os.File

	mu  sync.Mutex // guards rec; held over the write of the file, so that the file is never older than rec
	rec identityRecord
}

// openIdentity locks the directory for this process, and reads or creates its
// identity. It refuses a directory of another node.
func openIdentity(dir, nodeID string) (*identity, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	id := &identity{dir: dir, lock: lock}
	if err := id.load(nodeID); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return id, nil
}

// lockDir takes the lock of the directory. The kernel frees it with the
// process, so that a kill -9 leaves nothing to clean up.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cluster: lock %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cluster: lock %s: another snipdb process uses this data directory", dir)
		}
		return nil, fmt.Errorf("cluster: lock %s: %w", dir, err)
	}
	return f, nil
}

func (id *identity) load(nodeID string) error {
	// A tmp file is what a crash left before the rename: worth nothing.
	if err := os.Remove(filepath.Join(id.dir, identityFile+".tmp")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cluster: clean %s: %w", id.dir, err)
	}
	path := filepath.Join(id.dir, identityFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id.rec = identityRecord{Format: identityFormat, NodeID: nodeID}
		return id.write(id.rec)
	}
	if err != nil {
		return fmt.Errorf("cluster: read identity: %w", err)
	}
	if err := json.Unmarshal(raw, &id.rec); err != nil {
		return fmt.Errorf("cluster: read identity %s: %w: restore the file, or empty the data directory and let the node join again", path, err)
	}
	switch {
	case id.rec.Format != identityFormat:
		return fmt.Errorf("cluster: read identity %s: format %d, this release knows %d: use the release that wrote it or a newer one", path, id.rec.Format, identityFormat)
	case id.rec.NodeID != nodeID:
		return fmt.Errorf("cluster: the data directory %s belongs to node %q, not to %q: start with --node-id %s, or give this node a directory of its own",
			id.dir, id.rec.NodeID, nodeID, id.rec.NodeID)
	}
	return nil
}

// NoteLostLog is for a node whose directory has no log, and comes before one is
// made. If the node belongs to a cluster, this is a loss, even if a snapshot is
// left: what it acknowledged after that is gone. It is noted on disk, because
// the next start finds the log that this one makes. dataDir is Options.DataDir;
// a directory without an identity is a new node's.
func NoteLostLog(dataDir, nodeID string) (err error) {
	if _, err := os.Stat(filepath.Join(dataDir, identityFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	id, err := openIdentity(dataDir, nodeID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, id.close()) }()
	if rec := id.record(); rec.ClusterID == "" || rec.Founder || rec.LogLost {
		return nil
	}
	return id.update(func(r *identityRecord) { r.LogLost = true })
}

// write replaces the file and makes it durable.
func (id *identity) write(rec identityRecord) error {
	raw, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("cluster: encode identity: %w", err)
	}
	path := filepath.Join(id.dir, identityFile)
	if err := writeSynced(path+".tmp", append(raw, '\n')); err != nil {
		return fmt.Errorf("cluster: write identity: %w", err)
	}
	failpoint.Hit(failpoint.IdentityBeforeRename)
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("cluster: write identity: %w", err)
	}
	failpoint.Hit(failpoint.IdentityAfterRename)
	d, err := os.Open(id.dir)
	if err != nil {
		return fmt.Errorf("cluster: write identity: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cluster: write identity: %w", err)
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (id *identity) record() identityRecord {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.rec
}

func (id *identity) clusterID() string { return id.record().ClusterID }

// update changes the record by f and makes it durable before it is visible.
// A cluster id never changes once it is set.
func (id *identity) update(f func(*identityRecord)) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	next := id.rec
	f(&next)
	if id.rec.ClusterID != "" && next.ClusterID != id.rec.ClusterID {
		return fmt.Errorf("cluster: this node belongs to cluster %s and can't join %s: empty its data directory first", id.rec.ClusterID, next.ClusterID)
	}
	if err := id.write(next); err != nil {
		return err
	}
	id.rec = next
	return nil
}

// pin makes this node a member of the cluster, for ever.
func (id *identity) pin(clusterID string, founder bool) error {
	if id.clusterID() == clusterID {
		return nil
	}
	return id.update(func(r *identityRecord) { r.ClusterID, r.Founder = clusterID, founder })
}

// close frees the directory.
func (id *identity) close() error { return id.lock.Close() }
