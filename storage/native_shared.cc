// The part that RocksDB's C interface can't do: one write buffer manager and
// one rate limiter for several databases, a strict block cache with a chosen
// number of shards, and the version of the linked library.
// What is there for a full disk is in native_space.cc.

#if !__has_include(<rocksdb/version.h>)
#error "snipdb needs the headers of RocksDB 7.8: run deploy/setup.sh (Debian 12: apt-get install librocksdb-dev)"
#endif
#include <rocksdb/version.h>
#if ROCKSDB_MAJOR != 7
#error "snipdb is built for RocksDB 7 (Debian 12 has 7.8.3), and the installed headers are of another major version: run deploy/setup.sh, or install librocksdb-dev 7.8"
#endif

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "native.h"
#include "native_shared.h"

using ROCKSDB_NAMESPACE::NewGenericRateLimiter;
using ROCKSDB_NAMESPACE::NewLRUCache;
using ROCKSDB_NAMESPACE::WriteBufferManager;

extern "C" {

snip_shared* snip_shared_new(size_t cache_bytes, int shard_bits, int strict,
                             double high_pri_ratio, size_t memtable_bytes,
                             int64_t rate_bytes_per_sec) {
  auto* s = new snip_shared;
  s->cache = NewLRUCache(cache_bytes, shard_bits, strict != 0, high_pri_ratio);
  // The memtables are not charged to the cache: with a strict limit a full
  // cache would then refuse them, and the state machine would stop.
  s->memtables = std::make_shared<WriteBufferManager>(memtable_bytes);
  if (rate_bytes_per_sec > 0) {
    s->limiter.reset(NewGenericRateLimiter(rate_bytes_per_sec));
  }
  snip_new_files(s);
  return s;
}

void snip_shared_free(snip_shared* s) { delete s; }

size_t snip_shared_cache_usage(snip_shared* s) { return s->cache->GetUsage(); }

size_t snip_shared_cache_pinned(snip_shared* s) {
  return s->cache->GetPinnedUsage();
}

size_t snip_shared_cache_capacity(snip_shared* s) {
  return s->cache->GetCapacity();
}

size_t snip_shared_memtable_usage(snip_shared* s) {
  return s->memtables->memory_usage();
}

void snip_shared_set_db(snip_shared* s, rocksdb_options_t* o, int blob_cache) {
  o->rep.write_buffer_manager = s->memtables;
  o->rep.rate_limiter = s->limiter;
  o->rep.sst_file_manager = s->files;
  snip_space_set_env(o);
  if (blob_cache) {
    o->rep.blob_cache = s->cache;
  }
}

void snip_shared_set_table(snip_shared* s,
                           rocksdb_block_based_table_options_t* o) {
  o->rep.block_cache = s->cache;
}

void snip_options_extra(rocksdb_options_t* o, int avoid_flush_during_recovery,
                        int paranoid_file_checks) {
  o->rep.avoid_flush_during_recovery = avoid_flush_during_recovery != 0;
  o->rep.paranoid_file_checks = paranoid_file_checks != 0;
}

char* snip_delete_file(rocksdb_t* db, const char* name) {
  auto status = db->rep->DeleteFile(name);
  return status.ok() ? nullptr : strdup(status.ToString().c_str());
}

void snip_rocksdb_version(int* major, int* minor, int* patch) {
  std::string v = ROCKSDB_NAMESPACE::GetRocksVersionAsString(true);
  *major = *minor = *patch = 0;
  std::sscanf(v.c_str(), "%d.%d.%d", major, minor, patch);
}

}  // extern "C"
