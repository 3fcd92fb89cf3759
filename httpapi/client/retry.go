package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/snipdb/snipdb/httpapi/wire"
)

const (
	// maxHops is how many leader hints are followed without a wait. During an
	// election two nodes may each name the other.
	maxHops = 2
	// electionBackoff bounds the wait while there is no leader or no ready
	// node: these refusals cost the nodes next to nothing, and the time
	// without a writer should not grow by the client's waiting.
	electionBackoff = 500 * time.Millisecond
	// refreshTimeout bounds the question for the members in the background,
	// refreshPause the time between two.
	refreshTimeout = 2 * time.Second
	refreshPause   = time.Second
)

// trial is the state of one call over its attempts.
type trial struct {
	c    *core
	r    *request
	wait *backoff.ExponentialBackOff
	// election is used in place of wait while the cluster can't serve.
	election *backoff.ExponentialBackOff
	// attempts counts the requests sent, spent the failures that spend budget,
	// of which there may be maxSpent.
	attempts, spent, maxSpent int
	// tried are the nodes that failed since the last wait, hops the leader
	// hints followed since then.
	tried map[*endpoint]bool
	hops  int
	// lost is set after the first lost connection or unknown outcome, which
	// is free: all calls that a falling leader held fail at once, each one once.
	lost bool
	// maybe is set once an attempt may have been applied.
	maybe  bool
	gaveUp string
	// answered is the last failure that a node explained.
	answered *failure
}

func newTrial(c *core, r *request) *trial {
	c.budget.call()
	return &trial{
		c: c, r: r, maxSpent: c.opts.MaxAttempts, tried: map[*endpoint]bool{},
		wait:     fullJitter(c.opts.BaseBackoff, c.opts.MaxBackoff),
		election: fullJitter(c.opts.BaseBackoff, min(max(electionBackoff, c.opts.BaseBackoff), c.opts.MaxBackoff)),
	}
}

// fullJitter waits between zero and a bound that doubles from base to limit.
// The library spreads an interval by ± RandomizationFactor, so half of the
// bound with a factor of 1 is full jitter.
func fullJitter(base, limit time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = max(base/2, 1), max(limit/2, 1)
	b.Multiplier, b.RandomizationFactor = 2, 1
	b.Reset()
	return b
}

func (t *trial) pick() (*endpoint, error) {
	if t.r.pin != "" {
		return t.c.pool.pinned(t.r.pin)
	}
	return t.c.pool.pick(t.r.kind == kindWrite, t.tried), nil
}

// succeeded learns from an answer where the leader is.
func (t *trial) succeeded(ep *endpoint, m Meta) {
	if m.ForwardedBy == "" {
		t.c.pool.up(ep, m.Node)
		if t.r.kind == kindWrite {
			t.c.pool.leads(ep)
		}
		return
	}
	t.c.pool.up(ep, m.ForwardedBy)
	if !t.c.pool.leaderIs(m.Node) && t.c.pool.discover {
		t.c.refreshMembers(ep)
	}
}

// verdict is what a failed attempt means for the next one.
type verdict struct {
	// again: the request may be repeated. A final error has none of the rest.
	again bool
	// free: the retry spends no budget.
	free bool
	// elsewhere: another node may do better, at once.
	elsewhere bool
	// election: the cluster can't serve now, but will.
	election bool
	// maybe: the request may have been applied.
	maybe bool
	// down: the node is passed over for a while.
	down bool
}

// judge is the one place that decides what may be repeated.
func (t *trial) judge(f *failure) verdict {
	r, e := t.r, f.err
	if e.Status == 0 {
		return t.judgeLost(f)
	}
	// What the node says of the outcome counts; if it is silent, or no
	// snipdb, its 5xx may come after the write was passed on.
	maybe := r.mutates() && (e.Problem.Outcome == OutcomeUnknownToNode || e.Problem.Outcome == "" && e.Status >= 500)
	again := !maybe || r.repeatable()
	switch e.Problem.Code {
	case wire.CodeNotLeader, wire.CodeNoLeader, wire.CodeNotReady:
		return verdict{again: again, maybe: maybe, free: true, elsewhere: true, election: true}
	case wire.CodeDiverged:
		return verdict{again: again, maybe: maybe, elsewhere: true, down: true}
	case wire.CodeBehind, wire.CodeTooStale:
		return verdict{again: again, maybe: maybe, elsewhere: true}
	case wire.CodeOverloaded:
		// Writes all end at the leader, whichever node is asked.
		return verdict{again: again, maybe: maybe, elsewhere: r.kind != kindWrite}
	case wire.CodeOutcomeUnknown:
		return verdict{again: again, maybe: maybe, free: t.firstLoss()}
	case wire.CodeRateLimited, wire.CodeTimeout, wire.CodeInternal, wire.CodeWriteConflict:
		return verdict{again: again, maybe: maybe}
	case "":
		switch e.Status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return verdict{again: again, maybe: maybe, elsewhere: true}
		}
	}
	return verdict{maybe: maybe}
}

// judgeLost is judge for an attempt without an answer.
func (t *trial) judgeLost(f *failure) verdict {
	if errors.Is(f.err.Cause, ErrAnswerTooLarge) {
		return verdict{} // it was done, and the next answer would be as long
	}
	maybe := f.sent && t.r.mutates()
	v := verdict{again: !maybe || t.r.repeatable(), maybe: maybe, elsewhere: true, down: true}
	// A node that takes long may be overloaded: its retries spend budget. One
	// that refuses connections is spared by the other calls from now on.
	v.free = !f.timeout && (!f.sent || t.firstLoss())
	v.election = v.free
	return v
}

func (t *trial) firstLoss() bool {
	first := !t.lost
	t.lost = true
	return first
}

// again takes in a failed attempt, waits if need be, and says whether to try
// once more.
func (t *trial) again(ctx context.Context, ep *endpoint, f *failure) bool {
	v := t.judge(f)
	t.maybe = t.maybe || v.maybe || f.partial
	f.err.Attempts = t.attempts
	if f.err.Status != 0 {
		t.answered = f
	}
	t.learn(ctx, ep, f, v)
	if !v.again || t.r.once || t.c.isClosed() {
		if v.maybe && !t.r.repeatable() && !t.r.once {
			t.gaveUp = GaveUpNoKey
		}
		return false
	}
	if ctx.Err() != nil {
		t.gaveUp = GaveUpDeadline
		return false
	}
	if !v.free && !t.spend(ctx, f) {
		return false
	}
	wait := t.delay(ep, f, v)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		t.gaveUp = GaveUpDeadline // the caller learns it now rather than later
		return false
	}
	if t.c.opts.OnRetry != nil {
		e := *f.err
		t.c.opts.OnRetry(RetryEvent{Method: t.r.method, Path: t.r.path, Endpoint: ep.url, Attempt: t.attempts, Err: &e, Wait: wait, Free: v.free})
	}
	if !sleep(ctx, wait) {
		t.gaveUp = GaveUpDeadline
		return false
	}
	return true
}

// learn updates what the client knows of the nodes.
func (t *trial) learn(ctx context.Context, ep *endpoint, f *failure, v verdict) {
	p := t.c.pool
	t.tried[ep] = true
	switch {
	case f.err.Status == 0:
		// The end of the caller's own time says nothing about the node.
		if v.down && ctx.Err() == nil {
			p.down(ep)
		}
	case v.down:
		p.down(ep)
	default:
		node := f.header.Get(wire.HeaderNode)
		if by := f.header.Get(wire.HeaderForwardedBy); by != "" {
			node = by
		}
		p.up(ep, node)
	}
	if v.election {
		p.notLeader(ep)
	}
}

// spend takes a retry from the budget, which it waits for if there is none.
func (t *trial) spend(ctx context.Context, f *failure) bool {
	if t.spent++; t.spent >= t.maxSpent {
		t.gaveUp = GaveUpAttempts
		return false
	}
	for !t.c.budget.take() {
		if t.c.opts.Budget.FailFast {
			t.gaveUp = GaveUpBudget
			return false
		}
		wait := t.wait.NextBackOff() + time.Millisecond
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait || !sleep(ctx, wait) {
			t.gaveUp = GaveUpBudget
			return false
		}
	}
	return true
}

// delay chooses the wait before the next attempt.
func (t *trial) delay(ep *endpoint, f *failure, v verdict) time.Duration {
	if t.r.pin == "" {
		if t.hops < maxHops {
			if to := t.c.pool.hint(f.err.Problem.Leader); to != nil && to != ep {
				t.hops++
				delete(t.tried, to)
				return 0
			}
		}
		if v.elsewhere && t.c.pool.untried(t.r.kind == kindWrite, t.tried) {
			return 0
		}
	}
	clear(t.tried)
	t.hops = 0
	wait := t.wait
	if v.election {
		wait = t.election
	}
	d := wait.NextBackOff()
	if after := f.err.RetryAfter; after > 0 {
		// The node's wish is the least; what is added keeps those that were
		// refused together from coming back together.
		d = after + rand.N(max(after/4, t.c.opts.BaseBackoff)+1)
	}
	return d
}

// final makes the error of the call from its last failure.
func (t *trial) final(ctx context.Context, f *failure) *Error {
	if t.gaveUp == GaveUpDeadline && f.err.Status == 0 && t.answered != nil && ctx.Err() != nil {
		// The last attempt was cut off; what a node said before says more.
		t.answered.err.Attempts = t.attempts
		f = t.answered
	}
	e := f.err
	e.GaveUp = t.gaveUp
	if e.Cause == nil && t.gaveUp == GaveUpDeadline {
		e.Cause = ctx.Err()
	}
	if !t.r.mutates() {
		return e
	}
	// An earlier attempt that may have been applied makes the outcome of the
	// call unknown, unless the state machine itself refused: it looks at the
	// key first, so the earlier attempt had not been applied before, and its
	// refusal is what a late one gets. write_conflict is of one attempt only and
	// leaves no row under the key: an earlier attempt may still be applied. Nor
	// does it count what a node refuses before the state machine has seen the key:
	// a route that it does not know, and a field (a name that the state machine
	// does not give). Another release than the earlier attempt's may look at more.
	refused := false
	switch e.Status {
	case http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusUnprocessableEntity:
		refused = e.Problem.Code != "" && !f.partial && e.Problem.Field == "" &&
			e.Problem.Code != wire.CodeWriteConflict && e.Problem.Code != wire.CodeRouteNotFound
	}
	switch {
	case t.maybe && !refused:
		e.Problem.Outcome = OutcomeUnknownToNode
	case e.Problem.Outcome == "":
		e.Problem.Outcome = OutcomeNotApplied
	}
	return e
}

// refreshMembers asks a node for the members, in the background, to find out
// where the leader is. Writes go on through the follower meanwhile.
func (c *core) refreshMembers(ep *endpoint) {
	if !c.refresh.CompareAndSwap(false, true) {
		return
	}
	err := c.spawn(func() {
		defer c.refresh.Store(false)
		ctx, cancel := context.WithTimeout(c.ctx, refreshTimeout)
		defer cancel()
		client := &Client{core: c}
		// An error changes nothing: the next forwarded write asks again.
		_, _, _ = client.Members(ctx, OnEndpoint(ep.url))
		sleep(c.ctx, refreshPause)
	})
	if err != nil {
		c.refresh.Store(false)
	}
}
