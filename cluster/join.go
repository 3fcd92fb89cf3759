package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/failpoint"
)

const (
	// upkeepEvery is how often a node checks that the cluster knows it, and
	// upkeepSoon how often while it does not.
	upkeepEvery, upkeepSoon = time.Second, 200 * time.Millisecond
	// announceTimeout bounds one announcement; it may cost the leader two entries.
	announceTimeout = 5 * time.Second
)

// announceSoon makes the upkeep announce this node now.
func (n *Node) announceSoon() {
	select {
	case n.announce <- struct{}{}:
	default:
	}
}

// upkeep keeps the cluster's knowledge of this node right: its row, its
// address; and it notices when this node is a member no more.
func (n *Node) upkeep(ctx context.Context) {
	t := time.NewTimer(upkeepSoon)
	defer t.Stop()
	var heard time.Time // when this node last had a leader
	next := upkeepSoon
	for {
		kicked := false
		select {
		case <-ctx.Done():
			return
		case <-n.announce:
			kicked = true
		case <-t.C:
			t.Reset(next)
		}
		r := n.raft.Load()
		if r == nil {
			continue
		}
		n.finishFounding(ctx)
		if r.State() == raft.Leader {
			heard, next = time.Now(), upkeepEvery
			n.removed.Store(false)
			continue
		}
		if _, id := r.LeaderWithID(); id != "" {
			heard = time.Now()
		}
		_, member := findServer(r, n.o.NodeID)
		lost := !heard.IsZero() && time.Since(heard) > 3*n.o.ElectionTimeout
		known := member && sameMember(n.memberRow(n.o.NodeID), n.ownMember())
		if next = upkeepEvery; !known && !n.removed.Load() {
			next = upkeepSoon
		}
		// A removed node asks too: it may have been added again, or the change that
		// removed it was lost with its leader.
		if kicked || lost || !known || n.removed.Load() {
			n.announceSelf(ctx, r)
		}
	}
}

// announceSelf tells the cluster where this node is, by any member that can
// be reached, and learns whether it is still a member.
func (n *Node) announceSelf(ctx context.Context, r *raft.Raft) {
	addr, id := r.LeaderWithID()
	targets := []raft.Server{}
	if id != "" && string(id) != n.o.NodeID {
		targets = append(targets, raft.Server{ID: id, Address: addr})
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if string(s.ID) != n.o.NodeID && s.ID != id {
			targets = append(targets, s)
		}
	}
	for _, s := range targets {
		resp, err := n.announceTo(ctx, string(s.Address), string(s.ID), false)
		if err != nil {
			n.log.Debug("announcing this node", "peer", string(s.ID), "error", err)
			continue
		}
		if resp.Removed != n.removed.Swap(resp.Removed) && resp.Removed {
			n.log.Warn("this node was removed from the cluster; to add it again, empty its data directory and restart it")
		}
		return
	}
}

func (n *Node) announceTo(ctx context.Context, addr, id string, fresh bool) (*announceResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	var resp announceResponse
	req := &announceRequest{Member: fromRow(n.ownMember()), Fresh: fresh}
	if err := n.peers.call(ctx, addr, id, routeAnnounce, req, &resp); err != nil {
		return nil, fromPeer(err)
	}
	return &resp, nil
}

func fromRow(m *command.Member) contract.Member {
	return contract.Member{ID: m.GetNodeId(), RaftAddr: m.GetRaftAddr(), HTTPAddr: m.GetHttpAddr(), Version: m.GetVersion(), Learner: m.GetLearner()}
}

func toRow(m contract.Member) *command.Member {
	return &command.Member{NodeId: m.ID, RaftAddr: m.RaftAddr, HttpAddr: m.HTTPAddr, Version: m.Version, Learner: m.Learner}
}

// join asks the members found to take this node in; Raft starts only when the
// leader has: see the comment at Node.raft.
func (n *Node) join(ctx context.Context, cluster string, members []contract.Identity) error {
	var errs []error
	for _, m := range members {
		resp, err := n.announceTo(ctx, m.RaftAddr, m.NodeID, true)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster: join by node %s: %w", m.NodeID, err))
			continue
		}
		if resp.ClusterID != cluster {
			errs = append(errs, fmt.Errorf("cluster: node %s is of cluster %s, not of %s", m.NodeID, resp.ClusterID, cluster))
			continue
		}
		failpoint.Hit(failpoint.JoinTakenIn)
		if err := n.pin(cluster, false); err != nil {
			return err
		}
		if n.identity.record().LogLost { // the leader has taken the vote away
			if err := n.identity.update(func(r *identityRecord) { r.LogLost = false }); err != nil {
				return err
			}
		}
		n.log.Info("taken in by the cluster", "cluster", cluster, "by", m.NodeID)
		return n.startRaft()
	}
	return errors.Join(errs...)
}

// onAnnounce is the leader's side; another member passes the announcement on.
func (n *Node) onAnnounce(ctx context.Context, from string, req *announceRequest) (*announceResponse, error) {
	r := n.raft.Load()
	switch {
	case r == nil:
		return nil, n.notRunning()
	case req.Hops == 0 && from != req.Member.ID:
		return nil, &contract.MembershipError{Detail: fmt.Sprintf("node %s announced node %s", from, req.Member.ID)}
	case r.State() == raft.Leader:
		return n.takeIn(ctx, r, req)
	case req.Hops > 0:
		return nil, contract.ErrNoLeader
	}
	addr, id := r.LeaderWithID()
	if id == "" || string(id) == n.o.NodeID || string(id) == req.Member.ID {
		return nil, contract.ErrNoLeader
	}
	var resp announceResponse
	if err := n.peers.call(ctx, string(addr), string(id), routeAnnounce, &announceRequest{Member: req.Member, Fresh: req.Fresh, Hops: 1}, &resp); err != nil {
		return nil, fromPeer(err)
	}
	return &resp, nil
}

// takeIn makes the configuration and the row of a node what it says of itself.
func (n *Node) takeIn(ctx context.Context, r *raft.Raft, req *announceRequest) (*announceResponse, error) {
	if err := n.leaderReady(r); err != nil {
		return nil, err
	}
	resp := &announceResponse{ClusterID: n.ClusterID()}
	m, c := req.Member, r.GetConfiguration()
	if !validNodeID(m.ID) {
		return nil, &contract.MembershipError{Detail: fmt.Sprintf("node id %q is not valid", m.ID)}
	}
	if err := checkAddress(m.RaftAddr); err != nil {
		return nil, &contract.MembershipError{Detail: fmt.Sprintf("node %s: %v", m.ID, err)}
	}
	server, known := findServer(r, m.ID)
	if !known && !req.Fresh {
		resp.Removed = true
		return resp, nil
	}
	if err := freeAddress(c, m); err != nil {
		return nil, err
	}
	if known && req.Fresh {
		// What follows takes something away from the node that has the id.
		if err := n.mayReplace(ctx, server); err != nil {
			return nil, err
		}
		if server.Suffrage == raft.Voter {
			// It lost its log and its vote: what it acknowledged is gone. As a
			// learner it counts for nothing until it has all of it again.
			n.log.Warn("a voter lost its data; it has no vote until it has caught up", "peer", m.ID)
			if err := n.changed(ctx, r.DemoteVoter(server.ID, c.Index(), enqueueTimeout)); err != nil {
				return nil, err
			}
			server, c = raft.Server{ID: server.ID, Address: server.Address, Suffrage: raft.Nonvoter}, r.GetConfiguration()
		}
	}
	// In the same call: an empty node that moved knows nobody whom it could tell.
	id, addr := raft.ServerID(m.ID), raft.ServerAddress(m.RaftAddr)
	var err error
	switch {
	case known && server.Address == addr:
	case known && server.Suffrage == raft.Voter:
		err = n.changed(ctx, r.AddVoter(id, addr, c.Index(), enqueueTimeout))
	default:
		err = n.changed(ctx, r.AddNonvoter(id, addr, c.Index(), enqueueTimeout))
	}
	if err == nil && known && req.Fresh {
		// The vote may have been taken away by an earlier call that nobody waited
		// for: until a majority knows of it, an heir of this leader may count it.
		err = n.settled(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	return resp, n.setRow(ctx, m)
}

// settled waits until all that is in the log now is committed.
func (n *Node) settled(ctx context.Context, r *raft.Raft) error {
	if err := wait(ctx, r.Barrier(enqueueTimeout)); err != nil {
		return n.configError(err)
	}
	return nil
}

// changed waits for a change of the configuration.
func (n *Node) changed(ctx context.Context, change raft.IndexFuture) error {
	if err := wait(ctx, change); err != nil {
		return n.configError(err)
	}
	failpoint.Hit(failpoint.MemberChange)
	return nil
}

// freeAddress refuses an address that another member has: Raft would.
func freeAddress(c raft.ConfigurationFuture, m contract.Member) error {
	for _, s := range c.Configuration().Servers {
		if string(s.Address) == m.RaftAddr && string(s.ID) != m.ID {
			return &contract.MembershipError{Detail: fmt.Sprintf("the address %s belongs to member %s: remove that member first", m.RaftAddr, s.ID)}
		}
	}
	return nil
}

func (n *Node) setRow(ctx context.Context, m contract.Member) error {
	if sameMember(n.memberRow(m.ID), toRow(m)) {
		return nil
	}
	_, err := n.propose(ctx, setMember(toRow(m)), true)
	return err
}
