package storage

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/snipdb/snipdb/storage/snippet"
)

// The state hash: one number that is the same on two nodes if, and but for an
// accident of 2^-64 at most only if, their visible states are the same.
//
// Invariant S7: the row "h" of meta is the sum of rowSum over all rows that
// are counted, as of the position beside it. Counted are all rows, except
//
//   - format, position, and the rows of the hash itself;
//   - texts and vectors: the meta row of their snippet holds a digest of each,
//     and changes with them. So no old text or vector is ever read for the hash;
//   - idempotency rows: the row in the queue holds their digest.
//
// Each collection has a sum of its documents' rows, and each document one of
// its snippets' meta rows, so that what is deleted by range is subtracted by
// one number.
//
// The hash is against faults (a bug, a rotten disk, a lost write), not against
// an attacker: whoever can make two nodes apply different bytes needs no
// collision, so it is XXH64 twice and not a cryptographic hash, which would
// cost eight times as much.

// hashScheme is the version of all that the sums depend on. Two nodes compare
// their hashes only if it is the same.
const hashScheme = 1

// HashScheme is the version of the state hash of this release.
const HashScheme = hashScheme

// Point is the state hash at one position of the log.
type Point struct {
	Position
	Sum snippet.Sum
}

// MaxPoints is how many points a database remembers: with one every ten
// seconds, ten minutes, and a row of 2 KiB.
const MaxPoints = 64

const pointBytes = positionBytes + snippet.SumBytes

// uncounted says whether a row is none of those that the hash counts by rowSum.
func uncounted(cf int, key []byte) bool {
	switch cf {
	case cfMeta:
		return len(key) == 0 || key[0] == metaFormat || key[0] == metaPosition || key[0] == metaHash || key[0] == metaPoints
	case cfIdempotency:
		return len(key) > 0 && key[0] == idemRow
	case cfText, cfVectors:
		return true
	}
	return false
}

// ofCollection says whether the rows of a family belong to one collection; its
// id is then in front of the key.
func ofCollection(cf int) bool { return cf == cfDocs || cf == cfListing || cf == cfSnippetMeta }

// hasher makes sums of rows; it is scratch memory.
type hasher struct{ buf []byte }

// hashSalt comes in front of what is hashed for the other half of a sum. It is
// one block of XXH64, so that each of its four lanes begins elsewhere, as with
// another seed; the library's way with a seed takes three times as long.
const hashSalt = "snipdb state hash, second half \x01"

// rowSum is what one row adds to the hash: XXH64 of the family's number (1
// byte), the key's length (varint), key and value, without and with the salt.
func rowSum[V []byte | string](h *hasher, cf int, key []byte, value V) snippet.Sum {
	h.buf = binary.AppendUvarint(append(append(h.buf[:0], hashSalt...), byte(cf)), uint64(len(key)))
	h.buf = append(append(h.buf, key...), value...)
	return snippet.Sum{Hi: xxhash.Sum64(h.buf), Lo: xxhash.Sum64(h.buf[len(hashSalt):])}
}

// idemDigest is what the queue's row holds of the row of a key.
func (h *hasher) idemDigest(keyHash, row []byte) uint64 {
	h.buf = append(append(h.buf[:0], keyHash...), row...)
	return xxhash.Sum64(h.buf)
}

// accounts are the sums of a batch: what they will be when it is committed.
type accounts struct {
	hasher
	off    bool // Options.NoStateHash
	total  snippet.Sum
	points []Point
	// before are the sums of rows that the batch has read from the database and
	// not written yet, zero for those that are not there: most rows are read
	// before they are written, and so they are not read twice.
	before [familyCount]map[string]snippet.Sum
	colls  map[uint32]*collectionSum
	order  []*collectionSum // as they were first touched
	// journal is what a rollback puts back, newest last.
	journal []collectionSum
	epoch   uint64 // grows with each savepoint and rollback
}

// collectionSum is the sum of one collection's rows.
type collectionSum struct {
	id         uint32
	sum        snippet.Sum
	stored     snippet.Sum // as it is in the database
	journalled uint64      // the epoch in which it was last put into the journal
}

func (a *accounts) reset() {
	for i := range a.before {
		if len(a.before[i]) > largeOverlay {
			a.before[i] = nil
		} else {
			clear(a.before[i])
		}
	}
	clear(a.colls)
	clear(a.order)
	a.order, a.journal = a.order[:0], a.journal[:0]
	a.total, a.points, a.epoch = snippet.Sum{}, nil, 0
}

// seen notes a row that was read from the database; nil: it is not there.
func (a *accounts) seen(cf int, key, value []byte) {
	if a.off || uncounted(cf, key) {
		return
	}
	if a.before[cf] == nil {
		a.before[cf] = map[string]snippet.Sum{}
	}
	s := snippet.Sum{}
	if value != nil {
		s = rowSum(&a.hasher, cf, key, value)
	}
	a.before[cf][string(key)] = s
}

// oldSum returns what a row adds to the hash as it is now.
func (b *Batch) oldSum(cf int, key []byte) snippet.Sum {
	if p, ok := b.overlays[cf].lookup(key); ok {
		return p.sum // zero if it is deleted
	}
	if s, ok := b.acct.before[cf][string(key)]; ok {
		return s
	}
	v, err := b.db.n.get(cf, nil, key, b.valueBuf)
	if err != nil {
		b.fail(fmt.Errorf("read %s for the state hash: %w", familyName(cf), err))
		return snippet.Sum{}
	}
	if v == nil {
		return snippet.Sum{}
	}
	return rowSum(&b.acct.hasher, cf, key, v)
}

// change moves the sums by the difference that one or more rows make.
func (b *Batch) change(cf int, key []byte, plus, minus snippet.Sum) {
	if plus == minus {
		return
	}
	b.acct.total = b.acct.total.Add(plus).Sub(minus)
	if ofCollection(cf) {
		c := b.collectionSum(binary.BigEndian.Uint32(key))
		c.sum = c.sum.Add(plus).Sub(minus)
	}
}

// collectionSum returns a collection's sum to be changed: it is in the journal.
func (b *Batch) collectionSum(id uint32) *collectionSum {
	a := &b.acct
	c := a.colls[id]
	if c == nil {
		v, err := b.db.n.get(cfMeta, nil, appendHashKey(b.hashKey[:0], id), b.valueBuf)
		var sum snippet.Sum
		if err == nil {
			sum, err = snippet.ParseSum(v)
		}
		if err != nil {
			b.fail(fmt.Errorf("read the sum of collection %d: %w", id, err))
		}
		c = &collectionSum{id: id, sum: sum, stored: sum}
		if a.colls == nil {
			a.colls = map[uint32]*collectionSum{}
		}
		a.colls[id] = c
		a.order = append(a.order, c)
	}
	if len(b.saves) > 0 && c.journalled != a.epoch {
		c.journalled = a.epoch
		a.journal = append(a.journal, *c)
	}
	return c
}

// rollBack puts the collections' sums back to where the journal was n long.
func (a *accounts) rollBack(n int) {
	for i := len(a.journal) - 1; i >= n; i-- {
		a.colls[a.journal[i].id].sum = a.journal[i].sum
	}
	a.journal = a.journal[:n]
	a.epoch++
}

// StateSum is the state hash with the batch's writes.
func (b *Batch) StateSum() snippet.Sum {
	if b.buffers == nil {
		return snippet.Sum{}
	}
	return b.acct.total
}

// MarkPoint remembers the state hash, as it is now, as that of a position.
// Nothing that belongs to the position may be written afterwards. Every node
// must mark the same positions, whatever its batches are: they are what the
// nodes compare.
func (b *Batch) MarkPoint(at Position) {
	if b.failed != nil {
		return
	}
	old := b.acct.points
	if len(old) >= MaxPoints {
		old = old[len(old)-MaxPoints+1:]
	}
	b.acct.points = append(slices.Clone(old), Point{Position: at, Sum: b.acct.total})
}

// Points are the newest points, oldest first. They must not be changed.
func (b *Batch) Points() []Point {
	if b.buffers == nil {
		return nil
	}
	return b.acct.points
}

// writeSums puts the rows of the hash into the batch, where they differ from
// what the database has.
func (b *Batch) writeSums(had *hashState) {
	meta := b.db.n.families[cfMeta].id
	if b.acct.total != had.total {
		b.rep.put(meta, keyHash, b.acct.total.Append(nil))
	}
	for _, c := range b.acct.order {
		switch key := appendHashKey(nil, c.id); {
		case c.sum == c.stored:
		case c.sum.IsZero():
			b.rep.delete(meta, key)
		default:
			b.rep.put(meta, key, c.sum.Append(nil))
		}
	}
	if n := len(b.acct.points); n > 0 && (len(had.points) == 0 || had.points[len(had.points)-1] != b.acct.points[n-1]) {
		b.rep.put(meta, keyPoints, encodePoints(b.acct.points))
	}
}

// hashState is what a database knows of its hash without a read.
type hashState struct {
	total  snippet.Sum
	points []Point
}

// encodePoints and decodePoints are the form of the row "t".
func encodePoints(points []Point) []byte {
	row := make([]byte, 0, len(points)*pointBytes)
	for _, p := range points {
		row = p.Sum.Append(appendPosition(row, p.Position))
	}
	return row
}

func decodePoints(row []byte) ([]Point, error) {
	if len(row)%pointBytes != 0 || len(row) > MaxPoints*pointBytes {
		return nil, fmt.Errorf("storage: read points of the state hash: %d bytes: %w", len(row), ErrCorrupt)
	}
	points := make([]Point, 0, len(row)/pointBytes)
	for ; len(row) > 0; row = row[pointBytes:] {
		at, err := parsePosition(row[:positionBytes])
		if err != nil {
			return nil, err
		}
		sum, err := snippet.ParseSum(row[positionBytes:pointBytes])
		if err != nil {
			return nil, err
		}
		points = append(points, Point{Position: at, Sum: sum})
	}
	return points, nil
}

// loadHash reads the rows of the hash.
func loadHash(get func(key []byte) ([]byte, error)) (hashState, error) {
	var s hashState
	row, err := get(keyHash)
	if err != nil {
		return s, fmt.Errorf("storage: read state hash: %w", err)
	}
	if s.total, err = snippet.ParseSum(row); err != nil {
		return s, fmt.Errorf("storage: read state hash: %w: %v", ErrCorrupt, err)
	}
	if row, err = get(keyPoints); err != nil {
		return s, fmt.Errorf("storage: read points of the state hash: %w", err)
	}
	s.points, err = decodePoints(row)
	return s, err
}

// StateHash returns the state hash as of the view's position, and the newest
// points, oldest first.
func (v *View) StateHash() (snippet.Sum, []Point, error) {
	s, err := v.begin()
	if err != nil {
		return snippet.Sum{}, nil, err
	}
	defer s.end()
	h, err := loadHash(func(key []byte) ([]byte, error) { return s.get(cfMeta, key) })
	return h.total, h.points, err
}
