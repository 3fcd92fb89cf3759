package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// lines lets so many lines of imports wait for their turn again and again until
// the test's time is over, and counts those that had it.
func lines(t *testing.T, r *rateLimits, rules []*command.RateLimit, collection, token string, n int) *atomic.Int64 {
	var passed atomic.Int64
	for range n {
		go func() {
			for r.waitTurn(t.Context(), func() []*command.RateLimit { return rules }, collection, token) == nil {
				passed.Add(1)
			}
		}()
	}
	return &passed
}

// An import leaves half of the burst to single writes, however many of its lines
// wait, and has the rest of the rate.
func TestSingleWritesPassBesideAnImport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRateLimits(time.Now)
		rules := []*command.RateLimit{{Scope: "collection", Name: "c", WritesPerSecond: 50, Burst: 50}}
		passed := lines(t, r, rules, "c", "", 64)
		for i := range 100 {
			time.Sleep(100 * time.Millisecond)
			if err := r.check(rules, "c", ""); err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
		}
		if n := passed.Load(); n < 390 || n > 450 { // 500 in ten seconds, without the 100 writes, and half of a burst
			t.Errorf("%d lines passed", n)
		}
	})
}

func TestAnImportAloneHasTheWholeRate(t *testing.T) {
	for _, limit := range []struct {
		rate  float64
		burst uint32
	}{{50, 50}, {5000, 5000}, {2, 1}, {10, 2}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRateLimits(time.Now)
			rules := []*command.RateLimit{{Scope: "token", Name: "*", WritesPerSecond: limit.rate, Burst: limit.burst}}
			passed := lines(t, r, rules, "c", "t", 64)
			time.Sleep(10*time.Second + time.Millisecond)
			least, most := int64(10*limit.rate), int64(10*limit.rate)+int64(limit.burst)+5
			if n := passed.Load(); n < least || n > most {
				t.Errorf("%g:%d: %d lines passed, want %d to %d", limit.rate, limit.burst, n, least, most)
			}
		})
	}
}

// A line that waits for its token's allowance holds up neither the lines of
// other tokens nor those of other collections.
func TestLinesWaitOnlyForTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRateLimits(time.Now)
		rules := []*command.RateLimit{{Scope: "token", Name: "slow", WritesPerSecond: 0.001, Burst: 1}, {Scope: "collection", Name: "*", WritesPerSecond: 10, Burst: 10}}
		slow := lines(t, r, rules, "c", "slow", 8)
		synctest.Wait()
		fast, other := lines(t, r, rules, "c", "fast", 8), lines(t, r, rules, "d", "fast", 8)
		time.Sleep(10 * time.Second)
		if slow.Load() != 1 || fast.Load() < 95 || other.Load() < 95 {
			t.Errorf("%d slow, %d fast, %d of the other collection", slow.Load(), fast.Load(), other.Load())
		}
	})
}

// Changed rules reach the lines that wait.
func TestLinesSeeChangedRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRateLimits(time.Now)
		var mu sync.Mutex
		rules := []*command.RateLimit{{Scope: "collection", Name: "c", WritesPerSecond: 0.001, Burst: 1}}
		now := func() []*command.RateLimit {
			mu.Lock()
			defer mu.Unlock()
			return rules
		}
		var passed atomic.Int64
		for range 8 {
			go func() {
				if r.waitTurn(t.Context(), now, "c", "") == nil {
					passed.Add(1)
				}
			}()
		}
		synctest.Wait()
		if passed.Load() != 1 {
			t.Fatalf("%d lines passed", passed.Load())
		}
		mu.Lock()
		rules = nil
		mu.Unlock()
		time.Sleep(2 * ratePause)
		if passed.Load() != 8 || len(r.lanes) != 0 {
			t.Errorf("%d lines passed, %d lanes are left", passed.Load(), len(r.lanes))
		}
	})
}

// The lines of a real import stop where the reserve begins, and go on when they may.
func TestAnImportLeavesTheReserve(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[{"scope":"collection","name":"c","writes_per_second":0.001,"burst":5}]}`)
	feed, resp := n.openImport(t)
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.WriteString(feed, importBody(8)); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(resp.Body)
	next := func() (r wire.ImportResult) {
		t.Helper()
		if !answers.Scan() {
			t.Fatalf("the answer ended: %v", answers.Err())
		}
		if err := json.Unmarshal(answers.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	waitFor(t, "three lines", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.state.collections["c"] != nil && len(n.state.collections["c"].docs) == 3
	})
	for i := range 2 { // the reserve
		n.want(t, 201, nil, "PUT", fmt.Sprintf("/v1/collections/c/docs/single%d", i), `{}`)
	}
	n.want(t, 429, nil, "PUT", "/v1/collections/c/docs/single2", `{}`)
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[]}`)
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if r := next(); r.Status != 201 {
			t.Errorf("line %d: %+v", i+1, r)
		}
	}
	if r := next(); !r.Done || r.Applied != 8 {
		t.Errorf("the last line is %+v", r)
	}
}

// However a token is spelt, it is the same one.
func TestATokenIsCountedHoweverItIsSpelt(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/a", `{}`)
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[{"scope":"token","name":"z","writes_per_second":0.001,"burst":1},{"scope":"token","name":"*","writes_per_second":0.001,"burst":1}]}`)
	long := strings.Repeat("y", 2*maxKeyBytes)
	for _, same := range [][]string{
		{"Bearer z.s", "bearer z.s", "BEARER z.s", "Bearer   z.s", "Bearer z.other", "Bearer z", "bearer z."},
		{"Bearer x.s", "bEARER x"}, // by the rule for each
		{"Bearer " + long + ".s", "Bearer " + long},
		{"Bearer .s", "bearer ."},
	} {
		for i, token := range same {
			a := n.do(t, "PUT", "/v1/collections/c/docs/a", `{}`, "Authorization", token)
			if passed := a.status == 200; passed != (i == 0) {
				t.Errorf("%.40q after %.40q: status %d", token, same[0], a.status)
			}
		}
		for _, none := range []string{"", "Bearer", "Bearer ", "Basic z.s", "Bearerz.s"} {
			for range 2 {
				n.want(t, 200, nil, "PUT", "/v1/collections/c/docs/a", `{}`, "Authorization", none)
			}
		}
	}
}

// A batch is as many writes as it has operations. It passes with one allowance,
// or one larger than the burst could never pass.
func TestABatchIsChargedForItsOperations(t *testing.T) {
	var seconds atomic.Int64
	seconds.Store(1_000)
	n := startNode(t, func(o *Options) { o.Now = func() time.Time { return time.Unix(seconds.Load(), 0) } })
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[{"scope":"collection","name":"c","writes_per_second":1,"burst":4}]}`)
	batch := func(operations, status int) {
		t.Helper()
		var list []string
		for i := range operations {
			list = append(list, fmt.Sprintf(`{"op":"put_doc","id":"d%d","doc":{}}`, i))
		}
		n.want(t, status, nil, "POST", "/v1/collections/c/batch", `{"operations":[`+strings.Join(list, ",")+`]}`)
	}
	single := func(status int) {
		t.Helper()
		n.want(t, status, nil, "PUT", "/v1/collections/c/docs/d0", `{}`)
	}
	batch(3, 200)
	single(200)
	single(429)
	seconds.Add(1)
	batch(10, 200) // one is there; nine are owed
	seconds.Add(9)
	batch(1, 429)
	single(429)
	seconds.Add(1)
	single(200)
	single(429)
	n.want(t, 201, nil, "PUT", "/v1/collections/other/docs/d0", `{}`)
}

// Whoever owes much is free when the limits are lifted, also of the same limits
// later.
func TestLiftedLimitsForgetWhatIsOwed(t *testing.T) {
	n := startNode(t, nil)
	const path, limits = "/v1/collections/c/docs/d", `{"rate_limits":[{"scope":"collection","name":"c","writes_per_second":0.001,"burst":1}]}`
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", limits)
	n.want(t, 201, nil, "PUT", path, `{}`)
	n.want(t, 429, nil, "PUT", path, `{}`)
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", `{"rate_limits":[]}`)
	n.want(t, 200, nil, "PUT", path, `{}`)
	n.want(t, 200, nil, "PUT", "/v1/cluster/limits", limits)
	n.want(t, 200, nil, "PUT", path, `{}`)
	n.want(t, 429, nil, "PUT", path, `{}`)
}
