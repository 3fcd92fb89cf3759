package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// loseData removes what a stopped node knows, but not who it is and how it voted.
func (c *testCluster) loseData(id string) {
	c.t.Helper()
	tn := c.nodes[id]
	for _, name := range []string{"log.db", "snapshots"} {
		if err := os.RemoveAll(filepath.Join(tn.dir, name)); err != nil {
			c.t.Fatal(err)
		}
	}
	tn.sm = newMachine()
}

// founded waits until the nodes have put their founding behind them: until then
// one may have no Raft state.
func (c *testCluster) founded() {
	c.t.Helper()
	for _, n := range c.running() {
		eventually(c.t, n.id+" has put the founding behind it", func() error {
			if rec := n.identity.record(); rec.Founder {
				return errors.New("not yet")
			}
			return nil
		})
	}
}

// A voter whose log and state are gone, but not its votes, has acknowledged
// what it does not have any more. It must not help to elect a leader without it.
func TestAVoterThatLostAllButItsVotesHasNoVote(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	leader := c.leader()
	c.founded()
	loser, behind := c.nodes[c.others(leader.id)[0]], c.nodes[c.others(leader.id)[1]]
	c.stop(behind.id)
	c.write("d", "acknowledged")
	c.stop(leader.id)
	c.stop(loser.id)
	c.loseData(loser.id)
	c.start(loser.id, 3, "n1", "n2", "n3")
	c.start(behind.id, 3, "n1", "n2", "n3")
	// Nothing but a leader can change this, and without this vote there is none.
	if loser.raft.Load() != nil {
		t.Fatal("it takes part in elections")
	}
	if err := loser.Ready(); !errors.Is(err, contract.ErrNotReady) {
		t.Errorf("it is ready: %v", err)
	}
	c.start(leader.id, 3, "n1", "n2", "n3")
	c.voters("n1,n2,n3", "")
	c.allReady()
	for _, n := range c.running() {
		if _, err := n.ReadIndex(t.Context(), linearizable); err != nil || n.sm.title("d") != "acknowledged" {
			t.Errorf("%s: %v, %q", n.id, err, n.sm.title("d"))
		}
	}
}

// A snapshot that is left says nothing of what was acknowledged after it.
func TestAVoterThatLostItsLogBehindASnapshotHasNoVote(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	c.founded()
	loser := c.follower()
	c.write("d", "in the snapshot")
	eventually(t, "it has a snapshot", func() error {
		_, err := loser.Snapshot(t.Context())
		return err
	})
	c.write("d", "acknowledged")
	stopped := c.running()
	for _, n := range stopped {
		c.stop(n.id)
	}
	if err := os.Remove(filepath.Join(loser.dir, "log.db")); err != nil {
		t.Fatal(err)
	}
	loser.sm = newMachine()
	if err := NoteLostLog(loser.dir, loser.id); err != nil {
		t.Fatal(err)
	}
	for start := range 2 { // the second finds the log that the first made
		c.start(loser.id, 3, "n1", "n2", "n3")
		if loser.raft.Load() != nil {
			t.Fatalf("start %d: it takes part in elections", start)
		}
		c.stop(loser.id)
	}
	for _, n := range stopped {
		c.start(n.id, 3, "n1", "n2", "n3")
	}
	c.voters("n1,n2,n3", "")
	c.allReady()
	if loser.identity.record().LogLost {
		t.Error("it was taken in, and does not know")
	}
	eventually(t, "it has everything", func() error {
		if got := loser.sm.title("d"); got != "acknowledged" {
			return errors.New(got)
		}
		return nil
	})
}

// The same node alone can't be told from one whose cluster is elsewhere.
func TestTheOnlyNodeThatLostItsDataDoesNotBeginAnew(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.write("d", "x")
	c.founded()
	c.stop("n1")
	c.loseData("n1")
	if _, err := c.open("n1", 0); err == nil || !strings.Contains(err.Error(), "has no Raft state") {
		t.Errorf("it started: %v", err)
	}
	o := RecoverOptions{NodeID: "n1", DataDir: n.dir, Voters: []RecoverServer{{ID: "n1", RaftAddr: n.proxy.listener.Addr().String()}}}
	if err := Recover(o, c.partsOf(n)); err == nil || !strings.Contains(err.Error(), "nothing to recover from") {
		t.Errorf("nothing was recovered: %v", err)
	}
}

func TestLostVotesAreRefused(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.write("d", "x")
	c.stop("n1")
	if err := os.Remove(filepath.Join(n.dir, stableFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.open("n1", 0); err == nil || !strings.Contains(err.Error(), "I5 violated") || !strings.Contains(err.Error(), advice) {
		t.Fatalf("without its votes: %v", err)
	}
	p := c.partsOf(n)
	applied, term := p.StateMachine.Applied()
	seen, err := Inspect(n.dir, applied, term, p.Snapshots, p.Log)
	if err = errors.Join(err, p.Log.Close()); err != nil || !strings.Contains(seen.Violation, "I5") {
		t.Errorf("inspect: %v, %q", err, seen.Violation)
	}
	// The way out if there is nobody to join.
	var out bytes.Buffer
	o := RecoverOptions{NodeID: "n1", DataDir: n.dir, Out: &out, Voters: []RecoverServer{{ID: "n1", RaftAddr: n.proxy.listener.Addr().String()}}}
	if err := Recover(o, c.partsOf(n)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "the votes were lost") {
		t.Errorf("recover said:\n%s", out.String())
	}
	c.start("n1", 0)
	c.allReady()
	c.write("d", "y")
}

func TestRecoverRefusesAddressesThatAreNone(t *testing.T) {
	for _, addr := range []string{"", "bad", "127.0.0.1", "127.0.0.1:", ":7001", "0.0.0.0:7001", "[::]:7001", "host:0", "host:70000", "host:raft"} {
		o := RecoverOptions{NodeID: "n1", DataDir: t.TempDir(), DryRun: true, Voters: []RecoverServer{{ID: "n1", RaftAddr: addr}}}
		if err := Recover(o, newDisk(t).parts); err == nil || !strings.Contains(err.Error(), "recover: voter n1: the address") {
			t.Errorf("%q: %v", addr, err)
		}
	}
	for _, addr := range []string{"127.0.0.1:7001", "[::1]:7001", "n1.example:7001"} {
		if err := checkAddress(addr); err != nil {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

// impostor starts an empty node with another's id, at an address of its own.
func (c *testCluster) impostor(id string, join ...string) *testNode {
	c.t.Helper()
	tn := &testNode{id: id, dir: c.t.TempDir(), sm: newMachine()}
	o := testOptions(id, tn.dir)
	o.HTTPAdvertise, o.Logger = "http://impostor", testLog(c.t)
	for _, j := range join {
		o.Join = append(o.Join, "test://"+j)
	}
	var err error
	if tn.Node, err = Open(c.t.Context(), o, c.partsOf(tn)); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := tn.Close(c.t.Context()); err != nil && c.t.Context().Err() == nil {
			c.t.Error(err)
		}
	})
	return tn
}

// An empty node that was given a healthy voter's id by mistake must not cost it
// its vote: with another node down that would be the quorum.
func TestANewNodeDoesNotTakeALiveVotersID(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	leader := c.leader()
	live, down := c.nodes[c.others(leader.id)[0]], c.nodes[c.others(leader.id)[1]]
	c.stop(down.id)
	before, _ := findServer(leader.raft.Load(), live.id)
	second := c.impostor(live.id, leader.id)
	eventually(t, "it says why", func() error {
		if err := second.Ready(); err == nil || !strings.Contains(err.Error(), "is in use by the node at "+string(before.Address)) {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	if s, _ := findServer(leader.raft.Load(), live.id); s != before {
		t.Errorf("%s was %v, and is %v", live.id, before, s)
	}
	c.write("d", "x") // by the two that are left
	// When the live one is gone for good, its place is free.
	c.start(down.id, 3, "n1", "n2", "n3")
	c.allReady()
	c.stop(live.id)
	eventually(t, "the place is taken", func() error {
		s, _ := findServer(c.leader().raft.Load(), live.id)
		if string(s.Address) != second.mux.addr() || s.Suffrage != raft.Voter {
			return fmt.Errorf("%v; ready: %v", s, second.Ready())
		}
		return nil
	})
}

// Nor the leader's id, by way of a follower.
func TestANewNodeDoesNotTakeTheLeadersID(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	leader := c.leader()
	r := leader.raft.Load()
	_, err := leader.takeIn(t.Context(), r, &announceRequest{Fresh: true,
		Member: contract.Member{ID: leader.id, RaftAddr: "127.0.0.1:1"}})
	var refused *contract.MembershipError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
	if s, _ := findServer(r, leader.id); s.Suffrage != raft.Voter {
		t.Errorf("the leader is %v", s)
	}
}

// A removed node says so to its clients, and not that an election is going on.
func TestARemovedNodeSaysSo(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	c.remove(f.id)
	eventually(t, "it knows", func() error {
		_, err := f.Propose(t.Context(), put("d", "x"))
		if !errors.Is(err, contract.ErrRemoved) {
			return fmt.Errorf("a write: %v", err)
		}
		return nil
	})
	if _, err := f.ReadIndex(t.Context(), linearizable); !errors.Is(err, contract.ErrRemoved) {
		t.Errorf("a read: %v", err)
	}
}

// The leader has nobody to tell its new address to.
func TestALeadersNewAddressIsLearned(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	c.stop("n1")
	n.proxy.close()
	n.proxy = newProxy(t, c.net, "n1")
	c.start("n1", 0)
	want := n.proxy.listener.Addr().String()
	eventually(t, "the new address is in the configuration and in the row", func() error {
		s, _ := findServer(n.raft.Load(), "n1")
		if row := n.memberRow("n1"); string(s.Address) != want || s.Suffrage != raft.Voter || row.GetRaftAddr() != want {
			return fmt.Errorf("%v, %v", s, row)
		}
		return nil
	})
	c.start("n2", 0, "n1")
	c.voters("n1,n2", "")
	eventually(t, "n2 reaches the leader", func() error {
		s, err := c.nodes["n2"].Status(t.Context())
		if err != nil {
			return err
		}
		for _, node := range s.Nodes {
			if !node.Reachable {
				return fmt.Errorf("%s is unreachable: %v", node.ID, node.Errors)
			}
		}
		return nil
	})
}
