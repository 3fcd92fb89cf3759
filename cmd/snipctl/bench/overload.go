package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
)

// Overload measures what a cluster does with more writes than it can take:
// first its peak in a closed loop, then an open loop at a multiple of that,
// without retries, then how soon it is back to normal.
type Overload struct {
	// PeakClients are the closed loops, of PeakTime each; the best of them is
	// the peak.
	PeakClients []int
	PeakTime    time.Duration
	// Factor times the peak is the rate of the open loop; Time its length;
	// Clients the bound of requests under way.
	Factor  float64
	Time    time.Duration
	Clients int
	// Settle is how long to watch for the return to normal.
	Settle time.Duration
	// Timeout is a write's deadline, from when it was due.
	Timeout time.Duration
	// Documents are of one snippet of ValueBytes; or, with Snippets and
	// Dimension, the two calls of the embedding workflow take turns: a document
	// of Snippets snippets of ValueBytes, and its embeddings.
	ValueBytes          int
	Snippets, Dimension int
	Keys                int64
	// Spread sends writes to all nodes; else they go to the leader, as the
	// Go client does it.
	Spread     bool
	Collection string
	Keep       bool
	Seed       uint64
}

// OverloadResult is what was measured.
type OverloadResult struct {
	Peak        float64 `json:"peak_per_second"`
	PeakClients int     `json:"peak_clients"`
	PeakLatency Latency `json:"peak_latency"`
	Offered     float64 `json:"offered_per_second"`
	// Sent is the rate that came to the nodes. NotSent counts the writes that
	// had found no free connection a second after they were due, or at the end of
	// the overload: all Clients were waiting for an answer. They are given up, as
	// a client would.
	Sent    float64 `json:"sent_per_second"`
	NotSent int64   `json:"not_sent"`
	// Goodput counts the writes that were acknowledged within the deadline,
	// counted from when they were due; Late those acknowledged after it.
	Goodput float64 `json:"goodput_per_second"`
	Late    int64   `json:"acknowledged_late"`
	// PeakCPU and OverloadCPU are the processor time of all nodes and of this
	// process for each acknowledged write, in microseconds, at the peak and in
	// the overload. Where the processors are the limit, their quotient is the
	// share that the goodput has of the peak, whatever else runs on the machine.
	PeakCPU     float64 `json:"peak_cpu_us_per_write"`
	OverloadCPU float64 `json:"overload_cpu_us_per_write"`
	// GoodputShare is Goodput / Peak.
	GoodputShare float64 `json:"goodput_share"`
	// Accepted is the latency of accepted writes from the moment they were
	// sent; Due from the moment they were due.
	Accepted Latency `json:"accepted_latency"`
	Due      Latency `json:"due_latency"`
	// Refused counts by status, code and reason.
	Refused map[string]int64 `json:"refused"`
	// Other are failures that are neither 429 nor 503; WithoutRetryAfter are
	// refusals without that header.
	Other             int64    `json:"other_failures"`
	WithoutRetryAfter int64    `json:"refusals_without_retry_after"`
	Examples          []string `json:"examples,omitempty"`
	// Health is the latency of /readyz during the overload, HealthFailed the
	// answers that failed or said no.
	Health       Latency `json:"health_latency"`
	HealthFailed int64   `json:"health_failed"`
	// Reads are a few reads of each node: while nothing else goes on, at the
	// peak, when the cores are as busy but nothing is refused, and in the overload.
	Reads []ReadsResult `json:"reads"`
	// Light is the latency of a light load before the overload. RecoverySeconds
	// is the time from the end of the overload until a quarter of a second of
	// that load passed without a refusal and without a write that took more
	// than twice Light's 99th percentile (or 100 ms, if that is more).
	Light           Latency `json:"light_latency"`
	RecoverySeconds float64 `json:"recovery_seconds"`
	Recovered       bool    `json:"recovered"`
	// Memory is each node's resident memory in bytes.
	Memory []NodeMemory `json:"memory,omitempty"`
}

// NodeMemory is the resident memory of a node before all, after the closed
// loops that find the peak, at most during the overload, and after it.
type NodeMemory struct {
	Node
	Before  uint64 `json:"before"`
	Peak    uint64 `json:"peak"`
	Largest uint64 `json:"largest"`
	After   uint64 `json:"after"`
}

// The light load, before and after the overload.
const (
	recoveryFactor  = 2
	recoveryLatency = 100 * time.Millisecond
	recoveryWindow  = 250 * time.Millisecond
	recoveryClients = 8
	lightTime       = 2 * time.Second
	preloadAttempts = 5
	patience        = time.Second
)

// overloadRun is one run's state.
type overloadRun struct {
	Overload
	env      *Env
	cl       *client.Client // one attempt per call
	send     *sender
	counters counters
	nodes    []Node
}

// Run does the three phases.
func (o Overload) Run(ctx context.Context, env *Env) (*OverloadResult, error) {
	r := &overloadRun{Overload: o, env: env}
	var err error
	if r.cl, err = env.NewClient(o.Clients, true, nil); err != nil {
		return nil, err
	}
	defer r.cl.Close()
	if r.Collection == "" {
		r.Collection = "bench-" + runName()
	}
	own, err := ensureCollection(ctx, r.cl, r.Collection, 0)
	if err != nil {
		return nil, err
	}
	if own && !o.Keep {
		defer func() { _, _ = r.cl.DeleteCollection(context.WithoutCancel(ctx), r.Collection) }()
	}
	r.nodes = env.nodes(ctx, r.cl)
	kinds, err := r.writes()
	if err != nil {
		return nil, fmt.Errorf("bench: make the writes: %w", err)
	}
	workers := slices.Max(append(slices.Clone(o.PeakClients), o.Clients, preloadWriters))
	r.send = newSender(workers, o.Keys, o.Timeout, kinds, hostsOf(r.cl, o.Spread))
	defer r.send.close()
	return r.phases(ctx)
}

// writes makes what is sent.
func (r *overloadRun) writes() ([]*writeKind, error) {
	if r.Snippets > 0 {
		return documentWrites(r.Collection, r.Seed, r.Snippets, r.ValueBytes, r.Dimension, r.Keys)
	}
	return smallWrites(r.Collection, r.Seed, r.ValueBytes)
}

// phases does one after the other.
func (r *overloadRun) phases(ctx context.Context) (*OverloadResult, error) {
	out := &OverloadResult{}
	before := r.usage(ctx)
	if err := r.preload(ctx); err != nil {
		return nil, err
	}
	if err := r.peak(ctx, out); err != nil {
		return nil, err
	}
	peak := r.usage(ctx)
	largest := r.flood(ctx, out)
	r.recover(ctx, out)
	after := r.usage(ctx)
	for i, node := range r.nodes {
		out.Memory = append(out.Memory, NodeMemory{Node: node, Before: before.memory[i], Peak: peak.memory[i],
			Largest: max(largest[i], after.memory[i]), After: after.memory[i]})
	}
	if ctx.Err() != nil {
		return out, fmt.Errorf("bench: interrupted: %w", context.Cause(ctx))
	}
	return out, nil
}

// preload writes the documents that are read, or whose embeddings are written.
func (r *overloadRun) preload(ctx context.Context) error {
	jobs := r.Keys
	if r.Snippets == 0 {
		jobs = min(jobs, readKeys)
	}
	r.env.say("writing %d documents", jobs)
	first := newSender(preloadWriters, r.Keys, r.Timeout, r.send.kinds[:1], r.send.find)
	defer first.close()
	var failed atomic.Int64
	write := func(ctx context.Context, worker int, n int64, _ time.Time) {
		var out sent
		for range preloadAttempts {
			if out = first.put(ctx, worker, n); out.ok() || !sleep(ctx, 100*time.Millisecond) {
				break
			}
		}
		if !out.ok() {
			failed.Add(1)
			r.failed("preload", out)
		}
	}
	Load{Workers: preloadWriters, Jobs: jobs}.Run(ctx, write, nil)
	if n := failed.Load(); n > 0 {
		_, examples := r.counters.snapshot()
		return fmt.Errorf("bench: %d of %d documents could not be written before the load: %s", n, jobs, strings.Join(examples, "; "))
	}
	return nil
}

// failed counts what is no answer to an overload.
func (r *overloadRun) failed(what string, out sent) {
	err := out.err
	if err == nil {
		err = errors.New(out.reason)
	}
	r.counters.failure(what, err)
}

// closed runs one closed loop of writes.
func (r *overloadRun) closed(ctx context.Context, clients int, d time.Duration) Summary {
	rec := NewRecorder()
	_, elapsed := Load{Workers: clients, Duration: d}.Run(ctx, func(ctx context.Context, worker int, _ int64, due time.Time) {
		if out := r.send.put(ctx, worker, r.send.next()); !out.ok() {
			rec.Failed()
			r.failed("peak", out)
			sleep(ctx, 10*time.Millisecond) // a refusal comes at once; do not hammer
			return
		}
		rec.Done(time.Since(due))
	}, nil)
	return rec.Summary(elapsed)
}

// peak runs the closed loops and keeps the best.
func (r *overloadRun) peak(ctx context.Context, out *OverloadResult) error {
	calm := r.readers(ctx, "light load")
	out.Light = r.closed(ctx, recoveryClients, lightTime).Latency
	out.Reads = append(out.Reads, calm())
	busy := r.readers(ctx, "peak")
	defer func() { out.Reads = append(out.Reads, busy()) }()
	for _, clients := range r.PeakClients {
		r.env.say("measuring the peak with %d clients for %s", clients, r.PeakTime)
		begin := r.usage(ctx)
		if s := r.closed(ctx, clients, r.PeakTime); s.PerSecond > out.Peak {
			out.Peak, out.PeakClients, out.PeakLatency = s.PerSecond, clients, s.Latency
			out.PeakCPU = perWrite(begin, r.usage(ctx), s.Count)
		}
	}
	if out.Peak == 0 {
		_, examples := r.counters.snapshot()
		return fmt.Errorf("bench: no write was accepted while the peak was measured: %s", strings.Join(examples, "; "))
	}
	return nil
}

// flood runs the open loop and returns the largest memory of each node.
func (r *overloadRun) flood(ctx context.Context, out *OverloadResult) []uint64 {
	out.Offered = out.Peak * r.Factor
	r.env.say("peak %.0f writes/s; now %.0f/s for %s", out.Peak, out.Offered, r.Time)
	accepted, due := NewRecorder(), NewRecorder()
	var refused Tally
	var other, bare, late, notSent atomic.Int64
	r.counters = counters{}
	watching, stopWatching := context.WithCancel(ctx)
	watched := make(chan []uint64, 1)
	health := NewRecorder()
	go func() { watched <- r.watch(watching, health) }()
	stop := r.env.live(func(elapsed time.Duration) string {
		n, latency := accepted.Window()
		return fmt.Sprintf("%3.0fs  %d accepted/s p50 %.1f p99 %.1f ms, %d refused in all", elapsed.Seconds(), n, latency.P50, latency.P99, refused.Total())
	})
	reads := r.readers(ctx, "overload")
	start := r.usage(ctx)
	load := Load{Workers: r.Clients, Duration: r.Time, Rate: out.Offered}
	starts, elapsed := load.Run(ctx, func(ctx context.Context, worker int, _ int64, dueAt time.Time) {
		begin := time.Now()
		if begin.Sub(dueAt) > patience {
			notSent.Add(1)
			return
		}
		answer := r.send.put(ctx, worker, r.send.next())
		switch {
		case answer.ok() && time.Since(dueAt) > r.Timeout:
			late.Add(1)
		case answer.ok():
			accepted.Done(time.Since(begin))
			due.Done(time.Since(dueAt))
		case answer.status == 429 || answer.status == 503:
			refused.Add(answer.reason)
			if !answer.retryAfter {
				bare.Add(1)
			}
		default:
			other.Add(1)
			r.failed("overload", answer)
		}
	}, nil)
	stop()
	out.Reads = append(out.Reads, reads())
	stopWatching()
	largest := <-watched
	out.Sent = float64(starts.Started-notSent.Load()) / elapsed.Seconds()
	out.NotSent = notSent.Load() + starts.NotStarted
	s := accepted.Summary(elapsed)
	out.OverloadCPU = perWrite(start, r.usage(ctx), s.Count)
	out.Goodput, out.Accepted, out.Due = s.PerSecond, s.Latency, due.Summary(elapsed).Latency
	out.GoodputShare, out.Late = out.Goodput/out.Peak, late.Load()
	out.Refused, out.Other, out.WithoutRetryAfter = refused.Map(), other.Load(), bare.Load()
	_, out.Examples = r.counters.snapshot()
	h := health.Summary(elapsed)
	out.Health, out.HealthFailed = h.Latency, h.Failed
	return largest
}

// watch asks every node for its health and its memory until ctx ends.
func (r *overloadRun) watch(ctx context.Context, health *Recorder) []uint64 {
	largest := make([]uint64, len(r.nodes))
	for sleep(ctx, 500*time.Millisecond) {
		for _, node := range r.nodes {
			begin := time.Now()
			ready, _, err := r.cl.Ready(ctx, node.Endpoint)
			switch {
			case ctx.Err() != nil:
			case err != nil || ready.Status != "ok":
				health.Failed()
			default:
				health.Done(time.Since(begin))
			}
		}
		for i, n := range r.usage(ctx).memory {
			largest[i] = max(largest[i], n)
		}
	}
	return largest
}

// recover sends a light load until it is served as before the overload.
func (r *overloadRun) recover(ctx context.Context, out *OverloadResult) {
	limit := max(recoveryLatency, time.Duration(recoveryFactor*out.Light.P99*float64(time.Millisecond)))
	begin := time.Now()
	for time.Since(begin) < r.Settle && ctx.Err() == nil {
		var bad, good atomic.Int64
		Load{Workers: recoveryClients, Duration: recoveryWindow}.Run(ctx, func(ctx context.Context, worker int, _ int64, due time.Time) {
			if out := r.send.put(ctx, worker, r.send.next()); !out.ok() || time.Since(due) > limit {
				bad.Add(1)
				sleep(ctx, 20*time.Millisecond) // a refusal comes at once; do not hammer
				return
			}
			good.Add(1)
		}, nil)
		if bad.Load() == 0 && good.Load() > 0 {
			out.Recovered = true
			out.RecoverySeconds = max(0, time.Since(begin).Seconds()-recoveryWindow.Seconds())
			return
		}
	}
	out.RecoverySeconds = time.Since(begin).Seconds()
}

// usage is what the processes use: the resident memory of each node, 0 for one
// that does not tell, and the processor time of all, this one included.
type usage struct {
	memory []uint64
	cpu    float64 // seconds
}

// usage asks all nodes at the same time.
func (r *overloadRun) usage(ctx context.Context) usage {
	texts := make([][]byte, len(r.nodes))
	var wait sync.WaitGroup
	for i, node := range r.nodes {
		wait.Go(func() { texts[i], _, _ = r.cl.NodeMetrics(ctx, node.Endpoint) })
	}
	wait.Wait()
	now := usage{cpu: ownCPU()}
	for _, text := range texts {
		now.memory = append(now.memory, uint64(sample(text, "process_resident_memory_bytes")))
		now.cpu += sample(text, "process_cpu_seconds_total")
	}
	return now
}

// sample finds a sample without labels in Prometheus' text format, 0 if it is
// not there.
func sample(text []byte, name string) float64 {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return f
		}
	}
	return 0
}

// perWrite is the processor time for each of n writes, in microseconds.
func perWrite(begin, end usage, n int64) float64 {
	return (end.cpu - begin.cpu) * 1e6 / float64(max(n, 1))
}

// Misses returns what the run did not reach: at least share of the peak as
// goodput, only 429 and 503 with Retry-After, back to normal within recovery.
func (r *OverloadResult) Misses(share float64, recovery time.Duration) []string {
	var out []string
	if r.GoodputShare < share {
		out = append(out, fmt.Sprintf("goodput is %.0f %% of the peak, not %.0f %%", 100*r.GoodputShare, 100*share))
	}
	if r.Other > 0 {
		out = append(out, fmt.Sprintf("%d requests failed otherwise than by 429 or 503", r.Other))
	}
	if r.WithoutRetryAfter > 0 {
		out = append(out, fmt.Sprintf("%d refusals had no Retry-After", r.WithoutRetryAfter))
	}
	if !r.Recovered || r.RecoverySeconds > recovery.Seconds() {
		out = append(out, fmt.Sprintf("back to normal after %.1f s, not within %s", r.RecoverySeconds, recovery))
	}
	return slices.Clip(out)
}
