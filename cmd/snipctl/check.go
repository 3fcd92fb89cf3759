package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// verifyPoll is how often a running scan is looked at.
const verifyPoll = 500 * time.Millisecond

func (a *app) checkCommand() *cobra.Command {
	var (
		deep, noMark bool
		rate         int
	)
	cmd := &cobra.Command{
		Use:   "consistency",
		Short: "compare the data of all nodes; --deep reads every row of it",
		Long: `Compares the hash of the data of all nodes at one entry of the log, which the leader
writes for it. VERDICT is agreed (as a majority of the voters), diverged (a majority
has other data: the node serves nothing), disputed (no majority), or unchecked.

The nodes do the same by themselves, all the time. --deep adds what they do not: each
node reads all of its data and computes the hash anew, which finds a row that has
changed on the disk. SCAN is ok, failed or stopped.

The exit code is 0 if every node agrees (and every scan is ok), 1 if one differs or
fails, or if the endpoints belong to different clusters, 5 if one could not be asked.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&deep, "deep", false, "every node reads all of its data and computes the hash anew")
	cmd.Flags().IntVar(&rate, "mib-per-second", 64, "how fast a node may read with --deep; 0: as fast as it can")
	cmd.Flags().BoolVar(&noMark, "no-write", false, "write nothing to the log; compare at the newest entry at which all nodes have a hash")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, _ []string) error {
		if rate < 0 {
			return usagef("--mib-per-second must not be below 0")
		}
		if len(a.endpoints) > 1 {
			// One of them gives the report, and would not know the others' cluster.
			if err := oneCluster(a.survey(ctx)); err != nil {
				return err
			}
		}
		report, err := a.consistency(ctx, cl, noMark)
		if err != nil {
			return err
		}
		var scans map[string]*wire.Verification
		if deep {
			scans = a.verifyAll(ctx, report, rate)
		}
		return a.printConsistency(report, scans)
	})
	return group("check", "check that the data of all nodes is the same", cmd)
}

func (a *app) consistency(ctx context.Context, cl *client.Client, noMark bool) (*wire.Consistency, error) {
	if noMark {
		report, _, err := cl.Consistency(ctx)
		return report, err
	}
	report, _, err := cl.CheckConsistency(ctx, "")
	return report, err
}

// verifyAll runs a scan on every node at the same time.
func (a *app) verifyAll(ctx context.Context, report *wire.Consistency, rate int) map[string]*wire.Verification {
	var (
		mu    sync.Mutex // guards scans
		wait  sync.WaitGroup
		scans = map[string]*wire.Verification{}
	)
	for _, n := range report.Nodes {
		wait.Go(func() {
			v, err := a.verify(ctx, n.HTTPAddr, rate)
			if err != nil {
				v = &wire.Verification{Node: n.ID, Status: wire.VerifyStopped, Error: short(err)}
			}
			mu.Lock()
			defer mu.Unlock()
			scans[n.ID] = v
		})
	}
	wait.Wait()
	return scans
}

// verify runs a scan on one node and waits for its end. If the command is
// interrupted, the scan ends too, unless somebody else had started it.
func (a *app) verify(ctx context.Context, endpoint string, rate int) (v *wire.Verification, err error) {
	if endpoint == "" {
		return nil, errors.New("its address is not known")
	}
	cl, err := client.New([]string{endpoint}, a.clientOptions())
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	v, meta, err := cl.StartVerification(ctx, endpoint, rate)
	if err != nil {
		return nil, err
	}
	if meta.Status == http.StatusAccepted {
		defer func() {
			if ctx.Err() == nil {
				return
			}
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), surveyTimeout)
			defer cancel()
			_, _, stopErr := cl.StopVerification(end, endpoint)
			err = errors.Join(err, stopErr)
		}()
	}
	ticker := time.NewTicker(verifyPoll)
	defer ticker.Stop()
	for v.Status == wire.VerifyRunning {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if terminal(a.stderr) {
			fmt.Fprintf(a.stderr, "%s: %d rows, %s\n", v.Node, v.Rows, size(uint64(v.Bytes)))
		}
		if v, _, err = cl.Verification(ctx, endpoint); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// consistencyOutput is the JSON of the command.
type consistencyOutput struct {
	*wire.Consistency
	Scans map[string]*wire.Verification `json:"scans,omitempty"`
}

func (a *app) printConsistency(report *wire.Consistency, scans map[string]*wire.Verification) error {
	err := a.print(consistencyOutput{report, scans}, func() *table { return consistencyTable(report, scans) })
	if err != nil {
		return err
	}
	return judgeConsistency(report, scans)
}

func consistencyTable(report *wire.Consistency, scans map[string]*wire.Verification) *table {
	names := []string{"ID", "ADDRESS", "VOTER", ">APPLIED", ">COMPARED AT", "HASH", "VERDICT", "WHY"}
	if scans != nil {
		names = slices.Insert(names, 7, "SCAN", ">ROWS", ">BYTES")
	}
	t := newTable(names...)
	for _, n := range report.Nodes {
		voter, at, hash := "no", "-", "-"
		if n.Voter {
			voter = "yes"
		}
		if n.At != nil {
			at, hash = fmt.Sprint(n.At.Index), n.At.Hash
		}
		why := []string{n.Diverged, n.Error}
		row := []any{n.ID, orDash(n.HTTPAddr), voter, n.AppliedIndex, at, hash, n.Verdict}
		if scans != nil {
			v := scans[n.ID]
			row = append(row, v.Status, v.Rows, size(uint64(v.Bytes)))
			why = append(append(why, v.Problems...), v.Error)
		}
		why = slices.DeleteFunc(why, func(s string) bool { return s == "" })
		t.add(append(row, orDash(strings.Join(why, "; ")))...)
	}
	return t
}

// judgeConsistency makes the exit code. The table has said why.
func judgeConsistency(report *wire.Consistency, scans map[string]*wire.Verification) error {
	var missing error
	for _, n := range report.Nodes {
		switch n.Verdict {
		case wire.StateAgreed:
		case wire.StateUnchecked:
			missing = &reportedError{&unavailableError{errors.New("a node could not be compared")}}
		default:
			return &reportedError{errors.New("the data of the nodes differs")}
		}
	}
	for _, v := range scans {
		switch v.Status {
		case wire.VerifyOK:
		case wire.VerifyFailed:
			return &reportedError{errors.New("the data of a node is not what was written")}
		default:
			missing = &reportedError{&unavailableError{errors.New("a scan did not end")}}
		}
	}
	return missing
}
