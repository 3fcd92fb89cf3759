package contract

import (
	"errors"
	"fmt"
	"time"
)

// The sentinels. Every error of a write is one of three kinds, and Outcome
// tells which: certainly not applied, or unknown; there is no third, because
// an applied write has no error.
var (
	// ErrNoLeader: no leader is known now. Not applied.
	ErrNoLeader = errors.New("the cluster has no leader now")
	// ErrNotReady: this node is starting, restoring, or not yet a member. Not applied.
	ErrNotReady = errors.New("this node is not ready")
	// ErrRemoved: this node was removed from the cluster. It is an ErrNotReady. Not applied.
	ErrRemoved = fmt.Errorf("%w: it was removed from the cluster", ErrNotReady)
	// ErrForeign: this node is the only voter of its cluster, and the nodes at
	// its join addresses belong to another. It is an ErrNotReady. Not applied.
	ErrForeign = fmt.Errorf("%w: its cluster is not that of its join addresses", ErrNotReady)
	// ErrShutdown: this node is stopping. Not applied.
	ErrShutdown = errors.New("this node is stopping")
	// ErrTooStale: a bounded read could not be served in time.
	ErrTooStale = errors.New("this node's state is older than the read allows")
	// ErrBehind: the wait for an index ended before the index was applied.
	ErrBehind = errors.New("this node has not applied the index yet")
	// ErrTooLarge: the command does not fit into a log entry. Not applied.
	ErrTooLarge = errors.New("the command is larger than a log entry may be")
	// ErrExpired: the deadline passed before the command was proposed. Not applied.
	ErrExpired = errors.New("the deadline passed before the write was proposed")
	// ErrDiverged: this node's state differs from its peers'; it serves nothing.
	ErrDiverged = errors.New("this node's state differs from the cluster's")
)

// NotLeaderError says that this node can't propose, and who can. Not applied.
type NotLeaderError struct {
	Leader LeaderInfo
}

func (e *NotLeaderError) Error() string {
	return fmt.Sprintf("this node is not the leader; the leader is %q at %q", e.Leader.ID, e.Leader.HTTPAddr)
}

// OutcomeUnknownError says that a write was proposed, and that this node
// can't tell whether it will be committed. It may be applied later; a retry
// is safe only with the same idempotency key.
type OutcomeUnknownError struct {
	Cause error
}

func (e *OutcomeUnknownError) Error() string {
	return fmt.Sprintf("the outcome of the write is unknown: %v", e.Cause)
}

// Unwrap returns the cause.
func (e *OutcomeUnknownError) Unwrap() error { return e.Cause }

// OverloadReason is why a node refuses work now. The words are part of the API.
type OverloadReason string

// The reasons.
const (
	QueueFull      OverloadReason = "queue_full"      // too much waits for Raft
	ApplyLag       OverloadReason = "apply_lag"       // commits are ahead of what is applied
	StorageStalled OverloadReason = "storage_stalled" // RocksDB is near a write stall
	DiskLow        OverloadReason = "disk_low"        // the free space is below the low-water mark
	MemoryLow      OverloadReason = "memory_low"      // the memory budget is used up
	Concurrency    OverloadReason = "concurrency"     // too many requests of this class at once
	RateLimited    OverloadReason = "rate_limited"    // the client is over its own limit: 429
)

// OverloadError says that the node takes no more of this work now. Not applied.
type OverloadError struct {
	Reason OverloadReason
	// RetryAfter is when a retry may succeed, from the rate at which the queue
	// drains; at least one second is sent on the wire.
	RetryAfter time.Duration
	// Detail is for people.
	Detail string
}

func (e *OverloadError) Error() string {
	return fmt.Sprintf("overloaded (%s): %s", e.Reason, e.Detail)
}

// MembershipError says why a change of the membership is refused.
type MembershipError struct {
	// NotFound is true if the node named is no member.
	NotFound bool
	Detail   string
}

func (e *MembershipError) Error() string { return e.Detail }

// Outcome says what the error of a write means for the data: "not_applied"
// (it never will be; safe to retry) or "unknown".
func Outcome(err error) string {
	var unknown *OutcomeUnknownError
	if errors.As(err, &unknown) {
		return OutcomeUnknown
	}
	return OutcomeNotApplied
}

// The outcomes of a failed write, as the API words them.
const (
	OutcomeNotApplied = "not_applied"
	OutcomeUnknown    = "unknown"
)
