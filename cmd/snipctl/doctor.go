package main

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

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cmd/snipctl/doctor"
	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// clockSamples is how often each node is asked for its time.
const clockSamples = 5

func (a *app) doctorCommand() *cobra.Command {
	var (
		dirs   []string
		memory string
		local  bool
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "check what goes wrong most often: disk, limits, memory, clocks, versions, nodes",
		Long: `Checks the disk under each --data-dir by writing and syncing a small file there,
this machine's limits, and what the nodes say of themselves: those of --endpoints, and
all others that they know. Each finding is ok, warn, fail or skip (not measured),
with what to do. The exit code is 1 if any check fails.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			budget, err := parseSize(memory)
			if err != nil {
				return usagef("--memory: %w", err)
			}
			var checks []doctor.Check
			for _, dir := range dirs {
				checks = append(checks, doctor.Disk(cmd.Context(), dir)...)
			}
			if len(dirs) == 0 {
				checks = append(checks, doctor.Check{Name: "fsync", Where: "here", Verdict: doctor.Skip, Found: "no --data-dir given",
					Advice: "Give the data directory of a node on this machine to measure its disk."})
			}
			checks = append(checks, doctor.Machine(budget)...)
			if !local {
				checks = append(checks, a.examine(cmd.Context())...)
			}
			return a.printChecks(checks)
		},
	}
	cmd.Flags().StringSliceVar(&dirs, "data-dir", nil, "data directories on this machine whose disk to measure")
	cmd.Flags().StringVar(&memory, "memory", "1GiB", "the memory budget of a node that is to run on this machine")
	cmd.Flags().BoolVar(&local, "local", false, "this machine only; ask no node")
	return cmd
}

func (a *app) printChecks(checks []doctor.Check) error {
	worst := doctor.Worst(checks)
	err := a.print(map[string]any{"verdict": worst, "checks": checks}, func() *table {
		t := newTable("VERDICT", "CHECK", "WHERE", "FOUND")
		for _, c := range checks {
			t.add(c.Verdict, c.Name, c.Where, c.Found)
			if c.Advice != "" {
				t.add("", "", "", "-> "+c.Advice)
			}
		}
		return t
	})
	if err == nil && worst == doctor.Fail {
		err = &reportedError{errors.New("a check failed")}
	}
	return err
}

// examine checks the cluster: the endpoints, and the members that they name.
func (a *app) examine(ctx context.Context) []doctor.Check {
	views := a.survey(ctx)
	status, err := merge(views)
	if err != nil {
		return []doctor.Check{{Name: "reachable", Where: strings.Join(a.endpoints, ","), Verdict: doctor.Fail, Found: err.Error(),
			Advice: "Start the nodes, or give their addresses with --endpoints."}}
	}
	views = append(views, a.surveyOf(ctx, unasked(status, views))...)
	if status, err = merge(views); err != nil { // not with more views than before
		return []doctor.Check{{Name: "reachable", Where: "cluster", Verdict: doctor.Fail, Found: err.Error()}}
	}
	checks := append([]doctor.Check{sameCluster(views)}, doctor.Nodes(status)...)
	checks = append(checks, doctor.Versions(status, version))
	var members, answering []string
	for _, n := range status.Nodes {
		if n.ID != "?" {
			members = append(members, n.ID)
		}
	}
	for _, v := range views {
		if v.err == nil {
			answering = append(answering, v.endpoint)
		}
	}
	samples := clockSamplesOf(views)
	for range clockSamples - 1 {
		samples = append(samples, clockSamplesOf(a.surveyOf(ctx, answering))...)
	}
	return append(append(checks, doctor.Clocks(members, samples)), a.nodeMetrics(ctx, status, views)...)
}

// sameCluster fails if nodes of different clusters answered: each of them may be
// well, and takes writes that the others never see.
func sameCluster(views []view) doctor.Check {
	c := doctor.Check{Name: "one cluster", Where: "cluster", Verdict: doctor.OK, Found: homeCluster(views)}
	if c.Found == "" {
		c.Found = "none is formed yet"
	}
	if err := oneCluster(views); err != nil {
		c.Verdict, c.Found = doctor.Fail, err.Error()
		c.Advice = "Correct --endpoints; or save what the strangers hold, empty their data directories, and start them with the --join of the others."
	}
	return c
}

// clockSamplesOf takes of each view what the nodes said of their clocks. The
// answering node asks the others while it is asked itself, so their clocks too
// were read within the round trip; a node that can't be reached from here is
// known in this way.
func clockSamplesOf(views []view) []doctor.ClockSample {
	var out []doctor.ClockSample
	for _, v := range views {
		if v.err != nil {
			continue
		}
		for _, n := range v.status.Nodes {
			if n.Reachable && n.ClockMs != 0 {
				out = append(out, doctor.ClockSample{Node: n.ID, ClockMs: n.ClockMs, Sent: v.sent, RTT: v.rtt})
			}
		}
	}
	return out
}

// nodeMetrics asks every endpoint that answered before for its metrics, all at
// the same time.
func (a *app) nodeMetrics(ctx context.Context, status *wire.Status, views []view) []doctor.Check {
	cl, err := a.client()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*surveyTimeout)
	defer cancel()
	results := make([][]doctor.Check, len(views))
	var wait sync.WaitGroup
	for i, v := range views {
		if v.err == nil {
			wait.Go(func() { results[i] = metricsOf(ctx, cl, v.endpoint, status) })
		}
	}
	wait.Wait()
	return slices.Concat(results...)
}

func metricsOf(ctx context.Context, cl *client.Client, endpoint string, status *wire.Status) []doctor.Check {
	text, meta, err := cl.NodeMetrics(ctx, endpoint)
	if err != nil {
		return []doctor.Check{{Name: "metrics", Where: endpoint, Verdict: doctor.Skip, Found: short(err)}}
	}
	name, budget := endpoint, uint64(0)
	for _, n := range status.Nodes {
		if n.ID == meta.Node || sameAddress(n.HTTPAddr, endpoint) {
			name = n.ID
			budget, _ = parseSize(n.Storage.Options["memory_bytes"].Value)
		}
	}
	return doctor.Metrics(name, plainMetrics(text), budget)
}

// plainMetrics reads the metrics without labels from Prometheus' text format.
func plainMetrics(text []byte) map[string]float64 {
	values := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.Contains(fields[0], "{") {
			continue
		}
		if v, err := strconv.ParseFloat(fields[1], 64); err == nil {
			values[fields[0]] = v
		}
	}
	return values
}

// parseSize reads "1GiB", "512MiB", "64KiB" or a number of bytes.
func parseSize(s string) (uint64, error) {
	number, shift := strings.TrimSpace(s), 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if rest, ok := strings.CutSuffix(number, unit); ok {
			number, shift = strings.TrimSpace(rest), 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || n*float64(uint64(1)<<shift) >= 1<<63 {
		return 0, fmt.Errorf("%q is no size such as 512MiB", s)
	}
	return uint64(n * float64(uint64(1)<<shift)), nil
}
