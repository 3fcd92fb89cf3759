package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// Workflows is the load that the project exists for: many workers, each of
// which creates a document with its snippets, waits as an embedding model
// would, and writes all embeddings of the document in one call.
type Workflows struct {
	Load
	Snippets, SnippetBytes, Dimension int
	// Think is the embedding model's time per document.
	Think time.Duration
	// Collection is where documents go; empty: one of the run's own, which is
	// deleted at the end if all was well and Keep is not set.
	Collection string
	Keep       bool
	Seed       uint64
	// Verify says which nodes are looked at in the end.
	Verify VerifyScope
	// VerifyWait is how long a node may take to reach the last index.
	VerifyWait time.Duration
}

// model is the name of the embedding model that the load pretends to be.
const model = "bench"

// WorkflowResult is what a run gave.
type WorkflowResult struct {
	Workers      int     `json:"workers"`
	Rate         float64 `json:"open_rate,omitempty"`
	Snippets     int     `json:"snippets"`
	SnippetBytes int     `json:"snippet_bytes"`
	Dimension    int     `json:"dimension"`
	ThinkMs      int64   `json:"think_ms"`
	Collection   string  `json:"collection"`
	// Started workflows are Completed or Failed.
	Starts
	Completed int64   `json:"completed"`
	Failed    int64   `json:"failed"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"workflows_per_second"`
	// Bytes are text and vectors, as they are stored.
	MBPerSecond float64 `json:"mb_per_second"`
	// Create and Embed are the two calls; Workflow is from the moment a
	// workflow was due to its end, thinking included. Workflows that were due
	// and not started are in Create and Workflow: see Summary.NotStarted.
	Create   Summary          `json:"create"`
	Embed    Summary          `json:"embed"`
	Workflow Summary          `json:"workflow"`
	Retries  map[string]int64 `json:"retries"`
	Refusals
	Errors   map[string]int64 `json:"errors"`
	Examples []string         `json:"examples,omitempty"`
	// Replayed counts answers that came from an earlier attempt's result.
	Replayed     int64         `json:"replayed"`
	Verification *Verification `json:"verification,omitempty"`
}

// OK says that nothing failed, and that nothing was lost or doubled. Workflows
// that were not started are none of these: they say that the load was more than
// the workers could do, which is a result.
func (r *WorkflowResult) OK() bool {
	return r.Failed == 0 && r.Completed > 0 && (r.Verification == nil || r.Verification.OK)
}

// workflowRun is one run's state.
type workflowRun struct {
	Workflows
	env  *Env
	cl   *client.Client
	name string

	counters                counters
	create, embed, workflow *Recorder
	replayed                atomic.Int64

	mu sync.Mutex
	// revisions has, for every workflow that was started, the revision that its
	// document must have; 0 if the workflow failed, so that nothing is known.
	revisions map[int64]uint64
	lastIndex uint64
}

// Run does the load and verifies it.
func (w Workflows) Run(ctx context.Context, env *Env) (*WorkflowResult, error) {
	r := &workflowRun{
		Workflows: w, env: env, name: runName(),
		create: NewRecorder(), embed: NewRecorder(), workflow: NewRecorder(), revisions: map[int64]uint64{},
	}
	var err error
	if r.cl, err = env.NewClient(w.Workers, false, r.counters.retry); err != nil {
		return nil, err
	}
	defer r.cl.Close()
	if r.Collection == "" {
		r.Collection = "bench-" + r.name
	}
	own, err := ensureCollection(ctx, r.cl, r.Collection, w.Dimension)
	if err != nil {
		return nil, err
	}
	stop := env.live(r.line)
	starts, elapsed := w.Load.Run(ctx, r.job, r.missed)
	stop()
	result := r.result(starts, elapsed)
	if w.Verify != VerifyNone && ctx.Err() == nil {
		env.say("verifying %d documents", len(r.revisions))
		result.Verification = r.verify(ctx, own)
	}
	if own && !w.Keep && result.OK() {
		if _, err := r.cl.DeleteCollection(ctx, r.Collection); err != nil {
			return result, fmt.Errorf("bench: delete collection %s: %w", r.Collection, err)
		}
	}
	if ctx.Err() != nil {
		return result, fmt.Errorf("bench: interrupted: %w", context.Cause(ctx))
	}
	return result, nil
}

func (r *workflowRun) id(n int64) string { return fmt.Sprintf("%s-%07d", r.name, n) }

func (r *workflowRun) owner() *wire.Owner { return &wire.Owner{Type: "bench", ID: r.name} }

// job is one workflow.
func (r *workflowRun) job(ctx context.Context, _ int, n int64, due time.Time) {
	revision, index, err := r.do(ctx, n, due)
	if err != nil {
		r.workflow.Failed()
		r.counters.failure(r.id(n), err)
	} else {
		r.workflow.Done(time.Since(due))
	}
	r.mu.Lock()
	r.revisions[n] = revision
	r.lastIndex = max(r.lastIndex, index)
	r.mu.Unlock()
}

// missed counts a workflow that was not started, with its first call.
func (r *workflowRun) missed(_ int64, waited time.Duration) {
	r.create.Missed(waited)
	r.workflow.Missed(waited)
}

func (r *workflowRun) do(ctx context.Context, n int64, due time.Time) (revision, index uint64, err error) {
	in := wire.DocumentInput{Owner: r.owner(), Title: "workflow " + r.id(n)}
	for i := range r.Snippets {
		in.Snippets = append(in.Snippets, wire.SnippetInput{Content: Text(r.Seed, n, i, r.SnippetBytes)})
	}
	begin := due // in an open loop, the wait for a free worker is part of it
	if r.Rate == 0 {
		begin = time.Now()
	}
	// IfAbsent makes a second application of the same request visible: it
	// would be refused.
	_, meta, err := r.cl.PutDocument(ctx, r.Collection, r.id(n), in, client.IfAbsent())
	if err != nil {
		r.create.Failed()
		return 0, meta.Index, fmt.Errorf("create the document: %w", err)
	}
	r.create.Done(time.Since(begin))
	r.replay(meta)
	vectors := wire.EmbeddingsInput{Model: model}
	for i := range r.Snippets {
		vectors.Embeddings = append(vectors.Embeddings, wire.EmbeddingInput{Index: i, Vector: Vector(r.Seed, n, i, r.Dimension).Floats()})
	}
	if !sleep(ctx, r.Think) {
		return 0, meta.Index, context.Cause(ctx)
	}
	begin = time.Now()
	out, meta, err := r.cl.PutEmbeddings(ctx, r.Collection, r.id(n), vectors)
	if err != nil {
		r.embed.Failed()
		return 0, meta.Index, fmt.Errorf("write the embeddings: %w", err)
	}
	r.embed.Done(time.Since(begin))
	r.replay(meta)
	if out.Updated != r.Snippets {
		return 0, meta.Index, fmt.Errorf("write the embeddings: %d of %d were set", out.Updated, r.Snippets)
	}
	if out.Revision == 0 {
		return 0, meta.Index, errors.New("write the embeddings: the answer has no revision")
	}
	return out.Revision, max(meta.Index, out.Revision), nil
}

func (r *workflowRun) replay(meta client.Meta) {
	if meta.Replayed {
		r.replayed.Add(1)
	}
}

// line is the live progress.
func (r *workflowRun) line(elapsed time.Duration) string {
	_, create := r.create.Window()
	_, embed := r.embed.Window()
	rate, _ := r.workflow.Window()
	total := r.workflow.Summary(0)
	return fmt.Sprintf("%3.0fs  %d workflows, %d/s, create p50 %.1f p99 %.1f ms, embed p50 %.1f p99 %.1f ms, %d retries, %d failed",
		elapsed.Seconds(), total.Count, rate, create.P50, create.P99, embed.P50, embed.P99, r.counters.retries.Total(), total.Failed)
}

func (r *workflowRun) result(starts Starts, elapsed time.Duration) *WorkflowResult {
	workflow := r.workflow.Summary(elapsed)
	out := &WorkflowResult{
		Workers: r.Workers, Rate: r.Rate, Snippets: r.Snippets, SnippetBytes: r.SnippetBytes, Dimension: r.Dimension,
		ThinkMs: r.Think.Milliseconds(), Collection: r.Collection,
		Starts: starts, Completed: workflow.Count, Failed: starts.Started - workflow.Count,
		Seconds: elapsed.Seconds(), PerSecond: workflow.PerSecond,
		Create: r.create.Summary(elapsed), Embed: r.embed.Summary(elapsed), Workflow: workflow,
		Retries: r.counters.retries.Map(), Errors: r.counters.errors.Map(), Replayed: r.replayed.Load(),
	}
	out.MBPerSecond = out.PerSecond * float64(r.Snippets*(r.SnippetBytes+4*r.Dimension)) / 1e6
	out.Refusals, out.Examples = r.counters.snapshot()
	return out
}
