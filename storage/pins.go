package storage

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// pins counts the users of something that is to be freed only when the last
// one has left. Taking and leaving are one atomic operation each: a reader
// never takes a lock.
//
// Invariant S6: once drained is closed, acquire always fails, so that what is
// guarded may be freed.
type pins struct {
	// state is the number of users, plus closedBit once no more may come.
	state   atomic.Int64
	once    sync.Once
	drained chan struct{}
}

const closedBit = 1 << 62

func newPins() *pins { return &pins{drained: make(chan struct{})} }

// acquire takes a pin, or returns false after close.
func (p *pins) acquire() bool {
	if p.state.Add(1) < closedBit {
		return true
	}
	p.release()
	return false
}

// release gives a pin back.
func (p *pins) release() {
	if p.state.Add(-1) == closedBit {
		p.once.Do(func() { close(p.drained) })
	}
}

// close lets nobody in any more. It may be called again. What is guarded may
// be freed once drained is closed.
func (p *pins) close() {
	for {
		n := p.state.Load()
		if n >= closedBit {
			return
		}
		// The one who sets the bit counts as a user until the next line, so
		// that drained is closed by release and nowhere else.
		if p.state.CompareAndSwap(n, n+closedBit+1) {
			p.release()
			return
		}
	}
}

// wait waits until the last user has left.
func (p *pins) wait(timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.drained:
		return nil
	case <-timer.C:
		return fmt.Errorf("%d users have not left within %s", p.state.Load()-closedBit, timeout)
	}
}
