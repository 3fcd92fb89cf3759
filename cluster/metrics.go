package cluster

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/cluster/contract"
)

// metrics are those of this package. A nil *metrics records nothing. They are
// registered last, because some read the node when they are scraped.
type metrics struct {
	reg prometheus.Registerer
	all []prometheus.Collector

	proposals     *prometheus.CounterVec   // by outcome
	refusals      *prometheus.CounterVec   // by reason
	entryCommands prometheus.Histogram     // commands of one entry
	entryBytes    prometheus.Histogram     // bytes of one entry
	commit        prometheus.Histogram     // enqueue to outcome of an entry
	leaderChanges prometheus.Counter       // this node became leader
	rounds        *prometheus.CounterVec   // read rounds by kind and result
	roundReaders  prometheus.Histogram     // readers that shared a round
	roundTime     prometheus.Histogram     // how long a round took
	reads         *prometheus.CounterVec   // by level and result
	snapshots     *prometheus.CounterVec   // by result
	readWait      *prometheus.HistogramVec // by level
	appendsNoRoom prometheus.Counter       // entries refused for the disk
	diskHandOvers prometheus.Counter       // leadership given away for the disk
}

func newMetrics(reg prometheus.Registerer, n *Node) *metrics {
	if reg == nil {
		return nil
	}
	latency := prometheus.ExponentialBuckets(0.0002, 2, 16)
	m := &metrics{
		reg: reg,
		proposals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "snipdb_cluster_proposals_total",
			Help: "Proposals by outcome: applied, not_applied, unknown."}, []string{"outcome"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "snipdb_cluster_refusals_total",
			Help: "Writes that a gate refused, by reason."}, []string{"reason"}),
		entryCommands: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "snipdb_cluster_entry_commands",
			Help: "Commands in one log entry.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		entryBytes: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "snipdb_cluster_entry_bytes",
			Help: "Bytes of one log entry.", Buckets: prometheus.ExponentialBuckets(256, 4, 7)}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "snipdb_cluster_commit_seconds",
			Help: "From handing an entry to Raft to its being applied here.", Buckets: latency}),
		leaderChanges: prometheus.NewCounter(prometheus.CounterOpts{Name: "snipdb_cluster_leaderships_total",
			Help: "How often this node became leader."}),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "snipdb_cluster_read_rounds_total",
			Help: "Read index rounds, by kind (quorum, leader) and result."}, []string{"kind", "result"}),
		roundReaders: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "snipdb_cluster_read_round_readers",
			Help: "Readers that shared one round.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		roundTime: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "snipdb_cluster_read_round_seconds",
			Help: "Time of one read index round.", Buckets: latency}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "snipdb_cluster_reads_total",
			Help: "Reads that asked the gate, by level and result."}, []string{"level", "result"}),
		readWait: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "snipdb_cluster_read_wait_seconds",
			Help: "How long the gate held a read, by level.", Buckets: latency}, []string{"level"}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "snipdb_cluster_snapshots_total",
			Help: "Snapshots taken, by result."}, []string{"result"}),
		appendsNoRoom: prometheus.NewCounter(prometheus.CounterOpts{Name: "snipdb_cluster_appends_refused_total",
			Help: "Requests with entries of the leader that this node refused because its disk is nearly full."}),
		diskHandOvers: prometheus.NewCounter(prometheus.CounterOpts{Name: "snipdb_cluster_disk_hand_overs_total",
			Help: "How often this node, as leader, gave the leadership away because its disk was low."}),
	}
	m.all = []prometheus.Collector{m.appendsNoRoom, m.diskHandOvers, m.proposals, m.refusals, m.entryCommands, m.entryBytes, m.commit, m.leaderChanges,
		m.rounds, m.roundReaders, m.roundTime, m.reads, m.readWait, m.snapshots}
	m.all = append(m.all, nodeGauges(n)...)
	m.fill()
	return m
}

// The closed sets of the labels.
var (
	gateReasons = []contract.OverloadReason{contract.QueueFull, contract.ApplyLag, contract.DiskLow, contract.MemoryLow, contract.StorageStalled}
	readLevels  = []contract.Level{contract.Local, contract.Session, contract.Bounded, contract.Linearizable}
	readResults = []string{"ok", "behind", "too_stale", "no_leader", "not_ready", "error"}
)

// fill shows every series from the start, at 0: a counter that comes into
// being with its first event has no increase that an alert could see.
func (m *metrics) fill() {
	for _, outcome := range []string{"applied", contract.OutcomeNotApplied, contract.OutcomeUnknown} {
		m.proposals.WithLabelValues(outcome)
	}
	for _, reason := range gateReasons {
		m.refusals.WithLabelValues(string(reason))
	}
	for _, result := range readResults {
		m.rounds.WithLabelValues("quorum", result)
		m.rounds.WithLabelValues("leader", result)
	}
	for _, result := range []string{"ok", "not_ready", "error"} {
		m.snapshots.WithLabelValues(result)
	}
	for _, level := range readLevels {
		m.readWait.WithLabelValues(string(level))
		for _, result := range readResults {
			m.reads.WithLabelValues(string(level), result)
		}
	}
}

// register registers all or none.
func (m *metrics) register() error {
	if m == nil {
		return nil
	}
	for i, c := range m.all {
		if err := m.reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			m.all = nil
			return fmt.Errorf("cluster: register metrics: %w", err)
		}
	}
	return nil
}

// nodeGauges read the node when they are scraped.
func nodeGauges(n *Node) []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "snipdb_cluster_" + name, Help: help}, f)
	}
	all := []prometheus.Collector{
		gauge("applied_index", "Index of the last entry that reads can see.", func() float64 {
			i, _ := n.p.StateMachine.Applied()
			return float64(i)
		}),
		gauge("commit_index", "Index of the last entry known to be committed.", func() float64 {
			if r := n.raft.Load(); r != nil {
				return float64(r.CommitIndex())
			}
			return 0
		}),
		gauge("term", "The current term.", func() float64 {
			if r := n.raft.Load(); r != nil {
				return float64(r.CurrentTerm())
			}
			return 0
		}),
		gauge("is_leader", "1 if this node leads.", func() float64 {
			if n.Leader().Self {
				return 1
			}
			return 0
		}),
		gauge("ready", "1 if this node is ready.", func() float64 {
			if n.Ready() == nil {
				return 1
			}
			return 0
		}),
		gauge("queue_commands", "Commands that wait for an entry.", func() float64 { return float64(n.props.depth()) }),
		gauge("inflight_commands", "Commands accepted and without an outcome.", func() float64 {
			c, _ := n.gates.inflight()
			return float64(c)
		}),
		gauge("inflight_bytes", "Bytes of the commands accepted and without an outcome.", func() float64 {
			_, b := n.gates.inflight()
			return float64(b)
		}),
		gauge("staleness_seconds", "How old the newest state is that this node knows to have been the newest; -1: not known.",
			func() float64 { return n.reads.staleness() }),
		gauge("members", "Members of the cluster, voters or not.", func() float64 { return float64(len(n.Members())) }),
		gauge("voters", "Members of the cluster that vote.", func() float64 {
			voters := 0
			for _, m := range n.Members() {
				if m.Voter {
					voters++
				}
			}
			return float64(voters)
		}),
		gauge("leader_known", "1 if this node knows of a leader.", func() float64 {
			if n.Leader().ID != "" {
				return 1
			}
			return 0
		}),
		gauge("apply_gap_entries", "Entries that are committed and that reads can't see yet.", func() float64 { return float64(n.applyGap()) }),
		gauge("snapshot_log_bytes", "Bytes of the log that the newest snapshot does not cover.", func() float64 {
			return float64(n.logs.bytesSince(n.snapshotIndex()))
		}),
		gauge("snapshot_log_limit_bytes", "Bytes of the log at which a snapshot is taken.", func() float64 { return float64(n.o.SnapshotBytes) }),
	}
	all = append(append(all, diskGauges(n)...), stateGauges(n)...)
	return append(all, gateGauges(n)...)
}

// diskGauges show what the disk gate looks at.
func diskGauges(n *Node) []prometheus.Collector {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "snipdb_cluster_" + name, Help: help}, f)
	}
	return []prometheus.Collector{
		gauge("disk_left_bytes", "Bytes of the data disk that are left when all that is in memory is in files.", func() float64 {
			left, _ := n.gates.disk()
			return float64(left)
		}),
		gauge("disk_low_bytes", "Bytes below which the data disk is low.", func() float64 {
			_, mark := n.gates.disk()
			return float64(mark)
		}),
		gauge("disk_full", "1 if this node takes no entries because its disk is nearly full.", func() float64 {
			if n.gates.full() {
				return 1
			}
			return 0
		}),
	}
}

// stateGauges show what is known of this node's state against the others'.
func stateGauges(n *Node) []prometheus.Collector {
	gauge := func(name, help string, f func(s *stateCheck) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "snipdb_cluster_state_" + name, Help: help}, func() float64 {
			n.state.mu.Lock()
			defer n.state.mu.Unlock()
			return f(&n.state)
		})
	}
	return []prometheus.Collector{
		gauge("diverged", "1 if this node's state differs from a majority's; it serves nothing then.", func(s *stateCheck) float64 {
			if s.diverged.Load() != nil {
				return 1
			}
			return 0
		}),
		gauge("disputed", "1 if this node's state differs from others' and none has a majority.", func(s *stateCheck) float64 {
			if s.disputed != 0 {
				return 1
			}
			return 0
		}),
		gauge("differing_members", "Other members whose state differs from a majority's, as this node sees it.", func(s *stateCheck) float64 {
			return float64(len(s.others))
		}),
		gauge("compared_index", "Newest index at which this node's state was found equal to a majority's.", func(s *stateCheck) float64 {
			return float64(s.settled)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "snipdb_cluster_state_comparisons_total",
			Help: "Points of the log at which this node's state was compared with the others'."}, func() float64 {
			n.state.mu.Lock()
			defer n.state.mu.Unlock()
			return float64(n.state.compared)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "snipdb_cluster_state_verify_problems",
			Help: "What the newest full scan found wrong with this node's state; 0 also if there was none."}, func() float64 {
			return float64(len(n.Verification().Problems))
		}),
	}
}

// gateGauges show each gate, by its reason.
func gateGauges(n *Node) []prometheus.Collector {
	var all []prometheus.Collector
	for _, reason := range gateReasons {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "snipdb_cluster_gate_refusing_ratio",
			Help:        "Share of the writes that this gate refuses now, by reason; 0: it is open.",
			ConstLabels: prometheus.Labels{"reason": string(reason)},
		}, func() float64 { return n.gates.refusing(reason) }))
	}
	return all
}

func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

func (m *metrics) proposed(err error) {
	if m == nil {
		return
	}
	outcome := "applied" // a command that the state machine refused counts as well: it has an answer
	if err != nil {
		outcome = contract.Outcome(err)
	}
	m.proposals.WithLabelValues(outcome).Inc()
}

func (m *metrics) refused(reason contract.OverloadReason) {
	if m != nil {
		m.refusals.WithLabelValues(string(reason)).Inc()
	}
}

func (m *metrics) entry(commands, bytes int, took time.Duration) {
	if m == nil {
		return
	}
	m.entryCommands.Observe(float64(commands))
	m.entryBytes.Observe(float64(bytes))
	m.commit.Observe(took.Seconds())
}

func (m *metrics) becameLeader() {
	if m != nil {
		m.leaderChanges.Inc()
	}
}

func (m *metrics) round(kind string, readers int, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.rounds.WithLabelValues(kind, resultOf(err)).Inc()
	m.roundReaders.Observe(float64(readers))
	m.roundTime.Observe(took.Seconds())
}

func (m *metrics) read(level contract.Level, took time.Duration, err error) {
	if m == nil {
		return
	}
	switch level {
	case contract.Local, contract.Session, contract.Bounded, contract.Linearizable:
	default:
		level = "unknown" // labels come from closed sets
	}
	m.reads.WithLabelValues(string(level), resultOf(err)).Inc()
	m.readWait.WithLabelValues(string(level)).Observe(took.Seconds())
}

func (m *metrics) snapshot(err error) {
	if m != nil {
		m.snapshots.WithLabelValues(resultOf(err)).Inc()
	}
}

func (m *metrics) appendRefused() {
	if m != nil {
		m.appendsNoRoom.Inc()
	}
}

func (m *metrics) handedOver() {
	if m != nil {
		m.diskHandOvers.Inc()
	}
}

// resultOf names an error from a closed set.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, contract.ErrBehind):
		return "behind"
	case errors.Is(err, contract.ErrTooStale):
		return "too_stale"
	case errors.Is(err, contract.ErrNoLeader):
		return "no_leader"
	case errors.Is(err, contract.ErrNotReady):
		return "not_ready"
	}
	return "error"
}
