package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

const (
	// pollTimeout bounds a question to all members: one that doesn't answer
	// within it is "unreachable", and delays nobody longer.
	pollTimeout = 700 * time.Millisecond
	// changeTimeout bounds a change of the membership without a deadline.
	changeTimeout = 20 * time.Second
	// promoteGap is how far behind the leader's commit index a node may be and
	// still count as keeping up.
	promoteGap = 512
)

// Members returns the members: the votes from Raft's configuration, all else
// from the replicated rows. Sorted by id.
func (n *Node) Members() []contract.Member {
	r := n.raft.Load()
	if r == nil {
		return nil
	}
	var out []contract.Member
	for _, s := range r.GetConfiguration().Configuration().Servers {
		m := contract.Member{ID: string(s.ID), RaftAddr: string(s.Address), Voter: s.Suffrage == raft.Voter}
		if row := n.memberRow(m.ID); row != nil {
			m.HTTPAddr, m.Version, m.Learner = row.GetHttpAddr(), row.GetVersion(), row.GetLearner()
		} else if m.ID == n.o.NodeID {
			m.HTTPAddr, m.Version, m.Learner = n.o.HTTPAdvertise, n.o.Version, n.o.Learner
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b contract.Member) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (n *Node) memberRow(id string) *command.Member {
	for _, m := range n.p.StateMachine.Members() {
		if m.GetNodeId() == id {
			return m
		}
	}
	return nil
}

// ownMember is the row that should be in the replicated state.
func (n *Node) ownMember() *command.Member {
	m := &command.Member{NodeId: n.o.NodeID, RaftAddr: n.mux.addr(), HttpAddr: n.o.HTTPAdvertise,
		Version: n.o.Version, Learner: n.o.Learner}
	if row := n.memberRow(n.o.NodeID); row != nil && !row.GetLearner() {
		// An operator promoted it; the flag of the command line says only how
		// it came in.
		m.Learner = false
	}
	return m
}

func sameMember(a, b *command.Member) bool {
	return a.GetNodeId() == b.GetNodeId() && a.GetRaftAddr() == b.GetRaftAddr() && a.GetHttpAddr() == b.GetHttpAddr() &&
		a.GetVersion() == b.GetVersion() && a.GetLearner() == b.GetLearner()
}

func setMember(m *command.Member) *command.Command {
	return &command.Command{Op: &command.Command_SetMember{SetMember: &command.SetMember{Member: m}}}
}

// leaderReady returns nil if this leader has applied an entry of its term:
// before that, the library refuses changes of the configuration, and the rows
// may be old.
func (n *Node) leaderReady(r *raft.Raft) error {
	if r.State() != raft.Leader {
		return n.notLeader()
	}
	if n.p.StateMachine.TickTerm() != r.CurrentTerm() {
		return fmt.Errorf("%w: the new leader catches up", contract.ErrNotReady)
	}
	return nil
}

// configError says what an error of a configuration change means.
func (n *Node) configError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return n.notLeader()
	case errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%w: %w", contract.ErrNotReady, err)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &contract.OutcomeUnknownError{Cause: err}
	}
	return &contract.MembershipError{Detail: err.Error()}
}

// AddMember adds a node, as one without a vote; it gets its vote when it has
// caught up, unless m.Learner. The node itself must be running and have been
// started with --join; nodes that join by themselves need no AddMember. A
// member that is there already at the same address stays as it is; at another
// address it is refused.
//
// Errors of this and the other changes: *contract.MembershipError (refused),
// contract.ErrNoLeader, ErrNotReady, *contract.OutcomeUnknownError.
func (n *Node) AddMember(ctx context.Context, m contract.Member) error {
	return n.change(ctx, &changeRequest{Op: opAdd, ID: m.ID, Member: m})
}

// RemoveMember takes a node out of the cluster. It is refused if the voters
// that would be left, and answer now, were no quorum; force overrides that,
// but never the removal of the last voter. The leader can be removed: it
// hands over first.
func (n *Node) RemoveMember(ctx context.Context, id string, force bool) error {
	return n.change(ctx, &changeRequest{Op: opRemove, ID: id, Force: force})
}

// PromoteMember gives a node its vote, now: it is refused if the node is far behind.
func (n *Node) PromoteMember(ctx context.Context, id string) error {
	return n.change(ctx, &changeRequest{Op: opPromote, ID: id})
}

// TransferLeadership makes another voter the leader; to = "" leaves the
// choice to the leader, which takes the one that is nearest.
func (n *Node) TransferLeadership(ctx context.Context, to string) error {
	return n.change(ctx, &changeRequest{Op: opTransfer, ID: to})
}

// change finds the leader and lets it do the change. It asks again as long as
// the answer is that nothing was done because nobody leads.
func (n *Node) change(ctx context.Context, req *changeRequest) error {
	ctx, cancel := withTimeout(ctx, changeTimeout)
	defer cancel()
	for {
		err := n.changeOnce(ctx, req)
		if !errors.Is(err, contract.ErrNoLeader) && !errors.Is(err, contract.ErrNotReady) || n.removed.Load() || n.isClosing() {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(4 * retryRead):
		}
	}
}

func (n *Node) changeOnce(ctx context.Context, req *changeRequest) error {
	r := n.raft.Load()
	if r == nil {
		return n.notRunning()
	}
	if r.State() == raft.Leader {
		_, err := n.onChange(ctx, n.o.NodeID, req)
		return err
	}
	addr, id := r.LeaderWithID()
	if id == "" || string(id) == n.o.NodeID {
		return contract.ErrNoLeader
	}
	err := n.peers.call(ctx, string(addr), string(id), routeChange, req, &empty{})
	var answered *peerError
	if err != nil && !errors.As(err, &answered) {
		return &contract.OutcomeUnknownError{Cause: err}
	}
	return fromPeer(err)
}

// onChange executes a change on the leader.
func (n *Node) onChange(ctx context.Context, _ string, req *changeRequest) (*empty, error) {
	r := n.raft.Load()
	if r == nil {
		return nil, n.notRunning()
	}
	if err := n.leaderReady(r); err != nil {
		return nil, err
	}
	var err error
	switch req.Op {
	case opAdd:
		err = n.add(ctx, r, req.Member)
	case opRemove:
		err = n.remove(ctx, r, req.ID, req.Force)
	case opPromote:
		err = n.promote(ctx, r, req.ID)
	case opTransfer:
		err = n.transfer(ctx, r, req.ID)
	default:
		err = &contract.MembershipError{Detail: fmt.Sprintf("unknown change %q", req.Op)}
	}
	if err != nil {
		return nil, err
	}
	return &empty{}, nil
}

// add takes a new node in. A node that is a member already says itself where it
// is, by announcing itself: an operator who gave its id to another address would
// send a voter's entries to a node that has not got its vote.
func (n *Node) add(ctx context.Context, r *raft.Raft, m contract.Member) error {
	s, known := findServer(r, m.ID)
	if !known {
		_, err := n.takeIn(ctx, r, &announceRequest{Member: m, Fresh: true})
		return err
	}
	row := n.memberRow(m.ID)
	switch {
	case string(s.Address) != m.RaftAddr:
	case row == nil:
		return n.setRow(ctx, m) // an addition that was cut off, repeated
	case (m.HTTPAddr == "" || m.HTTPAddr == row.GetHttpAddr()) && (!m.Learner || row.GetLearner()):
		return nil
	}
	return &contract.MembershipError{Detail: fmt.Sprintf("node %s is a member already, at %s: it tells a new address itself when it starts there; to put another node in its place, remove it first", m.ID, s.Address)}
}

func notMember(id string) error {
	return &contract.MembershipError{NotFound: true, Detail: fmt.Sprintf("node %q is not a member", id)}
}

// remove takes a server out of the configuration and its row out of the state.
func (n *Node) remove(ctx context.Context, r *raft.Raft, id string, force bool) error {
	c := r.GetConfiguration()
	s, ok := findServer(r, id)
	if !ok {
		return notMember(id)
	}
	if s.Suffrage == raft.Voter {
		if err := n.quorumWithout(ctx, c.Configuration().Servers, id, force); err != nil {
			return err
		}
	}
	if id == n.o.NodeID {
		if s.Suffrage == raft.Voter {
			if err := n.transfer(ctx, r, ""); err != nil {
				return err
			}
		}
		return n.afterTransfer(ctx, &changeRequest{Op: opRemove, ID: id, Force: force})
	}
	if err := wait(ctx, r.RemoveServer(s.ID, c.Index(), enqueueTimeout)); err != nil {
		return n.configError(err)
	}
	n.log.Info("member removed", "peer", id)
	if _, err := n.propose(ctx, &command.Command{Op: &command.Command_RemoveMember{RemoveMember: &command.RemoveMember{NodeId: id}}}, true); err != nil {
		n.log.Warn("the row of a removed member is still there", "peer", id, "error", err)
	}
	// Tell it, so that it need not wait to find out; it may well be dead.
	n.goCall(func(ctx context.Context) {
		_ = n.peers.call(ctx, string(s.Address), id, routeKick, &empty{}, &empty{})
	})
	return nil
}

// afterTransfer waits until another node leads, and lets it do the change.
func (n *Node) afterTransfer(ctx context.Context, req *changeRequest) error {
	for {
		r := n.raft.Load()
		if addr, id := r.LeaderWithID(); id != "" && string(id) != n.o.NodeID {
			err := n.peers.call(ctx, string(addr), string(id), routeChange, req, &empty{})
			if err = fromPeer(err); !errors.Is(err, contract.ErrNoLeader) && !errors.Is(err, contract.ErrNotReady) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the leadership was handed over, node %s is not removed yet: try again", contract.ErrNoLeader, req.ID)
		case <-time.After(4 * retryRead):
		}
	}
}

// quorumWithout refuses a removal after which the cluster could not write.
func (n *Node) quorumWithout(ctx context.Context, servers []raft.Server, id string, force bool) error {
	var rest []raft.Server
	for _, s := range servers {
		if s.Suffrage == raft.Voter && string(s.ID) != id {
			rest = append(rest, s)
		}
	}
	if len(rest) == 0 {
		return &contract.MembershipError{Detail: fmt.Sprintf("node %s is the last voter: it can't be removed", id)}
	}
	if force {
		return nil
	}
	alive := len(n.progressOf(ctx, rest))
	if need := len(rest)/2 + 1; alive < need {
		return &contract.MembershipError{Detail: fmt.Sprintf("without node %s the cluster has %d voters, of which %d answer and %d are needed: bring nodes back first, or force it", id, len(rest), alive, need)}
	}
	return nil
}

// progressOf asks servers how far they are, all at once; those that do not
// answer in time are left out.
func (n *Node) progressOf(ctx context.Context, servers []raft.Server) map[raft.ServerID]progressResponse {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[raft.ServerID]progressResponse{}
	for _, s := range servers {
		if string(s.ID) == n.o.NodeID {
			applied, _ := n.p.StateMachine.Applied()
			mu.Lock()
			out[s.ID] = progressResponse{Applied: applied}
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			var resp progressResponse
			if err := n.peers.call(ctx, string(s.Address), string(s.ID), routeProgress, &empty{}, &resp); err == nil {
				mu.Lock()
				out[s.ID] = resp
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out
}

// promote gives a server its vote.
func (n *Node) promote(ctx context.Context, r *raft.Raft, id string) error {
	c := r.GetConfiguration()
	s, ok := findServer(r, id)
	switch {
	case !ok:
		return notMember(id)
	case s.Suffrage == raft.Voter:
		return nil
	}
	p, ok := n.progressOf(ctx, []raft.Server{s})[s.ID]
	if !ok {
		return &contract.MembershipError{Detail: fmt.Sprintf("node %s does not answer: it gets no vote", id)}
	}
	if commit := r.CommitIndex(); p.Restoring || p.Applied+promoteGap < commit {
		return &contract.MembershipError{Detail: fmt.Sprintf("node %s has applied %d of %d entries: wait until it has caught up", id, p.Applied, commit)}
	}
	if row := n.memberRow(id); row.GetLearner() {
		m := fromRow(row)
		m.Learner = false
		if err := n.setRow(ctx, m); err != nil {
			return err
		}
	}
	if err := wait(ctx, r.AddVoter(s.ID, s.Address, c.Index(), enqueueTimeout)); err != nil {
		return n.configError(err)
	}
	n.log.Info("member promoted to voter", "peer", id)
	return nil
}

// transfer hands the leadership over to a voter that answers.
func (n *Node) transfer(ctx context.Context, r *raft.Raft, to string) error {
	var voters []raft.Server
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && string(s.ID) != n.o.NodeID && (to == "" || string(s.ID) == to) {
			voters = append(voters, s)
		}
	}
	switch {
	case to == n.o.NodeID:
		return nil
	case len(voters) == 0 && to != "" && suffrage(r, to) == raft.Staging:
		return notMember(to)
	case len(voters) == 0:
		return &contract.MembershipError{Detail: fmt.Sprintf("no other voter to lead (%q)", to)}
	}
	// The library would pick by what it has sent, to nodes that may be dead;
	// and a transfer that fails is what must not happen (hashicorp/raft #696).
	alive := n.progressOf(ctx, voters)
	best := -1
	for i, s := range voters {
		p, ok := alive[s.ID]
		if !ok || p.Restoring || p.Diverged {
			continue
		}
		if best < 0 || better(p, alive[voters[best].ID]) {
			best = i
		}
	}
	if best < 0 {
		return &contract.MembershipError{Detail: "no other voter answers: the leadership stays here"}
	}
	if err := wait(ctx, r.LeadershipTransferToServer(voters[best].ID, voters[best].Address)); err != nil {
		return fmt.Errorf("%w: transfer to %s: %w", contract.ErrNotReady, voters[best].ID, err)
	}
	return nil
}

// better says whether one voter is the better leader than another: one whose
// disk has space, then the one that is nearest.
func better(a, b progressResponse) bool {
	if a.DiskLow != b.DiskLow {
		return b.DiskLow
	}
	return a.Applied > b.Applied
}

// promotions remembers since when each node without a vote keeps up.
type promotions struct{ since map[raft.ServerID]time.Time }

func newPromotions() *promotions { return &promotions{since: map[raft.ServerID]time.Time{}} }

// promoteReady gives a vote to each node that wants one and has kept up for
// PromoteAfter. AddVoter would let a node vote at once, empty as it is, and a
// majority that needs it would stand still until it has everything.
func (n *Node) promoteReady(ctx context.Context, p *promotions) {
	r := n.raft.Load()
	if n.leaderReady(r) != nil {
		return
	}
	var candidates []raft.Server
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Nonvoter {
			if row := n.memberRow(string(s.ID)); row != nil && !row.GetLearner() {
				candidates = append(candidates, s)
			}
		}
	}
	if len(candidates) == 0 {
		clear(p.since)
		return
	}
	commit := r.CommitIndex() // before the question: what came later doesn't count against them
	progress := n.progressOf(ctx, candidates)
	for _, s := range candidates {
		at, ok := progress[s.ID]
		if !ok || at.Restoring || at.Diverged || at.Applied+promoteGap < commit {
			delete(p.since, s.ID)
			continue
		}
		if p.since[s.ID].IsZero() {
			p.since[s.ID] = time.Now()
		}
		if time.Since(p.since[s.ID]) < n.o.PromoteAfter {
			continue
		}
		if err := n.promote(ctx, r, string(s.ID)); err != nil {
			n.log.Warn("could not promote", "peer", string(s.ID), "error", err)
		}
		delete(p.since, s.ID)
		return // one change at a time
	}
}

// goCall runs a best-effort call that Close waits for.
func (n *Node) goCall(f func(ctx context.Context)) {
	n.goRun(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, pollTimeout)
		defer cancel()
		f(ctx)
	})
}

// wait makes a future of Raft obey a context. To stop waiting does not stop
// the change. The goroutine ends with the future, which Raft always completes.
func wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
