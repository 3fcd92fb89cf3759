#include "native.h"

#include <stdlib.h>
#include <string.h>

void snip_free_error(char* err) { rocksdb_free(err); }

int snip_get(rocksdb_t* db, rocksdb_readoptions_t* ro,
             rocksdb_column_family_handle_t* cf, const char* key, size_t klen,
             char* buf, size_t cap, size_t* vlen,
             rocksdb_pinnableslice_t** rest, char** err) {
  rocksdb_pinnableslice_t* v =
      rocksdb_get_pinned_cf(db, ro, cf, key, klen, err);
  if (*err != NULL || v == NULL) {
    return 0;  // RocksDB frees the slice itself in both cases
  }
  const char* data = rocksdb_pinnableslice_value(v, vlen);
  if (*vlen > cap) {
    *rest = v;
    return 2;
  }
  if (*vlen > 0) {
    memcpy(buf, data, *vlen);
  }
  rocksdb_pinnableslice_destroy(v);
  return 1;
}

void snip_get_rest(rocksdb_pinnableslice_t* rest, char* buf) {
  if (buf != NULL) {
    size_t n;
    const char* data = rocksdb_pinnableslice_value(rest, &n);
    memcpy(buf, data, n);
  }
  rocksdb_pinnableslice_destroy(rest);
}

void snip_write(rocksdb_t* db, rocksdb_writeoptions_t* wo, const char* rep,
                size_t len, char** err) {
  rocksdb_writebatch_t* b = rocksdb_writebatch_create_from(rep, len);
  rocksdb_write(db, wo, b, err);
  rocksdb_writebatch_destroy(b);
}

struct snip_scan {
  rocksdb_readoptions_t* ro;
  rocksdb_iterator_t* it;
  int flags;
  char bounds[];
};

snip_scan* snip_scan_open(rocksdb_t* db, rocksdb_column_family_handle_t* cf,
                          const rocksdb_snapshot_t* snapshot, const char* lo,
                          size_t lolen, const char* hi, size_t hilen,
                          int flags) {
  snip_scan* s = malloc(sizeof(snip_scan) + lolen + hilen);
  if (s == NULL) {
    abort();  // as the Go and C++ allocators do
  }
  s->flags = flags;
  s->ro = rocksdb_readoptions_create();
  if (snapshot != NULL) {
    rocksdb_readoptions_set_snapshot(s->ro, snapshot);
  }
  if (lolen > 0) {
    memcpy(s->bounds, lo, lolen);
    rocksdb_readoptions_set_iterate_lower_bound(s->ro, s->bounds, lolen);
  }
  if (hilen > 0) {
    memcpy(s->bounds + lolen, hi, hilen);
    rocksdb_readoptions_set_iterate_upper_bound(s->ro, s->bounds + lolen,
                                                hilen);
  }
  if (flags & SNIP_NO_FILL) {
    rocksdb_readoptions_set_fill_cache(s->ro, 0);
  }
  s->it = rocksdb_create_iterator_cf(db, s->ro, cf);
  if (flags & SNIP_REVERSE) {
    rocksdb_iter_seek_to_last(s->it);
  } else if (lolen > 0) {
    rocksdb_iter_seek(s->it, s->bounds, lolen);
  } else {
    rocksdb_iter_seek_to_first(s->it);
  }
  return s;
}

static void step(snip_scan* s) {
  if (s->flags & SNIP_REVERSE) {
    rocksdb_iter_prev(s->it);
  } else {
    rocksdb_iter_next(s->it);
  }
}

static void put32(char* p, uint32_t n) {
  p[0] = (char)n;
  p[1] = (char)(n >> 8);
  p[2] = (char)(n >> 16);
  p[3] = (char)(n >> 24);
}

int snip_scan_fill(snip_scan* s, char* buf, size_t cap, int max_rows,
                   size_t* used, size_t* need, char** err) {
  int rows = 0;
  *used = 0;
  *need = 0;
  while (rows < max_rows && rocksdb_iter_valid(s->it)) {
    size_t klen, vlen = 0;
    const char* value = NULL;
    const char* key = rocksdb_iter_key(s->it, &klen);
    if (!(s->flags & SNIP_KEYS)) {
      value = rocksdb_iter_value(s->it, &vlen);
    }
    size_t size = 8 + klen + vlen;
    if (size > cap - *used) {
      if (rows == 0) {
        *need = size;
      }
      return rows;
    }
    char* p = buf + *used;
    put32(p, (uint32_t)klen);
    put32(p + 4, (uint32_t)vlen);
    memcpy(p + 8, key, klen);
    if (vlen > 0) {
      memcpy(p + 8 + klen, value, vlen);
    }
    *used += size;
    rows++;
    step(s);
  }
  if (!rocksdb_iter_valid(s->it)) {
    rocksdb_iter_get_error(s->it, err);
  }
  return rows;
}

int snip_scan_drain(snip_scan* s, int max_rows, char** err) {
  int rows = 0;
  while (rows < max_rows && rocksdb_iter_valid(s->it)) {
    size_t n;
    (void)rocksdb_iter_value(s->it, &n);
    rows++;
    step(s);
  }
  if (!rocksdb_iter_valid(s->it)) {
    rocksdb_iter_get_error(s->it, err);
  }
  return rows;
}

void snip_scan_close(snip_scan* s) {
  rocksdb_iter_destroy(s->it);
  rocksdb_readoptions_destroy(s->ro);
  free(s);
}
