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

// Missed is told of job number n, which was due and was not started before the
// load ended, and how long it had waited by then. It is called after all jobs,
// from one goroutine.
type Missed func(n int64, waited time.Duration)

// Starts counts the jobs of a load. Those that were Due were Started or
// NotStarted; in a closed loop a job is due when it starts.
type Starts struct {
	Due     int64 `json:"due"`
	Started int64 `json:"started"`
	// NotStarted jobs of an open loop found all workers busy until its end.
	NotStarted int64 `json:"not_started"`
}

// Run starts jobs until the load is used up or ctx ends, waits for those under
// way, tells missed (which may be nil) of those that it did not start, and
// returns the counts and how long it all took.
//
// An open loop has no queue: the due time of job n is begin + n/Rate, each
// worker takes the next number and sleeps until it is due. If all workers are
// busy, jobs start late, and their latency counts the delay. Those that would
// start after the end are not started; to leave them out would make a load that
// was too much look good, because only the first jobs, with the least delay,
// would be seen.
func (l Load) Run(ctx context.Context, job Job, missed Missed) (Starts, time.Duration) {
	var (
		next    atomic.Int64
		count   atomic.Int64
		wait    sync.WaitGroup
		mu      sync.Mutex
		dropped []int64 // numbers that a worker took and did not start
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
					due = begin.Add(l.dueAfter(n))
				}
				over := l.Duration > 0 && (due.Sub(begin) >= l.Duration || time.Since(begin) >= l.Duration)
				if over || !sleepUntil(ctx, due) {
					mu.Lock()
					dropped = append(dropped, n)
					mu.Unlock()
					return
				}
				count.Add(1)
				job(ctx, worker, n, due)
			}
		})
	}
	wait.Wait()
	elapsed := time.Since(begin)
	starts := Starts{Due: count.Load(), Started: count.Load()}
	if l.Rate > 0 {
		end := l.Duration
		if ctx.Err() != nil && (end <= 0 || elapsed < end) {
			end = elapsed // ctx ended the load
		}
		starts.Due = l.dueBefore(end)
		starts.NotStarted = starts.Due - starts.Started
		l.tell(missed, dropped, next.Load(), starts.Due, end)
	}
	return starts, elapsed
}

// never is later than any load ends.
const never = 100 * 365 * 24 * time.Hour

// dueAfter is when job n of an open loop is due, counted from its begin. At a
// very low rate that is more than a Duration holds.
func (l Load) dueAfter(n int64) time.Duration {
	return time.Duration(min(float64(n)/l.Rate*float64(time.Second), float64(never)))
}

// dueBefore is how many jobs of an open loop are due before its end; an end of
// 0 is none, and all Jobs are due.
func (l Load) dueBefore(end time.Duration) int64 {
	if end <= 0 {
		return l.Jobs
	}
	// The estimate may be wrong by one; dueAfter is what the workers go by.
	n := max(int64(end.Seconds()*l.Rate)-1, 0)
	for l.dueAfter(n) < end {
		n++
	}
	if l.Jobs > 0 {
		n = min(n, l.Jobs)
	}
	return n
}

// tell reports the jobs that were due before end and not started: the numbers
// that workers took in vain, and those that nobody took, from next on.
func (l Load) tell(missed Missed, dropped []int64, next, due int64, end time.Duration) {
	if missed == nil {
		return
	}
	for _, n := range dropped {
		if n < due {
			missed(n, end-l.dueAfter(n))
		}
	}
	for n := next; n < due; n++ {
		missed(n, end-l.dueAfter(n))
	}
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
