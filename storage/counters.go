package storage

// #cgo noescape snip_shared_counters
// #cgo nocallback snip_shared_counters
// #cgo noescape snip_family_levels
// #cgo nocallback snip_family_levels
// #include "native.h"
import "C"

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/linxGnu/grocksdb"
)

// Levels is how many levels a column family has.
const Levels = C.SNIP_LEVELS

// Detail is what costs more to find out than Stats: for a scrape every few
// seconds, not for the check before a write.
type Detail struct {
	// LevelFiles and LevelBytes are sums over the column families.
	LevelFiles, LevelBytes [Levels]uint64
	// TableReaderBytes is the memory of open data files beside the block cache.
	TableReaderBytes uint64
	// WALBytes and InfoLogBytes are the sizes of the files: the write-ahead log
	// that a restart reads again, and RocksDB's own LOG.
	WALBytes, InfoLogBytes uint64
	// Stalls is how often a column family was found with too much of something,
	// since the database was opened.
	Stalls Stalls
	// Counters are nil if the option statistics is false.
	Counters *Counters
}

// Stalls are the reasons for which RocksDB slows and stops writes.
type Stalls struct {
	L0Slowdowns, L0Stops, MemtableSlowdowns, MemtableStops, PendingSlowdowns, PendingStops uint64
}

// Counters only grow. They are of the process: they go on when a restored
// database takes the place of the one before, and are 0 after a start.
type Counters struct {
	DataHits, DataMisses, IndexHits, IndexMisses, FilterHits, FilterMisses, BlobHits, BlobMisses uint64
	// AddFailures is how often a block found no room in a full cache.
	AddFailures uint64
	// BloomUseful is how often a filter saved the look into a file,
	// BloomPositives how often it did not, BloomTruePositives how often rightly.
	BloomUseful, BloomPositives, BloomTruePositives uint64
	// UserBytes are what the state machine wrote; the others what became of it.
	UserBytes, WALBytes, FlushBytes, CompactionReadBytes, CompactionWrittenBytes uint64
	// BlobWrittenBytes is within those of flushes and compactions,
	// BlobRelocatedBytes is what was moved out of old blob files.
	BlobWrittenBytes, BlobReadBytes, BlobRelocatedBytes uint64
	// BlocksNotCompressed is how many blocks stayed as they were, because
	// compression would have gained less than an eighth.
	BlocksCompressed, BlocksNotCompressed uint64
	// StallTime is how long writes waited because RocksDB slowed or stopped them.
	StallTime time.Duration
	// RateLimiterDrains is in how many of the limiter's periods of 100 ms all
	// that it allows was used.
	RateLimiterDrains uint64
	// FileOpens is how often a data file was opened.
	FileOpens uint64
}

// Detail looks at each level, at the files of the directory and at the
// counters, in less than a millisecond.
func (db *DB) Detail() (Detail, error) {
	if err := db.enter("read properties of"); err != nil {
		return Detail{}, err
	}
	defer db.pins.release()
	var d Detail
	for cf := range familyCount {
		if err := db.addLevels(&d, cf); err != nil {
			return Detail{}, err
		}
		d.TableReaderBytes += db.familyProperty(cf, "estimate-table-readers-mem")
	}
	if err := db.addFiles(&d); err != nil {
		return Detail{}, fmt.Errorf("storage: sizes of the logs: %w", err)
	}
	if sh := db.shared.n; sh != nil {
		d.Counters = sh.counters()
	}
	return d, nil
}

// addLevels adds what a column family has on its levels.
func (db *DB) addLevels(d *Detail, cf int) error {
	var c C.snip_levels
	if C.snip_family_levels(db.n.rocks(), db.n.cf(cf), &c) == 0 {
		return fmt.Errorf("storage: RocksDB %s does not say what is on the levels of %s", LinkedVersion(), familyName(cf))
	}
	for level := range Levels {
		d.LevelFiles[level] += uint64(c.files[level])
		d.LevelBytes[level] += uint64(c.bytes[level])
	}
	d.Stalls.L0Slowdowns += uint64(c.l0_slowdowns)
	d.Stalls.L0Stops += uint64(c.l0_stops)
	d.Stalls.MemtableSlowdowns += uint64(c.memtable_slowdowns)
	d.Stalls.MemtableStops += uint64(c.memtable_stops)
	d.Stalls.PendingSlowdowns += uint64(c.pending_slowdowns)
	d.Stalls.PendingStops += uint64(c.pending_stops)
	return nil
}

// addFiles looks for the files that no property tells of. RocksDB deletes some
// of them meanwhile.
func (db *DB) addFiles(d *Detail) error {
	entries, err := os.ReadDir(db.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var to *uint64
		switch name := e.Name(); {
		case filepath.Ext(name) == ".log":
			to = &d.WALBytes
		case name == "LOG" || strings.HasPrefix(name, "LOG.old."):
			to = &d.InfoLogBytes
		default:
			continue
		}
		info, err := e.Info()
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		*to += uint64(info.Size())
	}
	return nil
}

// count switches the counters on.
func (s *nativeShared) count() { C.snip_shared_count(s.c) }

// setStatistics makes a database count, if the shared parts do.
func (s *nativeShared) setStatistics(o *grocksdb.Options) {
	C.snip_shared_set_statistics(s.c, (*C.rocksdb_options_t)(handle(o)))
}

// counters returns nil if nothing is counted.
func (s *nativeShared) counters() *Counters {
	var c C.snip_counters
	if C.snip_shared_counters(s.c, &c) == 0 {
		return nil
	}
	return &Counters{
		DataHits: uint64(c.data_hits), DataMisses: uint64(c.data_misses),
		IndexHits: uint64(c.index_hits), IndexMisses: uint64(c.index_misses),
		FilterHits: uint64(c.filter_hits), FilterMisses: uint64(c.filter_misses),
		BlobHits: uint64(c.blob_hits), BlobMisses: uint64(c.blob_misses),
		AddFailures: uint64(c.block_add_failures + c.blob_add_failures),
		BloomUseful: uint64(c.bloom_useful), BloomPositives: uint64(c.bloom_positives), BloomTruePositives: uint64(c.bloom_true_positives),
		UserBytes: uint64(c.user_bytes), WALBytes: uint64(c.wal_bytes), FlushBytes: uint64(c.flush_bytes),
		CompactionReadBytes: uint64(c.compaction_read_bytes), CompactionWrittenBytes: uint64(c.compaction_written_bytes),
		BlobWrittenBytes: uint64(c.blob_written_bytes), BlobReadBytes: uint64(c.blob_read_bytes), BlobRelocatedBytes: uint64(c.blob_relocated_bytes),
		BlocksCompressed: uint64(c.blocks_compressed), BlocksNotCompressed: uint64(c.blocks_not_compressed),
		StallTime:         time.Duration(c.stall_micros) * time.Microsecond,
		RateLimiterDrains: uint64(c.rate_limiter_drains), FileOpens: uint64(c.file_opens),
	}
}
