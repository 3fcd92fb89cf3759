package main

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/storage"
)

// detailMetric is a metric of storage.Detail: one series, or one for each value
// of a label. Those of RocksDB's counters are absent while it does not count: a
// 0 would say that nothing happened.
type detailMetric struct {
	desc    *prometheus.Desc
	kind    prometheus.ValueType
	counted bool // from storage.Detail.Counters
	series  []detailSeries
}

type detailSeries struct {
	labels []string
	value  func(d *storage.Detail) float64
}

// detailMetrics lists what a look at each level and at RocksDB's counters gives.
func detailMetrics() []detailMetric {
	return append(append(fileMetrics(), readMetrics()...), writeMetrics()...)
}

// plain is a metric without a label.
func plain(name, help string, kind prometheus.ValueType, value func(*storage.Detail) float64) detailMetric {
	return detailMetric{desc: prometheus.NewDesc("snipdb_storage_"+name, help, nil, nil), kind: kind, series: []detailSeries{{nil, value}}}
}

// counter is one of RocksDB's counters.
func counter(name, help string, value func(*storage.Counters) float64) detailMetric {
	m := plain(name, help, prometheus.CounterValue, func(d *storage.Detail) float64 { return value(d.Counters) })
	m.counted = true
	return m
}

// byLevel has a series for each level.
func byLevel(name, help string, value func(d *storage.Detail, level int) uint64) detailMetric {
	m := detailMetric{desc: prometheus.NewDesc("snipdb_storage_"+name, help, []string{"level"}, nil), kind: prometheus.GaugeValue}
	for level := range storage.Levels {
		m.series = append(m.series, detailSeries{[]string{strconv.Itoa(level)}, func(d *storage.Detail) float64 { return float64(value(d, level)) }})
	}
	return m
}

// What is in files now, and why writes were slowed.
func fileMetrics() []detailMetric {
	stalls := detailMetric{kind: prometheus.CounterValue, desc: prometheus.NewDesc("snipdb_storage_stalls_total",
		"How often a column family was found with so much of something that writes are slowed or stopped.", []string{"cause"}, nil)}
	for cause, value := range map[string]func(s storage.Stalls) uint64{
		"l0_slowdown":        func(s storage.Stalls) uint64 { return s.L0Slowdowns },
		"l0_stop":            func(s storage.Stalls) uint64 { return s.L0Stops },
		"memtables_slowdown": func(s storage.Stalls) uint64 { return s.MemtableSlowdowns },
		"memtables_stop":     func(s storage.Stalls) uint64 { return s.MemtableStops },
		"debt_slowdown":      func(s storage.Stalls) uint64 { return s.PendingSlowdowns },
		"debt_stop":          func(s storage.Stalls) uint64 { return s.PendingStops },
	} {
		stalls.series = append(stalls.series, detailSeries{[]string{cause}, func(d *storage.Detail) float64 { return float64(value(d.Stalls)) }})
	}
	return []detailMetric{
		stalls,
		byLevel("level_files", "Data files of a level, of all column families.", func(d *storage.Detail, level int) uint64 { return d.LevelFiles[level] }),
		byLevel("level_bytes", "Bytes of data files of a level, of all column families.", func(d *storage.Detail, level int) uint64 { return d.LevelBytes[level] }),
		plain("table_reader_bytes", "Memory of open data files beside the block cache, estimated.", prometheus.GaugeValue,
			func(d *storage.Detail) float64 { return float64(d.TableReaderBytes) }),
		plain("wal_bytes", "Bytes of the write-ahead log's files, which a restart reads.", prometheus.GaugeValue,
			func(d *storage.Detail) float64 { return float64(d.WALBytes) }),
		plain("info_log_bytes", "Bytes of RocksDB's own files LOG.", prometheus.GaugeValue,
			func(d *storage.Detail) float64 { return float64(d.InfoLogBytes) }),
	}
}

// What reads met.
func readMetrics() []detailMetric {
	byKind := func(name, help string, values map[string]func(c *storage.Counters) uint64) detailMetric {
		m := detailMetric{desc: prometheus.NewDesc("snipdb_storage_"+name, help, []string{"kind"}, nil), kind: prometheus.CounterValue, counted: true}
		for kind, value := range values {
			m.series = append(m.series, detailSeries{[]string{kind}, func(d *storage.Detail) float64 { return float64(value(d.Counters)) }})
		}
		return m
	}
	return []detailMetric{
		byKind("block_cache_hits_total", "Blocks and vectors that were found in the block cache.", map[string]func(c *storage.Counters) uint64{
			"data":   func(c *storage.Counters) uint64 { return c.DataHits },
			"index":  func(c *storage.Counters) uint64 { return c.IndexHits },
			"filter": func(c *storage.Counters) uint64 { return c.FilterHits },
			"blob":   func(c *storage.Counters) uint64 { return c.BlobHits },
		}),
		byKind("block_cache_misses_total", "Blocks and vectors that were not in the block cache, so that a file was read.", map[string]func(c *storage.Counters) uint64{
			"data":   func(c *storage.Counters) uint64 { return c.DataMisses },
			"index":  func(c *storage.Counters) uint64 { return c.IndexMisses },
			"filter": func(c *storage.Counters) uint64 { return c.FilterMisses },
			"blob":   func(c *storage.Counters) uint64 { return c.BlobMisses },
		}),
		counter("block_cache_add_failures_total", "Blocks and vectors for which a full block cache had no room.", func(c *storage.Counters) float64 { return float64(c.AddFailures) }),
		counter("bloom_useful_total", "Looks into a file that a filter saved.", func(c *storage.Counters) float64 { return float64(c.BloomUseful) }),
		counter("bloom_positives_total", "Looks into a file that a filter did not save.", func(c *storage.Counters) float64 { return float64(c.BloomPositives) }),
		counter("bloom_true_positives_total", "Looks into a file that a filter did not save, and that found the key.", func(c *storage.Counters) float64 { return float64(c.BloomTruePositives) }),
		counter("blob_read_bytes_total", "Bytes read from blob files.", func(c *storage.Counters) float64 { return float64(c.BlobReadBytes) }),
		counter("file_opens_total", "Data files opened.", func(c *storage.Counters) float64 { return float64(c.FileOpens) }),
	}
}

// What became of the writes.
func writeMetrics() []detailMetric {
	return []detailMetric{
		counter("user_written_bytes_total", "Bytes that the state machine wrote; the others are what RocksDB made of them.", func(c *storage.Counters) float64 { return float64(c.UserBytes) }),
		counter("wal_written_bytes_total", "Bytes written to the write-ahead log.", func(c *storage.Counters) float64 { return float64(c.WALBytes) }),
		counter("flush_written_bytes_total", "Bytes that flushes wrote, blob files included.", func(c *storage.Counters) float64 { return float64(c.FlushBytes) }),
		counter("compaction_read_bytes_total", "Bytes that compactions read.", func(c *storage.Counters) float64 { return float64(c.CompactionReadBytes) }),
		counter("compaction_written_bytes_total", "Bytes that compactions wrote, blob files included.", func(c *storage.Counters) float64 { return float64(c.CompactionWrittenBytes) }),
		counter("blob_written_bytes_total", "Bytes written to blob files, by flushes and compactions.", func(c *storage.Counters) float64 { return float64(c.BlobWrittenBytes) }),
		counter("blob_relocated_bytes_total", "Bytes that compactions moved out of old blob files.", func(c *storage.Counters) float64 { return float64(c.BlobRelocatedBytes) }),
		counter("blocks_compressed_total", "Blocks that were written compressed.", func(c *storage.Counters) float64 { return float64(c.BlocksCompressed) }),
		counter("blocks_not_compressed_total", "Blocks that were written as they are, because compression gained too little.", func(c *storage.Counters) float64 { return float64(c.BlocksNotCompressed) }),
		counter("stall_seconds_total", "How long writes waited because RocksDB slowed or stopped them.", func(c *storage.Counters) float64 { return c.StallTime.Seconds() }),
		counter("rate_limiter_drains_total", "Tenths of a second in which flushes and compactions used all that the rate limit allows.", func(c *storage.Counters) float64 { return float64(c.RateLimiterDrains) }),
	}
}

// detail asks a store that may be closed.
func detail(store *storage.Store) (storage.Detail, error) {
	db, release := store.DB()
	defer release()
	if db == nil {
		return storage.Detail{}, storage.ErrClosed
	}
	return db.Detail()
}

// collectDetail sends all that is known.
func collectDetail(metrics []detailMetric, d *storage.Detail, to chan<- prometheus.Metric) {
	for _, m := range metrics {
		if m.counted && d.Counters == nil {
			continue
		}
		for _, s := range m.series {
			to <- prometheus.MustNewConstMetric(m.desc, m.kind, s.value(d), s.labels...)
		}
	}
}
