package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/storage"
)

// pressure says how near RocksDB is to slowing writes down, for the gate that
// refuses writes before it does.
func pressure(store *storage.Store) (float64, string) {
	stats, err := stats(store)
	if err != nil {
		// A store that can't be asked is closing or broken; both have an answer
		// of their own, and the gate is not it.
		return 0, err.Error()
	}
	return stats.Pressure, fmt.Sprintf("stall %s, %d files in L0, %d bytes to compact, %d immutable memtables",
		stats.Stall, stats.L0Files, stats.PendingBytes, stats.ImmutableMemtables)
}

// flushState writes what the state has in memory to files.
func flushState(store *storage.Store) error {
	db, release := store.DB()
	defer release()
	if db == nil {
		return storage.ErrClosed
	}
	return db.Flush()
}

// unflushed is what the state has in memory and must write to files.
func unflushed(store *storage.Store) uint64 {
	db, release := store.DB()
	defer release()
	if db == nil {
		return 0
	}
	return db.Unflushed()
}

// storageStatus is what the status shows of the storage.
func storageStatus(store *storage.Store) (contract.StorageStatus, uint64, error) {
	stats, err := stats(store)
	if err != nil {
		return contract.StorageStatus{}, 0, err
	}
	status := contract.StorageStatus{
		Stall: stats.Stall, L0Files: stats.L0Files, MemtableBytes: stats.MemtableBytes,
		BlockCacheBytes: stats.BlockCacheBytes, PendingBytes: stats.PendingBytes, BlobBytes: stats.BlobBytes,
		LiveSSTBytes: stats.LiveSSTBytes, BackgroundErrors: stats.BackgroundErrors,
		Options: map[string]contract.OptionValue{},
	}
	for name, option := range stats.Options {
		status.Options[name] = contract.OptionValue{Value: option.Value, Source: option.Source}
	}
	return status, stats.DataBytes(), nil
}

func stats(store *storage.Store) (storage.Stats, error) {
	db, release := store.DB()
	defer release()
	if db == nil {
		return storage.Stats{}, storage.ErrClosed
	}
	return db.Stats()
}

// memoryShare of the limit may be used before writes are refused: what a
// burst takes until the gate looks again must still fit.
const memoryShare = 0.95

// memoryGate returns the check whether the process holds nearly as much as it
// may. The whole process counts: most of the memory is RocksDB's, of which
// Go's runtime knows nothing.
func memoryGate(limit uint64) func() (bool, string) {
	if limit == 0 {
		return nil
	}
	return func() (bool, string) {
		held := heldBytes()
		return float64(held) > memoryShare*float64(limit), fmt.Sprintf("the process holds %d bytes of %d", held, limit)
	}
}

// memoryLimit is the container's limit, or nine tenths of the machine's memory.
func memoryLimit() uint64 {
	if text, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			return limit
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit) / 10 * 9
}

// heldBytes is the memory that the process alone holds, 0 if the system does
// not say. Pages of files are not counted, though they are resident: the Raft
// log is mapped, and the kernel takes its pages back when it needs them.
func heldBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	return heldOf(text, uint64(os.Getpagesize()))
}

// heldOf reads statm: the second field is what is resident, the third what of
// it belongs to files or is shared.
func heldOf(statm []byte, page uint64) uint64 {
	fields := bytes.Fields(statm)
	if len(fields) < 3 {
		return 0
	}
	resident, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	shared, err := strconv.ParseUint(string(fields[2]), 10, 64)
	if err != nil || shared > resident {
		return 0
	}
	return (resident - shared) * page
}

// The Go heap gets what RocksDB leaves of the share that the gate allows, and
// at least a quarter of the limit: below that the collector would do nothing
// else.
const leastGoShare = 4

// goMemoryLimit is the soft limit of Go's runtime: near it garbage is collected
// sooner, so that the gate closes because of what is needed and not because of
// what nobody has swept up. 0: none.
func goMemoryLimit(limit uint64, native int64) int64 {
	if limit == 0 {
		return 0
	}
	return max(int64(memoryShare*float64(limit))-native, int64(limit/leastGoShare))
}

// limitGoMemory sets that limit, unless GOMEMLIMIT says otherwise, and returns
// what undoes it.
func limitGoMemory(limit uint64, native int64) (undo func()) {
	soft := goMemoryLimit(limit, native)
	if soft == 0 || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	before := debug.SetMemoryLimit(soft)
	return func() { debug.SetMemoryLimit(before) }
}
