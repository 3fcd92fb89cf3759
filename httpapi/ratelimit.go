package httpapi

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

// The scopes of a rate limit.
const (
	scopeCollection = "collection"
	scopeToken      = "token"
	// eachOne is the name of the rule for all that have no rule of their own;
	// each of them has its own allowance.
	eachOne = "*"
)

// maxLimiters bounds the allowances that are remembered. Beyond it, full ones
// are forgotten first: a full allowance is the same as a new one.
const maxLimiters = 10_000

// ratePause bounds a wait between two looks at the rules.
const ratePause = time.Second

// rateLimits applies the replicated rate limits. Only the node that proposes
// asks it, so a forwarded write is counted once.
type rateLimits struct {
	now func() time.Time
	mu  sync.Mutex
	// All below is guarded by mu.
	rules    []*command.RateLimit
	byName   map[limitKey]*command.RateLimit
	limiters map[limitKey]*rate.Limiter
	lanes    map[lane]*laneState
}

type limitKey struct{ scope, name string }

// lane is what the lines of imports queue by: those of one collection and
// token wait for the same allowances.
type lane struct{ collection, token string }

// laneState exists while somebody is in the lane.
type laneState struct {
	turn *semaphore.Weighted // of 1, in the order of the lines
	in   int                 // who waits for the turn or has it
}

func newRateLimits(now func() time.Time) *rateLimits {
	return &rateLimits{now: now, lanes: map[lane]*laneState{}}
}

// ask is what is asked of the allowances.
type ask int

const (
	// oneWrite takes an allowance if there is one.
	oneWrite ask = iota
	// oneLine is a line of an import: it takes an allowance if half of the burst
	// is left then. Single writes are refused where a line waits, so without
	// that a single import would lock all of them out.
	oneLine
	// lookLine only says how long a line would wait.
	lookLine
)

// take says how long a write of that collection and token must wait, and takes
// its allowance if that is not at all. Who waits has taken nothing: what is not
// there is not promised to anybody.
func (r *rateLimits) take(rules []*command.RateLimit, collection, token string, what ask) (wait time.Duration, taken bool) {
	if len(rules) == 0 {
		r.lifted()
		return 0, what != lookLine
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	limiters := r.asked(rules, collection, token, now)
	for _, limiter := range limiters {
		need := 1.0
		if what != oneWrite {
			need += float64(limiter.Burst() / 2)
		}
		wait = max(wait, timeFor(limiter, need-limiter.TokensAt(now)))
	}
	if wait > 0 || what == lookLine {
		return wait, false
	}
	for _, limiter := range limiters {
		limiter.AllowN(now, 1)
	}
	return 0, true
}

// charge takes n allowances more, whether they are there or not: of a batch,
// whose operations are counted when it has passed with one allowance already.
// Later writes wait for what it overdraws. A batch of more operations than the
// burst could never pass in another way.
func (r *rateLimits) charge(rules []*command.RateLimit, collection, token string, n int) {
	if len(rules) == 0 || n <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for _, limiter := range r.asked(rules, collection, token, now) {
		for left := n; left > 0; { // a reservation is of one burst at most
			piece := min(left, max(limiter.Burst(), 1))
			limiter.ReserveN(now, piece)
			left -= piece
		}
	}
}

// timeFor is how long the limiter needs for so many allowances. Less than a
// nanosecond is none, as it is for the limiter itself: its numbers are rounded.
func timeFor(limiter *rate.Limiter, missing float64) time.Duration {
	if missing <= 0 {
		return 0
	}
	return time.Duration(min(missing/float64(limiter.Limit()), maxRateWait.Seconds()) * float64(time.Second))
}

// maxRateWait bounds what a wait is said to be; a rule may allow one write in a
// thousand years.
const maxRateWait = 24 * time.Hour

// waitTurn waits until a line of an import has its allowance. It never holds one
// that it does not use: who goes away while it waits takes nothing along.
//
// The lines of a lane come one after the other. Each import has many, and if
// all of them slept until the next allowance, each allowance would wake all.
func (r *rateLimits) waitTurn(ctx context.Context, rules func() []*command.RateLimit, collection, token string) error {
	if len(rules()) == 0 {
		r.lifted()
		return ctx.Err()
	}
	leave, err := r.enterLane(ctx, lane{collection, token})
	if err != nil {
		return err
	}
	defer leave()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		wait, taken := r.take(rules(), collection, token, oneLine)
		if taken {
			return nil
		}
		if err := pause(ctx, min(wait, ratePause)); err != nil {
			return err
		}
	}
}

// enterLane waits for the turn in a lane, and returns what ends it.
func (r *rateLimits) enterLane(ctx context.Context, l lane) (leave func(), err error) {
	r.mu.Lock()
	state := r.lanes[l]
	if state == nil {
		state = &laneState{turn: semaphore.NewWeighted(1)}
		r.lanes[l] = state
	}
	state.in++
	r.mu.Unlock()
	out := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if state.in--; state.in == 0 {
			delete(r.lanes, l)
		}
	}
	if err := state.turn.Acquire(ctx, 1); err != nil {
		out()
		return nil, err
	}
	return func() {
		state.turn.Release(1)
		out()
	}, nil
}

// check refuses a write that is over its limit, with an *contract.OverloadError.
func (r *rateLimits) check(rules []*command.RateLimit, collection, token string) error {
	if wait, taken := r.take(rules, collection, token, oneWrite); !taken {
		return overRate(collection, wait)
	}
	return nil
}

// overRate is the refusal of a write that would have to wait that long.
func overRate(collection string, wait time.Duration) error {
	return &contract.OverloadError{
		Reason: contract.RateLimited, RetryAfter: wait,
		Detail: fmt.Sprintf("the writes of collection %q or of this token are over their limit", collection),
	}
}

// lifted forgets all allowances once there are no rules. The same rules, set
// again later, must not go on with what was overdrawn before.
func (r *rateLimits) lifted() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(nil)
}

// update takes new rules over. All allowances begin anew then; that is rare.
func (r *rateLimits) update(rules []*command.RateLimit) {
	if sameRules(r.rules, rules) {
		return
	}
	r.rules = rules
	r.byName = make(map[limitKey]*command.RateLimit, len(rules))
	for _, rule := range rules {
		r.byName[limitKey{rule.GetScope(), rule.GetName()}] = rule
	}
	r.limiters = map[limitKey]*rate.Limiter{}
}

// sameRules compares by content, because a backend may build the slice anew
// for each call, and forgetting all allowances each time would limit nothing.
func sameRules(a, b []*command.RateLimit) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && (a[i].GetScope() != b[i].GetScope() || a[i].GetName() != b[i].GetName() ||
			a[i].GetWritesPerSecond() != b[i].GetWritesPerSecond() || a[i].GetBurst() != b[i].GetBurst()) {
			return false
		}
	}
	return true
}

// asked returns the allowances that a write of that collection and token needs.
func (r *rateLimits) asked(rules []*command.RateLimit, collection, token string, now time.Time) []*rate.Limiter {
	r.update(rules)
	var out []*rate.Limiter
	for _, key := range []limitKey{{scopeCollection, collection}, {scopeToken, token}} {
		if key.name == "" {
			continue
		}
		if limiter := r.limiter(key, now); limiter != nil {
			out = append(out, limiter)
		}
	}
	return out
}

// limiter returns the allowance of the key, or nil if no rule is for it.
func (r *rateLimits) limiter(key limitKey, now time.Time) *rate.Limiter {
	rule := r.byName[key]
	if rule == nil {
		rule = r.byName[limitKey{key.scope, eachOne}]
	}
	if rule == nil {
		return nil
	}
	limiter := r.limiters[key]
	if limiter == nil {
		r.makeRoom(now)
		limiter = rate.NewLimiter(rate.Limit(rule.GetWritesPerSecond()), int(min(rule.GetBurst(), math.MaxInt32)))
		r.limiters[key] = limiter
	}
	return limiter
}

// makeRoom forgets full allowances once there are too many, and, if none is
// full, all: then more clients are active at once than one node can serve.
func (r *rateLimits) makeRoom(now time.Time) {
	if len(r.limiters) < maxLimiters {
		return
	}
	for key, limiter := range r.limiters {
		if limiter.TokensAt(now) >= float64(limiter.Burst()) {
			delete(r.limiters, key)
		}
	}
	if len(r.limiters) >= maxLimiters {
		clear(r.limiters)
	}
}
