package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

// TestOnlyVotersOfTheTermVouch is Invariant R2. Two learners stay with a
// leader that has lost its only other voter: they would be a majority, if they
// counted, for as long as the leader's lease lasts.
func TestOnlyVotersOfTheTermVouch(t *testing.T) {
	c := newTestCluster(t)
	leader := c.start("n1", 0)
	c.start("n2", 0, "n1")
	c.voters("n1,n2", "")
	c.opts = func(id string, o *Options) { o.Learner = id == "n3" || id == "n4" }
	c.start("n3", 0, "n1")
	c.start("n4", 0, "n1")
	c.voters("n1,n2", "n3,n4")
	c.allReady()

	// The voter is in this term, and in no other.
	r := leader.raft.Load()
	for range 5 { // the node's own rounds may take the answers
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := leader.reads.quorum.verify(ctx, leader.Node, r, r.CurrentTerm()-1); err == nil {
			t.Error("a voter vouched for a term that is over")
		}
		cancel()
	}

	c.net.isolate("n2", true)
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if stamp, err := leader.ReadIndex(ctx, linearizable); err == nil {
			t.Errorf("a leader without a voter answered with index %d", stamp.Index)
		}
		cancel()
	}
	c.net.isolate("n2", false)
	c.allReady()
}

// TestARoundOfANodeThatDoesNotLeadIsRefused: between the look at the role and
// the round a node may lose its office, follow the next leader, and be in that
// leader's term with all others, while its commit index is behind.
func TestARoundOfANodeThatDoesNotLeadIsRefused(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	c.write("d", "some")
	f := c.follower()
	r := f.raft.Load()
	eventually(t, "the leader's Tick is applied at the follower", func() error {
		if f.sm.TickTerm() != r.CurrentTerm() {
			return errors.New("not yet")
		}
		return nil
	})
	if index, _, err := f.quorumIndex(t.Context(), r); !errors.Is(err, contract.ErrNoLeader) {
		t.Errorf("a follower answered with index %d, %v", index, err)
	}
}
