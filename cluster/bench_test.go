package cluster

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkPropose measures three nodes of this process over loopback, bolt
// logs with fsync, 1 KiB a write, at 1 and at 64 clients. It is where the default of
// MaxInflightEntries comes from: see DESIGN.md.
//
//	go test -run xxx -bench Propose -benchtime 3s ./cluster
func BenchmarkPropose(b *testing.B) {
	text := strings.Repeat("x", 1<<10)
	for _, clients := range []int{1, 64} {
		for _, inflight := range []int{0, 1, 2, 4} {
			name := fmt.Sprintf("clients=%d/inflight=%d", clients, inflight)
			if inflight == 0 {
				name = fmt.Sprintf("clients=%d/groupcommit=off", clients)
			}
			b.Run(name, func(b *testing.B) {
				c := newTestCluster(b)
				c.opts = func(_ string, o *Options) {
					d := DefaultOptions()
					o.HeartbeatTimeout, o.ElectionTimeout, o.LeaderLease = d.HeartbeatTimeout, d.ElectionTimeout, d.LeaderLease
					o.CommitTimeout, o.PollInterval = d.CommitTimeout, d.PollInterval
					o.MaxInflightEntries = max(inflight, 1)
					if inflight == 0 {
						o.GroupCommit = false
					}
				}
				c.three()
				leader := c.leader()
				var id atomic.Int64
				b.SetParallelism((clients + 1) / 2) // times GOMAXPROCS
				if clients == 1 {
					for b.Loop() {
						if _, err := leader.Propose(b.Context(), put(fmt.Sprint(id.Add(1)), text)); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := leader.Propose(b.Context(), put(fmt.Sprint(id.Add(1)), text)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkReadIndex measures the gate at 64 readers, on the leader and on a follower.
func BenchmarkReadIndex(b *testing.B) {
	c := newTestCluster(b)
	c.three()
	for name, n := range map[string]*testNode{"leader": c.leader(), "follower": c.follower()} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(32)
			before := n.roundsRun()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := n.ReadIndex(b.Context(), linearizable); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(n.roundsRun()-before)/float64(b.N), "rounds/op")
		})
	}
}
