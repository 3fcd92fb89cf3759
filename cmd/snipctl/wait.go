package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func goVersion() string { return runtime.Version() }

// pollEvery is the pause between two looks of wait.
const pollEvery = 100 * time.Millisecond

// waitFlags are the conditions of wait; all that are given must hold at once.
type waitFlags struct {
	ready    bool
	leader   bool
	nodes    int
	index    uint64
	deadline time.Duration
	quiet    bool
}

func (a *app) waitCommand() *cobra.Command {
	var w waitFlags
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "wait until the cluster is in the state that is given",
		Long: `Waits until all given conditions hold, or --deadline has passed (exit code 5).
Without a condition it waits for --ready and --leader.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !w.ready && !w.leader && w.nodes == 0 && w.index == 0 {
				w.ready, w.leader = true, true
			}
			if cmd.Flags().Changed("timeout") && !cmd.Flags().Changed("deadline") {
				w.deadline = a.timeout // what one means by it here
			}
			if w.deadline <= 0 {
				return usagef("--deadline must be above 0")
			}
			return a.wait(cmd.Context(), &w)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&w.ready, "ready", false, "every endpoint says that it is ready")
	f.BoolVar(&w.leader, "leader", false, "there is a leader")
	f.IntVar(&w.nodes, "nodes", 0, "this many nodes are reachable")
	f.Uint64Var(&w.index, "index", 0, "every endpoint has applied this log index")
	f.DurationVar(&w.deadline, "deadline", time.Minute, "how long to wait")
	f.BoolVarP(&w.quiet, "quiet", "q", false, "print nothing when it is done")
	return cmd
}

func (a *app) wait(ctx context.Context, w *waitFlags) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.deadline)
	defer cancel()
	for {
		status, err := a.conditions(ctx, w)
		if err == nil {
			if w.quiet {
				return nil
			}
			return a.printWaited(status, time.Since(begin))
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return &unavailableError{fmt.Errorf("after %s: %w", w.deadline, err)}
			}
			return fmt.Errorf("interrupted: %w", err)
		case <-time.After(pollEvery):
		}
	}
}

func (a *app) printWaited(status *wire.Status, took time.Duration) error {
	result := map[string]any{"waited_seconds": took.Seconds()}
	if status != nil {
		result["leader"], result["nodes"] = status.Leader, len(status.Nodes)
	}
	return a.print(result, func() *table {
		t := fields("waited", took.Round(time.Millisecond))
		if status != nil {
			t.add("leader", orDash(status.Leader))
			t.add("nodes", len(status.Nodes))
		}
		return t
	})
}

// conditions returns nil if all hold, or what is missing.
func (a *app) conditions(ctx context.Context, w *waitFlags) (*wire.Status, error) {
	if w.ready {
		if err := a.allReady(ctx); err != nil {
			return nil, err
		}
	}
	if !w.leader && w.nodes == 0 && w.index == 0 && len(a.endpoints) == 1 {
		return nil, nil
	}
	views := a.survey(ctx)
	if err := oneCluster(views); err != nil {
		return nil, err
	}
	if !w.leader && w.nodes == 0 && w.index == 0 {
		return nil, nil
	}
	status, err := merge(views)
	if err != nil {
		return nil, err
	}
	reachable := 0
	for _, n := range status.Nodes {
		if n.Reachable {
			reachable++
		}
	}
	switch {
	case w.leader && status.Leader == "":
		return nil, errors.New("there is no leader")
	case reachable < w.nodes:
		return nil, fmt.Errorf("%d of %d nodes are reachable", reachable, w.nodes)
	}
	return status, a.allApplied(views, w.index)
}

// allReady asks every endpoint at the same time.
func (a *app) allReady(ctx context.Context) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	errs := make([]error, len(a.endpoints))
	var wait sync.WaitGroup
	for i, endpoint := range a.endpoints {
		wait.Go(func() { errs[i] = isReady(ctx, cl, endpoint) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func isReady(ctx context.Context, cl *client.Client, endpoint string) error {
	ready, _, err := cl.Ready(ctx, endpoint)
	if err != nil {
		return fmt.Errorf("%s does not answer: %s", endpoint, short(err))
	}
	if ready.Status != "ok" {
		return fmt.Errorf("%s is not ready: %s", endpoint, orDash(ready.Reason))
	}
	return nil
}

// allApplied looks at what each endpoint says of itself.
func (a *app) allApplied(views []view, index uint64) error {
	if index == 0 {
		return nil
	}
	var behind []string
	for _, v := range views {
		applied, ok := uint64(0), false
		if v.err == nil {
			for _, n := range v.status.Nodes {
				if n.ID == v.node {
					applied, ok = n.AppliedIndex, true
				}
			}
		}
		switch {
		case !ok:
			behind = append(behind, v.endpoint+" does not answer")
		case applied < index:
			behind = append(behind, fmt.Sprintf("%s is at %d", v.endpoint, applied))
		}
	}
	if len(behind) > 0 {
		return fmt.Errorf("index %d: %s", index, strings.Join(behind, ", "))
	}
	return nil
}
