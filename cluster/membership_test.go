package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// voters waits until the leader's configuration has these voters and these learners.
func (c *testCluster) voters(voters, learners string) {
	c.t.Helper()
	eventually(c.t, "voters "+voters+", learners "+learners, func() error {
		var v, l []string
		for _, m := range c.leader().Members() {
			if m.Voter {
				v = append(v, m.ID)
			} else {
				l = append(l, m.ID)
			}
		}
		if got := strings.Join(v, ","); got != voters {
			return fmt.Errorf("voters %s", got)
		}
		if got := strings.Join(l, ","); got != learners {
			return fmt.Errorf("learners %s", got)
		}
		return nil
	})
}

func TestNodesJoinAndGetTheirVote(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.write("d", "x")
	c.start("n2", 0, "n1")
	c.start("n3", 0, "n1", "n2", "n3")
	c.voters("n1,n2,n3", "")
	c.allReady()
	for _, n := range c.running() {
		if _, err := n.ReadIndex(t.Context(), linearizable); err != nil || n.sm.title("d") != "x" {
			t.Errorf("node %s: %v, %q", n.id, err, n.sm.title("d"))
		}
	}
}

func TestALearnerStaysOneUntilItIsPromoted(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.allReady()
	c.opts = func(id string, o *Options) { o.Learner = id == "n2" }
	n2 := c.start("n2", 0, "n1")
	c.voters("n1", "n2")
	c.allReady()
	if got := n2.LocalStatus().Role; got != contract.Learner {
		t.Errorf("role %s", got)
	}
	// It has kept up for longer than PromoteAfter by far; each write is a beat of the duties.
	for i := range 3 {
		c.write("d", fmt.Sprint(i))
		before := c.leader().sm.ClockMs()
		eventually(t, "time passes", func() error {
			if time.Now().UnixMilli()-before < 600 {
				return errors.New("not yet")
			}
			return nil
		})
	}
	c.voters("n1", "n2")
	if err := n2.PromoteMember(t.Context(), "n2"); err != nil { // asked of a follower
		t.Fatal(err)
	}
	c.voters("n1,n2", "")
	c.stop("n2")
	c.start("n2", 0, "n1") // the flag says learner still; the promotion holds
	c.allReady()
	c.voters("n1,n2", "")
}

func TestRemoveAndReturnAfterAWipe(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	c.write("d", "x")
	f := c.follower()
	if err := c.leader().RemoveMember(t.Context(), "nobody", false); !isNotFound(err) {
		t.Errorf("removing nobody: %v", err)
	}
	if err := f.RemoveMember(t.Context(), f.id, false); err != nil { // it asks the leader to remove itself
		t.Fatal(err)
	}
	eventually(t, "the removed node knows it", func() error {
		if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "removed") {
			return fmt.Errorf("ready says: %v", err)
		}
		return nil
	})
	c.write("d", "y")
	// The same command line and the old data: it must not come back by itself.
	c.stop(f.id)
	c.start(f.id, 3, "n1", "n2", "n3")
	eventually(t, "still removed", func() error {
		if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "removed") {
			return fmt.Errorf("ready says: %v", err)
		}
		return nil
	})
	c.stop(f.id)
	c.wipe(f.id)
	c.start(f.id, 3, "n1", "n2", "n3")
	c.voters("n1,n2,n3", "")
	c.allReady()
	if got := f.sm.title("d"); got != "y" {
		t.Errorf("read %q", got)
	}
}

func isNotFound(err error) bool {
	var e *contract.MembershipError
	return errors.As(err, &e) && e.NotFound
}

func TestTheLeaderCanBeRemoved(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	old := c.leader()
	if err := old.RemoveMember(t.Context(), old.id, false); err != nil {
		t.Fatal(err)
	}
	next := c.leader(old.id)
	if len(next.Members()) != 2 {
		t.Errorf("members: %v", next.Members())
	}
	c.stop(old.id)
	c.write("d", "x")
}

func TestARemovalThatBreaksTheQuorumIsRefused(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	leader := c.leader()
	var others []string
	for _, n := range c.running() {
		if n.id != leader.id {
			others = append(others, n.id)
		}
	}
	c.stop(others[0])
	err := leader.RemoveMember(t.Context(), others[1], false)
	var refused *contract.MembershipError
	if !errors.As(err, &refused) || refused.NotFound {
		t.Fatalf("removing the last live follower: %v", err)
	}
	if err := leader.RemoveMember(t.Context(), others[0], false); err != nil {
		t.Fatalf("removing the dead follower: %v", err)
	}
	c.voters(strings.Join(sorted(leader.id, others[1]), ","), "")
}

// Force overrides that: the removal is committed by the leader and the one
// that goes. The last voter stays whatever is said.
func TestARemovalCanBeForced(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	leader := c.leader()
	var others []string
	for _, n := range c.running() {
		if n.id != leader.id {
			others = append(others, n.id)
		}
	}
	c.stop(others[0])
	// The new configuration, of a dead node and the leader, has no majority to
	// commit it: the change stays open, and that is what the operator forced.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err := leader.RemoveMember(ctx, others[1], true)
	var refused *contract.MembershipError
	if errors.As(err, &refused) {
		t.Fatalf("a forced removal was refused: %v", err)
	}
	_, voter := memberOf(leader.Node, others[1])
	if voter {
		t.Errorf("%s is still a voter", others[1])
	}
}

func memberOf(n *Node, id string) (found, voter bool) {
	for _, m := range n.Members() {
		if m.ID == id {
			return true, m.Voter
		}
	}
	return false, false
}

func sorted(a, b string) []string {
	if a > b {
		a, b = b, a
	}
	return []string{a, b}
}

func TestTransferLeadership(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	if err := f.TransferLeadership(t.Context(), f.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, f.id+" leads", func() error {
		if !f.Leader().Self {
			return errors.New("not yet")
		}
		return nil
	})
	c.write("d", "x")
	if err := f.TransferLeadership(t.Context(), "nobody"); !isNotFound(err) {
		t.Errorf("to nobody: %v", err)
	}
}

// TestAWipedVoterComesBackWithoutAVote: it must not vote for a leader that
// lacks what it had acknowledged before it was wiped.
func TestAWipedVoterComesBackWithoutAVote(t *testing.T) {
	c := newTestCluster(t)
	c.opts = func(_ string, o *Options) { o.PromoteAfter = time.Hour; o.TrailingBytes = 1 }
	c.three()
	f := c.follower()
	c.write("d", "x")
	c.stop(f.id)
	for i := range 20 {
		c.write("d", fmt.Sprint(i))
	}
	if _, err := c.leader().Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wipe(f.id)
	c.start(f.id, 3, "n1", "n2", "n3")
	eventually(t, "it has no vote", func() error {
		for _, m := range c.leader().Members() {
			if m.ID == f.id && !m.Voter {
				return nil
			}
		}
		return errors.New("still a voter")
	})
	eventually(t, "it has everything", func() error {
		if got := f.sm.title("d"); got != "19" {
			return errors.New(got)
		}
		return nil
	})
	if f.sm.restores == 0 {
		t.Error("it came back without a snapshot, although the log had been cut")
	}
}

func TestANodeOfAnotherClusterIsRefused(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.start("n2", 0)
	c.allReady()
	a, b := c.nodes["n1"], c.nodes["n2"]
	err := a.AddMember(t.Context(), contract.Member{ID: "n2", RaftAddr: b.mux.addr()})
	if err != nil {
		t.Fatal(err) // a node without a vote is added; that it can't be reached is no error
	}
	c.write("d", "x")
	if got := b.ClusterID(); got == a.ClusterID() {
		t.Error("the clusters became one")
	}
	if got := b.sm.title("d"); got != "" && a.Leader().Self && b.Leader().Self && b.sm.ClusterID() == a.sm.ClusterID() {
		t.Errorf("an entry crossed over: %q", got)
	}
	err = a.peers.call(t.Context(), b.mux.addr(), "n2", routeProgress, &empty{}, &progressResponse{})
	if !errors.Is(err, errForeignCluster) {
		t.Errorf("a call to another cluster: %v", err)
	}
}

// TestAddingAMemberAgainChangesNothing adds a voter's id at another address, as
// an operator who mistook the id would: its entries would go there.
func TestAddingAMemberAgainChangesNothing(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	leader, f := c.leader(), c.follower()
	find := func() (found contract.Member) {
		for _, m := range leader.Members() {
			if m.ID == f.id {
				found = m
			}
		}
		return found
	}
	eventually(t, "its row is there", func() error {
		if m := find(); leader.memberRow(f.id) == nil || !m.Voter {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	before := find()
	for name, m := range map[string]contract.Member{
		"another Raft address": {ID: f.id, RaftAddr: "127.0.0.1:1"},
		"another HTTP address": {ID: f.id, RaftAddr: before.RaftAddr, HTTPAddr: "http://127.0.0.1:1"},
		"as a learner":         {ID: f.id, RaftAddr: before.RaftAddr, Learner: true},
	} {
		err := c.follower().AddMember(t.Context(), m) // by way of the leader
		var refused *contract.MembershipError
		if !errors.As(err, &refused) || refused.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := leader.AddMember(t.Context(), contract.Member{ID: f.id, RaftAddr: before.RaftAddr}); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if after := find(); after != before {
		t.Errorf("it was %+v and is %+v", before, after)
	}
}

func TestANewAddressIsLearned(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	c.stop(f.id)
	f.proxy.close()
	f.proxy = newProxy(t, c.net, f.id)
	c.start(f.id, 3, "n1", "n2", "n3")
	want := f.proxy.listener.Addr().String()
	eventually(t, "the new address is in the configuration", func() error {
		s, ok := findServer(c.leader().raft.Load(), f.id)
		if !ok || string(s.Address) != want || s.Suffrage != raft.Voter {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	c.allReady()
	c.write("d", "x")
}

func TestADeadNodeIsUnreachableWithinASecond(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	c.stop(f.id)
	start := time.Now()
	s, err := c.leader().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second { // a second, and room for a busy machine
		t.Errorf("the status took %v", took)
	}
	if len(s.Nodes) != 3 || s.Leader == "" || s.ClusterID == "" {
		t.Errorf("status: %+v", s)
	}
	for _, n := range s.Nodes {
		if n.Reachable != (n.ID != f.id) {
			t.Errorf("node %s reachable: %v", n.ID, n.Reachable)
		}
		if n.Reachable && (n.AppliedIndex == 0 || n.LogBytes == 0 || n.Version != "test" || n.Term == 0) {
			t.Errorf("node %s: %+v", n.ID, n)
		}
	}
}

// TestABootstrapSurvivesTheClaimer: the node that forms the cluster dies
// after it wrote its claim down, and comes back.
func TestABootstrapSurvivesTheClaimer(t *testing.T) { testCutBootstrap(t, 0) }

// The library writes its first term before its first entry, and after a crash
// between the two refuses to bootstrap for ever.
func TestABootstrapSurvivesACrashBehindItsTerm(t *testing.T) { testCutBootstrap(t, 1) }

// So does one that has stood for election since, in a configuration of nobody.
func TestABootstrapSurvivesElectionsOfNobody(t *testing.T) { testCutBootstrap(t, 7) }

// testCutBootstrap starts a node that has claimed a cluster and, if term is
// not 0, begun to bootstrap it.
func testCutBootstrap(t *testing.T, term uint64) {
	c := newTestCluster(t)
	n1 := c.start("n1", 3, "n1", "n2", "n3") // alone it can do nothing
	servers := []claimServer{{"n1", n1.mux.addr()}}
	c.start("n2", 3, "n2", "n3") // they don't look at n1 yet
	c.start("n3", 3, "n2", "n3")
	for _, id := range []string{"n2", "n3"} {
		servers = append(servers, claimServer{id, c.nodes[id].mux.addr()})
	}
	c.stop("n1")
	id, err := openIdentity(n1.dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := id.update(func(r *identityRecord) { r.ClusterID, r.Founder, r.Pending = "cluster-x", true, servers }); err != nil {
		t.Fatal(err)
	}
	if err := id.close(); err != nil {
		t.Fatal(err)
	}
	if term > 0 {
		votes, err := openStableStore(filepath.Join(n1.dir, stableFile), stableStoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(votes.SetUint64(keyCurrentTerm, term), votes.Close()); err != nil {
			t.Fatal(err)
		}
	}
	c.start("n1", 3, "n1", "n2", "n3")
	c.allReady()
	for _, n := range c.running() {
		if n.ClusterID() != "cluster-x" {
			t.Errorf("node %s is of cluster %s", n.id, n.ClusterID())
		}
		eventually(t, "the founding is over", func() error {
			if rec := n.identity.record(); rec.Founder || len(rec.Pending) > 0 {
				return errors.New("not yet")
			}
			return nil
		})
	}
}

func TestAClaimNeedsEveryFounder(t *testing.T) {
	c := newTestCluster(t)
	n1 := c.start("n1", 3, "n1", "n2", "n3")
	n2 := c.start("n2", 2, "n2", "n9") // another expectation
	n3 := c.start("n3", 3, "n3")
	servers := []claimServer{{"n1", n1.mux.addr()}, {"n2", n2.mux.addr()}, {"n3", n3.mux.addr()}}
	if err := n1.claim(t.Context(), servers); err == nil {
		t.Fatal("a founder with other flags agreed")
	}
	if n1.ClusterID() != "" {
		t.Error("the claim was written down")
	}
	// The next attempt is the same claim: those that agreed to the first agree again.
	n1.promise.mu.Lock()
	first := n1.promise.cluster
	n1.promise.mu.Unlock()
	if err := n1.claim(t.Context(), servers); err == nil {
		t.Fatal("a founder with other flags agreed")
	}
	if promised, _ := n3.promise.to(); promised != first || first == "" {
		t.Errorf("the second attempt claims %s, the first %s", promised, first)
	}
	// n3 gave its word to that claim; a second claimer must wait.
	if err := n3.promise.give("n0", "other", time.Second); err == nil {
		t.Error("a promise was given twice")
	}
}
