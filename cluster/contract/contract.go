// Package contract states what a node promises to its callers: how fresh a
// read is, what a failed write means, who the members are. It is a leaf:
// standard library only.
package contract

import "time"

// Level is how fresh a read must be.
type Level string

// The consistency levels, cheapest first.
const (
	// Local is this node's state, now. It may be old, and it may go back in
	// time for a client that changes nodes.
	Local Level = "local"
	// Bounded is a state that was the newest at most MaxStaleness ago.
	Bounded Level = "bounded"
	// Session is a state that holds at least the entry MinIndex: a client
	// that sends the highest index it has seen reads its own writes, and
	// never goes back in time.
	Session Level = "session"
	// Linearizable is a state that holds every write acknowledged before the
	// read began (Raft dissertation, section 6.4), on any node.
	Linearizable Level = "linearizable"
)

// Consistency is what a read asks for.
type Consistency struct {
	Level Level
	// MaxStaleness is for Bounded, > 0.
	MaxStaleness time.Duration
	// MinIndex is for Session.
	MinIndex uint64
}

// ReadStamp says what a read may rest on.
type ReadStamp struct {
	// Index is what the applied index must have reached before the read.
	Index uint64
	// Term is the term in which this was found, 0 if no leader was asked.
	Term uint64
}

// Role is what a node is now.
type Role string

// The roles.
const (
	Leader    Role = "leader"
	Follower  Role = "follower"
	Candidate Role = "candidate"
	Learner   Role = "learner"
	Unknown   Role = "unknown"
)

// Member is one node of the cluster.
type Member struct {
	ID       string
	RaftAddr string
	// HTTPAddr is the base URL of the node's API.
	HTTPAddr string
	// Voter says whether the node votes now.
	Voter bool
	// Learner says that the node asked never to vote.
	Learner bool
	Version string
}

// NodeStatus is one node's view of itself.
type NodeStatus struct {
	ID       string
	RaftAddr string
	HTTPAddr string
	Role     Role
	Voter    bool
	// Reachable is false if the node did not answer in time; then only ID,
	// RaftAddr, HTTPAddr, Voter and Errors are known.
	Reachable bool
	Term      uint64
	Leader    string
	// AppliedIndex is the index of the last entry that is visible to reads;
	// CommitIndex is the last that this node knows to be committed.
	AppliedIndex, CommitIndex uint64
	// Lag is the leader's commit index less this node's applied index, as
	// the node that collects the status sees it.
	Lag           uint64
	FirstLogIndex uint64
	LastLogIndex  uint64
	LogBytes      uint64
	DBBytes       uint64
	SnapshotIndex uint64
	// SnapshotAge is how long ago the newest snapshot was taken; 0 if none.
	SnapshotAge time.Duration
	Version     string
	Started     time.Time
	// Restoring is true while a snapshot from the leader is being installed.
	Restoring     bool
	DiskFreeBytes uint64
	// DiskLeftBytes is DiskFreeBytes less what is in memory and must still go to
	// files, DiskLowBytes the mark below which the node refuses writes other than
	// deletions. Both are 0 if the disk is not checked.
	DiskLeftBytes, DiskLowBytes uint64
	// Refusing are the gates that are closed: each refuses every write that this
	// node is asked for, DiskLow and MemoryLow as a rule all but deletions.
	Refusing []OverloadReason
	// ClockMs is the node's clock, Unix milliseconds, when it answered.
	ClockMs int64
	State   StateStatus
	Storage StorageStatus
	Errors  []string
}

// StorageStatus is what RocksDB says of itself.
type StorageStatus struct {
	// Stall is "none", "slowdown" or "stop".
	Stall            string
	L0Files          uint64
	MemtableBytes    uint64
	BlockCacheBytes  uint64
	PendingBytes     uint64
	BlobBytes        uint64
	LiveSSTBytes     uint64
	BackgroundErrors uint64
	// Options are the effective options with the source of each
	// ("profile default", "flag", …).
	Options map[string]OptionValue
}

// OptionValue is an effective option and where it came from.
type OptionValue struct {
	Value, Source string
}

// Status is the cluster as one node sees it.
type Status struct {
	ClusterID string
	Leader    string
	Term      uint64
	Nodes     []NodeStatus
}

// LeaderInfo is what a node knows of the leader.
type LeaderInfo struct {
	// ID and HTTPAddr are empty if no leader is known.
	ID       string
	HTTPAddr string
	Term     uint64
	// Self is true if this node is the leader.
	Self bool
}

// Identity is who a node says it is: what another node needs to find the
// cluster, and what GET /v1/cluster/identity answers.
type Identity struct {
	NodeID string
	// ClusterID is empty while the node belongs to no cluster.
	ClusterID string
	RaftAddr  string
	HTTPAddr  string
	// Learner says that the node asks never to vote, so it can't be one of
	// those that form a cluster.
	Learner bool
	Version string
}
