package bench

import (
	"context"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
)

// What was due and found no worker is counted and told, with the time that it
// had waited when the load ended.
func TestAnOpenLoopTellsWhatItDidNotStart(t *testing.T) {
	const end = 100 * time.Millisecond
	for name, load := range map[string]Load{
		"by time":           {Workers: 1, Duration: end, Rate: 1000},
		"by time and count": {Workers: 1, Duration: end, Rate: 1000, Jobs: 40},
		"more workers":      {Workers: 7, Duration: end, Rate: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			told := map[int64]time.Duration{}
			starts, _ := load.Run(t.Context(), func(ctx context.Context, _ int, _ int64, _ time.Time) { sleep(ctx, 2*end) },
				func(n int64, waited time.Duration) { told[n] = waited })
			due := int64(100)
			if load.Jobs > 0 {
				due = load.Jobs
			}
			if starts.Due != due || starts.Started > int64(load.Workers) || starts.Started+starts.NotStarted != due || int64(len(told)) != starts.NotStarted {
				t.Errorf("got %+v and %d told, %d were due", starts, len(told), due)
			}
			for n, waited := range told {
				if want := end - time.Duration(n)*time.Millisecond; n >= due || waited != want {
					t.Errorf("job %d had waited %s, want %s", n, waited, want)
				}
			}
		})
	}
}

func TestDueBefore(t *testing.T) {
	for _, c := range []struct {
		rate float64
		jobs int64
		end  time.Duration
		want int64
	}{
		{200, 0, 3 * time.Second, 600},
		{200, 100, 3 * time.Second, 100},
		{200, 100, 0, 100},
		{3, 0, time.Second, 3},
		{3, 0, time.Second + time.Millisecond, 4},
		{0.1, 0, time.Second, 1},
		{1e6, 0, time.Second, 1_000_000},
		{1e-11, 10, time.Second, 1}, // the second is due in three thousand years
		{5e-324, 10, time.Second, 1},
	} {
		if got := (Load{Rate: c.rate, Jobs: c.jobs}).dueBefore(c.end); got != c.want {
			t.Errorf("at %g/s, %d jobs, until %s: %d are due, want %d", c.rate, c.jobs, c.end, got, c.want)
		}
	}
}

func TestAnOpenLoopOfHardlyAnythingEnds(t *testing.T) {
	load := Load{Workers: 2, Jobs: 3, Duration: 10 * time.Millisecond, Rate: 1e-11}
	starts, _ := load.Run(t.Context(), func(context.Context, int, int64, time.Time) {}, nil)
	if starts.Due != 1 || starts.Started > 1 {
		t.Errorf("got %+v", starts)
	}
}

// A cluster that is too slow for the rate must show it in counts and latencies,
// though only the first operations of all were done.
func TestKVShowsWhatWasNotStarted(t *testing.T) {
	const end = 500 * time.Millisecond
	for name, share := range map[string]float64{"put": 1, "get": 0} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			hold := func() { time.Sleep(end) }
			if share == 1 {
				n.refuse = func(string, int) int { hold(); return 0 }
			}
			k := KV{Load: Load{Workers: 1, Duration: end, Rate: 40}, WriteShare: share, Keys: 5, ValueBytes: 64, Consistency: client.Local()}
			if share == 0 {
				n.slowGet = hold
			}
			r, err := k.Run(t.Context(), n.env(t))
			if err != nil {
				t.Fatal(err)
			}
			s := r.Put
			if share == 0 {
				s = r.Get
				if r.Nodes["n1"].NotStarted != r.NotStarted {
					t.Errorf("n1 has %+v", r.Nodes["n1"])
				}
			}
			if r.Due != 20 || r.Started > 1 || s.Count != r.Started || s.NotStarted != r.NotStarted || r.Started+r.NotStarted != 20 {
				t.Errorf("got %+v", r)
			}
			if s.P50 < 200 || r.Failed != 0 {
				t.Errorf("p50 is %.1f ms with %d failed: the wait was omitted", s.P50, r.Failed)
			}
		})
	}
}

func TestWorkflowsShowWhatWasNotStarted(t *testing.T) {
	w := workflows()
	w.Load, w.Think = Load{Workers: 1, Duration: 300 * time.Millisecond, Rate: 100}, 400*time.Millisecond
	r, err := w.Run(t.Context(), newNode(t).env(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.Due != 30 || r.Started > 1 || r.Completed != r.Started || r.Failed != 0 || r.Started+r.NotStarted != 30 {
		t.Errorf("got %+v", r)
	}
	if r.Create.NotStarted != r.NotStarted || r.Workflow.NotStarted != r.NotStarted || r.Embed.NotStarted != 0 || r.Workflow.P50 < 100 {
		t.Errorf("create %+v, embed %+v, workflow %+v", r.Create, r.Embed, r.Workflow)
	}
	if r.Started > 0 && !r.OK() {
		t.Error("what was not started is a warning, and not a failure")
	}
}
