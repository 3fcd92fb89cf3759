package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/contention"
	"github.com/snipdb/snipdb/storage/snippet"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure engines inside of one process"}
	cmd.AddCommand(contentionCommand())
	return cmd
}

// contentionRun is what `bench contention` is asked for.
type contentionRun struct {
	options contention.Options
	workers []int
	dir     string
	output  string
}

func contentionCommand() *cobra.Command {
	var r contentionRun
	cmd := &cobra.Command{
		Use:   "contention",
		Short: "Show RocksDB's `Resource busy` under optimistic transactions, beside snipdb",
		Long: "Show RocksDB's `Resource busy` under optimistic transactions, beside snipdb.\n\n" +
			"Each worker writes documents of its own, with their embeddings, one after the other.\n" +
			"On the one side it does so as CozoDB does: an optimistic transaction a document, with a\n" +
			"graph index whose rows the documents share; not synced to disk. On the other side it\n" +
			"proposes the same documents to a snipdb node in this process: through the Raft log,\n" +
			"synced to disk, applied one after the other; without a graph index, which snipdb has not.\n\n" +
			"The conflicts come from the rows of that index: with --neighbours 0 there are none. The\n" +
			"two rates of commits are not comparable, because the two sides do not do the same work.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f, o := cmd.Flags(), &r.options
	f.IntSliceVar(&r.workers, "workers", []int{1, 16, 64, 256}, "how many workflows write at once, one run for each number")
	f.DurationVar(&o.Duration, "duration", 5*time.Second, "how long each run takes")
	f.IntVar(&o.Snippets, "snippets", 10, "snippets of a document")
	f.IntVar(&o.Dimension, "dimension", 1024, "numbers of an embedding")
	f.IntVar(&o.ContentBytes, "content-bytes", 1024, "bytes of a snippet's text")
	f.IntVar(&o.Neighbours, "neighbours", 16, "neighbours that the index links a new vector with")
	f.IntVar(&o.Existing, "existing", 10_000, "vectors that are there at the start")
	f.Uint64Var(&o.Seed, "seed", 1, "chooses the neighbours")
	f.StringVar(&r.dir, "dir", "", "where the data is made, and removed at the end (default: a temporary folder)")
	f.StringVarP(&r.output, "output", "o", "table", "table or json")
	return cmd
}

// contentionRow is one engine's run with one number of workers.
type contentionRow struct {
	Engine string `json:"engine"`
	contention.Result
	// Refused is how many writes snipdb turned away before they were proposed.
	Refused   uint64  `json:"refused"`
	BusyShare float64 `json:"resource_busy_share"`
	PerSecond float64 `json:"committed_per_second"`
}

func (r *contentionRun) run(ctx context.Context, output io.Writer) error {
	if r.output != "table" && r.output != "json" {
		return fmt.Errorf("--output is %q; it must be table or json", r.output)
	}
	dir, err := os.MkdirTemp(r.dir, "snipdb-contention-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var rows []contentionRow
	for i, workers := range r.workers {
		o := r.options
		o.Workers = workers
		for _, engine := range []struct {
			name    string
			measure func(context.Context, contention.Options) (contentionRow, error)
		}{{"rocksdb", optimistic}, {"snipdb", replicated}} {
			o.Dir = filepath.Join(dir, fmt.Sprintf("%s-%d", engine.name, i))
			row, err := engine.measure(ctx, o)
			if err != nil {
				return fmt.Errorf("%s with %d workers: %w", engine.name, workers, err)
			}
			row.Engine, row.BusyShare = engine.name, row.Result.BusyShare()
			row.PerSecond = float64(row.Committed) / row.Elapsed.Seconds()
			rows = append(rows, row)
			// The next run gets an empty disk, and this one's files are not wanted.
			if err := os.RemoveAll(o.Dir); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return printContention(output, r.output, rows)
}

func printContention(output io.Writer, form string, rows []contentionRow) error {
	if form == "json" {
		encoder := json.NewEncoder(output)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
	}
	table := tabwriter.NewWriter(output, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, strings.Join([]string{"workers", "engine", "attempted", "committed", "Resource busy", "share", "refused", "committed/s", ""}, "\t"))
	for _, row := range rows {
		fmt.Fprintf(table, "%d\t%s\t%d\t%d\t%d\t%.1f %%\t%d\t%.0f\t\n",
			row.Workers, row.Engine, row.Attempted, row.Committed, row.Busy, 100*row.BusyShare, row.Refused, row.PerSecond)
	}
	return table.Flush()
}

// optimistic is the work as CozoDB did it.
func optimistic(ctx context.Context, o contention.Options) (contentionRow, error) {
	result, err := contention.Run(ctx, o)
	return contentionRow{Result: result}, err
}

// replicated is the same documents without an index, proposed to a node of this process: a cluster
// of one, with everything a node has.
func replicated(ctx context.Context, o contention.Options) (contentionRow, error) {
	config, err := contentionConfig(o.Dir)
	if err != nil {
		return contentionRow{}, err
	}
	s := &server{config: config, log: newLogger(config, os.Stderr), registry: newRegistry()}
	row, err := contentionRow{}, s.start(ctx)
	if err == nil {
		err = s.waitReady(ctx)
	}
	if err == nil {
		row, err = proposeAll(ctx, s, o)
	}
	return row, errors.Join(err, s.stop())
}

// contentionConfig is a node's defaults on free ports.
func contentionConfig(dir string) (*Config, error) {
	config, flags := new(Config), pflag.NewFlagSet("bench", pflag.ContinueOnError)
	config.register(flags)
	err := flags.Parse([]string{
		"--node-id", "bench", "--data-dir", dir, "--http-addr", "127.0.0.1:0", "--raft-addr", "127.0.0.1:0", "--log-level", "warn",
	})
	if err != nil {
		return nil, err
	}
	return config, config.load(flags, "", nil)
}

// readyWait is how long the node of a bench may take to elect itself.
const readyWait = 30 * time.Second

// waitReady waits until the node takes writes.
func (s *server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		err := s.node.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the node is not ready: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// proposeAll lets the workers write until the time is over.
func proposeAll(ctx context.Context, s *server, o contention.Options) (contentionRow, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()
	var (
		attempted, committed, refused atomic.Uint64
		workers                       sync.WaitGroup
		failures                      = make(chan error, o.Workers)
		start                         = time.Now()
	)
	for worker := range o.Workers {
		workers.Go(func() {
			for document := 0; ctx.Err() == nil; document++ {
				// A write that has begun may end: a cut-off one would count as neither.
				result, err := s.node.Propose(context.WithoutCancel(ctx), embedded(o, worker, document))
				attempted.Add(1)
				var overload *contract.OverloadError
				switch {
				case err == nil && result.GetOutcome().Applied():
					committed.Add(1)
				case errors.As(err, &overload):
					refused.Add(1)
				case err == nil:
					err = fmt.Errorf("outcome %v: %s", result.GetOutcome(), result.GetDetail())
					fallthrough
				default:
					failures <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(failures)
	row := contentionRow{Refused: refused.Load(), Result: contention.Result{
		Workers: o.Workers, Elapsed: time.Since(start), Attempted: attempted.Load(), Committed: committed.Load(),
	}}
	return row, <-failures
}

// embedded is the command that writes one document with its embeddings.
func embedded(o contention.Options, worker, document int) *command.Command {
	values := make([]float32, o.Dimension)
	put := &command.PutDocument{Id: fmt.Sprintf("w%d-d%d", worker, document), Metric: string(snippet.Cosine)}
	content := strings.Repeat("x", o.ContentBytes)
	hash := snippet.HashContent(content)
	for index := range o.Snippets {
		values[index%o.Dimension] = float32(document + 1)
		put.Snippets = append(put.Snippets, &command.SnippetInput{
			Content: content, ContentHash: hash[:], Vector: snippet.VectorOf(values).Normalize(), Model: "bench",
		})
	}
	return &command.Command{Op: &command.Command_Mutation{Mutation: &command.Mutation{
		Collection: "snippets", Op: &command.Mutation_PutDocument{PutDocument: put},
	}}}
}
