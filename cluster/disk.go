package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// What a node does when its disk fills up: see DESIGN.md, "A full disk".

const (
	// diskBeat is how often a node looks at what its disk means for its role.
	diskBeat = 500 * time.Millisecond
	// slowTimers times its timers is what a follower with a low disk waits
	// before it stands for election, so that others do first.
	slowTimers = 3
	// A leader with a low disk hands over at once, and if it is elected again
	// after firstHandOverWait times the election timeout, then twice that, and so
	// on up to the longest. A disk that is well again starts anew.
	firstHandOverWait   = 10
	longestHandOverWait = 5 * time.Minute
)

// errNoSpace is what a node answers to entries for which its disk has no room.
// Raft's transport carries the text only.
var errNoSpace = errors.New("cluster: the data disk of this node has no room for entries")

func isNoSpace(err error) bool {
	return err != nil && strings.Contains(err.Error(), errNoSpace.Error())
}

// outOfSpace says whether writes of this node wait for space now.
func (n *Node) outOfSpace() bool { return n.p.OutOfSpace != nil && n.p.OutOfSpace() }

// takesEntries says whether a request of a leader may go to Raft. Entries for
// which there is no room are refused here and not by the log store, because
// Raft's idea of its last entry is wrong after a failed append; all that has no
// entries passes, so that this node knows its leader and stands for no election.
func (n *Node) takesEntries(rpc raft.RPC) bool {
	a, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || len(a.Entries) == 0 {
		return true
	}
	n.atSnapshot(a)
	var bytes uint64
	for _, e := range a.Entries {
		bytes += entrySize(e)
	}
	if n.gates.roomFor(int64(bytes)) {
		return true
	}
	n.met.appendRefused()
	rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, errNoSpace)
	return false
}

// hasRoom asks a node whether it takes entries again.
func (n *Node) hasRoom(id raft.ServerID, addr raft.ServerAddress) bool {
	s := raft.Server{ID: id, Address: addr}
	p, ok := n.progressOf(n.ctx(), []raft.Server{s})[id]
	return ok && !p.DiskFull
}

// keepDisk draws the consequences of low disks, as follower and as leader.
func (n *Node) keepDisk(ctx context.Context) {
	t := time.NewTicker(diskBeat)
	defer t.Stop()
	d := &handOvers{n: n}
	slow := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		r := n.raft.Load()
		leads := r.State() == raft.Leader
		low := n.gates.low()
		if want := low && !leads; want != slow {
			if err := n.slowDown(r, want); err != nil {
				n.log.Warn("could not change the timers", "error", err)
			} else {
				slow = want
			}
		}
		if leads {
			d.beat(ctx, r, n.gates.tight(true), time.Now())
		} else {
			n.gates.setVoters(false, false)
			n.gates.tight(true) // what it refused as leader is not for ever
		}
	}
}

// slowDown makes a follower with a low disk stand for election after all
// others. It may still win, if nobody else can.
func (n *Node) slowDown(r *raft.Raft, on bool) error {
	factor := time.Duration(1)
	if on {
		factor = slowTimers
	}
	return n.reload(r, func(c *raft.ReloadableConfig) {
		c.HeartbeatTimeout, c.ElectionTimeout = factor*n.o.HeartbeatTimeout, factor*n.o.ElectionTimeout
	})
}

// reload changes Raft's configuration; three have a reason to.
func (n *Node) reload(r *raft.Raft, change func(*raft.ReloadableConfig)) error {
	n.reloadMu.Lock()
	defer n.reloadMu.Unlock()
	c := r.ReloadableConfig()
	change(&c)
	return r.ReloadConfig(c)
}

// handOvers is what a leader remembers of low disks: its own and the voters'.
type handOvers struct {
	n    *Node
	next time.Time     // not before
	wait time.Duration // after the next one
	said bool          // that nobody else can lead
}

// beat asks the voters for the state of their disks, tells the gates, and
// hands the leadership to one with space if this node has little.
func (d *handOvers) beat(ctx context.Context, r *raft.Raft, tight bool, now time.Time) {
	n := d.n
	var others []raft.Server
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && string(s.ID) != n.o.NodeID {
			others = append(others, s)
		}
	}
	commit := r.CommitIndex()
	progress := n.progressOf(ctx, others)
	// Who does not answer has no room that a write could count on, but is no
	// reason by itself: an election settles that.
	full, room, able := 0, 0, false
	count := func(isFull bool) {
		if isFull {
			full++
		} else {
			room++
		}
	}
	for _, p := range progress {
		count(p.DiskFull)
		able = able || canLead(p, commit)
	}
	count(n.gates.full())
	voters := len(others) + 1
	n.gates.setVoters(full > 0 && room < voters/2+1, able)
	switch {
	case !tight:
		if d.said = false; now.After(d.next) {
			d.wait = 0
		}
		return
	case !able:
		if !d.said {
			n.log.Warn("the data disk is low, and no other voter that has space can lead: writes are refused")
		}
		d.said = true
		return
	case now.Before(d.next) || n.leaderReady(r) != nil:
		return
	}
	if d.wait == 0 {
		d.wait = firstHandOverWait * n.o.ElectionTimeout
	}
	d.next, d.wait, d.said = now.Add(d.wait), min(2*d.wait, longestHandOverWait), false
	n.log.Warn("the data disk is low: the leadership goes to a node with space")
	n.met.handedOver()
	ctx, cancel := context.WithTimeout(ctx, n.o.ElectionTimeout+time.Second)
	defer cancel()
	if err := n.transfer(ctx, r, ""); err != nil {
		n.log.Warn("the leadership was not handed over", "error", err)
	}
}

// canLead says whether a voter that answered so is one to hand over to.
func canLead(p progressResponse, commit uint64) bool {
	return !p.DiskLow && !p.DiskFull && !p.Restoring && !p.Diverged && p.Applied+promoteGap >= commit
}

// diskError is the text of the status while the disk is low.
func (n *Node) diskError() string {
	switch {
	case n.outOfSpace():
		return "no space left on the data disk: writes of this node wait until there is some"
	case n.gates.full():
		return "the data disk is nearly full: this node takes no entries until there is space"
	case n.gates.low():
		return "the data disk is low"
	}
	return ""
}

// The states of the disk, for others: see look.

func (g *gates) low() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.diskLow
}

// tight says whether the disk has too little for a leader: it refuses writes,
// did since the last question (ask), or nearly does. A node to which the
// leadership is to go is not even near.
func (g *gates) tight(ask bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	tight := g.diskLow || float64(g.diskLeft) < float64(g.mark)*diskHysteresis || g.diskRefused
	if ask {
		g.diskRefused = false
	}
	return tight
}

func (g *gates) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.diskFull
}

// disk is for the metrics.
func (g *gates) disk() (left, mark uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.diskLeft, g.mark
}

// roomFor says whether entries of so many bytes may be appended, and counts
// them. A part of the mark is left: see diskFullShare. With the whole mark free
// one request is taken whatever its size: Raft sends a refused one again as it
// is, so a node that is well could otherwise never catch up.
func (g *gates) roomFor(bytes int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mark == 0 {
		return true
	}
	need := g.mark/diskFullShare + diskFactor*uint64(g.appended+bytes)
	if g.appended == 0 {
		need = min(need, g.mark)
	}
	if g.diskFull || g.diskLeft < need {
		return false
	}
	g.appended += bytes
	return true
}

// setVoters tells what the leader knows of the voters' disks: that fewer than
// a quorum take entries, and that another one can lead.
func (g *gates) setVoters(noQuorum, able bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noQuorum, g.otherLeader = noQuorum, able
}

// lookAtDisk takes over what was found. g.mu is held.
func (g *gates) lookAtDisk(free, total, pending uint64) (room uint64) {
	left := free - min(free, pending)
	mark := g.diskMark(total)
	g.diskFree, g.diskLeft, g.mark = free, left, mark
	g.taken, g.appended = 0, 0
	switch {
	case left < mark:
		g.diskLow = true
	case float64(left) >= float64(mark)*diskHysteresis:
		g.diskLow = false
	}
	switch {
	case left < mark/diskFullShare:
		g.diskFull = true
	case left >= 2*mark/diskFullShare:
		g.diskFull = false
	}
	return left - min(left, 2*mark/diskFullShare)
}

// refuseForDisk says why the disks refuse a write, or "". Deletions pass as long
// as there is room for them, because they make more.
func (g *gates) refuseForDisk(weight int64, deletes bool) string {
	switch {
	case g.noQuorum:
		return "too few voters have room on their data disks: free space on them, or start those that are down"
	case g.diskFull:
		return fmt.Sprintf("the data disk has %d bytes left, too few even for deletions: free space", g.diskFree)
	case !deletes && g.diskLowLocked(weight):
		return fmt.Sprintf("the data disk has %d bytes left, of which %d are needed for what is in memory: free space, or delete data", g.diskFree, g.diskFree-g.diskLeft)
	}
	return ""
}

// diskRetry is when to try again: soon, if another node is about to lead.
func (g *gates) diskRetry() time.Duration {
	if g.otherLeader {
		return min(max(g.o.ElectionTimeout, minRetryAfter), maxRetryAfter)
	}
	return maxRetryAfter
}
