package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// The routes between nodes. All are small JSON over the Raft port (peer.go).
const (
	routeReadIndex = "readindex" // leader: the verified commit index
	routeVerify    = "verify"    // voter: are you in this term?
	routeProgress  = "progress"  // how far are you?
	routeStatus    = "status"    // all about you
	routeClaim     = "claim"     // new node: may I form the cluster with you?
	routeAnnounce  = "announce"  // member: here I am, at this address
	routeChange    = "change"    // leader: change the membership
	routeKick      = "kick"      // announce yourself now
	routeState     = "state"     // the hashes of your state
	routeMark      = "mark"      // leader: let all nodes mark their state
)

type empty struct{}

type readIndexResponse struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

type verifyRequest struct {
	Term uint64 `json:"term"`
}

// verifyResponse is true only from a voter whose current term is the one
// asked for at the moment it answers.
type verifyResponse struct {
	InTerm bool `json:"in_term"`
}

type progressResponse struct {
	Applied   uint64 `json:"applied"`
	Restoring bool   `json:"restoring"`
	// Running: it runs Raft as a part of its cluster; a new node does not.
	Running bool `json:"running,omitempty"`
	// Diverged: the node's state is wrong, so it must not lead.
	Diverged bool `json:"diverged,omitempty"`
	// DiskLow: near the mark or below, so not one to lead. DiskFull: it takes no entries.
	DiskLow  bool `json:"disk_low,omitempty"`
	DiskFull bool `json:"disk_full,omitempty"`
}

// stateResponse is what a node says of its state. Scheme is the version of the
// hash: only equal ones are compared.
type stateResponse struct {
	Scheme   int                  `json:"scheme"`
	Now      contract.HashPoint   `json:"now"`
	Points   []contract.HashPoint `json:"points"` // by index
	Diverged string               `json:"diverged,omitempty"`
}

type markResponse struct {
	Index uint64 `json:"index"`
}

// claimServer is a voter of the cluster to be formed.
type claimServer struct {
	ID   string `json:"id"`
	Addr string `json:"addr"`
}

type claimRequest struct {
	ClusterID string        `json:"cluster_id"`
	Claimer   string        `json:"claimer"`
	Expect    int           `json:"expect"`
	Servers   []claimServer `json:"servers"`
}

type announceRequest struct {
	Member contract.Member `json:"member"`
	// Fresh: the node has no Raft state. A member that is fresh lost it, and
	// must not vote before it has caught up again.
	Fresh bool `json:"fresh"`
	// Hops keeps an announcement from travelling in a circle.
	Hops int `json:"hops"`
}

type announceResponse struct {
	ClusterID string `json:"cluster_id"`
	// Removed: the node is not fresh and is no member, so it was removed.
	Removed bool `json:"removed"`
}

// changeRequest is a change of the membership, executed by the leader.
type changeRequest struct {
	Op     changeOp        `json:"op"`
	ID     string          `json:"id,omitempty"`
	Member contract.Member `json:"member,omitzero"`
	Force  bool            `json:"force,omitempty"`
}

type changeOp string

const (
	opAdd      changeOp = "add"
	opRemove   changeOp = "remove"
	opPromote  changeOp = "promote"
	opTransfer changeOp = "transfer"
)

// handlePeers registers what this node answers to other nodes.
func (n *Node) handlePeers(mux *http.ServeMux) {
	handlePeer(mux, routeReadIndex, wrap(n.onReadIndex))
	handlePeer(mux, routeVerify, wrap(n.onVerify))
	handlePeer(mux, routeProgress, wrap(n.onProgress))
	handlePeer(mux, routeStatus, wrap(n.onStatus))
	handlePeer(mux, routeClaim, wrap(n.onClaim))
	handlePeer(mux, routeAnnounce, wrap(n.onAnnounce))
	handlePeer(mux, routeChange, wrap(n.onChange))
	handlePeer(mux, routeKick, wrap(n.onKick))
	handlePeer(mux, routeState, wrap(n.onState))
	handlePeer(mux, routeMark, wrap(n.onMark))
}

// wrap gives the errors of a handler their code.
func wrap[Req, Resp any](f func(context.Context, string, *Req) (*Resp, error)) func(context.Context, string, *Req) (*Resp, error) {
	return func(ctx context.Context, from string, req *Req) (*Resp, error) {
		resp, err := f(ctx, from, req)
		if err != nil {
			return nil, toPeer(err)
		}
		return resp, nil
	}
}

func (n *Node) onReadIndex(ctx context.Context, _ string, _ *empty) (*readIndexResponse, error) {
	r := n.raft.Load()
	if r == nil || r.State() != raft.Leader {
		return nil, contract.ErrNoLeader
	}
	round, err := n.reads.join(ctx)
	if err != nil {
		return nil, err
	}
	if !round.quorum {
		// The role was lost in between; the asker finds the new leader itself.
		return nil, contract.ErrNoLeader
	}
	return &readIndexResponse{Index: round.index, Term: round.term}, nil
}

func (n *Node) onVerify(_ context.Context, _ string, req *verifyRequest) (*verifyResponse, error) {
	r := n.raft.Load()
	if r == nil {
		return &verifyResponse{}, nil
	}
	// The suffrage is this node's own view. If it lags, the leader counts a
	// voter less, and asks again.
	return &verifyResponse{InTerm: suffrage(r, n.o.NodeID) == raft.Voter && r.CurrentTerm() == req.Term}, nil
}

func (n *Node) onProgress(context.Context, string, *empty) (*progressResponse, error) {
	applied, _ := n.p.StateMachine.Applied()
	return &progressResponse{Applied: applied, Running: n.raft.Load() != nil && n.identity.clusterID() != "", Restoring: n.p.StateMachine.Restoring(), Diverged: n.state.diverged.Load() != nil,
		DiskLow: n.gates.tight(false), DiskFull: n.gates.full() || n.outOfSpace()}, nil
}

func (n *Node) onStatus(context.Context, string, *empty) (*contract.NodeStatus, error) {
	s := n.LocalStatus()
	return &s, nil
}

func (n *Node) onKick(context.Context, string, *empty) (*empty, error) {
	n.announceSoon()
	return &empty{}, nil
}

// The codes of errors between nodes.
const (
	codeNoLeader   = "no_leader"
	codeNotReady   = "not_ready"
	codeMembership = "membership"
	codeNotFound   = "member_not_found"
	codeUnknown    = "outcome_unknown"
)

// toPeer gives an error a code that fromPeer understands.
func toPeer(err error) error {
	var membership *contract.MembershipError
	var unknown *contract.OutcomeUnknownError
	var notLeader *contract.NotLeaderError
	code := ""
	switch {
	case errors.As(err, &unknown):
		code = codeUnknown
	case errors.As(err, &membership):
		if code = codeMembership; membership.NotFound {
			code = codeNotFound
		}
	case errors.Is(err, contract.ErrNoLeader), errors.As(err, &notLeader):
		code = codeNoLeader
	case errors.Is(err, contract.ErrNotReady), errors.Is(err, contract.ErrShutdown):
		code = codeNotReady
	default:
		return err
	}
	return newPeerError(code, "%v", err)
}

// fromPeer turns what another node answered into the errors of package
// contract. An error of the connection says nothing of what was done.
func fromPeer(err error) error {
	var pe *peerError
	if !errors.As(err, &pe) {
		return err
	}
	switch pe.Code {
	case codeNoLeader:
		return fmt.Errorf("%w: %w", contract.ErrNoLeader, err)
	case codeNotReady:
		return fmt.Errorf("%w: %w", contract.ErrNotReady, err)
	case codeMembership, codeNotFound:
		return &contract.MembershipError{NotFound: pe.Code == codeNotFound, Detail: pe.Message}
	case codeUnknown:
		return &contract.OutcomeUnknownError{Cause: err}
	}
	return err
}

// suffrage is the vote of a node in this node's latest configuration;
// Staging, which the library never uses, stands for "no member".
func suffrage(r *raft.Raft, id string) raft.ServerSuffrage {
	if s, ok := findServer(r, id); ok {
		return s.Suffrage
	}
	return raft.Staging
}

func findServer(r *raft.Raft, id string) (raft.Server, bool) {
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if string(s.ID) == id {
			return s, true
		}
	}
	return raft.Server{}, false
}

// nodeIDOf tells the transport who is expected at an address.
func (n *Node) nodeIDOf(addr string) string {
	r := n.raft.Load()
	if r == nil {
		return ""
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if string(s.Address) == addr {
			return string(s.ID)
		}
	}
	return ""
}
