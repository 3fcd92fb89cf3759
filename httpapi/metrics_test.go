package httpapi

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A series that an alert compares must be there before its first event.
func TestSeriesAreThereFromTheStart(t *testing.T) {
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		what   string
		c      prometheus.Collector
		series int
	}{
		// Four classes with two reasons each; connections, bodies, rates, deadlines.
		{"refusals by gate and reason", m.refused, 4*2 + 4},
		{"requests in flight by class", m.inFlight, 4},
		{"requests waiting by class", m.waiting, 4},
		{"bytes received by class", m.received, 5},
		{"bytes sent by class", m.sent, 5},
		{"forwarded by result", m.forwarded, 3},
		{"import lines by result", m.importLines, 3},
	} {
		if got := testutil.CollectAndCount(row.c); got != row.series {
			t.Errorf("%s: %d series, want %d", row.what, got, row.series)
		}
	}
}
