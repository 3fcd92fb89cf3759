package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func (a *app) statusCommand() *cobra.Command {
	var (
		watch    bool
		interval time.Duration
		storage  bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show every node: role, progress, sizes, trouble",
		Long: `Shows every node of the cluster. All endpoints are asked at the same time and
their answers are merged: a node's own word counts most. A dead node shows as
unreachable within a second. One of another cluster than most endpoints is shown
with that error, and the exit code is 1.

LAG counts log entries behind the leader. STATE says whether the node's data is that
of a majority: agreed, diverged, disputed, unchecked (see check). STALL is what RocksDB does to writers:
none, slowdown or stop.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usagef("--interval must be at least 100ms")
			}
			show := func() error { return a.showStatus(cmd.Context(), storage) }
			if !watch {
				return show()
			}
			return a.watch(cmd.Context(), interval, show)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "repeat until interrupted")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "the pause between repetitions")
	cmd.Flags().BoolVar(&storage, "storage", false, "show each node's effective RocksDB options and where they come from")
	return cmd
}

// watch repeats show until ctx ends. A failure is shown and does not end it:
// watching is most useful while things fail.
func (a *app) watch(ctx context.Context, interval time.Duration, show func() error) error {
	for {
		if terminal(a.stdout) {
			fmt.Fprint(a.stdout, "\033[H\033[2J")
		}
		if a.output == "table" {
			fmt.Fprintln(a.stdout, time.Now().Format(time.DateTime))
		}
		if err := show(); err != nil && ctx.Err() == nil {
			fmt.Fprintf(a.stderr, "snipctl: %v\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

func (a *app) showStatus(ctx context.Context, storage bool) error {
	views := a.survey(ctx)
	status, err := merge(views)
	if err != nil {
		return &unavailableError{err}
	}
	if err := a.printStatus(status, storage); err != nil {
		return err
	}
	return oneCluster(views)
}

func (a *app) printStatus(status *wire.Status, storage bool) error {
	if !storage {
		for i := range status.Nodes {
			status.Nodes[i].Storage.Options = nil
		}
	}
	if a.output == "json" {
		return a.printJSON(status)
	}
	fmt.Fprintf(a.stdout, "cluster %s, leader %s, term %d\n\n", orDash(status.ClusterID), orDash(status.Leader), status.Term)
	if err := statusTable(status).render(a.stdout); err != nil {
		return err
	}
	if storage {
		fmt.Fprintln(a.stdout)
		return storageTable(status).render(a.stdout)
	}
	return nil
}

func statusTable(s *wire.Status) *table {
	t := newTable("ID", "ADDRESS", "ROLE", ">TERM", ">APPLIED", ">COMMIT", ">LAG", ">LOG", ">DB", ">SNAPSHOT", "STATE", "STALL", ">DISK FREE", "VERSION", "ERRORS")
	for _, n := range s.Nodes {
		problems := strings.Join(n.Errors, "; ")
		if !n.Reachable {
			t.add(orDash(n.ID), orDash(n.HTTPAddr), "unreachable", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", orDash(n.Version), orDash(problems))
			continue
		}
		role := n.Role
		if n.Restoring {
			role += " (restoring)"
		}
		snapshot := "none"
		if n.SnapshotIndex > 0 {
			snapshot = age(time.Duration(n.SnapshotAge*float64(time.Second))) + " ago"
		}
		t.add(n.ID, n.HTTPAddr, role, n.Term, n.AppliedIndex, n.CommitIndex, n.Lag, size(n.LogBytes), size(n.DBBytes),
			snapshot, orDash(n.State.Verdict), orDash(n.Storage.Stall), size(n.DiskFreeBytes), orDash(n.Version), orDash(problems))
	}
	return t
}

// storageTable lists each option once, with a row per node only where nodes differ.
func storageTable(s *wire.Status) *table {
	t := newTable("OPTION", "VALUE", "SOURCE", "NODES")
	type setting struct{ value, source string }
	byName := map[string]map[setting][]string{}
	for _, n := range s.Nodes {
		for name, o := range n.Storage.Options {
			if byName[name] == nil {
				byName[name] = map[setting][]string{}
			}
			key := setting{o.Value, o.Source}
			byName[name][key] = append(byName[name][key], n.ID)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		settings := slices.SortedFunc(maps.Keys(byName[name]), func(x, y setting) int {
			return strings.Compare(byName[name][x][0], byName[name][y][0])
		})
		for _, set := range settings {
			t.add(name, set.value, set.source, strings.Join(byName[name][set], ","))
		}
	}
	return t
}
