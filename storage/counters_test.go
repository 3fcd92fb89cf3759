package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/linxGnu/grocksdb"

	"github.com/snipdb/snipdb/storage/snippet"
)

// readAll reads a document with its vectors, and looks for one that is not there.
func readAll(t *testing.T, db *DB, collection, id string) {
	t.Helper()
	v, err := db.View()
	must(t, err)
	defer v.Close()
	c, err := v.Collection(collection)
	must(t, err)
	d, err := v.Document(c.ID, id)
	must(t, err)
	if _, err := v.Snippets(t.Context(), c.ID, d, 0, 0, true); err != nil {
		t.Fatal(err)
	}
	if d, err := v.Document(c.ID, "absent"); d != nil || err != nil {
		t.Fatal(d, err)
	}
}

func detailOf(t *testing.T, db *DB) Detail {
	t.Helper()
	d, err := db.Detail()
	must(t, err)
	return d
}

// TestDetail sees each figure move with what it is about.
func TestDetail(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	// None but the one below: RocksDB also compacts when a view is closed, to
	// drop what was kept for it.
	for cf := range familyCount {
		must(t, db.n.db.SetOptionsCF(db.n.families[cf].h, []string{"disable_auto_compactions"}, []string{"true"}))
	}
	const vectors = 100 * 4 * 1024
	commit(t, db, func(b *Batch) {
		newDocument(t, b, newCollection(t, b, "c"), "d", snippet.Owner{}, 100, 1024)
	})
	d := detailOf(t, db)
	if d.WALBytes < vectors || d.InfoLogBytes == 0 || d.Counters.UserBytes < vectors || d.Counters.WALBytes < vectors || d.Counters.BlobWrittenBytes != 0 {
		t.Errorf("after a write: %+v %+v", d, d.Counters)
	}
	must(t, db.Flush())
	readAll(t, db, "c", "d")
	d = detailOf(t, db)
	c := *d.Counters
	if c.FlushBytes < vectors || c.BlobWrittenBytes < vectors || c.BlocksCompressed == 0 || d.LevelFiles[0] < 5 || d.LevelBytes[0] == 0 || d.LevelFiles[Levels-1] != 0 {
		t.Errorf("after a flush: %+v %+v", d, c)
	}
	if c.DataMisses == 0 || c.IndexMisses == 0 || c.FilterMisses == 0 || c.BlobMisses < 100 || c.BlobReadBytes < vectors || c.FileOpens == 0 ||
		c.BloomUseful == 0 || c.BloomTruePositives == 0 || c.BloomPositives < c.BloomTruePositives || d.TableReaderBytes == 0 {
		t.Errorf("after a read: %+v %+v", d, c)
	}
	readAll(t, db, "c", "d")
	again := *detailOf(t, db).Counters
	if again.DataMisses != c.DataMisses || again.BlobMisses != c.BlobMisses || again.DataHits <= c.DataHits || again.BlobHits < c.BlobHits+100 {
		t.Errorf("after the same read: %+v, before it %+v", again, c)
	}
	if c.CompactionWrittenBytes != 0 || d.Stalls != (Stalls{}) || c.AddFailures != 0 || c.StallTime != 0 {
		t.Errorf("before a compaction: %+v %+v", d, c)
	}
	commit(t, db, func(b *Batch) { newDocument(t, b, newCollection(t, b, "c2"), "d", snippet.Owner{}, 10, 0) })
	must(t, db.Flush())
	for cf := range familyCount {
		db.n.db.CompactRangeCF(db.n.families[cf].h, grocksdb.Range{})
	}
	d = detailOf(t, db)
	if d.Counters.CompactionReadBytes == 0 || d.Counters.CompactionWrittenBytes == 0 || d.LevelFiles[0] != 0 || d.LevelFiles[Levels-1] == 0 {
		t.Errorf("after a compaction: %+v %+v", d, d.Counters)
	}
	// Indexes and filters of level 0 are pinned and not looked up.
	readAll(t, db, "c", "d")
	readAll(t, db, "c", "d")
	if c := detailOf(t, db).Counters; c.IndexHits == 0 || c.FilterHits == 0 {
		t.Errorf("after reads below level 0: %+v", c)
	}
}

// Counters are of the process: they go on in the next database, leave out what
// is opened for reading only, and are not there with the option off.
func TestCountersAreOfTheProcess(t *testing.T) {
	o, dir := small(), t.TempDir()
	shared := newShared(t, o)
	open := func(o Options) *DB {
		db, err := Open(dir, o, shared)
		must(t, err)
		return db
	}
	db := open(o)
	commit(t, db, func(b *Batch) { newDocument(t, b, newCollection(t, b, "c"), "d", snippet.Owner{}, 10, 16) })
	must(t, db.Flush())
	first := *detailOf(t, db).Counters
	must(t, db.Close())
	if _, err := db.Detail(); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed database says %v", err)
	}
	o.ReadOnly = true
	db = open(o)
	readAll(t, db, "c", "d")
	if c := *detailOf(t, db).Counters; first.UserBytes == 0 || c.UserBytes != first.UserBytes || c.DataHits+c.DataMisses != first.DataHits+first.DataMisses || c.BloomUseful != first.BloomUseful {
		t.Errorf("a database opened for reading: %+v, before it %+v", c, first)
	}
	must(t, db.Close())
	o.ReadOnly = false
	db = open(o)
	readAll(t, db, "c", "d")
	if c := *detailOf(t, db).Counters; c.UserBytes < first.UserBytes || c.DataHits+c.DataMisses == first.DataHits+first.DataMisses {
		t.Errorf("the next database: %+v, before it %+v", c, first)
	}
	must(t, db.Close())

	o.Overrides = map[string]string{"statistics": "false"}
	off := openDB(t, t.TempDir(), o)
	putSystem(t, off, "k", "v")
	if d := detailOf(t, off); d.Counters != nil || d.WALBytes == 0 {
		t.Errorf("with statistics=false: %+v", d)
	}
}

// TestStallsByCause counts what slows and stops writes.
func TestStallsByCause(t *testing.T) {
	o := small()
	o.Overrides = map[string]string{"level0_file_num_compaction_trigger": "2", "level0_slowdown_writes_trigger": "2", "level0_stop_writes_trigger": "1000"}
	db := openDB(t, t.TempDir(), o)
	for range 4 {
		putSystem(t, db, "k", "v")
		must(t, db.Flush())
	}
	if s := detailOf(t, db).Stalls; s.L0Slowdowns == 0 || s.L0Stops != 0 || s.MemtableStops != 0 || s.PendingStops != 0 {
		t.Errorf("with many files in level 0: %+v", s)
	}
}

// A file that is no log of either kind is not counted. RocksDB writes lines to
// LOG and deletes old logs meanwhile, so the files here are far larger: they
// have no blocks on the disk.
func TestDetailCountsLogFiles(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir, small())
	before := detailOf(t, db)
	for name, size := range map[string]int64{"LOG.old.1": 1 * gib, "000000.log": 4 * gib, "LOGS": 16 * gib, "x.sst": 16 * gib} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		must(t, os.Truncate(filepath.Join(dir, name), size))
	}
	after := detailOf(t, db)
	rounded := func(n uint64) uint64 { return (n + gib/2) / gib }
	if rounded(after.WALBytes-before.WALBytes) != 4 || rounded(after.InfoLogBytes-before.InfoLogBytes) != 1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
