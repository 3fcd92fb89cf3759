// What RocksDB counts: tickers of the whole process, and the levels and stalls
// of a column family, which the C interface has as text only.

#include <rocksdb/statistics.h>

#include <cstdlib>
#include <map>
#include <string>

#include "native.h"
#include "native_shared.h"

// This repeats the first field of db/c.cc, like those of native_shared.h.
struct rocksdb_column_family_handle_t {
  ROCKSDB_NAMESPACE::ColumnFamilyHandle* rep;
};

namespace {

// kTickers is in the order of the fields of snip_counters.
const uint32_t kTickers[] = {
    ROCKSDB_NAMESPACE::BLOCK_CACHE_DATA_HIT,
    ROCKSDB_NAMESPACE::BLOCK_CACHE_DATA_MISS,
    ROCKSDB_NAMESPACE::BLOCK_CACHE_INDEX_HIT,
    ROCKSDB_NAMESPACE::BLOCK_CACHE_INDEX_MISS,
    ROCKSDB_NAMESPACE::BLOCK_CACHE_FILTER_HIT,
    ROCKSDB_NAMESPACE::BLOCK_CACHE_FILTER_MISS,
    ROCKSDB_NAMESPACE::BLOB_DB_CACHE_HIT,
    ROCKSDB_NAMESPACE::BLOB_DB_CACHE_MISS,
    ROCKSDB_NAMESPACE::BLOCK_CACHE_ADD_FAILURES,
    ROCKSDB_NAMESPACE::BLOB_DB_CACHE_ADD_FAILURES,
    ROCKSDB_NAMESPACE::BLOOM_FILTER_USEFUL,
    ROCKSDB_NAMESPACE::BLOOM_FILTER_FULL_POSITIVE,
    ROCKSDB_NAMESPACE::BLOOM_FILTER_FULL_TRUE_POSITIVE,
    ROCKSDB_NAMESPACE::BYTES_WRITTEN,
    ROCKSDB_NAMESPACE::WAL_FILE_BYTES,
    ROCKSDB_NAMESPACE::FLUSH_WRITE_BYTES,
    ROCKSDB_NAMESPACE::COMPACT_READ_BYTES,
    ROCKSDB_NAMESPACE::COMPACT_WRITE_BYTES,
    ROCKSDB_NAMESPACE::BLOB_DB_BLOB_FILE_BYTES_WRITTEN,
    ROCKSDB_NAMESPACE::BLOB_DB_BLOB_FILE_BYTES_READ,
    ROCKSDB_NAMESPACE::BLOB_DB_GC_BYTES_RELOCATED,
    ROCKSDB_NAMESPACE::NUMBER_BLOCK_COMPRESSED,
    ROCKSDB_NAMESPACE::NUMBER_BLOCK_NOT_COMPRESSED,
    ROCKSDB_NAMESPACE::STALL_MICROS,
    ROCKSDB_NAMESPACE::NUMBER_RATE_LIMITER_DRAINS,
    ROCKSDB_NAMESPACE::NO_FILE_OPENS,
};
constexpr size_t kTickerCount = sizeof(kTickers) / sizeof(kTickers[0]);
static_assert(sizeof(snip_counters) == kTickerCount * sizeof(uint64_t),
              "snip_counters has a field for each ticker");

// number reads a value of a map property; 0 if it is not there: RocksDB
// leaves out levels in which nothing ever happened.
uint64_t number(const std::map<std::string, std::string>& map,
                const std::string& key) {
  auto at = map.find(key);
  return at == map.end()
             ? 0
             : static_cast<uint64_t>(std::strtod(at->second.c_str(), nullptr));
}

}  // namespace

extern "C" {

void snip_shared_count(snip_shared* s) {
  s->statistics = ROCKSDB_NAMESPACE::CreateDBStatistics();
  // Tickers alone: histograms and timers look at the clock with each call.
  s->statistics->set_stats_level(
      ROCKSDB_NAMESPACE::StatsLevel::kExceptHistogramOrTimers);
}

void snip_shared_set_statistics(snip_shared* s, rocksdb_options_t* o) {
  o->rep.statistics = s->statistics;
  // Nobody asks for RocksDB's own history of them, of up to 1 MiB.
  o->rep.stats_persist_period_sec = 0;
}

int snip_shared_counters(snip_shared* s, snip_counters* out) {
  if (!s->statistics) {
    return 0;
  }
  auto* values = reinterpret_cast<uint64_t*>(out);
  for (size_t i = 0; i < kTickerCount; i++) {
    values[i] = s->statistics->getTickerCount(kTickers[i]);
  }
  return 1;
}

int snip_family_levels(rocksdb_t* db, rocksdb_column_family_handle_t* cf,
                       snip_levels* out) {
  std::map<std::string, std::string> map;
  if (!db->rep->GetMapProperty(cf->rep, "rocksdb.cfstats", &map)) {
    return 0;
  }
  for (int level = 0; level < SNIP_LEVELS; level++) {
    const std::string at = "compaction.L" + std::to_string(level) + ".";
    out->files[level] = number(map, at + "NumFiles");
    out->bytes[level] = number(map, at + "SizeBytes");
  }
  out->l0_slowdowns = number(map, "io_stalls.level0_slowdown");
  out->l0_stops = number(map, "io_stalls.level0_numfiles");
  out->memtable_slowdowns = number(map, "io_stalls.memtable_slowdown");
  out->memtable_stops = number(map, "io_stalls.memtable_compaction");
  out->pending_slowdowns =
      number(map, "io_stalls.slowdown_for_pending_compaction_bytes");
  out->pending_stops =
      number(map, "io_stalls.stop_for_pending_compaction_bytes");
  return 1;
}

}  // extern "C"
