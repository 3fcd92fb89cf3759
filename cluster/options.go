package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

// Options configure a node. Start from DefaultOptions: the zero value of a
// timer or a limit is refused by Validate unless its comment says otherwise.
type Options struct {
	// NodeID names the node for ever: 1 to 64 of letters, digits, '.', '-', '_'.
	NodeID string
	// DataDir holds identity.json, the lock and the vote store. It must exist.
	DataDir string
	// RaftAddr is the address to listen on, host:port; port 0 picks one.
	RaftAddr string
	// RaftAdvertise is what the other nodes dial. Empty: the listener's address.
	RaftAdvertise string
	// HTTPAdvertise is the base URL of this node's API, for redirects and forwards.
	HTTPAdvertise string
	// BootstrapExpect is how many new nodes form a cluster. 0 or 1 without
	// Join: this node alone, at once. 0 with Join: never form one, only join.
	BootstrapExpect int
	// Join are the base URLs at which members, or other new nodes, may be
	// found. This node's own may be among them, so that all nodes can be
	// started with the same command line.
	Join []string
	// Learner asks never to vote: a read replica.
	Learner bool
	// Version is that of the binary, shown in the status.
	Version string

	// HeartbeatTimeout is how long a follower waits for its leader before it
	// stands for election; ElectionTimeout is the time an election may take.
	// 1.5 s and 2 s by default: heartbeats are answered by the main loop (see
	// transport), which an fsync may hold up for a while. A follower notices
	// the death of its leader within three HeartbeatTimeouts, because raft
	// draws its timer from one to two and checks the contact when it fires; so
	// the new leader is there within three ElectionTimeouts only if the former
	// is clearly shorter than the latter.
	HeartbeatTimeout, ElectionTimeout time.Duration
	// LeaderLease is how long a leader that hears no quorum stays leader. At
	// most HeartbeatTimeout. Default 1.25 s.
	LeaderLease time.Duration
	// CommitTimeout is the longest that a follower waits to learn of a commit
	// when nothing follows. Default 50 ms.
	CommitTimeout time.Duration
	// TickInterval is how often the leader moves the replicated clock. Default 10 s.
	TickInterval time.Duration
	// PollInterval is how often a node asks for the leader's commit index,
	// for bounded reads. Default 250 ms.
	PollInterval time.Duration
	// StateCheck is how often a node compares the hash of its state with the
	// others'. Default 5 s; the states are marked every TickInterval.
	StateCheck time.Duration
	// ReadTimeout bounds a read that waits and whose context has no
	// deadline. Default 5 s.
	ReadTimeout time.Duration
	// ProposeTimeout bounds a write whose context has no deadline. Default 30 s.
	ProposeTimeout time.Duration
	// LogWriteLimit is how long one write of the log may take before the
	// process ends itself: a leader with a hung disk must not stay. Default 10 s.
	LogWriteLimit time.Duration
	// PromoteAfter is how long a new node must have kept up before it gets a
	// vote. Default 3 s.
	PromoteAfter time.Duration
	// ClaimTTL is how long a new node keeps its word to the one that forms
	// the cluster. Default 15 s.
	ClaimTTL time.Duration

	// SnapshotBytes: take a snapshot when the log since the last one is
	// larger. Default 128 MiB: what is behind it is read at the start.
	SnapshotBytes uint64
	// TrailingBytes of log stay behind a snapshot, so that a follower which
	// was away for a short time needs no snapshot. Default 64 MiB.
	TrailingBytes uint64
	// SnapshotCheck is how often the two are compared. Default 5 s.
	SnapshotCheck time.Duration

	// GroupCommit joins the commands that wait into one entry. Off: one
	// command an entry (for measurements). Default on.
	GroupCommit bool
	// MaxInflightEntries is how many entries may be on their way at once, with
	// GroupCommit. Default 2, measured: see DESIGN.md.
	MaxInflightEntries int
	// MaxEntryCommands bounds the commands of one entry. Default 512.
	MaxEntryCommands int

	// MaxInflightCommands and MaxInflightBytes bound what has been accepted
	// and has no outcome yet, waiting or proposed. Default 4096 and 64 MiB.
	MaxInflightCommands int
	MaxInflightBytes    int64
	// MaxApplyGap is how many committed entries may wait to be applied before
	// writes are refused. Default 5000, as etcd's.
	MaxApplyGap uint64
	// DiskLowBytes: if less than this would be free once all that is in memory
	// is in files, writes other than deletions are refused, and below a quarter
	// of it a node takes no entries. 0: a twentieth of the disk, between 64 MiB
	// and 2 GiB, and at least DiskLowFloor.
	DiskLowBytes uint64
	// DiskLowFloor is the least of the default of DiskLowBytes, unless that is
	// more than a quarter of the disk. Default 0.
	DiskLowFloor uint64
	// GateInterval is how often pressure, memory and disk are looked at. Default 200 ms.
	GateInterval time.Duration

	// TLS protects the Raft port; nil: in clear. See mux.
	TLS *tls.Config
	// Logger; nil discards.
	Logger *slog.Logger
	// Registerer; nil registers nothing.
	Registerer prometheus.Registerer
	// Now is the wall clock that dates commands. nil: time.Now. Deadlines and
	// staleness use the monotonic clock and never this one.
	Now func() time.Time
	// Fatal ends the process when going on could lose or fork data. nil: log
	// and exit with status 1.
	Fatal func(error)
}

// The limits of Options.
const (
	maxNodeIDBytes     = 64
	maxBootstrapExpect = 15
	maxInflightEntries = 16
)

// DefaultOptions returns the defaults; NodeID, DataDir and RaftAddr are left to set.
func DefaultOptions() Options {
	return Options{
		HeartbeatTimeout: 1500 * time.Millisecond, ElectionTimeout: 2 * time.Second,
		LeaderLease: 1250 * time.Millisecond, CommitTimeout: 50 * time.Millisecond,
		TickInterval: 10 * time.Second, PollInterval: 250 * time.Millisecond, StateCheck: 5 * time.Second,
		ReadTimeout: 5 * time.Second, ProposeTimeout: 30 * time.Second,
		LogWriteLimit: 10 * time.Second, PromoteAfter: 3 * time.Second, ClaimTTL: 15 * time.Second,
		SnapshotBytes: 128 << 20, TrailingBytes: 64 << 20, SnapshotCheck: 5 * time.Second,
		GroupCommit: true, MaxInflightEntries: 4, MaxEntryCommands: 512,
		MaxInflightCommands: 4096, MaxInflightBytes: 64 << 20, MaxApplyGap: 5000,
		GateInterval: 200 * time.Millisecond,
	}
}

// Validate returns every problem of the options, joined.
func (o Options) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("cluster: "+format, args...)) }
	if !validNodeID(o.NodeID) {
		bad("NodeID %q: must be 1 to %d letters, digits, '.', '-' or '_'", o.NodeID, maxNodeIDBytes)
	}
	if o.DataDir == "" {
		bad("DataDir must be set")
	}
	if _, _, err := net.SplitHostPort(o.RaftAddr); err != nil {
		bad("RaftAddr %q: must be host:port: %v", o.RaftAddr, err)
	}
	if o.RaftAdvertise != "" {
		if err := checkAddress(o.RaftAdvertise); err != nil {
			bad("RaftAdvertise: %v", err)
		}
	}
	for _, base := range o.Join {
		if u, err := url.Parse(base); err != nil || u.Scheme == "" || u.Host == "" {
			bad("Join %q: must be a base URL, as http://host:port", base)
		}
	}
	if o.BootstrapExpect < 0 || o.BootstrapExpect > maxBootstrapExpect {
		bad("BootstrapExpect %d: must be 0 to %d", o.BootstrapExpect, maxBootstrapExpect)
	}
	if o.BootstrapExpect > 1 && len(o.Join) == 0 {
		bad("BootstrapExpect %d needs Join: the addresses at which the other nodes are found", o.BootstrapExpect)
	}
	if o.Learner && len(o.Join) == 0 {
		bad("Learner needs Join: a learner can't form a cluster")
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"HeartbeatTimeout", o.HeartbeatTimeout}, {"ElectionTimeout", o.ElectionTimeout}, {"LeaderLease", o.LeaderLease},
		{"CommitTimeout", o.CommitTimeout}, {"TickInterval", o.TickInterval}, {"PollInterval", o.PollInterval}, {"StateCheck", o.StateCheck},
		{"ReadTimeout", o.ReadTimeout}, {"ProposeTimeout", o.ProposeTimeout}, {"LogWriteLimit", o.LogWriteLimit},
		{"PromoteAfter", o.PromoteAfter}, {"ClaimTTL", o.ClaimTTL}, {"SnapshotCheck", o.SnapshotCheck},
		{"GateInterval", o.GateInterval},
	} {
		if d.d < time.Millisecond {
			bad("%s %v: must be at least 1ms", d.name, d.d)
		}
	}
	if o.LeaderLease > o.HeartbeatTimeout || o.HeartbeatTimeout > o.ElectionTimeout {
		bad("timers: LeaderLease %v <= HeartbeatTimeout %v <= ElectionTimeout %v must hold", o.LeaderLease, o.HeartbeatTimeout, o.ElectionTimeout)
	}
	if o.SnapshotBytes == 0 || o.TrailingBytes == 0 {
		bad("SnapshotBytes and TrailingBytes must be above 0")
	}
	if o.MaxInflightEntries < 1 || o.MaxInflightEntries > maxInflightEntries {
		bad("MaxInflightEntries %d: must be 1 to %d", o.MaxInflightEntries, maxInflightEntries)
	}
	if o.MaxEntryCommands < 1 || o.MaxInflightCommands < 1 || o.MaxApplyGap < 1 {
		bad("MaxEntryCommands, MaxInflightCommands and MaxApplyGap must be above 0")
	}
	if o.MaxInflightBytes < command.MaxEntryBytes {
		bad("MaxInflightBytes %d: must be at least one entry, %d", o.MaxInflightBytes, command.MaxEntryBytes)
	}
	return errors.Join(errs...)
}

// checkAddress returns an error unless others can dial the address.
func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("the address %q must be host:port: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("the address %q names no host that others could connect to", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the address %q must have a port of 1 to 65535", addr)
	}
	return nil
}

func validNodeID(id string) bool {
	if id == "" || len(id) > maxNodeIDBytes {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return false
		}
		return true
	}) < 0
}

// StateMachine is what the node needs of the replicated state (package fsm
// has it). Applied is published after the data is written: raft's own applied
// index only says that an entry is queued.
type StateMachine interface {
	raft.BatchingFSM
	// Applied is the position of the last entry that reads can see.
	Applied() (index, term uint64)
	// WaitApplied returns when Applied reached index, or with the context's error.
	WaitApplied(ctx context.Context, index uint64) error
	// ClusterID is "" until InitCluster is applied.
	ClusterID() string
	Members() []*command.Member
	ClockMs() int64
	// TickTerm is the highest term of which a Tick is applied.
	TickTerm() uint64
	// Restoring is true while Restore runs.
	Restoring() bool
}

// Parts are what the node is built over. The caller opens them, and closes
// them after Close; only Log is closed by the node, even by an Open that fails.
type Parts struct {
	StateMachine StateMachine
	Snapshots    raft.SnapshotStore
	// Log holds the entries; a write of it is durable when it returns. Use
	// NewEntryLogStore or OpenBoltLog. The node owns it: Close closes it. If
	// there was none, and this one was made, NoteLostLog comes before.
	Log LogStore
	// Discover asks the node at a base URL who it is. Needed with Options.Join.
	Discover func(ctx context.Context, url string) (contract.Identity, error)
	// Pressure is how near the storage is to slowing writes down: 1 is there.
	// nil: 0. Detail is for people.
	Pressure func() (pressure float64, detail string)
	// MemoryLow says whether the memory budget is used up. nil: never.
	MemoryLow func() (low bool, detail string)
	// DiskFree returns the free and the total bytes of the data disk. nil: not checked.
	DiskFree func() (free, total uint64, err error)
	// DiskPending is what the state machine will still write to the disk if
	// nothing is taken any more: its memtables. nil: 0. The log is asked too, if
	// it has a method Unflushed.
	DiskPending func() uint64
	// DiskRoom is told, after each look at the disk, how much of it compactions
	// may use. nil: they are not bounded.
	DiskRoom func(bytes uint64)
	// OutOfSpace says that a write of this node waits for space on the disk. A
	// leader that waits is silent, so that the others elect one that can write,
	// and the watchdog of the log does not count the time. nil: never.
	OutOfSpace func() bool
	// Storage is what the status shows of the storage; nil: nothing.
	Storage func() (status contract.StorageStatus, dbBytes uint64, err error)
	// StateHash returns the hash of the state as it is, and those at the newest
	// Ticks, by index, all of one moment. scheme is the version of the hash. nil:
	// states are not compared.
	StateHash func() (scheme int, now contract.HashPoint, points []contract.HashPoint)
	// VerifyState reads the whole state and computes its hash anew; it tells
	// progress now and then. bytesPerSecond bounds its rate, 0: not at all. nil:
	// there is no verification.
	VerifyState func(ctx context.Context, bytesPerSecond int64, progress func(rows, bytes int64)) (contract.Verification, error)
	// BeforeSnapshot is called before each snapshot of the state machine, while
	// entries are applied. What it writes to disk need not be written in the
	// snapshot, while they wait. nil: nothing.
	BeforeSnapshot func() error
}

func (p Parts) validate(o Options) error {
	switch {
	case p.StateMachine == nil, p.Snapshots == nil, p.Log == nil:
		return errors.New("cluster: Parts need StateMachine, Snapshots and Log")
	case len(o.Join) > 0 && p.Discover == nil:
		return errors.New("cluster: Parts.Discover is needed with Options.Join")
	}
	return nil
}
