package cluster

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	gometrics "github.com/hashicorp/go-metrics"
	"github.com/prometheus/client_golang/prometheus"
)

// hashicorp/raft reports to the one global instance of go-metrics. The bridge
// puts a sink there once in the life of the process, and hands what arrives to
// the registries that asked. Two nodes in one process (a test) therefore see
// each other's numbers; two groups in one process will, too.
//
// Only what the tables name goes through. raft makes metric names of peer
// names in places; nothing of that kind can reach a registry.

// raftMetricKind is how a metric of raft is shown.
type raftMetricKind int

const (
	raftCounter raftMetricKind = iota
	raftGauge
	// raftGaugeMillis is a gauge in milliseconds, shown in seconds.
	raftGaugeMillis
	// raftMillis is a sample in milliseconds, shown in seconds.
	raftMillis
	// raftCount is a sample of a number.
	raftCount
)

// raftMetric is one row of the table.
type raftMetric struct {
	key  string // raft's, joined by dots
	name string
	kind raftMetricKind
	help string
	// label is the one label that is kept, values its closed set.
	label  string
	values []string
}

// raftRPCTypes are the values of rpcType, from hashicorp/raft net_transport.go.
var raftRPCTypes = []string{"Heartbeat", "AppendEntries", "RequestVote", "RequestPreVote", "InstallSnapshot", "TimeoutNow"}

// raftMetrics is the table. All begin with snipdb_cluster_raft_.
var raftMetrics = []raftMetric{
	{key: "raft.state.leader", name: "became_leader_total", kind: raftCounter, help: "Times this node became leader."},
	{key: "raft.state.candidate", name: "became_candidate_total", kind: raftCounter, help: "Times this node stood for election."},
	{key: "raft.state.follower", name: "became_follower_total", kind: raftCounter, help: "Times this node became follower."},
	{key: "raft.transition.heartbeat_timeout", name: "heartbeat_timeouts_total", kind: raftCounter, help: "Times this node lost its leader."},
	{key: "raft.transition.leader_lease_timeout", name: "lease_timeouts_total", kind: raftCounter, help: "Times this leader stepped down because it heard no quorum."},
	{key: "raft.apply", name: "proposed_entries_total", kind: raftCounter, help: "Entries proposed on this node."},
	{key: "raft.peers", name: "servers", kind: raftGauge, help: "Servers in the Raft configuration, as the leader sees it."},
	{key: "raft.leader.oldestLogAge", name: "oldest_log_age_seconds", kind: raftGaugeMillis, help: "Age of the oldest entry in the leader's log."},
	{key: "raft.fsm.lastRestoreDuration", name: "last_restore_seconds", kind: raftGaugeMillis, help: "Time of the last restore of a snapshot."},
	{key: "raft.leader.lastContact", name: "leader_last_contact_seconds", kind: raftMillis, help: "Time since a quorum was last in touch with the leader."},
	{key: "raft.commitTime", name: "commit_seconds", kind: raftMillis, help: "Time from dispatch to commit of an entry on the leader."},
	{key: "raft.leader.dispatchLog", name: "dispatch_seconds", kind: raftMillis, help: "Time in which the leader writes entries to its log."},
	{key: "raft.rpc.appendEntries", name: "append_entries_seconds", kind: raftMillis, help: "Time in which a follower answers AppendEntries."},
	{key: "raft.rpc.appendEntries.storeLogs", name: "follower_store_seconds", kind: raftMillis, help: "Time in which a follower writes entries to its log."},
	{key: "raft.rpc.installSnapshot", name: "install_snapshot_seconds", kind: raftMillis, help: "Time in which a follower installs a snapshot."},
	{key: "raft.replication.appendEntries.rpc", name: "replicate_seconds", kind: raftMillis, help: "Time of one AppendEntries, as the leader sees it."},
	{key: "raft.replication.heartbeat", name: "heartbeat_seconds", kind: raftMillis, help: "Time of one heartbeat, as the leader sees it."},
	{key: "raft.net.rpcEnqueue", name: "rpc_wait_seconds", kind: raftMillis, help: "Time for which a received RPC waits for the main loop.", label: "rpc", values: raftRPCTypes},
	{key: "raft.fsm.enqueue", name: "fsm_enqueue_seconds", kind: raftMillis, help: "Time for which committed entries wait for a place in the state machine's queue."},
	{key: "raft.fsm.applyBatchNum", name: "fsm_batch_entries", kind: raftCount, help: "Entries in one batch to the state machine."},
	{key: "raft.fsm.snapshot", name: "snapshot_capture_seconds", kind: raftMillis, help: "Time for which a snapshot holds up the state machine."},
	{key: "raft.snapshot.persist", name: "snapshot_persist_seconds", kind: raftMillis, help: "Time in which a snapshot becomes durable."},
	{key: "raft.fsm.restore", name: "restore_seconds", kind: raftMillis, help: "Time in which the state machine restores a snapshot."},
	{key: "raft.compactLogs", name: "compact_log_seconds", kind: raftMillis, help: "Time in which the log is truncated after a snapshot."},
	{key: "raft.thread.main.saturation", name: "main_loop_saturation", kind: raftCount, help: "Share of the time in which raft's main loop is busy."},
	{key: "raft.thread.fsm.saturation", name: "fsm_loop_saturation", kind: raftCount, help: "Share of the time in which raft's state machine loop is busy."},
}

// raftBridge is the sink of one registry.
type raftBridge struct {
	counters map[string]prometheus.Counter
	gauges   map[string]raftGaugeOf
	samples  map[string]raftSample
}

// raftGaugeOf divides by unit what raft reports.
type raftGaugeOf struct {
	prometheus.Gauge
	unit float64
}

type raftSample struct {
	row   raftMetric
	plain prometheus.Observer // without a label
	rpc   map[string]prometheus.Observer
}

// raftSinks is what the global sink writes to. The slice is replaced, never
// changed, so that a metric of raft costs no lock.
var raftSinks struct {
	once sync.Once
	err  error
	mu   sync.Mutex // guards the replacing
	list atomic.Pointer[[]*raftBridge]
}

// bridgeRaftMetrics shows raft's metrics in a registry until stop is called,
// which also takes them out of it. A nil registry is no error.
func bridgeRaftMetrics(reg prometheus.Registerer) (stop func(), err error) {
	if reg == nil {
		return func() {}, nil
	}
	raftSinks.once.Do(func() {
		empty := []*raftBridge{}
		raftSinks.list.Store(&empty)
		conf := gometrics.DefaultConfig("")
		conf.EnableHostname, conf.EnableRuntimeMetrics = false, false
		_, raftSinks.err = gometrics.NewGlobal(conf, globalRaftSink{})
	})
	if raftSinks.err != nil {
		return nil, fmt.Errorf("cluster: bridge raft metrics: %w", raftSinks.err)
	}
	bridge, collectors := newRaftBridge()
	for i, c := range collectors {
		if err := reg.Register(c); err != nil {
			for _, done := range collectors[:i] {
				reg.Unregister(done)
			}
			return nil, fmt.Errorf("cluster: bridge raft metrics: %w", err)
		}
	}
	changeRaftSinks(func(list []*raftBridge) []*raftBridge { return append(list, bridge) })
	var once sync.Once
	return func() {
		once.Do(func() {
			changeRaftSinks(func(list []*raftBridge) []*raftBridge {
				var rest []*raftBridge
				for _, b := range list {
					if b != bridge {
						rest = append(rest, b)
					}
				}
				return rest
			})
			for _, c := range collectors {
				reg.Unregister(c)
			}
		})
	}, nil
}

// changeRaftSinks replaces the list by what f makes of a copy.
func changeRaftSinks(f func([]*raftBridge) []*raftBridge) {
	raftSinks.mu.Lock()
	defer raftSinks.mu.Unlock()
	next := f(append([]*raftBridge{}, *raftSinks.list.Load()...))
	raftSinks.list.Store(&next)
}

func newRaftBridge() (*raftBridge, []prometheus.Collector) {
	b := &raftBridge{counters: map[string]prometheus.Counter{}, gauges: map[string]raftGaugeOf{}, samples: map[string]raftSample{}}
	var collectors []prometheus.Collector
	for _, row := range raftMetrics {
		name := "snipdb_cluster_raft_" + row.name
		switch row.kind {
		case raftCounter:
			c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: row.help})
			b.counters[row.key] = c
			collectors = append(collectors, c)
		case raftGauge, raftGaugeMillis:
			g := raftGaugeOf{Gauge: prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: row.help}), unit: 1}
			if row.kind == raftGaugeMillis {
				g.unit = 1000
			}
			b.gauges[row.key] = g
			collectors = append(collectors, g.Gauge)
		default:
			sample, c := newRaftSample(row, name)
			b.samples[row.key] = sample
			collectors = append(collectors, c)
		}
	}
	return b, collectors
}

func newRaftSample(row raftMetric, name string) (raftSample, prometheus.Collector) {
	// 100 µs to 26 s for times; 1 to 2048 for numbers; shares in tenths.
	buckets := prometheus.ExponentialBuckets(100e-6, 4, 10)
	if row.kind == raftCount {
		buckets = prometheus.ExponentialBuckets(1, 4, 7)
		if strings.HasSuffix(row.name, "saturation") {
			buckets = prometheus.LinearBuckets(0.1, 0.1, 10)
		}
	}
	opts := prometheus.HistogramOpts{Name: name, Help: row.help, Buckets: buckets}
	sample := raftSample{row: row}
	if row.label == "" {
		h := prometheus.NewHistogram(opts)
		sample.plain = h
		return sample, h
	}
	vec := prometheus.NewHistogramVec(opts, []string{row.label})
	sample.rpc = map[string]prometheus.Observer{}
	for _, value := range row.values {
		sample.rpc[value] = vec.WithLabelValues(value)
	}
	return sample, vec
}

// observe takes one sample. What has a label value outside the set is dropped.
func (s raftSample) observe(val float32, labels []gometrics.Label) {
	v := float64(val)
	if s.row.kind == raftMillis {
		v /= 1000
	}
	if s.row.label == "" {
		s.plain.Observe(v)
		return
	}
	for _, l := range labels {
		if o, ok := s.rpc[l.Value]; ok {
			o.Observe(v)
			return
		}
	}
}

// globalRaftSink is go-metrics' end of the bridge.
type globalRaftSink struct{}

func eachRaftBridge(f func(*raftBridge)) {
	for _, b := range *raftSinks.list.Load() {
		f(b)
	}
}

// SetGauge and the others implement gometrics.MetricSink.
func (s globalRaftSink) SetGauge(key []string, val float32) { s.SetGaugeWithLabels(key, val, nil) }

// SetGaugeWithLabels sets a gauge of the table.
func (globalRaftSink) SetGaugeWithLabels(key []string, val float32, _ []gometrics.Label) {
	name := strings.Join(key, ".")
	eachRaftBridge(func(b *raftBridge) {
		if g, ok := b.gauges[name]; ok {
			g.Set(float64(val) / g.unit)
		}
	})
}

// EmitKey is not used by raft.
func (globalRaftSink) EmitKey([]string, float32) {}

// IncrCounter adds to a counter of the table.
func (s globalRaftSink) IncrCounter(key []string, val float32) {
	s.IncrCounterWithLabels(key, val, nil)
}

// IncrCounterWithLabels adds to a counter of the table.
func (globalRaftSink) IncrCounterWithLabels(key []string, val float32, _ []gometrics.Label) {
	name := strings.Join(key, ".")
	eachRaftBridge(func(b *raftBridge) {
		if c, ok := b.counters[name]; ok && val >= 0 {
			c.Add(float64(val))
		}
	})
}

// AddSample takes a sample of the table.
func (s globalRaftSink) AddSample(key []string, val float32) { s.AddSampleWithLabels(key, val, nil) }

// AddSampleWithLabels takes a sample of the table.
func (globalRaftSink) AddSampleWithLabels(key []string, val float32, labels []gometrics.Label) {
	name := strings.Join(key, ".")
	eachRaftBridge(func(b *raftBridge) {
		if sample, ok := b.samples[name]; ok {
			sample.observe(val, labels)
		}
	})
}
