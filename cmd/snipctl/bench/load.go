package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Load says how jobs are started. At least one of Jobs and Duration is set.
type Load struct {
	// Workers is the number of jobs under way at the same time, at most.
	Workers int
	// Jobs is how many jobs there are; 0: as many as fit into Duration.
	Jobs int64
	// Duration ends the start of new jobs; jobs under way are finished. 0: none.
	Duration time.Duration
	// Rate, in jobs per second, makes the loop open; 0: closed.
	Rate float64
}

// Job does job number n, which was due at the time due. A closed loop's job is
// due when it starts.
type Job func(ctx context.Context, worker int, n int64, due time.Time)

// Run starts jobs until the load is used up or ctx ends, waits for those under
// way, and returns how many were started and how long it all took.
//
// An open loop has no queue: the due time of job n is begin + n/Rate, each
// worker takes the next number and sleeps until it is due. If all workers are
// busy, jobs start late, and their latency counts the delay.
func (l Load) Run(ctx context.Context, job Job) (started int64, elapsed time.Duration) {
	var (
		next  atomic.Int64
		count atomic.Int64
		wait  sync.WaitGroup
	)
	begin := time.Now()
	// A timer, not a context: the end of the load must not cut off jobs under way.
	for worker := range max(l.Workers, 1) {
		wait.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if l.Jobs > 0 && n >= l.Jobs {
					return
				}
				due := time.Now()
				if l.Rate > 0 {
					due = begin.Add(time.Duration(float64(n) / l.Rate * float64(time.Second)))
				}
				if l.Duration > 0 && (due.Sub(begin) >= l.Duration || time.Since(begin) >= l.Duration) {
					return
				}
				if !sleepUntil(ctx, due) {
					return
				}
				count.Add(1)
				job(ctx, worker, n, due)
			}
		})
	}
	wait.Wait()
	return count.Load(), time.Since(begin)
}

// sleepUntil waits; false: ctx ended first.
func sleepUntil(ctx context.Context, at time.Time) bool {
	return sleep(ctx, time.Until(at))
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
