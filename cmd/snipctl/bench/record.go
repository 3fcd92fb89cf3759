package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range of a latency histogram: microseconds, three significant digits.
// What is above the range counts as the largest value.
const (
	minLatency = 1
	maxLatency = int64(10 * time.Minute / time.Microsecond)
	digits     = 3
)

// Recorder collects the latencies and results of one kind of operation.
// Safe for concurrent use.
type Recorder struct {
	mu     sync.Mutex
	all    *hdrhistogram.Histogram
	window *hdrhistogram.Histogram // since the last call of Window
	failed int64
	missed int64
}

// NewRecorder returns an empty recorder.
func NewRecorder() *Recorder {
	return &Recorder{all: newHistogram(), window: newHistogram()}
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(minLatency, maxLatency, digits)
}

// Done records a success.
func (r *Recorder) Done(latency time.Duration) {
	us := min(max(latency.Microseconds(), minLatency), maxLatency)
	r.mu.Lock()
	defer r.mu.Unlock()
	// The value is inside the range, so neither call can fail.
	_ = r.all.RecordValue(us)
	_ = r.window.RecordValue(us)
}

// Missed records an operation that was due and never started, with the time
// that it had waited when the load ended: its latency would have been more.
func (r *Recorder) Missed(waited time.Duration) {
	us := min(max(waited.Microseconds(), minLatency), maxLatency)
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.all.RecordValue(us)
	r.missed++
}

// Failed records a failure. Its latency is not mixed with the successes'.
func (r *Recorder) Failed() {
	r.mu.Lock()
	r.failed++
	r.mu.Unlock()
}

// Latency is a summary of a histogram, in milliseconds.
type Latency struct {
	Mean float64 `json:"mean_ms"`
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
}

func summarize(h *hdrhistogram.Histogram) Latency {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	return Latency{
		Mean: h.Mean() / 1000,
		P50:  ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)),
		P99: ms(h.ValueAtQuantile(99)), P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()),
	}
}

// Summary is what a recorder has seen.
type Summary struct {
	// Count operations were done; they make PerSecond.
	Count  int64 `json:"count"`
	Failed int64 `json:"failed"`
	// NotStarted operations of an open loop were due and found no free worker
	// before its end. Latency has them with the time from when they were due to
	// the end of the load: it is a lower bound if there are any.
	NotStarted int64   `json:"not_started,omitempty"`
	PerSecond  float64 `json:"per_second"`
	Latency
}

// Summary sums up over the given time.
func (r *Recorder) Summary(elapsed time.Duration) Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Summary{Count: r.all.TotalCount() - r.missed, Failed: r.failed, NotStarted: r.missed, Latency: summarize(r.all)}
	if seconds := elapsed.Seconds(); seconds > 0 {
		s.PerSecond = float64(s.Count) / seconds
	}
	return s
}

// Window returns count and latency since the last call, and begins anew.
func (r *Recorder) Window() (int64, Latency) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count, latency := r.window.TotalCount(), summarize(r.window)
	r.window.Reset()
	return count, latency
}

// Tally counts by key. Safe for concurrent use.
type Tally struct {
	mu sync.Mutex
	n  map[string]int64
}

// Add adds one.
func (t *Tally) Add(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int64{}
	}
	t.n[key]++
}

// Total is the sum of all keys.
func (t *Tally) Total() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var sum int64
	for _, n := range t.n {
		sum += n
	}
	return sum
}

// Map returns a copy of the counts, never nil.
func (t *Tally) Map() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]int64, len(t.n))
	for key, n := range t.n {
		out[key] = n
	}
	return out
}
