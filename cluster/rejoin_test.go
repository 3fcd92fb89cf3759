package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// A wiped voter may take part in Raft when its vote is gone for good, and not
// when the leader has only begun to take it away: an heir of the leader that
// does not know of it would ask for the vote.
func TestAWipedVoterIsTakenInWhenItsVoteIsGone(t *testing.T) {
	c := newTestCluster(t)
	c.opts = func(_ string, o *Options) { // the leader goes on to lead while it is alone
		o.HeartbeatTimeout, o.ElectionTimeout, o.LeaderLease = 15*time.Second, 15*time.Second, 15*time.Second
	}
	c.three()
	c.founded()
	leader := c.leader()
	loser, behind := c.nodes[c.others(leader.id)[0]], c.nodes[c.others(leader.id)[1]]
	c.stop(loser.id)
	c.loseData(loser.id)
	c.start(loser.id, 3, "nobody") // it answers, and asks nobody
	r := leader.raft.Load()
	s, _ := findServer(r, loser.id)
	// A connection to the stopped process may be tried first.
	eventually(t, "it answers as a new node", func() error { return leader.mayReplace(t.Context(), s) })
	c.net.isolate(behind.id, true)

	req := &announceRequest{Fresh: true, Member: fromRow(leader.memberRow(loser.id))}
	first, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := leader.takeIn(first, r, req)
		done <- err
	}()
	eventually(t, "the leader begins to take the vote away", func() error {
		if s, _ := findServer(r, loser.id); s.Suffrage != raft.Nonvoter {
			return fmt.Errorf("it is %v", s)
		}
		return nil
	})
	second, cancelSecond := context.WithTimeout(t.Context(), time.Second)
	defer cancelSecond()
	if resp, err := leader.takeIn(second, r, req); err == nil {
		t.Errorf("it is taken in, and a node that is cut off still counts its vote: %+v", resp)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the first call was answered without a majority")
	}
	c.net.isolate(behind.id, false)
	eventually(t, "it is taken in", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), announceTimeout)
		defer cancel()
		_, err := c.leader().takeIn(ctx, c.leader().raft.Load(), req)
		return err
	})
}

// Nothing but the votes is left, not even who the node is: it is a new node.
func TestANodeWithNothingButVotesIsNew(t *testing.T) {
	c := newTestCluster(t)
	keepVotes := func(id string) {
		c.stop(id)
		c.loseData(id)
		if err := os.Remove(filepath.Join(c.nodes[id].dir, identityFile)); err != nil {
			t.Fatal(err)
		}
	}
	c.start("n1", 0)
	c.start("n2", 0, "n1")
	c.voters("n1,n2", "")
	c.write("d", "x")
	c.founded()
	keepVotes("n2")
	c.start("n2", 0, "n1")
	c.allReady()
	c.voters("n1,n2", "")
	// And if there is nobody to join, it begins anew.
	keepVotes("n2")
	c.start("n2", 0)
	eventually(t, "n2 is a cluster of its own", func() error { return c.nodes["n2"].Ready() })
	if c.nodes["n2"].ClusterID() == c.nodes["n1"].ClusterID() {
		t.Error("it is of the cluster that it can't know")
	}
}

// An operator may add a removed node again; it learns that it is a member.
func TestARemovedNodeThatIsAddedAgainServes(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	m := fromRow(f.ownMember())
	c.remove(f.id)
	eventually(t, "it knows", func() error {
		if err := f.Ready(); !errors.Is(err, contract.ErrRemoved) {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	eventually(t, "it is added", func() error { return c.leader(f.id).AddMember(t.Context(), m) })
	c.voters("n1,n2,n3", "")
	c.allReady()
}

// A stranger that answers later than a node of this cluster is named too.
func TestASlowStrangerIsNamed(t *testing.T) {
	c := newTestCluster(t)
	c.parts = func(id string, p *Parts) {
		if id != "n3" {
			return
		}
		p.Discover = func(ctx context.Context, url string) (contract.Identity, error) {
			if url != "test://n4" {
				return c.discover(ctx, url)
			}
			select {
			case <-time.After(50 * time.Millisecond): // a node far away
			case <-ctx.Done():
				return contract.Identity{}, ctx.Err()
			}
			return c.discover(ctx, url)
		}
	}
	c.start("n4", 0)
	c.start("n1", 3, "n1", "n2", "n3")
	c.start("n2", 3, "n1", "n2", "n3")
	c.start("n3", 3, "n1", "n2", "n3")
	c.allReady()
	c.stop("n3")
	n3 := c.start("n3", 3, "n1", "n2", "n4")
	eventually(t, "it says that n4 is a stranger", func() error {
		if got := strings.Join(n3.LocalStatus().Errors, "; "); !strings.Contains(got, "n4 at test://n4") {
			return errors.New(got)
		}
		return n3.Ready()
	})
}

// noRoom is a snapshot store that can't be written to.
type noRoom struct{ raft.SnapshotStore }

func (noRoom) Create(raft.SnapshotVersion, uint64, uint64, raft.Configuration, uint64, raft.Transport) (raft.SnapshotSink, error) {
	return nil, errors.New("no room")
}

// A recovery that was cut off must not leave a node that looks as if it knew
// how it voted.
func TestARecoveryThatFailedDoesNotHideLostVotes(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.write("d", "x")
	c.stop("n1")
	if err := os.Remove(filepath.Join(n.dir, stableFile)); err != nil {
		t.Fatal(err)
	}
	o := RecoverOptions{NodeID: "n1", DataDir: n.dir, Voters: []RecoverServer{{ID: "n1", RaftAddr: n.proxy.listener.Addr().String()}}}
	p := c.partsOf(n)
	p.Snapshots = noRoom{p.Snapshots}
	if err := Recover(o, p); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Fatalf("recover: %v", err)
	}
	if _, err := c.open("n1", 0); err == nil || !strings.Contains(err.Error(), "I5 violated") {
		t.Fatalf("it starts: %v", err)
	}
	if err := Recover(o, c.partsOf(n)); err != nil {
		t.Fatal(err)
	}
	c.start("n1", 0)
	c.allReady()
	c.write("d", "y")
}

// A node that lost its identity and its state can't call the others strangers:
// its log tells whose it is, when it has been applied.
func TestTheOnlyVoterWithoutAnIdentityAsksNobody(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.start("n2", 0, "n1")
	c.voters("n1,n2", "")
	c.write("d", "x")
	n1 := c.nodes["n1"]
	eventually(t, "n2 is removed", func() error {
		if err := n1.RemoveMember(t.Context(), "n2", false); !isNotFound(err) {
			return err
		}
		return nil
	})
	c.voters("n1", "")
	c.stop("n1")
	if err := os.Remove(filepath.Join(n1.dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	n1.sm = newMachine()
	c.start("n1", 0, "n2")
	eventually(t, "it serves", func() error { return n1.Ready() })
	if got := n1.sm.title("d"); got != "x" {
		t.Errorf("it has %q", got)
	}
}
