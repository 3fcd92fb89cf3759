package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/storage/snippet"
)

// hashedDB is a database with a bit of everything that the hash counts.
func hashedDB(t *testing.T) (*DB, *snippet.Collection, *snippet.Document) {
	t.Helper()
	db := openDB(t, t.TempDir(), small())
	var c *snippet.Collection
	var d *snippet.Document
	commit(t, db, func(b *Batch) {
		c = newCollection(t, b, "c")
		d = newDocument(t, b, c, "d", snippet.Owner{Type: "agent", ID: "a"}, 3, 4)
		newDocument(t, b, newCollection(t, b, "other"), "e", snippet.Owner{}, 2, 0)
		b.PutSystem("clock", []byte("12345678"))
		must(t, b.PutIdempotency([32]byte{1}, 100, 1, 0, []byte("row")))
		must(t, b.PutIdempotency([32]byte{2}, 200, 1, 1, []byte("another row")))
		b.MarkPoint(Position{Index: 1, Term: 1})
	})
	return db, c, d
}

func verifyNow(t *testing.T, db *DB) *Verification {
	t.Helper()
	v, err := db.View()
	must(t, err)
	defer v.Close()
	r, err := v.Verify(context.Background(), VerifyOptions{})
	must(t, err)
	return r
}

// TestVerifyFindsDamage changes single rows behind the hash's back: each is
// found, and by what it should be found by.
func TestVerifyFindsDamage(t *testing.T) {
	raw := func(db *DB, write func(w *rep, cf func(int) uint32)) {
		w := newRep(nil)
		write(&w, func(cf int) uint32 { return db.n.families[cf].id })
		must(t, db.n.writeRep(w.bytes()))
	}
	for _, row := range []struct {
		what   string
		damage func(db *DB, c *snippet.Collection, d *snippet.Document)
		says   string
	}{
		{"nothing", func(*DB, *snippet.Collection, *snippet.Document) {}, ""},
		{"a text", func(db *DB, c *snippet.Collection, d *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) {
				w.put(cf(cfText), appendSnippetKey(nil, c.ID, d, 1), []byte("d snippet 2"))
			})
		}, "the text"},
		{"a vector", func(db *DB, c *snippet.Collection, d *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) {
				w.put(cf(cfVectors), appendSnippetKey(nil, c.ID, d, 1), testVector(4, 7))
			})
		}, "the vector"},
		{"a lost text", func(db *DB, c *snippet.Collection, d *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.delete(cf(cfText), appendSnippetKey(nil, c.ID, d, 0)) })
		}, "the text"},
		{"a lost vector", func(db *DB, c *snippet.Collection, d *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.delete(cf(cfVectors), appendSnippetKey(nil, c.ID, d, 2)) })
		}, "the vector"},
		{"a text of no snippet", func(db *DB, c *snippet.Collection, d *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.put(cf(cfText), appendSnippetKey(nil, c.ID, d, 9), []byte("x")) })
		}, "1 texts belong to no snippet"},
		{"a vector of no snippet, in front of all", func(db *DB, _ *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.put(cf(cfVectors), []byte{0, 0, 0, 0, 0, 0}, []byte("x")) })
		}, "1 vectors belong to no snippet"},
		{"a lost snippet", func(db *DB, c *snippet.Collection, d *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) {
				for _, f := range [...]int{cfSnippetMeta, cfText, cfVectors} {
					w.delete(cf(f), appendSnippetKey(nil, c.ID, d, 2))
				}
			})
		}, "the documents say"},
		{"a snippet's key cut off", func(db *DB, _ *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.put(cf(cfSnippetMeta), []byte{1}, []byte("x")) })
		}, "key 01 is too short"},
		{"rows without a key", func(db *DB, _ *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) {
				w.put(cf(cfMeta), nil, []byte("x"))
				w.put(cf(cfIdempotency), nil, []byte("x"))
			})
		}, "the rows have the hash"},
		{"a lost document", func(db *DB, c *snippet.Collection, d *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.delete(cf(cfDocs), appendDocumentKey(nil, c.ID, d.ID)) })
		}, "the rows have the hash"},
		{"a listing row too many", func(db *DB, c *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.put(cf(cfListing), appendOrdinalKey(nil, c.ID, 99), []byte("d")) })
		}, "collection 1: the rows have the sum"},
		{"a system row", func(db *DB, _ *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) {
				w.put(cf(cfMeta), appendSystemKey(nil, "clock"), []byte("12345679"))
			})
		}, "the rows have the hash"},
		{"an idempotency row", func(db *DB, _ *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) {
				w.put(cf(cfIdempotency), appendIdempotencyKey(nil, [32]byte{1}), []byte("x"))
			})
		}, "idempotency rows"},
		{"the hash", func(db *DB, _ *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.put(cf(cfMeta), keyHash, make([]byte, snippet.SumBytes)) })
		}, "the state hash is 0000"},
		{"a collection's sum", func(db *DB, c *snippet.Collection, _ *snippet.Document) {
			raw(db, func(w *rep, cf func(int) uint32) { w.delete(cf(cfMeta), appendHashKey(nil, c.ID)) })
		}, "stored is 0000"},
	} {
		t.Run(row.what, func(t *testing.T) {
			db, c, d := hashedDB(t)
			row.damage(db, c, d)
			r := verifyNow(t, db)
			if r.OK() != (row.says == "") || !strings.Contains(strings.Join(r.Problems, "\n"), row.says) {
				t.Errorf("%+v; want %q", r, row.says)
			}
		})
	}
}

// TestVerifyEnds: it stops with its context, keeps to its rate, and tells how far it is.
func TestVerifyEnds(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	commit(t, db, func(b *Batch) {
		c := newCollection(t, b, "c")
		newDocument(t, b, c, "d", snippet.Owner{}, 4*checkEvery, 0)
	})
	v, err := db.View()
	must(t, err)
	defer v.Close()
	var rows int64
	start := time.Now()
	const bytes, rate = 40_000, 200_000 // there are more bytes than that
	r, err := v.Verify(context.Background(), VerifyOptions{BytesPerSecond: rate, Progress: func(n, _ int64) { rows = n }})
	must(t, err)
	if !r.OK() || rows < 4*checkEvery || r.Rows < rows || r.Bytes < bytes {
		t.Errorf("%+v, told of %d rows", r, rows)
	}
	if took, least := time.Since(start), bytes*time.Second/rate; took < least {
		t.Errorf("it took %v, at least %v at that rate", took, least)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := v.Verify(ctx, VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	slow, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer stop()
	if _, err := v.Verify(slow, VerifyOptions{BytesPerSecond: 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it waits for its rate: %v", err)
	}
}

// TestHashIsOfTheState: other orders and other ways to the same rows give the
// same hash, an empty state has none, and points are kept across a reopening.
func TestHashIsOfTheState(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, filepath.Join(dir, "a"), small())
	hashOf := func(db *DB) snippet.Sum {
		v, err := db.View()
		must(t, err)
		defer v.Close()
		sum, _, err := v.StateHash()
		must(t, err)
		return sum
	}
	if !hashOf(db).IsZero() {
		t.Error("an empty state has a hash")
	}
	commit(t, db, func(b *Batch) { b.PutSystem("x", []byte("1")) })
	one := hashOf(db)
	commit(t, db, func(b *Batch) { b.PutSystem("y", []byte("2")) })
	two := hashOf(db)
	other := openDB(t, filepath.Join(dir, "b"), small())
	commit(t, other, func(b *Batch) {
		b.PutSystem("y", []byte("wrong"))
		b.PutSystem("z", []byte("3"))
		b.PutSystem("y", []byte("2"))
	})
	commit(t, other, func(b *Batch) {
		b.DeleteSystem("z")
		b.DeleteSystem("never there")
		b.PutSystem("x", []byte("1"))
	})
	if hashOf(other) != two || one == two || one.IsZero() {
		t.Errorf("hashes %v, %v, %v", one, two, hashOf(other))
	}
	for i := range MaxPoints + 3 {
		at := Position{Index: uint64(100 + i), Term: 2}
		b := db.NewBatch()
		b.PutSystem("i", binary.BigEndian.AppendUint64(nil, uint64(i)))
		b.MarkPoint(at)
		must(t, db.Commit(b, at))
		b.Destroy()
	}
	must(t, db.Close())
	db = openDB(t, filepath.Join(dir, "a"), small())
	v, err := db.View()
	must(t, err)
	defer v.Close()
	sum, points, err := v.StateHash()
	must(t, err)
	if last := (Point{Position: Position{Index: 102 + MaxPoints, Term: 2}, Sum: sum}); len(points) != MaxPoints || points[MaxPoints-1] != last || points[0].Index != 103 {
		t.Errorf("%d points, from %v to %v, want to %v", len(points), points[0], points[len(points)-1], last)
	}
}

// TestOldFormatIsRefused with what to do.
func TestOldFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir, small())
	w := newRep(nil)
	w.put(db.n.families[cfMeta].id, keyFormat, []byte{0, 0, 0, 1})
	must(t, db.n.writeRep(w.bytes()))
	must(t, db.Close())
	_, err := Open(dir, small(), newShared(t, small()))
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "empty the data directory") {
		t.Errorf("a directory of format 1: %v", err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
