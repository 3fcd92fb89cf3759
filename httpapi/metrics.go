package httpapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/cluster/contract"
)

// The reasons of a refusal that are not of package contract.
const (
	reasonConnections = "connections"
	reasonDeadline    = "deadline"
)

// metrics are the figures of the HTTP side. The labels are closed sets: the
// routes of the table, the methods that they take, the classes and reasons.
type metrics struct {
	duration    *prometheus.HistogramVec // by route, method and class of the status
	inFlight    *prometheus.GaugeVec     // by class
	waiting     *prometheus.GaugeVec     // by class
	received    *prometheus.CounterVec   // bytes, by class
	sent        *prometheus.CounterVec   // bytes, by class
	refused     *prometheus.CounterVec   // by gate and reason
	forwarded   *prometheus.CounterVec   // by result
	redirected  prometheus.Counter
	replayed    prometheus.Counter
	metricRetry prometheus.Counter
	importLines *prometheus.CounterVec // by result
	importRetry prometheus.Counter
	bodyBytes   prometheus.Gauge
	connections prometheus.Gauge
	panics      prometheus.Counter
}

// durationBuckets reach from a read out of the cache to the longest deadline.
var durationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// newMetrics makes the metrics and registers them, if reg is not nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "snipdb", "httpapi"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, labels)
	}
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "request_duration_seconds",
			Help: "Time from the end of a request's header to the end of its answer.", Buckets: durationBuckets,
		}, []string{"route", "method", "status"}),
		inFlight:    gauges("requests_in_flight", "Requests that are served now.", "class"),
		waiting:     gauges("requests_waiting", "Requests that wait for a free place of their class.", "class"),
		received:    counters("request_bytes_total", "Bytes of request bodies read.", "class"),
		sent:        counters("response_bytes_total", "Bytes of answers written.", "class"),
		refused:     counters("refused_total", "Requests refused by a gate before any work.", "gate", "reason"),
		forwarded:   counters("forwarded_total", "Writes passed on to the leader: answered, not_sent, or unknown.", "result"),
		redirected:  counter("redirected_total", "Writes answered with a redirect to the leader."),
		replayed:    counter("replayed_total", "Writes answered from an idempotency row."),
		metricRetry: counter("metric_retries_total", "Writes prepared again because the collection's metric had changed."),
		importLines: counters("import_lines_total", "Lines of imports: applied, refused, or unknown.", "result"),
		importRetry: counter("import_retries_total", "Lines of imports tried again because the node was overloaded."),
		bodyBytes:   gauge("body_memory_bytes", "Bytes of request bodies in memory."),
		connections: gauge("connections", "Open connections."),
		panics:      counter("panics_total", "Handlers that panicked."),
	}
	m.fill()
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.duration, m.inFlight, m.waiting, m.received, m.sent, m.refused, m.forwarded, m.redirected, m.replayed,
		m.metricRetry, m.importLines, m.importRetry, m.bodyBytes, m.connections, m.panics,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// fill shows every series from the start, at 0: a counter that comes into
// being with its first event has no increase that an alert could see. The
// durations are left out, because routes × statuses are too many to show unused.
func (m *metrics) fill() {
	overload := string(contract.Concurrency)
	for _, c := range []class{classRead, classWrite, classBulk, classAdmin} {
		m.inFlight.WithLabelValues(string(c))
		m.waiting.WithLabelValues(string(c))
		m.refused.WithLabelValues(string(c), overload)
		m.refused.WithLabelValues(string(c), reasonDeadline)
	}
	for _, c := range []class{classRead, classWrite, classBulk, classAdmin, classHealth} {
		m.received.WithLabelValues(string(c))
		m.sent.WithLabelValues(string(c))
	}
	m.refused.WithLabelValues(reasonConnections, overload)
	m.refused.WithLabelValues("body_memory", string(contract.MemoryLow))
	m.refused.WithLabelValues("rate", string(contract.RateLimited))
	m.refused.WithLabelValues("deadline", reasonDeadline)
	for _, result := range []string{forwardAnswered, forwardNotSent, forwardUnknown} {
		m.forwarded.WithLabelValues(result)
	}
	for _, result := range []string{"applied", "refused", "unknown"} {
		m.importLines.WithLabelValues(result)
	}
}
