package fsm

import (
	"container/heap"
	"context"
	"sync"
)

// MaxWaiters bounds how many callers wait for an applied index at once. Each
// of them is a request that admission let in; the bound is far above that.
const MaxWaiters = 1 << 16

// waiters is the queue of those who wait for an applied index: a heap by
// index, so that each commit wakes exactly those whose index is reached, with
// no goroutine and no timer of its own for any of them.
type waiters struct {
	mu     sync.Mutex
	queue  waiterHeap
	closed bool
}

type waiter struct {
	index uint64
	at    int           // place in the heap; -1 once taken out
	done  chan struct{} // closed when reached, or when all is closed
	err   error         // set before done is closed
}

// wait blocks until index is applied. reached is asked again under the lock:
// wake publishes first and takes the lock then, so no wake is missed.
func (w *waiters) wait(ctx context.Context, index uint64, reached func() bool) error {
	w.mu.Lock()
	switch {
	case reached():
		w.mu.Unlock()
		return nil
	case w.closed:
		w.mu.Unlock()
		return ErrClosed
	case len(w.queue) >= MaxWaiters:
		w.mu.Unlock()
		return ErrTooManyWaiters
	}
	me := &waiter{index: index, done: make(chan struct{})}
	heap.Push(&w.queue, me)
	w.mu.Unlock()
	select {
	case <-me.done:
		return me.err
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if me.at < 0 { // reached, or closed, in the meantime
		return me.err
	}
	heap.Remove(&w.queue, me.at)
	return ctx.Err()
}

// wake ends the waits for applied and below.
func (w *waiters) wake(applied uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 && w.queue[0].index <= applied {
		close(heap.Pop(&w.queue).(*waiter).done)
	}
}

// close ends all waits with ErrClosed.
func (w *waiters) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for len(w.queue) > 0 {
		me := heap.Pop(&w.queue).(*waiter)
		me.err = ErrClosed
		close(me.done)
	}
}

// waiterHeap implements heap.Interface, smallest index first.
type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].index < h[j].index }
func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *waiterHeap) Push(x any) {
	me := x.(*waiter)
	me.at = len(*h)
	*h = append(*h, me)
}

// Pop implements heap.Interface.
func (h *waiterHeap) Pop() any {
	last := len(*h) - 1
	me := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	me.at = -1
	return me
}
