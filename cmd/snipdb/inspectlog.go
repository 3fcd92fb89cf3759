package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cluster"
)

// logReport is what inspect-log says: the log, and up to where its entries are
// known to be committed, because this node has applied them; 0 without a state.
type logReport struct {
	Applied uint64             `json:"applied_index"`
	Entries []cluster.LogEntry `json:"entries"`
}

func inspectLogCommand() *cobra.Command {
	var path, output string
	cmd := &cobra.Command{
		Use:   "inspect-log --data-dir DIR",
		Short: "List the entries of a stopped node's Raft log with their digests, to compare two nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output is %q; it must be table or json", output)
			}
			r, err := inspectLog(path, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), output)
		},
	}
	cmd.Flags().StringVar(&path, "data-dir", "data", "the data directory of a node that does not run")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func inspectLog(path string, warnings io.Writer) (_ *logReport, err error) {
	dir, err := openExisting(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.close()) }()
	r := new(logReport)
	// A copy of the log alone will do: then nothing is known of the state.
	if _, err := os.Stat(dir.state()); err == nil {
		db, release, err := openState(dir, warnings)
		if err != nil {
			return nil, err
		}
		r.Applied = db.Position().Index
		if err := release(); err != nil {
			return nil, err
		}
	}
	kind, err := dir.existingLog()
	if err != nil {
		return nil, err
	}
	if kind == "" {
		return nil, fmt.Errorf("there is no Raft log in %s", dir.log())
	}
	log, err := dir.openLog(kind)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	r.Entries, err = cluster.InspectLog(log)
	return r, err
}

func (r *logReport) print(w io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "INDEX\tTERM\tTYPE\tBYTES\tDIGEST\tSTATE\n")
	for _, e := range r.Entries {
		state := "applied"
		if e.Index > r.Applied {
			state = "not applied"
		}
		fmt.Fprintf(table, "%d\t%d\t%s\t%d\t%s\t%s\n", e.Index, e.Term, e.Type, e.Bytes, e.Digest, state)
	}
	return table.Flush()
}
