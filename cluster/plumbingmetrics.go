package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// muxMetrics are the peer port's.
type muxMetrics struct {
	conns   *prometheus.GaugeVec   // kind raft|peer, direction in|out
	refused *prometheus.CounterVec // reason: a refusal's label, or busy, evicted, broken
}

func newMuxMetrics(reg prometheus.Registerer) *muxMetrics {
	f := promauto.With(reg)
	m := &muxMetrics{
		conns: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "snipdb_cluster_peer_connections",
			Help: "Open connections of the peer port.",
		}, []string{"kind", "direction"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "snipdb_cluster_peer_connections_refused_total",
			Help: "Connections that the peer port did not let in, by reason.",
		}, []string{"reason"}),
	}
	// Every series from the start; see metrics.fill.
	for _, kind := range []connKind{kindRaft, kindPeer} {
		m.conns.WithLabelValues(kind.String(), "in")
		m.conns.WithLabelValues(kind.String(), "out")
	}
	for code := refuseVersion; code <= refuseFrame; code++ {
		m.refused.WithLabelValues(code.label())
	}
	for _, reason := range []string{"busy", "evicted", "broken"} {
		m.refused.WithLabelValues(reason)
	}
	return m
}

// logMetrics are those of the log store's wrapper. They are labelled by
// nothing: which store it is does not change in the life of a process.
type logMetrics struct {
	write   prometheus.Histogram
	remove  prometheus.Histogram
	written prometheus.Counter
	entries prometheus.Counter
}

// newLogMetrics registers them; the size is asked for at each scrape.
func newLogMetrics(reg prometheus.Registerer, bytes func() float64) *logMetrics {
	f := promauto.With(reg)
	// 50 µs to 13 s: from a write cache to the watchdog.
	buckets := prometheus.ExponentialBuckets(50e-6, 2, 19)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "snipdb_cluster_log_bytes",
		Help: "Bytes of the entries in the Raft log.",
	}, bytes)
	return &logMetrics{
		write: f.NewHistogram(prometheus.HistogramOpts{
			Name: "snipdb_cluster_log_write_seconds", Buckets: buckets,
			Help: "Time of one durable write to the Raft log.",
		}),
		remove: f.NewHistogram(prometheus.HistogramOpts{
			Name: "snipdb_cluster_log_truncate_seconds", Buckets: buckets,
			Help: "Time of one deletion of a range of the Raft log.",
		}),
		written: f.NewCounter(prometheus.CounterOpts{
			Name: "snipdb_cluster_log_written_bytes_total",
			Help: "Bytes of the entries written to the Raft log.",
		}),
		entries: f.NewCounter(prometheus.CounterOpts{
			Name: "snipdb_cluster_log_written_entries_total",
			Help: "Entries written to the Raft log.",
		}),
	}
}
