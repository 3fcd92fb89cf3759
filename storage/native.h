// The small C side of the storage package. grocksdb opens databases and sets
// options; what is here is what it can't do at all (see DESIGN.md, "What
// grocksdb lacks"), or what it does with three crossings of the cgo border
// where one is enough.
#ifndef SNIPDB_NATIVE_H
#define SNIPDB_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#include <rocksdb/c.h>

#ifdef __cplusplus
extern "C" {
#endif

// Errors are malloc'ed strings that the caller frees with snip_free_error.
void snip_free_error(char* err);

// snip_get returns 0 if the key is absent, 1 if the value was copied to buf,
// 2 if it is longer than cap: then *rest holds it until snip_get_rest.
int snip_get(rocksdb_t* db, rocksdb_readoptions_t* ro,
             rocksdb_column_family_handle_t* cf, const char* key, size_t klen,
             char* buf, size_t cap, size_t* vlen,
             rocksdb_pinnableslice_t** rest, char** err);
// snip_get_rest copies the value to buf, if buf is not NULL, and frees it.
void snip_get_rest(rocksdb_pinnableslice_t* rest, char* buf);

// snip_write writes a batch in RocksDB's own encoding.
void snip_write(rocksdb_t* db, rocksdb_writeoptions_t* wo, const char* rep,
                size_t len, char** err);

// A scan of the keys in [lo, hi); an empty bound is none. It owns copies of
// its bounds, because RocksDB keeps pointers to them.
typedef struct snip_scan snip_scan;
enum {
  SNIP_REVERSE = 1,  // from the last key to the first
  SNIP_NO_FILL = 2,  // leave the block cache alone
  SNIP_KEYS = 4,     // values are not copied
};
snip_scan* snip_scan_open(rocksdb_t* db, rocksdb_column_family_handle_t* cf,
                          const rocksdb_snapshot_t* snapshot, const char* lo,
                          size_t lolen, const char* hi, size_t hilen,
                          int flags);
// snip_scan_fill copies rows to buf, each as
//   u32 key length | u32 value length | key | value   (lengths little-endian)
// and returns how many; 0 means the end, or an error in *err, or a row that
// needs *need bytes in an empty buffer.
int snip_scan_fill(snip_scan* s, char* buf, size_t cap, int max_rows,
                   size_t* used, size_t* need, char** err);
// snip_scan_drain reads up to max_rows rows, which checks their checksums.
int snip_scan_drain(snip_scan* s, int max_rows, char** err);
void snip_scan_close(snip_scan* s);

// What the databases of one process share: block cache, write buffer manager
// (the bound on all memtables together) and rate limiter. RocksDB counts its
// references, so it may be freed before the databases that use it.
typedef struct snip_shared snip_shared;
snip_shared* snip_shared_new(size_t cache_bytes, int shard_bits, int strict,
                             double high_pri_ratio, size_t memtable_bytes,
                             int64_t rate_bytes_per_sec);
void snip_shared_free(snip_shared* s);
size_t snip_shared_cache_usage(snip_shared* s);
size_t snip_shared_cache_pinned(snip_shared* s);
size_t snip_shared_cache_capacity(snip_shared* s);
size_t snip_shared_memtable_usage(snip_shared* s);
void snip_shared_set_db(snip_shared* s, rocksdb_options_t* o, int blob_cache);
void snip_shared_set_table(snip_shared* s,
                           rocksdb_block_based_table_options_t* o);
void snip_options_extra(rocksdb_options_t* o, int avoid_flush_during_recovery,
                        int paranoid_file_checks);

// What RocksDB counts; see native_stats.cc. The order of the fields is that of
// the tickers there.
typedef struct snip_counters {
  uint64_t data_hits, data_misses, index_hits, index_misses, filter_hits,
      filter_misses, blob_hits, blob_misses, block_add_failures,
      blob_add_failures;
  uint64_t bloom_useful, bloom_positives, bloom_true_positives;
  uint64_t user_bytes, wal_bytes, flush_bytes, compaction_read_bytes,
      compaction_written_bytes, blob_written_bytes, blob_read_bytes,
      blob_relocated_bytes;
  uint64_t blocks_compressed, blocks_not_compressed;
  uint64_t stall_micros, rate_limiter_drains, file_opens;
} snip_counters;
// snip_shared_count switches counting on, for databases that are given
// snip_shared_set_statistics. The counters belong to the shared parts: they go
// on when a database takes the place of another.
void snip_shared_count(snip_shared* s);
void snip_shared_set_statistics(snip_shared* s, rocksdb_options_t* o);
// snip_shared_counters returns 0 if nothing is counted.
int snip_shared_counters(snip_shared* s, snip_counters* out);

enum { SNIP_LEVELS = 7 };  // RocksDB's num_levels, which nobody sets
typedef struct snip_levels {
  uint64_t files[SNIP_LEVELS], bytes[SNIP_LEVELS];
  // How often a column family was found in a state that slows or stops writes,
  // by what it has too many of; since the database was opened.
  uint64_t l0_slowdowns, l0_stops, memtable_slowdowns, memtable_stops,
      pending_slowdowns, pending_stops;
} snip_levels;
// snip_family_levels returns 0 if RocksDB does not say.
int snip_family_levels(rocksdb_t* db, rocksdb_column_family_handle_t* cf,
                       snip_levels* out);

// Space on the disk; see native_space.cc.
// snip_space_wait: writes to files that are opened from now on wait for space
// instead of failing; any other error of theirs is kept for snip_space_state,
// and its thread is held back until the process ends.
void snip_space_wait(int on);
// snip_space_set_env makes a database write its files through that.
void snip_space_set_env(rocksdb_options_t* o);
// snip_space_state: threads that wait now, how often one waited, the last file
// that was waited for, and the first other error. The texts are NULL or freed
// with snip_free_error.
void snip_space_state(uint64_t* waiting, uint64_t* waits, char** file,
                      char** failure);
uint64_t snip_space_waiting(void);
// snip_space_preallocate says whether files may take space in advance.
void snip_space_preallocate(int on);
// snip_shared_set_room: compactions whose inputs are larger than this, with
// those that run, are not started. The outputs are there before the inputs go.
void snip_shared_set_room(snip_shared* s, uint64_t bytes);

// snip_delete_file removes a data file with all that is in it: of level 0 the
// oldest, or one below which there is no level with files. It returns NULL or
// an error. The C interface has a call that keeps the error to itself.
char* snip_delete_file(rocksdb_t* db, const char* name);

// snip_rocksdb_version writes the version of the library that is linked, as
// it says itself at run time: major, minor, patch.
void snip_rocksdb_version(int* major, int* minor, int* patch);

// snip_crc computes a CRC-32C with this package's function (own != 0) or with
// the library's, and returns 0 if there is none. snip_crc_active says whether
// RocksDB uses this package's. See native_crc.cc.
int snip_crc(int own, uint32_t init, const char* data, size_t n, uint32_t* crc);
int snip_crc_active(void);

#ifdef __cplusplus
}
#endif
#endif
