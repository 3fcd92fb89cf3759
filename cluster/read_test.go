package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

var linearizable = contract.Consistency{Level: contract.Linearizable}

func TestLinearizableReadsOnEveryNode(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	for i := range 20 {
		res := c.write("d", string(rune('a'+i)))
		for _, n := range c.running() {
			stamp, err := n.ReadIndex(t.Context(), linearizable)
			if err != nil {
				t.Fatal(err)
			}
			if stamp.Index < res.GetIndex() || stamp.Term == 0 {
				t.Errorf("node %s: index %d of term %d, the write was at %d", n.id, stamp.Index, stamp.Term, res.GetIndex())
			}
			if got := n.sm.title("d"); got != string(rune('a'+i)) {
				t.Errorf("node %s reads %q in round %d", n.id, got, i)
			}
		}
	}
}

// TestACutOffLeaderServesNoLinearizableRead is the classic stale read: the
// old leader does not know yet that there is a new one.
func TestACutOffLeaderServesNoLinearizableRead(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	c.write("d", "old")
	old := c.leader()
	// Raft's streams stay up to one voter long enough for the old leader to
	// feel safe; its peer calls go nowhere.
	c.net.isolate(old.id, true)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				if stamp, err := old.ReadIndex(ctx, linearizable); err == nil {
					t.Errorf("a leader that is cut off answered with index %d", stamp.Index)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	c.leader(old.id)
	c.write("d", "new")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := old.ReadIndex(ctx, linearizable); !errors.Is(err, contract.ErrNoLeader) && !errors.Is(err, contract.ErrNotReady) {
		t.Errorf("the old leader: %v", err)
	}
	if _, err := old.ReadIndex(t.Context(), contract.Consistency{Level: contract.Local}); err != nil {
		t.Errorf("a local read must go on: %v", err)
	}
	c.net.isolate(old.id, false)
	eventually(t, "the old leader reads again", func() error {
		_, err := old.ReadIndex(t.Context(), linearizable)
		return err
	})
	if got := old.sm.title("d"); got != "new" {
		t.Errorf("read %q", got)
	}
}

// TestReadersJoinOnlyRoundsThatBeginAfterThem is Invariant R1, on the gate itself.
func TestReadersJoinOnlyRoundsThatBeginAfterThem(t *testing.T) {
	g := newReadGate(&Node{})
	first, err := g.enter(1)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := g.enter(1); again != first {
		t.Error("two readers that wait must share a round")
	}
	g.mu.Lock() // the round starts: this is what run does
	started := g.next
	g.next = nil
	g.mu.Unlock()
	late, err := g.enter(1)
	if err != nil {
		t.Fatal(err)
	}
	if late == started {
		t.Error("a reader joined a round that had started")
	}
	if started.readers != 2 || late.readers != 1 {
		t.Errorf("readers: %d and %d, want 2 and 1", started.readers, late.readers)
	}
}

func TestManyReadersShareFewRounds(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	for _, n := range c.running() {
		before := n.roundsRun()
		const readers = 400
		var wg sync.WaitGroup
		gate := make(chan struct{})
		for range readers {
			wg.Go(func() {
				<-gate
				if _, err := n.ReadIndex(t.Context(), linearizable); err != nil {
					t.Error(err)
				}
			})
		}
		close(gate)
		wg.Wait()
		if rounds := n.roundsRun() - before; rounds > readers/2 {
			t.Errorf("node %s: %d readers took %d rounds", n.id, readers, rounds)
		}
	}
}

func (n *testNode) roundsRun() uint64 {
	n.reads.mu.Lock()
	defer n.reads.mu.Unlock()
	return n.reads.rounds
}

func TestSessionReadsWaitForTheIndex(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	release := f.sm.setHold()
	defer release()
	res := c.write("d", "x")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	session := contract.Consistency{Level: contract.Session, MinIndex: res.GetIndex()}
	if _, err := f.ReadIndex(ctx, session); !errors.Is(err, contract.ErrBehind) {
		t.Fatalf("a node that is behind: %v", err)
	}
	release()
	if _, err := f.ReadIndex(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	if got := f.sm.title("d"); got != "x" {
		t.Errorf("read %q", got)
	}
}

func TestBoundedReads(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	f := c.follower()
	loose := contract.Consistency{Level: contract.Bounded, MaxStaleness: time.Minute}
	tight := contract.Consistency{Level: contract.Bounded, MaxStaleness: 300 * time.Millisecond}
	if _, err := f.ReadIndex(t.Context(), tight); err != nil {
		t.Fatalf("a healthy follower: %v", err)
	}
	// It hears the leader, and applies nothing: contact alone must not count.
	release := f.sm.setHold()
	defer release()
	c.write("d", "x")
	eventually(t, "the state is old", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := f.ReadIndex(ctx, tight); !errors.Is(err, contract.ErrTooStale) {
			return errors.New("still answers")
		}
		return nil
	})
	if _, err := f.ReadIndex(t.Context(), loose); err != nil {
		t.Errorf("a bound that holds: %v", err)
	}
	release()
	if _, err := f.ReadIndex(t.Context(), tight); err != nil {
		t.Errorf("after it caught up: %v", err)
	}
	if got := f.sm.title("d"); got != "x" {
		t.Errorf("read %q", got)
	}
	// Cut off: the state only grows older.
	c.net.isolate(f.id, true)
	eventually(t, "the cut-off node refuses", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := f.ReadIndex(ctx, tight); !errors.Is(err, contract.ErrTooStale) {
			return errors.New("still answers")
		}
		return nil
	})
	c.net.isolate(f.id, false)
	c.allReady()
}

func TestNoLinearizableReadWhileRestoring(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	n.sm.mu.Lock()
	n.sm.restoring = true
	n.sm.mu.Unlock()
	for _, level := range []contract.Consistency{linearizable, {Level: contract.Bounded, MaxStaleness: time.Minute}} {
		if _, err := n.ReadIndex(t.Context(), level); !errors.Is(err, contract.ErrNotReady) {
			t.Errorf("%s while restoring: %v", level.Level, err)
		}
	}
	if _, err := n.ReadIndex(t.Context(), contract.Consistency{Level: contract.Local}); err != nil {
		t.Errorf("local while restoring: %v", err)
	}
}

// TestANewLeaderReadsNothingBeforeItsTick: the commit index of a new leader
// may be lower than what the old one acknowledged.
func TestANewLeaderReadsNothingBeforeItsTick(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	n.sm.mu.Lock()
	n.sm.s.TickTerm-- // as if its Tick were not applied yet
	n.sm.mu.Unlock()
	if _, _, err := n.quorumIndex(t.Context(), n.raft.Load()); !errors.Is(err, contract.ErrNotReady) {
		t.Errorf("got %v", err)
	}
}

func TestLearnersDoNotVouchForALeader(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.allReady()
	c.opts = func(id string, o *Options) { o.Learner = id != "n1" }
	c.start("n2", 0, "n1")
	c.start("n3", 0, "n1")
	c.allReady()
	for _, id := range []string{"n2", "n3"} {
		r := c.nodes[id].raft.Load()
		resp, err := c.nodes[id].onVerify(t.Context(), "n1", &verifyRequest{Term: r.CurrentTerm()})
		if err != nil || resp.InTerm {
			t.Errorf("learner %s vouched: %v, %v", id, resp, err)
		}
	}
}
