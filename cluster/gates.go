package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

const (
	// pressureKnee is where writes begin to be refused; at 1 all are. Between
	// them the share rises in a straight line, so that the rate settles where
	// the storage can follow, before RocksDB itself stalls: a stalled apply
	// would block Raft's main loop.
	pressureKnee = 0.5
	// The disk gate opens again at this multiple of the low-water mark.
	diskHysteresis = 1.2
	// The default low-water mark: a twentieth of the disk, between these, or
	// DiskLowFloor if that is more and no more than a quarter of the disk.
	diskLowMin, diskLowMax = 64 << 20, 2 << 30
	// diskFactor times its bytes is what a write takes of the disk before it is
	// compacted: in the Raft log and in the state, each time first in RocksDB's
	// log and then, beside it, in a data file.
	diskFactor = 4
	// Below this part of the mark a node takes no entries any more, and from
	// twice that on again. Compactions leave twice that.
	diskFullShare = 4
	// drainWindow is the memory of the drain rate.
	drainWindow = 5 * time.Second
	// Retry-After is between these.
	minRetryAfter, maxRetryAfter = 100 * time.Millisecond, 30 * time.Second
)

// gates decide, in O(1) and without waiting, whether one more write is taken.
// A write that is taken holds its weight until its outcome is known, even if
// its caller has left: what waits in memory is bounded by what is held.
type gates struct {
	o       Options
	p       Parts
	met     *metrics
	gap     func() uint64  // committed and not applied
	chance  func() float64 // [0, 1): random, replaced in tests
	maxGap  uint64
	maxHeld int64
	maxN    int

	mu      sync.Mutex // guards all below
	held    int64      // bytes
	n       int        // commands
	drain   float64    // commands a second, moving average
	drained int        // since lastAt
	lastAt  time.Time
	// What the last look at the environment found.
	pressure       float64
	pressureDetail string
	memoryLow      bool
	memoryDetail   string
	diskLow        bool   // below the mark
	diskFull       bool   // no entries any more
	diskFree       uint64 // bytes
	diskLeft       uint64 // what is left of them when all that is in memory is in files
	mark           uint64 // the low-water mark; 0 = the disk is not looked at
	taken          int64  // bytes taken since that look
	appended       int64  // bytes of a leader's entries since that look
	diskRefused    bool   // a write was refused for this disk since the leader last looked
	// What the leader knows of the voters' disks.
	noQuorum    bool // fewer than a quorum take entries
	otherLeader bool // another voter has space and can lead
}

func newGates(o Options, p Parts, met *metrics, gap func() uint64) *gates {
	return &gates{o: o, p: p, met: met, gap: gap, chance: rand.Float64,
		maxGap: o.MaxApplyGap, maxHeld: o.MaxInflightBytes, maxN: o.MaxInflightCommands, lastAt: time.Now()}
}

// run looks at the environment from time to time.
func (g *gates) run(ctx context.Context) {
	t := time.NewTicker(g.o.GateInterval)
	defer t.Stop()
	low := false
	for {
		g.look(time.Now())
		low = g.tellDisk(low)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// tellDisk logs when the disk becomes low, and when it is well again.
func (g *gates) tellDisk(was bool) bool {
	g.mu.Lock()
	low, free, left, mark := g.diskLow, g.diskFree, g.diskLeft, g.mark
	g.mu.Unlock()
	switch {
	case g.o.Logger == nil || low == was:
	case low:
		g.o.Logger.Warn("the data disk is low: writes other than deletions are refused while this node leads", "component", "cluster", "free_bytes", free, "left_bytes", left, "low_bytes", mark)
	default:
		g.o.Logger.Info("the data disk has space again", "component", "cluster", "free_bytes", free)
	}
	return low
}

// look reads pressure, memory and disk, outside the lock: they may be slow.
func (g *gates) look(now time.Time) {
	var pressure float64
	var detail, memoryDetail string
	var memoryLow bool
	if g.p.Pressure != nil {
		pressure, detail = g.p.Pressure()
	}
	if g.p.MemoryLow != nil {
		memoryLow, memoryDetail = g.p.MemoryLow()
	}
	free, total, pending, diskErr := uint64(0), uint64(0), uint64(0), error(nil)
	if g.p.DiskPending != nil { // first: what is flushed in between is counted twice, not left out
		pending = g.p.DiskPending()
	}
	if log, ok := g.p.Log.(unflushed); ok {
		pending += log.Unflushed()
	}
	if g.p.DiskFree != nil {
		free, total, diskErr = g.p.DiskFree()
	}
	if g.p.DiskFree != nil && diskErr == nil { // an error leaves the last answer in force
		g.mu.Lock()
		room := g.lookAtDisk(free, total, pending)
		g.mu.Unlock()
		if g.p.DiskRoom != nil {
			g.p.DiskRoom(room)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pressure, g.pressureDetail = pressure, detail
	g.memoryLow, g.memoryDetail = memoryLow, memoryDetail
	if d := now.Sub(g.lastAt); d > 0 {
		keep := max(0, 1-d.Seconds()/drainWindow.Seconds())
		g.drain = g.drain*keep + float64(g.drained)/d.Seconds()*(1-keep)
		g.drained, g.lastAt = 0, now
	}
}

func (g *gates) diskMark(total uint64) uint64 {
	if g.o.DiskLowBytes > 0 {
		return g.o.DiskLowBytes
	}
	return max(min(max(total/20, diskLowMin), diskLowMax), min(g.o.DiskLowFloor, total/4))
}

// acquire takes weight bytes and one command, or returns *contract.OverloadError.
func (g *gates) acquire(weight int64, deletes bool) error {
	gap := g.gap()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.checkLocked(weight, deletes, gap, g.chance()); err != nil {
		g.met.refused(err.Reason)
		return err
	}
	g.held += weight
	g.taken += weight
	g.n++
	return nil
}

// diskLowLocked says whether the write could bring the disk below the mark.
// What has been taken since the last look, and what is on its way and may have
// been taken before it, is counted as if it were on the disk already: between
// two looks a fast writer could use up all that the mark keeps back.
func (g *gates) diskLowLocked(weight int64) bool {
	return g.diskLow || g.mark > 0 && g.diskLeft < g.mark+diskFactor*uint64(g.held+g.taken+weight)
}

// check is acquire without taking anything: for a request whose body has not
// been read. Of the pressure it sees only what refuses every write: the dice
// are thrown once, in acquire, or the share of the refused would be too large.
func (g *gates) check(weight int64, deletes bool) error {
	gap := g.gap()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.checkLocked(weight, deletes, gap, 1); err != nil {
		g.met.refused(err.Reason)
		return err
	}
	return nil
}

// checkLocked asks gate after gate; the cheapest and most certain are first.
// dice, in [0, 1], decides about the share that the pressure refuses.
func (g *gates) checkLocked(weight int64, deletes bool, gap uint64, dice float64) *contract.OverloadError {
	refuse := func(reason contract.OverloadReason, format string, args ...any) *contract.OverloadError {
		return &contract.OverloadError{Reason: reason, RetryAfter: g.retryAfterLocked(reason), Detail: fmt.Sprintf(format, args...)}
	}
	switch {
	case g.n+1 > g.maxN:
		return refuse(contract.QueueFull, "%d writes are on their way, the limit is %d", g.n, g.maxN)
	case g.held+weight > g.maxHeld && g.n > 0:
		return refuse(contract.QueueFull, "%d bytes of writes are on their way, the limit is %d", g.held, g.maxHeld)
	case gap > g.maxGap:
		return refuse(contract.ApplyLag, "%d committed entries wait to be applied, the limit is %d", gap, g.maxGap)
	case g.refuseForDisk(weight, deletes) != "":
		g.diskRefused = g.diskRefused || !g.noQuorum
		return refuse(contract.DiskLow, "%s", g.refuseForDisk(weight, deletes))
	case g.memoryLow && !deletes:
		return refuse(contract.MemoryLow, "%s", g.memoryDetail)
	case g.pressure > pressureKnee:
		if p := g.pressureShareLocked(); p >= 1 || dice < p {
			return refuse(contract.StorageStalled, "%s", g.pressureDetail)
		}
	}
	return nil
}

// pressureShareLocked is the share of the writes that the pressure refuses.
func (g *gates) pressureShareLocked() float64 {
	return min(max((g.pressure-pressureKnee)/(1-pressureKnee), 0), 1)
}

// refusing is the share of the writes that a gate refuses now, for the
// metrics: also while there is nothing to refuse.
func (g *gates) refusing(reason contract.OverloadReason) float64 {
	gap := g.gap()
	g.mu.Lock()
	defer g.mu.Unlock()
	closed := false
	switch reason {
	case contract.QueueFull:
		closed = g.n >= g.maxN || g.held >= g.maxHeld
	case contract.ApplyLag:
		closed = gap > g.maxGap
	case contract.DiskLow:
		closed = g.diskLowLocked(0) || g.noQuorum
	case contract.MemoryLow:
		closed = g.memoryLow
	case contract.StorageStalled:
		return g.pressureShareLocked()
	}
	if closed {
		return 1
	}
	return 0
}

// retryAfterLocked says when the half of what is held will be gone at the
// rate of now. The states of disk, memory and storage change in seconds, and
// have no rate to go by.
func (g *gates) retryAfterLocked(reason contract.OverloadReason) time.Duration {
	switch reason {
	case contract.DiskLow:
		return g.diskRetry()
	case contract.StorageStalled, contract.MemoryLow:
		return 2 * time.Second
	}
	waiting := float64(g.n)
	if reason == contract.ApplyLag {
		waiting = float64(g.maxGap)
	}
	if g.drain <= 0 {
		return time.Second
	}
	d := time.Duration(waiting / 2 / g.drain * float64(time.Second))
	return min(max(d, minRetryAfter), maxRetryAfter)
}

// release gives back what acquire took; 0 means that nothing was.
func (g *gates) release(weight int64) {
	if weight == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held -= weight
	g.n--
	g.drained++
}

// inflight is for the metrics.
func (g *gates) inflight() (commands int, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n, g.held
}

// AdmitWrite says whether a write of about this many bytes would be taken
// now: nil, or *contract.OverloadError. It takes nothing; it is for refusing
// a request before its body is read. deletes: the write can only free space.
func (n *Node) AdmitWrite(bytes int64, deletes bool) error { return n.gates.check(bytes, deletes) }
