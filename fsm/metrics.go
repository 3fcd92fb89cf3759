package fsm

import (
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/fsm/command"
)

// metrics are this package's; the labels come from closed sets.
type metrics struct {
	applied          prometheus.Gauge
	batchSeconds     prometheus.Histogram
	batchEntries     prometheus.Histogram
	batchBytes       prometheus.Histogram
	entryCommands    prometheus.Histogram
	skipped          prometheus.Counter
	commands         *prometheus.CounterVec // outcome
	idemStored       prometheus.Counter
	idemReplayed     prometheus.Counter
	idemExpired      prometheus.Counter
	snapshotSeconds  *prometheus.HistogramVec // step: checkpoint, persist
	restoreSeconds   prometheus.Histogram
	restoreFailures  prometheus.Counter
	snapshotFailures prometheus.Counter

	outcomes map[command.Outcome]prometheus.Counter
}

// newMetrics makes the metrics and registers them, unless reg is nil. A
// metric that is registered already (a second group of the same process) is shared.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "snipdb", Subsystem: "fsm", Name: name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "snipdb", Subsystem: "fsm", Name: name, Help: help, Buckets: buckets})
	}
	short := prometheus.ExponentialBuckets(0.0001, 2.5, 12) // 0.1 ms to 2.4 s
	long := prometheus.ExponentialBuckets(0.005, 3, 12)     // 5 ms to 15 min
	m := &metrics{
		applied:       prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "snipdb", Subsystem: "fsm", Name: "applied_index", Help: "Raft index of the last entry that reads can see."}),
		batchSeconds:  histogram("apply_batch_seconds", "Time to apply and commit one slice of entries.", short),
		batchEntries:  histogram("apply_batch_entries", "Entries in one slice.", prometheus.ExponentialBuckets(1, 2, 8)),
		batchBytes:    histogram("apply_batch_bytes", "Bytes written to storage by one commit.", prometheus.ExponentialBuckets(256, 4, 10)),
		entryCommands: histogram("apply_entry_commands", "Commands in one entry (group commit).", prometheus.ExponentialBuckets(1, 2, 10)),
		skipped:       counter("skipped_entries_total", "Entries that the state held already when Raft delivered them."),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "snipdb", Subsystem: "fsm", Name: "commands_total",
			Help: "Commands applied, by what came of them."}, []string{"outcome"}),
		idemStored:   counter("idempotency_stored_total", "Results stored under an idempotency key."),
		idemReplayed: counter("idempotency_replays_total", "Commands answered with the stored result of an earlier one."),
		idemExpired:  counter("idempotency_expired_total", "Stored results removed by age or count."),
		snapshotSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "snipdb", Subsystem: "fsm", Name: "snapshot_seconds",
			Help: "Time of a snapshot's steps; writes wait during the checkpoint only.", Buckets: long}, []string{"step"}),
		snapshotFailures: counter("snapshot_failures_total", "Snapshots that failed."),
		restoreSeconds:   histogram("restore_seconds", "Time to install a snapshot.", long),
		restoreFailures:  counter("restore_failures_total", "Snapshots that could not be installed."),
		outcomes:         map[command.Outcome]prometheus.Counter{},
	}
	if err := m.register(reg); err != nil {
		return nil, err
	}
	for n := range command.Outcome_name {
		m.outcomes[command.Outcome(n)] = m.commands.WithLabelValues(outcomeLabel(command.Outcome(n)))
	}
	for _, step := range []string{"checkpoint", "persist"} {
		m.snapshotSeconds.WithLabelValues(step) // shown at 0 from the start
	}
	return m, nil
}

func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	var errs []error
	errs = append(errs, share(reg, &m.applied), share(reg, &m.batchSeconds), share(reg, &m.batchEntries),
		share(reg, &m.batchBytes), share(reg, &m.entryCommands), share(reg, &m.skipped), share(reg, &m.commands),
		share(reg, &m.idemStored), share(reg, &m.idemReplayed), share(reg, &m.idemExpired), share(reg, &m.snapshotSeconds),
		share(reg, &m.snapshotFailures), share(reg, &m.restoreSeconds), share(reg, &m.restoreFailures))
	return errors.Join(errs...)
}

// share registers a collector, or takes the one that is there.
func share[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if old, ok := there.ExistingCollector.(C); ok {
			*c = old
			return nil
		}
	}
	return err
}

// outcomeLabel is the outcome as a label: "created", "write_conflict", …
func outcomeLabel(o command.Outcome) string { return strings.ToLower(o.String()) }
