package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/storage"
)

// storageCollector asks RocksDB for its figures at each scrape. It is here and
// not in storage, which knows nothing of Prometheus: what it says of itself is
// a plain struct, that the status uses as well.
type storageCollector struct {
	store  *storage.Store
	gauges []storageGauge
	stall  *prometheus.Desc
	family []familyGauge
	detail []detailMetric
}

type storageGauge struct {
	desc  *prometheus.Desc
	value func(*storage.Stats) float64
}

type familyGauge struct {
	desc  *prometheus.Desc
	value func(*storage.FamilyStats) float64
}

// The stall conditions, as the values of the label "condition".
var stallConditions = []string{"none", "slowdown", "stop"}

func newStorageCollector(store *storage.Store) *storageCollector {
	c := &storageCollector{store: store, stall: prometheus.NewDesc("snipdb_storage_stall",
		"1 for the condition that RocksDB's writes are in now, 0 for the others.", []string{"condition"}, nil)}
	gauge := func(name, help string, value func(*storage.Stats) float64) {
		c.gauges = append(c.gauges, storageGauge{prometheus.NewDesc("snipdb_storage_"+name, help, nil, nil), value})
	}
	gauge("pressure_ratio", "How near RocksDB is to slowing writes down: 1 is there.", func(s *storage.Stats) float64 { return s.Pressure })
	gauge("delayed_write_bytes_per_second", "The rate to which RocksDB slows writes; 0 if it does not.", func(s *storage.Stats) float64 { return float64(s.DelayedWriteRate) })
	gauge("l0_files", "Level-0 files of the column family that has most.", func(s *storage.Stats) float64 { return float64(s.L0Files) })
	gauge("pending_compaction_bytes", "Bytes that compaction has yet to rewrite, estimated.", func(s *storage.Stats) float64 { return float64(s.PendingBytes) })
	gauge("memtable_bytes", "Bytes in memtables.", func(s *storage.Stats) float64 { return float64(s.MemtableBytes) })
	gauge("immutable_memtables", "Memtables that wait for their flush, of the column family that has most.", func(s *storage.Stats) float64 { return float64(s.ImmutableMemtables) })
	gauge("block_cache_bytes", "Bytes in the block cache.", func(s *storage.Stats) float64 { return float64(s.BlockCacheBytes) })
	gauge("block_cache_pinned_bytes", "Bytes of the block cache that are in use.", func(s *storage.Stats) float64 { return float64(s.BlockCachePinnedBytes) })
	gauge("block_cache_capacity_bytes", "What the block cache may hold.", func(s *storage.Stats) float64 { return float64(s.BlockCacheCapacityBytes) })
	gauge("live_sst_bytes", "Bytes of live SST files.", func(s *storage.Stats) float64 { return float64(s.LiveSSTBytes) })
	gauge("blob_bytes", "Bytes of blob files, which hold the embeddings.", func(s *storage.Stats) float64 { return float64(s.BlobBytes) })
	gauge("blob_garbage_bytes", "Bytes of blob files that nothing refers to any more.", func(s *storage.Stats) float64 { return float64(s.BlobGarbageBytes) })
	gauge("blob_files", "Live blob files.", func(s *storage.Stats) float64 { return float64(s.BlobFiles) })
	gauge("running_compactions", "Compactions that run now.", func(s *storage.Stats) float64 { return float64(s.RunningCompactions) })
	gauge("running_flushes", "Flushes that run now.", func(s *storage.Stats) float64 { return float64(s.RunningFlushes) })
	gauge("background_errors", "Errors of RocksDB's background work since the start.", func(s *storage.Stats) float64 { return float64(s.BackgroundErrors) })
	gauge("idempotency_keys", "Answers kept for idempotency keys, estimated.", func(s *storage.Stats) float64 { return float64(s.IdempotencyKeys) })
	gauge("open_views", "Read views that are open now.", func(s *storage.Stats) float64 { return float64(s.Snapshots) })
	gauge("oldest_view_timestamp_seconds", "When the oldest open view was made, Unix time; 0 for none.", func(s *storage.Stats) float64 { return float64(s.OldestSnapshotUnixS) })
	gauge("native_objects", "C objects of this process that are not freed yet.", func(*storage.Stats) float64 { return float64(storage.LiveObjects()) })
	family := func(name, help string, value func(*storage.FamilyStats) float64) {
		c.family = append(c.family, familyGauge{prometheus.NewDesc("snipdb_storage_family_"+name, help, []string{"family"}, nil), value})
	}
	family("l0_files", "Level-0 files of a column family.", func(f *storage.FamilyStats) float64 { return float64(f.L0Files) })
	family("pending_compaction_bytes", "Bytes that compaction has yet to rewrite in a column family, estimated.", func(f *storage.FamilyStats) float64 { return float64(f.PendingBytes) })
	family("memtable_bytes", "Bytes in memtables of a column family.", func(f *storage.FamilyStats) float64 { return float64(f.MemtableBytes) })
	family("immutable_memtables", "Memtables of a column family that wait for their flush.", func(f *storage.FamilyStats) float64 { return float64(f.ImmutableMemtables) })
	family("live_sst_bytes", "Bytes of live SST files of a column family.", func(f *storage.FamilyStats) float64 { return float64(f.LiveSSTBytes) })
	family("blob_bytes", "Bytes of blob files of a column family.", func(f *storage.FamilyStats) float64 { return float64(f.BlobBytes) })
	family("keys", "Keys of a column family, estimated.", func(f *storage.FamilyStats) float64 { return float64(f.EstimatedKeys) })
	c.detail = detailMetrics()
	return c
}

// Describe names the metrics.
func (c *storageCollector) Describe(to chan<- *prometheus.Desc) {
	to <- c.stall
	for _, g := range c.gauges {
		to <- g.desc
	}
	for _, g := range c.family {
		to <- g.desc
	}
	for _, m := range c.detail {
		to <- m.desc
	}
}

// Collect reads the figures once and sends them all. A store that is closed
// has none.
func (c *storageCollector) Collect(to chan<- prometheus.Metric) {
	s, err := stats(c.store)
	if err != nil {
		return
	}
	for _, condition := range stallConditions {
		value := 0.0
		if s.Stall == condition {
			value = 1
		}
		to <- prometheus.MustNewConstMetric(c.stall, prometheus.GaugeValue, value, condition)
	}
	for _, g := range c.gauges {
		to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(&s))
	}
	for name, f := range s.Families {
		for _, g := range c.family {
			to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(&f), name)
		}
	}
	// Without them the scrape still has the figures above.
	if d, err := detail(c.store); err == nil {
		collectDetail(c.detail, &d, to)
	}
}
