package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snipdb/snipdb/cluster"
	"github.com/snipdb/snipdb/storage"
)

// dataDir is where one node keeps everything. Only this process may touch it
// while it holds the lock; the offline commands take the same one.
//
//	LOCK         held by the process that uses the directory
//	node/        identity.json, and the votes (package cluster)
//	log/         the Raft log: bolt.db, or rocksdb/
//	state/       RocksDB with the documents (package storage)
//	snapshots/   checkpoints of the state (package fsm/snapshot)
//
// state and snapshots are in one file system, because a snapshot is made of
// hard links.
type dataDir struct {
	path string
	lock *os.File
}

func (d *dataDir) node() string      { return filepath.Join(d.path, "node") }
func (d *dataDir) log() string       { return filepath.Join(d.path, "log") }
func (d *dataDir) state() string     { return filepath.Join(d.path, "state") }
func (d *dataDir) snapshots() string { return filepath.Join(d.path, "snapshots") }

// logPath is where a kind of log store keeps the log.
func (d *dataDir) logPath(kind string) string {
	if kind == logStoreRocksDB {
		return filepath.Join(d.log(), "rocksdb")
	}
	return filepath.Join(d.log(), "bolt.db")
}

// openDataDir makes the directories that are missing, readable for this user
// only, and takes the lock.
func openDataDir(path string) (*dataDir, error) {
	d := &dataDir{path: path}
	for _, dir := range []string{d.path, d.node(), d.log(), d.state(), d.snapshots()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the data directory: %w", err)
		}
	}
	return d, d.takeLock()
}

// openExisting takes the lock of a directory that an offline command works on.
func openExisting(path string) (*dataDir, error) {
	d := &dataDir{path: path}
	if _, err := os.Stat(d.node()); err != nil {
		return nil, fmt.Errorf("%s is no data directory of snipdb: %w", path, err)
	}
	return d, d.takeLock()
}

// takeLock locks the directory for this process. The lock is the kernel's, so
// a killed process leaves none behind.
func (d *dataDir) takeLock() error {
	file, err := os.OpenFile(filepath.Join(d.path, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("another snipdb process uses the data directory %s: stop it first", d.path)
		}
		return fmt.Errorf("lock the data directory %s: %w", d.path, err)
	}
	d.lock = file
	return nil
}

// close gives the lock back.
func (d *dataDir) close() error {
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}

// free returns the free and the total bytes of the file system, as an
// unprivileged user may use them.
func (d *dataDir) free() (free, total uint64, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(d.path, &stat); err != nil {
		return 0, 0, fmt.Errorf("ask for the free space of %s: %w", d.path, err)
	}
	size := uint64(stat.Bsize)
	return stat.Bavail * size, stat.Blocks * size, nil
}

// existingLog says which kind of log store has a log here, "" for none. Two
// are the rest of a migration that was cut off after its last step but one;
// migrate-log, run again, ends it.
func (d *dataDir) existingLog() (string, error) {
	var found []string
	for _, kind := range []string{logStoreBolt, logStoreRocksDB} {
		if _, err := os.Stat(d.logPath(kind)); err == nil {
			found = append(found, kind)
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("look for the Raft log: %w", err)
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	default:
		return "", fmt.Errorf("%s has two logs, of %s and of %s: a migration was cut off; run `snipdb migrate-log` again",
			d.log(), found[0], found[1])
	}
}

// lacksLog says whether a start makes a new log: there is none of any kind, or
// nothing in the one of this kind.
func (d *dataDir) lacksLog(kind string) (bool, error) {
	existing, err := d.existingLog()
	if err != nil || existing != kind {
		return existing == "", err
	}
	path := d.logPath(kind)
	if kind == logStoreRocksDB {
		path = filepath.Join(path, "CURRENT") // without it RocksDB makes a new one
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the Raft log: %w", err)
	}
	return info.Size() == 0, nil
}

// openLog opens the Raft log of the kind, which must be the one that is there.
func (d *dataDir) openLog(kind string) (cluster.LogStore, error) {
	return d.openLogWith(kind, storage.LogOptions{})
}

// openLogWith is openLog with options for a log in RocksDB; bolt has none.
func (d *dataDir) openLogWith(kind string, o storage.LogOptions) (cluster.LogStore, error) {
	existing, err := d.existingLog()
	if err != nil {
		return nil, err
	}
	if existing != "" && existing != kind {
		return nil, fmt.Errorf("the Raft log in %s is of the kind %s, and --log-store is %s: "+
			"start with --log-store %s, or run `snipdb migrate-log --to %s` first", d.log(), existing, kind, existing, kind)
	}
	return openLogStoreWith(kind, d.logPath(kind), o)
}

func openLogStore(kind, path string) (cluster.LogStore, error) {
	return openLogStoreWith(kind, path, storage.LogOptions{})
}

func openLogStoreWith(kind, path string, o storage.LogOptions) (cluster.LogStore, error) {
	if kind == logStoreBolt {
		return cluster.OpenBoltLog(path)
	}
	log, err := storage.OpenLog(path, o)
	if err != nil {
		return nil, err
	}
	return cluster.NewEntryLogStore(log), nil
}
