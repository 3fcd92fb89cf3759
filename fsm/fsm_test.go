package fsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
)

func logOf(index, term uint64, data []byte) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: data}
}

func TestSystemRows(t *testing.T) {
	m := newMachine(t)
	check := func(when string) {
		t.Helper()
		if m.f.ClusterID() != "cluster-1" || m.snaps.ClusterID() != "cluster-1" {
			t.Errorf("%s: cluster %q, snapshots of %q", when, m.f.ClusterID(), m.snaps.ClusterID())
		}
		if ms := m.f.Members(); len(ms) != 2 || ms[0].GetNodeId() != "n1" || ms[0].GetRaftAddr() != "h:9" || ms[1].GetNodeId() != "n3" {
			t.Errorf("%s: members %v", when, ms)
		}
		if l := m.f.Limits(); len(l) != 1 || l[0].GetWritesPerSecond() != 2.5 {
			t.Errorf("%s: limits %v", when, l)
		}
		if m.f.TickTerm() != 4 {
			t.Errorf("%s: tick term %d", when, m.f.TickTerm())
		}
	}
	for _, c := range []*command.Command{
		initCluster("cluster-1"), initCluster("cluster-2"), setMember("n3", "h:3"), setMember("n1", "h:1"), setMember("n2", "h:2"),
		setMember("n1", "h:9"), removeMember("n2"), removeMember("n2"), setLimits(&command.RateLimit{Scope: "token", Name: "*", WritesPerSecond: 2.5, Burst: 1}),
	} {
		if r := m.one(c); r.GetOutcome() != done_ {
			t.Fatalf("%T: %s", c.GetOp(), show(r))
		}
	}
	m.term = 4
	m.one(tick())
	check("after the commands")
	m.restart()
	check("after a restart")
	if err := m.restoreOwn(func() string { m.one(tick()); return m.snapshot() }()); err != nil {
		t.Fatal(err)
	}
	check("after a restore")

	for _, c := range []*command.Command{
		initCluster(""), setMember("", "h:1"), setMember("a\nb", "h:1"),
		setLimits(&command.RateLimit{Scope: "node", Name: "*", WritesPerSecond: 1, Burst: 1}),
		setLimits(&command.RateLimit{Scope: "token", Name: "*", WritesPerSecond: 0, Burst: 1}),
		setLimits(&command.RateLimit{Scope: "token", Name: "*", WritesPerSecond: 1}),
		setLimits(&command.RateLimit{Scope: "token", WritesPerSecond: 1, Burst: 1}),
	} {
		if r := m.one(c); r.GetOutcome() != invalidOutcome {
			t.Errorf("%v: %s", c, show(r))
		}
	}
	check("after refusals")
	for i := range MaxMembers {
		m.one(setMember(fmt.Sprint("x", i), "h:1"))
	}
	if r := m.one(setMember("one-too-many", "h:1")); r.GetOutcome() != limitExceeded || len(m.f.Members()) != MaxMembers {
		t.Errorf("%d members: %s", len(m.f.Members()), show(r))
	}
	if r := m.one(setMember("n1", "h:10")); r.GetOutcome() != done_ {
		t.Errorf("a change of a member: %s", show(r))
	}
}

// TestSkipWhatIsApplied is invariant F2.
func TestSkipWhatIsApplied(t *testing.T) {
	m := newMachine(t)
	logs := []*raft.Log{
		logOf(3, 1, entryOf(t, mutation(putDoc("d")))),
		{Index: 4, Term: 1, Type: raft.LogConfiguration, Data: []byte("not decoded")},
		logOf(6, 2, entryOf(t, mutation(putSnip("d", 0, text("a"))))), // 5 was Raft's own
		logOf(7, 2, entryOf(t, mutation(putSnip("d", 1, text("b"))))),
	}
	answers := m.f.ApplyBatch(logs[:3])
	if answers[1] != nil || len(answers[0].([]*command.Result)) != 1 || len(answers[2].([]*command.Result)) != 1 {
		t.Errorf("answers %v", answers)
	}
	before := m.dump()
	m.restart()
	if i, term := m.f.Applied(); i != 6 || term != 2 {
		t.Errorf("applied %d term %d", i, term)
	}
	for _, a := range m.f.ApplyBatch(logs[:3]) {
		if a != nil {
			t.Errorf("a skipped entry has the answer %v", a)
		}
	}
	if m.dump() != before {
		t.Error("entries were applied twice")
	}
	answers = m.f.ApplyBatch(logs) // an overlap, and one that is new
	if answers[2] != nil || answers[3] == nil {
		t.Errorf("answers %v", answers)
	}
	if i, term := m.f.Applied(); i != 7 || term != 2 || m.fatal != nil {
		t.Errorf("applied %d term %d, %v", i, term, m.fatal)
	}
	if got := m.embeddedAt("d"); got != "a:-@6 b:-@7" {
		t.Errorf("document %s", got)
	}
}

func TestConfigurationMovesThePosition(t *testing.T) {
	m := newMachine(t)
	m.f.ApplyBatch([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration}})
	m.restart()
	if i, term := m.f.Applied(); i != 1 || term != 1 {
		t.Errorf("applied %d term %d", i, term)
	}
}

// TestWhatCantBeAppliedStops: an entry that this node does not understand
// ends the process, and nothing of its slice is visible.
func TestWhatCantBeAppliedStops(t *testing.T) {
	good := entryOf(t, mutation(putDoc("d")))
	for _, tt := range []struct {
		name string
		log  *raft.Log
		want string
	}{
		{"an unknown command", logOf(3, 2, entryOf(t, &command.Command{ProposedMs: 1})), "upgrade this node"},
		{"a newer version", logOf(3, 2, []byte{8, 2}), "upgrade this node"},
		{"bytes that are none", logOf(3, 2, []byte("garbage")), "decoded"},
		{"no bytes", logOf(3, 2, nil), "version"},
		{"an older term", logOf(3, 1, good), "F3 violated"},
		{"an unknown type of entry", &raft.Log{Index: 3, Term: 2, Type: raft.LogNoop}, "unknown type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.term = 2
			m.must(putDoc("first"))
			before := m.dump()
			answers := m.f.ApplyBatch([]*raft.Log{logOf(2, 2, good), tt.log})
			if m.fatal == nil || !strings.Contains(m.fatal.Error(), tt.want) {
				t.Errorf("Fatal got %v, want %q", m.fatal, tt.want)
			}
			if answers[0] != nil || answers[1] != nil {
				t.Errorf("answers %v", answers)
			}
			if i, _ := m.f.Applied(); i != 1 || m.dump() != before {
				t.Errorf("applied %d", i)
			}
			// Nothing is done any more, were Fatal to return.
			m.fatal = nil
			m.f.Apply(logOf(2, 2, good))
			if m.fatal == nil || !errors.Is(m.fatal, ErrStopped) || m.dump() != before {
				t.Errorf("after the stop: %v", m.fatal)
			}
			if _, err := m.f.Snapshot(); !errors.Is(err, ErrStopped) {
				t.Errorf("Snapshot after the stop: %v", err)
			}
			if err := m.f.Restore(foreign(nil)); !errors.Is(err, ErrStopped) {
				t.Errorf("Restore after the stop: %v", err)
			}
		})
	}
}

func TestStorageErrorStops(t *testing.T) {
	m := newMachine(t)
	m.must(putDoc("d"))
	if err := m.store.Close(); err != nil {
		t.Fatal(err)
	}
	m.f.Apply(logOf(2, 1, entryOf(t, mutation(putDoc("d")))))
	if m.fatal == nil || !errors.Is(m.fatal, ErrClosed) {
		t.Errorf("Fatal got %v", m.fatal)
	}
	m.open()
}

// TestSliceIsCommittedInPieces: a large slice does not become one huge write,
// and the pieces give the same state.
func TestSliceIsCommittedInPieces(t *testing.T) {
	a, b := newMachine(t), newMachine(t)
	b.f.rules.batchBytes = 1
	var logs []*raft.Log
	for i := range 20 {
		logs = append(logs, logOf(uint64(i+1), 1, entryOf(t, keyed(fmt.Sprint("k", i), "r", mutation(putDoc(fmt.Sprint("d", i%7), text("x")))))))
	}
	a.f.ApplyBatch(logs)
	b.f.ApplyBatch(logs)
	if a.dump() != b.dump() {
		t.Error("the pieces give another state")
	}
}

func TestWaitApplied(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.f.WaitApplied(ctx, 0); err != nil {
		t.Errorf("index 0: %v", err)
	}
	const waitersPerIndex, entries = 50, 20
	var wg sync.WaitGroup
	var early atomic.Int64
	for i := range entries {
		for range waitersPerIndex {
			wg.Go(func() {
				if err := m.f.WaitApplied(ctx, uint64(i+1)); err != nil {
					t.Errorf("index %d: %v", i+1, err)
				}
				if applied, _ := m.f.Applied(); applied < uint64(i+1) {
					early.Add(1)
				}
			})
		}
	}
	// One that gives up in the middle of the queue.
	short, stop := context.WithCancel(ctx)
	wg.Go(func() {
		if err := m.f.WaitApplied(short, entries+5); !errors.Is(err, context.Canceled) {
			t.Errorf("the cancelled wait: %v", err)
		}
	})
	waitFor(t, func() bool { return m.queued() == entries*waitersPerIndex+1 })
	stop()
	waitFor(t, func() bool { return m.queued() == entries*waitersPerIndex })
	for i := range entries {
		m.must(putDoc("d"))
		waitFor(t, func() bool { return m.queued() == (entries-i-1)*waitersPerIndex })
	}
	wg.Wait()
	if early.Load() > 0 {
		t.Errorf("%d waiters were woken early", early.Load())
	}
	view, err := m.f.View(ctx, entries)
	if err != nil || view.Position().Index != entries {
		t.Fatalf("View: %v", err)
	}
	view.Close()
	over, cancel2 := context.WithTimeout(ctx, time.Millisecond)
	defer cancel2()
	if _, err := m.f.View(over, entries+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("View of what is not applied: %v", err)
	}
	wg.Go(func() {
		if err := m.f.WaitApplied(ctx, 1000); !errors.Is(err, ErrClosed) {
			t.Errorf("the wait at the end: %v", err)
		}
	})
	waitFor(t, func() bool { return m.queued() == 1 })
	m.f.Close()
	wg.Wait()
	if err := m.f.WaitApplied(ctx, 1000); !errors.Is(err, ErrClosed) {
		t.Errorf("a wait after the end: %v", err)
	}
}

// TestWaitersRace has writers, waiters and readers at once, for -race.
func TestWaitersRace(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const entries = 200
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < entries; i += 3 {
				view, err := m.f.View(ctx, uint64(i+1))
				if err != nil {
					t.Errorf("View: %v", err)
					return
				}
				if view.Position().Index < uint64(i+1) {
					t.Errorf("the view is at %d, asked for %d", view.Position().Index, i+1)
				}
				view.Close()
				_, _, _, _ = m.f.ClockMs(), m.f.Members(), m.f.ClusterID(), m.f.TickTerm()
			}
		})
	}
	for i := range entries {
		m.apply(mutation(putDoc(fmt.Sprint("d", i%10), text("x"))), tick())
	}
	wg.Wait()
}

func TestTooManyWaiters(t *testing.T) {
	var w waiters
	w.queue = make(waiterHeap, MaxWaiters)
	if err := w.wait(context.Background(), 1, func() bool { return false }); !errors.Is(err, ErrTooManyWaiters) {
		t.Errorf("%v", err)
	}
}

func (m *machine) queued() int {
	m.f.waiters.mu.Lock()
	defer m.f.waiters.mu.Unlock()
	return len(m.f.waiters.queue)
}

// waitFor polls until cond is true.
func waitFor(tb testing.TB, cond func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			tb.Fatal("the condition did not come true")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestMetrics(t *testing.T) {
	m := newMachine(t)
	reg := prometheus.NewRegistry()
	f, err := New(m.store, m.snaps, Options{Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Apply(logOf(1, 1, entryOf(t, mutation(putDoc("d")), mutation(deleteDoc("x")))))
	if _, err := New(m.store, m.snaps, Options{Registerer: reg}); err != nil {
		t.Errorf("a second state machine with the same registry: %v", err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, mf := range families {
		if !strings.HasPrefix(mf.GetName(), "snipdb_fsm_") {
			t.Errorf("metric %s", mf.GetName())
		}
		for _, x := range mf.GetMetric() {
			if x.GetCounter() != nil && len(x.GetLabel()) == 1 {
				seen[x.GetLabel()[0].GetValue()] += x.GetCounter().GetValue()
			}
		}
	}
	if seen["created"] != 1 || seen["document_not_found"] != 1 {
		t.Errorf("outcomes %v", seen)
	}
}

// TestNothingIsLeaked: C objects are freed by whoever made them.
func TestNothingIsLeaked(t *testing.T) {
	base := storage.LiveObjects()
	t.Run("use", func(t *testing.T) {
		m := newMachine(t)
		m.must(putDoc("d", embedded("a", 2)))
		m.one(mutation(deleteDoc("nothing")))
		id := m.snapshot()
		if err := m.restoreOwn(id); err != nil {
			t.Error(err)
		}
		if err := m.f.Restore(foreign(m.stream(id)[:200])); err == nil {
			t.Error("half a stream was restored")
		}
		m.f.Apply(logOf(9, 1, []byte("garbage")))
		m.fatal = nil
	})
	if now := storage.LiveObjects(); now != base {
		t.Errorf("%d C objects, %d before", now, base)
	}
}
