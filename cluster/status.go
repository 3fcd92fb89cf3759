package cluster

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// LocalStatus is this node's own status. It asks nobody.
func (n *Node) LocalStatus() contract.NodeStatus {
	s := contract.NodeStatus{ID: n.o.NodeID, RaftAddr: n.mux.addr(), HTTPAddr: n.o.HTTPAdvertise, Reachable: true,
		Role: contract.Unknown, Version: n.o.Version, Started: n.started, ClockMs: n.o.Now().UnixMilli(),
		Restoring: n.p.StateMachine.Restoring(), LogBytes: n.logs.bytes()}
	s.AppliedIndex, _ = n.p.StateMachine.Applied()
	if m, err := newestSnapshot(n.p.Snapshots); err != nil {
		s.Errors = append(s.Errors, err.Error())
	} else if m != nil {
		s.SnapshotIndex, s.SnapshotAge = m.Index, snapshotAge(m, n.o.Now())
	}
	var err error
	if s.FirstLogIndex, err = n.logs.FirstIndex(); err == nil {
		s.LastLogIndex, err = n.logs.LastIndex()
	}
	if err != nil {
		s.Errors = append(s.Errors, err.Error())
	}
	s.State = n.stateStatus()
	if n.p.Storage != nil {
		if s.Storage, s.DBBytes, err = n.p.Storage(); err != nil {
			s.Errors = append(s.Errors, err.Error())
		}
	}
	if n.p.DiskFree != nil {
		if s.DiskFreeBytes, _, err = n.p.DiskFree(); err != nil {
			s.Errors = append(s.Errors, err.Error())
		}
	}
	s.DiskLeftBytes, s.DiskLowBytes = n.gates.disk()
	for _, reason := range gateReasons {
		if n.gates.refusing(reason) >= 1 {
			s.Refusing = append(s.Refusing, reason)
		}
	}
	if text := n.diskError(); text != "" {
		s.Errors = append(s.Errors, text)
	}
	if r := n.raft.Load(); r != nil {
		s.Term, s.CommitIndex, s.Leader = r.CurrentTerm(), r.CommitIndex(), n.Leader().ID
		s.Voter = suffrage(r, n.o.NodeID) == raft.Voter
		s.Role = role(r, s.Voter)
	}
	if err := n.Ready(); err != nil {
		s.Errors = append(s.Errors, err.Error())
	}
	if v := n.foreign.Load(); v != nil && v.notes != "" {
		s.Errors = append(s.Errors, v.notes)
	}
	return s
}

func role(r *raft.Raft, voter bool) contract.Role {
	switch r.State() {
	case raft.Leader:
		return contract.Leader
	case raft.Candidate:
		return contract.Candidate
	case raft.Follower:
		if voter {
			return contract.Follower
		}
		return contract.Learner
	}
	return contract.Unknown
}

// Status is the cluster as this node sees it now: all members are asked at
// once, and one that does not answer within pollTimeout is shown as
// unreachable.
func (n *Node) Status(ctx context.Context) (*contract.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	local := n.LocalStatus()
	out := &contract.Status{ClusterID: n.ClusterID(), Leader: local.Leader, Term: local.Term}
	members := n.Members()
	out.Nodes = make([]contract.NodeStatus, len(members))
	var wg sync.WaitGroup
	found := false
	for i, m := range members {
		if m.ID == n.o.NodeID {
			out.Nodes[i], found = local, true
			continue
		}
		wg.Go(func() { out.Nodes[i] = n.statusOf(ctx, m) })
	}
	wg.Wait()
	if !found { // joining, or removed
		out.Nodes = append(out.Nodes, local)
	}
	// The lag is measured against what the leader has committed; without a
	// leader, against the most that anyone knows of.
	var commit uint64
	for _, s := range out.Nodes {
		if s.Reachable && s.ID == out.Leader {
			commit = s.CommitIndex
			break
		}
		commit = max(commit, s.CommitIndex)
	}
	for i := range out.Nodes {
		if s := &out.Nodes[i]; s.Reachable && s.AppliedIndex < commit {
			s.Lag = commit - s.AppliedIndex
		}
	}
	return out, nil
}

// statusOf asks one member.
func (n *Node) statusOf(ctx context.Context, m contract.Member) contract.NodeStatus {
	var s contract.NodeStatus
	if err := n.peers.call(ctx, m.RaftAddr, m.ID, routeStatus, &empty{}, &s); err != nil {
		return contract.NodeStatus{ID: m.ID, RaftAddr: m.RaftAddr, HTTPAddr: m.HTTPAddr, Role: contract.Unknown, Voter: m.Voter, Errors: []string{err.Error()}}
	}
	s.Reachable = true
	return s
}
