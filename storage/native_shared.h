// What the C++ files of this package share.
#ifndef SNIPDB_NATIVE_SHARED_H
#define SNIPDB_NATIVE_SHARED_H

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/rate_limiter.h>
#include <rocksdb/sst_file_manager.h>
#include <rocksdb/statistics.h>
#include <rocksdb/table.h>
#include <rocksdb/write_buffer_manager.h>

#include <memory>

// These repeat RocksDB's db/c.cc word for word, where the types are
// opaque to users of the C interface. The major version is checked in
// native_shared.cc and, against the library that is really linked, when the
// process starts.
struct rocksdb_options_t {
  ROCKSDB_NAMESPACE::Options rep;
};
struct rocksdb_t {
  ROCKSDB_NAMESPACE::DB* rep;
};
struct rocksdb_block_based_table_options_t {
  ROCKSDB_NAMESPACE::BlockBasedTableOptions rep;
};

struct snip_shared {
  std::shared_ptr<ROCKSDB_NAMESPACE::Cache> cache;
  std::shared_ptr<ROCKSDB_NAMESPACE::WriteBufferManager> memtables;
  std::shared_ptr<ROCKSDB_NAMESPACE::RateLimiter> limiter;  // null: no limit
  std::shared_ptr<ROCKSDB_NAMESPACE::SstFileManager> files;
  std::shared_ptr<ROCKSDB_NAMESPACE::Statistics> statistics;  // null: none
};

// snip_new_files makes the part that decides whether there is room for a
// compaction: see native_space.cc.
void snip_new_files(snip_shared* s);

#endif
