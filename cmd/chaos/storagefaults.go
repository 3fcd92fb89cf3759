package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/client"
)

const (
	// writeLimit is how long a write to the log may hang before the process
	// ends itself (--log-write-limit); exitWait is how long that may take on a
	// loaded machine.
	writeLimit = 8 * time.Second
	exitWait   = writeLimit + 15*time.Second
	// hour is what a clock that was set wrong by a day and more is off, in ms.
	hour = 60 * 60 * 1000
)

// arm sets the failpoints of a node, whether it runs or starts later; "" is none.
func (r *Run) arm(n *proctest.Node, rules string) {
	r.tb.Helper()
	file := r.pointsFile(n)
	err := os.WriteFile(file+".new", []byte(rules), 0o600)
	if err == nil {
		// In one step: a node reads it at any moment.
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		r.tb.Fatalf("arm %s: %v", n.ID, err)
	}
}

func (r *Run) pointsFile(n *proctest.Node) string { return filepath.Join(r.points, n.ID) }

// excuse says that a node may end by itself until the cluster is whole again,
// and why.
func (r *Run) excuse(n *proctest.Node, why string) { r.excused[n.ID] = why }

// oneOrLeader picks the leader half of the time, for faults that hurt most there.
func (r *Run) oneOrLeader(p Planned) *proctest.Node {
	if p.Pick%2 == 0 {
		return r.leader()
	}
	return r.one(p, r.nodes)
}

// slowFsync makes each write of a node's log and of its vote take longer: as a
// disk that is busy with something else. The node must go on, and its leadership may.
func (r *Run) slowFsync(p Planned) {
	n := r.oneOrLeader(p)
	ms := 500 + p.rng().IntN(2500)
	r.note("each fsync of %s takes %d ms for %v", n.ID, ms, p.Hold)
	r.arm(n, fmt.Sprintf("log.store.before=sleep(%d)@1+,vote.before=sleep(%d)@1+", ms, ms))
	r.hold(p.Hold)
	r.arm(n, "")
}

// hangFsync makes one write of a node's log hang for ever. The node must end
// itself: a leader that can't write keeps its office otherwise, because its
// heartbeats go on.
func (r *Run) hangFsync(p Planned) {
	n := r.mortal(r.oneOrLeader(p))
	r.note("an fsync of %s hangs", n.ID)
	r.excuse(n, "an fsync hung")
	r.arm(n, "log.store.before=sleep(600000)@1")
	deadline := time.Now().Add(exitWait)
	for n.Running() && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	r.arm(n, "")
	if n.Running() {
		r.violate("process", "", "%s goes on %v after a write of its log began to hang", n.ID, exitWait)
		n.Signal(syscall.SIGKILL)
		_ = n.Wait()
	}
	r.hold(p.Hold)
}

// hangDisk freezes a node's whole disk: every write in it hangs, the state's
// too, and a process that ends itself can't before the disk answers again.
func (r *Run) hangDisk(p Planned) {
	n := r.mortal(r.oneOrLeader(p))
	disk := r.disks[n.ID]
	r.note("the disk of %s hangs for %v", n.ID, p.Hold)
	if p.Hold > writeLimit-3*time.Second {
		r.excuse(n, "its disk hung")
	}
	if err := disk.Freeze(); err != nil {
		r.tb.Fatal(err)
	}
	defer disk.Thaw()
	early := p.Hold / 2
	r.hold(early)
	reads := r.readsOn(n)
	r.hold(p.Hold - early)
	disk.Thaw()
	reads()
}

func (r *Run) fullDiskOfLeader(p Planned)   { r.fullDisk(p, r.mortal(r.leader())) }
func (r *Run) fullDiskOfFollower(p Planned) { r.fullDisk(p, r.mortal(r.one(p, r.others(r.leader())))) }

// fullDisk takes the space of a node's disk away, all of it or what is above
// the low-water mark, and gives it back. The process may end, because RocksDB
// of Debian 12 aborts; it is started again, on the full disk too, as a service
// manager would.
func (r *Run) fullDisk(p Planned, n *proctest.Node) {
	disk := r.disks[n.ID]
	leave := []int64{0, 1 << 20, 8 << 20, lowBytes / 2}[p.rng().IntN(4)]
	r.note("the disk of %s has %d bytes left for %v", n.ID, leave, p.Hold)
	r.excuse(n, "its disk was full")
	const starts = 2
	started, end := 0, time.Now().Add(p.Hold)
	for time.Now().Before(end) {
		if err := disk.Fill(leave); err != nil {
			r.tb.Fatal(err)
		}
		if !n.Running() && started < starts {
			r.note("%s ended on its full disk, and is started on it: %v", n.ID, n.Wait())
			r.figures.FailStops++
			started++
			r.start(n)
		}
		r.hold(200 * time.Millisecond)
	}
	reads := r.readsOn(n)
	reads()
	if err := disk.Release(); err != nil {
		r.tb.Fatal(err)
	}
}

// skewClocks sets the clocks of all nodes wrong, each in its own way, lets the
// leadership go round between them, and sets them right, which for some is a
// step back.
func (r *Run) skewClocks(p Planned) {
	rng := p.rng()
	offsets := []int{-hour, -240_000, -10_000, -1000, -50, 50, 1000, 10_000, 240_000, hour}
	drifts := []int{-500_000, -500, 0, 0, 500, 1_000_000}
	for _, n := range r.nodes {
		offset, drift := offsets[rng.IntN(len(offsets))], drifts[rng.IntN(len(drifts))]
		r.note("the clock of %s is %d ms ahead, and gains %d ppm", n.ID, offset, drift)
		r.arm(n, fmt.Sprintf("clock.offset_ms=set(%d),clock.drift_ppm=set(%d)", offset, drift))
	}
	r.hold(p.Hold / 2)
	r.handOver()
	r.hold(p.Hold / 2)
	for _, n := range r.nodes {
		r.arm(n, "")
	}
}

// jumpClocks sets the clocks more than a day ahead, longer than the rows of
// idempotency keys are kept, while a node is paused through which writes are
// on their way: what is sent again under its key must not be applied again.
func (r *Run) jumpClocks(p Planned) {
	r.days++
	n := r.one(p, r.others(r.leader()))
	r.note("all clocks jump to %d hours ahead; pause %s for %v", 30*r.days, n.ID, p.Hold)
	n.Signal(syscall.SIGSTOP)
	for _, other := range r.nodes {
		r.arm(other, fmt.Sprintf("clock.offset_ms=set(%d)", 30*hour*r.days))
	}
	r.burst(p.Hold)
	n.Signal(syscall.SIGCONT)
	r.hold(500 * time.Millisecond)
	for _, other := range r.nodes {
		r.arm(other, "")
	}
}

// burst sends small commands as fast as they are taken: deletions of what is
// not there, which the state machine answers and nobody else is concerned by.
// The clocks of the commands move the replicated clock.
func (r *Run) burst(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	const senders = 32
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := r.admin.DeleteDocument(ctx, collRegisters, fmt.Sprintf("burst-%d", i), client.WithoutIdempotencyKey())
				if err == nil {
					r.violate("exactly_once", "", "a document that nobody has made was deleted")
				}
			}
		})
	}
	wg.Wait()
}

// handOver asks the leader to give its place away.
func (r *Run) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), adminWait)
	defer cancel()
	result, _, err := r.admin.TransferLeader(ctx, "")
	if err != nil {
		r.note("transfer of the leadership: %v", err)
		return
	}
	r.note("%s leads after a transfer", result.Leader)
}
