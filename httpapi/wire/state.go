package wire

import "time"

// HashPoint is the hash of a node's visible state after one entry of the log.
type HashPoint struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	Hash  string `json:"hash"`
}

// The verdicts on a node's state.
const (
	StateAgreed    = "agreed"    // a majority of the voters has the same state, and this node too
	StateDiverged  = "diverged"  // a majority of the voters has the same state, and this node another
	StateDisputed  = "disputed"  // the states differ, and none has a majority
	StateUnchecked = "unchecked" // nothing to compare with yet
)

// StateStatus is what a node says of the hash of its state.
type StateStatus struct {
	// Hash is that at the applied index.
	Hash HashPoint `json:"hash"`
	// Point is that at the newest mark, which all nodes have at the same index.
	Point *HashPoint `json:"point,omitempty"`
	// ComparedIndex is the newest at which this node agreed with a majority.
	ComparedIndex uint64 `json:"compared_index"`
	Verdict       string `json:"verdict"`
	// Diverged says why the node serves nothing, and what to do.
	Diverged string `json:"diverged,omitempty"`
}

// Consistency is the answer of GET and POST /v1/cluster/consistency.
type Consistency struct {
	// Index is where the states are compared, 0: nowhere.
	Index   uint64             `json:"index"`
	Verdict string             `json:"verdict"`
	Nodes   []ConsistencyState `json:"nodes"`
}

// ConsistencyState is one node of it.
type ConsistencyState struct {
	ID           string     `json:"id"`
	HTTPAddr     string     `json:"http"`
	Voter        bool       `json:"voter"`
	Reachable    bool       `json:"reachable"`
	AppliedIndex uint64     `json:"applied_index"`
	At           *HashPoint `json:"at,omitempty"` // absent: the node has no hash at that index
	Verdict      string     `json:"verdict"`
	Diverged     string     `json:"diverged,omitempty"`
	Error        string     `json:"error,omitempty"`
}

// Verification is the answer of /v1/cluster/verification: a full scan of one
// node's state.
type Verification struct {
	Node     string     `json:"node"`
	Status   string     `json:"status"` // none, running, ok, failed, stopped
	Started  *time.Time `json:"started,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`
	Rows     int64      `json:"rows"`
	Bytes    int64      `json:"bytes"`
	Index    uint64     `json:"index,omitempty"`
	Term     uint64     `json:"term,omitempty"`
	Stored   string     `json:"stored,omitempty"`
	Computed string     `json:"computed,omitempty"`
	Problems []string   `json:"problems,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// The values of Verification.Status.
const (
	VerifyNone    = "none"    // none since the node's start
	VerifyRunning = "running" // see Rows and Bytes
	VerifyOK      = "ok"      // every row is what was written
	VerifyFailed  = "failed"  // see Problems
	VerifyStopped = "stopped" // it did not end: see Error
)
