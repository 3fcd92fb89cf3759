package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/cmd/snipctl/bench"
)

// A table must say in words that an open loop was more than could be done, and
// that its latencies are lower bounds.
func TestTablesSayWhatWasNotStarted(t *testing.T) {
	full := bench.Summary{Count: 28, NotStarted: 572, Latency: bench.Latency{P50: 1400, P99: 2900, Max: 2950}}
	calm := bench.Summary{Count: 28, Latency: bench.Latency{P50: 1.4, P99: 2.9, Max: 2.95}}
	starts := bench.Starts{Due: 600, Started: 28, NotStarted: 572}
	var b bytes.Buffer
	a := &app{stdout: &b, output: "table"}
	kv := []*bench.KVResult{{Clients: 1, Rate: 200, WriteShare: 1, Starts: starts, Put: full}}
	workflows := []*bench.WorkflowResult{{Workers: 1, Rate: 200, Starts: starts, Completed: 28, Create: full, Workflow: full, Embed: calm}}
	for name, c := range map[string]struct {
		show func() error
		want []string
	}{
		"kv": {
			func() error {
				return a.printRuns(kv, func() *table { return kvTable(kv) }, func() { a.kvDetails(kv) })
			},
			[]string{"NOT STARTED", "≥2900ms", "600 operations were due, 28 started, 572 not started", "did not keep up with 200/s", "--clients"},
		},
		"workflows": {
			func() error {
				return a.printRuns(workflows, func() *table { return workflowTable(workflows) }, func() { a.workflowDetails(workflows) })
			},
			[]string{"NOT STARTED", "≥2900ms", " 2.90ms", "600 workflows were due, 28 started, 572 not started", "did not keep up with 200/s", "--workers"},
		},
	} {
		b.Reset()
		if err := c.show(); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, b.String())
			}
		}
	}
	b.Reset()
	kv[0].Put, kv[0].Starts = calm, bench.Starts{Due: 28, Started: 28}
	a.kvDetails(kv)
	if strings.Contains(b.String(), "WARNING") || !strings.Contains(b.String(), "0 not started") {
		t.Errorf("a load that was done:\n%s", b.String())
	}
}

func TestARateMustBeOne(t *testing.T) {
	for _, rate := range []string{"-1", "NaN", "1e12"} {
		for _, command := range []string{"kv", "embed-workflows"} {
			if got := snipctl(t, "http://127.0.0.1:1", "", "bench", command, "--open-rate", rate); got.code != exitUsage || !strings.Contains(got.errOut, "--open-rate") {
				t.Errorf("%s at %s: %+v", command, rate, got)
			}
		}
	}
}
