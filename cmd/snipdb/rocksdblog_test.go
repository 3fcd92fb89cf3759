package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/cluster"
	"github.com/snipdb/snipdb/cluster/logtest"
	"github.com/snipdb/snipdb/storage"
)

// TestRocksDBLogConforms is here because cluster, which has the suite, knows
// nothing of storage, which has the log.
func TestRocksDBLogConforms(t *testing.T) {
	logtest.Run(t, func(tb testing.TB, dir string) logtest.Store {
		l, err := storage.OpenLog(filepath.Join(dir, "log"), storage.LogOptions{})
		if err != nil {
			tb.Fatal(err)
		}
		return cluster.NewEntryLogStore(l)
	})
}

// TestLogsMigrateBothWays between the two stores that a node can be opened over.
func TestLogsMigrateBothWays(t *testing.T) {
	openBolt := func(name string) cluster.LogStore {
		s, err := cluster.OpenBoltLog(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	l, err := storage.OpenLog(filepath.Join(t.TempDir(), "log"), storage.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rocks := cluster.NewEntryLogStore(l)
	t.Cleanup(func() { _ = rocks.Close() })
	from, back := openBolt("from"), openBolt("back")
	const first, last = 100, 5000
	if err := from.StoreLogs(logtest.Entries(first, last, 7)); err != nil {
		t.Fatal(err)
	}
	if n, err := cluster.MigrateLog(from, rocks); n != last-first+1 || err != nil {
		t.Fatalf("bolt to rocksdb: %d entries, %v", n, err)
	}
	if n, err := cluster.MigrateLog(rocks, back); n != last-first+1 || err != nil {
		t.Fatalf("rocksdb to bolt: %d entries, %v", n, err)
	}
}

// TestTheOtherLogIsRefused: a node must not begin an empty log beside the one
// that it has, and says how to go on.
func TestTheOtherLogIsRefused(t *testing.T) {
	for _, c := range [][2]string{{logStoreBolt, logStoreRocksDB}, {logStoreRocksDB, logStoreBolt}} {
		have, wished := c[0], c[1]
		dir, err := openDataDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dir.close() })
		open := func() {
			t.Helper()
			store, err := dir.openLog(have)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}
		open()
		store, err := dir.openLog(wished)
		if err == nil {
			_ = store.Close()
			t.Fatalf("%s was opened beside %s", wished, have)
		}
		for _, want := range []string{"snipdb migrate-log --to " + wished, "--log-store " + have} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in %q", want, err)
			}
		}
		if exists(dir.logPath(wished)) {
			t.Errorf("the refusal has made %s", dir.logPath(wished))
		}
		open()
		if err := migrateLog(dir, wished, io.Discard); err != nil {
			t.Fatal(err)
		}
		have = wished
		open()
	}
}
