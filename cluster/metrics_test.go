package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/snipdb/snipdb/cluster/contract"
)

// A series that an alert compares must be there before its first event.
func TestSeriesAreThereFromTheStart(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(reg, &Node{})
	for _, row := range []struct {
		what   string
		c      prometheus.Collector
		series int
	}{
		{"proposals by outcome", m.proposals, 3},
		{"refusals by reason", m.refusals, len(gateReasons)},
		{"rounds by kind and result", m.rounds, 2 * len(readResults)},
		{"reads by level and result", m.reads, len(readLevels) * len(readResults)},
		{"waits by level", m.readWait, len(readLevels)},
		{"snapshots by result", m.snapshots, 3},
		{"refused connections by reason", newMuxMetrics(reg).refused, 9},
	} {
		if got := testutil.CollectAndCount(row.c); got != row.series {
			t.Errorf("%s: %d series, want %d", row.what, got, row.series)
		}
	}
	// Nothing that happens later adds a series.
	m.refused(contract.DiskLow)
	m.read(contract.Bounded, 0, contract.ErrTooStale)
	m.round("leader", 1, 0, contract.ErrNoLeader)
	m.snapshot(nil)
	if got := testutil.CollectAndCount(m.refusals) + testutil.CollectAndCount(m.reads); got != len(gateReasons)+len(readLevels)*len(readResults) {
		t.Errorf("%d series of refusals and reads after one of each", got)
	}
	for code := refuseVersion; code <= refuseFrame; code++ {
		if strings.HasPrefix(code.label(), "unknown") {
			t.Errorf("refusal %d has no label", code)
		}
	}
}

func TestGatesSayWhatTheyRefuseWithoutTraffic(t *testing.T) {
	o := DefaultOptions()
	o.MaxInflightCommands = 1
	g, s := newTestGates(o)
	want := func(when string, shares map[contract.OverloadReason]float64) {
		t.Helper()
		for _, reason := range gateReasons {
			if got := g.refusing(reason); got != shares[reason] {
				t.Errorf("%s: %s refuses %v of the writes, want %v", when, reason, got, shares[reason])
			}
		}
	}
	want("idle", nil)
	s.pressure, s.low, s.free, s.gap = 0.75, true, 0, o.MaxApplyGap+1
	g.look(time.Now())
	want("everything at once", map[contract.OverloadReason]float64{
		contract.StorageStalled: 0.5, contract.MemoryLow: 1, contract.DiskLow: 1, contract.ApplyLag: 1,
	})
	s.pressure, s.low, s.free, s.gap = 3, false, s.total, 0
	g.look(time.Now())
	if err := g.acquire(1, false); err == nil {
		t.Error("a write was taken in a stall")
	}
	want("a stall", map[contract.OverloadReason]float64{contract.StorageStalled: 1})
	s.pressure = 0
	g.look(time.Now())
	if err := g.acquire(1, false); err != nil {
		t.Fatal(err)
	}
	want("full", map[contract.OverloadReason]float64{contract.QueueFull: 1})
}
