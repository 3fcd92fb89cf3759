package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/snipdb/snipdb/storage/snippet"
)

// VerifyOptions are for View.Verify.
type VerifyOptions struct {
	// BytesPerSecond bounds the rate of reading; 0: as fast as it goes.
	BytesPerSecond int64
	// Progress is told now and then how much has been read; nil: nobody.
	Progress func(rows, bytes int64)
}

// Verification is what a full scan of a state found.
type Verification struct {
	Position Position
	// Stored is the state hash that the state carries, Computed that of the rows.
	Stored, Computed snippet.Sum
	Rows, Bytes      int64
	// Problems are in words what does not fit, at most maxProblems of them;
	// none: the state is what was written.
	Problems []string
}

// maxProblems bounds what a verification lists: one is reason enough.
const maxProblems = 20

// OK says whether everything fits.
func (r *Verification) OK() bool { return len(r.Problems) == 0 }

// Verify reads every row of the view's state, computes the state hash and all
// sums and digests anew, and compares them with the stored ones (invariant S7).
// It finds what the hash itself can't see: a row that changed on the disk, or a
// mistake in keeping the hash. An error means that the scan did not end.
//
// It reads past the block cache, so that it takes nothing from others but disk
// and one processor; the view keeps old data on disk until it ends.
func (v *View) Verify(ctx context.Context, o VerifyOptions) (*Verification, error) {
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	r := &verifier{session: s, ctx: ctx, o: o, started: time.Now(), colls: map[uint32]*verifiedCollection{}}
	r.out.Position = v.Position()
	for _, step := range []func() error{r.meta, r.idempotency, r.documents, r.listing, r.snippets} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	r.judge()
	return &r.out, nil
}

type verifier struct {
	session
	hasher
	ctx     context.Context // of one call; the verifier lives as long
	o       VerifyOptions
	started time.Time
	out     Verification
	colls   map[uint32]*verifiedCollection
}

// verifiedCollection is what a scan counts of one collection.
type verifiedCollection struct {
	stored, computed snippet.Sum
	// metas is the sum over the snippets' meta rows, listed what the documents
	// say of it.
	metas, listed snippet.Sum
}

func (r *verifier) collection(id uint32) *verifiedCollection {
	c := r.colls[id]
	if c == nil {
		c = &verifiedCollection{}
		r.colls[id] = c
	}
	return c
}

func (r *verifier) problem(format string, args ...any) {
	if len(r.out.Problems) < maxProblems {
		r.out.Problems = append(r.out.Problems, fmt.Sprintf(format, args...))
	}
}

// row counts one row, and waits if the rate is above the bound.
func (r *verifier) row(bytes int) error {
	r.out.Rows++
	r.out.Bytes += int64(bytes)
	if r.out.Rows%checkEvery != 0 {
		return nil
	}
	if r.o.Progress != nil {
		r.o.Progress(r.out.Rows, r.out.Bytes)
	}
	wait := time.Duration(0)
	if r.o.BytesPerSecond > 0 {
		wait = time.Duration(float64(r.out.Bytes)/float64(r.o.BytesPerSecond)*float64(time.Second)) - time.Since(r.started)
	}
	if wait <= 0 {
		return r.stopped(r.ctx.Err())
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.ctx.Done():
		return r.stopped(r.ctx.Err())
	}
}

func (r *verifier) stopped(err error) error {
	if err != nil {
		return fmt.Errorf("storage: verify: stopped after %d rows: %w", r.out.Rows, err)
	}
	return nil
}

// each calls fn for the rows of a family.
func (r *verifier) each(cf int, fn func(key, value []byte) error) error {
	sc := r.scan(cf, nil, nil, scanPast)
	defer sc.close()
	for key, value, ok := sc.next(); ok; key, value, ok = sc.next() {
		if err := r.row(len(key) + len(value)); err != nil {
			return err
		}
		if err := fn(key, value); err != nil {
			return err
		}
	}
	return scanError(cf, sc)
}

// count adds a row to the sums.
func (r *verifier) count(cf int, key, value []byte) snippet.Sum {
	sum := rowSum(&r.hasher, cf, key, value)
	r.out.Computed = r.out.Computed.Add(sum)
	if ofCollection(cf) && len(key) >= 4 {
		c := r.collection(binary.BigEndian.Uint32(key))
		c.computed = c.computed.Add(sum)
	}
	return sum
}

func (r *verifier) meta() error {
	return r.each(cfMeta, func(key, value []byte) error {
		switch {
		case bytes.Equal(key, keyHash):
			sum, err := snippet.ParseSum(value)
			if err != nil {
				r.problem("the row of the state hash: %v", err)
			}
			r.out.Stored = sum
		case len(key) == 5 && key[0] == metaHash:
			sum, err := snippet.ParseSum(value)
			if err != nil {
				r.problem("the row of a collection's sum: %v", err)
			}
			r.collection(binary.BigEndian.Uint32(key[1:])).stored = sum
		case !uncounted(cfMeta, key):
			r.count(cfMeta, key, value)
		}
		return nil
	})
}

// idempotency compares the rows of the keys with their digests in the queue.
// The two are in different orders, so sums are compared.
func (r *verifier) idempotency() error {
	var rows, queued uint64
	var digests, expected uint64
	err := r.each(cfIdempotency, func(key, value []byte) error {
		switch {
		case len(key) == 33 && key[0] == idemRow:
			rows++
			digests += r.idemDigest(key[1:], value)
			return nil
		case len(key) > 0 && key[0] == idemQueue && len(value) == queueValue:
			queued++
			expected += binary.BigEndian.Uint64(value[32:])
		}
		r.count(cfIdempotency, key, value)
		return nil
	})
	if err == nil && (rows != queued || digests != expected) {
		r.problem("the %d idempotency rows are not those of which the queue has %d digests", rows, queued)
	}
	return err
}

func (r *verifier) documents() error {
	return r.each(cfDocs, func(key, value []byte) error {
		r.count(cfDocs, key, value)
		if len(key) <= 4 {
			r.problem("a document's key %x is too short", key)
			return nil
		}
		d, err := decodeDocument(string(key[4:]), value)
		if err != nil {
			r.problem("document %q: %v", key[4:], err)
			return nil
		}
		c := r.collection(binary.BigEndian.Uint32(key))
		c.listed = c.listed.Add(d.SnippetsSum)
		return nil
	})
}

func (r *verifier) listing() error {
	return r.each(cfListing, func(key, value []byte) error {
		r.count(cfListing, key, value)
		return nil
	})
}

// snippets reads the three families side by side: their keys are the same, and
// no text or vector may be without its meta row.
func (r *verifier) snippets() error {
	texts, vectors := r.scan(cfText, nil, nil, scanPast), r.scan(cfVectors, nil, nil, scanPast)
	defer texts.close()
	defer vectors.close()
	err := r.each(cfSnippetMeta, func(key, value []byte) error {
		sum := r.count(cfSnippetMeta, key, value)
		if len(key) <= 4 {
			r.problem("a snippet's key %x is too short", key)
			return nil
		}
		c := r.collection(binary.BigEndian.Uint32(key))
		c.metas = c.metas.Add(sum)
		meta, err := decodeSnippetMeta(value)
		if err != nil {
			r.problem("%s: %v", describe(key), err)
			return nil
		}
		text, ok := texts.at(key)
		if !ok || xxhash.Sum64(text) != meta.TextDigest {
			r.problem("%s: the text (%d bytes, there %v) is not the one that was written", describe(key), len(text), ok)
		}
		if err := r.row(len(text)); err != nil || !meta.Embedded {
			return err
		}
		vector, ok := vectors.at(key)
		if !ok || xxhash.Sum64(vector) != meta.VectorDigest {
			r.problem("%s: the vector (%d bytes, there %v) is not the one that was written", describe(key), len(vector), ok)
		}
		return r.row(len(vector))
	})
	if err := firstError(err, scanError(cfText, texts), scanError(cfVectors, vectors)); err != nil {
		return err
	}
	if n := texts.others(); n > 0 {
		r.problem("%d texts belong to no snippet", n)
	}
	if n := vectors.others(); n > 0 {
		r.problem("%d vectors belong to no snippet that has one", n)
	}
	return firstError(scanError(cfText, texts), scanError(cfVectors, vectors))
}

func describe(key []byte) string {
	text, ok := describeSnippet(key)
	if !ok {
		return fmt.Sprintf("a snippet with the key %x", key)
	}
	return text
}

// judge compares the sums.
func (r *verifier) judge() {
	if r.out.Stored != r.out.Computed {
		r.problem("the rows have the hash %s, the state hash is %s", r.out.Computed, r.out.Stored)
	}
	for id, c := range r.colls {
		if c.stored != c.computed {
			r.problem("collection %d: the rows have the sum %s, stored is %s", id, c.computed, c.stored)
		}
		if c.metas != c.listed {
			r.problem("collection %d: the snippets have the sum %s, the documents say %s", id, c.metas, c.listed)
		}
	}
}
