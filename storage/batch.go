package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/snipdb/snipdb/storage/mutant"
	"github.com/snipdb/snipdb/storage/snippet"
)

// errCommitted is why a batch takes no more writes.
var errCommitted = errors.New("the batch is committed already")

// Batch collects writes that are committed together, and reads as if they
// were committed already. It belongs to one goroutine. Results are Go-owned
// copies. Every batch must be destroyed, committed or not.
//
// Invariant S3: a read sees the newest write of the batch to that key, and
// else the database.
type Batch struct {
	*buffers     // nil once destroyed
	db       *DB // nil once destroyed
	// base is the number of commits that the batch has seen.
	base uint64
	// failed is why the batch takes no calls; it makes Commit fail.
	failed error
}

// buffers are the inside of a batch. They are used again by later batches,
// which is why the Batch itself is not: a stale pointer to it stays harmless.
type buffers struct {
	rep      rep
	overlays [familyCount]overlay
	seq      int
	// undo is what to put back, newest last; kept only while a savepoint is.
	undo  []undo
	saves []save
	idem  idemState
	acct  accounts
	// hashKey is scratch space: keyBuf may hold the key that is being written.
	hashKey [5]byte

	keyBuf, valueBuf, rowBuf, scanBuf []byte

	collectionRecord CollectionRecord
	documentRecord   DocumentRecord
	snippetRecord    SnippetRecord
}

// undo is the inverse of one write.
type undo struct {
	cf     int
	key    string
	before point
	had    bool
	rng    bool // a range deletion, the newest of its family
}

// save is the state at a savepoint.
type save struct {
	repLen int
	count  uint32
	undos  int
	idem   idemState
	total  snippet.Sum
	// journal is the length of accounts.journal.
	journal int
}

// NewBatch starts a batch. On a closed database every method of the batch
// returns ErrClosed.
func (db *DB) NewBatch() *Batch {
	if !db.pins.acquire() {
		return &Batch{failed: ErrClosed}
	}
	in, _ := db.batches.Get().(*buffers)
	if in == nil {
		in = &buffers{keyBuf: make([]byte, 0, keyBytes)}
		// The families that batches read in order.
		in.overlays[cfMeta].scanned = true
		in.overlays[cfListing].scanned = true
		in.overlays[cfIdempotency].scanned = true
	}
	in.rep = newRep(in.rep.b)
	if s := db.idem.Load(); s != nil {
		in.idem = *s
	}
	h := db.hash.Load()
	in.acct.total, in.acct.points, in.acct.off = h.total, h.points, db.opts.NoStateHash
	return &Batch{buffers: in, db: db, base: db.commitCount.Load()}
}

// keptRepBytes is the largest buffer that is kept for the next batch.
const keptRepBytes = 4 << 20

// Destroy gives the batch back. It may be called again.
func (b *Batch) Destroy() {
	in, db := b.buffers, b.db
	if in == nil {
		return
	}
	b.buffers, b.db, b.failed = nil, nil, ErrClosed
	for i := range in.overlays {
		in.overlays[i].reset()
	}
	if cap(in.rep.b) > keptRepBytes {
		in.rep.b = nil
	}
	in.acct.reset()
	in.seq = 0
	clear(in.undo)
	in.undo, in.saves, in.idem = in.undo[:0], in.saves[:0], idemState{}
	db.batches.Put(in)
	db.pins.release()
}

// Bytes is the size of the batch.
func (b *Batch) Bytes() int {
	if b.buffers == nil {
		return 0
	}
	return len(b.rep.b)
}

// Savepoint marks the state of the batch for Rollback.
func (b *Batch) Savepoint() int {
	if b.failed != nil {
		return 0
	}
	b.saves = append(b.saves, save{repLen: len(b.rep.b), count: b.rep.count, undos: len(b.undo), idem: b.idem,
		total: b.acct.total, journal: len(b.acct.journal)})
	b.acct.epoch++
	return len(b.saves) - 1
}

// Rollback takes back every write since the savepoint. The savepoint stays
// valid; later ones are gone.
func (b *Batch) Rollback(savepoint int) {
	if b.failed != nil {
		return
	}
	if savepoint < 0 || savepoint >= len(b.saves) {
		b.fail(fmt.Errorf("roll back to savepoint %d of %d", savepoint, len(b.saves)))
		return
	}
	s := b.saves[savepoint]
	for i := len(b.undo) - 1; i >= s.undos; i-- {
		u := &b.undo[i]
		o := &b.overlays[u.cf]
		switch {
		case u.rng:
			o.ranges = o.ranges[:len(o.ranges)-1]
		case u.had:
			o.points[u.key] = u.before
		default:
			delete(o.points, u.key)
		}
	}
	clear(b.undo[s.undos:])
	b.undo = b.undo[:s.undos]
	b.rep.b, b.rep.count = b.rep.b[:s.repLen], s.count
	b.idem = s.idem
	b.acct.total = s.total
	b.acct.rollBack(s.journal)
	b.saves = b.saves[:savepoint+1]
}

// fail records the first error of a write.
func (b *Batch) fail(err error) {
	if b.failed == nil {
		b.failed = err
	}
}

// usable returns why the batch takes no calls.
func (b *Batch) usable() error {
	if b.failed != nil {
		return fmt.Errorf("storage: use batch: %w", b.failed)
	}
	return nil
}

// keyBytes is the size of the key buffers: more than the longest key of a
// document or snippet (two owner fields, two zeros, 16 bytes of numbers).
const keyBytes = 1024

// key returns an empty slice for building a key. It must not be kept: the
// next key is built in the same place. Longer keys move out of it by append.
func (b *Batch) key() []byte {
	if b.buffers == nil {
		return nil
	}
	return b.keyBuf[:0]
}

// get reads one value: the batch's, or the database's. The result is valid
// until the next call.
func (b *Batch) get(cf int, key []byte) ([]byte, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	if p, ok := b.overlays[cf].lookup(key); ok {
		if p.deleted {
			return nil, nil
		}
		return b.rep.b[p.off : p.off+p.len : p.off+p.len], nil
	}
	v, err := b.db.n.get(cf, nil, key, b.valueBuf)
	if err != nil {
		return nil, fmt.Errorf("storage: read %s: %w", familyName(cf), err)
	}
	if cap(v) > cap(b.valueBuf) && cap(v) <= maxKeptValue {
		b.valueBuf = v
	}
	b.acct.seen(cf, key, v)
	return v, nil
}

// maxKeptValue is the largest value buffer that is kept between reads.
const maxKeptValue = 64 << 10

// note records a write in the overlay and for rollback.
func (b *Batch) note(cf int, key []byte, p point) {
	b.seq++
	p.seq = b.seq
	k := string(key)
	before, had := b.overlays[cf].set(k, p)
	if len(b.saves) > 0 {
		b.undo = append(b.undo, undo{cf: cf, key: k, before: before, had: had})
	}
}

// put writes a row and counts it in the state hash.
func (b *Batch) put(cf int, key, value []byte) {
	if b.failed != nil {
		return
	}
	var sum snippet.Sum
	if !b.acct.off && !uncounted(cf, key) {
		old := b.oldSum(cf, key) // it uses the scratch memory that sum does
		sum = rowSum(&b.acct.hasher, cf, key, value)
		b.change(cf, key, sum, old)
	}
	off := appendPut(&b.rep, b.db.n.families[cf].id, key, value)
	b.note(cf, key, point{off: off, len: len(value), sum: sum})
}

// putNew is put of a row of which the caller knows that there is none yet.
func putNew[V []byte | string](b *Batch, cf int, key []byte, value V) {
	if b.failed != nil {
		return
	}
	var sum snippet.Sum
	if !b.acct.off && !uncounted(cf, key) {
		sum = rowSum(&b.acct.hasher, cf, key, value)
		b.change(cf, key, sum, snippet.Sum{})
	}
	off := appendPut(&b.rep, b.db.n.families[cf].id, key, value)
	b.note(cf, key, point{off: off, len: len(value), sum: sum})
}

// delete deletes a row and takes it out of the state hash.
func (b *Batch) delete(cf int, key []byte) {
	if b.failed == nil && !b.acct.off && !uncounted(cf, key) {
		b.change(cf, key, snippet.Sum{}, b.oldSum(cf, key))
	}
	b.deleteCounted(cf, key)
}

// deleteKnown is delete of a row whose value the caller knows.
func (b *Batch) deleteKnown(cf int, key []byte, value string) {
	if b.failed == nil && !b.acct.off {
		b.change(cf, key, snippet.Sum{}, rowSum(&b.acct.hasher, cf, key, value))
	}
	b.deleteCounted(cf, key)
}

// deleteCounted deletes a row that the caller has taken out of the state hash.
func (b *Batch) deleteCounted(cf int, key []byte) {
	if b.failed == nil {
		b.rep.delete(b.db.n.families[cf].id, key)
		b.note(cf, key, point{deleted: true})
	}
}

// deleteRange deletes the keys in [lo, hi), which the caller has taken out of
// the state hash; the batch keeps both slices.
func (b *Batch) deleteRange(cf int, lo, hi []byte) {
	if b.failed != nil {
		return
	}
	b.seq++
	b.rep.deleteRange(b.db.n.families[cf].id, lo, hi)
	o := &b.overlays[cf]
	o.ranges = append(o.ranges, tombstone{lo: lo, hi: hi, seq: b.seq})
	if len(b.saves) > 0 {
		b.undo = append(b.undo, undo{cf: cf, rng: true})
	}
}

// counter reads a row that is one number.
func (b *Batch) counter(cf int, what string, key []byte) (uint64, error) {
	v, err := b.get(cf, key)
	if err != nil {
		return 0, err
	}
	return parseCounter(what, v)
}

func (b *Batch) putCounter(cf int, key []byte, n uint64) {
	var row [8]byte
	binary.BigEndian.PutUint64(row[:], n)
	b.put(cf, key, row[:])
}

// scanMerged calls fn for the rows in [lo, hi) in order, the batch's own
// writes included, until fn returns false. fn must not use the batch, and
// must copy what it keeps.
func (b *Batch) scanMerged(cf int, lo, hi []byte, fn func(key, value []byte) (bool, error)) error {
	if err := b.usable(); err != nil {
		return err
	}
	o := &b.overlays[cf]
	own := o.between(lo, hi)
	sc := b.db.n.newScan(cf, nil, lo, hi, 0, b.scanBuf)
	b.scanBuf = sc.buf
	defer sc.close()
	more := true
	var err error
	dbKey, dbValue, dbOK := sc.next()
	for more && err == nil {
		switch {
		case len(own) > 0 && (!dbOK || own[0] <= string(dbKey)):
			key := []byte(own[0])
			own = own[1:]
			p, ok := o.lookup(key)
			if !ok {
				continue // a rollback took it back: the database's row, if any, comes next
			}
			if dbOK && string(key) == string(dbKey) {
				dbKey, dbValue, dbOK = sc.next()
			}
			if !p.deleted {
				more, err = fn(key, b.rep.b[p.off:p.off+p.len])
			}
		case dbOK:
			if _, gone := o.lookup(dbKey); !gone { // only a range deletion can be found here
				more, err = fn(dbKey, dbValue)
			}
			dbKey, dbValue, dbOK = sc.next()
		case sc.err != nil:
			return fmt.Errorf("storage: scan %s: %w", familyName(cf), sc.err)
		default:
			return nil
		}
	}
	return err
}

// System returns a system row, or nil.
func (b *Batch) System(key string) ([]byte, error) { return readSystem(b, key) }

// PutSystem writes a system row.
func (b *Batch) PutSystem(key string, value []byte) {
	b.put(cfMeta, appendSystemKey(b.key(), key), value)
}

// DeleteSystem deletes a system row.
func (b *Batch) DeleteSystem(key string) { b.delete(cfMeta, appendSystemKey(b.key(), key)) }

// SystemPrefix returns the system rows whose keys begin with prefix, in order.
func (b *Batch) SystemPrefix(prefix string) ([]KV, error) {
	lo := appendSystemKey(nil, prefix)
	var rows []KV
	err := b.scanMerged(cfMeta, lo, prefixEnd(lo), func(key, value []byte) (bool, error) {
		rows = append(rows, KV{Key: string(key[1:]), Value: append([]byte{}, value...)})
		return true, nil
	})
	return rows, err
}

// Collection returns a collection by name, or nil.
func (b *Batch) Collection(name string) (*snippet.Collection, error) { return readCollection(b, name) }

// PutCollection inserts or updates a collection.
func (b *Batch) PutCollection(c *snippet.Collection) error {
	old, err := b.get(cfMeta, appendCollectionKey(b.key(), c.Name))
	if err != nil {
		return err // a destroyed batch ends here as well
	}
	created := old == nil
	b.collectionRecord.set(c)
	if b.rowBuf, err = marshalRecord(b.rowBuf[:0], "collection", &b.collectionRecord); err != nil {
		return err
	}
	b.put(cfMeta, appendCollectionKey(b.key(), c.Name), b.rowBuf)
	if created {
		return b.addCollections(1)
	}
	return b.usable()
}

// addCollections changes the number of collections.
func (b *Batch) addCollections(by int) error {
	n, err := b.counter(cfMeta, "number of collections", keyCollectionCount)
	if err != nil {
		return err
	}
	b.putCounter(cfMeta, keyCollectionCount, n+uint64(by))
	return b.usable()
}

// DeleteCollection deletes a collection and all it holds, by range, so its
// cost does not depend on how much that is.
func (b *Batch) DeleteCollection(c *snippet.Collection) error {
	old, err := b.get(cfMeta, appendCollectionKey(b.key(), c.Name))
	if err != nil || old == nil {
		return err
	}
	b.delete(cfMeta, appendCollectionKey(b.key(), c.Name))
	b.delete(cfMeta, appendNextOrdinalKey(b.key(), c.ID))
	var kept []byte // the batch keeps both ends: no scratch space
	if mutant.On(mutant.KeyShared) {
		kept = b.key()
	}
	lo, hi := appendCollectionPrefix(kept, c.ID), appendCollectionPrefix(kept, c.ID+1)
	for _, cf := range [...]int{cfDocs, cfListing, cfSnippetMeta, cfText, cfVectors} {
		b.deleteRange(cf, lo, hi)
	}
	if !b.acct.off {
		sum := b.collectionSum(c.ID)
		b.acct.total, sum.sum = b.acct.total.Sub(sum.sum), snippet.Sum{}
	}
	return b.addCollections(-1)
}

// NewCollectionID returns a number that no collection ever had. Numbers begin
// at 1; the last one is never given out, so that id+1 is a key as well.
func (b *Batch) NewCollectionID() (uint32, error) {
	n, err := b.counter(cfMeta, "next collection id", keyNextID)
	if err != nil {
		return 0, err
	}
	n = max(n, 1)
	if n >= math.MaxUint32 {
		return 0, fmt.Errorf("storage: new collection: all %d ids are used up", uint32(math.MaxUint32))
	}
	b.putCounter(cfMeta, keyNextID, n+1)
	return uint32(n), b.usable()
}

// CollectionCount returns the number of collections.
func (b *Batch) CollectionCount() (int, error) {
	n, err := b.counter(cfMeta, "number of collections", keyCollectionCount)
	return int(n), err
}

// NewOrdinal returns the next document number of a collection, from 1 on.
func (b *Batch) NewOrdinal(c *snippet.Collection) (uint64, error) {
	n, err := b.counter(cfMeta, "next ordinal", appendNextOrdinalKey(b.key(), c.ID))
	if err != nil {
		return 0, err
	}
	n = max(n, 1)
	b.putCounter(cfMeta, appendNextOrdinalKey(b.key(), c.ID), n+1)
	return n, b.usable()
}
