package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

func TestSingleNodeIsReadyAtOnceAndComesBack(t *testing.T) {
	c := newTestCluster(t)
	start := time.Now()
	n := c.start("n1", 0)
	c.allReady()
	t.Logf("ready after %v", time.Since(start))
	res, err := n.Propose(t.Context(), put("d", "one"))
	if err != nil || res.GetIndex() == 0 {
		t.Fatalf("propose: %v, %v", res, err)
	}
	cluster := n.ClusterID()
	c.stop("n1")
	n = c.start("n1", 0)
	c.allReady()
	if n.ClusterID() != cluster || n.sm.title("d") != "one" {
		t.Errorf("after a restart: cluster %s, title %q; was %s, one", n.ClusterID(), n.sm.title("d"), cluster)
	}
}

func TestThreeNodesWithTheSameCommandLine(t *testing.T) {
	c := newTestCluster(t)
	start := time.Now()
	c.three()
	t.Logf("ready after %v", time.Since(start))
	leader := c.leader()
	for _, n := range c.running() {
		if n.ClusterID() != leader.ClusterID() || n.ClusterID() == "" {
			t.Errorf("node %s is of cluster %q, the leader of %q", n.id, n.ClusterID(), leader.ClusterID())
		}
		eventually(t, n.id+" knows all members", func() error {
			ms := n.Members()
			for _, m := range ms {
				if !m.Voter || m.HTTPAddr != "http://"+m.ID {
					return errors.New("a member is not complete: " + m.ID)
				}
			}
			if len(ms) != 3 {
				return errors.New("not three")
			}
			return nil
		})
	}
	res := c.write("d", "one")
	for _, n := range c.running() {
		if _, err := n.ReadIndex(t.Context(), contract.Consistency{Level: contract.Session, MinIndex: res.GetIndex()}); err != nil {
			t.Fatal(err)
		}
		if got := n.sm.title("d"); got != "one" {
			t.Errorf("node %s reads %q", n.id, got)
		}
	}
	if _, err := c.follower().Propose(t.Context(), put("d", "two")); !isNotLeader(err, leader.id) {
		t.Errorf("a write on a follower: %v", err)
	}
}

func isNotLeader(err error, leader string) bool {
	var e *contract.NotLeaderError
	return errors.As(err, &e) && e.Leader.ID == leader && e.Leader.HTTPAddr == "http://"+leader && contract.Outcome(err) == contract.OutcomeNotApplied
}

func TestAllNodesRestart(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	c.write("d", "one")
	for _, id := range []string{"n1", "n2", "n3"} {
		c.stop(id)
	}
	for _, id := range []string{"n1", "n2", "n3"} {
		c.start(id, 3, "n1", "n2", "n3")
	}
	c.allReady()
	c.write("d", "two")
	for _, n := range c.running() {
		eventually(t, n.id+" has the write", func() error {
			if got := n.sm.title("d"); got != "two" {
				return errors.New(got)
			}
			return nil
		})
	}
}

func TestCloseHandsTheLeadershipOver(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	old := c.leader()
	start := time.Now()
	c.stop(old.id)
	next := c.leader()
	if next.id == old.id {
		t.Fatal("the closed node leads")
	}
	// An election needs at least a heartbeat timeout; a transfer doesn't. The
	// bound is generous: what matters is in the log line.
	t.Logf("closed and replaced after %v", time.Since(start))
	if _, err := old.Propose(t.Context(), put("d", "late")); !errors.Is(err, contract.ErrShutdown) {
		t.Errorf("a write on a closed node: %v", err)
	}
	if _, err := old.ReadIndex(t.Context(), contract.Consistency{Level: contract.Linearizable}); !errors.Is(err, contract.ErrShutdown) {
		t.Errorf("a read on a closed node: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	if err := old.Close(ctx); err != nil {
		t.Errorf("second close: %v", err)
	}
}
