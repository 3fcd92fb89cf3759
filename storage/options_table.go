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
	help     string
	// set applies the value; nil for options that are applied elsewhere.
	set func(o *grocksdb.Options, v setting)
}

// OptionDoc describes an option for people.
type OptionDoc struct {
	Name                  string
	Small, Default, Large string
	// PerFamily says that "family.name" is accepted as well.
	PerFamily bool
	Help      string
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
		docs = append(docs, OptionDoc{Name: s.name, Small: def[0], Default: def[1], Large: def[2], PerFamily: s.scope == scopeFamily, Help: s.help})
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
		help: "cache of uncompressed blocks, with indexes and filters; half of the memory budget unless set. Too small: many reads from disk, block cache full"},
	{name: "block_cache_strict", kind: kindBool, scope: scopeProcess, def: same("true"),
		help: "the block cache never grows over its size; a read that finds it full of blocks in use goes past it"},
	{name: "block_cache_high_pri_ratio", kind: kindFloat, scope: scopeProcess, def: same("0.5"), min: 0, max: 1,
		help: "share of the block cache kept for indexes and filters"},
	{name: "write_buffer_manager_bytes", kind: kindBytes, scope: scopeProcess, percent: memtablePercent, min: 4 * mib, max: tib,
		help: "bound on all memtables together, 30 % of the memory budget unless set: when it is reached, the oldest is flushed. Too small: many small files in level 0"},
	{name: "rate_limiter_bytes_per_sec", kind: kindBytes, scope: scopeProcess, def: [3]string{"128MiB", "256MiB", "1GiB"}, min: 0, max: tib,
		help: "bound on the disk rate of flushes and compactions, so that they leave room for the log's syncs; 0 is none. Too low: pending compaction bytes grow"},
	// The whole database.
	{name: "max_background_jobs", kind: kindInt, scope: scopeDB, def: [3]string{"2", "4", "8"}, min: 2, max: 64,
		help: "threads for flushes and compactions. Too few: pending compaction bytes and level-0 files grow",
		set:  func(o *grocksdb.Options, v setting) { o.SetMaxBackgroundJobs(int(v.num)) }},
	{name: "max_subcompactions", kind: kindInt, scope: scopeDB, def: [3]string{"1", "2", "4"}, min: 1, max: 32,
		help: "threads that one compaction out of level 0 may use",
		set:  func(o *grocksdb.Options, v setting) { o.SetMaxSubcompactions(uint32(v.num)) }},
	{name: "max_total_wal_size", kind: kindBytes, scope: scopeDB, def: [3]string{"64MiB", "256MiB", "1GiB"}, min: mib, max: tib,
		help: "the write-ahead log's size at which the column family that holds it back is flushed; a restart reads it again. Larger: slower restart",
		set:  func(o *grocksdb.Options, v setting) { o.SetMaxTotalWalSize(uint64(v.num)) }},
	{name: "wal_bytes_per_sync", kind: kindBytes, scope: scopeDB, def: same("512KiB"), min: 0, max: gib,
		help: "write the log to disk in the background after each so many bytes, so that no large flush meets the Raft log's syncs",
		set:  func(o *grocksdb.Options, v setting) { o.SetWALBytesPerSync(uint64(v.num)) }},
	{name: "bytes_per_sync", kind: kindBytes, scope: scopeDB, def: same("1MiB"), min: 0, max: gib,
		help: "the same for data files",
		set:  func(o *grocksdb.Options, v setting) { o.SetBytesPerSync(uint64(v.num)) }},
	{name: "max_open_files", kind: kindInt, scope: scopeDB, def: [3]string{"512", "4096", "-1"}, min: -1, max: 1 << 20,
		help: "open data files; -1 keeps all open. Must fit below the limit of open files of the process",
		set:  func(o *grocksdb.Options, v setting) { o.SetMaxOpenFiles(int(v.num)) }},
	{name: "compaction_readahead_size", kind: kindBytes, scope: scopeDB, def: same("2MiB"), min: 0, max: gib,
		help: "how much a compaction reads at once",
		set:  func(o *grocksdb.Options, v setting) { o.CompactionReadaheadSize(uint64(v.num)) }},
	{name: "paranoid_checks", kind: kindBool, scope: scopeDB, def: same("true"),
		help: "a found corruption stops writes instead of being passed over",
		set:  func(o *grocksdb.Options, v setting) { o.SetParanoidChecks(v.bool()) }},
	{name: "paranoid_file_checks", kind: kindBool, scope: scopeDB, def: same("false"),
		help: "read each new data file back after it is written"},
	{name: "avoid_flush_during_recovery", kind: kindBool, scope: scopeDB, def: same("true"),
		help: "a restart keeps what it read from the log in memory instead of writing files first: ready sooner"},
	{name: "use_direct_io_for_flush_and_compaction", kind: kindBool, scope: scopeDB, def: same("false"),
		help: "flushes and compactions leave the page cache alone",
		set:  func(o *grocksdb.Options, v setting) { o.SetUseDirectIOForFlushAndCompaction(v.bool()) }},
	{name: "use_direct_reads", kind: kindBool, scope: scopeDB, def: same("false"),
		help: "reads go past the page cache; for a block cache that holds the working set",
		set:  func(o *grocksdb.Options, v setting) { o.SetUseDirectReads(v.bool()) }},
	{name: "info_log_level", kind: kindWord, scope: scopeDB, def: same("info"), words: logLevelWords,
		help: "what RocksDB writes to its own file LOG in the data directory",
		set:  func(o *grocksdb.Options, v setting) { o.SetInfoLogLevel(grocksdb.InfoLogLevel(v.num)) }},
	{name: "max_log_file_size", kind: kindBytes, scope: scopeDB, def: same("16MiB"), min: 64 * kib, max: gib,
		help: "size at which the file LOG is rotated",
		set:  func(o *grocksdb.Options, v setting) { o.SetMaxLogFileSize(uint64(v.num)) }},
	{name: "keep_log_file_num", kind: kindInt, scope: scopeDB, def: same("4"), min: 1, max: 1000,
		help: "files LOG that are kept",
		set:  func(o *grocksdb.Options, v setting) { o.SetKeepLogFileNum(uint(v.num)) }},
	{name: "stats_dump_period_sec", kind: kindInt, scope: scopeDB, def: same("600"), min: 0, max: 86400,
		help: "how often statistics go to the file LOG; 0 is never",
		set:  func(o *grocksdb.Options, v setting) { o.SetStatsDumpPeriodSec(uint(v.num)) }},
	// Each column family: memtables.
	{name: "write_buffer_size", kind: kindBytes, scope: scopeFamily, def: [3]string{"8MiB", "32MiB", "128MiB"}, min: 64 * kib, max: 16 * gib,
		help: "size of a memtable. Larger: fewer flushes, slower restart",
		set:  func(o *grocksdb.Options, v setting) { o.SetWriteBufferSize(uint64(v.num)) }},
	{name: "max_write_buffer_number", kind: kindInt, scope: scopeFamily, def: [3]string{"3", "4", "6"}, min: 2, max: 64,
		help: "memtables of a column family, the active one included; writes stop when all are full. Too few: immutable memtables reach it",
		set:  func(o *grocksdb.Options, v setting) { o.SetMaxWriteBufferNumber(int(v.num)) }},
	// Each column family: levels.
	{name: "level0_file_num_compaction_trigger", kind: kindInt, scope: scopeFamily, def: same("4"), min: 1, max: 1000,
		help: "files in level 0 that start a compaction",
		set:  func(o *grocksdb.Options, v setting) { o.SetLevel0FileNumCompactionTrigger(int(v.num)) }},
	{name: "level0_slowdown_writes_trigger", kind: kindInt, scope: scopeFamily, def: [3]string{"20", "24", "32"}, min: 1, max: 1000,
		help: "files in level 0 at which RocksDB slows writes",
		set:  func(o *grocksdb.Options, v setting) { o.SetLevel0SlowdownWritesTrigger(int(v.num)) }},
	{name: "level0_stop_writes_trigger", kind: kindInt, scope: scopeFamily, def: [3]string{"36", "40", "48"}, min: 1, max: 1000,
		help: "files in level 0 at which RocksDB stops writes",
		set:  func(o *grocksdb.Options, v setting) { o.SetLevel0StopWritesTrigger(int(v.num)) }},
	{name: "soft_pending_compaction_bytes_limit", kind: kindBytes, scope: scopeFamily, def: [3]string{"8GiB", "32GiB", "128GiB"}, min: mib, max: tib,
		help: "compaction debt at which RocksDB slows writes",
		set:  func(o *grocksdb.Options, v setting) { o.SetSoftPendingCompactionBytesLimit(uint64(v.num)) }},
	{name: "hard_pending_compaction_bytes_limit", kind: kindBytes, scope: scopeFamily, def: [3]string{"32GiB", "128GiB", "512GiB"}, min: mib, max: tib,
		help: "compaction debt at which RocksDB stops writes",
		set:  func(o *grocksdb.Options, v setting) { o.SetHardPendingCompactionBytesLimit(uint64(v.num)) }},
	{name: "target_file_size_base", kind: kindBytes, scope: scopeFamily, def: [3]string{"16MiB", "64MiB", "128MiB"}, min: 64 * kib, max: 16 * gib,
		help: "size of a data file",
		set:  func(o *grocksdb.Options, v setting) { o.SetTargetFileSizeBase(uint64(v.num)) }},
	{name: "max_bytes_for_level_base", kind: kindBytes, scope: scopeFamily, def: [3]string{"64MiB", "256MiB", "1GiB"}, min: 64 * kib, max: tib,
		help: "size of the first level under level 0; about level0_file_num_compaction_trigger memtables",
		set:  func(o *grocksdb.Options, v setting) { o.SetMaxBytesForLevelBase(uint64(v.num)) }},
	{name: "level_compaction_dynamic_level_bytes", kind: kindBool, scope: scopeFamily, def: same("true"),
		help: "levels sized from the last one up: less space in use",
		set:  func(o *grocksdb.Options, v setting) { o.SetLevelCompactionDynamicLevelBytes(v.bool()) }},
	{name: "compression", kind: kindWord, scope: scopeFamily, def: same("lz4"), words: compressionWords,
		help: "compression of all levels but the last",
		set:  func(o *grocksdb.Options, v setting) { o.SetCompression(grocksdb.CompressionType(v.num)) }},
	{name: "bottommost_compression", kind: kindWord, scope: scopeFamily, def: same("zstd"), words: compressionWords,
		help: "compression of the last level, where most data is",
		set:  func(o *grocksdb.Options, v setting) { o.SetBottommostCompression(grocksdb.CompressionType(v.num)) }},
	// Each column family: blob files.
	{name: "enable_blob_files", kind: kindBool, scope: scopeFamily, def: same("false"),
		help: "large values go to files of their own, which compactions don't rewrite",
		set:  func(o *grocksdb.Options, v setting) { o.EnableBlobFiles(v.bool()) }},
	{name: "min_blob_size", kind: kindBytes, scope: scopeFamily, def: same("512"), min: 0, max: gib,
		help: "values from this size on go to blob files (a vector has 4 bytes per dimension)",
		set:  func(o *grocksdb.Options, v setting) { o.SetMinBlobSize(uint64(v.num)) }},
	{name: "blob_file_size", kind: kindBytes, scope: scopeFamily, def: [3]string{"64MiB", "256MiB", "256MiB"}, min: 64 * kib, max: 64 * gib,
		help: "size of a blob file",
		set:  func(o *grocksdb.Options, v setting) { o.SetBlobFileSize(uint64(v.num)) }},
	{name: "blob_compression_type", kind: kindWord, scope: scopeFamily, def: same("none"), words: compressionWords,
		help: "compression of blob files; float32 vectors hardly compress",
		set:  func(o *grocksdb.Options, v setting) { o.SetBlobCompressionType(grocksdb.CompressionType(v.num)) }},
	{name: "enable_blob_garbage_collection", kind: kindBool, scope: scopeFamily, def: same("true"),
		help: "compactions move live values out of old blob files, which are deleted then",
		set:  func(o *grocksdb.Options, v setting) { o.EnableBlobGC(v.bool()) }},
	{name: "blob_garbage_collection_age_cutoff", kind: kindFloat, scope: scopeFamily, def: same("0.25"), min: 0, max: 1,
		help: "share of the blob files, the oldest, from which values are moved",
		set:  func(o *grocksdb.Options, v setting) { o.SetBlobGCAgeCutoff(v.float) }},
	{name: "blob_garbage_collection_force_threshold", kind: kindFloat, scope: scopeFamily, def: same("0.5"), min: 0, max: 1,
		help: "share of garbage in the oldest blob files that forces a compaction. Lower: less space, more writing",
		set:  func(o *grocksdb.Options, v setting) { o.SetBlobGCForceThreshold(v.float) }},
	{name: "blob_cache", kind: kindBool, scope: scopeFamily, def: same("true"),
		help: "read vectors are kept in the block cache"},
	{name: "optimize_filters_for_hits", kind: kindBool, scope: scopeFamily, def: same("false"),
		help: "no filters in the last level: saves memory where nearly every key that is asked for exists",
		set:  func(o *grocksdb.Options, v setting) { o.SetOptimizeFiltersForHits(v.bool()) }},
	// Each column family: tables.
	{name: "block_size", kind: kindBytes, scope: scopeFamily, def: same("16KiB"), min: kib, max: 16 * mib,
		help: "size of a block before compression: what one uncached read brings in"},
	{name: "bloom_bits_per_key", kind: kindFloat, scope: scopeFamily, def: same("10"), min: 0, max: 64,
		help: "size of the filters that answer \"not there\" without a read; 10 bits miss one in a hundred, 0 is none"},
	{name: "cache_index_and_filter_blocks", kind: kindBool, scope: scopeFamily, def: same("true"),
		help: "indexes and filters live in the block cache, within the memory budget"},
	{name: "partition_filters", kind: kindBool, scope: scopeFamily, def: [3]string{"false", "true", "true"},
		help: "indexes and filters are cut into blocks, so that no large one must be in memory as a whole"},
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
