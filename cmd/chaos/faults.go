package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/client"
)

// Each fault begins in a cluster that is whole, holds, and undoes itself; that
// the cluster is whole again is waited for by the caller.

func (p Planned) rng() *rand.Rand { return rand.New(rand.NewPCG(p.Pick, 1)) }

// one picks a node.
func (r *Run) one(p Planned, among []*proctest.Node) *proctest.Node {
	return among[p.rng().IntN(len(among))]
}

// others are all nodes but one.
func (r *Run) others(not *proctest.Node) []*proctest.Node {
	var out []*proctest.Node
	for _, n := range r.nodes {
		if n != not {
			out = append(out, n)
		}
	}
	return out
}

// hold lets time pass in a fault.
func (r *Run) hold(d time.Duration) { time.Sleep(d) }

// crash kills processes at once, waits, and starts them again.
func (r *Run) crash(p Planned, nodes ...*proctest.Node) {
	for _, n := range nodes {
		r.note("kill %s", n.ID)
		n.Signal(syscall.SIGKILL)
	}
	for _, n := range nodes {
		_ = n.Wait()
	}
	end := time.Now().Add(p.Hold)
	for _, n := range nodes {
		r.compareLog(n)
	}
	r.hold(time.Until(end))
	for _, n := range nodes {
		r.start(n)
	}
}

// start starts a process again.
func (r *Run) start(n *proctest.Node) {
	n.Start()
	r.figures.Restarts++
}

func (r *Run) killOne(p Planned)    { r.crash(p, r.one(p, r.mortals())) }
func (r *Run) killLeader(p Planned) { r.crash(p, r.mortal(r.leader())) }
func (r *Run) killAll(p Planned)    { r.crash(p, r.mortals()...) }

func (r *Run) killTwo(p Planned) {
	order := p.rng().Perm(len(r.voters))
	r.crash(p, r.mortal(r.voters[order[0]]), r.voters[order[1]])
}

// mortals are the nodes whose process may be ended: in a soak two live from
// the beginning to the end, so that what they hold can be compared.
func (r *Run) mortals() []*proctest.Node {
	var out []*proctest.Node
	for _, n := range r.nodes {
		if r.mortal(n) == n {
			out = append(out, n)
		}
	}
	return out
}

// mortal is the node itself, or one that may be ended in its place.
func (r *Run) mortal(n *proctest.Node) *proctest.Node {
	if r.o.Soak && slices.Contains(r.spared, n) {
		return r.voters[len(r.voters)-1]
	}
	return n
}

// pause stops a process in the middle of whatever it does, and lets it go on.
// Reads reach it while it is stopped, so that they are the first that it does
// after it has woken up, perhaps as a leader that is none any more.
func (r *Run) pause(p Planned, n *proctest.Node) {
	r.note("pause %s for %v", n.ID, p.Hold)
	n.Signal(syscall.SIGSTOP)
	early := min(p.Hold/2, 300*time.Millisecond)
	r.hold(p.Hold - early)
	wait := r.readsOn(n)
	r.hold(early)
	n.Signal(syscall.SIGCONT)
	again := r.readsOn(n)
	wait()
	again()
}

// readsOn reads documents that are in use from one node, at the levels that
// promise something, and returns a function that waits for the answers.
func (r *Run) readsOn(n *proctest.Node) func() {
	done := make(chan struct{})
	const reads = 8
	for i := range reads {
		go func() {
			defer func() { done <- struct{}{} }()
			level := client.Linearizable()
			if i%4 == 3 {
				level = client.Bounded(boundMs * time.Millisecond)
			}
			r.probe.readAt(n.URL, i%liveKeys, level)
		}()
	}
	return func() {
		for range reads {
			<-done
		}
	}
}

func (r *Run) pauseOne(p Planned)    { r.pause(p, r.one(p, r.nodes)) }
func (r *Run) pauseLeader(p Planned) { r.pause(p, r.leader()) }

// cut sets links, holds, and heals.
func (r *Run) cut(p Planned, set func()) {
	set()
	r.hold(p.Hold)
	r.network.Heal()
}

func (r *Run) isolate(p Planned, n *proctest.Node) {
	r.note("isolate %s for %v", n.ID, p.Hold)
	r.cut(p, func() {
		for _, other := range r.others(n) {
			r.network.SetBoth(n.ID, other.ID, Mode{Kind: Blackhole})
		}
	})
}

func (r *Run) isolateLeader(p Planned) { r.isolate(p, r.leader()) }
func (r *Run) isolateOne(p Planned)    { r.isolate(p, r.one(p, r.nodes)) }

// leaderDeaf: the leader is heard by all and hears nobody.
func (r *Run) leaderDeaf(p Planned) {
	leader := r.leader()
	r.note("%s hears nobody for %v", leader.ID, p.Hold)
	r.cut(p, func() {
		for _, other := range r.others(leader) {
			r.network.Set(other.ID, leader.ID, Mode{Kind: Blackhole})
		}
	})
}

// leaderMute: the leader hears all and is heard by nobody.
func (r *Run) leaderMute(p Planned) {
	leader := r.leader()
	r.note("%s is heard by nobody for %v", leader.ID, p.Hold)
	r.cut(p, func() {
		for _, other := range r.others(leader) {
			r.network.Set(leader.ID, other.ID, Mode{Kind: Blackhole})
		}
	})
}

// cutOneWay cuts one direction between two voters.
func (r *Run) cutOneWay(p Planned) {
	order := p.rng().Perm(len(r.voters))
	from, to := r.voters[order[0]].ID, r.voters[order[1]].ID
	r.note("nothing from %s to %s for %v", from, to, p.Hold)
	r.cut(p, func() { r.network.Set(from, to, Mode{Kind: Blackhole}) })
}

// ring lets each node talk to two neighbours only.
func (r *Run) ring(p Planned) {
	order, n := p.rng().Perm(len(r.nodes)), len(r.nodes)
	r.note("a ring in the order %v for %v", order, p.Hold)
	r.cut(p, func() {
		for i := range n {
			for j := range i {
				if d := i - j; d != 1 && d != n-1 {
					r.network.SetBoth(r.nodes[order[i]].ID, r.nodes[order[j]].ID, Mode{Kind: Blackhole})
				}
			}
		}
	})
}

// slowLinks delays all links of one node, or of all.
func (r *Run) slowLinks(p Planned) {
	slow := Mode{Kind: Delay, Delay: 200 * time.Millisecond, Jitter: 100 * time.Millisecond}
	who := r.one(p, r.nodes)
	all := p.Pick%3 == 0
	r.note("links of %s (all: %v) have %v for %v", who.ID, all, slow, p.Hold)
	r.cut(p, func() {
		for _, a := range r.nodes {
			for _, b := range r.others(a) {
				if all || a == who || b == who {
					r.network.Set(a.ID, b.ID, slow)
				}
			}
		}
	})
}

// narrowLink leaves a node little bandwidth from the leader.
func (r *Run) narrowLink(p Planned) {
	leader := r.leader()
	to := r.one(p, r.others(leader))
	narrow := Mode{Kind: Bandwidth, BytesPerSecond: 32 << 10}
	r.note("%s to %s has %v for %v", leader.ID, to.ID, narrow, p.Hold)
	r.cut(p, func() { r.network.Set(leader.ID, to.ID, narrow) })
}

// lateInstall leaves a node behind until it needs a snapshot, and then so
// little bandwidth that the leader gives up again and again. When the link is
// healed, all that was sent arrives, the old beside the new.
func (r *Run) lateInstall(p Planned) {
	leader := r.leader()
	to := r.one(p, r.others(leader))
	const behind = 1500 * time.Millisecond
	narrow := Mode{Kind: Bandwidth, BytesPerSecond: 64 << 10}
	r.note("%s hears nothing from %s for %v, then has %v for %v", to.ID, leader.ID, behind, narrow, p.Hold)
	r.cut(p, func() {
		r.network.Set(leader.ID, to.ID, Mode{Kind: Blackhole})
		r.hold(behind)
		r.network.Set(leader.ID, to.ID, narrow)
	})
}

// resetLinks ends all connections of a node and refuses new ones.
func (r *Run) resetLinks(p Planned) {
	n := r.one(p, r.nodes)
	r.note("connections of %s are reset for %v", n.ID, p.Hold)
	r.cut(p, func() {
		for _, other := range r.others(n) {
			r.network.SetBoth(n.ID, other.ID, Mode{Kind: Reset})
		}
	})
}

// adminWait bounds one administrative call.
const adminWait = 10 * time.Second

func (r *Run) transferLeader(p Planned) {
	r.handOver()
	r.hold(p.Hold)
}

// sigterm stops a node as an operator does.
func (r *Run) sigterm(p Planned) {
	n := r.one(p, r.mortals())
	if p.Pick%2 == 0 {
		n = r.mortal(r.leader())
	}
	r.note("SIGTERM to %s", n.ID)
	n.Signal(syscall.SIGTERM)
	if err := n.Wait(); err != nil {
		r.violate("process", "", "%s did not stop cleanly: %v", n.ID, err)
	}
	r.compareLog(n)
	r.hold(p.Hold)
	r.start(n)
}

// wipe takes a node's data away. It comes back as a new node of the same name.
func (r *Run) wipe(p Planned) {
	n := r.one(p, r.mortals())
	r.note("kill and wipe %s", n.ID)
	n.Kill()
	r.compareLog(n)
	n.Wipe()
	r.hold(p.Hold)
	r.start(n)
}

// replaceMember removes a member and takes a new node in, in its place.
func (r *Run) replaceMember(p Planned) {
	n := r.one(p, r.mortals())
	r.note("remove %s and add it again, empty", n.ID)
	if err := r.remove(n); err != nil {
		r.note("remove %s: %v", n.ID, err) // it comes back as a wiped node
	}
	r.hold(p.Hold)
	n.Kill()
	r.compareLog(n)
	n.Wipe()
	r.start(n)
}

// remove takes a member out of the cluster.
func (r *Run) remove(n *proctest.Node) (err error) {
	const tries = 5
	for range tries {
		ctx, cancel := context.WithTimeout(context.Background(), adminWait)
		_, err = r.admin.RemoveMember(ctx, n.ID)
		cancel()
		if err == nil || client.IsNotFound(err) {
			return nil
		}
	}
	return err
}

// addMember adds a fourth voter, kills or pauses somebody, and removes the new
// one again, which may lead by then.
func (r *Run) addMember(p Planned) {
	r.note("add %s", r.extra.ID)
	r.start(r.extra)
	if err := r.waitVoter(r.extra.ID); err != nil {
		r.violate("progress", "", "%s was added %v ago: %v", r.extra.ID, wholeWait, err)
	}
	if p.Pick%3 == 0 {
		r.handOver()
	}
	r.hold(p.Hold)
	r.note("remove %s", r.extra.ID)
	if err := r.remove(r.extra); err != nil {
		r.violate("progress", "", "%s can't be removed: %v", r.extra.ID, err)
	}
	if !r.extra.Running() {
		r.endedByItself(r.extra)
	} else {
		r.extra.Kill()
	}
	r.compareLog(r.extra)
	r.extra.Wipe()
}

// waitVoter waits until a node has a vote.
func (r *Run) waitVoter(id string) (err error) {
	for deadline := time.Now().Add(wholeWait); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		status, _, e := r.admin.Status(ctx)
		cancel()
		if err = e; err != nil {
			continue
		}
		err = errors.New("it is no member")
		for _, n := range status.Nodes {
			switch {
			case n.ID != id:
			case n.Voter:
				return nil
			default:
				err = fmt.Errorf("it has no vote: reachable %v, lag %d", n.Reachable, n.Lag)
			}
		}
	}
	return err
}

// snapshotNow makes all nodes take a snapshot at once.
func (r *Run) snapshotNow(p Planned) {
	ctx, cancel := context.WithTimeout(context.Background(), adminWait)
	defer cancel()
	for _, n := range r.nodes {
		if _, _, err := r.admin.Snapshot(ctx, n.URL); err != nil {
			r.note("snapshot of %s: %v", n.ID, err)
		}
	}
	r.hold(p.Hold)
}
