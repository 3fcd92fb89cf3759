package storage

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/storage/snippet"
)

// fill writes a state that can be told from others by its tag.
func fill(tb testing.TB, db *DB, tag string, at Position) {
	tb.Helper()
	b := db.NewBatch()
	defer b.Destroy()
	b.PutSystem(SystemClusterID, []byte("cluster-1"))
	b.PutSystem("tag", []byte(tag))
	c := newCollection(tb, b, "c")
	for i := range 20 {
		newDocument(tb, b, c, fmt.Sprintf("%s-%d", tag, i), snippet.Owner{}, 3, 256)
	}
	must(tb, db.Commit(b, at))
}

// scratchOf makes a scratch of the store that holds a state with the tag.
func scratchOf(tb testing.TB, st *Store, tag string, at Position) string {
	tb.Helper()
	o := small()
	s, err := NewShared(o)
	must(tb, err)
	defer s.Close()
	db, err := Open(filepath.Join(tb.TempDir(), "db"), o, s)
	must(tb, err)
	fill(tb, db, tag, at)
	dir, err := st.NewScratch()
	must(tb, err)
	must(tb, os.Remove(dir)) // a checkpoint makes its directory itself
	must(tb, db.Checkpoint(dir))
	must(tb, db.Close())
	return dir
}

func tagOf(tb testing.TB, v *View) string {
	tb.Helper()
	b, err := v.System("tag")
	must(tb, err)
	return string(b)
}

func liveTag(tb testing.TB, st *Store) string {
	tb.Helper()
	v, err := st.View()
	must(tb, err)
	defer v.Close()
	return tagOf(tb, v)
}

// TestInstall replaces the live database under readers.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	o := small()
	st := openStore(t, dir, o)
	db, release := st.DB()
	fill(t, db, "old", Position{10, 1})
	old, err := st.View()
	must(t, err)
	before := dump(t, old)

	must(t, st.Install(scratchOf(t, st, "new", Position{500, 7})))
	if p := st.Position(); p != (Position{500, 7}) || liveTag(t, st) != "new" {
		t.Errorf("after Install: %s, %q", p, liveTag(t, st))
	}
	// The old state is still there for those who hold it.
	if tagOf(t, old) != "old" || old.Position() != (Position{10, 1}) || len(dump(t, old)) != len(before) {
		t.Error("a view held across Install reads another state")
	}
	if names, err := st.Databases(); err != nil || len(names) != 2 {
		t.Errorf("databases while the old one is read: %v, %v", names, err)
	}
	old.Close()
	if names, _ := st.Databases(); len(names) != 2 {
		t.Errorf("the old database went while it was pinned: %v", names)
	}
	release()
	release() // more calls do nothing
	eventually(t, "the old database is deleted", func() bool {
		names, err := st.Databases()
		return err == nil && len(names) == 1
	})
	live, free := st.DB()
	putSystem(t, live, "tag", "newer")
	free()
	must(t, st.Close())
	st = openStore(t, dir, o)
	if liveTag(t, st) != "newer" || st.Position() != (Position{501, 1}) {
		t.Errorf("after a restart: %q at %s", liveTag(t, st), st.Position())
	}
}

// spoiled are the ways in which a scratch can be bad.
var spoiled = map[string]func(t *testing.T, st *Store, scratch string){
	"empty": func(t *testing.T, _ *Store, scratch string) {
		must(t, os.RemoveAll(scratch))
		must(t, os.Mkdir(scratch, 0o750))
	},
	"absent": func(t *testing.T, _ *Store, scratch string) { must(t, os.RemoveAll(scratch)) },
	"missing table": func(t *testing.T, _ *Store, scratch string) {
		must(t, os.Remove(one(t, scratch, "*.sst")))
	},
	"missing blob file": func(t *testing.T, _ *Store, scratch string) {
		must(t, os.Remove(one(t, scratch, "*.blob")))
	},
	"missing manifest": func(t *testing.T, _ *Store, scratch string) {
		must(t, os.Remove(one(t, scratch, "MANIFEST-*")))
	},
	"corrupt table":    func(t *testing.T, _ *Store, scratch string) { flip(t, one(t, scratch, "*.sst"), 30) },
	"corrupt blob":     func(t *testing.T, _ *Store, scratch string) { flip(t, one(t, scratch, "*.blob"), -100) },
	"corrupt manifest": func(t *testing.T, _ *Store, scratch string) { flip(t, one(t, scratch, "MANIFEST-*"), 20) },
	"truncated table": func(t *testing.T, _ *Store, scratch string) {
		must(t, os.Truncate(one(t, scratch, "*.sst"), 100))
	},
	"a link in it": func(t *testing.T, _ *Store, scratch string) {
		must(t, os.Symlink("/etc/passwd", filepath.Join(scratch, "000000.sst")))
	},
}

// TestInstallFails makes every step of Install fail, and hands it bad
// scratches: the old state stays, for readers, for the writer, and after a
// restart; nothing is left behind.
func TestInstallFails(t *testing.T) {
	stop := errors.New("stopped by the test")
	cases := maps.Clone(spoiled)
	for _, step := range []string{"verify", "sync", "rename", "open", "sync dir", "pointer", "swap"} {
		cases["step "+step] = func(_ *testing.T, st *Store, _ string) {
			st.step = func(name string) error {
				if name == step {
					return stop
				}
				return nil
			}
		}
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			dir, o := t.TempDir(), small()
			base := LiveObjects()
			s, err := NewShared(o)
			must(t, err)
			st, err := OpenStore(dir, o, s)
			must(t, err)
			db, release := st.DB()
			fill(t, db, "old", Position{10, 1})
			scratch := scratchOf(t, st, "new", Position{500, 7})
			view, err := st.View()
			must(t, err)
			spoil(t, st, scratch)
			if err := st.Install(scratch); err == nil {
				t.Fatal("it was installed")
			} else if strings.HasPrefix(name, "step") && !errors.Is(err, stop) {
				t.Errorf("the error is %v", err)
			}
			if tagOf(t, view) != "old" || liveTag(t, st) != "old" {
				t.Error("the old state is gone")
			}
			view.Close()
			putSystem(t, db, "after", "x")
			release()
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != 2 {
				t.Errorf("left behind: %v", entries)
			}
			must(t, st.Close())
			st, err = OpenStore(dir, o, s)
			must(t, err)
			if liveTag(t, st) != "old" || st.Position().Index != 11 {
				t.Errorf("after a restart: %q at %s", liveTag(t, st), st.Position())
			}
			// The store can still install.
			must(t, st.Install(scratchOf(t, st, "new", Position{500, 7})))
			if liveTag(t, st) != "new" {
				t.Error("a good scratch was not installed")
			}
			must(t, st.Close())
			s.Close()
			if n := LiveObjects() - base; n != 0 {
				t.Errorf("%d C objects are left", n)
			}
		})
	}
}

// one returns the largest file that matches.
func one(t *testing.T, dir, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	must(t, err)
	best, size := "", int64(-1)
	for _, n := range names {
		if fi, err := os.Stat(n); err == nil && fi.Size() > size {
			best, size = n, fi.Size()
		}
	}
	if best == "" {
		t.Fatalf("there is no %s", pattern)
	}
	return best
}

// flip changes one byte, counted from the end if at is negative. The file is
// copied first: a checkpoint's files are links to the database's own.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0xff
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, b, 0o640))
}

// TestInstallRefuses takes no directory that is not its own scratch.
func TestInstallRefuses(t *testing.T) {
	st := openStore(t, t.TempDir(), small())
	for _, dir := range []string{"", "/", st.dir, filepath.Join(st.dir, "db-1"), filepath.Join(t.TempDir(), "restore-1"), filepath.Join(st.dir, "restore-1", "..", "db-1")} {
		if err := st.Install(dir); err == nil {
			t.Errorf("%q was installed", dir)
		}
	}
	if liveTag(t, st) != "" {
		t.Error("the live database changed")
	}
}

// TestOpenStoreSweeps removes what a crash leaves, and only that.
func TestOpenStoreSweeps(t *testing.T) {
	dir, o := t.TempDir(), small()
	st := openStore(t, dir, o)
	db, release := st.DB()
	fill(t, db, "old", Position{10, 1})
	release()
	_, err := st.NewScratch()
	must(t, err)
	must(t, st.Close())
	must(t, os.MkdirAll(filepath.Join(dir, "db-7", "x"), 0o750))
	must(t, os.WriteFile(filepath.Join(dir, pointerTmp), []byte("db-7"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "note.txt"), nil, 0o640))
	st = openStore(t, dir, o)
	if liveTag(t, st) != "old" {
		t.Error("the live state is gone")
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "CURRENT_DB db-1 note.txt" {
		t.Errorf("the directory holds %s", got)
	}
	scratch, err := st.NewScratch()
	must(t, err)
	if filepath.Base(scratch) != "restore-8" {
		t.Errorf("a number was used again: %s", scratch)
	}
}

// TestOpenStoreRefuses does not guess which database is the live one.
func TestOpenStoreRefuses(t *testing.T) {
	o := small()
	s := newShared(t, o)
	start := func(t *testing.T, commit bool) string {
		dir := t.TempDir()
		st, err := OpenStore(dir, o, s)
		must(t, err)
		if commit {
			db, release := st.DB()
			fill(t, db, "old", Position{10, 1})
			release()
		}
		must(t, st.Close())
		return dir
	}
	for name, c := range map[string]struct {
		commit bool
		spoil  func(dir string) error
		want   error
	}{
		"pointer lost":          {true, func(dir string) error { return os.Remove(filepath.Join(dir, pointerFile)) }, ErrCorrupt},
		"pointer lost, no data": {false, func(dir string) error { return os.Remove(filepath.Join(dir, pointerFile)) }, nil},
		"first open cut short": {false, func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, pointerFile)), os.RemoveAll(filepath.Join(dir, "db-1")), os.Mkdir(filepath.Join(dir, "db-1"), 0o750))
		}, nil},
		"pointer empty":     {true, func(dir string) error { return os.Truncate(filepath.Join(dir, pointerFile), 0) }, ErrCorrupt},
		"pointer elsewhere": {true, func(dir string) error { return os.WriteFile(filepath.Join(dir, pointerFile), []byte("../db-1"), 0o640) }, ErrCorrupt},
		"database gone":     {true, func(dir string) error { return os.RemoveAll(filepath.Join(dir, "db-1")) }, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			dir := start(t, c.commit)
			must(t, c.spoil(dir))
			st, err := OpenStore(dir, o, s)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("opened: %v, want %v", err, c.want)
			}
			if err == nil {
				must(t, st.Close())
			}
		})
	}
}

// TestStoreClose waits for readers, lets no new ones in, and gives up in time.
func TestStoreClose(t *testing.T) {
	o := small()
	s := newShared(t, o)
	st, err := OpenStore(t.TempDir(), o, s)
	must(t, err)
	v, err := st.View()
	must(t, err)
	closed := make(chan error, 1)
	go func() { closed <- st.Close() }()
	eventually(t, "no new view is let in", func() bool {
		late, err := st.View()
		late.Close()
		return errors.Is(err, ErrClosed)
	})
	if db, release := st.DB(); db != nil {
		release()
		t.Error("a closed store gives its database")
	}
	if p := st.Position(); p != (Position{}) {
		t.Errorf("a closed store is at %s", p)
	}
	if _, err := v.System("k"); err != nil {
		t.Errorf("a view during Close: %v", err)
	}
	v.Close()
	must(t, <-closed)
	must(t, st.Close())
	if _, err := st.NewScratch(); !errors.Is(err, ErrClosed) {
		t.Errorf("a scratch of a closed store: %v", err)
	}
	if err := st.Install("x"); !errors.Is(err, ErrClosed) {
		t.Errorf("an install into a closed store: %v", err)
	}

	o.CloseTimeout = 20 * time.Millisecond
	st, err = OpenStore(t.TempDir(), o, s)
	must(t, err)
	v, err = st.View()
	must(t, err)
	if err := st.Close(); err == nil {
		t.Error("a store was closed under a view")
	}
	db := v.db
	v.Close()
	must(t, db.Close()) // what the process's end would do
}

// TestInstallUnderReaders installs again and again while views come and go.
// Run it with -race.
func TestInstallUnderReaders(t *testing.T) {
	st := openStore(t, t.TempDir(), small())
	db, release := st.DB()
	fill(t, db, "0", Position{1, 1})
	release()
	stop := make(chan struct{})
	done := make(chan error, 3)
	for range cap(done) {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				v, err := st.View()
				if err != nil {
					done <- err
					return
				}
				tag, err := v.System("tag")
				if err != nil || fmt.Sprint(v.Position().Index-1) != string(tag) {
					done <- fmt.Errorf("tag %q at %s: %w", tag, v.Position(), errors.Join(err, ErrCorrupt))
					return
				}
				v.Close()
			}
		}()
	}
	for i := 1; i <= 5; i++ {
		must(t, st.Install(scratchOf(t, st, fmt.Sprint(i), Position{uint64(i) + 1, 1})))
	}
	close(stop)
	for range cap(done) {
		must(t, <-done)
	}
	eventually(t, "old databases are deleted", func() bool {
		names, err := st.Databases()
		return err == nil && len(names) == 1
	})
}
