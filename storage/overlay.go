package storage

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/snipdb/snipdb/storage/snippet"
)

// rep is a write batch in RocksDB's own encoding (db/write_batch.cc), built
// here so that a commit crosses the cgo border once, whatever its size:
//
//	8 bytes  sequence number, set by RocksDB
//	4 bytes  number of operations, little-endian
//	then each operation: type, [varint column family], varstring key, [varstring value]
//
// It is the format of RocksDB's log, so it can't change within a major version.
type rep struct {
	b     []byte
	count uint32
}

// Operation types; the first of each pair is for column family 0.
const (
	opDelete, opDeleteCF           = 0x0, 0x4
	opPut, opPutCF                 = 0x1, 0x5
	opDeleteRange, opDeleteRangeCF = 0xF, 0xE

	repHeader = 12
)

func newRep(buf []byte) rep { return rep{b: append(buf[:0], make([]byte, repHeader)...)} }

func (r *rep) op(plain, withCF byte, cf uint32, key []byte) {
	r.count++
	if cf == 0 {
		r.b = append(r.b, plain)
	} else {
		r.b = binary.AppendUvarint(append(r.b, withCF), uint64(cf))
	}
	r.b = binary.AppendUvarint(r.b, uint64(len(key)))
	r.b = append(r.b, key...)
}

// appendPut appends a put and returns where the value begins.
func appendPut[V []byte | string](r *rep, cf uint32, key []byte, value V) int {
	r.op(opPut, opPutCF, cf, key)
	r.b = binary.AppendUvarint(r.b, uint64(len(value)))
	r.b = append(r.b, value...)
	return len(r.b) - len(value)
}

// put is appendPut of bytes.
func (r *rep) put(cf uint32, key, value []byte) int { return appendPut(r, cf, key, value) }

// putTwo is put of a value in two pieces.
func (r *rep) putTwo(cf uint32, key, head, tail []byte) {
	r.op(opPut, opPutCF, cf, key)
	r.b = binary.AppendUvarint(r.b, uint64(len(head)+len(tail)))
	r.b = append(append(r.b, head...), tail...)
}

func (r *rep) delete(cf uint32, key []byte) { r.op(opDelete, opDeleteCF, cf, key) }

func (r *rep) deleteRange(cf uint32, lo, hi []byte) {
	r.op(opDeleteRange, opDeleteRangeCF, cf, lo)
	r.b = binary.AppendUvarint(r.b, uint64(len(hi)))
	r.b = append(r.b, hi...)
}

// bytes returns the finished batch.
func (r *rep) bytes() []byte {
	binary.LittleEndian.PutUint32(r.b[8:], r.count)
	return r.b
}

// overlay is what a batch has written to one column family, so that the batch
// reads its own writes.
type overlay struct {
	points map[string]point
	ranges []tombstone
	// sorted are keys of points in order, for scans, and may hold keys that a
	// rollback took out of points; fresh are those not yet merged into it.
	// Both are kept only for families that batches scan.
	sorted, fresh []string
	scanned       bool
}

// point is the newest write of one key: its value's place in the rep.
type point struct {
	off, len int
	seq      int         // which operation of the batch, to compare with range deletions
	sum      snippet.Sum // what the row adds to the state hash
	deleted  bool
}

// tombstone is a deletion of the keys in [lo, hi).
type tombstone struct {
	lo, hi []byte
	seq    int
}

// lookup returns the newest write of a key, and whether there is one.
func (o *overlay) lookup(key []byte) (point, bool) {
	p, ok := o.points[string(key)] // the compiler makes no copy of key here
	for i := len(o.ranges) - 1; i >= 0; i-- {
		t := &o.ranges[i]
		if ok && p.seq > t.seq {
			break
		}
		if bytes.Compare(t.lo, key) <= 0 && bytes.Compare(key, t.hi) < 0 {
			return point{seq: t.seq, deleted: true}, true
		}
	}
	return p, ok
}

// set records a write and returns what it replaced.
func (o *overlay) set(key string, p point) (before point, had bool) {
	before, had = o.points[key]
	if o.points == nil {
		o.points = make(map[string]point)
	}
	o.points[key] = p
	if o.scanned && !had {
		o.fresh = append(o.fresh, key)
	}
	return before, had
}

// fewFresh is up to how many new keys are put into their places one by one.
const fewFresh = 16

// between returns the keys of the overlay in [lo, hi), in order; an empty hi
// is no bound. Keys without a point any more must be skipped by the caller.
func (o *overlay) between(lo, hi []byte) []string {
	if len(o.fresh) > fewFresh {
		o.sorted = append(o.sorted, o.fresh...)
		slices.Sort(o.sorted)
		o.sorted = slices.Compact(o.sorted)
	} else {
		for _, k := range o.fresh {
			if i, found := slices.BinarySearch(o.sorted, k); !found {
				o.sorted = slices.Insert(o.sorted, i, k)
			}
		}
	}
	o.fresh = o.fresh[:0]
	from, to := sort.SearchStrings(o.sorted, string(lo)), len(o.sorted)
	if len(hi) > 0 {
		to = sort.SearchStrings(o.sorted, string(hi))
	}
	return o.sorted[from:max(from, to)]
}

// largeOverlay is above how many keys an overlay's map is not kept for the
// next batch: clearing a map costs as much as it once was large.
const largeOverlay = 4096

func (o *overlay) reset() {
	if len(o.points) > largeOverlay {
		o.points = nil
	} else {
		clear(o.points)
	}
	clear(o.sorted)
	clear(o.fresh)
	clear(o.ranges)
	o.sorted, o.fresh, o.ranges = o.sorted[:0], o.fresh[:0], o.ranges[:0]
}
