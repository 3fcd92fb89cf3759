package storage

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/linxGnu/grocksdb"
)

// The kinds of an option's value.
const (
	kindInt = iota
	kindBytes
	kindBool
	kindFloat
	kindWord
)

// What an option belongs to.
const (
	scopeFamily  = iota // each column family may have its own
	scopeDB             // the whole database
	scopeProcess        // shared by the databases of the process
)

// optionSpec describes one option: the only place where it is named.
type optionSpec struct {
	name     string
	kind     int
	scope    int
	def      [3]string // for the profiles small, default, large
	percent  int64     // if not 0, the default is this share of the memory budget
	min, max float64
	words    []string
	// help is what the option is for, wrong is how it shows that its value is not
	// right, each with the metric in which it shows.
	help, wrong string
	// set applies the value; nil for options that are applied elsewhere.
	set func(o *grocksdb.Options, v setting)
}

// OptionDoc describes an option for people.
type OptionDoc struct {
	Name                  string
	Small, Default, Large string
	// PerFamily says that "family.name" is accepted as well.
	PerFamily bool
	// Help says what it is for, Wrong what shows that its value is wrong, with the
	// metrics' names.
	Help, Wrong string
}

// OptionDocs lists all options in the order in which they should be read.
func OptionDocs() []OptionDoc {
	docs := make([]OptionDoc, 0, len(optionSpecs))
	for i := range optionSpecs {
		s := &optionSpecs[i]
		def := s.def
		if s.percent != 0 {
			def = same(fmt.Sprintf("%d %% of the memory budget", s.percent))
		}
		docs = append(docs, OptionDoc{Name: s.name, Small: def[0], Default: def[1], Large: def[2], PerFamily: s.scope == scopeFamily, Help: s.help, Wrong: s.wrong})
	}
	return docs
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	// tib is an upper bound for sizes: anything above is a mistyped unit.
	tib = 1 << 40
)

// The words of word options, in the order of RocksDB's own numbers.
var (
	compressionWords = []string{"none", "snappy", "zlib", "bz2", "lz4", "lz4hc", "xpress", "zstd"}
	logLevelWords    = []string{"debug", "info", "warn", "error", "fatal"}
)

// same is a default that all profiles share.
func same(v string) [3]string { return [3]string{v, v, v} }

// optionSpecs is the table of all options. Their names are RocksDB's own
// where it has one.
var optionSpecs = []optionSpec{
	// Memory.
	{name: "block_cache_bytes", kind: kindBytes, scope: scopeProcess, percent: cachePercent, min: 4 * mib, max: tib,
		help:  "cache of uncompressed blocks, with indexes and filters; half of the memory budget unless set",
		wrong: "too small: `snipdb_storage_block_cache_misses_total{kind=\"data\"}` grows nearly as fast as the hits, with `snipdb_storage_block_cache_bytes` at its capacity; too large: it never fills"},
	{name: "block_cache_strict", kind: kindBool, scope: scopeProcess, def: same("true"),
		help:  "the block cache never grows over its size; a read that finds it full of blocks in use goes past it",
		wrong: "true with a cache that is too small: `snipdb_storage_block_cache_add_failures_total` grows; false: `snipdb_storage_block_cache_bytes` may be above `snipdb_storage_block_cache_capacity_bytes`"},
	{name: "block_cache_high_pri_ratio", kind: kindFloat, scope: scopeProcess, def: same("0.5"), min: 0, max: 1,
		help:  "share of the block cache kept for indexes and filters",
		wrong: "too small: `snipdb_storage_block_cache_misses_total` grows for the kinds index and filter and hardly for data; too large: the other way round"},
	{name: "write_buffer_manager_bytes", kind: kindBytes, scope: scopeProcess, percent: memtablePercent, min: 4 * mib, max: tib,
		help:  "bound on all memtables together, 30 % of the memory budget unless set: when it is reached, the oldest is flushed",
		wrong: "too small: `snipdb_storage_memtable_bytes` stays at it, and many small files make `snipdb_storage_l0_files` grow; too large: `snipdb_process_held_memory_bytes` nears its limit"},
	{name: "rate_limiter_bytes_per_sec", kind: kindBytes, scope: scopeProcess, def: [3]string{"128MiB", "256MiB", "1GiB"}, min: 0, max: tib,
		help:  "bound on the disk rate of flushes and compactions, so that they leave room for the log's syncs; 0 is none",
		wrong: "too low: `snipdb_storage_rate_limiter_drains_total` and `snipdb_storage_pending_compaction_bytes` grow together; too high: `snipdb_cluster_log_write_seconds` has peaks while compactions run"},
	// The whole database.
	{name: "max_background_jobs", kind: kindInt, scope: scopeDB, def: [3]string{"2", "4", "8"}, min: 2, max: 64,
		help:  "threads for flushes and compactions",
		wrong: "too few: `snipdb_storage_running_compactions` is always at its most and `snipdb_storage_pending_compaction_bytes` grows; too many: they take the CPU (`process_cpu_seconds_total`) that requests need",
		set:   func(o *grocksdb.Options, v setting) { o.SetMaxBackgroundJobs(int(v.num)) }},
	{name: "max_subcompactions", kind: kindInt, scope: scopeDB, def: [3]string{"1", "2", "4"}, min: 1, max: 32,
		help:  "threads that one compaction out of level 0 may use",
		wrong: "too few: `snipdb_storage_l0_files` stays high while a single one of `snipdb_storage_running_compactions` works; too many: as with too many jobs",
		set:   func(o *grocksdb.Options, v setting) { o.SetMaxSubcompactions(uint32(v.num)) }},
	{name: "max_total_wal_size", kind: kindBytes, scope: scopeDB, def: [3]string{"64MiB", "256MiB", "1GiB"}, min: mib, max: tib,
		help:  "the write-ahead log's size at which the column family that holds it back is flushed; a restart reads it again",
		wrong: "too large: a start takes long, because it reads `snipdb_storage_wal_bytes` again; too small: `snipdb_storage_flush_written_bytes_total` comes in many small files (`snipdb_storage_l0_files`)",
		set:   func(o *grocksdb.Options, v setting) { o.SetMaxTotalWalSize(uint64(v.num)) }},
	{name: "wal_bytes_per_sync", kind: kindBytes, scope: scopeDB, def: same("512KiB"), min: 0, max: gib,
		help:  "write the log to disk in the background after each so many bytes, so that no large flush meets the Raft log's syncs",
		wrong: "0 or too large: `snipdb_cluster_log_write_seconds` has peaks while `snipdb_storage_wal_written_bytes_total` grows fast",
		set:   func(o *grocksdb.Options, v setting) { o.SetWALBytesPerSync(uint64(v.num)) }},
	{name: "bytes_per_sync", kind: kindBytes, scope: scopeDB, def: same("1MiB"), min: 0, max: gib,
		help:  "the same for data files",
		wrong: "0 or too large: `snipdb_cluster_log_write_seconds` has peaks while `snipdb_storage_running_flushes` or `snipdb_storage_running_compactions` is not 0",
		set:   func(o *grocksdb.Options, v setting) { o.SetBytesPerSync(uint64(v.num)) }},
	{name: "max_open_files", kind: kindInt, scope: scopeDB, def: [3]string{"512", "4096", "-1"}, min: -1, max: 1 << 20,
		help:  "open data files; -1 keeps all open. Must fit below the limit of open files of the process",
		wrong: "too small: `snipdb_storage_file_opens_total` grows with the reads; too large: `process_open_fds` nears `process_max_fds`, and `snipdb_storage_table_reader_bytes` grows",
		set:   func(o *grocksdb.Options, v setting) { o.SetMaxOpenFiles(int(v.num)) }},
	{name: "compaction_readahead_size", kind: kindBytes, scope: scopeDB, def: same("2MiB"), min: 0, max: gib,
		help:  "how much a compaction reads at once",
		wrong: "too small: `snipdb_storage_compaction_read_bytes_total` grows slowly while compactions run, on a disk that likes long reads",
		set:   func(o *grocksdb.Options, v setting) { o.CompactionReadaheadSize(uint64(v.num)) }},
	{name: "paranoid_checks", kind: kindBool, scope: scopeDB, def: same("true"),
		help:  "a found corruption stops writes instead of being passed over",
		wrong: "true: what was found is in `snipdb_storage_background_errors`; false: nothing shows it until a read fails",
		set:   func(o *grocksdb.Options, v setting) { o.SetParanoidChecks(v.bool()) }},
	{name: "paranoid_file_checks", kind: kindBool, scope: scopeDB, def: same("false"),
		help:  "read each new data file back after it is written",
		wrong: "true where the disk can be trusted: `snipdb_storage_running_flushes` and `snipdb_storage_running_compactions` are longer above 0; false on a bad disk: damage is found by a read only"},
	{name: "avoid_flush_during_recovery", kind: kindBool, scope: scopeDB, def: same("true"),
		help:  "a restart keeps what it read from the log in memory instead of writing files first: ready sooner",
		wrong: "true: `snipdb_storage_wal_bytes` is as large after a start as before it, so starts that follow each other read it again; false: each start adds to `snipdb_storage_l0_files`"},
	{name: "use_direct_io_for_flush_and_compaction", kind: kindBool, scope: scopeDB, def: same("false"),
		help:  "flushes and compactions leave the page cache alone",
		wrong: "false: `snipdb_httpapi_request_duration_seconds` of reads rises while `snipdb_storage_running_compactions` is not 0, as pages that reads need are thrown out; true: flushes that wait for the disk, so `snipdb_storage_immutable_memtables` grows",
		set:   func(o *grocksdb.Options, v setting) { o.SetUseDirectIOForFlushAndCompaction(v.bool()) }},
	{name: "use_direct_reads", kind: kindBool, scope: scopeDB, def: same("false"),
		help:  "reads go past the page cache; for a block cache that holds the working set",
		wrong: "true with too small a cache: `snipdb_storage_block_cache_misses_total` grows, and each of them waits for the disk; false: what is in the block cache is in the page cache as well",
		set:   func(o *grocksdb.Options, v setting) { o.SetUseDirectReads(v.bool()) }},
	{name: "info_log_level", kind: kindWord, scope: scopeDB, def: same("info"), words: logLevelWords,
		help:  "what RocksDB writes to its own file LOG in the data directory",
		wrong: "too chatty: `snipdb_storage_info_log_bytes` is at its most all the time, and holds the last hours only",
		set:   func(o *grocksdb.Options, v setting) { o.SetInfoLogLevel(grocksdb.InfoLogLevel(v.num)) }},
	{name: "max_log_file_size", kind: kindBytes, scope: scopeDB, def: same("16MiB"), min: 64 * kib, max: gib,
		help:  "size at which the file LOG is rotated",
		wrong: "too small: `snipdb_storage_info_log_bytes`, at most this times `keep_log_file_num`, holds no longer what was before a failure",
		set:   func(o *grocksdb.Options, v setting) { o.SetMaxLogFileSize(uint64(v.num)) }},
	{name: "keep_log_file_num", kind: kindInt, scope: scopeDB, def: same("4"), min: 1, max: 1000,
		help:  "files LOG that are kept",
		wrong: "as with `max_log_file_size`: `snipdb_storage_info_log_bytes`",
		set:   func(o *grocksdb.Options, v setting) { o.SetKeepLogFileNum(uint(v.num)) }},
	{name: "statistics", kind: kindBool, scope: scopeProcess, def: same("true"),
		help:  "count cache hits, filters, and bytes read and written",
		wrong: "false: `snipdb_storage_block_cache_hits_total` and all other counters of this page are absent, but `snipdb_storage_stalls_total`; true costs about a hundredth of a write or read"},
	{name: "stats_dump_period_sec", kind: kindInt, scope: scopeDB, def: same("600"), min: 0, max: 86400,
		help:  "how often statistics go to the file LOG; 0 is never",
		wrong: "too often: `snipdb_storage_info_log_bytes` fills with them",
		set:   func(o *grocksdb.Options, v setting) { o.SetStatsDumpPeriodSec(uint(v.num)) }},
	// Each column family: memtables.
	{name: "write_buffer_size", kind: kindBytes, scope: scopeFamily, def: [3]string{"8MiB", "32MiB", "128MiB"}, min: 64 * kib, max: 16 * gib,
		help:  "size of a memtable. Larger: fewer flushes",
		wrong: "too small: `snipdb_storage_l0_files` grows, and `snipdb_storage_compaction_written_bytes_total` is a large multiple of `snipdb_storage_user_written_bytes_total`; too large: `snipdb_storage_wal_bytes` grows, which a restart reads",
		set:   func(o *grocksdb.Options, v setting) { o.SetWriteBufferSize(uint64(v.num)) }},
	{name: "max_write_buffer_number", kind: kindInt, scope: scopeFamily, def: [3]string{"3", "4", "6"}, min: 2, max: 64,
		help:  "memtables of a column family, the active one included; writes stop when all are full",
		wrong: "too few: `snipdb_storage_immutable_memtables` reaches it, and `snipdb_storage_stalls_total` grows with the cause memtables_slowdown or memtables_stop",
		set:   func(o *grocksdb.Options, v setting) { o.SetMaxWriteBufferNumber(int(v.num)) }},
	// Each column family: levels.
	{name: "level0_file_num_compaction_trigger", kind: kindInt, scope: scopeFamily, def: same("4"), min: 1, max: 1000,
		help:  "files in level 0 that start a compaction",
		wrong: "too low: `snipdb_storage_compaction_written_bytes_total` is a large multiple of `snipdb_storage_user_written_bytes_total`; too high: each read asks more files, `snipdb_storage_block_cache_misses_total{kind=\"filter\"}` grows",
		set:   func(o *grocksdb.Options, v setting) { o.SetLevel0FileNumCompactionTrigger(int(v.num)) }},
	{name: "level0_slowdown_writes_trigger", kind: kindInt, scope: scopeFamily, def: [3]string{"20", "24", "32"}, min: 1, max: 1000,
		help:  "files in level 0 at which RocksDB slows writes",
		wrong: "too low: `snipdb_storage_stalls_total{cause=\"l0_slowdown\"}` grows in bursts that compactions soon make up for; too high: reads get slow at that many `snipdb_storage_l0_files`",
		set:   func(o *grocksdb.Options, v setting) { o.SetLevel0SlowdownWritesTrigger(int(v.num)) }},
	{name: "level0_stop_writes_trigger", kind: kindInt, scope: scopeFamily, def: [3]string{"36", "40", "48"}, min: 1, max: 1000,
		help:  "files in level 0 at which RocksDB stops writes",
		wrong: "too low: `snipdb_storage_stalls_total{cause=\"l0_stop\"}` grows: writes stop before slowing them could help; too high: as with the trigger of slowing",
		set:   func(o *grocksdb.Options, v setting) { o.SetLevel0StopWritesTrigger(int(v.num)) }},
	{name: "soft_pending_compaction_bytes_limit", kind: kindBytes, scope: scopeFamily, def: [3]string{"8GiB", "32GiB", "128GiB"}, min: mib, max: tib,
		help:  "compaction debt at which RocksDB slows writes",
		wrong: "too low: `snipdb_storage_stalls_total{cause=\"debt_slowdown\"}` grows in imports that compactions make up for afterwards; too high: `snipdb_storage_pending_compaction_bytes` takes the disk and slows reads before writes are slowed",
		set:   func(o *grocksdb.Options, v setting) { o.SetSoftPendingCompactionBytesLimit(uint64(v.num)) }},
	{name: "hard_pending_compaction_bytes_limit", kind: kindBytes, scope: scopeFamily, def: [3]string{"32GiB", "128GiB", "512GiB"}, min: mib, max: tib,
		help:  "compaction debt at which RocksDB stops writes",
		wrong: "too low: `snipdb_storage_stalls_total{cause=\"debt_stop\"}` grows; too high: as with the soft limit",
		set:   func(o *grocksdb.Options, v setting) { o.SetHardPendingCompactionBytesLimit(uint64(v.num)) }},
	{name: "target_file_size_base", kind: kindBytes, scope: scopeFamily, def: [3]string{"16MiB", "64MiB", "128MiB"}, min: 64 * kib, max: 16 * gib,
		help:  "size of a data file",
		wrong: "too small: `snipdb_storage_level_files` is in the thousands, and `snipdb_storage_file_opens_total` grows; too large: a compaction needs much room at once, and `snipdb_storage_running_compactions` stays on one for long",
		set:   func(o *grocksdb.Options, v setting) { o.SetTargetFileSizeBase(uint64(v.num)) }},
	{name: "max_bytes_for_level_base", kind: kindBytes, scope: scopeFamily, def: [3]string{"64MiB", "256MiB", "1GiB"}, min: 64 * kib, max: tib,
		help:  "size of the first level under level 0; about level0_file_num_compaction_trigger memtables",
		wrong: "too small: `snipdb_storage_level_bytes` shows many levels for the data, and `snipdb_storage_compaction_written_bytes_total` a large multiple of what was flushed; too large: merging level 0 rewrites all of it, so `snipdb_storage_l0_files` stays high",
		set:   func(o *grocksdb.Options, v setting) { o.SetMaxBytesForLevelBase(uint64(v.num)) }},
	{name: "level_compaction_dynamic_level_bytes", kind: kindBool, scope: scopeFamily, def: same("true"),
		help:  "levels sized from the last one up: less space in use",
		wrong: "false: the last of `snipdb_storage_level_bytes` is less than nine tenths of all, so old versions of keys take space in `snipdb_storage_live_sst_bytes`",
		set:   func(o *grocksdb.Options, v setting) { o.SetLevelCompactionDynamicLevelBytes(v.bool()) }},
	{name: "compression", kind: kindWord, scope: scopeFamily, def: same("lz4"), words: compressionWords,
		help:  "compression of all levels but the last",
		wrong: "useless: `snipdb_storage_blocks_not_compressed_total` grows as fast as `snipdb_storage_blocks_compressed_total`; too strong: compactions take the CPU (`process_cpu_seconds_total`) and `snipdb_storage_pending_compaction_bytes` grows",
		set:   func(o *grocksdb.Options, v setting) { o.SetCompression(grocksdb.CompressionType(v.num)) }},
	{name: "bottommost_compression", kind: kindWord, scope: scopeFamily, def: same("zstd"), words: compressionWords,
		help:  "compression of the last level, where most data is",
		wrong: "too weak: the last of `snipdb_storage_level_bytes` is too large for the disk; too strong: as with `compression`, and each of `snipdb_storage_block_cache_misses_total{kind=\"data\"}` costs CPU",
		set:   func(o *grocksdb.Options, v setting) { o.SetBottommostCompression(grocksdb.CompressionType(v.num)) }},
	// Each column family: blob files.
	{name: "enable_blob_files", kind: kindBool, scope: scopeFamily, def: same("false"),
		help:  "large values go to files of their own, which compactions don't rewrite",
		wrong: "false for large values: `snipdb_storage_compaction_written_bytes_total` is a large multiple of `snipdb_storage_user_written_bytes_total`; true for small ones: `snipdb_storage_block_cache_misses_total{kind=\"blob\"}` adds a read of a file to each miss",
		set:   func(o *grocksdb.Options, v setting) { o.EnableBlobFiles(v.bool()) }},
	{name: "min_blob_size", kind: kindBytes, scope: scopeFamily, def: same("512"), min: 0, max: gib,
		help:  "values from this size on go to blob files (a vector has 4 bytes per dimension)",
		wrong: "too large: vectors are in `snipdb_storage_family_live_sst_bytes{family=\"embeddings\"}` and not in `snipdb_storage_blob_bytes`; too small: as with blob files for small values",
		set:   func(o *grocksdb.Options, v setting) { o.SetMinBlobSize(uint64(v.num)) }},
	{name: "blob_file_size", kind: kindBytes, scope: scopeFamily, def: [3]string{"64MiB", "256MiB", "256MiB"}, min: 64 * kib, max: 64 * gib,
		help:  "size of a blob file",
		wrong: "too large: `snipdb_storage_blob_garbage_bytes` stays, because a file goes only when nothing in it lives; too small: `snipdb_storage_blob_files` is in the thousands",
		set:   func(o *grocksdb.Options, v setting) { o.SetBlobFileSize(uint64(v.num)) }},
	{name: "blob_compression_type", kind: kindWord, scope: scopeFamily, def: same("none"), words: compressionWords,
		help:  "compression of blob files; float32 vectors hardly compress",
		wrong: "none where values do compress: `snipdb_storage_blob_bytes` hardly differs from what was written; another for vectors: `process_cpu_seconds_total` grows, and `snipdb_storage_blob_bytes` is no smaller",
		set:   func(o *grocksdb.Options, v setting) { o.SetBlobCompressionType(grocksdb.CompressionType(v.num)) }},
	{name: "enable_blob_garbage_collection", kind: kindBool, scope: scopeFamily, def: same("true"),
		help:  "compactions move live values out of old blob files, which are deleted then",
		wrong: "false: `snipdb_storage_blob_garbage_bytes` grows with each vector that is replaced",
		set:   func(o *grocksdb.Options, v setting) { o.EnableBlobGC(v.bool()) }},
	{name: "blob_garbage_collection_age_cutoff", kind: kindFloat, scope: scopeFamily, def: same("0.25"), min: 0, max: 1,
		help:  "share of the blob files, the oldest, from which values are moved",
		wrong: "too low: `snipdb_storage_blob_garbage_bytes` stays above a half of `snipdb_storage_blob_bytes`; too high: `snipdb_storage_blob_relocated_bytes_total` grows as fast as `snipdb_storage_blob_written_bytes_total`",
		set:   func(o *grocksdb.Options, v setting) { o.SetBlobGCAgeCutoff(v.float) }},
	{name: "blob_garbage_collection_force_threshold", kind: kindFloat, scope: scopeFamily, def: same("0.5"), min: 0, max: 1,
		help:  "share of garbage in the oldest blob files that forces a compaction. Lower: less space, more writing",
		wrong: "too high: as with too low a cutoff, `snipdb_storage_blob_garbage_bytes`; too low: `snipdb_storage_blob_relocated_bytes_total` grows without an end",
		set:   func(o *grocksdb.Options, v setting) { o.SetBlobGCForceThreshold(v.float) }},
	{name: "blob_cache", kind: kindBool, scope: scopeFamily, def: same("true"),
		help:  "read vectors are kept in the block cache",
		wrong: "false: `snipdb_storage_blob_read_bytes_total` grows with each read of a vector; true where vectors are read once: `snipdb_storage_block_cache_misses_total` grows for all kinds, and `snipdb_storage_block_cache_hits_total{kind=\"blob\"}` does not"},
	{name: "optimize_filters_for_hits", kind: kindBool, scope: scopeFamily, def: same("false"),
		help:  "no filters in the last level: saves memory where nearly every key that is asked for exists",
		wrong: "true where keys are asked for that are not there: `snipdb_storage_block_cache_misses_total{kind=\"data\"}` grows and `snipdb_storage_bloom_useful_total` does not; false: `snipdb_storage_block_cache_misses_total{kind=\"filter\"}` grows, in a cache without room",
		set:   func(o *grocksdb.Options, v setting) { o.SetOptimizeFiltersForHits(v.bool()) }},
	// Each column family: tables.
	{name: "block_size", kind: kindBytes, scope: scopeFamily, def: same("16KiB"), min: kib, max: 16 * mib,
		help:  "size of a block before compression: what one uncached read brings in",
		wrong: "too large: `snipdb_storage_block_cache_misses_total{kind=\"data\"}` grows in a full cache, as each brings in much that nobody asked for; too small: the indexes are large, and it grows for the kind index"},
	{name: "bloom_bits_per_key", kind: kindFloat, scope: scopeFamily, def: same("10"), min: 0, max: 64,
		help:  "size of the filters that answer \"not there\" without a read; 10 bits miss one in a hundred, 0 is none",
		wrong: "too small: `snipdb_storage_bloom_positives_total` less `snipdb_storage_bloom_true_positives_total` is more than a fiftieth of `snipdb_storage_bloom_useful_total`; too large: `snipdb_storage_block_cache_misses_total{kind=\"filter\"}` grows"},
	{name: "cache_index_and_filter_blocks", kind: kindBool, scope: scopeFamily, def: same("true"),
		help:  "indexes and filters live in the block cache, within the memory budget",
		wrong: "false: `snipdb_storage_table_reader_bytes` grows with the data, outside of the budget; true with a cache that is too small: `snipdb_storage_block_cache_misses_total` grows for the kinds index and filter"},
	{name: "partition_filters", kind: kindBool, scope: scopeFamily, def: [3]string{"false", "true", "true"},
		help:  "indexes and filters are cut into blocks, so that no large one must be in memory as a whole",
		wrong: "false with large files: `snipdb_storage_block_cache_add_failures_total` grows, and `snipdb_storage_block_cache_misses_total{kind=\"filter\"}` costs MiBs each; true with small ones: more of `snipdb_storage_block_cache_hits_total{kind=\"index\"}` for each read"},
}

// familyDefaults are profile values that differ for one column family.
var familyDefaults = map[string][3]string{
	"embeddings.enable_blob_files":           same("true"),
	"embeddings.write_buffer_size":           {"16MiB", "64MiB", "256MiB"},
	"snippet_text.write_buffer_size":         {"16MiB", "64MiB", "256MiB"},
	"meta.write_buffer_size":                 {"4MiB", "8MiB", "16MiB"},
	"snippet_text.optimize_filters_for_hits": same("true"), // snippet_meta is asked first
	"embeddings.optimize_filters_for_hits":   same("true"),
	"listing.bloom_bits_per_key":             same("0"), // only ranges are read
}

// specByName finds an option of the table.
var specByName = func() map[string]*optionSpec {
	m := make(map[string]*optionSpec, len(optionSpecs))
	for i := range optionSpecs {
		m[optionSpecs[i].name] = &optionSpecs[i]
	}
	return m
}()

// parse reads a value.
func (s *optionSpec) parse(text string) (setting, error) {
	v := setting{text: strings.TrimSpace(text)}
	var err error
	switch s.kind {
	case kindBool:
		var b bool
		if b, err = strconv.ParseBool(v.text); err != nil {
			return setting{}, fmt.Errorf("must be true or false, it is %q", text)
		}
		v.text, v.num = strconv.FormatBool(b), map[bool]int64{true: 1}[b]
		return v, nil
	case kindWord:
		i := slices.Index(s.words, v.text)
		if i < 0 {
			return setting{}, fmt.Errorf("must be one of %s, it is %q", strings.Join(s.words, ", "), text)
		}
		v.num = int64(i)
		return v, nil
	case kindFloat:
		v.float, err = strconv.ParseFloat(v.text, 64)
	case kindInt:
		v.num, err = strconv.ParseInt(v.text, 10, 64)
		v.float = float64(v.num)
	case kindBytes:
		v.num, err = parseBytes(v.text)
		v.float, v.text = float64(v.num), formatBytes(v.num)
	}
	if err != nil || math.IsNaN(v.float) {
		return setting{}, fmt.Errorf("must be a number, it is %q", text)
	}
	if v.float < s.min || v.float > s.max {
		return setting{}, fmt.Errorf("must be %s to %s, it is %s", s.bound(s.min), s.bound(s.max), v.text)
	}
	return v, nil
}

func (s *optionSpec) bound(x float64) string {
	if s.kind == kindBytes {
		return formatBytes(int64(x))
	}
	return strconv.FormatFloat(x, 'g', -1, 64)
}

// byteUnits are the units of a size; the letters alone mean the same.
var byteUnits = []struct {
	suffix string
	shift  uint
}{{"kib", 10}, {"mib", 20}, {"gib", 30}, {"tib", 40}, {"k", 10}, {"m", 20}, {"g", 30}, {"t", 40}, {"b", 0}}

// parseBytes reads a size: digits with an optional unit, "64MiB".
func parseBytes(text string) (int64, error) {
	number, shift := strings.ToLower(strings.TrimSpace(text)), uint(0)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, shift = strings.TrimSpace(rest), u.shift
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > math.MaxInt64>>shift {
		return 0, strconv.ErrRange
	}
	return n << shift, nil
}

// formatBytes writes a size with the largest unit that divides it.
func formatBytes(n int64) string {
	for _, u := range []struct {
		suffix string
		shift  uint
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if n != 0 && n&(1<<u.shift-1) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}
