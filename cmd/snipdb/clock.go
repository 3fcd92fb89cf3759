package main

import (
	"sync"
	"time"

	"github.com/snipdb/snipdb/storage/failpoint"
)

// wallClock is the clock that dates commands, and nothing else: deadlines,
// leases and staleness are measured by the monotonic clock, which nobody sets.
// In a binary with failpoints a test can set it wrong, as an operator or NTP
// does; in any other it is time.Now.
type wallClock struct {
	mu    sync.Mutex // guards what follows
	drift int64      // parts in a million, as last seen
	since time.Time  // when that value was first seen
}

func (c *wallClock) now() time.Time {
	now := time.Now()
	if !failpoint.Enabled {
		return now
	}
	offset := time.Duration(failpoint.Value(failpoint.ClockOffset, 0)) * time.Millisecond
	drift := failpoint.Value(failpoint.ClockDrift, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if drift != c.drift {
		c.drift, c.since = drift, now
	}
	return now.Add(offset + driftOf(now.Sub(c.since), drift))
}

// driftOf is what a clock that runs too fast gains in a time.
func driftOf(elapsed time.Duration, ppm int64) time.Duration {
	return time.Duration(float64(elapsed) * float64(ppm) / 1e6)
}
