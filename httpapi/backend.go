package httpapi

import (
	"context"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// Backend is what the data routes need of a node.
type Backend interface {
	// Propose sends a command through the log and returns what it did. A
	// result that refuses (not found, conflict) is data, not an error. An
	// error is one of package contract's and means "not applied", unless it
	// is an OutcomeUnknownError.
	Propose(ctx context.Context, c *command.Command) (*command.Result, error)
	// AdmitWrite says whether a write of about this many bytes would be taken
	// now: nil, or an *contract.OverloadError. deletes: the write may be one
	// that only frees space. It is asked before the body is read; Propose
	// decides.
	AdmitWrite(bytes int64, deletes bool) error
	// View passes the consistency gate, then pins the state. There is no
	// other way to a view. The caller closes it.
	View(ctx context.Context, c contract.Consistency) (View, contract.ReadStamp, error)
	// AppliedPosition is the newest position that a local read would see.
	AppliedPosition() (index, term uint64)
	// Leader is what this node knows of the leader.
	Leader() contract.LeaderInfo
	// Ready returns nil if the node can serve, or why it can't.
	Ready() error
	// Diverged returns nil, or contract.ErrDiverged, wrapped: this node must
	// neither serve data nor pass a write on.
	Diverged() error
	NodeID() string
	// ClusterID is empty until the node belongs to a cluster.
	ClusterID() string
	// Limits are the replicated rate limits. The slice is not changed after
	// it was returned; a new one is returned after a change.
	Limits() []*command.RateLimit
}

// View is the state at one position. *storage.View has these methods but for
// AppliedPosition.
type View interface {
	AppliedPosition() (index, term uint64)
	// Collection returns nil, nil if there is none of that name.
	Collection(name string) (*snippet.Collection, error)
	Collections(after string, limit int) ([]snippet.Collection, error)
	// Document returns nil, nil if there is none with that id.
	Document(coll uint32, id string) (*snippet.Document, error)
	Snippets(ctx context.Context, coll uint32, d *snippet.Document, from, limit int, withVectors bool) ([]snippet.Snippet, error)
	// Documents returns a *snippet.FieldError on "cursor" for a bad cursor.
	Documents(ctx context.Context, coll uint32, q snippet.ListQuery) (*snippet.ListPage, error)
	Close()
}

// Admin is what the routes of the cluster need of a node.
type Admin interface {
	Status(ctx context.Context) (*contract.Status, error)
	Members() []contract.Member
	// AddMember adds a node as a learner that is promoted when it has caught
	// up, unless it asked never to vote. One that is a member already stays as
	// it is at the same address, and is refused at another.
	AddMember(ctx context.Context, m contract.Member) error
	// RemoveMember takes a node out. It is refused if the voters that are left
	// and answer were no quorum; force overrides that, but never removes the
	// last voter.
	RemoveMember(ctx context.Context, id string, force bool) error
	PromoteMember(ctx context.Context, id string) error
	// TransferLeadership hands the leadership to a member, or, if to is
	// empty, to the one that is furthest.
	TransferLeadership(ctx context.Context, to string) error
	// Snapshot takes a snapshot of this node and returns its index.
	Snapshot(ctx context.Context) (index uint64, err error)
	// CheckState compares the states of all members: with mark at an index that
	// is written for it, else at the newest that all have.
	CheckState(ctx context.Context, mark bool) (*contract.StateReport, error)
	// StartVerification begins a full scan of this node's state, unless one
	// runs: then started is false. 0 bytes per second: as fast as it can.
	StartVerification(bytesPerSecond int64) (now contract.Verification, started bool, err error)
	Verification() contract.Verification
	StopVerification()
	Identity() wire.Identity
}
