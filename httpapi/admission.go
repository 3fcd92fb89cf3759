package httpapi

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/snipdb/snipdb/cluster/contract"
)

// class is what a request competes with for the node's places.
type class string

const (
	classRead  class = "read"
	classWrite class = "write"
	classBulk  class = "bulk"
	classAdmin class = "admin"
	// classHealth passes every gate: probes and metrics must work when
	// nothing else does.
	classHealth class = "health"
)

// gates are the admission of the HTTP side, by class. They are asked before
// the body is read.
type gates struct {
	byClass map[class]*gate
	body    *bodyGate
	metrics *metrics
}

func newGates(o Options, m *metrics) *gates {
	g := &gates{byClass: map[class]*gate{}, metrics: m, body: &bodyGate{
		memory: semaphore.NewWeighted(o.BodyMemory), wait: o.QueueWait, metrics: m,
	}}
	for c, places := range map[class]int{
		classRead: o.ReadConcurrency, classWrite: o.WriteConcurrency, classBulk: o.BulkConcurrency, classAdmin: o.AdminConcurrency,
	} {
		room := places
		if c == classWrite {
			// Every write may wait: it has its connection already, and to be
			// refused at once would only bring it back sooner.
			room = max(places, o.MaxConnections)
		}
		g.byClass[c] = newGate(c, places, room, o.QueueWait, m)
		if c == classWrite {
			g.byClass[c].target = holdFactor * o.QueueWait
		}
	}
	return g
}

// enter takes a place of the class and returns what gives it back. The error
// is an *contract.OverloadError, or the context's.
func (g *gates) enter(ctx context.Context, c class) (leave func(), err error) {
	gate, bounded := g.byClass[c]
	if !bounded {
		return func() {}, nil
	}
	return gate.enter(ctx)
}

// gate bounds the requests of one class: limit are served, room may wait, first
// come first served, and the rest is refused at once.
//
// Who has waited for longer than wait is refused, but at most one for each
// that was served: a refusal costs a good part of what a small write costs, most of
// it in the kernel and in net/http, and under an overload it would be taken from
// the writes that are served. After holdFactor waits the refusal comes in any
// case; a client that is told Retry-After: 1 would not have come back before.
type gate struct {
	class  class
	places int // the most that limit can be
	room   int
	wait   time.Duration
	// target is how long a place should be held at most, on the mean; 0: as long
	// as it takes.
	target time.Duration
	// The class's series, looked up once.
	inFlight, waiting prometheus.Gauge
	refused, expired  prometheus.Counter

	mu sync.Mutex // guards all below
	// limit is how many may be served now: places, or fewer if they take longer
	// than target (see adaptLocked), or at a follower whose leader refuses what it
	// passes on (most; see pace).
	limit, most, served int
	queue               list.List // of *waiter
	// mean is the moving mean of the time a place is held, from which
	// Retry-After is computed, and crowd that of how many were served when the
	// same requests came in.
	mean  time.Duration
	crowd float64
}

// holdFactor times the wait is how long a refusal is held back at most.
const holdFactor = 4

// waiter is a request that waits for a place.
type waiter struct {
	since time.Time
	// called is closed when it has a place, or is refused.
	called chan struct{}
	// Set before called is closed: the refusal, or how many are served with it.
	refusal error
	crowd   int
}

func newGate(c class, places, room int, wait time.Duration, m *metrics) *gate {
	return &gate{
		class: c, places: places, limit: places, most: places, room: room, wait: wait,
		inFlight: m.inFlight.WithLabelValues(string(c)), waiting: m.waiting.WithLabelValues(string(c)),
		refused: m.refused.WithLabelValues(string(c), string(contract.Concurrency)),
		expired: m.refused.WithLabelValues(string(c), reasonDeadline),
	}
}

func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	g.mu.Lock()
	if g.served < g.limit && g.queue.Len() == 0 {
		g.served++
		crowd := g.served
		g.mu.Unlock()
		return g.entered(crowd), nil
	}
	if g.queue.Len() >= g.room {
		defer g.mu.Unlock()
		return nil, g.refuseLocked("as many wait as may")
	}
	w := &waiter{since: time.Now(), called: make(chan struct{})}
	place := g.queue.PushBack(w)
	g.mu.Unlock()
	g.waiting.Inc()
	defer g.waiting.Dec()
	timer := time.NewTimer(holdFactor * g.wait)
	defer timer.Stop()
	select {
	case <-w.called:
		return g.called(w)
	case <-timer.C:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.called: // at the last moment
		return g.called(w)
	default:
	}
	g.queue.Remove(place)
	if ctx.Err() != nil {
		g.expired.Inc()
		return nil, contract.ErrExpired
	}
	return nil, g.refuseLocked("none came free in time")
}

// called returns what became of a waiter.
func (g *gate) called(w *waiter) (leave func(), err error) {
	if w.refusal != nil {
		return nil, w.refusal
	}
	return g.entered(w.crowd), nil
}

// entered counts the request in, as the last of crowd that are served, and
// returns what counts it out.
func (g *gate) entered(crowd int) func() {
	g.inFlight.Inc()
	start := time.Now()
	return func() {
		g.inFlight.Dec()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.learnLocked(time.Since(start), crowd)
		g.served--
		g.giveLocked()
		if first := g.queue.Front(); first != nil && time.Since(first.Value.(*waiter).since) > g.wait {
			g.callLocked(g.refuseLocked("none came free in time"))
		}
	}
}

// giveLocked gives the free places to those that have waited longest.
func (g *gate) giveLocked() {
	for g.served < g.limit && g.queue.Len() > 0 {
		g.served++
		g.callLocked(nil)
	}
}

// callLocked ends the wait of the first in the queue.
func (g *gate) callLocked(refusal error) {
	w := g.queue.Remove(g.queue.Front()).(*waiter)
	w.refusal, w.crowd = refusal, g.served
	close(w.called)
}

// learnLocked takes in how long one held its place, who came in as the last of crowd.
func (g *gate) learnLocked(held time.Duration, crowd int) {
	g.mean += (held - g.mean) / 16
	g.crowd += (float64(crowd) - g.crowd) / 16
	g.adaptLocked()
}

// leastPlaces are always there: enough to fill the entries that are on their
// way. With fewer, entries are smaller and each write costs more, which makes
// the places longer held, and so on.
const leastPlaces = 256

// adaptLocked sets the limit to what can be served within target. By Little's
// law crowd requests that take mean each leave at a rate of crowd / mean, so
// as many as leave within target may be there. (Not served / mean: served is
// smaller already when those leave who came into a larger crowd, and the limit
// would swing between its ends.) A thousand small writes are
// gone in a quarter of a second; a thousand documents with their vectors take
// seconds and much memory, and no more of them are done. The target must not be
// small (a second is not): see leastPlaces.
func (g *gate) adaptLocked() {
	g.limit = g.most
	if g.target == 0 || g.mean <= g.target/2 { // half: at the target itself it would jump to and fro
		return
	}
	fit := g.crowd * float64(g.target) / float64(g.mean)
	g.limit = min(g.most, max(int(fit), leastPlaces))
}

// setLimit changes how many are served at most. Those above a smaller limit
// are not cut off.
func (g *gate) setLimit(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most = min(max(n, 1), g.places)
	g.adaptLocked()
	g.giveLocked()
}

// now is how many are served and how many wait.
func (g *gate) now() (served, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.served, g.queue.Len()
}

// refuseLocked builds the refusal. All that wait and all that are served leave
// at a rate of limit / mean, so a newcomer's turn comes after that many means.
func (g *gate) refuseLocked(why string) error {
	g.refused.Inc()
	ahead := time.Duration(g.queue.Len() + g.served)
	return &contract.OverloadError{
		Reason:     contract.Concurrency,
		RetryAfter: g.mean * ahead / time.Duration(g.limit),
		Detail:     "all places for requests of class " + string(g.class) + " are taken, and " + why,
	}
}

// bodyGate bounds the memory of request bodies.
type bodyGate struct {
	memory  *semaphore.Weighted
	wait    time.Duration
	metrics *metrics
}

// reserve takes n bytes and returns what gives them back.
func (b *bodyGate) reserve(ctx context.Context, n int64) (release func(), err error) {
	if !b.memory.TryAcquire(n) {
		wait, cancel := context.WithTimeout(ctx, b.wait)
		defer cancel()
		if err := b.memory.Acquire(wait, n); err != nil {
			if ctx.Err() != nil {
				return nil, contract.ErrExpired
			}
			b.metrics.refused.WithLabelValues("body_memory", string(contract.MemoryLow)).Inc()
			return nil, &contract.OverloadError{
				Reason: contract.MemoryLow, RetryAfter: minRetryAfter,
				Detail: "the memory for request bodies is taken",
			}
		}
	}
	b.metrics.bodyBytes.Add(float64(n))
	return func() {
		b.memory.Release(n)
		b.metrics.bodyBytes.Sub(float64(n))
	}, nil
}

// reserved refuses a request on a connection of the reserve, unless it is one
// that the reserve is for.
func (s *Server) reserved(c *call) error {
	if c.route.Class == classAdmin || c.route.Class == classHealth {
		return nil
	}
	if marked, _ := c.ctx().Value(reservedKey{}).(bool); !marked {
		return nil
	}
	s.metrics.refused.WithLabelValues(reasonConnections, string(contract.Concurrency)).Inc()
	c.g.Writer.Header().Set("Connection", "close")
	return &contract.OverloadError{
		Reason: contract.Concurrency, RetryAfter: minRetryAfter,
		Detail: "the node has as many connections as it takes; the rest is for health and admin routes",
	}
}
