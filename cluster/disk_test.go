package cluster

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// disks are those of the nodes of a test: what is free on each.
type disks struct{ free map[string]*atomic.Uint64 }

// The mark is at 1 GiB.
const (
	plenty = 100 << 30
	lowish = 800 << 20
	full   = 1 << 20
)

// onDisks starts three nodes whose disks are whatever the test says.
func onDisks(t *testing.T) (*testCluster, *disks) {
	t.Helper()
	d := &disks{free: map[string]*atomic.Uint64{}}
	for _, id := range []string{"n1", "n2", "n3"} {
		d.free[id] = &atomic.Uint64{}
		d.free[id].Store(plenty)
	}
	c := newTestCluster(t)
	c.opts = func(_ string, o *Options) { o.DiskLowBytes, o.GateInterval = 1<<30, 10*time.Millisecond }
	c.parts = func(id string, p *Parts) {
		p.DiskFree = func() (uint64, uint64, error) { return d.free[id].Load(), 1 << 40, nil }
	}
	c.three()
	return c, d
}

func (d *disks) set(bytes uint64, ids ...string) {
	for _, id := range ids {
		d.free[id].Store(bytes)
	}
}

// others are the nodes but one.
func (c *testCluster) others(but string) []string {
	var ids []string
	for _, n := range c.running() {
		if n.id != but {
			ids = append(ids, n.id)
		}
	}
	return ids
}

// A follower whose disk is full takes no entries, knows its leader all the same
// and stands for no election; with space it catches up, and soon.
func TestAFollowerWithoutRoomTakesNoEntries(t *testing.T) {
	c, d := onDisks(t)
	leader := c.leader()
	f := c.nodes[c.others(leader.id)[0]]
	c.write("before", "x")
	eventually(t, "the follower has it", func() error {
		if f.sm.title("before") != "x" {
			return errors.New("not yet")
		}
		return nil
	})
	term := leader.raft.Load().CurrentTerm()
	d.set(full, f.id)
	eventually(t, "it is full", func() error {
		if !f.gates.full() {
			return errors.New("not yet")
		}
		return nil
	})
	last, _ := f.logs.LastIndex()
	for i := range 50 {
		c.write(fmt.Sprint("full", i), "x")
	}
	// Longer than an election timeout, and than its backoff would be short.
	time.Sleep(3 * leader.o.ElectionTimeout)
	if at, _ := f.logs.LastIndex(); at != last {
		t.Errorf("it took entries %d to %d", last+1, at)
	}
	if at := leader.raft.Load(); at.State() != raft.Leader || at.CurrentTerm() != term || f.Leader().ID != leader.id {
		t.Errorf("%s leads no more, or the follower (leader %q) does not know", leader.id, f.Leader().ID)
	}
	if s := f.LocalStatus(); len(s.Errors) == 0 || s.DiskLeftBytes != full || s.DiskLowBytes != 1<<30 || !slices.Contains(s.Refusing, contract.DiskLow) {
		t.Errorf("its status does not say so: %+v", s)
	}
	if s := leader.LocalStatus(); s.DiskLeftBytes != plenty || s.DiskLowBytes != 1<<30 || len(s.Refusing) > 0 {
		t.Errorf("the leader has space, and says %+v", s)
	}
	d.set(plenty, f.id)
	since := time.Now()
	eventually(t, "it has caught up", func() error {
		if f.sm.title("full49") != "x" {
			return errors.New("not yet")
		}
		return nil
	})
	if took := time.Since(since); took > 5*time.Second {
		t.Errorf("it was left waiting for %v", took)
	}
}

// A leader whose disk is low hands over to a node with space, and a node
// without is never chosen. If all are low, nobody moves and writes are refused.
func TestALeaderWithALowDiskHandsOver(t *testing.T) {
	c, d := onDisks(t)
	first := c.leader()
	rest := c.others(first.id)
	d.set(lowish, first.id, rest[0])
	second := c.leader(first.id)
	if second.id != rest[1] {
		t.Fatalf("%s leads, its disk is low", second.id)
	}
	c.write("after", "x")
	// Nothing moves it back.
	term := second.raft.Load().CurrentTerm()
	time.Sleep(3 * diskBeat)
	d.set(lowish, second.id)
	eventually(t, "writes are refused", func() error {
		_, err := second.Propose(t.Context(), put("refused", "x"))
		if reasonOf(err) != contract.DiskLow {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	time.Sleep(4 * diskBeat)
	if r := second.raft.Load(); r.State() != raft.Leader || r.CurrentTerm() != term {
		t.Errorf("all are low, and the leadership moved: term %d, %v", r.CurrentTerm(), r.State())
	}
	var refused *contract.OverloadError
	if _, err := second.Propose(t.Context(), put("refused", "x")); !errors.As(err, &refused) || refused.RetryAfter != maxRetryAfter {
		t.Errorf("nobody can lead, and clients shall come back: %v", err)
	}
	// One has space again: it gets the leadership, if the last change is not too
	// short ago; a node that is elected again and again hands over more and more
	// seldom.
	d.set(plenty, rest[0])
	third := c.leader(first.id, second.id)
	if third.id != rest[0] {
		t.Errorf("%s leads", third.id)
	}
	c.write("again", "x")
}

// A leader that is forced on a node with a low disk again and again.
func TestHandOversAreRareAndRarer(t *testing.T) {
	c, d := onDisks(t)
	n := c.leader()
	d.set(lowish, n.id)
	c.leader(n.id)
	h := &handOvers{n: n.Node}
	eventually(t, "it leads again", func() error {
		if n.Leader().Self && n.Ready() == nil {
			return nil
		}
		return errors.Join(errors.New("not yet"), n.TransferLeadership(t.Context(), n.id))
	})
	now := time.Now()
	h.next, h.wait = now.Add(time.Minute), time.Minute
	h.beat(t.Context(), n.raft.Load(), true, now)
	if !n.Leader().Self && h.wait != time.Minute {
		t.Error("it handed over before its time")
	}
	later := now.Add(2 * time.Minute)
	h.beat(t.Context(), n.raft.Load(), true, later)
	if h.next != later.Add(time.Minute) || h.wait != 2*time.Minute {
		t.Errorf("the next after %v, then %v", h.next.Sub(later), h.wait)
	}
	h.beat(t.Context(), n.raft.Load(), false, later.Add(30*time.Second))
	if h.wait != 2*time.Minute {
		t.Error("a short moment of space made it forget")
	}
	h.beat(t.Context(), n.raft.Load(), false, later.Add(2*time.Minute))
	if h.wait != 0 {
		t.Error("it does not forget")
	}
}

// What a leader refuses while it hands over does not mark it as low for ever,
// or it would never be handed the leadership again.
func TestAFollowerForgetsWhatItRefused(t *testing.T) {
	c, d := onDisks(t)
	first := c.leader()
	d.set(lowish, first.id)
	c.leader(first.id)
	if err := first.AdmitWrite(10, false); reasonOf(err) != contract.DiskLow {
		t.Fatalf("a low node admits a write: %v", err)
	}
	d.set(plenty, first.id)
	eventually(t, "it is one to lead", func() error {
		if p, err := first.onProgress(t.Context(), "", nil); err != nil || p.DiskLow {
			return fmt.Errorf("%+v, %v", p, err)
		}
		return nil
	})
}

// If fewer than a quorum take entries, the leader refuses writes instead of
// letting them wait for an outcome.
func TestALeaderKnowsThatItsVotersAreFull(t *testing.T) {
	c, d := onDisks(t)
	leader := c.leader()
	rest := c.others(leader.id)
	d.set(full, rest...)
	eventually(t, "writes are refused", func() error {
		// AdmitWrite, because a proposal could not be committed any more.
		if err := leader.AdmitWrite(10, true); reasonOf(err) != contract.DiskLow {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	if !leader.Leader().Self {
		t.Error("it leads no more")
	}
	d.set(plenty, rest...)
	c.write("after", "x")
}

// A voter that is down is none with room: with it, a full one is too many. The
// full one answers heartbeats, so the leader stays, and could commit nothing.
func TestAFullVoterBesideADeadOne(t *testing.T) {
	c, d := onDisks(t)
	leader := c.leader()
	rest := c.others(leader.id)
	c.stop(rest[0])
	c.write("two are enough", "x")
	d.set(full, rest[1])
	eventually(t, "writes are refused", func() error {
		if err := leader.AdmitWrite(10, true); reasonOf(err) != contract.DiskLow {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	d.set(plenty, rest[1])
	eventually(t, "writes go on", func() error {
		_, err := leader.Propose(t.Context(), put("after", "x"))
		return err
	})
}

// heldLog is a log whose writes wait while the disk is full.
type heldLog struct {
	LogStore
	full *fullDisk
}

type fullDisk struct {
	mu      sync.Mutex
	cond    *sync.Cond
	full    bool
	waiting atomic.Int32
}

func newFullDisk() *fullDisk {
	f := &fullDisk{}
	f.cond = sync.NewCond(&f.mu)
	return f
}

func (f *fullDisk) set(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
	f.cond.Broadcast()
}

func (l heldLog) StoreLogs(logs []*raft.Log) error {
	l.full.mu.Lock()
	l.full.waiting.Add(1)
	for l.full.full {
		l.full.cond.Wait()
	}
	l.full.waiting.Add(-1)
	l.full.mu.Unlock()
	return l.LogStore.StoreLogs(logs)
}

// A leader whose log waits for space loses its office, lives on past the limit
// of a log write, and follows when there is space. What it had taken has an
// outcome then.
func TestALeaderOutOfSpaceLosesItsOffice(t *testing.T) {
	c := newTestCluster(t)
	held := map[string]*fullDisk{"n1": newFullDisk(), "n2": newFullDisk(), "n3": newFullDisk()}
	c.opts = func(_ string, o *Options) { o.LogWriteLimit = time.Second }
	c.parts = func(id string, p *Parts) {
		p.Log = heldLog{p.Log, held[id]}
		p.OutOfSpace = func() bool { return held[id].waiting.Load() > 0 }
	}
	t.Cleanup(func() {
		for _, f := range held {
			f.set(false)
		}
	})
	c.three()
	c.write("before", "x")
	old := c.leader()
	held[old.id].set(true)
	outcome := make(chan error, 1)
	go func() {
		_, err := old.Propose(t.Context(), put("stuck", "x"))
		outcome <- err
	}()
	c.leader(old.id)
	eventually(t, "the others write", func() error {
		for _, id := range c.others(old.id) {
			if n := c.nodes[id]; n.Leader().Self {
				_, err := n.Propose(t.Context(), put("after", "x"))
				return err
			}
		}
		return errors.New("nobody leads")
	})
	time.Sleep(2 * time.Second) // past LogWriteLimit: Fatal would fail the test
	held[old.id].set(false)
	eventually(t, "it follows and has all", func() error {
		if old.Leader().Self || old.sm.title("after") != "x" {
			return errors.New("not yet")
		}
		return nil
	})
	select {
	case err := <-outcome:
		if contract.Outcome(err) != contract.OutcomeUnknown {
			t.Errorf("the write that was stuck: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the write that was stuck has no outcome")
	}
}
