package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// The tests of this file run on a clock of their own (package synctest), so
// that waits can be checked exactly and cost nothing. The transport is a
// function in place of a network.

type script struct {
	mu sync.Mutex
	// at are the times at which the requests came, hosts their nodes.
	at    []time.Time
	hosts []string
	serve func(attempt int, w http.ResponseWriter, r *http.Request) error
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.at, s.hosts = append(s.at, time.Now()), append(s.hosts, r.URL.Host)
	n := len(s.at)
	s.mu.Unlock()
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil {
		trace.WroteHeaders()
	}
	w := httptest.NewRecorder()
	if err := s.serve(n, w, r); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// gaps are the times between the requests.
func (s *script) gaps() []time.Duration {
	var out []time.Duration
	for i := 1; i < len(s.at); i++ {
		out = append(out, s.at[i].Sub(s.at[i-1]))
	}
	return out
}

// refuse answers with the code until the attempt number is reached, then 200.
func refuse(code wire.Code, retryAfter, until int) func(int, http.ResponseWriter, *http.Request) error {
	return func(n int, w http.ResponseWriter, _ *http.Request) error {
		if n >= until {
			_, _ = io.WriteString(w, `{"id":"d","revision":1}`)
			return nil
		}
		outcome := OutcomeNotApplied
		if code == wire.CodeOutcomeUnknown {
			outcome = OutcomeUnknownToNode
		}
		writeProblem(w, code, outcome, retryAfter, "")
		return nil
	}
}

func (s *script) client(t *testing.T, nodes int, o Options) *Client {
	t.Helper()
	o.HTTPClient = &http.Client{Transport: s}
	endpoints := []string{"a:1", "b:1", "c:1"}[:nodes]
	cl, err := New(endpoints, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func put(cl *Client, opts ...WriteOption) (Meta, error) {
	_, meta, err := cl.PutDocument(context.Background(), "c", "d", content("x"), opts...)
	return meta, err
}

func TestRetryAfterIsHonouredAndSpread(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeOverloaded, wire.CodeRateLimited, wire.CodeNoLeader, wire.CodeNotReady} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{serve: refuse(code, 2, 4)}
			meta, err := put(s.client(t, 1, Options{}))
			if err != nil || meta.Attempts != 4 {
				t.Fatalf("%s: attempts %d, error %v", code, meta.Attempts, err)
			}
			different := map[time.Duration]bool{}
			for _, gap := range s.gaps() {
				if gap < 2*time.Second || gap > 2600*time.Millisecond {
					t.Errorf("%s: waited %v for Retry-After: 2", code, gap)
				}
				different[gap] = true
			}
			if len(different) < 2 {
				t.Errorf("%s: the waits %v have no jitter", code, s.gaps())
			}
		})
	}
}

func TestRetryAfterAsADate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(n int, w http.ResponseWriter, _ *http.Request) error {
			if n == 1 {
				w.Header().Set("Retry-After", time.Now().Add(3*time.Second).UTC().Format(http.TimeFormat))
				writeProblem(w, wire.CodeOverloaded, OutcomeNotApplied, 0, "")
			}
			return nil
		}}
		if _, err := put(s.client(t, 1, Options{})); err != nil {
			t.Fatal(err)
		}
		if gap := s.gaps()[0]; gap < 2*time.Second || gap > 4*time.Second {
			t.Fatalf("waited %v", gap)
		}
	})
}

func TestTheBackoffDoublesWithFullJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rounds = 200
		var sums, least, most [6]time.Duration
		for range rounds {
			s := &script{serve: refuse(wire.CodeInternal, 0, 7)}
			cl := s.client(t, 1, Options{BaseBackoff: 100 * time.Millisecond, MaxBackoff: 800 * time.Millisecond})
			if _, err := put(cl); err != nil {
				t.Fatal(err)
			}
			for i, gap := range s.gaps() {
				if bound := min(100*time.Millisecond<<i, 800*time.Millisecond); gap > bound+time.Millisecond {
					t.Fatalf("wait %d is %v, the bound is %v", i, gap, bound)
				}
				sums[i] += gap
				most[i] = max(most[i], gap)
				if least[i] == 0 || gap < least[i] {
					least[i] = gap
				}
			}
		}
		for i, sum := range sums {
			// The mean of full jitter is half of the bound; 200 draws are
			// within a fifth of it all but certainly (5 standard deviations).
			bound := min(100*time.Millisecond<<i, 800*time.Millisecond)
			if mean := sum / rounds; mean < bound*2/5 || mean > bound*3/5 {
				t.Errorf("wait %d is %v in the mean, the bound is %v", i, mean, bound)
			}
			if least[i] > bound/5 || most[i] < bound*4/5 {
				t.Errorf("wait %d is from %v to %v, full jitter goes from 0 to %v", i, least[i], most[i], bound)
			}
		}
	})
}

func TestAnElectionIsRiddenThrough(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeNoLeader, wire.CodeNotLeader, wire.CodeNotReady} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			s := &script{serve: func(n int, w http.ResponseWriter, _ *http.Request) error {
				if time.Since(begin) < 12*time.Second {
					writeProblem(w, code, OutcomeNotApplied, 0, "")
				}
				return nil
			}}
			// Neither attempts nor budget may end it.
			cl := s.client(t, 3, Options{MaxAttempts: 1, Budget: RetryBudget{Burst: 1, FailFast: true}})
			meta, err := put(cl)
			if err != nil {
				t.Fatalf("%s: %v", code, err)
			}
			if over := time.Since(begin) - 12*time.Second; over > electionBackoff {
				t.Errorf("%s: noticed the end of the election %v late", code, over)
			}
			if meta.Attempts > 400 {
				t.Errorf("%s: %d requests in 12 s", code, meta.Attempts)
			}
			if cl.core.budget.tokens < 1 {
				t.Errorf("%s: it spent budget", code)
			}
		})
	}
}

func TestTheCallEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: refuse(wire.CodeNoLeader, 1, 1000)}
		begin := time.Now()
		_, err := put(s.client(t, 3, Options{Timeout: 5 * time.Second}))
		var e *Error
		if !errors.As(err, &e) || e.GaveUp != GaveUpDeadline || OutcomeUnknown(err) || !errors.Is(err, ErrUnavailable) {
			t.Fatalf("error %v", err)
		}
		// It ends early when the next attempt would come too late.
		if spent := time.Since(begin); spent > 5*time.Second || spent < 3*time.Second {
			t.Fatalf("it took %v", spent)
		}
	})
}

func TestAttemptsAreBounded(t *testing.T) {
	for max, want := range map[int]int{1: 1, 3: 3, 0: DefaultMaxAttempts} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{serve: refuse(wire.CodeInternal, 0, 1000)}
			_, err := put(s.client(t, 1, Options{MaxAttempts: max}))
			var e *Error
			if !errors.As(err, &e) || e.GaveUp != GaveUpAttempts || len(s.at) != want || e.Attempts != want {
				t.Errorf("MaxAttempts %d: %d requests, error %v", max, len(s.at), err)
			}
		})
	}
}

func TestWhatIsRepeated(t *testing.T) {
	final := []wire.Code{
		wire.CodeInvalidJSON, wire.CodeInvalidField, wire.CodeInvalidParameter, wire.CodeInvalidVector, wire.CodeDimensionMismatch,
		wire.CodeBodyTooLarge, wire.CodeDocumentTooLarge, wire.CodeUnsupportedType, wire.CodeNotFound, wire.CodeRouteNotFound,
		wire.CodeMethodNotAllowed, wire.CodeAlreadyExists, wire.CodeRevisionMismatch, wire.CodeOwnerConflict, wire.CodeCollectionConflict,
		wire.CodeLimitExceeded, wire.CodeSnippetGap, wire.CodeEmbeddingIndex, wire.CodeKeyReused, wire.CodeWrongCluster, wire.CodeMembership,
	}
	isFinal := map[wire.Code]bool{}
	for _, code := range final {
		isFinal[code] = true
	}
	for _, info := range wire.Codes { // a new code must be decided on here too
		synctest.Test(t, func(t *testing.T) {
			s := &script{serve: refuse(info.Code, 0, 2)}
			meta, err := put(s.client(t, 1, Options{}))
			want := 2
			if isFinal[info.Code] {
				want = 1
			}
			if len(s.at) != want || meta.Attempts != want || (err == nil) != (want == 2) {
				t.Errorf("%s: %d requests, want %d; error %v", info.Code, len(s.at), want, err)
			}
		})
	}
}

func TestReadsTryAnotherNodeAtOnce(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeOverloaded, wire.CodeBehind, wire.CodeTooStale, wire.CodeNotReady, wire.CodeNoLeader, wire.CodeDiverged} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{serve: refuse(code, 5, 3)}
			_, meta, err := s.client(t, 3, Options{}).GetDocument(t.Context(), "c", "d")
			if err != nil || meta.Attempts != 3 || s.at[2] != s.at[0] {
				t.Fatalf("%s: attempts %d over %v, error %v", code, meta.Attempts, s.gaps(), err)
			}
			seen := map[string]bool{}
			for _, host := range s.hosts {
				seen[host] = true
			}
			if len(seen) != 3 {
				t.Errorf("%s: went to %v", code, s.hosts)
			}
		})
	}
}

func TestAnOverloadedLeaderIsNotAskedThroughAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: refuse(wire.CodeOverloaded, 1, 3)}
		if _, err := put(s.client(t, 3, Options{})); err != nil {
			t.Fatal(err)
		}
		for _, gap := range s.gaps() {
			if gap < time.Second {
				t.Errorf("asked again after %v", gap)
			}
		}
	})
}

func TestAPinnedCallStaysWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: refuse(wire.CodeNotReady, 0, 5)}
		cl := s.client(t, 2, Options{})
		if _, _, err := cl.GetDocument(t.Context(), "c", "d", OnEndpoint("http://z:1/")); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.hosts, " "); got != "z:1 z:1 z:1 z:1 z:1" {
			t.Fatalf("went to %s", got)
		}
		if len(cl.Endpoints()) != 2 {
			t.Fatalf("the pinned node became an endpoint: %v", cl.Endpoints())
		}
	})
}

func TestTheBudgetBoundsTheRetriesOfAllCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(_ int, w http.ResponseWriter, _ *http.Request) error {
			writeProblem(w, wire.CodeOverloaded, OutcomeNotApplied, 0, "")
			return nil
		}}
		cl := s.client(t, 1, Options{Budget: RetryBudget{Ratio: 0.1, Burst: 20, PerSecond: 0.001, FailFast: true}})
		const calls = 1000
		gaveUp := map[string]int{}
		for range calls {
			_, err := put(cl)
			var e *Error
			if !errors.As(err, &e) || OutcomeUnknown(err) {
				t.Fatal(err)
			}
			gaveUp[e.GaveUp]++
		}
		if retries := len(s.at) - calls; retries > 20+calls/10+5 || retries < calls/10 {
			t.Fatalf("%d retries in %d calls", retries, calls)
		}
		if gaveUp[GaveUpBudget] < calls*8/10 {
			t.Fatalf("gave up for %v", gaveUp)
		}
	})
}

func TestWithoutATokenACallWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: refuse(wire.CodeOverloaded, 0, 4)}
		cl := s.client(t, 1, Options{Budget: RetryBudget{Burst: 1, PerSecond: 0.5, Ratio: 0.001}})
		begin := time.Now()
		if _, err := put(cl); err != nil {
			t.Fatal(err)
		}
		// One token is there; the other two come at two seconds each.
		if spent := time.Since(begin); spent < 3900*time.Millisecond || spent > 20*time.Second {
			t.Fatalf("it took %v", spent)
		}
	})
}

func TestAFallingLeaderCostsNoBudget(t *testing.T) {
	// All calls that the leader held fail at once, each once: that is no
	// amplification, and may not use up the budget of what follows.
	synctest.Test(t, func(t *testing.T) {
		for _, code := range []wire.Code{wire.CodeOutcomeUnknown, ""} {
			s := &script{}
			first := map[string]bool{}
			s.serve = func(_ int, w http.ResponseWriter, r *http.Request) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				key := r.Header.Get(wire.HeaderIdempotencyKey)
				if first[key] {
					return nil
				}
				first[key] = true
				if code == "" {
					return io.ErrUnexpectedEOF
				}
				writeProblem(w, code, OutcomeUnknownToNode, 0, "")
				return nil
			}
			cl := s.client(t, 3, Options{Budget: RetryBudget{Burst: 1, FailFast: true}})
			var wg sync.WaitGroup
			for range 500 {
				wg.Go(func() {
					if _, err := put(cl); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if len(s.at) != 1000 {
				t.Errorf("%q: %d requests", code, len(s.at))
			}
		}
	})
}

func TestANodeThatFailedIsTriedByOneCallAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(_ int, w http.ResponseWriter, r *http.Request) error {
			if r.URL.Host == "a:1" {
				return errors.New("connection reset")
			}
			return nil
		}}
		cl := s.client(t, 2, Options{})
		for range 600 { // a minute
			if _, _, err := cl.GetDocument(t.Context(), "c", "d"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond) // on the clock of the test
		}
		n := 0
		for _, host := range s.hosts {
			if host == "a:1" {
				n++
			}
		}
		// 0.2, 0.4, … 5 s apart: about 16 in a minute.
		if n < 10 || n > 30 {
			t.Fatalf("the node was tried %d times", n)
		}
	})
}

func TestManyCallsSendOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: func(n int, w http.ResponseWriter, r *http.Request) error {
			if r.URL.Host == "a:1" {
				time.Sleep(time.Second) // on the clock of the test
				return errors.New("connection reset")
			}
			return nil
		}}
		cl := s.client(t, 2, Options{})
		read := func() { _, _, _ = cl.GetDocument(t.Context(), "c", "d") }
		read()
		read() // one of the two met the node
		time.Sleep(firstPause)
		s.mu.Lock()
		s.hosts = nil
		s.mu.Unlock()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(read)
		}
		wg.Wait()
		n := 0
		for _, host := range s.hosts {
			if host == "a:1" {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("%d of 100 calls tried the node that had failed", n)
		}
	})
}

func TestOnRetrySeesEachRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []RetryEvent
		s := &script{serve: refuse(wire.CodeOverloaded, 1, 3)}
		if _, err := put(s.client(t, 1, Options{OnRetry: func(e RetryEvent) { events = append(events, e) }})); err != nil {
			t.Fatal(err)
		}
		if len(events) != 2 || events[0].Attempt != 1 || events[1].Attempt != 2 || events[0].Free ||
			CodeOf(events[0].Err) != wire.CodeOverloaded || events[0].Wait != s.gaps()[0] || events[0].Endpoint != "http://a:1" {
			t.Fatalf("events %+v, gaps %v", events, s.gaps())
		}
	})
}

func TestCancellingEndsAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{serve: refuse(wire.CodeOverloaded, 20, 3)}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		_, _, err := s.client(t, 1, Options{}).PutDocument(ctx, "c", "d", content("x"))
		if !errors.Is(err, context.Canceled) || CodeOf(err) != wire.CodeOverloaded || time.Since(begin) != time.Second {
			t.Fatalf("after %v: %v", time.Since(begin), err)
		}
	})
}
