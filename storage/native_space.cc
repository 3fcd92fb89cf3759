// What RocksDB meets on a full disk: nothing. Its files are written through a
// file system that waits for space, so that a write on a full disk is a slow
// write and no failed one.
//
// Why: after a failed write RocksDB's idea of the file and of the database is
// broken until the database is opened again, its own recovery included, and
// the library of Debian, which is built with assertions, ends the process in
// the next use of that file (WritableFileWriter::AssertFalse...). Most often
// that file is the one that nobody needs: RocksDB's own LOG, written at each
// flush. Its lines are dropped when there is no space.
//
// All other errors of a write, and every error of a sync, end the process: the
// thread that met one waits here until the program has seen it and has said so.

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_manager.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "native.h"
#include "native_shared.h"

namespace {

using ROCKSDB_NAMESPACE::Env;
using ROCKSDB_NAMESPACE::FileOptions;
using ROCKSDB_NAMESPACE::FileSystem;
using ROCKSDB_NAMESPACE::FileSystemWrapper;
using ROCKSDB_NAMESPACE::FSWritableFile;
using ROCKSDB_NAMESPACE::FSWritableFileOwnerWrapper;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::IOStatus;
using ROCKSDB_NAMESPACE::NewCompositeEnv;
using ROCKSDB_NAMESPACE::NewSstFileManager;
using ROCKSDB_NAMESPACE::Slice;

constexpr auto kRetry = std::chrono::milliseconds(20);

// The state of the process. It is never freed: threads of RocksDB may outlive
// the end of main.
struct Space {
  std::atomic<bool> wait{false};         // files opened from now on wait
  std::atomic<bool> preallocate{false};  // there is plenty of space
  std::atomic<uint64_t> waiting{0};      // threads that wait for space now
  std::atomic<uint64_t> waits{0};        // how often one had to
  std::mutex mu;                         // guards what follows
  std::string file;                      // that the last one waited for
  std::string failure;                   // the first error that is none of space
};

Space& space() {
  static auto* s = new Space;
  return *s;
}

bool full(const IOStatus& s) {
  // EDQUOT has no subcode of its own.
  return s.IsNoSpace() ||
         (!s.ok() && s.ToString().find("quota exceeded") != std::string::npos);
}

// retry repeats an operation that leaves nothing behind when it fails, until
// it has space.
template <class F>
IOStatus retry(const std::string& name, F op) {
  IOStatus s = op();
  if (!full(s)) {
    return s;
  }
  auto& sp = space();
  {
    std::lock_guard<std::mutex> lock(sp.mu);
    sp.file = name;
  }
  sp.waits++;
  sp.waiting++;
  do {
    std::this_thread::sleep_for(kRetry);
    s = op();
  } while (full(s));
  sp.waiting--;
  return s;
}

// fatal tells the program of an error after which RocksDB must not go on, and
// holds the thread back until the process has ended.
IOStatus fatal(const std::string& name, const char* what, const IOStatus& s) {
  if (s.ok() || s.IsNotSupported()) {
    return s;
  }
  {
    std::lock_guard<std::mutex> lock(space().mu);
    if (space().failure.empty()) {
      space().failure = std::string(what) + " " + name + ": " + s.ToString();
    }
  }
  for (;;) {
    std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

// WaitingFile is a file that is being written. It knows its own end and
// writes with an offset, so that a write of which a part was done can be
// repeated whole.
class WaitingFile : public FSWritableFileOwnerWrapper {
 public:
  WaitingFile(std::unique_ptr<FSWritableFile>&& f, const std::string& name)
      : FSWritableFileOwnerWrapper(std::move(f)), name_(name) {}

  IOStatus Append(const Slice& data, const IOOptions& o,
                  IODebugContext* dbg) override {
    IOStatus s = PositionedAppend(data, size_, o, dbg);
    return s;
  }
  IOStatus Append(const Slice& data, const IOOptions& o,
                  const ROCKSDB_NAMESPACE::DataVerificationInfo&,
                  IODebugContext* dbg) override {
    return Append(data, o, dbg);
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset,
                            const IOOptions& o, IODebugContext* dbg) override {
    IOStatus s = retry(name_, [&] {
      return target()->PositionedAppend(data, offset, o, dbg);
    });
    if (s.ok()) {
      size_ = offset + data.size();
    }
    return fatal(name_, "write", s);
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset,
                            const IOOptions& o,
                            const ROCKSDB_NAMESPACE::DataVerificationInfo&,
                            IODebugContext* dbg) override {
    return PositionedAppend(data, offset, o, dbg);
  }
  IOStatus Truncate(uint64_t size, const IOOptions& o,
                    IODebugContext* dbg) override {
    size_ = size;
    return fatal(name_, "truncate", target()->Truncate(size, o, dbg));
  }
  // A sync is not repeated: after a failed one the kernel may have dropped
  // what it could not write, and the next one would say that all is well.
  IOStatus Sync(const IOOptions& o, IODebugContext* dbg) override {
    return fatal(name_, "sync", target()->Sync(o, dbg));
  }
  IOStatus Fsync(const IOOptions& o, IODebugContext* dbg) override {
    return fatal(name_, "sync", target()->Fsync(o, dbg));
  }
  IOStatus RangeSync(uint64_t offset, uint64_t n, const IOOptions& o,
                     IODebugContext* dbg) override {
    return fatal(name_, "sync", target()->RangeSync(offset, n, o, dbg));
  }
  IOStatus Close(const IOOptions& o, IODebugContext* dbg) override {
    return fatal(name_, "close", target()->Close(o, dbg));
  }
  // Preallocation takes at once what the file may need later, or never: with
  // little space left that is better kept for what is really written.
  void PrepareWrite(size_t offset, size_t len, const IOOptions& o,
                    IODebugContext* dbg) override {
    if (space().preallocate) {
      target()->PrepareWrite(offset, len, o, dbg);
    }
  }

 private:
  const std::string name_;
  uint64_t size_ = 0;  // a file has one writer at a time
};

// LossyFile is RocksDB's own LOG: a line that can't be written is left out.
class LossyFile : public FSWritableFileOwnerWrapper {
 public:
  using FSWritableFileOwnerWrapper::FSWritableFileOwnerWrapper;

  IOStatus Append(const Slice& data, const IOOptions& o,
                  IODebugContext* dbg) override {
    target()->Append(data, o, dbg).PermitUncheckedError();
    return IOStatus::OK();
  }
  IOStatus Append(const Slice& data, const IOOptions& o,
                  const ROCKSDB_NAMESPACE::DataVerificationInfo&,
                  IODebugContext* dbg) override {
    return Append(data, o, dbg);
  }
  IOStatus Flush(const IOOptions& o, IODebugContext* dbg) override {
    target()->Flush(o, dbg).PermitUncheckedError();
    return IOStatus::OK();
  }
  IOStatus Close(const IOOptions& o, IODebugContext* dbg) override {
    target()->Close(o, dbg).PermitUncheckedError();
    return IOStatus::OK();
  }
};

// makingLog is true while this thread makes the file LOG.
thread_local bool makingLog = false;

class WaitingFileSystem : public FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "WaitingFileSystem"; }

  // Files that are opened to go on with are left alone: RocksDB opens none of
  // those that it writes here, and their offset is not ours.
  IOStatus NewWritableFile(const std::string& f, const FileOptions& o,
                           std::unique_ptr<FSWritableFile>* r,
                           IODebugContext* dbg) override {
    if (makingLog) {
      IOStatus s = target()->NewWritableFile(f, o, r, dbg);
      if (s.ok()) {
        r->reset(new LossyFile(std::move(*r)));
      }
      return s;
    }
    if (!space().wait || o.use_mmap_writes) {
      return target()->NewWritableFile(f, o, r, dbg);
    }
    IOStatus s =
        retry(f, [&] { return target()->NewWritableFile(f, o, r, dbg); });
    if (s.ok()) {
      r->reset(new WaitingFile(std::move(*r), f));
    }
    return s;
  }
  // Without the own NewLogger the target would make the file past us.
  IOStatus NewLogger(const std::string& f, const IOOptions& o,
                     std::shared_ptr<ROCKSDB_NAMESPACE::Logger>* r,
                     IODebugContext* dbg) override {
    makingLog = true;
    IOStatus s = FileSystem::NewLogger(f, o, r, dbg);
    makingLog = false;
    return s;
  }
  IOStatus RenameFile(const std::string& from, const std::string& to,
                      const IOOptions& o, IODebugContext* dbg) override {
    auto op = [&] { return target()->RenameFile(from, to, o, dbg); };
    // The file LOG, which is renamed to LOG.old.<time>.
    bool log = from.compare(from.rfind('/') + 1, 3, "LOG") == 0;
    return space().wait && !log ? retry(to, op) : op();
  }
};

Env* waitingEnv() {
  static Env* env = NewCompositeEnv(std::make_shared<WaitingFileSystem>(
                                        FileSystem::Default()))
                        .release();
  return env;
}

// noLimit is a bound on the size of all files that is never met. It must be
// there, or RocksDB would not look at the room for a compaction at all; and
// it must be far, because a flush beyond it fails the database.
constexpr uint64_t noLimit = uint64_t{1} << 62;

}  // namespace

extern "C" {

void snip_space_wait(int on) { space().wait = on != 0; }

void snip_space_set_env(rocksdb_options_t* o) { o->rep.env = waitingEnv(); }

void snip_space_state(uint64_t* waiting, uint64_t* waits, char** file,
                      char** failure) {
  auto& sp = space();
  *waiting = sp.waiting;
  *waits = sp.waits;
  *file = *failure = nullptr;
  if (*waits > 0) {
    std::lock_guard<std::mutex> lock(sp.mu);
    *file = strdup(sp.file.c_str());
  }
  std::lock_guard<std::mutex> lock(sp.mu);
  if (!sp.failure.empty()) {
    *failure = strdup(sp.failure.c_str());
  }
}

uint64_t snip_space_waiting(void) { return space().waiting; }

void snip_space_preallocate(int on) { space().preallocate = on != 0; }

void snip_shared_set_room(snip_shared* s, uint64_t bytes) {
  // RocksDB starts a compaction if the size of all files, of what running
  // compactions write, of its own inputs, and this buffer are below the limit.
  uint64_t used = s->files->GetTotalSize();
  uint64_t room = bytes < noLimit - used ? bytes : noLimit - used;
  s->files->SetCompactionBufferSize(noLimit - used - room);
}

}  // extern "C"

void snip_new_files(snip_shared* s) {
  s->files.reset(NewSstFileManager(waitingEnv()));
  s->files->SetMaxAllowedSpaceUsage(noLimit);
}
