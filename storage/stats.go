package storage

import (
	"maps"
	"strconv"
)

// Stats is what RocksDB says of itself: sums over the column families, unless
// a field says otherwise.
type Stats struct {
	// Stall is "none", "slowdown" or "stop".
	Stall        string
	WriteStopped bool
	// DelayedWriteRate is the rate to which RocksDB slows writes now, in bytes
	// per second; 0 if it does not.
	DelayedWriteRate uint64
	// L0Files is the largest number of level-0 files of one column family,
	// because the triggers are per family.
	L0Files uint64
	// PendingBytes is the estimated compaction debt.
	PendingBytes uint64
	// MemtableBytes is this database's; the bound is on all of the process.
	MemtableBytes uint64
	// ImmutableMemtables is the largest number of one column family.
	ImmutableMemtables      uint64
	BlockCacheBytes         uint64 // of the process
	BlockCachePinnedBytes   uint64 // of the process: blocks in use
	BlockCacheCapacityBytes uint64
	BlobBytes               uint64
	BlobGarbageBytes        uint64
	BlobFiles               uint64
	LiveSSTBytes            uint64
	RunningCompactions      uint64
	RunningFlushes          uint64
	BackgroundErrors        uint64
	IdempotencyKeys         uint64 // estimated
	EstimatedKeys           uint64
	Snapshots               uint64 // open views
	OldestSnapshotUnixS     uint64 // when the oldest open view was made; 0: none
	// Pressure is how near RocksDB is to slowing writes: 0 is idle, 1 and more
	// is that it slows or stops them now. Admission refuses writes with rising
	// probability before 1.
	Pressure float64
	// Families has the sizes of each column family.
	Families map[string]FamilyStats
	// Options are the effective options.
	Options map[string]OptionValue
}

// FamilyStats are the figures of one column family.
type FamilyStats struct {
	L0Files, ImmutableMemtables, MemtableBytes, PendingBytes, LiveSSTBytes, BlobBytes, EstimatedKeys uint64
}

// DataBytes is the size of the data: the files, and what is in memtables and
// the write-ahead log as yet.
func (s Stats) DataBytes() uint64 { return s.LiveSSTBytes + s.BlobBytes + s.MemtableBytes }

// limits are the options that Pressure compares with, by column family.
type limits struct {
	l0Slowdown   [familyCount]float64
	pendingSoft  [familyCount]float64
	maxMemtables [familyCount]float64
}

func (r *resolved) limits() limits {
	var l limits
	for cf := range familyCount {
		l.l0Slowdown[cf] = float64(r.family("level0_slowdown_writes_trigger", cf).num)
		l.pendingSoft[cf] = float64(r.family("soft_pending_compaction_bytes_limit", cf).num)
		l.maxMemtables[cf] = float64(r.family("max_write_buffer_number", cf).num)
	}
	return l
}

// Stats reads RocksDB's properties. It takes RocksDB's own lock some fifty
// times, for about 100 µs in all: call it every second, not per request.
func (db *DB) Stats() (Stats, error) {
	if err := db.enter("read properties of"); err != nil {
		return Stats{}, err
	}
	defer db.pins.release()
	s := Stats{
		Stall:               "none",
		WriteStopped:        db.property("is-write-stopped") != 0,
		DelayedWriteRate:    db.property("actual-delayed-write-rate"),
		RunningCompactions:  db.property("num-running-compactions"),
		RunningFlushes:      db.property("num-running-flushes"),
		BackgroundErrors:    db.property("background-errors"),
		Snapshots:           db.property("num-snapshots"),
		OldestSnapshotUnixS: db.property("oldest-snapshot-time"),
		Families:            make(map[string]FamilyStats, familyCount),
		Options:             maps.Clone(db.effective),
	}
	if sh := db.shared.n; sh != nil {
		s.BlockCacheBytes, s.BlockCachePinnedBytes, s.BlockCacheCapacityBytes = sh.cacheUsage(), sh.cachePinned(), sh.cacheCapacity()
	}
	for cf := range familyCount {
		f := db.familyStats(cf)
		s.Families[familyName(cf)] = f
		s.L0Files, s.ImmutableMemtables = max(s.L0Files, f.L0Files), max(s.ImmutableMemtables, f.ImmutableMemtables)
		s.PendingBytes += f.PendingBytes
		s.MemtableBytes += f.MemtableBytes
		s.LiveSSTBytes += f.LiveSSTBytes
		s.BlobBytes += f.BlobBytes
		s.EstimatedKeys += f.EstimatedKeys
		s.BlobFiles += db.familyProperty(cf, "num-blob-files")
		s.BlobGarbageBytes += db.familyProperty(cf, "live-blob-file-garbage-size")
		s.Pressure = max(s.Pressure, db.limits.pressure(cf, f))
	}
	s.IdempotencyKeys = s.Families[familyName(cfIdempotency)].EstimatedKeys / 2 // a row and its place in the queue
	switch {
	case s.WriteStopped:
		s.Stall, s.Pressure = "stop", max(s.Pressure, 2)
	case s.DelayedWriteRate > 0:
		s.Stall, s.Pressure = "slowdown", max(s.Pressure, 1)
	}
	return s, nil
}

// pressure is how near a column family is to a limit at which RocksDB slows
// writes: the nearest of level-0 files, compaction debt and memtables.
func (l *limits) pressure(cf int, f FamilyStats) float64 {
	p := max(float64(f.L0Files)/l.l0Slowdown[cf], float64(f.PendingBytes)/l.pendingSoft[cf])
	// RocksDB slows writes when all memtables but one are full, and only if it
	// may have more than three; it stops them when all are.
	return max(p, float64(f.ImmutableMemtables)/l.maxMemtables[cf])
}

func (db *DB) familyStats(cf int) FamilyStats {
	l0, _ := strconv.ParseUint(db.n.db.GetPropertyCF("rocksdb.num-files-at-level0", db.n.families[cf].h), 10, 64)
	return FamilyStats{
		L0Files:            l0,
		ImmutableMemtables: db.familyProperty(cf, "num-immutable-mem-table"),
		MemtableBytes:      db.familyProperty(cf, "cur-size-all-mem-tables"),
		PendingBytes:       db.familyProperty(cf, "estimate-pending-compaction-bytes"),
		LiveSSTBytes:       db.familyProperty(cf, "live-sst-files-size"),
		BlobBytes:          db.familyProperty(cf, "live-blob-file-size"),
		EstimatedKeys:      db.familyProperty(cf, "estimate-num-keys"),
	}
}

// property reads a property of the database; 0 if RocksDB does not have it.
// TestProperties checks that the linked version has each.
func (db *DB) property(name string) uint64 {
	v, _ := db.n.db.GetIntProperty("rocksdb." + name)
	return v
}

func (db *DB) familyProperty(cf int, name string) uint64 {
	v, _ := db.n.db.GetIntPropertyCF("rocksdb."+name, db.n.families[cf].h)
	return v
}
