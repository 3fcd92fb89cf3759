package httpapi

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

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
		g.byClass[c] = &gate{
			class: c, places: make(chan struct{}, places), wait: o.QueueWait, metrics: m,
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

// gate bounds the requests of one class: len(places) are served, as many may
// wait for a short time, and the rest is refused at once.
type gate struct {
	class  class
	places chan struct{} // holds one value for each request that is served
	wait   time.Duration
	// waiting is how many wait now; at most cap(places).
	waiting atomic.Int64
	// meanNanos is the moving mean of the time a place is held, from which
	// Retry-After is computed.
	meanNanos atomic.Int64
	metrics   *metrics
}

func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.places <- struct{}{}:
		return g.entered(), nil
	default:
	}
	if g.waiting.Add(1) > int64(cap(g.places)) {
		g.waiting.Add(-1)
		return nil, g.refuse("too many wait already")
	}
	g.metrics.waiting.WithLabelValues(string(g.class)).Inc()
	defer func() {
		g.waiting.Add(-1)
		g.metrics.waiting.WithLabelValues(string(g.class)).Dec()
	}()
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	select {
	case g.places <- struct{}{}:
		return g.entered(), nil
	case <-timer.C:
		return nil, g.refuse(fmt.Sprintf("none came free within %v", g.wait))
	case <-ctx.Done():
		g.metrics.refused.WithLabelValues(string(g.class), reasonDeadline).Inc()
		return nil, contract.ErrExpired
	}
}

// entered counts the request in and returns what counts it out.
func (g *gate) entered() func() {
	inFlight := g.metrics.inFlight.WithLabelValues(string(g.class))
	inFlight.Inc()
	start := time.Now()
	return func() {
		<-g.places
		inFlight.Dec()
		// A lost update between Load and Store costs one sample of a mean.
		mean := g.meanNanos.Load()
		g.meanNanos.Store(mean + (int64(time.Since(start))-mean)/16)
	}
}

// refuse builds the refusal. All that wait and all that are served leave at a
// rate of places / mean, so a newcomer's turn comes after that many means.
func (g *gate) refuse(why string) error {
	g.metrics.refused.WithLabelValues(string(g.class), string(contract.Concurrency)).Inc()
	ahead := g.waiting.Load() + int64(len(g.places))
	return &contract.OverloadError{
		Reason:     contract.Concurrency,
		RetryAfter: time.Duration(g.meanNanos.Load() * ahead / int64(cap(g.places))),
		Detail:     fmt.Sprintf("all %d places for requests of class %s are taken, and %s", cap(g.places), g.class, why),
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
