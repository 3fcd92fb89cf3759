package httpapi

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

// testGate is a gate with its metrics.
func testGate(tb testing.TB, places, room int, wait time.Duration) *gate {
	tb.Helper()
	m, err := newMetrics(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return newGate(classWrite, places, room, wait, m)
}

// enterMany lets n requests wait at the gate, one after the other, and returns
// where each says what became of it.
func enterMany(tb testing.TB, g *gate, n int) []chan error {
	tb.Helper()
	_, before := g.now()
	var out []chan error
	for i := range n {
		result := make(chan error, 1)
		go func() {
			leave, err := g.enter(context.Background())
			result <- err
			if err == nil {
				leave()
			}
		}()
		waitFor(tb, "one more waiting", func() bool { _, waiting := g.now(); return waiting == before+i+1 })
		out = append(out, result)
	}
	return out
}

func mustEnter(tb testing.TB, g *gate) (leave func()) {
	tb.Helper()
	leave, err := g.enter(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return leave
}

func TestAFullRoomIsRefusedAtOnce(t *testing.T) {
	g := testGate(t, 1, 2, time.Minute)
	leave := mustEnter(t, g)
	waiters := enterMany(t, g, 2)
	var overload *contract.OverloadError
	if _, err := g.enter(context.Background()); !errors.As(err, &overload) || overload.Reason != contract.Concurrency {
		t.Errorf("got %v", err)
	}
	leave()
	for i, w := range waiters {
		if err := <-w; err != nil {
			t.Errorf("waiter %d: %v", i, err)
		}
	}
	if served, waiting := g.now(); served != 0 || waiting != 0 {
		t.Errorf("%d served, %d waiting", served, waiting)
	}
}

// Refusals come no faster than places: a request that leaves lets one in and
// sends one away, if that one has waited for long enough.
func TestRefusalsAreAsSlowAsTheService(t *testing.T) {
	g := testGate(t, 1, 10, time.Minute) // the timers of those that wait are long
	leave := mustEnter(t, g)
	waiters := enterMany(t, g, 3)
	g.mu.Lock()
	for e := g.queue.Front(); e != nil; e = e.Next() {
		e.Value.(*waiter).since = time.Now().Add(-2 * g.wait) // longer than wait
	}
	g.mu.Unlock()
	if _, waiting := g.now(); waiting != 3 {
		t.Fatalf("%d wait: somebody was refused although nothing was served", waiting)
	}
	leave() // the first gets the place, the second is refused; then the first leaves, and the third gets it
	var got []error
	for _, w := range waiters {
		got = append(got, <-w)
	}
	var overload *contract.OverloadError
	if got[0] != nil || !errors.As(got[1], &overload) || got[2] != nil {
		t.Errorf("got %v", got)
	}
}

// Where nothing is served, the refusal comes all the same.
func TestARefusalIsNotHeldForEver(t *testing.T) {
	g := testGate(t, 1, 10, 5*time.Millisecond)
	leave := mustEnter(t, g)
	defer leave()
	start := time.Now()
	_, err := g.enter(context.Background())
	var overload *contract.OverloadError
	if !errors.As(err, &overload) || time.Since(start) < holdFactor*g.wait {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := g.enter(ctx); !errors.Is(err, contract.ErrExpired) {
		t.Errorf("with a deadline of its own: %v", err)
	}
}

func TestRetryAfterIsTheTimeUntilTheQueueIsGone(t *testing.T) {
	g := testGate(t, 4, 0, time.Minute)
	for range 4 {
		mustEnter(t, g)
	}
	g.mean = 8 * time.Second // four places, each held for 8 s: one comes free every 2 s
	_, err := g.enter(context.Background())
	var overload *contract.OverloadError
	if !errors.As(err, &overload) || overload.RetryAfter != 8*time.Second {
		t.Errorf("%v", err)
	}
}

func TestAFollowerLearnsHowManyItsLeaderTakes(t *testing.T) {
	g := testGate(t, 100, 10, time.Minute)
	p := newPace(g)
	leader := contract.LeaderInfo{ID: "n1"}
	limit := func() int { g.mu.Lock(); defer g.mu.Unlock(); return g.limit }
	p.leads(leader)
	refusal := func(reason contract.OverloadReason) []byte {
		return fmt.Appendf(nil, `{"status":503,"code":"overloaded","reason":%q}`, reason)
	}
	p.answered(leader, 503, refusal(contract.DiskLow))
	p.answered(leader, 503, []byte(`{"code":"no_leader","reason":"no_leader"}`))
	if limit() != 100 {
		t.Errorf("%d after refusals that are about something else", limit())
	}
	p.answered(leader, 503, refusal(contract.Concurrency))
	p.answered(leader, 503, refusal(contract.QueueFull)) // of the same moment
	if limit() != 80 {
		t.Errorf("%d after two refusals at once, want 80", limit())
	}
	for range 40 {
		p.cut = time.Time{}
		p.answered(leader, 503, refusal(contract.ApplyLag))
	}
	if limit() != paceLeast {
		t.Errorf("%d after many refusals, want %d", limit(), paceLeast)
	}
	for range 8 * (paceLeast + 1) {
		p.answered(leader, 200, nil)
	}
	if n := limit(); n <= paceLeast+4 || n > 20 {
		t.Errorf("%d after %d answers", n, 8*(paceLeast+1))
	}
	p.answered(contract.LeaderInfo{ID: "n2"}, 503, refusal(contract.Concurrency)) // late, of another leader
	p.leads(contract.LeaderInfo{ID: "n2"})
	if limit() != 100 {
		t.Errorf("%d for a new leader", limit())
	}
}

func TestPlacesThatAreHeldForLongBecomeFewer(t *testing.T) {
	g := testGate(t, 1000, 10, time.Minute)
	g.target = 100 * time.Millisecond
	for _, c := range []struct {
		served int
		mean   time.Duration
		want   int
	}{
		{1000, 50 * time.Millisecond, 1000},
		{1000, 200 * time.Millisecond, 500},
		{500, 125 * time.Millisecond, 400},
		{400, 10 * time.Second, leastPlaces},
		{900, 90 * time.Millisecond, 1000},
		{5, 40 * time.Millisecond, 1000},
	} {
		g.crowd, g.mean = float64(c.served), c.mean
		g.adaptLocked()
		if g.limit != c.want {
			t.Errorf("%d served, each for %v: limit %d, want %d", c.served, c.mean, g.limit, c.want)
		}
	}
	g.setLimit(20) // a follower's
	if g.limit != 20 {
		t.Errorf("limit %d, want 20", g.limit)
	}
}

// TestTheNumberOfPlacesSettles serves 500 requests a second, first come first
// served, to a queue that never ends: 500 leave within the target of a second.
func TestTheNumberOfPlacesSettles(t *testing.T) {
	g := testGate(t, 1024, 10, time.Minute)
	g.target = time.Second
	type served struct {
		at    time.Duration
		crowd int
	}
	var inside []served
	for now := time.Duration(0); now < 20*time.Second; now += 2 * time.Millisecond {
		for len(inside) < g.limit {
			inside = append(inside, served{now, len(inside) + 1})
		}
		g.learnLocked(now-inside[0].at, inside[0].crowd)
		inside = inside[1:]
		if now > 10*time.Second && (g.limit < 480 || g.limit > 520) {
			t.Fatalf("limit %d after %v, want about 500", g.limit, now)
		}
	}
}
