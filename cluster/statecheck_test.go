package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// TestJudge is invariant D1 as a table: each row gives the hash of each node at
// one index; "-" has no point there, a node that does not answer is left out,
// and one whose name begins with L has no vote.
func TestJudge(t *testing.T) {
	const (
		agreed, diverged    = contract.StateAgreed, contract.StateDiverged
		disputed, unchecked = contract.StateDisputed, contract.StateUnchecked
	)
	for _, row := range []struct {
		what   string
		nodes  string
		voters int
		want   map[string]contract.StateVerdict
	}{
		{"all the same", "A=x B=x C=x", 3, map[string]contract.StateVerdict{"A": agreed, "B": agreed, "C": agreed}},
		{"one of three differs", "A=x B=x C=y", 3, map[string]contract.StateVerdict{"A": agreed, "B": agreed, "C": diverged}},
		{"one of three differs and one is down", "A=x C=y", 3, map[string]contract.StateVerdict{"A": disputed, "C": disputed}},
		{"one of three is down", "A=x B=x", 3, map[string]contract.StateVerdict{"A": agreed, "B": agreed}},
		{"two of three are down", "A=x", 3, map[string]contract.StateVerdict{"A": unchecked}},
		{"one has not come there", "A=x B=x C=-", 3, map[string]contract.StateVerdict{"A": agreed, "B": agreed, "C": unchecked}},
		{"only one has come there", "A=x B=- C=-", 3, map[string]contract.StateVerdict{"A": unchecked, "B": unchecked, "C": unchecked}},
		{"all differ", "A=x B=y C=z", 3, map[string]contract.StateVerdict{"A": disputed, "B": disputed, "C": disputed}},
		{"one against one", "A=x B=y", 2, map[string]contract.StateVerdict{"A": disputed, "B": disputed}},
		{"two against two", "A=x B=x C=y D=y", 4, map[string]contract.StateVerdict{"A": disputed, "B": disputed, "C": disputed, "D": disputed}},
		{"three against one", "A=x B=x C=x D=y", 4, map[string]contract.StateVerdict{"A": agreed, "B": agreed, "C": agreed, "D": diverged}},
		{"a majority of those that answer is none of all", "A=x B=x C=y", 5, map[string]contract.StateVerdict{"A": disputed, "B": disputed, "C": disputed}},
		{"a majority of all, two are down", "A=x B=x C=x", 5, map[string]contract.StateVerdict{"A": agreed, "B": agreed, "C": agreed}},
		{"a learner differs", "A=x B=x C=x L=y", 3, map[string]contract.StateVerdict{"A": agreed, "B": agreed, "C": agreed, "L": diverged}},
		{"learners make no majority", "A=x L1=y L2=y L3=y", 3, map[string]contract.StateVerdict{"A": disputed, "L1": disputed, "L2": disputed, "L3": disputed}},
		{"a learner of a single node differs", "A=x L=y", 1, map[string]contract.StateVerdict{"A": agreed, "L": diverged}},
	} {
		var reports []hashReport
		for f := range strings.FieldsSeq(row.nodes) {
			id, hash, _ := strings.Cut(f, "=")
			r := hashReport{id: id, voter: !strings.HasPrefix(id, "L")}
			r.points = []contract.HashPoint{{Index: 5, Term: 1, Hash: "old"}}
			if hash != "-" {
				r.points = append(r.points, contract.HashPoint{Index: 7, Term: 2, Hash: hash})
			}
			reports = append(reports, r)
		}
		if got, _ := judge(7, reports, row.voters); !maps.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", row.what, got, row.want)
		}
	}
	// The same bytes in another term are another log.
	reports := []hashReport{{id: "A", voter: true, points: []contract.HashPoint{{Index: 7, Term: 2, Hash: "x"}}},
		{id: "B", voter: true, points: []contract.HashPoint{{Index: 7, Term: 2, Hash: "x"}}},
		{id: "C", voter: true, points: []contract.HashPoint{{Index: 7, Term: 3, Hash: "x"}}}}
	if got, _ := judge(7, reports, 3); got["C"] != contract.StateDiverged {
		t.Errorf("an entry of another term: %v", got)
	}
}

// checking makes the nodes of a cluster mark and compare often.
func checking(c *testCluster) {
	c.opts = func(_ string, o *Options) {
		o.StateCheck, o.TickInterval = 20*time.Millisecond, 100*time.Millisecond
	}
}

// agreeBeyond waits until all running nodes agree at an index above the one given.
func (c *testCluster) agreeBeyond(index uint64) {
	c.t.Helper()
	for _, n := range c.running() {
		eventually(c.t, n.id+" agrees with the others", func() error {
			if s := n.LocalStatus().State; s.Verdict != contract.StateAgreed || s.Compared <= index {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
}

// wantServes and wantNothing look at all that a node may answer.
func wantServes(t *testing.T, nodes ...*testNode) {
	t.Helper()
	for _, n := range nodes {
		if err := n.Diverged(); err != nil {
			t.Errorf("%s: %v", n.id, err)
		}
		if _, err := n.ReadIndex(t.Context(), contract.Consistency{}); err != nil {
			t.Errorf("%s: a read: %v", n.id, err)
		}
	}
}

func wantNothing(t *testing.T, n *testNode) {
	t.Helper()
	for _, level := range readLevels {
		if _, err := n.ReadIndex(t.Context(), contract.Consistency{Level: level, MaxStaleness: time.Hour}); !errors.Is(err, contract.ErrDiverged) {
			t.Errorf("%s: a %s read: %v", n.id, level, err)
		}
	}
	if _, err := n.Propose(t.Context(), put("x", "x")); !errors.Is(err, contract.ErrDiverged) || contract.Outcome(err) != contract.OutcomeNotApplied {
		t.Errorf("%s: a write: %v", n.id, err)
	}
	if err := n.Ready(); !errors.Is(err, contract.ErrDiverged) || !strings.Contains(err.Error(), "empty its data directory") {
		t.Errorf("%s: ready: %v", n.id, err)
	}
}

// stopped waits until the node has found out that it has diverged.
func stopped(t *testing.T, n *testNode) {
	t.Helper()
	eventually(t, n.id+" stops serving", func() error {
		if n.Diverged() == nil {
			return fmt.Errorf("%+v", n.LocalStatus().State)
		}
		return nil
	})
}

// TestDivergedFollower: the node that differs stops, and nobody else; a restart
// changes nothing, it is never given the leadership, and an empty directory heals it.
func TestDivergedFollower(t *testing.T) {
	c := newTestCluster(t)
	checking(c)
	c.three()
	at := c.write("a", "1").GetIndex()
	c.agreeBeyond(at)
	bad := c.follower()
	bad.sm.diverge()
	stopped(t, bad)
	wantNothing(t, bad)
	c.write("b", "2")
	var good []*testNode
	for _, n := range c.running() {
		if n != bad {
			good = append(good, n)
		}
	}
	wantServes(t, good...)
	eventually(t, "the others see it", func() error {
		for _, n := range good {
			n.state.mu.Lock()
			others := n.state.others
			n.state.mu.Unlock()
			if !slices.Equal(others, []string{bad.id}) {
				return fmt.Errorf("%s sees %v", n.id, others)
			}
		}
		return nil
	})
	var membership *contract.MembershipError
	if err := c.leader().TransferLeadership(t.Context(), bad.id); !errors.As(err, &membership) {
		t.Errorf("a transfer to the diverged node: %v", err)
	}
	report, err := c.leader().CheckState(t.Context(), true)
	if err != nil || report.Verdict != contract.StateDiverged || len(report.Nodes) != 3 {
		t.Errorf("the report: %+v, %v", report, err)
	}
	c.stop(bad.id)
	bad = c.start(bad.id, 3, "n1", "n2", "n3")
	wantNothing(t, bad) // before it can have compared anything
	c.stop(bad.id)
	c.wipe(bad.id)
	bad = c.start(bad.id, 3, "n1", "n2", "n3")
	c.allReady()
	c.agreeBeyond(c.write("c", "3").GetIndex())
	wantServes(t, bad)
}

// TestDivergedLeader: a leader that differs refuses writes and hands over, and
// never sends its state to anybody.
func TestDivergedLeader(t *testing.T) {
	c := newTestCluster(t)
	checking(c)
	c.three()
	c.agreeBeyond(c.write("a", "1").GetIndex())
	bad := c.leader()
	bad.sm.diverge()
	stopped(t, bad)
	wantNothing(t, bad)
	next := c.leader(bad.id)
	if next.id == bad.id {
		t.Fatal("it still leads")
	}
	c.write("b", "2")
	if _, err := bad.Snapshot(t.Context()); err != nil {
		t.Errorf("a diverged node's own snapshot: %v", err)
	}
	list, err := bad.p.Snapshots.List()
	if err != nil || len(list) == 0 {
		t.Fatalf("snapshots: %v, %v", list, err)
	}
	guarded := guardedSnapshots{bad.p.Snapshots, bad.Node}
	if _, rc, err := guarded.Open(list[0].ID); err != nil {
		t.Errorf("a follower must be able to open what it received: %v", err)
	} else {
		_ = rc.Close()
	}
	c.stop(next.id) // of the two that are left the diverged one may have to lead for a moment
	third := c.leader(bad.id, next.id)
	wantServes(t, third)
	wantNothing(t, bad)
	if r := bad.raft.Load(); r.State() == raft.Leader {
		t.Error("the diverged node leads")
	}
}

// TestDivergedLeaderSendsNoState: the guard itself, while the node leads.
func TestDivergedLeaderSendsNoState(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 1)
	c.allReady()
	c.write("a", "1")
	if _, err := n.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := n.p.Snapshots.List()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	guarded := guardedSnapshots{n.p.Snapshots, n.Node}
	_, rc, err := guarded.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	_ = rc.Close()
	n.diverge(contract.HashPoint{Index: 1}, contract.HashPoint{Index: 1})
	if _, _, err := guarded.Open(list[0].ID); !errors.Is(err, contract.ErrDiverged) {
		t.Errorf("a diverged leader opens its snapshot: %v", err)
	}
}

// TestDisputedStates: without a majority nobody is stopped, and both say so;
// when the third is back, the one that differs stops.
func TestDisputedStates(t *testing.T) {
	c := newTestCluster(t)
	checking(c)
	c.three()
	c.agreeBeyond(c.write("a", "1").GetIndex())
	leader := c.leader()
	var followers []*testNode
	for _, n := range c.running() {
		if n != leader {
			followers = append(followers, n)
		}
	}
	away, bad := followers[0], followers[1]
	c.stop(away.id)
	bad.sm.diverge()
	for _, n := range c.running() {
		eventually(t, n.id+" says that the states differ", func() error {
			if s := n.LocalStatus().State; s.Verdict != contract.StateDisputed {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	wantServes(t, leader, bad)
	report, err := leader.CheckState(t.Context(), true)
	if err != nil || report.Verdict != contract.StateDisputed {
		t.Errorf("the report: %+v, %v", report, err)
	}
	away = c.start(away.id, 3, "n1", "n2", "n3")
	stopped(t, bad)
	c.write("b", "2")
	wantServes(t, leader, away)
	wantNothing(t, bad)
}

// TestOtherSchemesAreNotCompared: a release that hashes in another way has
// other hashes of the same state (invariant D4).
func TestOtherSchemesAreNotCompared(t *testing.T) {
	c := newTestCluster(t)
	checking(c)
	c.parts = func(id string, p *Parts) {
		if id != "n3" {
			return
		}
		same := p.StateHash
		p.StateHash = func() (int, contract.HashPoint, []contract.HashPoint) {
			_, now, points := same()
			for i := range points {
				points[i].Hash = "hashed in another way"
			}
			return 2, now, points
		}
	}
	c.three()
	at := c.write("a", "1").GetIndex()
	for _, id := range []string{"n1", "n2"} {
		eventually(t, id+" agrees with the other of its release", func() error {
			if s := c.nodes[id].LocalStatus().State; s.Verdict != contract.StateAgreed || s.Compared <= at {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	wantServes(t, c.running()...)
	report, err := c.nodes["n1"].CheckState(t.Context(), true)
	if err != nil || len(report.Nodes) != 3 || report.Nodes[2].Verdict != contract.StateUnchecked || !strings.Contains(report.Nodes[2].Error, "another way") {
		t.Errorf("the report: %+v, %v", report, err)
	}
}

// TestRecoverFromADivergedNode needs to be told that there is no other.
func TestRecoverFromADivergedNode(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 1)
	c.allReady()
	c.write("a", "1")
	n.diverge(contract.HashPoint{Index: 1}, contract.HashPoint{Index: 1})
	c.stop("n1")
	o := RecoverOptions{NodeID: "n1", DataDir: n.dir, Voters: []RecoverServer{{ID: "n1", RaftAddr: n.proxy.listener.Addr().String()}}}
	if err := Recover(o, c.partsOf(n)); err == nil || !strings.Contains(err.Error(), "--accept-diverged") {
		t.Errorf("without being told: %v", err)
	}
	o.AcceptDiverged = true
	if err := Recover(o, c.partsOf(n)); err != nil {
		t.Fatal(err)
	}
	n = c.start("n1", 1)
	c.allReady()
	wantServes(t, n)
}

// TestCheckStateMarks: the check writes its own mark and compares there.
func TestCheckStateMarks(t *testing.T) {
	c := newTestCluster(t)
	c.three() // with a Tick only every ten seconds
	at := c.write("a", "1").GetIndex()
	report, err := c.follower().CheckState(t.Context(), true)
	if err != nil || report.Index <= at || report.Verdict != contract.StateAgreed {
		t.Fatalf("after entry %d: %+v, %v", at, report, err)
	}
	for _, n := range report.Nodes {
		if !n.Voter || !n.Reachable || n.Verdict != contract.StateAgreed || n.At.Index != report.Index {
			t.Errorf("%+v", n)
		}
	}
	again, err := c.leader().CheckState(t.Context(), false)
	if err != nil || again.Index < report.Index || again.Verdict != contract.StateAgreed {
		t.Errorf("without a mark: %+v, %v", again, err)
	}
}

// TestCheckStateWithoutAMark: a mark that is not committed in its time does not
// make nodes unreachable that answer.
func TestCheckStateWithoutAMark(t *testing.T) {
	c, d := onDisks(t)
	leader := c.leader()
	full := c.others(leader.id)
	d.set(1, full...)
	eventually(t, "no entry is taken", func() error {
		for _, id := range full {
			if !c.nodes[id].gates.full() {
				return fmt.Errorf("%s takes them", id)
			}
		}
		return nil
	})
	report, err := leader.CheckState(t.Context(), true)
	if err != nil || len(report.Nodes) != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, n := range report.Nodes {
		if !n.Reachable || n.Verdict != contract.StateAgreed {
			t.Errorf("%+v", n)
		}
	}
}
