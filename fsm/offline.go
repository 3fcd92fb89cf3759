package fsm

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
)

// ErrNotRebuildable: snapshot and log of a node don't reach back, or forward,
// to the state that is wanted. Nothing is wrong with them because of that.
var ErrNotRebuildable = errors.New("the state at this index can't be rebuilt")

// rebuildSlice is how many entries Rebuild applies at once; an entry is 512 KiB
// at most.
const rebuildSlice = 64

// ReadMembers returns the members that a state names, for tools that look at
// the state of a node that does not run.
func ReadMembers(v *storage.View) ([]*command.Member, error) {
	sys, err := loadSystem(v)
	return sys.members, err
}

// Rebuild makes the state as of the index to a second time, from the newest
// snapshot and the log of a node that does not run. The machine must be new,
// and over an empty store. It returns the index of the snapshot, 0 for none,
// and how many entries were applied after it. Errors: ErrNotRebuildable, those
// of the log, and the reason why an entry can't be applied.
//
// It is the proof that apply is a function of the log alone: what a running
// node has reached in slices, with crashes, installs and deliveries that came
// twice, must be what comes out here.
func (f *FSM) Rebuild(log raft.LogStore, to uint64) (snapshotIndex, entries uint64, err error) {
	if index, _ := f.Applied(); index != 0 {
		return 0, 0, fmt.Errorf("fsm: rebuild: the store is not empty, it is at index %d", index)
	}
	if snapshotIndex, err = f.rebuildBase(to); err != nil {
		return snapshotIndex, 0, err
	}
	first, last, err := bounds(log)
	if err != nil {
		return snapshotIndex, 0, fmt.Errorf("fsm: rebuild: %w", err)
	}
	if to > snapshotIndex && (first > snapshotIndex+1 || last < to) {
		return snapshotIndex, 0, fmt.Errorf("fsm: rebuild: index %d from a snapshot of %d and a log from %d to %d: %w", to, snapshotIndex, first, last, ErrNotRebuildable)
	}
	for next := snapshotIndex + 1; next <= to; {
		var slice []*raft.Log
		if slice, next, err = readSlice(log, next, to); err != nil {
			return snapshotIndex, entries, fmt.Errorf("fsm: rebuild: %w", err)
		}
		f.ApplyBatch(slice)
		if f.stopped != nil {
			return snapshotIndex, entries, fmt.Errorf("fsm: rebuild: %w", f.stopped)
		}
		entries += uint64(len(slice))
	}
	return snapshotIndex, entries, nil
}

// rebuildBase restores the newest snapshot, if there is one.
func (f *FSM) rebuildBase(to uint64) (uint64, error) {
	metas, err := f.snaps.List()
	if err != nil || len(metas) == 0 {
		return 0, err
	}
	if metas[0].Index > to {
		return metas[0].Index, fmt.Errorf("fsm: rebuild: the newest snapshot is of index %d, and %d is wanted: %w", metas[0].Index, to, ErrNotRebuildable)
	}
	meta, source, err := f.snaps.Open(metas[0].ID)
	if err != nil {
		return 0, err
	}
	return meta.Index, errors.Join(f.Restore(source), source.Close())
}

func bounds(log raft.LogStore) (first, last uint64, err error) {
	if first, err = log.FirstIndex(); err != nil {
		return 0, 0, err
	}
	last, err = log.LastIndex()
	return first, last, err
}

// readSlice reads the entries from next on that raft hands to a state machine:
// the others, no-ops and barriers, are its own.
func readSlice(log raft.LogStore, next, to uint64) (slice []*raft.Log, after uint64, err error) {
	for ; next <= to && len(slice) < rebuildSlice; next++ {
		entry := new(raft.Log)
		if err := log.GetLog(next, entry); err != nil {
			return nil, next, fmt.Errorf("read entry %d: %w", next, err)
		}
		if entry.Type == raft.LogCommand || entry.Type == raft.LogConfiguration {
			slice = append(slice, entry)
		}
	}
	return slice, next, nil
}
