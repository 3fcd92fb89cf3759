package cluster

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// The limits of one write of a migration: a few fsyncs for each gigabyte, and
// bounded memory.
const (
	migrateEntries = 1024
	migrateBytes   = 8 << 20
)

// MigrateLog copies all entries of one log into another, which must be empty,
// reads them back, and compares each. On an error the target may hold a part
// of them: delete it. The source is never changed.
func MigrateLog(from, to LogStore) (entries uint64, err error) {
	if last, err := to.LastIndex(); err != nil {
		return 0, fmt.Errorf("cluster: migrate log: look at the target: %w", err)
	} else if last != 0 {
		return 0, fmt.Errorf("cluster: migrate log: the target already holds entries up to %d: start with an empty one", last)
	}
	first, last, err := logBounds(from)
	if err != nil {
		return 0, fmt.Errorf("cluster: migrate log: %w", err)
	}
	if first == 0 {
		return 0, nil
	}
	copied, err := copyLog(from, to, first, last)
	if err != nil {
		return 0, fmt.Errorf("cluster: migrate log: %w", err)
	}
	if err := compareLogs(from, to, first, last, copied); err != nil {
		return 0, fmt.Errorf("cluster: migrate log: verify: %w", err)
	}
	return copied, nil
}

func logBounds(l LogStore) (first, last uint64, err error) {
	if first, err = l.FirstIndex(); err != nil {
		return 0, 0, err
	}
	last, err = l.LastIndex()
	return first, last, err
}

func copyLog(from, to LogStore, first, last uint64) (copied uint64, err error) {
	var batch []*raft.Log
	var size uint64
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := to.StoreLogs(batch)
		copied += uint64(len(batch))
		batch, size = nil, 0
		return err
	}
	for index := first; index <= last; index++ {
		l := new(raft.Log)
		err := from.GetLog(index, l)
		if errors.Is(err, raft.ErrLogNotFound) {
			continue // a gap is kept as a gap
		}
		if err != nil {
			return 0, fmt.Errorf("read entry %d: %w", index, err)
		}
		batch = append(batch, l)
		if size += entrySize(l); len(batch) >= migrateEntries || size >= migrateBytes {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
	if err := flush(); err != nil {
		return 0, err
	}
	return copied, nil
}

// compareLogs reads both from first to last and finds the first difference.
func compareLogs(from, to LogStore, first, last, want uint64) error {
	toFirst, toLast, err := logBounds(to)
	if err != nil {
		return err
	}
	if toFirst != first || toLast != last {
		return fmt.Errorf("the target holds entries %d to %d, the source %d to %d", toFirst, toLast, first, last)
	}
	var seen uint64
	for index := first; index <= last; index++ {
		var a, b raft.Log
		errA, errB := from.GetLog(index, &a), to.GetLog(index, &b)
		if errors.Is(errA, raft.ErrLogNotFound) && errors.Is(errB, raft.ErrLogNotFound) {
			continue
		}
		if errA != nil || errB != nil {
			return fmt.Errorf("read entry %d: %w", index, errors.Join(errA, errB))
		}
		if a.Index != b.Index || a.Term != b.Term || a.Type != b.Type || !a.AppendedAt.Equal(b.AppendedAt) ||
			!bytes.Equal(a.Data, b.Data) || !bytes.Equal(a.Extensions, b.Extensions) {
			return fmt.Errorf("entry %d differs", index)
		}
		seen++
	}
	if seen != want {
		return fmt.Errorf("%d entries copied, %d found", want, seen)
	}
	return nil
}
