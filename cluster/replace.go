package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// replacePatience is for how many election timeouts a member must not answer
// before an empty node may have its id. A node that is paused or slow for a
// moment is not dead, and to take its vote away may cost the quorum.
const replacePatience = 3

// silence remembers since when members do not answer whose id a new node wants.
type silence struct {
	mu    sync.Mutex // guards since and asked
	since map[raft.ServerID]time.Time
	asked map[raft.ServerID]time.Time // last
}

// heard ends the silence of a member.
func (s *silence) heard(id raft.ServerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, id)
	delete(s.asked, id)
}

// lasts returns for how long a member has not answered, now that it has not
// again. A silence during which nobody asked for longer than gap begins anew.
func (s *silence) lasts(id raft.ServerID, gap time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since, s.asked = map[raft.ServerID]time.Time{}, map[raft.ServerID]time.Time{}
	}
	now := time.Now()
	if last, ok := s.asked[id]; !ok || now.Sub(last) > gap {
		s.since[id] = now
	}
	s.asked[id] = now
	return now.Sub(s.since[id])
}

// mayReplace returns nil if an empty node may have the id of this member: the
// member was wiped, or its machine was replaced. A second process that was
// given the id by mistake must not cost a healthy member its vote, so the
// member is asked at the address where the cluster knows it:
//
//   - it answers, and runs Raft: the id is in use;
//   - it answers as a new node: that is the member itself, wiped;
//   - it does not answer: it is dead if that lasts.
func (n *Node) mayReplace(ctx context.Context, s raft.Server) error {
	inUse := &contract.MembershipError{Detail: fmt.Sprintf("node id %q is in use by the node at %s: give this node an id of its own, or stop that one first", s.ID, s.Address)}
	if string(s.ID) == n.o.NodeID {
		return inUse
	}
	asked, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var resp progressResponse
	err := n.peers.call(asked, string(s.Address), string(s.ID), routeProgress, &empty{}, &resp)
	switch {
	case err == nil && resp.Running:
		n.silence.heard(s.ID)
		return inUse
	case err == nil:
		n.silence.heard(s.ID)
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", contract.ErrNotReady, ctx.Err())
	}
	patience := replacePatience * n.o.ElectionTimeout
	if quiet := n.silence.lasts(s.ID, patience); quiet < patience {
		return fmt.Errorf("%w: node %s at %s has not answered for %v; a new node may have its id after %v: %w",
			contract.ErrNotReady, s.ID, s.Address, quiet.Round(time.Millisecond), patience, err)
	}
	return nil
}
