package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cmd/snipctl/bench"
	"github.com/snipdb/snipdb/httpapi/client"
)

func (a *app) benchCommand() *cobra.Command {
	return group("bench", "generate load and measure", a.benchWorkflows(), a.benchKV(), a.benchOverload())
}

// benchFlags are what all benchmarks share.
type benchFlags struct {
	collection string
	keep       bool
	seed       uint64
	quiet      bool
	opTimeout  time.Duration
	numbers    bool
}

func (b *benchFlags) add(cmd *cobra.Command, opTimeout time.Duration) {
	f := cmd.Flags()
	f.StringVar(&b.collection, "collection", "", "write here (default: a collection of the run's own, deleted in the end)")
	f.BoolVar(&b.keep, "keep", false, "do not delete the run's own collection")
	f.Uint64Var(&b.seed, "seed", 1, "makes the texts and vectors")
	f.BoolVarP(&b.quiet, "quiet", "q", false, "no live progress")
	f.DurationVar(&b.opTimeout, "op-timeout", opTimeout, "how long one operation may take, with its retries")
	f.BoolVar(&b.numbers, "json-vectors", false, "send vectors as JSON numbers instead of base64")
}

// env is the benchmarks' way to the cluster.
func (a *app) env(b *benchFlags) *bench.Env {
	env := &bench.Env{Endpoints: a.endpoints}
	env.NewClient = func(conns int, single bool, onRetry func(client.RetryEvent)) (*client.Client, error) {
		o := a.clientOptions()
		o.Timeout, o.MaxIdleConns, o.OnRetry, o.VectorsAsNumbers = b.opTimeout, conns+64, onRetry, b.numbers
		if single {
			o.MaxAttempts, o.AttemptTimeout = 1, o.Timeout
		}
		return client.New(a.endpoints, o)
	}
	if !b.quiet {
		env.Say = func(line string) { fmt.Fprintln(a.stderr, line) }
	}
	return env
}

// maxWorkers bounds a load generator: beyond it the machine measures itself.
const maxWorkers = 10_000

// maxRate bounds --open-rate: beyond it a timer is no clock for single jobs.
const (
	maxRate   = 1e6
	rateUsage = "--open-rate must be from 0 to %.0f"
)

func validRate(rate float64) bool { return rate >= 0 && rate <= maxRate }

// openLoopHelp says what all open loops have in common.
const openLoopHelp = `What is due while all workers are busy starts late, and what would start after the end
of the load is not started. It is counted as that, and is in the latencies with the
time from when it was due to the end of the load: a lower bound, so with any of them
the latencies are shown with a "≥". They make a warning and not the exit code: the load
was more than the workers, or the cluster, could do.`

// checkWorkers looks at a list of numbers of workers.
func checkWorkers(flag string, list []int) error {
	for _, n := range list {
		if n < 1 || n > maxWorkers {
			return usagef("--%s must be from 1 to %d, not %d", flag, maxWorkers, n)
		}
	}
	if len(list) == 0 {
		return usagef("--%s is empty", flag)
	}
	return nil
}

func (a *app) benchWorkflows() *cobra.Command {
	var (
		b       benchFlags
		w       bench.Workflows
		workers []int
		verify  string
	)
	cmd := &cobra.Command{
		Use:   "embed-workflows",
		Short: "many workers: create a document, wait for the model, write its embeddings",
		Long: `Runs the work that snipdb is made for: each worker creates a document with its
snippets, waits as an embedding model would (--think), and writes all embeddings of
the document in one call. In the end every document is read from every node and
compared with what was written: text, vectors, counts, listing.

With --open-rate workflows begin at that rate, whether or not earlier ones are done,
and the latencies of create and workflow count from the moment it was due.

` + openLoopHelp + `

The exit code is 1 if anything failed, was lost or was there twice, if no node could
be verified, or if a node that answers did not reach the last write in --verify-wait.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkWorkers("workers", workers); err != nil {
				return err
			}
			switch w.Verify = bench.VerifyScope(verify); {
			case w.Verify != bench.VerifyAll && w.Verify != bench.VerifyReachable && w.Verify != bench.VerifyNone:
				return usagef("--verify must be all, reachable or none, not %q", verify)
			case w.Snippets < 1 || w.SnippetBytes < 1 || w.Dimension < 1:
				return usagef("--snippets, --snippet-bytes and --dim must be above 0")
			case !validRate(w.Rate):
				return usagef(rateUsage, maxRate)
			case w.Jobs <= 0 && w.Duration <= 0:
				return usagef("give --docs or --duration, so that the load ends")
			}
			w.Collection, w.Keep, w.Seed = b.collection, b.keep, b.seed
			return a.runWorkflows(cmd.Context(), &b, w, workers)
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&workers, "workers", []int{64}, "concurrent workers; several numbers make several runs")
	f.Int64Var(&w.Jobs, "docs", 1000, "documents; 0: as many as fit into --duration")
	f.DurationVar(&w.Duration, "duration", 0, "stop to begin workflows after this time; 0: when all --docs are done")
	f.IntVar(&w.Snippets, "snippets", 10, "snippets per document")
	f.IntVar(&w.SnippetBytes, "snippet-bytes", 1024, "bytes of text per snippet")
	f.IntVar(&w.Dimension, "dim", 1024, "length of an embedding")
	f.DurationVar(&w.Think, "think", 200*time.Millisecond, "what the embedding model takes for a document")
	f.Float64Var(&w.Rate, "open-rate", 0, "open loop: begin this many workflows per second; 0: closed loop")
	f.StringVar(&verify, "verify", "all", "verify on all nodes, on those that answer (reachable), or on none")
	f.DurationVar(&w.VerifyWait, "verify-wait", 30*time.Second, "how long a node may take to reach the last write")
	b.add(cmd, time.Minute)
	return cmd
}

func (a *app) runWorkflows(ctx context.Context, b *benchFlags, w bench.Workflows, workers []int) error {
	results := []*bench.WorkflowResult{}
	var failed error
	for _, n := range workers {
		w.Workers = n
		result, err := w.Run(ctx, a.env(b))
		if result != nil {
			results = append(results, result)
			if !result.OK() && failed == nil {
				failed = fmt.Errorf("the run with %d workers is not clean: see failed and verification%s", n, unverified(result))
			}
		}
		if err != nil {
			failed = err
			break
		}
	}
	if len(results) > 0 {
		if err := a.printRuns(results, func() *table { return workflowTable(results) }, func() { a.workflowDetails(results) }); err != nil {
			return err
		}
	}
	return failed
}

// unverified says so if no node was looked at, although one was to be.
func unverified(r *bench.WorkflowResult) string {
	if v := r.Verification; v != nil && v.Verified == 0 {
		return "; no node was verified"
	}
	return ""
}

// printRuns writes the results, and under a table the details.
func (a *app) printRuns(results any, text func() *table, details func()) error {
	if err := a.print(map[string]any{"runs": results}, text); err != nil {
		return err
	}
	if a.output == "table" {
		details()
	}
	return nil
}

func workflowTable(results []*bench.WorkflowResult) *table {
	t := newTable(">WORKERS", ">DONE", ">FAILED", ">NOT STARTED", ">SECONDS", ">WORKFLOWS/S", ">MB/S", ">CREATE P50", ">P99", ">EMBED P50", ">P99",
		">WORKFLOW P50", ">P99", ">MAX", ">RETRIES", ">429", ">503", ">LOST", ">WRONG", ">DOUBLE")
	for _, r := range results {
		var retries int64
		for _, n := range r.Retries {
			retries += n
		}
		lost, wrong, double := "-", "-", "-"
		if v := r.Verification; v != nil {
			var l, w, d int64
			for _, n := range v.Nodes {
				l, w, d = l+n.Lost, w+n.Wrong+n.Unknown, d+n.Duplicated
			}
			lost, wrong, double = fmt.Sprint(l), fmt.Sprint(w), fmt.Sprint(d)
		}
		create, workflow := latencyOf(r.Create), latencyOf(r.Workflow)
		t.add(r.Workers, r.Completed, r.Failed, r.NotStarted, dec(r.Seconds), dec(r.PerSecond), dec(r.MBPerSecond), create(r.Create.P50), create(r.Create.P99),
			ms(r.Embed.P50), ms(r.Embed.P99), workflow(r.Workflow.P50), workflow(r.Workflow.P99), workflow(r.Workflow.Max), retries, r.TooMany, r.Unavailable, lost, wrong, double)
	}
	return t
}

func (a *app) workflowDetails(results []*bench.WorkflowResult) {
	for _, r := range results {
		fmt.Fprintf(a.stdout, "\n%d workers: %d documents of %d snippets of %d bytes and %d-d embeddings, think %dms; retries: %s; errors: %s; replayed: %d\n",
			r.Workers, r.Started, r.Snippets, r.SnippetBytes, r.Dimension, r.ThinkMs, bench.Counts(r.Retries), bench.Counts(r.Errors), r.Replayed)
		a.examples(r.Examples)
		a.starts(r.Rate, r.Starts, "workflows", "--workers")
		if r.Verification == nil {
			continue
		}
		for _, n := range r.Verification.Nodes {
			fmt.Fprintf(a.stdout, "  %s at index %d: %d documents right, %d lost, %d wrong, %d duplicated, %d unknown",
				n.ID, r.Verification.Index, n.Documents, n.Lost, n.Wrong, n.Duplicated, n.Unknown)
			if n.Skipped != "" {
				fmt.Fprintf(a.stdout, "; skipped: %s", n.Skipped)
			}
			fmt.Fprintln(a.stdout)
			a.examples(n.Examples)
		}
		if r.Verification.Verified == 0 {
			fmt.Fprintln(a.stdout, "  no node was verified: what the cluster has of the run is not known")
		}
	}
}

// starts says of an open loop how much of it was begun, and if not all was,
// what that means for the numbers.
func (a *app) starts(rate float64, s bench.Starts, what, flag string) {
	if rate == 0 {
		return
	}
	fmt.Fprintf(a.stdout, "  open loop of %g/s: %d %s were due, %d started, %d not started\n", rate, s.Due, what, s.Started, s.NotStarted)
	if s.NotStarted > 0 {
		fmt.Fprintf(a.stdout, `  WARNING: the load generator or the cluster did not keep up with %g/s: %d %s
  were due while all workers were busy, and not started by the end of the load. In the
  latencies they count with the time that they had waited by then, a lower bound (≥).
  If the cluster is not the limit, give more %s.
`, rate, s.NotStarted, what, flag)
	}
}

// shownExamples is how many failures a table shows in full; JSON has more.
const shownExamples = 3

func (a *app) examples(list []string) {
	for _, e := range list[:min(len(list), shownExamples)] {
		fmt.Fprintln(a.stdout, "  - "+clean(e))
	}
}

// dec renders a rate, ms a latency, with as many digits as mean something.
func dec(f float64) string {
	if f >= 100 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.1f", f)
}

func ms(f float64) string {
	switch {
	case f >= 100:
		return fmt.Sprintf("%.0fms", f)
	case f >= 10:
		return fmt.Sprintf("%.1fms", f)
	default:
		return fmt.Sprintf("%.2fms", f)
	}
}

// latencyOf renders the latencies of a summary: with operations that were not
// started they are lower bounds.
func latencyOf(s bench.Summary) func(float64) string {
	if s.NotStarted == 0 {
		return ms
	}
	return func(f float64) string { return "≥" + ms(f) }
}

func (a *app) benchKV() *cobra.Command {
	var (
		b       benchFlags
		k       bench.KV
		op      string
		share   float64
		clients []int
		read    readFlags
	)
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "single operations: put, get or a mix of both",
		Long: `Puts and gets documents of one snippet. Reads go to all nodes in turn, with the
consistency level given. --clients 1,16,64,256 makes a run for each number.

With --open-rate operations begin at that rate, and latencies count from the moment
an operation was due.

` + openLoopHelp + `

The exit code is 1 if an operation failed, or if none was done.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkWorkers("clients", clients); err != nil {
				return err
			}
			var err error
			if k.Consistency, err = read.level(); err != nil {
				return err
			}
			switch op {
			case "put":
				k.WriteShare = 1
			case "get":
				k.WriteShare = 0
			case "mixed":
				k.WriteShare = share
			default:
				return usagef("--op must be put, get or mixed, not %q", op)
			}
			switch {
			case share < 0 || share > 1:
				return usagef("--write-share must be from 0 to 1")
			case k.Keys < 1 || k.ValueBytes < 1:
				return usagef("--keys and --value-bytes must be above 0")
			case !validRate(k.Rate):
				return usagef(rateUsage, maxRate)
			case k.Jobs <= 0 && k.Duration <= 0:
				return usagef("give --ops or --duration, so that the load ends")
			}
			k.Collection, k.Keep, k.Seed = b.collection, b.keep, b.seed
			return a.runKV(cmd.Context(), &b, k, clients)
		},
	}
	f := cmd.Flags()
	f.StringVar(&op, "op", "put", "put, get or mixed")
	f.Float64Var(&share, "write-share", 0.1, "share of puts in mixed")
	f.IntSliceVar(&clients, "clients", []int{64}, "concurrent clients; several numbers make several runs")
	f.Int64Var(&k.Jobs, "ops", 0, "operations; 0: as many as fit into --duration")
	f.DurationVar(&k.Duration, "duration", 10*time.Second, "how long; 0: until all --ops are done")
	f.Float64Var(&k.Rate, "open-rate", 0, "open loop: begin this many operations per second; 0: closed loop")
	f.Int64Var(&k.Keys, "keys", 10_000, "different documents")
	f.IntVar(&k.ValueBytes, "value-bytes", 1024, "bytes of text per document")
	f.BoolVar(&k.NoKeys, "no-idempotency-keys", false, "send puts without idempotency keys")
	read.add(cmd, client.LevelLocal)
	b.add(cmd, time.Minute)
	return cmd
}

func (a *app) runKV(ctx context.Context, b *benchFlags, k bench.KV, clients []int) error {
	results := []*bench.KVResult{}
	var failed error
	for _, n := range clients {
		k.Workers = n
		result, err := k.Run(ctx, a.env(b))
		if result != nil {
			results = append(results, result)
			if !result.OK() && failed == nil {
				failed = fmt.Errorf("with %d clients %d operations failed", n, result.Failed)
			}
		}
		if err != nil {
			failed = err
			break
		}
	}
	if len(results) > 0 {
		if err := a.printRuns(results, func() *table { return kvTable(results) }, func() { a.kvDetails(results) }); err != nil {
			return err
		}
	}
	return failed
}

func kvTable(results []*bench.KVResult) *table {
	t := newTable(">CLIENTS", "OPERATION", "CONSISTENCY", "NODE", ">COUNT", ">FAILED", ">NOT STARTED", ">PER SECOND", ">MEAN", ">P50", ">P90", ">P99", ">P99.9", ">MAX")
	row := func(clients int, op, level, node string, s bench.Summary) {
		ms := latencyOf(s)
		t.add(clients, op, level, node, s.Count, s.Failed, s.NotStarted, dec(s.PerSecond), ms(s.Mean), ms(s.P50), ms(s.P90), ms(s.P99), ms(s.P999), ms(s.Max))
	}
	for _, r := range results {
		if r.WriteShare > 0 {
			row(r.Clients, "put", "-", "leader", r.Put)
		}
		if r.WriteShare < 1 {
			row(r.Clients, "get", r.Consistency, "all", r.Get)
			for _, id := range slices.Sorted(maps.Keys(r.Nodes)) {
				row(r.Clients, "get", r.Consistency, id, r.Nodes[id])
			}
		}
	}
	return t
}

func (a *app) kvDetails(results []*bench.KVResult) {
	for _, r := range results {
		if len(r.Retries)+len(r.Errors) > 0 || r.Rate > 0 {
			fmt.Fprintf(a.stdout, "\n%d clients: retries: %s; errors: %s\n", r.Clients, bench.Counts(r.Retries), bench.Counts(r.Errors))
			a.examples(r.Examples)
			a.starts(r.Rate, r.Starts, "operations", "--clients")
		}
	}
}

func (a *app) benchOverload() *cobra.Command {
	var (
		b        benchFlags
		o        bench.Overload
		share    float64
		recovery time.Duration
	)
	cmd := &cobra.Command{
		Use:   "overload",
		Short: "more writes than the cluster can take: what it still does, and how soon it is well again",
		Long: `Measures the peak in a closed loop, then sends a multiple of it in an open loop
without retries, then waits until a light load is served as before. The exit code
is 1 if the goodput is below --min-goodput of the peak, if anything but 429 and 503
with Retry-After came back, or if the recovery took longer than --max-recovery.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(checkWorkers("clients", []int{o.Clients}), checkWorkers("peak-clients", o.PeakClients)); err != nil {
				return err
			}
			if o.Factor <= 0 || o.Time <= 0 || o.PeakTime <= 0 || o.Keys < 1 || o.ValueBytes < 1 {
				return usagef("--factor, --duration, --peak-duration, --keys and --value-bytes must be above 0")
			}
			if o.Snippets < 0 || o.Snippets > 0 && (o.Dimension < 1 || o.Keys < 2) {
				return usagef("--snippets must not be negative; with it --dim must be above 0 and --keys above 1")
			}
			o.Collection, o.Keep, o.Seed, o.Timeout = b.collection, b.keep, b.seed, b.opTimeout
			result, err := o.Run(cmd.Context(), a.env(&b))
			if result != nil {
				misses := result.Misses(share, recovery)
				if perr := a.print(map[string]any{"result": result, "misses": misses}, func() *table { return overloadTable(result) }); perr != nil {
					return perr
				}
				if err == nil && len(misses) > 0 {
					err = errors.New(strings.Join(misses, "; "))
				}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.IntSliceVar(&o.PeakClients, "peak-clients", []int{64, 256, 1024}, "clients of the closed loops, the best of which is the peak")
	f.DurationVar(&o.PeakTime, "peak-duration", 5*time.Second, "how long each of them lasts")
	f.Float64Var(&o.Factor, "factor", 3, "the overload's rate is this times the peak")
	f.DurationVar(&o.Time, "duration", 20*time.Second, "how long the overload lasts")
	f.IntVar(&o.Clients, "clients", 3000, "requests under way at the same time, at most")
	f.DurationVar(&o.Settle, "settle", 15*time.Second, "how long to wait for the return to normal")
	f.IntVar(&o.ValueBytes, "value-bytes", 1024, "bytes of text per snippet")
	f.IntVar(&o.Snippets, "snippets", 0, "the two calls of the embedding workflow in turn: documents of so many snippets, and their embeddings; 0: documents of one snippet without one")
	f.IntVar(&o.Dimension, "dim", 1024, "length of an embedding, with --snippets")
	f.Int64Var(&o.Keys, "keys", 10_000, "different documents")
	f.BoolVar(&o.Spread, "spread", false, "send to all nodes in turn, so that followers forward, in place of the leader alone")
	f.Float64Var(&share, "min-goodput", 0.7, "the share of the peak that must still be done")
	f.DurationVar(&recovery, "max-recovery", 5*time.Second, "the time in which all must be normal again")
	b.add(cmd, 10*time.Second)
	return cmd
}

func overloadTable(r *bench.OverloadResult) *table {
	refused := bench.Counts(r.Refused)
	t := fields(
		"light load", fmt.Sprintf("p50 %s, p99 %s", ms(r.Light.P50), ms(r.Light.P99)),
		"peak", fmt.Sprintf("%.0f writes/s with %d clients, p50 %s, p99 %s", r.Peak, r.PeakClients, ms(r.PeakLatency.P50), ms(r.PeakLatency.P99)),
		"offered", fmt.Sprintf("%.0f writes/s, of which %.0f/s were sent; %d found no free connection", r.Offered, r.Sent, r.NotSent),
		"goodput", fmt.Sprintf("%.0f writes/s, %.0f %% of the peak; acknowledged too late: %d", r.Goodput, 100*r.GoodputShare, r.Late),
		"processor time a write", fmt.Sprintf("%.0f µs at the peak, %.0f µs in the overload: %.0f %%", r.PeakCPU, r.OverloadCPU, 100*r.PeakCPU/max(r.OverloadCPU, 1)),
		"accepted, from when sent", fmt.Sprintf("p50 %s, p99 %s, max %s", ms(r.Accepted.P50), ms(r.Accepted.P99), ms(r.Accepted.Max)),
		"accepted, from when due", fmt.Sprintf("p50 %s, p99 %s, max %s", ms(r.Due.P50), ms(r.Due.P99), ms(r.Due.Max)),
		"refused", refused,
		"without Retry-After", r.WithoutRetryAfter,
		"other failures", r.Other,
		"/readyz meanwhile", fmt.Sprintf("p50 %s, p99 %s, max %s, %d failed", ms(r.Health.P50), ms(r.Health.P99), ms(r.Health.Max), r.HealthFailed),
		"back to normal", fmt.Sprintf("%v, after %.1f s", r.Recovered, r.RecoverySeconds),
	)
	for _, reads := range r.Reads {
		t.add("reads, "+reads.While, fmt.Sprintf("local p50 %s, p99 %s; linearizable p50 %s, p99 %s; %d failed",
			ms(reads.Local.P50), ms(reads.Local.P99), ms(reads.Linearizable.P50), ms(reads.Linearizable.P99), reads.Local.Failed+reads.Linearizable.Failed))
	}
	for _, m := range r.Memory {
		t.add("memory "+m.ID, fmt.Sprintf("%s before, %s after the peak, then %s at most, %s after", size(m.Before), size(m.Peak), size(m.Largest), size(m.After)))
	}
	for _, e := range r.Examples[:min(len(r.Examples), shownExamples)] {
		t.add("example", e)
	}
	return t
}
