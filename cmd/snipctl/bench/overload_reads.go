package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
)

// The reads beside the load: enough for a percentile, too few to be a load.
const (
	readRate    = 60 // a second, over all nodes and levels
	readWorkers = 64
	readKeys    = 100
)

// ReadsResult is how the nodes answered reads while something else went on.
// Latencies count from when a read was due.
type ReadsResult struct {
	While        string  `json:"while"`
	Local        Summary `json:"local"`
	Linearizable Summary `json:"linearizable"`
}

// readers reads from all nodes in turn, local and linearizable, until the
// returned function is called.
func (r *overloadRun) readers(ctx context.Context, while string) (stop func() ReadsResult) {
	ctx, cancel := context.WithCancel(ctx)
	levels := [2]client.Consistency{client.Local(), client.Linearizable()}
	recorders := [2]*Recorder{NewRecorder(), NewRecorder()}
	done := make(chan time.Duration, 1)
	var ended atomic.Bool
	go func() {
		// The duration is only to give Load an end; the caller ends it before.
		_, elapsed := Load{Workers: readWorkers, Duration: time.Hour, Rate: readRate}.Run(ctx, func(ctx context.Context, _ int, n int64, due time.Time) {
			node, level := r.nodes[n%int64(len(r.nodes))], n/int64(len(r.nodes))%2
			_, _, err := r.cl.GetDocument(ctx, r.Collection, fmt.Sprintf(keyFormat, n%min(r.Keys, readKeys)),
				client.OnEndpoint(node.Endpoint), client.WithConsistency(levels[level]))
			switch {
			case ended.Load(): // cut off by the end
			case err != nil:
				recorders[level].Failed()
				r.counters.failure("read from "+node.ID, err)
			default:
				recorders[level].Done(time.Since(due))
			}
		}, nil)
		done <- elapsed
	}()
	return func() ReadsResult {
		ended.Store(true)
		cancel()
		elapsed := <-done
		return ReadsResult{While: while, Local: recorders[0].Summary(elapsed), Linearizable: recorders[1].Summary(elapsed)}
	}
}
