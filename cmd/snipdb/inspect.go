package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cluster"
	"github.com/snipdb/snipdb/fsm"
	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/failpoint"
)

// report is what inspect says of a data directory.
type report struct {
	cluster.Inspection
	LogStore    string                         `json:"log_store"`
	Members     []reportMember                 `json:"members"`
	Collections []reportCollection             `json:"collections"`
	Options     map[string]storage.OptionValue `json:"storage_options,omitempty"`
	Replay      *replay                        `json:"replay,omitempty"`
}

type reportMember struct {
	ID      string `json:"id"`
	Raft    string `json:"raft"`
	HTTP    string `json:"http"`
	Learner bool   `json:"learner,omitempty"`
}

type reportCollection struct {
	Name      string `json:"name"`
	Dimension int    `json:"dimension"`
	Metric    string `json:"metric"`
	Documents uint64 `json:"documents"`
	Snippets  uint64 `json:"snippets"`
	Embedded  uint64 `json:"embedded"`
}

func inspectCommand() *cobra.Command {
	var (
		path, output string
		options      bool
		replay       bool
		replayTo     uint64
	)
	cmd := &cobra.Command{
		Use:   "inspect --data-dir DIR",
		Short: "Say what is in a stopped node's data directory, and whether it would start",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output is %q; it must be table or json", output)
			}
			r, err := inspect(path, replay || replayTo > 0, replayTo, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if !options {
				r.Options = nil
			}
			if err := r.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if r.Violation != "" {
				return errors.New("the node would refuse to start")
			}
			if r.Replay != nil && (r.Replay.Different > 0 || len(r.Replay.Problems) > 0) {
				return errors.New("the state is not what the snapshot and the log make: wipe this node and let it join again")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&path, "data-dir", "data", "the data directory of a node that does not run")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	cmd.Flags().BoolVar(&options, "storage-options", false, "RocksDB's options as well")
	cmd.Flags().BoolVar(&replay, "replay", false, "build the state a second time, of the snapshot and the log, and compare; needs room for it in TMPDIR")
	cmd.Flags().Uint64Var(&replayTo, "replay-to", 0, "replay up to this log index only, and say the digest of what comes out")
	return cmd
}

// inspect opens the state for reading only. Log and snapshots are opened as at
// a start, because their stores have no other way: what a crash left half-made
// is removed, and nothing else is touched.
func inspect(path string, replay bool, replayTo uint64, warnings io.Writer) (_ *report, err error) {
	// A replay needs the same values as the node had.
	if err := failpoint.Arm(os.Environ()); err != nil {
		return nil, err
	}
	dir, err := openExisting(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.close()) }()
	db, release, err := openState(dir, warnings)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	r := new(report)
	if err := r.readPositions(dir, db.Position(), warnings); err != nil {
		return nil, err
	}
	if err := r.readState(db); err != nil {
		return nil, err
	}
	stats, err := db.Stats()
	r.Options = stats.Options
	if err == nil && replay && r.Violation == "" {
		err = r.replay(dir, db, replayTo, warnings)
	}
	return r, err
}

// openState opens the live state of a stopped node for reading.
func openState(dir *dataDir, warnings io.Writer) (*storage.DB, func() error, error) {
	live, err := storage.LiveDir(dir.state())
	if err != nil {
		return nil, nil, err
	}
	if live == "" {
		return nil, nil, fmt.Errorf("there is no state in %s: the node has never run", dir.state())
	}
	options := storage.DefaultOptions()
	options.ReadOnly, options.Logger, options.ProfileSource = true, quiet(warnings), sourceDefault
	shared, err := storage.NewShared(options)
	if err != nil {
		return nil, nil, err
	}
	db, err := storage.Open(live, options, shared)
	if err != nil {
		shared.Close()
		return nil, nil, err
	}
	return db, func() error {
		defer shared.Close()
		return db.Close()
	}, nil
}

// readPositions compares state, snapshot and log.
func (r *report) readPositions(dir *dataDir, at storage.Position, warnings io.Writer) (err error) {
	snapshots, err := snapshot.NewStore(dir.snapshots(), snapshot.Options{Logger: quiet(warnings)})
	if err != nil {
		return err
	}
	if r.LogStore, err = dir.existingLog(); err != nil {
		return err
	}
	if r.LogStore == "" {
		return fmt.Errorf("there is no Raft log in %s: the node has never run, or its log is lost", dir.log())
	}
	log, err := dir.openLog(r.LogStore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	r.Inspection, err = cluster.Inspect(dir.node(), at.Index, at.Term, snapshots, log)
	return err
}

// readState lists the members and all collections with their counts.
func (r *report) readState(db *storage.DB) error {
	const page = 100
	pinned, err := db.View()
	if err != nil {
		return err
	}
	defer pinned.Close()
	members, err := fsm.ReadMembers(pinned)
	if err != nil {
		return err
	}
	for _, m := range members {
		r.Members = append(r.Members, reportMember{m.GetNodeId(), m.GetRaftAddr(), m.GetHttpAddr(), m.GetLearner()})
	}
	for after := ""; ; {
		batch, err := pinned.Collections(after, page)
		if err != nil {
			return err
		}
		for _, c := range batch {
			after = c.Name
			r.Collections = append(r.Collections, reportCollection{c.Name, c.Dimension, string(c.Metric), c.Documents, c.Snippets, c.Embedded})
		}
		if len(batch) < page {
			return nil
		}
	}
}

func (r *report) print(w io.Writer, form string) error {
	if form == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "node\t%s\ncluster\t%s\n", r.NodeID, orNone(r.ClusterID))
	fmt.Fprintf(table, "state\tindex %d, term %d\n", r.Applied, r.AppliedTerm)
	if r.Snapshot > 0 {
		fmt.Fprintf(table, "snapshot\tindex %d, term %d\n", r.Snapshot, r.SnapshotTerm)
	} else {
		fmt.Fprintf(table, "snapshot\tnone\n")
	}
	fmt.Fprintf(table, "log\t%s, entries %d to %d\n", r.LogStore, r.FirstLog, r.LastLog)
	fmt.Fprintf(table, "start\t%s\n", r.verdict())
	if r.Diverged != "" {
		fmt.Fprintf(table, "serves\tNOTHING: %s\n", r.Diverged)
	}
	for _, m := range r.Members {
		fmt.Fprintf(table, "member\t%s\traft %s\tAPI %s\n", m.ID, m.Raft, m.HTTP)
	}
	for _, c := range r.Collections {
		fmt.Fprintf(table, "collection\t%s\t%d documents\t%d snippets\t%d embedded\tdimension %d\t%s\n",
			c.Name, c.Documents, c.Snippets, c.Embedded, c.Dimension, c.Metric)
	}
	if r.Replay != nil {
		fmt.Fprintf(table, "replay\t%s\n", r.Replay.verdict())
		for _, line := range r.Replay.Differences {
			fmt.Fprintf(table, "\t%s\n", line)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Options)) {
		fmt.Fprintf(table, "option\t%s\t%s\t%s\n", name, r.Options[name].Value, r.Options[name].Source)
	}
	return table.Flush()
}

// verdict is what a start would do, in words.
func (r *report) verdict() string {
	switch {
	case r.Violation != "":
		return "REFUSED: " + r.Violation
	case r.Restore && r.DropLog:
		return "would drop the log and restore the snapshot: " + r.Reason
	case r.Restore:
		return "would restore the snapshot: " + r.Reason
	case r.DropLog:
		return "would drop the log: " + r.Reason
	default:
		return "ok: state, snapshot and log fit together"
	}
}

func orNone(text string) string {
	if text == "" {
		return "none yet"
	}
	return text
}

// readPeers reads the list of voters for recover: the file that hashicorp/raft
// calls peers.json.
func readPeers(path string) ([]cluster.RecoverServer, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the list of voters: %w", err)
	}
	defer file.Close()
	var peers []struct {
		ID       string `json:"id"`
		Address  string `json:"address"`
		NonVoter bool   `json:"non_voter"`
	}
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&peers); err != nil {
		return nil, fmt.Errorf(`read the list of voters %s: %w; it looks like [{"id":"n1","address":"127.0.0.1:7001"}]`, path, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the list of voters %s: there is something behind the list", path)
	}
	var voters []cluster.RecoverServer
	for _, p := range peers {
		if p.NonVoter {
			return nil, fmt.Errorf("read the list of voters %s: %s does not vote; leave it out, it joins again", path, p.ID)
		}
		voters = append(voters, cluster.RecoverServer{ID: p.ID, RaftAddr: p.Address})
	}
	return voters, nil
}
