package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// Inspection is what a stopped node's directory says, and what a start would
// make of it.
type Inspection struct {
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id"`
	// Applied and AppliedTerm are the state's position, Snapshot and
	// SnapshotTerm the newest snapshot's, FirstLog and LastLog the log's ends;
	// 0 is none.
	Applied      uint64 `json:"applied_index"`
	AppliedTerm  uint64 `json:"applied_term"`
	Snapshot     uint64 `json:"snapshot_index"`
	SnapshotTerm uint64 `json:"snapshot_term"`
	FirstLog     uint64 `json:"first_log_index"`
	LastLog      uint64 `json:"last_log_index"`
	// Restore and DropLog are what a start would do first, with the reason.
	Restore bool   `json:"restore_snapshot"`
	DropLog bool   `json:"drop_log"`
	Reason  string `json:"reason,omitempty"`
	// Diverged is why the node serves nothing, empty if it does.
	Diverged string `json:"diverged,omitempty"`
	// Violation is why a start would be refused: the invariant by its number,
	// and what to do. Empty: it would not be.
	Violation string `json:"violation,omitempty"`
}

// position is a state machine of which only the position is known.
type position struct {
	StateMachine
	index, term uint64
}

func (p position) Applied() (index, term uint64) { return p.index, p.term }

// Inspect looks at a stopped node with the eyes of the start-up check, and
// changes nothing. dataDir is Options.DataDir, applied and term are the
// position of its state. It closes nothing.
func Inspect(dataDir string, applied, term uint64, snapshots raft.SnapshotStore, log LogStore) (Inspection, error) {
	raw, err := os.ReadFile(filepath.Join(dataDir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Inspection{}, fmt.Errorf("cluster: inspect: there is no %s in %s: the node has never run, or it was killed in its very first start: start it", identityFile, dataDir)
	}
	if err != nil {
		return Inspection{}, fmt.Errorf("cluster: inspect: %w", err)
	}
	var id identityRecord
	if err := json.Unmarshal(raw, &id); err != nil {
		return Inspection{}, fmt.Errorf("cluster: inspect %s: %w", identityFile, err)
	}
	p := Parts{StateMachine: position{index: applied, term: term}, Snapshots: snapshots, Log: log}
	t, err := inspectTerm(filepath.Join(dataDir, stableFile))
	if err != nil {
		return Inspection{}, err
	}
	s, _, err := readDiskState(p, log, t)
	if err != nil {
		return Inspection{}, err
	}
	i := Inspection{
		NodeID: id.NodeID, ClusterID: id.ClusterID,
		Applied: s.Applied, AppliedTerm: s.AppliedTerm, Snapshot: s.Snapshot, SnapshotTerm: s.SnapshotTerm,
		FirstLog: s.First, LastLog: s.Last,
	}
	if id.Diverged != nil {
		i.Diverged = id.Diverged.String()
	}
	plan, err := planStartup(s)
	i.Restore, i.DropLog, i.Reason = plan.Restore, plan.DropLog, plan.Reason
	if err != nil {
		i.Violation = err.Error()
	}
	return i, nil
}

// inspectTerm reads the term of a vote store, 0 if there is none.
func inspectTerm(path string) (uint64, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	votes, err := openStableStore(path, stableStoreOptions{})
	if err != nil {
		return 0, fmt.Errorf("cluster: inspect: %w", err)
	}
	term, err := votes.term()
	return term, errors.Join(err, votes.Close())
}
