package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// The states of a proposal. It leaves "waiting" once, to one of the others,
// so that a caller that gives up learns for certain whether its command may
// still be applied.
const (
	waiting   int32 = iota // in the queue: may still be dropped
	proposed               // handed to Raft, or about to be
	abandoned              // its caller left before it was proposed: never will be
)

// ungroupedWorkers is how many entries are on their way when each has one
// command: as many as Raft itself writes at once, twice.
const ungroupedWorkers = 2 * maxAppendEntries

// proposal is one command on its way.
type proposal struct {
	encoded []byte
	key     command.ConflictKey
	weight  int64 // what the gates hold for it; 0 = exempt
	state   atomic.Int32
	done    chan struct{} // closed once result and err are set
	result  *command.Result
	err     error
	since   time.Time
}

// proposer forms entries from the commands that wait, and hands them to Raft.
//
// MaxInflightEntries workers take turns: the one that holds form takes the
// head of the queue and enqueues the entry before it lets go, so entries
// enter the log in the order of the queue; then it waits for the outcome
// while others form the next entries. No timer ever delays a command: an
// entry is what waits at the moment a worker is free.
//
// Lock order: form, then mu.
type proposer struct {
	n *Node

	form sync.Mutex // held while an entry is formed and enqueued

	mu       sync.Mutex // guards queue, closed, pending
	nonEmpty *sync.Cond
	queue    []*proposal
	closed   bool
	pending  int           // proposals without outcome, queued or proposed
	drained  chan struct{} // closed when closed and pending == 0
	started  bool

	// transferSince is when Raft first refused an entry because of a
	// leadership transfer, Unix nanoseconds; 0 = it doesn't.
	transferSince atomic.Int64
	workers       sync.WaitGroup
}

func newProposer(n *Node) *proposer {
	p := &proposer{n: n, drained: make(chan struct{})}
	p.nonEmpty = sync.NewCond(&p.mu)
	return p
}

// Propose puts a command into the log and returns what it did. Every error
// says what it means for the data (contract.Outcome): not applied
// (*contract.NotLeaderError, *contract.OverloadError, contract.ErrNoLeader,
// ErrNotReady, ErrShutdown, ErrExpired, ErrTooLarge), or unknown
// (*contract.OutcomeUnknownError): the command was proposed, and may be
// applied now or later. Giving up the wait does not take a proposed command back.
//
// Propose sets ProposedMs if it is 0; the command must not be changed after the call.
func (n *Node) Propose(ctx context.Context, c *command.Command) (*command.Result, error) {
	ctx, cancel := withTimeout(ctx, n.o.ProposeTimeout)
	defer cancel()
	res, err := n.propose(ctx, c, false)
	n.met.proposed(err)
	return res, err
}

// propose is Propose; system commands pass the gates, because the gates would
// keep the cluster from healing itself.
func (n *Node) propose(ctx context.Context, c *command.Command, system bool) (*command.Result, error) {
	if err := n.mayPropose(system); err != nil {
		return nil, err
	}
	if c.GetProposedMs() == 0 {
		c.ProposedMs = n.o.Now().UnixMilli()
	}
	encoded, err := command.Encode(c)
	if err != nil {
		return nil, fmt.Errorf("cluster: encode command: %w", err)
	}
	p := &proposal{encoded: encoded, key: c.ConflictKey(), done: make(chan struct{}), since: time.Now()}
	if len(encoded)+command.CommandOverhead+entryHeader > command.MaxEntryBytes {
		return nil, fmt.Errorf("cluster: %w: %d bytes, the limit is %d: split it", contract.ErrTooLarge, len(encoded), command.MaxEntryBytes)
	}
	if !system && !operators(c) {
		p.weight = int64(len(encoded))
		if err := n.gates.acquire(p.weight, onlyDeletes(c)); err != nil {
			return nil, err
		}
	}
	if err := n.props.enqueue(p); err != nil {
		n.gates.release(p.weight)
		return nil, err
	}
	select {
	case <-p.done:
		return p.result, p.err
	case <-ctx.Done():
	}
	if p.state.CompareAndSwap(waiting, abandoned) {
		return nil, fmt.Errorf("cluster: %w: %w", contract.ErrExpired, ctx.Err())
	}
	select {
	case <-p.done: // the outcome and the deadline came together: the outcome counts
		return p.result, p.err
	default:
	}
	return nil, &contract.OutcomeUnknownError{Cause: ctx.Err()}
}

// entryHeader is what command.NewEntry writes, at most.
const entryHeader = 8

// mayPropose refuses at once what Raft would refuse later.
func (n *Node) mayPropose(system bool) error {
	r := n.raft.Load()
	switch {
	case n.isClosing():
		return contract.ErrShutdown
	case r == nil:
		return n.notRunning()
	case !system && n.state.diverged.Load() != nil:
		return n.Diverged()
	case !system && n.removed.Load():
		return errRemoved
	case !system && n.estranged() != nil:
		return n.estranged()
	case r.State() != raft.Leader:
		return n.notLeader()
	case !system && n.p.StateMachine.ClusterID() == "":
		// The first entry of a cluster is its name.
		return fmt.Errorf("%w: the cluster is being formed", contract.ErrNotReady)
	}
	return nil
}

// notLeader is the error of a write on a node that does not lead.
func (n *Node) notLeader() error {
	info := n.Leader()
	if info.ID == "" || info.Self {
		return contract.ErrNoLeader
	}
	return &contract.NotLeaderError{Leader: info}
}

func (p *proposer) enqueue(pr *proposal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return contract.ErrShutdown
	}
	p.queue = append(p.queue, pr)
	p.pending++
	p.nonEmpty.Signal()
	return nil
}

// start starts the workers.
func (p *proposer) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started || p.closed {
		return
	}
	p.started = true
	workers := p.n.o.MaxInflightEntries
	if !p.n.o.GroupCommit {
		workers = ungroupedWorkers
	}
	for range workers {
		p.workers.Add(1)
		go p.work()
	}
}

// close refuses new proposals, and those that wait. Idempotent.
func (p *proposer) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	queue := p.queue
	p.queue = nil
	if p.pending == 0 {
		close(p.drained)
	}
	p.nonEmpty.Broadcast()
	p.mu.Unlock()
	for _, pr := range queue {
		if pr.state.CompareAndSwap(waiting, abandoned) {
			pr.err = contract.ErrShutdown
		}
		p.finish(pr)
	}
}

// idle is closed once the proposer is closed and every proposal has its outcome.
func (p *proposer) idle() <-chan struct{} { return p.drained }

// wait returns when the workers are gone. Raft must have been stopped: its
// futures end with it.
func (p *proposer) wait() { p.workers.Wait() }

// finish gives back what the gates hold, and wakes the caller.
func (p *proposer) finish(pr *proposal) {
	p.n.gates.release(pr.weight)
	close(pr.done)
	p.mu.Lock()
	p.pending--
	if p.closed && p.pending == 0 {
		close(p.drained)
	}
	p.mu.Unlock()
}

// depth is for the metrics.
func (p *proposer) depth() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// work forms one entry after the other until the proposer is closed.
func (p *proposer) work() {
	defer p.workers.Done()
	for {
		entry, batch, future := p.next()
		if batch == nil {
			return
		}
		start := time.Now()
		err := future.Error() // ends with the entry's outcome, the loss of the leadership, or Raft
		p.n.met.entry(len(batch), len(entry), time.Since(start))
		p.noteTransfer(err)
		if err != nil {
			err = p.classify(err)
			for _, pr := range batch {
				pr.err = err
				p.finish(pr)
			}
			continue
		}
		failpoint.Hit(failpoint.ProposeAnswer)
		results, ok := future.Response().([]*command.Result)
		if mutant.On(mutant.ResultsMixed) {
			slices.Reverse(results)
		}
		for i, pr := range batch {
			if ok && len(results) == len(batch) {
				pr.result = results[i]
			} else {
				// Never: the state machine answers each command. Committed, and
				// nobody knows what it did.
				pr.err = &contract.OutcomeUnknownError{Cause: fmt.Errorf("cluster: the state machine gave %d results for %d commands", len(results), len(batch))}
			}
			p.finish(pr)
		}
	}
}

// next waits for commands, forms an entry and enqueues it. It returns nil
// when the proposer is closed.
func (p *proposer) next() ([]byte, []*proposal, raft.ApplyFuture) {
	p.form.Lock()
	defer p.form.Unlock()
	for {
		batch := p.take()
		if batch == nil {
			return nil, nil, nil
		}
		if len(batch) == 0 {
			continue // all that waited had been abandoned
		}
		size := entryHeader
		for _, pr := range batch {
			size += len(pr.encoded) + command.CommandOverhead
		}
		entry := command.NewEntry(size)
		for _, pr := range batch {
			entry = command.AppendCommand(entry, pr.encoded)
			pr.encoded = nil
		}
		failpoint.Hit(failpoint.ProposeBefore)
		return entry, batch, p.n.raft.Load().Apply(entry, enqueueTimeout)
	}
}

// take removes from the head of the queue what makes the next entry: in
// order, up to the limits, and never two commands that may change the same
// document (Invariant G2). It waits until something is there; nil = closed.
// A batch may be empty.
func (p *proposer) take() []*proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) == 0 {
		if p.closed {
			return nil
		}
		p.nonEmpty.Wait()
	}
	limit := p.n.o.MaxEntryCommands
	if !p.n.o.GroupCommit {
		limit = 1
	}
	batch, keys := []*proposal{}, map[command.ConflictKey]struct{}{}
	size, taken := entryHeader, 0
	for _, pr := range p.queue {
		if len(batch) >= limit {
			break
		}
		size += len(pr.encoded) + command.CommandOverhead
		if len(batch) > 0 && (size > command.MaxEntryBytes || pr.key == command.Whole) {
			break
		}
		if _, conflict := keys[pr.key]; conflict && pr.key != 0 {
			break
		}
		taken++
		if !pr.state.CompareAndSwap(waiting, proposed) {
			size -= len(pr.encoded) + command.CommandOverhead
			p.dropLocked(pr)
			continue
		}
		keys[pr.key] = struct{}{}
		batch = append(batch, pr)
		if pr.key == command.Whole {
			break
		}
	}
	clear(p.queue[:taken]) // so that the array doesn't keep them alive
	if p.queue = p.queue[taken:]; len(p.queue) == 0 {
		p.queue = nil
	}
	return batch
}

// dropLocked ends a proposal whose caller left. p.mu is held.
func (p *proposer) dropLocked(pr *proposal) {
	p.n.gates.release(pr.weight)
	pr.err = contract.ErrExpired
	close(pr.done)
	if p.pending--; p.closed && p.pending == 0 {
		close(p.drained)
	}
}

// classify says what an error of Raft means for the data. The library's
// Apply comment is the source; what is not surely refused is unknown.
func (p *proposer) classify(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return p.n.notLeader()
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return &contract.OverloadError{Reason: contract.QueueFull, RetryAfter: enqueueTimeout, Detail: "raft takes no entries now: its log is slow"}
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%w: the leadership is being transferred", contract.ErrNoLeader)
	}
	if mutant.On(mutant.UnknownDenied) {
		return contract.ErrNoLeader
	}
	// ErrLeadershipLost, ErrRaftShutdown (which doesn't say whether the entry
	// had been taken), ErrAbortedByRestore, errors of the log.
	return &contract.OutcomeUnknownError{Cause: err}
}

// operators says whether a command is one by which an operator ends an
// overload. It is small and rare, and passes the gates: it must not have to
// wait for what it is to end.
func operators(c *command.Command) bool {
	_, limits := c.GetOp().(*command.Command_SetLimits)
	return limits
}

// onlyDeletes says whether a command can only free space: such pass the disk gate.
func onlyDeletes(c *command.Command) bool {
	switch op := c.GetOp().(type) {
	case *command.Command_Mutation:
		return deletes(op.Mutation)
	case *command.Command_Batch:
		for _, m := range op.Batch.GetMutations() {
			if !deletes(m) {
				return false
			}
		}
		return true
	}
	return false
}

func deletes(m *command.Mutation) bool {
	switch m.GetOp().(type) {
	case *command.Mutation_DeleteCollection, *command.Mutation_DeleteDocument,
		*command.Mutation_DeleteSnippet, *command.Mutation_DeleteOwner:
		return true
	}
	return false
}

// noteTransfer remembers since when Raft refuses entries because of a
// leadership transfer.
func (p *proposer) noteTransfer(err error) {
	if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		p.transferSince.CompareAndSwap(0, time.Now().UnixNano())
		return
	}
	p.transferSince.Store(0)
}

// watchTransfer ends the process when a leader refuses entries for ever
// because of a transfer that failed (hashicorp/raft #696: the flag is never
// reset). The leader's Tick shows it when clients don't.
func (p *proposer) watchTransfer(ctx context.Context) {
	t := time.NewTicker(p.n.o.ElectionTimeout)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		since := p.transferSince.Load()
		if since == 0 {
			continue
		}
		r := p.n.raft.Load()
		if r.State() != raft.Leader || p.n.outOfSpace() { // then nothing answers, and it is no transfer's fault
			p.transferSince.Store(0)
			continue
		}
		// A transfer ends within two election timeouts, which may be raised.
		limit := 4 * r.ReloadableConfig().ElectionTimeout
		if time.Duration(time.Now().UnixNano()-since) > limit {
			p.n.o.Fatal(fmt.Errorf("cluster: a leadership transfer that failed blocks all writes for %v: restart the process", limit))
			return
		}
		// Ask again: a Tick is refused too while the flag is up.
		p.n.tick(ctx, r.CurrentTerm())
	}
}

// withTimeout gives a context without deadline one.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}
