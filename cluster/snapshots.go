package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage/mutant"
)

// installLimit is how often the same snapshot may be installed before it is
// clear that it leads nowhere.
const installLimit = 3

// keepSnapshots takes a snapshot whenever the log since the last one is
// larger than SnapshotBytes. The library's own schedule is off: it counts
// entries, and one of ours may be 20 bytes or 512 KiB.
func (n *Node) keepSnapshots(ctx context.Context) {
	t := time.NewTicker(n.o.SnapshotCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if n.logs.bytesSince(n.snapshotIndex()) < n.o.SnapshotBytes {
			continue
		}
		if index, err := n.Snapshot(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("snapshot failed; it will be tried again", "error", err)
		} else if err == nil {
			n.log.Info("snapshot taken", "index", index, "log_bytes", n.logs.bytes())
		}
	}
}

// Snapshot takes a snapshot of this node's state now, drops the log that it
// makes unnecessary, and returns the index of the newest snapshot. If nothing
// was applied since the last one, that one is returned.
func (n *Node) Snapshot(ctx context.Context) (index uint64, err error) {
	defer func() { n.met.snapshot(err) }()
	r := n.raft.Load()
	if r == nil {
		return 0, n.notRunning()
	}
	if n.p.BeforeSnapshot != nil {
		if err := n.p.BeforeSnapshot(); err != nil {
			return 0, fmt.Errorf("cluster: prepare snapshot: %w", err)
		}
	}
	// What may stay behind is a number of bytes; the library wants a number
	// of entries, so it is counted just before.
	trailing := n.trailingLogs()
	if err := n.reload(r, func(c *raft.ReloadableConfig) { c.TrailingLogs = trailing }); err != nil {
		return 0, fmt.Errorf("cluster: set trailing logs: %w", err)
	}
	if mutant.On(mutant.TruncateEarly) {
		n.truncateNow(trailing)
	}
	if err := wait(ctx, r.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return 0, fmt.Errorf("cluster: take snapshot: %w", err)
	}
	return n.snapshotIndex(), nil
}

// trailingLogs is how many of the last entries make TrailingBytes; at least
// one, because 0 would make every follower need the snapshot.
func (n *Node) trailingLogs() uint64 {
	return max(1, n.logs.indexForTrailingBytes(n.o.TrailingBytes))
}

// newestSnapshot returns the newest snapshot's meta; nil if there is none.
func newestSnapshot(s raft.SnapshotStore) (*raft.SnapshotMeta, error) {
	list, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("cluster: list snapshots: %w", err)
	}
	var newest *raft.SnapshotMeta
	for _, m := range list {
		if newest == nil || m.Index > newest.Index {
			newest = m
		}
	}
	return newest, nil
}

func (n *Node) snapshotIndex() uint64 {
	m, err := newestSnapshot(n.p.Snapshots)
	if err != nil || m == nil {
		return 0
	}
	return m.Index
}

// snapshotAge reads the time of a snapshot from its id, <term>-<index>-<ms>.
func snapshotAge(m *raft.SnapshotMeta, now time.Time) time.Duration {
	parts := strings.Split(m.ID, "-")
	ms, err := strconv.ParseInt(parts[len(parts)-1], 10, 64)
	if err != nil || len(parts) < 3 {
		return 0
	}
	return max(0, now.Sub(time.UnixMilli(ms)))
}

// watchedFSM looks at the snapshots that Raft installs.
type watchedFSM struct {
	raft.BatchingFSM
	watch *installWatch
}

// Restore is Raft's, when a leader sent a snapshot.
//
// The library never compares the snapshot with what is applied already (raft.go,
// installSnapshot): an InstallSnapshot that was held up in the network for a
// while would roll the state back. To an error here Raft changes nothing.
func (f *watchedFSM) Restore(rc io.ReadCloser) error {
	applied, _ := f.watch.applied()
	if index, ok := snapshotIndexOf(rc); ok && index < applied && !mutant.On(mutant.LateInstall) {
		return fmt.Errorf("cluster: the snapshot at %d came too late: %d is applied", index, applied)
	}
	f.watch.count()
	return f.BatchingFSM.Restore(rc)
}

// snapshotIndexOf asks a snapshot's reader which snapshot it reads, through
// the wrappers that Raft puts around it.
func snapshotIndexOf(rc io.ReadCloser) (uint64, bool) {
	for {
		if s, ok := rc.(interface{ SnapshotIndex() uint64 }); ok {
			return s.SnapshotIndex(), true
		}
		w, ok := rc.(raft.ReadCloserWrapper)
		if !ok {
			return 0, false
		}
		rc = w.WrappedReadCloser()
	}
}

// installWatch ends the process when the same snapshot is installed again and
// again without progress, because the log conflicts with it: hashicorp/raft #697
// never drops such a log. The start-up check does. An install that is only
// repeated, because the leader's answer got lost on a slow link, is no reason.
type installWatch struct {
	snaps   raft.SnapshotStore
	logs    raft.LogStore
	applied func() (index, term uint64)
	fatal   func(error)

	mu    sync.Mutex // guards both
	index uint64     // of the last snapshot installed
	times int
}

func (w *installWatch) count() {
	m, err := newestSnapshot(w.snaps)
	if err != nil || m == nil {
		return
	}
	var at raft.Log
	conflict := w.logs.GetLog(m.Index, &at) == nil && at.Term != m.Term
	applied, _ := w.applied()
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.Index != w.index || applied > m.Index || !conflict {
		w.index, w.times = m.Index, 0
	}
	if !conflict {
		return
	}
	if w.times++; w.times >= installLimit {
		w.fatal(fmt.Errorf("cluster: the snapshot at index %d was installed %d times, and the log conflicts with it: restart the process, which drops that log", m.Index, w.times))
	}
}
