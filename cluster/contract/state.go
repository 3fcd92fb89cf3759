package contract

import "time"

// HashPoint is the hash of a node's visible state right after one entry of the
// log. Two nodes that have applied the same log have the same one. Index 0 is
// no point.
type HashPoint struct {
	Index, Term uint64
	// Hash is in hexadecimal.
	Hash string
}

// StateVerdict is what is known of a node's state against that of the others.
type StateVerdict string

// The verdicts.
const (
	// StateAgreed: a majority of the voters has the same state, this node too.
	StateAgreed StateVerdict = "agreed"
	// StateDiverged: a majority of the voters has the same state, this node another.
	StateDiverged StateVerdict = "diverged"
	// StateDisputed: nodes have different states, and no state has a majority.
	StateDisputed StateVerdict = "disputed"
	// StateUnchecked: there is nothing to compare with yet.
	StateUnchecked StateVerdict = "unchecked"
)

// StateStatus is what a node says of its own state's hash.
type StateStatus struct {
	// Now is the hash at the applied index, Point that at the newest Tick, which
	// all nodes have at the same index.
	Now, Point HashPoint
	// Compared is the newest index at which this node was found equal to a
	// majority of the voters, 0 if never since the start.
	Compared uint64
	Verdict  StateVerdict
	// Diverged says why this node serves nothing and what to do; empty if it serves.
	Diverged string
}

// StateReport compares the states of all members at one index.
type StateReport struct {
	// Index is the newest point that all reachable members have; 0: there is none.
	Index   uint64
	Verdict StateVerdict
	Nodes   []NodeState
}

// NodeState is one node in a StateReport.
type NodeState struct {
	ID        string
	HTTPAddr  string
	Voter     bool
	Reachable bool
	// Applied is the node's applied index when it answered.
	Applied uint64
	// At is its hash at the report's index; Index 0 if it has none there.
	At      HashPoint
	Verdict StateVerdict
	// Diverged is not empty if the node has stopped serving because of its state.
	Diverged string
	// Error is why the node could not be asked.
	Error string
}

// Verification is a full scan of one node's state, which computes the hash
// anew from every row.
type Verification struct {
	// Started is zero if there was none since the node's start.
	Started, Ended time.Time
	Running        bool
	Rows, Bytes    int64
	// Index is the position of the state that is read.
	Index, Term uint64
	// Stored is the hash that was kept step by step, Computed that of the rows.
	Stored, Computed string
	// Problems are what does not fit; empty when it ended without Error: the state is whole.
	Problems []string
	// Error is why the scan did not end.
	Error string
}
