package client

import (
	"sync"
	"time"
)

// budget is the bucket of RetryBudget.
type budget struct {
	o RetryBudget
	// now is the clock, replaced in tests.
	now func() time.Time

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func newBudget(o RetryBudget) *budget {
	return &budget{o: o, now: time.Now, tokens: o.Burst, last: time.Now()}
}

// call takes note of a new call, which brings its share of a retry.
func (b *budget) call() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.tokens+b.o.Ratio, b.o.Burst)
}

// take takes a token, if there is one.
func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.tokens = min(b.tokens+b.o.PerSecond*now.Sub(b.last).Seconds(), b.o.Burst)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
