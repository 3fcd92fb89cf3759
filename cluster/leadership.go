package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/failpoint"
)

// leadCheck is how often the role is read again when no event comes.
const leadCheck = 200 * time.Millisecond

// lead follows the role of this node and runs, for each term that it leads,
// one goroutine with the leader's duties.
//
// LeaderCh is only an alarm: it has one slot and drops transitions, so state
// and term are read again at each event, and from time to time. (NotifyCh
// would block Raft's main loop.)
func (n *Node) lead(ctx context.Context) {
	r := n.raft.Load()
	t := time.NewTicker(leadCheck)
	defer t.Stop()
	var term uint64 // that the duties run for; 0 = none
	stop, done := func() {}, make(chan struct{})
	close(done)
	defer func() { stop(); <-done }()
	for {
		// The term first: if the role is lost and won again in between, the
		// duties start for the old term, end at once, and start again.
		now := r.CurrentTerm()
		if r.State() != raft.Leader {
			now = 0
		}
		if now != term {
			stop()
			<-done
			stop, term = func() {}, now
			if now != 0 {
				n.met.becameLeader()
				n.log.Info("leading", "term", now)
				stop, done = n.startDuties(ctx, now)
			} else {
				n.log.Info("not leading any more", "term", r.CurrentTerm())
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.LeaderCh():
		case <-t.C:
		}
	}
}

func (n *Node) startDuties(ctx context.Context, term uint64) (context.CancelFunc, chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.duties(ctx, term)
	}()
	return cancel, done
}

// duties are the leader's: name the cluster, prove the term, keep the clock
// going, keep the members' rows right, give votes to those who earned them.
func (n *Node) duties(ctx context.Context, term uint64) {
	const beat = 500 * time.Millisecond
	t := time.NewTicker(beat)
	defer t.Stop()
	var ticked time.Time
	promote := newPromotions()
	for {
		if n.p.StateMachine.ClusterID() == "" {
			n.system(ctx, "name the cluster", &command.Command{Op: &command.Command_InitCluster{
				InitCluster: &command.InitCluster{ClusterId: n.identity.clusterID()}}})
		}
		if n.p.StateMachine.TickTerm() != term || time.Since(ticked) >= n.o.TickInterval {
			if n.tick(ctx, term) {
				ticked = time.Now()
			}
		}
		n.keepOwnAddress(ctx)
		n.keepOwnRow(ctx)
		n.promoteReady(ctx, promote)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// tick proposes a Tick of the term.
func (n *Node) tick(ctx context.Context, term uint64) bool {
	failpoint.Hit(failpoint.TickBefore)
	ok := n.system(ctx, "tick", &command.Command{Op: &command.Command_Tick{
		Tick: &command.Tick{NodeId: n.o.NodeID, Term: term}}})
	failpoint.Hit(failpoint.TickAfter)
	return ok
}

// system proposes a command of the node's own, and logs a failure: the caller
// is a loop that will try again.
func (n *Node) system(ctx context.Context, what string, c *command.Command) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*n.o.ElectionTimeout)
	defer cancel()
	_, err := n.propose(ctx, c, true)
	if err != nil && !errors.Is(err, context.Canceled) {
		n.log.Debug("system command failed", "what", what, "error", err)
	}
	return err == nil
}

// keepOwnRow makes the replicated row of this node say what is true now.
func (n *Node) keepOwnRow(ctx context.Context) {
	own := n.ownMember()
	if !sameMember(n.memberRow(own.GetNodeId()), own) {
		n.system(ctx, "record own address", setMember(own))
	}
}

// keepOwnAddress makes Raft's configuration say where this leader is. A follower
// announces a new address to its leader; the leader has nobody to tell, and the
// only node of a cluster is always the leader.
func (n *Node) keepOwnAddress(ctx context.Context) {
	r := n.raft.Load()
	s, ok := findServer(r, n.o.NodeID)
	if !ok || s.Suffrage != raft.Voter || string(s.Address) == n.mux.addr() || n.leaderReady(r) != nil {
		return
	}
	c := r.GetConfiguration()
	err := freeAddress(c, fromRow(n.ownMember()))
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 2*n.o.ElectionTimeout)
		defer cancel()
		err = wait(ctx, r.AddVoter(s.ID, raft.ServerAddress(n.mux.addr()), c.Index(), enqueueTimeout))
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		n.log.Warn("the new address of this node is not in the configuration yet", "address", n.mux.addr(), "error", err)
	}
}

// handOver gives the leadership to another voter, on the way out. Whatever
// comes of it, the process goes on to end: a transfer that fails may leave
// the library refusing writes (hashicorp/raft #696), and here that is harmless.
func (n *Node) handOver(ctx context.Context) {
	r := n.raft.Load()
	if r == nil || r.State() != raft.Leader || n.otherVoters(r) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.o.ElectionTimeout+time.Second)
	defer cancel()
	failpoint.Hit(failpoint.HandOverBefore)
	if err := n.transfer(ctx, r, ""); err != nil {
		n.log.Warn("the leadership was not handed over; the others will elect a leader", "error", err)
	}
	failpoint.Hit(failpoint.HandOverAfter)
}

func (n *Node) otherVoters(r *raft.Raft) int {
	count := 0
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && string(s.ID) != n.o.NodeID {
			count++
		}
	}
	return count
}
