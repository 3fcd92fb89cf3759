package httpapi

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

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

const (
	// rateHold is how long a line of an import may hold an allowance that is
	// not due yet. A timer is late by a millisecond or so: the lines of an
	// import that may write thousands per second can't wait one by one.
	rateHold = 50 * time.Millisecond
	// ratePause bounds a wait between two looks at the rules.
	ratePause = time.Second
)

// rateLimits applies the replicated rate limits. Only the node that proposes
// asks it, so a forwarded write is counted once.
type rateLimits struct {
	now func() time.Time
	mu  sync.Mutex
	// All below is guarded by mu.
	rules    []*command.RateLimit
	byName   map[limitKey]*command.RateLimit
	limiters map[limitKey]*rate.Limiter
}

type limitKey struct{ scope, name string }

func newRateLimits(now func() time.Time) *rateLimits { return &rateLimits{now: now} }

// take says how long a write of that collection and token must wait, and takes
// its allowance if that is not longer than most. With most below zero it only
// looks.
func (r *rateLimits) take(rules []*command.RateLimit, collection, token string, most time.Duration) (wait time.Duration, taken bool) {
	if len(rules) == 0 {
		return 0, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(rules)
	now := r.now()
	var reserved []*rate.Reservation
	for _, key := range []limitKey{{scopeCollection, collection}, {scopeToken, token}} {
		if key.name == "" {
			continue
		}
		if limiter := r.limiter(key, now); limiter != nil {
			reservation := limiter.ReserveN(now, 1)
			reserved = append(reserved, reservation)
			wait = max(wait, reservation.DelayFrom(now))
		}
	}
	if wait <= most {
		return wait, true
	}
	// Here, where nobody has reserved behind it: later a reservation gives back
	// only what was not promised to others in between.
	for _, reservation := range reserved {
		reservation.CancelAt(now)
	}
	return wait, false
}

// waitTurn waits until the write has its allowance. It holds a place in front
// of others for rateHold at most: who goes away while it waits takes nothing
// along, and single writes find an allowance between the lines of imports.
func (r *rateLimits) waitTurn(ctx context.Context, rules func() []*command.RateLimit, collection, token string) error {
	for {
		wait, taken := r.take(rules(), collection, token, rateHold)
		if err := pause(ctx, min(wait, ratePause)); err != nil || taken {
			return err
		}
	}
}

// check refuses a write that is over its limit, with an *contract.OverloadError.
func (r *rateLimits) check(rules []*command.RateLimit, collection, token string) error {
	if wait, taken := r.take(rules, collection, token, 0); !taken {
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
