package wire

import "time"

// Identity is the answer of GET /v1/cluster/identity: who this node is, for
// nodes that look for each other before there is a cluster.
type Identity struct {
	NodeID          string `json:"node_id"`
	ClusterID       string `json:"cluster_id,omitempty"` // empty: not a member of any cluster yet
	RaftAddr        string `json:"raft_addr"`
	HTTPAddr        string `json:"http_addr"`
	BootstrapExpect int    `json:"bootstrap_expect,omitempty"`
	Learner         bool   `json:"learner,omitempty"` // asks never to vote, so it can't found a cluster
	Version         string `json:"version"`
}

// Member is one node of the cluster.
type Member struct {
	ID       string `json:"id"`
	RaftAddr string `json:"raft"`
	HTTPAddr string `json:"http"`
	Voter    bool   `json:"voter"`
	Learner  bool   `json:"learner,omitempty"`
	Leader   bool   `json:"leader,omitempty"`
	Version  string `json:"version,omitempty"`
}

// MemberList is the answer of GET /v1/cluster/members.
type MemberList struct {
	Items []Member `json:"items"`
}

// MemberInput is the body of POST /v1/cluster/members.
type MemberInput struct {
	ID       string `json:"id"`
	RaftAddr string `json:"raft"`
	HTTPAddr string `json:"http,omitempty"`
	Learner  bool   `json:"learner,omitempty"`
}

// TransferInput is the body of POST /v1/cluster/transfer-leader. An empty To
// lets the leader choose.
type TransferInput struct {
	To string `json:"to,omitempty"`
}

// TransferResult is its answer.
type TransferResult struct {
	Leader string `json:"leader"`
}

// SnapshotResult is the answer of POST /v1/cluster/snapshot.
type SnapshotResult struct {
	Index uint64 `json:"index"`
	Node  string `json:"node"`
}

// Status is the cluster as the answering node sees it.
type Status struct {
	ClusterID string       `json:"cluster_id"`
	Leader    string       `json:"leader"`
	Term      uint64       `json:"term"`
	Nodes     []NodeStatus `json:"nodes"`
}

// NodeStatus is one node. Durations are seconds, sizes bytes.
type NodeStatus struct {
	ID            string        `json:"id"`
	HTTPAddr      string        `json:"http"`
	RaftAddr      string        `json:"raft"`
	Role          string        `json:"role"` // leader, follower, candidate, learner, unknown
	Voter         bool          `json:"voter"`
	Reachable     bool          `json:"reachable"`
	Term          uint64        `json:"term"`
	Leader        string        `json:"leader,omitempty"`
	AppliedIndex  uint64        `json:"applied_index"`
	CommitIndex   uint64        `json:"commit_index"`
	Lag           uint64        `json:"lag"`
	FirstLogIndex uint64        `json:"first_log_index"`
	LastLogIndex  uint64        `json:"last_log_index"`
	LogBytes      uint64        `json:"log_bytes"`
	DBBytes       uint64        `json:"db_bytes"`
	SnapshotIndex uint64        `json:"snapshot_index"`
	SnapshotAge   float64       `json:"snapshot_age_seconds"`
	Version       string        `json:"version"`
	Started       time.Time     `json:"started"`
	Restoring     bool          `json:"restoring,omitempty"`
	DiskFreeBytes uint64        `json:"disk_free_bytes"`
	DiskLeftBytes uint64        `json:"disk_left_bytes,omitempty"` // free, less what is in memory and must still go to files
	DiskLowBytes  uint64        `json:"disk_low_bytes,omitempty"`  // with less left the node refuses writes other than deletions
	Refusing      []string      `json:"refusing,omitempty"`        // reasons for which the node refuses all writes now, or all but deletions: queue_full, apply_lag, disk_low, memory_low, storage_stalled
	ClockMs       int64         `json:"clock_ms,omitempty"`
	State         StateStatus   `json:"state"`
	Storage       StorageStatus `json:"storage"`
	Errors        []string      `json:"errors"`
}

// StorageStatus is what RocksDB says of itself.
type StorageStatus struct {
	Stall            string                 `json:"stall"` // none, slowdown, stop
	L0Files          uint64                 `json:"l0_files"`
	MemtableBytes    uint64                 `json:"memtable_bytes"`
	BlockCacheBytes  uint64                 `json:"block_cache_bytes"`
	PendingBytes     uint64                 `json:"pending_compaction_bytes"`
	BlobBytes        uint64                 `json:"blob_bytes"`
	LiveSSTBytes     uint64                 `json:"live_sst_bytes"`
	BackgroundErrors uint64                 `json:"background_errors"`
	Options          map[string]OptionValue `json:"options,omitempty"`
}

// OptionValue is an effective storage option and where it came from.
type OptionValue struct {
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Ready is the answer of /readyz and /livez.
type Ready struct {
	Status string `json:"status"` // "ok" or "unavailable"
	Reason string `json:"reason,omitempty"`
	Node   string `json:"node"`
	Role   string `json:"role,omitempty"`
}
