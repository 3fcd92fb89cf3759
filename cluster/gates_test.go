package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

// surroundings are what the gates look at.
type surroundings struct {
	pressure    float64
	low         bool
	free, total uint64
	pending     uint64
	gap         uint64
	dice        float64
}

func newTestGates(o Options) (*gates, *surroundings) {
	s := &surroundings{free: 1 << 40, total: 2 << 40, dice: 0.999}
	p := Parts{
		Pressure:    func() (float64, string) { return s.pressure, "L0 has many files" },
		MemoryLow:   func() (bool, string) { return s.low, "the budget is used up" },
		DiskFree:    func() (uint64, uint64, error) { return s.free, s.total, nil },
		DiskPending: func() uint64 { return s.pending },
	}
	g := newGates(o, p, nil, func() uint64 { return s.gap })
	g.chance = func() float64 { return s.dice }
	g.look(time.Now())
	return g, s
}

func reasonOf(err error) contract.OverloadReason {
	var e *contract.OverloadError
	if errors.As(err, &e) && e.RetryAfter > 0 && e.Detail != "" {
		return e.Reason
	}
	return ""
}

func TestGatesBoundWhatIsHeld(t *testing.T) {
	o := DefaultOptions()
	o.MaxInflightCommands, o.MaxInflightBytes = 3, 1000
	g, _ := newTestGates(o)
	for range 2 {
		if err := g.acquire(400, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := reasonOf(g.acquire(400, false)); got != contract.QueueFull {
		t.Errorf("bytes: %q", got)
	}
	if err := g.acquire(10, false); err != nil {
		t.Errorf("what fits: %v", err)
	}
	if got := reasonOf(g.acquire(10, false)); got != contract.QueueFull {
		t.Errorf("count: %q", got)
	}
	g.release(400)
	g.release(0) // exempt: gives nothing back
	if n, b := g.inflight(); n != 2 || b != 410 {
		t.Errorf("%d commands, %d bytes", n, b)
	}
	g.release(400)
	g.release(10)
	if err := g.acquire(5000, false); err != nil {
		t.Errorf("one that is larger than the limit must pass alone: %v", err)
	}
}

func TestGatesRefuseByReason(t *testing.T) {
	for _, row := range []struct {
		name    string
		change  func(*surroundings)
		deletes bool
		want    contract.OverloadReason
	}{
		{"nothing is wrong", func(*surroundings) {}, false, ""},
		{"the state machine is behind", func(s *surroundings) { s.gap = 5001 }, false, contract.ApplyLag},
		{"memory", func(s *surroundings) { s.low = true }, false, contract.MemoryLow},
		{"memory, a deletion", func(s *surroundings) { s.low = true }, true, ""},
		{"disk", func(s *surroundings) { s.free = 1 << 30 }, false, contract.DiskLow},
		{"disk, a deletion", func(s *surroundings) { s.free = 1 << 30 }, true, ""},
		{"nothing left, a deletion", func(s *surroundings) { s.free = 1 << 20 }, true, contract.DiskLow},
		{"all that is free is needed for what is in memory", func(s *surroundings) { s.free, s.pending = 4<<30, 3<<30 }, false, contract.DiskLow},
		{"most of what is free is not", func(s *surroundings) { s.free, s.pending = 4<<30, 1<<30 }, false, ""},
		{"pressure below the knee", func(s *surroundings) { s.pressure = 0.5; s.dice = 0 }, false, ""},
		{"pressure 0.75 refuses half: the lower", func(s *surroundings) { s.pressure = 0.75; s.dice = 0.49 }, false, contract.StorageStalled},
		{"pressure 0.75 refuses half: the upper", func(s *surroundings) { s.pressure = 0.75; s.dice = 0.51 }, false, ""},
		{"pressure 1 refuses all", func(s *surroundings) { s.pressure = 1 }, false, contract.StorageStalled},
	} {
		t.Run(row.name, func(t *testing.T) {
			g, s := newTestGates(DefaultOptions())
			row.change(s)
			g.look(time.Now())
			// Before the body is read only what is certain refuses.
			early := row.want
			if s.pressure < 1 && early == contract.StorageStalled {
				early = ""
			}
			if got := reasonOf(g.check(10, row.deletes)); got != early {
				t.Errorf("early: got %q, want %q", got, early)
			}
			if got := reasonOf(g.acquire(10, row.deletes)); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

func TestTheDiskGateClearsItselfWithHysteresis(t *testing.T) {
	o := DefaultOptions()
	o.DiskLowBytes = 1000
	g, s := newTestGates(o)
	for _, step := range []struct {
		free uint64
		open bool
	}{{1100, true}, {999, false}, {1100, false}, {1200, true}, {1010, true}} {
		s.free = step.free
		g.look(time.Now())
		if open := g.check(1, false) == nil; open != step.open {
			t.Errorf("free %d: open %v", step.free, open)
		}
	}
}

// The default mark is a share of the disk; a profile's floor counts, but not
// more than a small disk can give.
func TestTheDefaultDiskMark(t *testing.T) {
	for _, row := range []struct{ floor, total, want uint64 }{
		{0, 100 << 20, 64 << 20}, {0, 10 << 30, 512 << 20}, {0, 1 << 40, 2 << 30},
		{300 << 20, 4 << 30, 300 << 20}, {300 << 20, 1 << 30, 256 << 20}, {300 << 20, 100 << 20, 64 << 20}, {3 << 30, 1 << 40, 3 << 30},
	} {
		o := DefaultOptions()
		o.DiskLowFloor = row.floor
		g, _ := newTestGates(o)
		if got := g.diskMark(row.total); got != row.want {
			t.Errorf("floor %d MiB, disk %d MiB: %d MiB, want %d", row.floor>>20, row.total>>20, got>>20, row.want>>20)
		}
	}
}

// A follower stops before its disk is full, counts what it took since the last
// look, and goes on with hysteresis.
func TestEntriesAreRefusedBeforeTheDiskIsFull(t *testing.T) {
	o := DefaultOptions()
	o.DiskLowBytes = 4000
	g, s := newTestGates(o)
	var room uint64
	g.p.DiskRoom = func(bytes uint64) { room = bytes }
	for _, step := range []struct {
		free    uint64
		bytes   int64
		takes   bool
		compact uint64
	}{{5000, 10, true, 3000}, {5000, 9000, true, 3000}, {3999, 9000, false, 1999}, {3999, 749, true, 1999}, {3999, 750, false, 1999}, {1400, 100, true, 0}, {1400, 101, false, 0}, {999, 1, false, 0},
		{1999, 1, false, 0}, {2000, 1, true, 0}, {2500, 100, true, 500}} {
		s.free = step.free
		g.look(time.Now())
		if takes := g.roomFor(step.bytes); takes != step.takes || room != step.compact {
			t.Errorf("free %d, %d bytes: taken %v, %d for compactions", step.free, step.bytes, takes, room)
		}
	}
	s.free = 4000 // one request of any size, and then none
	g.look(time.Now())
	if !g.roomFor(9000) || g.roomFor(1) {
		t.Error("with the whole mark free, not just one large request is taken")
	}
	s.free = 2000 // 1000 bytes of disk, for 250 of entries
	g.look(time.Now())
	taken := 0
	for g.roomFor(10) {
		taken += 10
	}
	if taken != 250 {
		t.Errorf("%d bytes between two looks", taken)
	}
}

// The mark holds between two looks as well: what is on its way is counted as
// if it were on the disk.
func TestTheDiskGateCountsWhatIsOnItsWay(t *testing.T) {
	o := DefaultOptions()
	o.DiskLowBytes = 1 << 20
	g, s := newTestGates(o)
	s.free = 2 << 20 // 1 MiB above the mark: room for less than 512 KiB of writes
	g.look(time.Now())
	const weight = 10 << 10
	for _, row := range []struct {
		what  string
		after func()
	}{
		{"on its way", func() {}},
		{"done since the last look", func() { g.release(weight) }},
	} {
		taken := 0
		for ; taken < 1000; taken++ {
			err := g.acquire(weight, false)
			if reasonOf(err) == contract.DiskLow {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			row.after()
		}
		if at := taken * weight * diskFactor; taken == 0 || at > 1<<20 {
			t.Errorf("%s: %d writes were taken, %d bytes of disk; there is room for %d", row.what, taken, at, 1<<20)
		}
		if err := g.acquire(weight, true); err != nil {
			t.Errorf("a deletion: %v", err)
		}
		for n, _ := g.inflight(); n > 0; n-- {
			g.release(weight)
		}
	}
	g.look(time.Now()) // the disk says that it was less
	if err := g.check(weight, false); err != nil {
		t.Errorf("after another look: %v", err)
	}
}

func TestRetryAfterComesFromTheDrainRate(t *testing.T) {
	o := DefaultOptions()
	o.MaxInflightCommands = 100
	g, _ := newTestGates(o)
	now := g.lastAt
	for range 10 { // 100 a second
		for range 100 {
			if err := g.acquire(1, false); err != nil {
				t.Fatal(err)
			}
			g.release(1)
		}
		now = now.Add(time.Second)
		g.look(now)
	}
	for range 100 {
		if err := g.acquire(1, false); err != nil {
			t.Fatal(err)
		}
	}
	var e *contract.OverloadError
	if err := g.check(1, false); !errors.As(err, &e) || e.RetryAfter < 400*time.Millisecond || e.RetryAfter > 700*time.Millisecond {
		t.Errorf("100 wait, 100 a second are done: half of them need %v", e.RetryAfter)
	}
}

func TestOverloadIsRefusedAndTicksPass(t *testing.T) {
	c := newTestCluster(t)
	s := &surroundings{free: 1 << 30, total: 1 << 40} // the mark is at 2 GiB
	c.parts = func(_ string, p *Parts) {
		p.DiskFree = func() (uint64, uint64, error) { return s.free, s.total, nil }
	}
	n := c.start("n1", 0)
	c.allReady() // which takes a Tick through a disk that is full
	_, err := n.Propose(t.Context(), put("d", "x"))
	if reasonOf(err) != contract.DiskLow || contract.Outcome(err) != contract.OutcomeNotApplied {
		t.Errorf("got %v", err)
	}
	del := &command.Command{Op: &command.Command_Mutation{Mutation: &command.Mutation{Collection: "c",
		Op: &command.Mutation_DeleteDocument{DeleteDocument: &command.DeleteDocument{Id: "d"}}}}}
	if _, err := n.Propose(t.Context(), del); err != nil {
		t.Errorf("a deletion: %v", err)
	}
	limits := &command.Command{Op: &command.Command_SetLimits{SetLimits: &command.SetLimits{}}}
	if _, err := n.Propose(t.Context(), limits); err != nil {
		t.Errorf("the operator's limits: %v", err)
	}
	if reasonOf(n.AdmitWrite(100, false)) != contract.DiskLow {
		t.Error("AdmitWrite says otherwise than Propose")
	}
}
