package main

import (
	"path/filepath"
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
