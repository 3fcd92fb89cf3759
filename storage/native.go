package storage

// #cgo LDFLAGS: -lrocksdb -lstdc++
// #cgo noescape snip_get
// #cgo nocallback snip_get
// #cgo noescape snip_get_rest
// #cgo nocallback snip_get_rest
// #cgo noescape snip_write
// #cgo nocallback snip_write
// #cgo noescape snip_scan_open
// #cgo nocallback snip_scan_open
// #cgo noescape snip_scan_fill
// #cgo nocallback snip_scan_fill
// #cgo noescape snip_scan_drain
// #cgo nocallback snip_scan_drain
// #cgo noescape snip_rocksdb_version
// #cgo nocallback snip_rocksdb_version
// #cgo noescape snip_space_state
// #cgo nocallback snip_space_state
// #cgo noescape snip_space_waiting
// #cgo nocallback snip_space_waiting
// #cgo noescape snip_crc
// #cgo nocallback snip_crc
// #include <stdlib.h>
// #include "native.h"
import "C"

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/linxGnu/grocksdb"
)

// This file is the border: every object that lives in C memory is made and
// freed here, and counted. A function that makes one returns a Go value with
// exactly one method or function that frees it.

// expectedMajor is the major version of RocksDB that the files and the C++
// types of this build belong to.
const expectedMajor = 7

// live counts the C objects that are not freed yet.
var live atomic.Int64

// LiveObjects returns how many C objects of this package are not freed yet.
// Tests compare it before and after.
func LiveObjects() int64 { return live.Load() }

// LinkedVersion returns the version of the RocksDB library that the process
// runs with, for example "7.8.3".
func LinkedVersion() string {
	major, minor, patch := linkedVersion()
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

func linkedVersion() (major, minor, patch int) {
	var a, b, c C.int
	C.snip_rocksdb_version(&a, &b, &c)
	return int(a), int(b), int(c)
}

// CheckLinkedVersion returns an error with instructions if the RocksDB
// library that the process runs with is not of the major version it was
// built for, or if its checksums are not what this package computes faster. A
// process should call it before it opens anything.
func CheckLinkedVersion() error {
	if err := checkVersion(linkedVersion()); err != nil {
		return err
	}
	return checkChecksum()
}

// checkChecksum compares both CRC-32C functions, for all lengths and
// alignments that take another way through the code.
func checkChecksum() error {
	var data [64]byte
	for i := range data {
		data[i] = byte(i*37 + 1)
	}
	for from := range 9 {
		for to := from; to <= len(data); to++ {
			own, ok1 := crc32c(true, uint32(to), data[from:to])
			library, ok2 := crc32c(false, uint32(to), data[from:to])
			if ok1 && ok2 && own != library {
				return fmt.Errorf("storage: the checksums of RocksDB %s are not those that this program computes:"+
					" run deploy/setup.sh, which installs the right library, and build again", LinkedVersion())
			}
		}
	}
	return nil
}

// crc32c computes a CRC-32C with this package's function or the library's.
func crc32c(own bool, init uint32, data []byte) (crc uint32, ok bool) {
	var c C.uint32_t
	ok = C.snip_crc(cBool(own), C.uint32_t(init), bytePointer(data), C.size_t(len(data)), &c) != 0
	return uint32(c), ok
}

func checkVersion(major, minor, patch int) error {
	if major == expectedMajor {
		return nil
	}
	return fmt.Errorf("storage: this program needs RocksDB %d (Debian 12 has 7.8.3), but it runs with RocksDB %d.%d.%d:"+
		" run deploy/setup.sh, which installs the right library, and build again", expectedMajor, major, minor, patch)
}

// checksumActive says whether RocksDB uses this package's CRC-32C.
func checksumActive() bool { return C.snip_crc_active() != 0 }

// handle returns the C pointer of a grocksdb object, which is its first field
// ("c", unexported). TestGrocksdbLayout holds the pinned version to that.
func handle[T any](p *T) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(p)) }

// cError turns an error text of C into a Go error and frees it.
func cError(err *C.char) error {
	if err == nil {
		return nil
	}
	text := C.GoString(err)
	C.snip_free_error(err)
	return rocksError(text)
}

// rocksError classifies the text of a RocksDB status; its C interface has
// nothing else.
func rocksError(text string) error {
	if strings.HasPrefix(text, "Corruption") || strings.Contains(text, "checksum mismatch") {
		return fmt.Errorf("%w: %s", ErrCorrupt, text)
	}
	// A strict block cache that is full of pinned blocks.
	if strings.Contains(text, "Memory limit reached") || strings.Contains(text, "cache being full") {
		return fmt.Errorf("%w: %s", errCacheFull, text)
	}
	return errors.New(text)
}

// errCacheFull is returned by a read that needs the block cache while all of
// it is pinned. The read is done again past the cache.
var errCacheFull = errors.New("the block cache is full of blocks in use")

// bytePointer returns the address of the bytes, or nil for none. The pointer
// must not be kept by C.
func bytePointer(b []byte) *C.char {
	return (*C.char)(unsafe.Pointer(unsafe.SliceData(b)))
}

// family is a column family's handle and number.
type family struct {
	h  *grocksdb.ColumnFamilyHandle
	id uint32
}

// native is one open RocksDB database with what its calls need.
type native struct {
	db       *grocksdb.DB
	families []family
	read     *grocksdb.ReadOptions // fills the block cache
	readPast *grocksdb.ReadOptions // does not
	write    *grocksdb.WriteOptions
}

// openNative opens a database. The options may be freed afterwards. A family
// named "default" must be among the names.
func openNative(dir string, readOnly, sync bool, opts *grocksdb.Options, names []string, cfOpts []*grocksdb.Options) (*native, error) {
	var (
		db      *grocksdb.DB
		handles []*grocksdb.ColumnFamilyHandle
		err     error
	)
	if readOnly {
		db, handles, err = grocksdb.OpenDbForReadOnlyColumnFamilies(opts, dir, names, cfOpts, false)
	} else {
		db, handles, err = grocksdb.OpenDbColumnFamilies(opts, dir, names, cfOpts)
	}
	if err != nil {
		return nil, rocksError(err.Error())
	}
	n := &native{db: db, read: grocksdb.NewDefaultReadOptions(), readPast: grocksdb.NewDefaultReadOptions(), write: grocksdb.NewDefaultWriteOptions()}
	n.readPast.SetFillCache(false)
	n.write.SetSync(sync)
	for _, h := range handles {
		n.families = append(n.families, family{h: h, id: h.ID()})
	}
	live.Add(int64(4 + len(handles)))
	return n, nil
}

// close frees everything. No call may be running, and no scan or snapshot open.
func (n *native) close() {
	for _, f := range n.families {
		f.h.Destroy()
	}
	n.read.Destroy()
	n.readPast.Destroy()
	n.write.Destroy()
	n.db.Close()
	live.Add(-int64(4 + len(n.families)))
	n.families = nil
}

// rocks returns the pointers that the C functions take.
func (n *native) rocks() *C.rocksdb_t { return (*C.rocksdb_t)(handle(n.db)) }

func (n *native) cf(cf int) *C.rocksdb_column_family_handle_t {
	return (*C.rocksdb_column_family_handle_t)(handle(n.families[cf].h))
}

// snapshot is a RocksDB snapshot with the read options that use it.
type snapshot struct {
	s        *grocksdb.Snapshot
	read     *grocksdb.ReadOptions
	readPast *grocksdb.ReadOptions
}

func (n *native) newSnapshot() *snapshot {
	s := &snapshot{s: n.db.NewSnapshot(), read: grocksdb.NewDefaultReadOptions(), readPast: grocksdb.NewDefaultReadOptions()}
	s.read.SetSnapshot(s.s)
	s.readPast.SetSnapshot(s.s)
	s.readPast.SetFillCache(false)
	live.Add(3)
	return s
}

func (n *native) releaseSnapshot(s *snapshot) {
	s.read.Destroy()
	s.readPast.Destroy()
	n.db.ReleaseSnapshot(s.s)
	live.Add(-3)
}

// get reads one value; scratch is used if the value fits. The result is
// Go-owned, may share scratch's memory, and is nil only if the key is absent.
// snap may be nil: the newest state.
func (n *native) get(cf int, snap *snapshot, key, scratch []byte) ([]byte, error) {
	ro, past := n.read, n.readPast
	if snap != nil {
		ro, past = snap.read, snap.readPast
	}
	v, err := n.getWith(ro, cf, key, scratch)
	if err != nil && errors.Is(err, errCacheFull) {
		return n.getWith(past, cf, key, scratch)
	}
	return v, err
}

func (n *native) getWith(ro *grocksdb.ReadOptions, cf int, key, scratch []byte) ([]byte, error) {
	var (
		size C.size_t
		rest *C.rocksdb_pinnableslice_t
		cErr *C.char
	)
	if cap(scratch) == 0 {
		scratch = make([]byte, 256)
	}
	scratch = scratch[:cap(scratch)]
	found := C.snip_get(n.rocks(), (*C.rocksdb_readoptions_t)(handle(ro)), n.cf(cf), bytePointer(key), C.size_t(len(key)),
		bytePointer(scratch), C.size_t(len(scratch)), &size, &rest, &cErr)
	if cErr != nil {
		return nil, cError(cErr)
	}
	switch found {
	case 0:
		return nil, nil
	case 1:
		return scratch[:int(size)], nil
	}
	value := make([]byte, int(size))
	C.snip_get_rest(rest, bytePointer(value))
	return value, nil
}

// writeRep writes a batch in RocksDB's encoding with one crossing and one copy.
func (n *native) writeRep(rep []byte) error {
	var cErr *C.char
	C.snip_write(n.rocks(), (*C.rocksdb_writeoptions_t)(handle(n.write)), bytePointer(rep), C.size_t(len(rep)), &cErr)
	return cError(cErr)
}

// deleteFile removes a data file by the name that the list of live files has.
func (n *native) deleteFile(name string) error {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	return cError(C.snip_delete_file(n.rocks(), c))
}

// Flags of a scan.
const (
	scanReverse  = C.SNIP_REVERSE
	scanPast     = C.SNIP_NO_FILL
	scanKeysOnly = C.SNIP_KEYS
)

// scan reads rows of one column family in key order.
type scan struct {
	n      *native
	cf     int
	snap   *snapshot
	lo, hi []byte
	flags  int

	c    *C.snip_scan
	buf  []byte
	rest []byte // rows of buf not handed out yet
	// last is the key of the last row brought over: where to go on if the scan
	// must be opened again.
	last []byte
	any  bool
	// fill is how many rows the next crossing brings: it grows, so that a scan
	// that stops early reads little in advance, and a long one crosses rarely.
	fill int
	err  error
	// ahead is a row that at read but did not hand out.
	aheadKey, aheadValue []byte
	aheadOK              bool
	passed               int64 // rows that at went over
}

// Rows per crossing, first and at most.
const (
	scanFirstFill = 16
	scanMaxFill   = 512
)

// scanBufBytes is the first size of a scan's buffer; one large row grows it.
const scanBufBytes = 16 << 10

// newScan opens a scan of [lo, hi); an empty hi is no bound. close it. buf is
// used if it is large enough. The scan keeps lo and hi.
func (n *native) newScan(cf int, snap *snapshot, lo, hi []byte, flags int, buf []byte) *scan {
	if cap(buf) < scanBufBytes {
		buf = make([]byte, scanBufBytes)
	}
	s := &scan{n: n, cf: cf, snap: snap, lo: lo, hi: hi, flags: flags, buf: buf[:cap(buf)], fill: scanFirstFill}
	s.open()
	return s
}

func (s *scan) open() {
	var snap *C.rocksdb_snapshot_t
	if s.snap != nil {
		snap = (*C.rocksdb_snapshot_t)(handle(s.snap.s))
	}
	s.c = C.snip_scan_open(s.n.rocks(), s.n.cf(s.cf), snap, bytePointer(s.lo), C.size_t(len(s.lo)), bytePointer(s.hi), C.size_t(len(s.hi)), C.int(s.flags))
	live.Add(1)
}

// next returns the next row, or ok == false at the end or after an error
// (see err). Key and value are valid until the call after.
func (s *scan) next() (key, value []byte, ok bool) {
	if len(s.rest) == 0 && !s.more() {
		return nil, nil, false
	}
	k := binary.LittleEndian.Uint32(s.rest)
	v := binary.LittleEndian.Uint32(s.rest[4:])
	end := 8 + int(k) + int(v)
	key, value = s.rest[8:8+k:8+k], s.rest[8+k:end:end]
	s.rest = s.rest[end:]
	return key, value, true
}

// at goes forward to the row with the key and returns its value, or ok ==
// false if there is none. Keys must be asked for in order.
func (s *scan) at(key []byte) (value []byte, ok bool) {
	for {
		if !s.aheadOK {
			if s.aheadKey, s.aheadValue, s.aheadOK = s.next(); !s.aheadOK {
				return nil, false
			}
		}
		switch bytes.Compare(s.aheadKey, key) {
		case 0:
			s.aheadOK = false
			return s.aheadValue, true
		case 1:
			return nil, false
		}
		s.aheadOK = false
		s.passed++
	}
}

// others is how many rows at did not hand out: those it passed, and all that
// are left, which it reads.
func (s *scan) others() int64 {
	n := s.passed
	if s.aheadOK {
		n++
		s.aheadOK = false
	}
	for _, _, ok := s.next(); ok; _, _, ok = s.next() {
		n++
	}
	return n
}

// more fills the buffer.
func (s *scan) more() bool {
	for s.err == nil {
		var (
			used, need C.size_t
			cErr       *C.char
		)
		rows := C.snip_scan_fill(s.c, bytePointer(s.buf), C.size_t(len(s.buf)), C.int(s.fill), &used, &need, &cErr)
		err := cError(cErr)
		s.fill = min(2*s.fill, scanMaxFill)
		if rows > 0 {
			s.rest = s.buf[:int(used)]
			s.remember()
		}
		switch {
		case errors.Is(err, errCacheFull) && s.flags&scanPast == 0:
			s.reopenPast()
		case err != nil:
			s.err = err
		}
		if rows > 0 {
			return true
		}
		if need > 0 {
			s.buf = make([]byte, int(need)+scanBufBytes)
		} else if err == nil {
			return false
		}
	}
	return false
}

// remember keeps the last key of the rows in rest.
func (s *scan) remember() {
	for b := s.rest; len(b) > 0; {
		k := binary.LittleEndian.Uint32(b)
		end := 8 + int(k) + int(binary.LittleEndian.Uint32(b[4:]))
		if end == len(b) {
			s.last = append(s.last[:0], b[8:8+k]...)
			s.any = true
		}
		b = b[end:]
	}
}

// reopenPast goes on behind the last row with a scan that leaves the block
// cache alone.
func (s *scan) reopenPast() {
	s.close()
	s.flags |= scanPast
	if s.any && s.flags&scanReverse != 0 {
		s.hi = bytes.Clone(s.last) // not included
	} else if s.any {
		s.lo = append(bytes.Clone(s.last), 0)
	}
	s.open()
}

// drain reads up to limit rows without handing them out.
func (s *scan) drain(limit int) (int, error) {
	var cErr *C.char
	rows := C.snip_scan_drain(s.c, C.int(limit), &cErr)
	return int(rows), cError(cErr)
}

func (s *scan) close() {
	C.snip_scan_close(s.c)
	s.c = nil
	live.Add(-1)
}

// nativeShared is what the databases of a process share.
type nativeShared struct{ c *C.snip_shared }

func newNativeShared(cacheBytes int64, shardBits int, strict bool, highPri float64, memtableBytes, rate int64) *nativeShared {
	live.Add(1)
	return &nativeShared{C.snip_shared_new(C.size_t(cacheBytes), C.int(shardBits), cBool(strict), C.double(highPri),
		C.size_t(memtableBytes), C.int64_t(rate))}
}

func (s *nativeShared) free() {
	C.snip_shared_free(s.c)
	s.c = nil
	live.Add(-1)
}

func (s *nativeShared) cacheUsage() uint64    { return uint64(C.snip_shared_cache_usage(s.c)) }
func (s *nativeShared) cachePinned() uint64   { return uint64(C.snip_shared_cache_pinned(s.c)) }
func (s *nativeShared) cacheCapacity() uint64 { return uint64(C.snip_shared_cache_capacity(s.c)) }
func (s *nativeShared) memtableUsage() uint64 { return uint64(C.snip_shared_memtable_usage(s.c)) }

func (s *nativeShared) setRoom(bytes uint64) { C.snip_shared_set_room(s.c, C.uint64_t(bytes)) }

func (s *nativeShared) setOptions(o *grocksdb.Options, blobCache bool) {
	C.snip_shared_set_db(s.c, (*C.rocksdb_options_t)(handle(o)), cBool(blobCache))
}

func (s *nativeShared) setTable(t *grocksdb.BlockBasedTableOptions) {
	C.snip_shared_set_table(s.c, (*C.rocksdb_block_based_table_options_t)(handle(t)))
}

// setExtra sets the options that grocksdb 1.7.14 has no call for.
func setExtra(o *grocksdb.Options, avoidFlush, paranoidFiles bool) {
	C.snip_options_extra((*C.rocksdb_options_t)(handle(o)), cBool(avoidFlush), cBool(paranoidFiles))
}

// setSpaceEnv makes a database write its files as WaitForSpace says.
func setSpaceEnv(o *grocksdb.Options) { C.snip_space_set_env((*C.rocksdb_options_t)(handle(o))) }

func setSpaceWait(on bool)   { C.snip_space_wait(cBool(on)) }
func setPreallocate(on bool) { C.snip_space_preallocate(cBool(on)) }

func spaceWaiting() int { return int(C.snip_space_waiting()) }

func spaceState() (s Space, failure string) {
	var (
		waiting, waits C.uint64_t
		file, fail     *C.char
	)
	C.snip_space_state(&waiting, &waits, &file, &fail)
	s = Space{Waiting: int(waiting), Waits: uint64(waits)}
	if file != nil {
		s.File = C.GoString(file)
		C.snip_free_error(file)
	}
	if fail != nil {
		failure = C.GoString(fail)
		C.snip_free_error(fail)
	}
	return s, failure
}

func cBool(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

func newOptions() *grocksdb.Options {
	live.Add(1)
	return grocksdb.NewDefaultOptions()
}

func freeOptions(list ...*grocksdb.Options) {
	for _, o := range list {
		o.Destroy()
		live.Add(-1)
	}
}

func newTableOptions() *grocksdb.BlockBasedTableOptions {
	live.Add(1)
	return grocksdb.NewDefaultBlockBasedTableOptions()
}

func freeTableOptions(t *grocksdb.BlockBasedTableOptions) {
	t.Destroy()
	live.Add(-1)
}

// checkpoint writes a checkpoint to dir, which must not exist. It flushes
// first (log size 0): the live database is durable up to the same point then.
func (n *native) checkpoint(dir string) error {
	c, err := n.db.NewCheckpoint()
	if err != nil {
		return rocksError(err.Error())
	}
	live.Add(1)
	defer func() {
		c.Destroy()
		live.Add(-1)
	}()
	if err := c.CreateCheckpoint(dir, 0); err != nil {
		return rocksError(err.Error())
	}
	return nil
}

// flush writes all memtables to files and waits.
func (n *native) flush() error {
	fo := grocksdb.NewDefaultFlushOptions()
	live.Add(1)
	defer func() {
		fo.Destroy()
		live.Add(-1)
	}()
	fo.SetWait(true)
	for _, f := range n.families {
		if err := n.db.FlushCF(f.h, fo); err != nil {
			return rocksError(err.Error())
		}
	}
	return nil
}
