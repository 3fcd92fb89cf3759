package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/storage/mutant"
)

const (
	// retryRead is how long a read waits before it asks again for a leader.
	retryRead = 25 * time.Millisecond
	// maxPolls bounds the polls whose index is not applied yet.
	maxPolls = 64
)

// ReadIndex is the gate of every read: it returns when this node may answer
// at the consistency asked for; the read must then be made from a state that
// has applied at least the stamp's index.
//
// Errors: contract.ErrBehind (the wait for an index ended), ErrTooStale (no
// state was new enough in time), ErrNoLeader, ErrNotReady, ErrShutdown, each
// wrapped with what happened.
func (n *Node) ReadIndex(ctx context.Context, c contract.Consistency) (contract.ReadStamp, error) {
	start := time.Now()
	ctx, cancel := withTimeout(ctx, n.o.ReadTimeout)
	defer cancel()
	if c.Level == "" {
		c.Level = contract.Local
	}
	stamp, err := n.readIndex(ctx, c)
	n.met.read(c.Level, time.Since(start), err)
	return stamp, err
}

func (n *Node) readIndex(ctx context.Context, c contract.Consistency) (contract.ReadStamp, error) {
	sm := n.p.StateMachine
	if n.isClosing() {
		return contract.ReadStamp{}, contract.ErrShutdown
	}
	if err := n.Diverged(); err != nil {
		return contract.ReadStamp{}, err
	}
	if sm.ClusterID() == "" {
		// An empty state would answer "not found" to everything.
		return contract.ReadStamp{}, fmt.Errorf("%w: it has no data of the cluster yet", contract.ErrNotReady)
	}
	if c.Level == contract.Bounded || c.Level == contract.Linearizable {
		// What these promise is of the cluster, and this node can't speak for it.
		if n.removed.Load() {
			return contract.ReadStamp{}, errRemoved
		}
		if err := n.estranged(); err != nil {
			return contract.ReadStamp{}, err
		}
	}
	switch c.Level {
	case contract.Local:
		index, _ := sm.Applied()
		return contract.ReadStamp{Index: index}, nil
	case contract.Session:
		if mutant.On(mutant.SessionUnwaited) {
			return contract.ReadStamp{}, nil
		}
		return contract.ReadStamp{Index: c.MinIndex}, n.waitApplied(ctx, c.MinIndex)
	case contract.Bounded:
		return n.reads.bounded(ctx, c.MaxStaleness)
	case contract.Linearizable:
		return n.reads.linearizable(ctx)
	}
	return contract.ReadStamp{}, fmt.Errorf("cluster: unknown consistency level %q", c.Level)
}

func (n *Node) waitApplied(ctx context.Context, index uint64) error {
	if err := n.p.StateMachine.WaitApplied(ctx, index); err != nil {
		applied, _ := n.p.StateMachine.Applied()
		return fmt.Errorf("%w: %d is asked for, %d is applied: %w", contract.ErrBehind, index, applied, err)
	}
	return nil
}

// round is one question "what is committed, and are you still the leader?",
// shared by all readers that arrived before it started (Invariant R1: a
// reader never takes the answer of a round that started before the reader came).
type round struct {
	readers int
	done    chan struct{} // closed once the fields below are set

	sent        time.Time
	index, term uint64
	quorum      bool // answered by a quorum round of this node
	err         error
}

// poll is a round that succeeded.
type poll struct {
	sent        time.Time
	index, term uint64
}

// readGate runs the rounds, one at a time: while one runs, the next collects
// readers, so their number never changes the number of messages.
type readGate struct {
	n    *Node
	wake chan struct{}

	mu     sync.Mutex // guards what follows, but not quorum
	next   *round     // not started; nil if nobody waits
	closed bool
	polls  []poll // whose index is not applied yet, oldest first
	newest poll   // the newest whose index is applied
	rounds uint64 // asked since the start

	quorum quorum
}

func newReadGate(n *Node) *readGate {
	return &readGate{n: n, wake: make(chan struct{}, 1), quorum: quorum{probes: map[raft.ServerID]*probe{}}}
}

// run executes the rounds, and starts one by itself every PollInterval, for
// bounded reads and for Ready.
func (g *readGate) run(ctx context.Context) {
	t := time.NewTicker(g.n.o.PollInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			g.mu.Lock()
			r := g.next
			g.next, g.closed = nil, true
			g.mu.Unlock()
			if r != nil {
				r.err = contract.ErrShutdown
				close(r.done)
			}
			return
		case <-g.wake:
		case <-t.C:
			_, _ = g.enter(0)
		}
		g.mu.Lock()
		r := g.next
		if !mutant.On(mutant.RoundJoinedLate) {
			g.next = nil // from here on, who comes joins the next one
		}
		if r != nil {
			g.rounds++
		}
		g.mu.Unlock()
		if r != nil {
			g.ask(ctx, r)
			if mutant.On(mutant.RoundJoinedLate) {
				g.closeDoor()
			}
			close(r.done)
		}
	}
}

// enter returns the round that has not started yet.
func (g *readGate) enter(readers int) (*round, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, contract.ErrShutdown
	}
	if g.next == nil {
		g.next = &round{done: make(chan struct{})}
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
	g.next.readers += readers
	return g.next, nil
}

// join waits for a round that starts after this call.
func (g *readGate) join(ctx context.Context) (*round, error) {
	r, err := g.enter(1)
	if err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		return r, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask runs one round. A round that took longer than a heartbeat timeout is
// thrown away: its process was paused, and an answer this old helps nobody.
func (g *readGate) ask(ctx context.Context, r *round) {
	limit := g.n.o.HeartbeatTimeout
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r.sent = time.Now()
	rf := g.n.raft.Load()
	kind := "leader"
	switch {
	case rf == nil:
		r.err = g.n.notRunning()
		return
	case rf.State() == raft.Leader:
		kind, r.quorum = "quorum", true
		r.index, r.term, r.err = g.n.quorumIndex(ctx, rf)
	default:
		r.index, r.term, r.err = g.n.leaderIndex(ctx, rf)
	}
	took := time.Since(r.sent)
	if r.err == nil && took > limit {
		r.err = fmt.Errorf("%w: a round took %v", contract.ErrNotReady, took)
	}
	g.n.met.round(kind, r.readers, took, r.err)
	if r.err == nil {
		g.record(poll{sent: r.sent, index: r.index, term: r.term})
	}
}

// record keeps a poll until its index is applied. If this node is far behind,
// polls in the middle are dropped: the oldest is applied first, the newest
// says most.
func (g *readGate) record(p poll) {
	g.mu.Lock()
	if len(g.polls) >= maxPolls {
		g.polls = append(g.polls[:maxPolls/2], g.polls[maxPolls/2+1:]...)
	}
	g.polls = append(g.polls, p)
	g.mu.Unlock()
	g.freshest()
}

// freshest returns the newest poll whose index is applied here: what this
// node shows now is not older than its send time, on this node's own clock.
func (g *readGate) freshest() (poll, bool) {
	applied, _ := g.n.p.StateMachine.Applied()
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.polls) > 0 && g.polls[0].index <= applied {
		g.newest = g.polls[0]
		g.polls = g.polls[1:]
		g.n.caughtUp.Store(true)
	}
	return g.newest, !g.newest.sent.IsZero()
}

// staleness is for the metrics; -1 = unknown.
func (g *readGate) staleness() float64 {
	p, ok := g.freshest()
	if !ok {
		return -1
	}
	return time.Since(p.sent).Seconds()
}

// mayAsk refuses what needs the leader's word while it could not be kept.
func (g *readGate) mayAsk() error {
	if g.n.p.StateMachine.Restoring() {
		return fmt.Errorf("%w: it installs a snapshot from the leader", contract.ErrNotReady)
	}
	if g.n.removed.Load() {
		return errRemoved
	}
	return nil
}

// linearizable asks until it has an answer or the deadline passes: an
// election in between delays the read and does not fail it.
func (g *readGate) linearizable(ctx context.Context) (contract.ReadStamp, error) {
	for {
		if err := g.mayAsk(); err != nil {
			return contract.ReadStamp{}, err
		}
		r, err := g.join(ctx)
		if err == nil {
			return contract.ReadStamp{Index: r.index, Term: r.term}, g.n.waitApplied(ctx, r.index)
		}
		if err := g.again(ctx, err); err != nil {
			return contract.ReadStamp{}, err
		}
	}
}

// again waits before a round is tried again, or returns what to answer.
func (g *readGate) again(ctx context.Context, cause error) error {
	if errors.Is(cause, contract.ErrShutdown) {
		return cause
	}
	select {
	case <-ctx.Done():
		if !errors.Is(cause, contract.ErrNoLeader) && !errors.Is(cause, contract.ErrNotReady) {
			cause = fmt.Errorf("%w: %w", contract.ErrNoLeader, cause)
		}
		return cause
	case <-time.After(retryRead):
		return nil
	}
}

// bounded returns when what this node shows was the newest at most staleness ago.
func (g *readGate) bounded(ctx context.Context, staleness time.Duration) (contract.ReadStamp, error) {
	var cause error
	for {
		if err := g.mayAsk(); err != nil {
			return contract.ReadStamp{}, err
		}
		if p, ok := g.freshest(); ok && time.Since(p.sent) <= staleness {
			return contract.ReadStamp{Index: p.index, Term: p.term}, nil
		}
		r, err := g.join(ctx)
		if err == nil {
			err = g.n.waitApplied(ctx, r.index)
		}
		if err != nil {
			cause = err
			if err := g.again(ctx, err); err != nil {
				return contract.ReadStamp{}, fmt.Errorf("%w: %w", contract.ErrTooStale, err)
			}
			continue
		}
		// The answer came, and its index is applied; if that took longer than
		// the read allows, only a faster try will do.
		if p, _ := g.freshest(); time.Since(p.sent) <= staleness {
			return contract.ReadStamp{Index: p.index, Term: p.term}, nil
		}
		if err := g.again(ctx, contract.ErrTooStale); err != nil {
			return contract.ReadStamp{}, fmt.Errorf("%w: %w", contract.ErrTooStale, errors.Join(cause, ctx.Err()))
		}
	}
}

// leaderIndex asks the leader for its verified commit index.
func (n *Node) leaderIndex(ctx context.Context, r *raft.Raft) (index, term uint64, err error) {
	addr, id := r.LeaderWithID()
	if id == "" || string(id) == n.o.NodeID {
		return 0, 0, contract.ErrNoLeader
	}
	var resp readIndexResponse
	if err := n.peers.call(ctx, string(addr), string(id), routeReadIndex, &empty{}, &resp); err != nil {
		return 0, 0, fromPeer(err)
	}
	return resp.Index, resp.Term, nil
}

// quorumIndex returns the commit index of a leader that is proved to be one:
//
//  1. a Tick of this term is applied: the commit index covers all that
//     earlier leaders acknowledged (Raft dissertation 6.4);
//  2. the commit index is read;
//  3. after that, a majority of the voters say that they are in this term:
//     so none of them had helped to elect another leader when the round began;
//  4. this node is still leader of the same term.
//
// The library's VerifyLeader does not do: it counts non-voters, and takes
// answers to heartbeats that were sent before it was called.
func (n *Node) quorumIndex(ctx context.Context, r *raft.Raft) (index, term uint64, err error) {
	term = r.CurrentTerm()
	if n.p.StateMachine.TickTerm() != term && !mutant.On(mutant.ReadBeforeTick) {
		return 0, 0, fmt.Errorf("%w: the new leader catches up", contract.ErrNotReady)
	}
	index = r.CommitIndex()
	if err := n.reads.quorum.verify(ctx, n, r, term); err != nil {
		return 0, 0, err
	}
	if (r.State() != raft.Leader || r.CurrentTerm() != term) && !mutant.On(mutant.RoleUnchecked) {
		return 0, 0, contract.ErrNoLeader
	}
	return index, term, nil
}

// quorum asks the voters. For each voter there is at most one call on its way
// at a time: a voter that hangs costs one goroutine, not one a round.
type quorum struct {
	mu     sync.Mutex // guards all below
	id     uint64     // of the running round
	need   int        // answers still missing
	term   uint64
	open   map[raft.ServerID]struct{} // voters that have not answered this round
	result chan error                 // buffered: the outcome of this round
	probes map[raft.ServerID]*probe
}

// probe is the goroutine that talks to one voter.
type probe struct {
	busy   bool
	wanted uint64 // the newest round that wants an answer
}

// verify returns nil once a majority of voters, this node among them,
// answered calls that were sent after verify began.
func (q *quorum) verify(ctx context.Context, n *Node, r *raft.Raft, term uint64) error {
	if mutant.On(mutant.QuorumOff) || mutant.On(mutant.QuorumByLibrary) {
		return verifyBroken(r)
	}
	servers := r.GetConfiguration().Configuration().Servers
	q.mu.Lock()
	q.id++
	q.term, q.open, q.result = term, map[raft.ServerID]struct{}{}, make(chan error, 1)
	voters, self := 0, 0
	for _, s := range servers {
		switch {
		case s.Suffrage != raft.Voter:
		case string(s.ID) == n.o.NodeID:
			voters, self = voters+1, 1
		default:
			voters++
			q.open[s.ID] = struct{}{}
		}
	}
	if q.need = voters/2 + 1 - self; q.need <= 0 {
		q.mu.Unlock()
		return nil
	}
	for _, s := range servers {
		if _, ok := q.open[s.ID]; ok {
			q.startLocked(n, s)
		}
	}
	result := q.result
	q.mu.Unlock()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: no quorum answered: %w", contract.ErrNoLeader, ctx.Err())
	}
}

// startLocked makes sure that the voter gets a call sent after now. It is
// called on the gate's goroutine, which n.wg counts, so that Add is safe.
func (q *quorum) startLocked(n *Node, s raft.Server) {
	p := q.probes[s.ID]
	if p == nil {
		p = &probe{}
		q.probes[s.ID] = p
	}
	p.wanted = q.id
	if p.busy {
		return // it looks at wanted again when its call ends
	}
	p.busy = true
	n.goRun(func(ctx context.Context) { q.talk(ctx, n, s, p) })
}

// talk calls one voter until no round wants more of it.
func (q *quorum) talk(ctx context.Context, n *Node, s raft.Server, p *probe) {
	for {
		q.mu.Lock()
		id, term := p.wanted, q.term
		q.mu.Unlock()
		call, cancel := context.WithTimeout(ctx, n.o.HeartbeatTimeout)
		var resp verifyResponse
		err := n.peers.call(call, string(s.Address), string(s.ID), routeVerify, &verifyRequest{Term: term}, &resp)
		cancel()
		q.mu.Lock()
		q.answerLocked(id, s.ID, (resp.InTerm || mutant.On(mutant.QuorumAnyTerm)) && err == nil)
		if p.wanted == id || ctx.Err() != nil {
			p.busy = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
	}
}

// answerLocked counts an answer, if it is to the running round.
func (q *quorum) answerLocked(id uint64, voter raft.ServerID, yes bool) {
	if _, ok := q.open[voter]; !ok || id != q.id {
		return
	}
	delete(q.open, voter)
	if yes {
		q.need--
	}
	switch {
	case q.need == 0:
		q.result <- nil
		q.need = -1
	case q.need > len(q.open):
		q.result <- fmt.Errorf("%w: a quorum of voters did not confirm term %d", contract.ErrNoLeader, q.term)
		q.need = -1
	}
}
