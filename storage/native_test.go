package storage

import (
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/linxGnu/grocksdb"
)

// TestGrocksdbLayout holds the pinned grocksdb to what handle relies on: the
// first field of each object is its C pointer.
func TestGrocksdbLayout(t *testing.T) {
	for _, v := range []any{grocksdb.DB{}, grocksdb.Options{}, grocksdb.BlockBasedTableOptions{}, grocksdb.ColumnFamilyHandle{},
		grocksdb.ReadOptions{}, grocksdb.WriteOptions{}, grocksdb.Snapshot{}} {
		f := reflect.TypeOf(v).Field(0)
		if f.Name != "c" || f.Type.Kind() != reflect.Pointer || f.Offset != 0 {
			t.Errorf("the first field of %T is %s %s: native.go must be looked at again", v, f.Name, f.Type)
		}
	}
}

func TestVersionCheck(t *testing.T) {
	must(t, CheckLinkedVersion())
	if !strings.HasPrefix(LinkedVersion(), "7.") {
		t.Errorf("linked version %q", LinkedVersion())
	}
	err := checkVersion(8, 1, 1)
	if err == nil || !strings.Contains(err.Error(), "deploy/setup.sh") || !strings.Contains(err.Error(), "8.1.1") {
		t.Errorf("the error for another version does not say what to do: %v", err)
	}
}

// TestChecksum compares this package's CRC-32C with RocksDB's own and with
// Go's, and sees that RocksDB uses it where it should.
func TestChecksum(t *testing.T) {
	data := make([]byte, 5000)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	for _, n := range []int{0, 1, 7, 8, 9, 63, 64, 1000, 4900} {
		for from := range 9 {
			part := data[from:max(from, n)]
			own, ok := crc32c(true, 0, part)
			if want := crc32.Checksum(part, castagnoli); !ok || own != want {
				t.Fatalf("checksum of %d bytes from %d: %x, want %x", n, from, own, want)
			}
			if library, ok := crc32c(false, 0, part); ok && library != own {
				t.Fatalf("RocksDB's checksum of %d bytes from %d is %x, ours %x", n, from, library, own)
			}
			if part, whole := data[:from], data[:from+n]; true {
				first, _ := crc32c(true, 0, part)
				both, _ := crc32c(true, first, whole[from:])
				if want, _ := crc32c(true, 0, whole); both != want {
					t.Fatalf("extended checksum %x, want %x", both, want)
				}
			}
		}
	}
	if runtime.GOARCH == "amd64" && !checksumActive() {
		t.Error("RocksDB computes its checksums itself: writes cost a third more CPU time")
	}
}

// TestScan checks the crossing by chunks: order, bounds, both directions,
// rows larger than the buffer, and early ends.
func TestScan(t *testing.T) {
	db := openDB(t, t.TempDir(), small())
	const n = 1000
	commit(t, db, func(b *Batch) {
		for i := range n {
			value := fmt.Sprint(i)
			if i%100 == 7 {
				value = strings.Repeat("x", 3*scanBufBytes+i)
			}
			b.PutSystem(fmt.Sprintf("k%04d", i), []byte(value))
		}
	})
	for _, c := range []struct{ from, to int }{{0, n}, {0, 0}, {5, 6}, {0, 17}, {900, n}, {7, 8}} {
		for _, flags := range []int{0, scanReverse, scanPast} {
			lo, hi := appendSystemKey(nil, fmt.Sprintf("k%04d", c.from)), appendSystemKey(nil, fmt.Sprintf("k%04d", c.to))
			sc := db.n.newScan(cfMeta, nil, lo, hi, flags, nil)
			for i := c.from; i < c.to; i++ {
				want := i
				if flags&scanReverse != 0 {
					want = c.to - 1 - (i - c.from)
				}
				key, value, ok := sc.next()
				if !ok || string(key[1:]) != fmt.Sprintf("k%04d", want) {
					t.Fatalf("[%d, %d) flags %d: row %q, want %d (%v)", c.from, c.to, flags, key, want, sc.err)
				}
				if want%100 == 7 && len(value) != 3*scanBufBytes+want {
					t.Fatalf("the large value of row %d has %d bytes", want, len(value))
				}
			}
			if key, _, ok := sc.next(); ok || sc.err != nil {
				t.Fatalf("[%d, %d) flags %d: one more row %q, or %v", c.from, c.to, flags, key, sc.err)
			}
			sc.close()
		}
	}
}

// TestFullCache reads through a strict block cache that has no room: every
// read must go past it and give the right answer.
func TestFullCache(t *testing.T) {
	o := small()
	o.Overrides = map[string]string{"block_cache_bytes": "4MiB", "block_size": "4KiB", "compression": "none", "bottommost_compression": "none"}
	dir := t.TempDir()
	s := newShared(t, o)
	db, err := Open(dir, o, s)
	must(t, err)
	const n = 20_000
	commit(t, db, func(b *Batch) {
		for i := range n {
			b.PutSystem(fmt.Sprintf("k%06d", i), []byte(strings.Repeat("v", 1000)))
		}
	})
	must(t, db.Flush())
	// Iterators pin the blocks they stand on: enough of them fill the cache.
	var pins []*scan
	for i := 0; i < n; i += 8 {
		pins = append(pins, db.n.newScan(cfMeta, nil, appendSystemKey(nil, fmt.Sprintf("k%06d", i)), nil, scanKeysOnly, nil))
	}
	full := false
	for i := range n {
		key := appendSystemKey(nil, fmt.Sprintf("k%06d", i))
		if _, err := db.n.getWith(db.n.read, cfMeta, key, nil); errors.Is(err, errCacheFull) {
			full = true
		}
		v, err := db.n.get(cfMeta, nil, key, nil)
		if err != nil || len(v) != 1000 {
			t.Fatalf("read %d past the cache: %d bytes, %v", i, len(v), err)
		}
	}
	if !full {
		t.Error("the cache was never full, so this test shows nothing")
	}
	for _, flags := range []int{0, scanReverse} {
		sc := db.n.newScan(cfMeta, nil, []byte{metaSystem}, []byte{metaSystem + 1}, flags, nil)
		rows := 0
		for _, _, ok := sc.next(); ok; _, _, ok = sc.next() {
			rows++
		}
		if rows != n || sc.err != nil {
			t.Errorf("the scan past the cache (flags %d) gave %d rows, %v", flags, rows, sc.err)
		}
		if sc.flags&scanPast == 0 {
			t.Error("the scan never had to leave the cache, so this test shows nothing")
		}
		sc.close()
	}
	for _, p := range pins {
		p.close()
	}
	must(t, db.Close())
}

// TestNothingLeaks drives the error paths and counts C objects.
func TestNothingLeaks(t *testing.T) {
	base := LiveObjects()
	o := small()
	s, err := NewShared(o)
	must(t, err)
	dir := t.TempDir()
	for range 3 {
		db, err := Open(filepath.Join(dir, "db"), o, s)
		must(t, err)
		if _, err := Open(filepath.Join(dir, "db"), o, s); err == nil {
			t.Fatal("a database was opened twice")
		}
		putSystem(t, db, "k", "v")
		v, err := db.View()
		must(t, err)
		if _, err := v.System("k"); err != nil {
			t.Fatal(err)
		}
		b := db.NewBatch()
		b.PutSystem("x", nil)
		b.Destroy()
		b.Destroy()
		v.Close()
		v.Close()
		if err := db.Checkpoint(filepath.Join(dir, "missing", "dir")); err == nil {
			t.Fatal("a checkpoint into a missing directory")
		}
		must(t, db.Close())
		must(t, db.Close())
		for _, bad := range []func() error{
			func() error { _, err := db.View(); return err },
			func() error { return db.Flush() },
			func() error { _, err := db.Stats(); return err },
			func() error { return db.Checkpoint(filepath.Join(dir, "cp")) },
			func() error { b := db.NewBatch(); defer b.Destroy(); _, err := b.System("k"); return err },
			func() error { _, err := v.System("k"); return err },
		} {
			if err := bad(); !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v, want ErrClosed", err)
			}
		}
	}
	for _, bad := range []string{"missing", "."} {
		if _, _, err := VerifyCheckpoint(filepath.Join(dir, bad), o); err == nil {
			t.Errorf("%s was verified", bad)
		}
	}
	s.Close()
	if _, err := Open(filepath.Join(dir, "other"), o, s); !errors.Is(err, ErrClosed) {
		t.Errorf("opened without shared parts: %v", err)
	}
	if n := LiveObjects(); n != base {
		t.Errorf("%d C objects are left", n-base)
	}
}
