package storage

import (
	"fmt"

	"github.com/linxGnu/grocksdb"
)

// Shared is what the databases of one process share: the block cache, the
// bound on all memtables, the rate limit of background work. Open one per
// process. It may be closed before or after the databases that use it, but
// not used for opening one afterwards.
type Shared struct {
	n *nativeShared
}

// minShardBytes is the least size of a part of the block cache. Each part has
// a lock and a strict limit of its own, so it must hold the largest block
// many times over.
const minShardBytes = 16 << 20

// maxShardBits bounds the parts of the block cache: 64.
const maxShardBits = 6

// NewShared makes the shared parts from the options' memory budget.
func NewShared(o Options) (*Shared, error) {
	r, err := o.resolve()
	if err != nil {
		return nil, err
	}
	cache := r.general("block_cache_bytes").num
	bits := 0
	for bits < maxShardBits && cache>>(bits+1) >= minShardBytes {
		bits++
	}
	n := newNativeShared(cache, bits, r.general("block_cache_strict").bool(), r.general("block_cache_high_pri_ratio").float,
		r.general("write_buffer_manager_bytes").num, r.general("rate_limiter_bytes_per_sec").num)
	if r.general("statistics").bool() {
		n.count()
	}
	return &Shared{n}, nil
}

// MemoryBudget is the memory that the options give to RocksDB in this process,
// set or by the profile.
func (o Options) MemoryBudget() (int64, error) {
	r, err := o.resolve()
	if err != nil {
		return 0, err
	}
	return r.memory, nil
}

// Close frees the shared parts. It may be called again.
func (s *Shared) Close() {
	if s != nil && s.n != nil {
		s.n.free()
		s.n = nil
	}
}

// buildOptions makes the options of a database and of its column families.
// The caller frees all of them with freeOptions.
func (r *resolved) buildOptions(s *Shared, readOnly bool) (db *grocksdb.Options, families []*grocksdb.Options, err error) {
	if s == nil || s.n == nil {
		return nil, nil, fmt.Errorf("storage: no shared block cache: %w", ErrClosed)
	}
	db = newOptions()
	r.apply(db, -1)
	s.n.setOptions(db, false)
	if !readOnly {
		// One that is opened to be read as a whole would drown what requests read.
		s.n.setStatistics(db)
	}
	setExtra(db, r.general("avoid_flush_during_recovery").bool(), r.general("paranoid_file_checks").bool())
	db.SetCreateIfMissing(!readOnly)
	db.SetCreateIfMissingColumnFamilies(!readOnly)
	// The state's write-ahead log is not synced (the Raft log is the durable
	// one), so after a power loss its end may be missing: take what is whole
	// up to the first damage, the same point for all column families.
	db.SetWALRecoveryMode(grocksdb.PointInTimeRecovery)
	// Statistics of old files are not read at open: a restart is faster.
	db.SetSkipStatsUpdateOnDBOpen(true)
	for cf := range familyCount {
		o := newOptions()
		r.apply(o, cf)
		s.n.setOptions(o, r.family("blob_cache", cf).bool())
		r.applyTable(o, cf, s)
		setExtra(o, false, r.general("paranoid_file_checks").bool())
		families = append(families, o)
	}
	return db, families, nil
}

// apply sets the options of the database (cf < 0) or of a column family.
func (r *resolved) apply(o *grocksdb.Options, cf int) {
	for i := range optionSpecs {
		s := &optionSpecs[i]
		if s.set != nil && (s.scope == scopeDB && cf < 0 || s.scope == scopeFamily && cf >= 0) {
			s.set(o, r.value(s, cf))
		}
	}
}

// tableFormatVersion is the newest that RocksDB 7.8 writes by default.
const tableFormatVersion = 5

// applyTable sets the table format of a column family.
func (r *resolved) applyTable(o *grocksdb.Options, cf int, s *Shared) {
	t := newTableOptions()
	defer freeTableOptions(t)
	t.SetBlockSize(int(r.family("block_size", cf).num))
	t.SetFormatVersion(tableFormatVersion)
	cached := r.family("cache_index_and_filter_blocks", cf).bool()
	t.SetCacheIndexAndFilterBlocks(cached)
	t.SetCacheIndexAndFilterBlocksWithHighPriority(cached)
	t.SetPinL0FilterAndIndexBlocksInCache(cached)
	if r.family("partition_filters", cf).bool() {
		t.SetIndexType(grocksdb.KTwoLevelIndexSearchIndexType)
		t.SetPartitionFilters(true)
		t.SetPinTopLevelIndexAndFilter(true)
	}
	if bits := r.family("bloom_bits_per_key", cf).float; bits > 0 {
		t.SetFilterPolicy(grocksdb.NewBloomFilterFull(bits)) // moves into t
	}
	s.n.setTable(t)
	o.SetBlockBasedTableFactory(t)
}
