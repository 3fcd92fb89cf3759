package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snipdb/snipdb/storage/snippet"
)

// TestCommitRules holds S1 and S2, and that a batch is committed once.
func TestCommitRules(t *testing.T) {
	dir := t.TempDir()
	o := small()
	s := newShared(t, o)
	db, err := Open(dir, o, s)
	must(t, err)
	if p := db.Position(); p != (Position{}) {
		t.Errorf("a new database is at %s", p)
	}
	b := db.NewBatch()
	b.PutSystem("k", []byte("v"))
	must(t, db.Commit(b, Position{5, 2}))
	if err := db.Commit(b, Position{6, 2}); !errors.Is(err, errCommitted) {
		t.Errorf("a batch was committed twice: %v", err)
	}
	if _, err := b.System("k"); !errors.Is(err, errCommitted) {
		t.Errorf("a committed batch reads: %v", err)
	}
	b.Destroy()
	if err := db.Commit(b, Position{6, 2}); !errors.Is(err, ErrClosed) {
		t.Errorf("a destroyed batch was committed: %v", err)
	}
	b = db.NewBatch()
	if err := db.Commit(b, Position{4, 3}); !errors.Is(err, ErrPosition) {
		t.Errorf("S2: the position went back: %v", err)
	}
	// A batch without writes moves the position.
	must(t, db.Commit(b, Position{7, 3}))
	b.Destroy()
	// A batch that began before another was committed has read an old state.
	stale, other := db.NewBatch(), db.NewBatch()
	must(t, db.Commit(other, Position{8, 3}))
	other.Destroy()
	if err := db.Commit(stale, Position{9, 3}); err == nil {
		t.Error("a stale batch was committed")
	}
	stale.Destroy()
	bad := db.NewBatch()
	bad.Rollback(3)
	if err := db.Commit(bad, Position{9, 3}); err == nil {
		t.Error("a batch with a failed call was committed")
	}
	bad.Destroy()
	must(t, db.Close())

	ro := o
	ro.ReadOnly = true
	db, err = Open(dir, ro, s)
	must(t, err)
	if p := db.Position(); p != (Position{8, 3}) {
		t.Errorf("S1: the position after opening is %s", p)
	}
	b = db.NewBatch()
	if err := db.Commit(b, Position{10, 3}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("a commit to a database open for reading: %v", err)
	}
	b.Destroy()
	must(t, db.Close())
}

// TestFormats refuses what this release can't understand.
func TestFormats(t *testing.T) {
	o := small()
	s := newShared(t, o)
	t.Run("another version", func(t *testing.T) {
		dir := t.TempDir()
		db, err := Open(dir, o, s)
		must(t, err)
		w := newRep(nil)
		w.put(0, keyFormat, []byte{0, 0, 0, 99})
		must(t, db.n.writeRep(w.bytes()))
		must(t, db.Close())
		if _, err := Open(dir, o, s); !errors.Is(err, ErrFormat) {
			t.Errorf("opened: %v", err)
		}
	})
	t.Run("rows without a format", func(t *testing.T) {
		dir := t.TempDir()
		db, err := Open(dir, o, s)
		must(t, err)
		w := newRep(nil)
		w.delete(0, keyFormat)
		w.put(0, []byte("x"), nil)
		must(t, db.n.writeRep(w.bytes()))
		must(t, db.Close())
		if _, err := Open(dir, o, s); !errors.Is(err, ErrFormat) {
			t.Errorf("opened: %v", err)
		}
	})
	t.Run("corrupt position", func(t *testing.T) {
		dir := t.TempDir()
		db, err := Open(dir, o, s)
		must(t, err)
		w := newRep(nil)
		w.put(0, keyPosition, []byte("short"))
		must(t, db.n.writeRep(w.bytes()))
		must(t, db.Close())
		if _, err := Open(dir, o, s); !errors.Is(err, ErrCorrupt) {
			t.Errorf("opened: %v", err)
		}
	})
	t.Run("corrupt file", func(t *testing.T) {
		dir := t.TempDir()
		db, err := Open(dir, o, s)
		must(t, err)
		must(t, db.Close())
		must(t, os.WriteFile(filepath.Join(dir, "CURRENT"), []byte("MANIFEST-999999\n"), 0o640))
		if db, err := Open(dir, o, s); err == nil {
			must(t, db.Close())
			t.Error("opened with a damaged CURRENT")
		}
	})
}

// TestMissingRows reports rows that must exist as corruption, with the names.
func TestMissingRows(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	var c *snippet.Collection
	var docs []*snippet.Document
	commit(t, db, func(b *Batch) {
		c = newCollection(t, b, "c")
		for i := range 4 {
			docs = append(docs, newDocument(t, b, c, fmt.Sprint("d", i), snippet.Owner{}, 5, 3))
		}
	})
	commit(t, db, func(b *Batch) {
		b.delete(cfSnippetMeta, appendSnippetKey(nil, c.ID, docs[0], 4))
		b.delete(cfText, appendSnippetKey(nil, c.ID, docs[1], 2))
		b.delete(cfVectors, appendSnippetKey(nil, c.ID, docs[2], 0))
		b.delete(cfDocs, appendDocumentKey(nil, c.ID, "d3"))
	})
	v, err := db.View()
	must(t, err)
	defer v.Close()
	for i, bad := range []int{4, 2, 0} {
		for _, limit := range []int{0, 1} { // by scan and by key
			_, err := v.Snippets(context.Background(), c.ID, docs[i], bad*limit, limit, true)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprint("snippet ", bad)) {
				t.Errorf("document %d with limit %d: %v", i, limit, err)
			}
		}
	}
	if _, err := v.Documents(context.Background(), c.ID, snippet.ListQuery{Order: snippet.ByCreated}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a listing row without its document: %v", err)
	}
}

// TestLargeDocument deletes by range what is too much for single deletions,
// and sees that in the batch and after it.
func TestLargeDocument(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	const n = maxPointDeletes + 50
	var c *snippet.Collection
	var d, other *snippet.Document
	commit(t, db, func(b *Batch) {
		c = newCollection(t, b, "c")
		d = newDocument(t, b, c, "d", snippet.Owner{}, n, 2)
		other = newDocument(t, b, c, "e", snippet.Owner{}, 3, 2)
	})
	commit(t, db, func(b *Batch) {
		sp := b.Savepoint()
		must(t, b.DeleteDocument(c.ID, d))
		if m, err := b.SnippetMeta(c.ID, d, n-1); m != nil || err != nil {
			t.Errorf("the deleted snippet is %v, %v", m, err)
		}
		b.Rollback(sp)
		if m, err := b.SnippetMeta(c.ID, d, n-1); m == nil || err != nil {
			t.Errorf("after the rollback the snippet is %v, %v", m, err)
		}
		must(t, b.DeleteDocument(c.ID, d))
		// The same range may be written again within the batch.
		s := &snippet.Snippet{Index: 1, Content: "again"}
		must(t, b.PutSnippet(c.ID, d, s, true))
		if got, err := b.Snippet(c.ID, d, 1, true); err != nil || got == nil || got.Content != "again" {
			t.Errorf("written after the range deletion: %v, %v", got, err)
		}
		must(t, b.DeleteSnippet(c.ID, d, 1))
	})
	v, err := db.View()
	must(t, err)
	defer v.Close()
	rows := 0
	must(t, v.Dump(context.Background(), func(cf, _, _ []byte) error {
		if strings.HasPrefix(string(cf), "snippet") || string(cf) == "embeddings" {
			rows++
		}
		return nil
	}))
	if rows != 3*other.SnippetCount {
		t.Errorf("%d rows are left, want those of the other document", rows)
	}
}

// TestDeleteCollection deletes by range: the batch sees nothing of it at
// once, by key and by scan, and a collection made again begins anew.
func TestDeleteCollection(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	o := snippet.Owner{Type: "a", ID: "x"}
	var c *snippet.Collection
	var d *snippet.Document
	commit(t, db, func(b *Batch) {
		c = newCollection(t, b, "c")
		d = newDocument(t, b, c, "d", o, 2, 2)
	})
	commit(t, db, func(b *Batch) {
		newDocument(t, b, c, "e", o, 2, 2)
		must(t, b.DeleteCollection(c))
		must(t, b.DeleteCollection(c)) // the second time there is nothing to do
		ids, _, err := b.OwnerDocuments(c.ID, o, 10)
		got, err2 := b.Document(c.ID, "d")
		m, err3 := b.SnippetMeta(c.ID, d, 0)
		n, err4 := b.CollectionCount()
		if err := errors.Join(err, err2, err3, err4); err != nil || len(ids) != 0 || got != nil || m != nil || n != 0 {
			t.Errorf("after the deletion: %v %v %v %d collections, %v", ids, got, m, n, err)
		}
		again := newCollection(t, b, "c")
		if ordinal, err := b.NewOrdinal(again); err != nil || ordinal != 1 || again.ID == c.ID {
			t.Errorf("made again: %+v, ordinal %d, %v", again, ordinal, err)
		}
	})
}

// TestCheckpointWhileWriting takes checkpoints under load: each is a state
// that was committed, complete, and verifies.
func TestCheckpointWhileWriting(t *testing.T) {
	o := small()
	db := openDB(t, t.TempDir(), o)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		var c *snippet.Collection
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			commit(t, db, func(b *Batch) {
				if c == nil {
					c = newCollection(t, b, "c")
					b.PutSystem(SystemClusterID, []byte("cluster-1"))
				}
				newDocument(t, b, c, fmt.Sprint(i), snippet.Owner{}, 2, 256)
				b.PutSystem("last", fmt.Append(nil, i))
			})
		}
	}()
	root := t.TempDir()
	for i := range 5 {
		before := db.Position().Index
		eventually(t, "some commits", func() bool { return db.Position().Index > before+20 })
		dir := filepath.Join(root, fmt.Sprint(i))
		must(t, db.Checkpoint(dir))
		p, clusterID, err := VerifyCheckpoint(dir, o)
		must(t, err)
		if p.Index <= before || clusterID != "cluster-1" {
			t.Errorf("checkpoint at %s of %q, before it was %d", p, clusterID, before)
		}
		ro := o
		ro.ReadOnly = true
		cp, err := Open(dir, ro, newShared(t, o))
		must(t, err)
		v, err := cp.View()
		must(t, err)
		last, err := v.System("last")
		must(t, err)
		c, err := v.Collection("c")
		must(t, err)
		d, err := v.Document(c.ID, string(last))
		must(t, err)
		if string(last) != fmt.Sprint(p.Index) || d == nil {
			t.Errorf("checkpoint at %s: last %s, document %v", p, last, d)
		}
		v.Close()
		must(t, cp.Close())
	}
	close(stop)
	<-done
}

// TestConcurrentReaders reads while the writer writes: every view is one
// state. Run it with -race.
func TestConcurrentReaders(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, err := db.View()
				if err != nil {
					t.Error(err)
					return
				}
				a, err1 := v.System("a")
				b, err2 := v.System("b")
				rows, err3 := v.SystemPrefix("")
				if err := errors.Join(err1, err2, err3); err != nil || string(a) != string(b) || len(rows) > 2 ||
					(a != nil && string(a) != fmt.Sprint(v.Position().Index)) {
					t.Errorf("S4: a is %s, b is %s at %s, %v", a, b, v.Position(), err)
				}
				v.Close()
			}
		}()
	}
	for i := 1; i <= 2000; i++ {
		commit(t, db, func(b *Batch) {
			b.PutSystem("a", fmt.Append(nil, i))
			b.PutSystem("b", fmt.Append(nil, i))
		})
	}
	close(stop)
	wg.Wait()
}

// TestCloseWaits holds S6: views, then batches, keep the database open.
func TestCloseWaits(t *testing.T) {
	o := small()
	s := newShared(t, o)
	db, err := Open(t.TempDir(), o, s)
	must(t, err)
	putSystem(t, db, "k", "v")
	v, err := db.View()
	must(t, err)
	b := db.NewBatch()
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	eventually(t, "no new view is let in", func() bool {
		late, err := db.View()
		late.Close()
		return errors.Is(err, ErrClosed)
	})
	if got, err := v.System("k"); err != nil || string(got) != "v" {
		t.Errorf("a view during Close reads %q, %v", got, err)
	}
	if got, err := b.System("k"); err != nil || string(got) != "v" {
		t.Errorf("a batch during Close reads %q, %v", got, err)
	}
	v.Close()
	select {
	case err := <-closed:
		t.Fatalf("Close did not wait for the batch: %v", err)
	default:
	}
	b.Destroy()
	must(t, <-closed)

	// A view that is never closed: Close gives up and says so.
	o.CloseTimeout = 20 * time.Millisecond
	db, err = Open(t.TempDir(), o, s)
	must(t, err)
	v, err = db.View()
	must(t, err)
	if err := db.Close(); err == nil || !strings.Contains(err.Error(), "1 users") {
		t.Errorf("Close with an open view: %v", err)
	}
	v.Close()
	db.n.close() // what the process's end would do
}

// TestProperties checks that the linked RocksDB has every property that Stats
// asks for, and that the figures move.
func TestProperties(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	for _, name := range []string{"is-write-stopped", "actual-delayed-write-rate", "num-running-compactions", "num-running-flushes",
		"background-errors", "num-snapshots", "oldest-snapshot-time"} {
		if _, ok := db.n.db.GetIntProperty("rocksdb." + name); !ok {
			t.Errorf("RocksDB has no property %s", name)
		}
	}
	for _, name := range []string{"num-immutable-mem-table", "cur-size-all-mem-tables", "estimate-pending-compaction-bytes",
		"live-sst-files-size", "live-blob-file-size", "estimate-num-keys", "num-blob-files", "live-blob-file-garbage-size",
		"estimate-table-readers-mem"} {
		if _, ok := db.n.db.GetIntPropertyCF("rocksdb."+name, db.n.families[cfVectors].h); !ok {
			t.Errorf("RocksDB has no property %s", name)
		}
	}
	commit(t, db, func(b *Batch) {
		c := newCollection(t, b, "c")
		newDocument(t, b, c, "d", snippet.Owner{}, 100, 1024)
	})
	before, err := db.Stats()
	must(t, err)
	must(t, db.Flush())
	v, err := db.View()
	must(t, err)
	defer v.Close()
	if _, err := v.Collection("c"); err != nil {
		t.Fatal(err)
	}
	s, err := db.Stats()
	must(t, err)
	if before.MemtableBytes < 100*4096 || s.BlobBytes < 100*4096 || s.BlobFiles != 1 || s.LiveSSTBytes == 0 || s.L0Files == 0 ||
		s.Snapshots != 1 || s.BlockCacheCapacityBytes == 0 || s.Pressure <= 0 || s.Pressure >= 1 || s.Stall != "none" || len(s.Options) < 40 {
		t.Errorf("stats after a flush: %+v", s)
	}
	if s.DataBytes() != s.LiveSSTBytes+s.BlobBytes+s.MemtableBytes || before.DataBytes() < 100*4096 || s.Families["embeddings"].BlobBytes != s.BlobBytes {
		t.Errorf("the sums of the stats are wrong: %+v", s)
	}
}

// TestPressure makes RocksDB slow and stop writes by its level-0 files.
func TestPressure(t *testing.T) {
	o := small()
	o.Overrides = map[string]string{"level0_file_num_compaction_trigger": "4", "level0_slowdown_writes_trigger": "4", "level0_stop_writes_trigger": "50",
		"rate_limiter_bytes_per_sec": "1KiB"}
	db := openDB(t, t.TempDir(), o)
	last := 0.0
	for i := range 4 {
		commit(t, db, func(b *Batch) { b.PutSystem(fmt.Sprint(i), []byte("v")) })
		must(t, db.n.flush())
		s, err := db.Stats()
		must(t, err)
		if s.L0Files > 0 && s.L0Files < 4 && s.Pressure < last {
			t.Errorf("the pressure fell from %v to %v with %d files", last, s.Pressure, s.L0Files)
		}
		last = s.Pressure
	}
	l := db.limits
	for _, c := range []struct {
		f    FamilyStats
		want float64
	}{{FamilyStats{}, 0}, {FamilyStats{L0Files: 4}, 1}, {FamilyStats{L0Files: 2}, 0.5}, {FamilyStats{ImmutableMemtables: 3}, 1},
		{FamilyStats{PendingBytes: 8 << 30}, 1}} {
		if got := l.pressure(cfDocs, c.f); got != c.want {
			t.Errorf("pressure of %+v is %v, want %v", c.f, got, c.want)
		}
	}
}
