// Debian builds RocksDB for any 64-bit x86 processor, so its CRC-32C runs on
// tables, at under 1 GB/s: a third of the CPU time of a commit with vectors.
// This file puts a CRC-32C that uses the processor's own instruction (SSE 4.2)
// in its place. The dynamic linker resolves the library's own calls of
// rocksdb::crc32c::Extend to the first definition, which is the program's.
//
// The definition is weak, so linking a static RocksDB, whose function then
// counts, is no error. Other processors than x86-64 keep the library's own.
// The result is compared with the library's function when a process starts
// (CheckLinkedVersion) and by TestChecksum.

#include <dlfcn.h>

#include <cstring>

#include "native.h"

namespace {

const char kExtend[] = "_ZN7rocksdb6crc32c6ExtendEjPKcm";
using ExtendFn = uint32_t (*)(uint32_t, const char*, size_t);

// library returns RocksDB's own function, or null if there is none.
ExtendFn library() {
  static const ExtendFn fn =
      reinterpret_cast<ExtendFn>(dlsym(RTLD_NEXT, kExtend));
  return fn;
}

}  // namespace

#if defined(__x86_64__)
namespace {

__attribute__((target("sse4.2"))) uint32_t hardware(uint32_t init,
                                                    const char* p, size_t n) {
  uint64_t crc = init ^ 0xffffffffu;
  while (n > 0 && (reinterpret_cast<uintptr_t>(p) & 7) != 0) {
    crc = __builtin_ia32_crc32qi(static_cast<uint32_t>(crc),
                                 static_cast<unsigned char>(*p++));
    n--;
  }
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    crc = __builtin_ia32_crc32di(crc, word);
  }
  while (n-- > 0) {
    crc = __builtin_ia32_crc32qi(static_cast<uint32_t>(crc),
                                 static_cast<unsigned char>(*p++));
  }
  return static_cast<uint32_t>(crc) ^ 0xffffffffu;
}

bool usable() {
  static const bool yes = __builtin_cpu_supports("sse4.2");
  return yes;
}

}  // namespace

namespace rocksdb {
namespace crc32c {

__attribute__((weak, visibility("default"))) uint32_t Extend(uint32_t init,
                                                             const char* data,
                                                             size_t n) {
  return usable() ? hardware(init, data, n) : library()(init, data, n);
}

}  // namespace crc32c
}  // namespace rocksdb
#endif

extern "C" {

int snip_crc(int own, uint32_t init, const char* data, size_t n,
             uint32_t* crc) {
  ExtendFn fn = library();
#if defined(__x86_64__)
  if (own && usable()) {
    fn = hardware;
  }
#endif
  if (fn == nullptr) {
    return 0;
  }
  *crc = fn(init, data, n);
  return 1;
}

int snip_crc_active(void) {
#if defined(__x86_64__)
  return usable() && library() != nullptr &&
         dlsym(RTLD_DEFAULT, kExtend) != reinterpret_cast<void*>(library());
#else
  return 0;
#endif
}

}  // extern "C"
