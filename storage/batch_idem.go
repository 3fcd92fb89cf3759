package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The idempotency rows: one row per key, a queue of the same rows ordered by
// expiry, and their number. All three change in the same batch. The queue's row
// ends in a digest of the key's row, so that the state hash covers that one
// too, and an expiry need not read it.

// queueValue is the length of a row of the queue: hash of the key, digest.
const queueValue = 32 + 8

// idemHeader is the front of an idempotency row, before the caller's bytes:
// expiry, index and sequence number, which are the row's place in the queue.
const idemHeader = 8 + 8 + 4

// idemState is what is known of the queue without reading it. The database
// keeps that of the last commit for the next batch: a read of the queue from
// its beginning would meet the remains of every row ever expired.
type idemState struct {
	known bool
	count uint64
	// oldest is the first expiry in the queue, from is its key (or one before
	// it). Both mean nothing while count is 0. from is never changed in place.
	oldest int64
	from   []byte
}

// Idempotency returns the row of a key, or nil. It does not ask whether the
// row has expired: that is decided by the replicated clock, in ExpireIdempotency.
func (b *Batch) Idempotency(keyHash [32]byte) ([]byte, error) {
	v, err := b.get(cfIdempotency, appendIdempotencyKey(b.key(), keyHash))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v) < idemHeader {
		return nil, fmt.Errorf("storage: read idempotency row: %d bytes: %w", len(v), ErrCorrupt)
	}
	return append([]byte{}, v[idemHeader:]...), nil
}

// PutIdempotency writes the row of a key, in place of an older one. index and
// seq (which command of the entry) make its place in the queue unique.
func (b *Batch) PutIdempotency(keyHash [32]byte, expiresMs int64, index uint64, seq uint32, row []byte) error {
	if err := b.loadIdempotency(); err != nil {
		return err
	}
	old, err := b.get(cfIdempotency, appendIdempotencyKey(b.key(), keyHash))
	if err != nil {
		return err
	}
	if old != nil {
		if len(old) < idemHeader {
			return fmt.Errorf("storage: read idempotency row: %d bytes: %w", len(old), ErrCorrupt)
		}
		value := binary.BigEndian.AppendUint64(keyHash[:], b.acct.idemDigest(keyHash[:], old))
		b.deleteKnown(cfIdempotency, appendQueueKey(b.key(), int64(binary.BigEndian.Uint64(old)),
			binary.BigEndian.Uint64(old[8:]), binary.BigEndian.Uint32(old[16:])), string(value))
	} else {
		b.idem.count++
		b.putCounter(cfIdempotency, keyIdempotencyCount, b.idem.count)
	}
	v := binary.BigEndian.AppendUint64(b.rowBuf[:0], uint64(expiresMs))
	v = binary.BigEndian.AppendUint64(v, index)
	v = append(binary.BigEndian.AppendUint32(v, seq), row...)
	b.rowBuf = v
	digest := b.acct.idemDigest(keyHash[:], v)
	b.put(cfIdempotency, appendIdempotencyKey(b.key(), keyHash), v)
	place := appendQueueKey(nil, expiresMs, index, seq)
	putNew(b, cfIdempotency, place, binary.BigEndian.AppendUint64(keyHash[:], digest))
	if b.idem.count == 1 || bytes.Compare(place, b.idem.from) < 0 {
		b.idem.oldest, b.idem.from = expiresMs, place
	}
	return b.usable()
}

// loadIdempotency reads the number of rows and the first of them.
func (b *Batch) loadIdempotency() error {
	if err := b.usable(); err != nil || b.idem.known {
		return err
	}
	count, err := b.counter(cfIdempotency, "number of idempotency rows", keyIdempotencyCount)
	if err != nil {
		return err
	}
	state := idemState{known: true, count: count}
	err = b.scanQueue([]byte{idemQueue}, func(expiresMs int64, key, _ []byte) bool {
		state.oldest, state.from = expiresMs, bytes.Clone(key)
		return false
	})
	if err == nil {
		b.idem = state
	}
	return err
}

// scanQueue calls fn for the rows of the queue from a key on, oldest first,
// until fn returns false.
func (b *Batch) scanQueue(from []byte, fn func(expiresMs int64, key, value []byte) bool) error {
	return b.scanMerged(cfIdempotency, from, []byte{idemQueue + 1}, func(key, value []byte) (bool, error) {
		if len(key) != 1+idemHeader || len(value) != queueValue {
			return false, fmt.Errorf("storage: read idempotency queue: key %x: %w", key, ErrCorrupt)
		}
		expires, _, _ := parseQueueKey(key)
		return fn(expires, key, value), nil
	})
}

// ExpireIdempotency deletes rows, oldest first: those that expired at or
// before nowMs, and those above maxRows; atMost of them. It returns how many.
// Most calls read nothing: the batch knows when the first row expires.
func (b *Batch) ExpireIdempotency(nowMs int64, maxRows int64, atMost int) (int, error) {
	if err := b.loadIdempotency(); err != nil {
		return 0, err
	}
	over := int64(b.idem.count) - max(maxRows, 0)
	if atMost <= 0 || b.idem.count == 0 || (over <= 0 && b.idem.oldest > nowMs) {
		return 0, nil
	}
	type place struct {
		queue, row []byte
		value      string
	}
	var doomed []place
	after := idemState{known: true, count: b.idem.count}
	err := b.scanQueue(b.idem.from, func(expiresMs int64, key, value []byte) bool {
		if len(doomed) == atMost || (expiresMs > nowMs && int64(len(doomed)) >= over) {
			after.oldest, after.from = expiresMs, bytes.Clone(key)
			return false
		}
		doomed = append(doomed, place{queue: bytes.Clone(key), row: append([]byte{idemRow}, value[:32]...), value: string(value)})
		return true
	})
	if err != nil {
		return 0, err
	}
	for _, p := range doomed {
		b.deleteKnown(cfIdempotency, p.queue, p.value)
		b.delete(cfIdempotency, p.row)
	}
	if after.count -= uint64(len(doomed)); (after.from == nil) != (after.count == 0) {
		return 0, fmt.Errorf("storage: expire idempotency rows: the queue does not hold the %d rows that are left: %w", after.count, ErrCorrupt)
	}
	if b.idem = after; len(doomed) > 0 {
		b.putCounter(cfIdempotency, keyIdempotencyCount, after.count)
	}
	return len(doomed), b.usable()
}
