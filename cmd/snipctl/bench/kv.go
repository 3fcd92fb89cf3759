package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// KV is a load of single operations: documents of one snippet.
type KV struct {
	Load
	// WriteShare is the part of puts, 0 (gets only) to 1 (puts only).
	WriteShare float64
	// Keys is how many different documents there are.
	Keys int64
	// ValueBytes is the size of a document's text.
	ValueBytes  int
	Consistency client.Consistency
	// NoKeys sends puts without idempotency keys.
	NoKeys     bool
	Collection string
	Keep       bool
	Seed       uint64
}

// KVResult is what a run gave.
type KVResult struct {
	Clients     int     `json:"clients"`
	Rate        float64 `json:"open_rate,omitempty"`
	WriteShare  float64 `json:"write_share"`
	ValueBytes  int     `json:"value_bytes"`
	Keys        int64   `json:"keys"`
	Consistency string  `json:"consistency,omitempty"`
	Starts
	Failed    int64   `json:"failed"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"operations_per_second"`
	Put       Summary `json:"put"`
	Get       Summary `json:"get"`
	// Nodes has the reads of each node.
	Nodes   map[string]Summary `json:"reads_by_node,omitempty"`
	Retries map[string]int64   `json:"retries"`
	Refusals
	Errors   map[string]int64 `json:"errors"`
	Examples []string         `json:"examples,omitempty"`
}

// OK says that nothing failed. Operations that were not started are no failures:
// they say that the load was more than the clients could do, which is a result.
func (r *KVResult) OK() bool { return r.Failed == 0 && r.Put.Count+r.Get.Count > 0 }

// kvRun is one run's state.
type kvRun struct {
	KV
	cl       *client.Client
	session  *client.Session
	nodes    []Node
	byNode   []*Recorder
	put, get *Recorder
	counters counters
	turn     atomic.Int64
}

// Run loads the keys if there are reads, and does the load.
func (k KV) Run(ctx context.Context, env *Env) (*KVResult, error) {
	r := &kvRun{KV: k, put: NewRecorder(), get: NewRecorder()}
	var err error
	if r.cl, err = env.NewClient(k.Workers, false, r.counters.retry); err != nil {
		return nil, err
	}
	defer r.cl.Close()
	r.session = r.cl.NewSession()
	if r.Collection == "" {
		r.Collection = "bench-" + runName()
	}
	own, err := ensureCollection(ctx, r.cl, r.Collection, 0)
	if err != nil {
		return nil, err
	}
	if own && !k.Keep {
		defer func() { _, _ = r.cl.DeleteCollection(context.WithoutCancel(ctx), r.Collection) }()
	}
	if k.WriteShare < 1 {
		env.say("writing %d keys", k.Keys)
		if err := r.preload(ctx); err != nil {
			return nil, err
		}
		r.nodes = env.nodes(ctx, r.cl)
		for _, node := range r.nodes {
			r.byNode = append(r.byNode, NewRecorder())
			// A local read of a follower that is behind would not find the keys.
			if _, _, err := r.session.GetDocument(ctx, r.Collection, r.id(0), client.OnEndpoint(node.Endpoint)); err != nil {
				return nil, fmt.Errorf("bench: wait for %s to have the keys: %w", node.ID, err)
			}
		}
	}
	stop := env.live(r.line)
	starts, elapsed := k.Load.Run(ctx, r.job, r.missed)
	stop()
	if ctx.Err() != nil {
		return r.result(starts, elapsed), fmt.Errorf("bench: interrupted: %w", context.Cause(ctx))
	}
	return r.result(starts, elapsed), nil
}

func (r *kvRun) id(n int64) string { return fmt.Sprintf("key-%08d", n) }

func (r *kvRun) document(n int64, version int) wire.DocumentInput {
	return wire.DocumentInput{Content: wire.Content{Text(r.Seed, n, version, r.ValueBytes)}}
}

// The shape of the preload: batches below one log entry, a few at once.
const (
	preloadBytes   = 256 << 10
	preloadWriters = 8
)

// preload writes every key once, so that each read finds something.
func (r *kvRun) preload(ctx context.Context) error {
	size := max(1, min(500, preloadBytes/int64(r.ValueBytes+200)))
	var (
		next  atomic.Int64
		wait  sync.WaitGroup
		once  sync.Once
		first error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range preloadWriters {
		wait.Go(func() {
			for ctx.Err() == nil {
				from := next.Add(size) - size
				if from >= r.Keys {
					return
				}
				var ops []wire.Operation
				for n := from; n < min(from+size, r.Keys); n++ {
					doc := r.document(n, 0)
					ops = append(ops, wire.Operation{Op: wire.OpPutDoc, ID: r.id(n), Doc: &doc})
				}
				if _, _, err := r.session.Batch(ctx, r.Collection, ops); err != nil {
					once.Do(func() { first = fmt.Errorf("bench: write the keys: %w", err) })
					cancel()
				}
			}
		})
	}
	wait.Wait()
	if first == nil && ctx.Err() != nil {
		first = context.Cause(ctx)
	}
	return first
}

// job is one put or get of a key chosen at random.
func (r *kvRun) job(ctx context.Context, _ int, n int64, due time.Time) {
	key := rand.Int64N(r.Keys)
	begin := due
	if r.Rate == 0 {
		begin = time.Now()
	}
	at, put := r.choose()
	if put {
		var opts []client.WriteOption
		if r.NoKeys {
			opts = append(opts, client.WithoutIdempotencyKey())
		}
		_, _, err := r.session.PutDocument(ctx, r.Collection, r.id(key), r.document(key, int(n&0xffff)), opts...)
		r.record(ctx, r.put, nil, "put", begin, err)
		return
	}
	level := r.Consistency
	if level.Level == client.LevelSession {
		level.MinIndex = r.session.Index()
	}
	_, _, err := r.cl.GetDocument(ctx, r.Collection, r.id(key), client.OnEndpoint(r.nodes[at].Endpoint), client.WithConsistency(level))
	r.record(ctx, r.get, r.byNode[at], "get from "+r.nodes[at].ID, begin, err)
}

// choose says whether an operation is a put, and if not, which node is read:
// they take turns, whoever asks.
func (r *kvRun) choose() (at int, put bool) {
	if r.WriteShare >= 1 || rand.Float64() < r.WriteShare {
		return 0, true
	}
	return int(r.turn.Add(1)) % len(r.nodes), false
}

// missed counts an operation that was not started. What it would have been is
// chosen as for those that were.
func (r *kvRun) missed(_ int64, waited time.Duration) {
	at, put := r.choose()
	if put {
		r.put.Missed(waited)
		return
	}
	r.get.Missed(waited)
	r.byNode[at].Missed(waited)
}

func (r *kvRun) record(ctx context.Context, all, node *Recorder, what string, begin time.Time, err error) {
	took := time.Since(begin)
	if err != nil && ctx.Err() != nil {
		return // the user ended it; that is no failure of the cluster
	}
	for _, rec := range []*Recorder{all, node} {
		switch {
		case rec == nil:
		case err != nil:
			rec.Failed()
		default:
			rec.Done(took)
		}
	}
	if err != nil {
		r.counters.failure(what, err)
	}
}

func (r *kvRun) line(elapsed time.Duration) string {
	puts, put := r.put.Window()
	gets, get := r.get.Window()
	return fmt.Sprintf("%3.0fs  %d puts/s p50 %.2f p99 %.2f ms, %d gets/s p50 %.2f p99 %.2f ms, %d retries, %d failed",
		elapsed.Seconds(), puts, put.P50, put.P99, gets, get.P50, get.P99, r.counters.retries.Total(), r.counters.errors.Total())
}

func (r *kvRun) result(starts Starts, elapsed time.Duration) *KVResult {
	out := &KVResult{
		Clients: r.Workers, Rate: r.Rate, WriteShare: r.WriteShare, ValueBytes: r.ValueBytes, Keys: r.Keys,
		Starts: starts, Seconds: elapsed.Seconds(), Put: r.put.Summary(elapsed), Get: r.get.Summary(elapsed),
		Retries: r.counters.retries.Map(), Errors: r.counters.errors.Map(),
	}
	if r.WriteShare < 1 {
		out.Consistency = r.Consistency.Level
		out.Nodes = map[string]Summary{}
		for i, node := range r.nodes {
			out.Nodes[node.ID] = r.byNode[i].Summary(elapsed)
		}
	}
	out.PerSecond = out.Put.PerSecond + out.Get.PerSecond
	out.Failed = out.Put.Failed + out.Get.Failed
	out.Refusals, out.Examples = r.counters.snapshot()
	return out
}
