package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
)

// nodeMetrics shows what surrounds the database: the newest snapshot, the
// disk, the memory that the process may use, and whether RocksDB answers at
// all. RocksDB's own figures are storageCollector's.
type nodeMetrics struct {
	stats    func() error
	newest   func() (snapshot.Meta, bool, error)
	diskFree func() (free, total uint64, err error)
	memory   uint64 // bytes that the process may hold; 0: unknown
	now      func() time.Time
}

// newNodeMetrics takes its sources from a server whose storage is open.
func newNodeMetrics(s *server) *nodeMetrics {
	store := s.store
	return &nodeMetrics{
		stats:  func() error { _, err := stats(store); return err },
		newest: s.snapshots.Newest, diskFree: s.dir.free, memory: s.memoryLimit(), now: time.Now,
	}
}

var (
	descStorageUp = prometheus.NewDesc("snipdb_storage_up",
		"1 if RocksDB answers; 0 while it is closed.", nil, nil)
	descSnapshotIndex = prometheus.NewDesc("snipdb_storage_snapshot_index",
		"Raft index of the newest snapshot; 0: none.", nil, nil)
	descSnapshotBytes = prometheus.NewDesc("snipdb_storage_snapshot_bytes",
		"Bytes of the newest snapshot; 0: none.", nil, nil)
	descSnapshotAge = prometheus.NewDesc("snipdb_storage_snapshot_age_seconds",
		"How long ago the newest snapshot was taken; absent without one.", nil, nil)
	descDiskFree = prometheus.NewDesc("snipdb_storage_disk_free_bytes",
		"Bytes that this user may still write on the disk of the data directory.", nil, nil)
	descDiskTotal = prometheus.NewDesc("snipdb_storage_disk_total_bytes",
		"Size of the disk of the data directory.", nil, nil)
	descSpaceWaiting = prometheus.NewDesc("snipdb_storage_space_waiting",
		"Writes that wait for space on a full disk.", nil, nil)
	descSpaceWaits = prometheus.NewDesc("snipdb_storage_space_waits_total",
		"How often a write had to wait for space on a full disk.", nil, nil)
	descMemoryLimit = prometheus.NewDesc("snipdb_process_memory_limit_bytes",
		"Bytes that the process may hold; near it writes are refused. 0: unknown, and none are.", nil, nil)
	descMemoryHeld = prometheus.NewDesc("snipdb_process_held_memory_bytes",
		"Resident bytes of the process without pages of files, which the kernel takes back when it needs them.", nil, nil)
)

// Describe names the metrics.
func (m *nodeMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descStorageUp, descSnapshotIndex, descSnapshotBytes, descSnapshotAge,
		descDiskFree, descDiskTotal, descSpaceWaiting, descSpaceWaits, descMemoryLimit, descMemoryHeld} {
		to <- d
	}
}

// Collect asks every source. What can't be asked now is left out and is no
// error of the scrape: the other figures are needed most when one is missing.
func (m *nodeMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	up := 1.0
	if m.stats() != nil {
		up = 0
	}
	gauge(descStorageUp, up)
	space := storage.SpaceNow()
	gauge(descSpaceWaiting, float64(space.Waiting))
	to <- prometheus.MustNewConstMetric(descSpaceWaits, prometheus.CounterValue, float64(space.Waits))
	gauge(descMemoryLimit, float64(m.memory))
	gauge(descMemoryHeld, float64(heldBytes()))
	if meta, ok, err := m.newest(); err == nil {
		gauge(descSnapshotIndex, float64(meta.Index))
		gauge(descSnapshotBytes, float64(meta.Size))
		if ok {
			gauge(descSnapshotAge, max(0, m.now().Sub(meta.Taken).Seconds()))
		}
	}
	if free, total, err := m.diskFree(); err == nil {
		gauge(descDiskFree, float64(free))
		gauge(descDiskTotal, float64(total))
	}
}
