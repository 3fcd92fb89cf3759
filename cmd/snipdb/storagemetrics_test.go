package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
)

func testNodeMetrics() *nodeMetrics {
	now := time.Unix(1000, 0)
	return &nodeMetrics{
		stats: func() error { return nil },
		newest: func() (snapshot.Meta, bool, error) {
			return snapshot.Meta{Index: 7, Size: 8, Taken: now.Add(-time.Minute)}, true, nil
		},
		diskFree: func() (uint64, uint64, error) { return 1, 2, nil },
		memory:   9, now: func() time.Time { return now },
	}
}

func TestNodeMetricsShowTheirSources(t *testing.T) {
	m := testNodeMetrics()
	err := testutil.CollectAndCompare(m, strings.NewReader(`
# HELP snipdb_storage_disk_free_bytes Bytes that this user may still write on the disk of the data directory.
# TYPE snipdb_storage_disk_free_bytes gauge
snipdb_storage_disk_free_bytes 1
# HELP snipdb_storage_snapshot_age_seconds How long ago the newest snapshot was taken; absent without one.
# TYPE snipdb_storage_snapshot_age_seconds gauge
snipdb_storage_snapshot_age_seconds 60
# HELP snipdb_storage_snapshot_index Raft index of the newest snapshot; 0: none.
# TYPE snipdb_storage_snapshot_index gauge
snipdb_storage_snapshot_index 7
`), "snipdb_storage_disk_free_bytes", "snipdb_storage_snapshot_age_seconds", "snipdb_storage_snapshot_index")
	if err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(m); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// A source that fails takes its own figures away, and no others.
func TestNodeMetricsWithoutTheirSources(t *testing.T) {
	m, broken := testNodeMetrics(), errors.New("broken")
	all := testutil.CollectAndCount(m)
	m.newest = func() (snapshot.Meta, bool, error) { return snapshot.Meta{}, false, nil }
	if got := testutil.CollectAndCount(m); got != all-1 {
		t.Errorf("without a snapshot: %d series of %d; only the age is absent", got, all)
	}
	m.stats = func() error { return broken }
	m.newest = func() (snapshot.Meta, bool, error) { return snapshot.Meta{}, false, broken }
	m.diskFree = func() (uint64, uint64, error) { return 0, 0, broken }
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m)
	if got, err := testutil.GatherAndCount(reg); err != nil || got != 5 {
		t.Errorf("without any source: %d series, %v; up, memory and what waits for space are left", got, err)
	}
}

// Every number that storage offers is shown: each figure, set alone, changes
// one of the gauges.
func TestEveryFigureOfRocksDBIsAMetric(t *testing.T) {
	notShown := map[string]string{
		"Stall": "it is a label", "WriteStopped": "it is the condition stop",
		"EstimatedKeys": "the sum of family_keys",
		"Families":      "below", "Options": "words, which the status shows",
	}
	c := newStorageCollector(nil) // it is not scraped
	var s storage.Stats
	for i := range reflect.TypeFor[storage.Stats]().NumField() {
		s = storage.Stats{}
		name := reflect.TypeFor[storage.Stats]().Field(i).Name
		if notShown[name] != "" {
			continue
		}
		set(t, reflect.ValueOf(&s).Elem().Field(i))
		shown := 0
		for _, g := range c.gauges {
			if g.value(&s) == 5 && g.value(&storage.Stats{}) != 5 {
				shown++
			}
		}
		if shown != 1 {
			t.Errorf("%d metrics show storage.Stats.%s", shown, name)
		}
	}
	for i := range reflect.TypeFor[storage.FamilyStats]().NumField() {
		var f storage.FamilyStats
		set(t, reflect.ValueOf(&f).Elem().Field(i))
		shown := 0
		for _, g := range c.family {
			if g.value(&f) == 5 {
				shown++
			}
		}
		if shown != 1 {
			t.Errorf("%d metrics show storage.FamilyStats.%s", shown, reflect.TypeFor[storage.FamilyStats]().Field(i).Name)
		}
	}
}

func set(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Uint64:
		v.SetUint(5)
	case reflect.Float64:
		v.SetFloat(5)
	default:
		t.Fatalf("a figure of kind %s", v.Kind())
	}
}
