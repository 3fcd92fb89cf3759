package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

func TestGroupCommitJoinsWhatWaits(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	// While the state machine is held, one entry is on its way for each worker
	// and all others wait; then they must share few entries.
	release := n.sm.setHold()
	defer release()
	const writes = 200
	var wg sync.WaitGroup
	results := make([]uint64, writes)
	for i := range writes {
		wg.Go(func() {
			res, err := n.Propose(t.Context(), put(fmt.Sprint("d", i), "x"))
			if err != nil {
				t.Error(err)
				return
			}
			results[i] = res.GetIndex()
			if res.GetDocument().GetId() != fmt.Sprint("d", i) {
				t.Errorf("command %d got the result of %s", i, res.GetDocument().GetId())
			}
		})
	}
	eventually(t, "all are taken", func() error {
		if got, _ := n.gates.inflight(); got != writes {
			return fmt.Errorf("%d of %d", got, writes)
		}
		return nil
	})
	release()
	wg.Wait()
	entries := map[uint64]int{}
	for _, i := range results {
		entries[i]++
	}
	if len(entries) > 2+2*n.o.MaxInflightEntries {
		t.Errorf("%d writes took %d entries", writes, len(entries))
	}
	if held, bytes := n.gates.inflight(); held != 0 || bytes != 0 {
		t.Errorf("the gates hold %d commands, %d bytes", held, bytes)
	}
}

func TestGroupCommitOffIsOneCommandAnEntry(t *testing.T) {
	c := newTestCluster(t)
	c.opts = func(_ string, o *Options) { o.GroupCommit = false }
	n := c.start("n1", 0)
	c.allReady()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := n.Propose(t.Context(), put(fmt.Sprint("d", i), "x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for index, docs := range n.sm.entries {
		if len(docs) != 1 {
			t.Errorf("entry %d has %d commands", index, len(docs))
		}
	}
}

func TestOneEntryNeverChangesADocumentTwice(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			if _, err := n.Propose(t.Context(), put(fmt.Sprint("d", i%3), "x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(n.sm.conflicts) > 0 {
		t.Errorf("conflicts: %v", n.sm.conflicts)
	}
	if n.sm.s.Changes != 300 {
		t.Errorf("%d changes applied, 300 proposed", n.sm.s.Changes)
	}
}

// newIdleProposer has a queue and no workers, so that take can be looked at.
func newIdleProposer(o Options, cs ...*command.Command) *proposer {
	n := &Node{o: o.withDefaults()}
	n.gates = newGates(n.o, Parts{}, nil, func() uint64 { return 0 })
	n.props = newProposer(n)
	for _, c := range cs {
		enc, _ := command.Encode(c)
		_ = n.props.enqueue(&proposal{encoded: enc, key: c.ConflictKey(), done: make(chan struct{})})
	}
	return n.props
}

func TestTakeFormsEntriesInOrder(t *testing.T) {
	tick := &command.Command{Op: &command.Command_Tick{Tick: &command.Tick{}}}
	batch := &command.Command{Op: &command.Command_Batch{Batch: &command.Batch{}}}
	big := put("big", strings.Repeat("x", command.MaxEntryBytes/2))
	for _, row := range []struct {
		name  string
		o     func(*Options)
		in    []*command.Command
		sizes []int
	}{
		{"different documents share an entry", nil, []*command.Command{put("a", ""), put("b", ""), put("c", "")}, []int{3}},
		{"the same document begins the next entry", nil, []*command.Command{put("a", ""), put("b", ""), put("a", ""), put("c", "")}, []int{2, 2}},
		{"ticks never conflict", nil, []*command.Command{tick, put("a", ""), tick}, []int{3}},
		{"a batch is alone", nil, []*command.Command{put("a", ""), batch, put("b", ""), put("c", "")}, []int{1, 1, 2}},
		{"bytes are bounded", nil, []*command.Command{big, put("a", ""), big, put("b", "")}, []int{2, 2}},
		{"commands are bounded", func(o *Options) { o.MaxEntryCommands = 2 }, []*command.Command{put("a", ""), put("b", ""), put("c", "")}, []int{2, 1}},
		{"off means one", func(o *Options) { o.GroupCommit = false }, []*command.Command{put("a", ""), put("b", "")}, []int{1, 1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := DefaultOptions()
			if row.o != nil {
				row.o(&o)
			}
			p := newIdleProposer(o, row.in...)
			for i, want := range row.sizes {
				batch := p.take()
				if len(batch) != want {
					t.Fatalf("entry %d has %d commands, want %d", i, len(batch), want)
				}
				size := 0
				for _, pr := range batch {
					size += len(pr.encoded) + command.CommandOverhead
				}
				if size > command.MaxEntryBytes {
					t.Errorf("entry %d has %d bytes", i, size)
				}
			}
			if p.depth() != 0 {
				t.Errorf("%d are left", p.depth())
			}
		})
	}
}

func TestAWriteGivenUpInTheQueueIsNeverApplied(t *testing.T) {
	c := newTestCluster(t)
	c.opts = func(_ string, o *Options) { o.MaxInflightEntries = 1 }
	n := c.start("n1", 0)
	c.allReady()
	eventually(t, "the leader has nothing of its own to write", func() error {
		if n.memberRow("n1") == nil {
			return errors.New("no row")
		}
		return nil
	})
	release := n.sm.setHold()
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := n.Propose(t.Context(), put("first", "x")); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the first is on its way", func() error {
		if k, _ := n.gates.inflight(); k != 1 || n.props.depth() != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := n.Propose(ctx, put("late", "x"))
	if !errors.Is(err, contract.ErrExpired) || contract.Outcome(err) != contract.OutcomeNotApplied {
		t.Errorf("a write that expired in the queue: %v (%s)", err, contract.Outcome(err))
	}
	release()
	wg.Wait()
	c.write("after", "x")
	if got := n.sm.title("late"); got != "" {
		t.Error("a write that was reported as not applied was applied")
	}
}

func TestAWriteGivenUpAfterItWasProposedIsUnknown(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	release := n.sm.setHold()
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := n.Propose(ctx, put("d", "x"))
	var unknown *contract.OutcomeUnknownError
	if !errors.As(err, &unknown) {
		t.Fatalf("got %v", err)
	}
	release()
	eventually(t, "it is applied all the same", func() error {
		if n.sm.title("d") != "x" {
			return errors.New("not yet")
		}
		return nil
	})
}

func TestTooLargeIsRefusedBeforeTheLog(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	if _, err := n.Propose(t.Context(), put("d", strings.Repeat("x", command.MaxEntryBytes))); !errors.Is(err, contract.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

// TestAcknowledgedWritesSurviveTheLeader writes from many clients while the
// leader is cut off twice. Each acknowledged write must be on all nodes; each
// write with the outcome "not applied" on none.
func TestAcknowledgedWritesSurviveTheLeader(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	var h history
	stop := h.run(t, c, 8)
	defer stop()
	h.grow(t, 100)
	for range 2 {
		old := c.leader()
		c.net.isolate(old.id, true)
		c.leader(old.id)
		h.grow(t, 100)
		c.net.isolate(old.id, false)
		h.grow(t, 100)
	}
	stop()
	last := c.write("last", "x").GetIndex()
	for _, n := range c.running() {
		if _, err := n.ReadIndex(t.Context(), contract.Consistency{Level: contract.Session, MinIndex: last}); err != nil {
			t.Fatal(err)
		}
		for _, msg := range n.sm.conflicts {
			t.Errorf("node %s: %s", n.id, msg)
		}
		h.acked.Range(func(id, index any) bool {
			if got := n.sm.s.Docs[id.(string)]; got != index {
				t.Errorf("node %s: %v was acknowledged at %v, and is at %d", n.id, id, index, got)
			}
			return true
		})
		h.refused.Range(func(id, _ any) bool {
			if n.sm.s.Docs[id.(string)] != 0 {
				t.Errorf("node %s: %v was not applied, and is there", n.id, id)
			}
			return true
		})
	}
	size := func(m *sync.Map) (k int) { m.Range(func(any, any) bool { k++; return true }); return k }
	t.Logf("acknowledged %d, not applied %d, unknown %d", size(&h.acked), size(&h.refused), size(&h.unknown))
}

// history is what the writers were told: document -> index or true.
type history struct {
	acked, refused, unknown sync.Map
	count                   atomic.Int64
}

// run starts writers, each document written once; the function returned ends them.
func (h *history) run(t *testing.T, c *testCluster, writers int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				for _, n := range c.running() {
					if n.Leader().Self {
						h.write(t, n, fmt.Sprintf("w%d-%d", w, i))
						break
					}
				}
				time.Sleep(time.Millisecond) // a rate, not a synchronisation
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func (h *history) write(t *testing.T, n *testNode, id string) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	res, err := n.Propose(ctx, put(id, id))
	var unknown *contract.OutcomeUnknownError
	switch {
	case err == nil:
		h.acked.Store(id, res.GetIndex())
		h.count.Add(1)
	case errors.As(err, &unknown):
		h.unknown.Store(id, true)
	default:
		h.refused.Store(id, true)
	}
}

// grow waits for so many more acknowledged writes.
func (h *history) grow(t *testing.T, by int64) {
	t.Helper()
	goal := h.count.Load() + by
	eventually(t, "writes go on", func() error {
		if got := h.count.Load(); got < goal {
			return fmt.Errorf("%d of %d", got, goal)
		}
		return nil
	})
}

func TestAnIsolatedLeaderAnswersUnknown(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	old := c.leader()
	c.net.isolate(old.id, true)
	_, err := old.Propose(t.Context(), put("d", "x"))
	// Proposed before it noticed: unknown. It may also have noticed first.
	if err == nil {
		t.Fatal("a leader without a quorum acknowledged a write")
	}
	t.Logf("outcome %s: %v", contract.Outcome(err), err)
	c.net.isolate(old.id, false)
	c.allReady()
}
