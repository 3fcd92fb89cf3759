package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snipdb/snipdb/fsm"
	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
)

// shownDifferences is how many rows a comparison names; it counts all.
const shownDifferences = 10

// replay is what `snipdb inspect --replay` says: the state as the node has it
// against the state as its snapshot and its log make it.
type replay struct {
	// Index is the entry up to which was replayed.
	Index uint64 `json:"index"`
	// Snapshot is what the replay began with, 0 for nothing, and Entries what
	// came after that.
	Snapshot uint64 `json:"snapshot_index"`
	Entries  uint64 `json:"entries"`
	Rows     uint64 `json:"rows"`
	// Digest is the SHA-256 over all rows that came out. Nodes of one cluster
	// have the same one at the same index.
	Digest string `json:"digest"`
	// Problems are what does not fit within the node's own state: rows against
	// the state hash that it keeps, documents against their lists and counters.
	Problems []string `json:"problems,omitempty"`
	// Compared says whether the node's own state is of this index, and
	// Differences what is not the same then.
	Compared    bool     `json:"compared"`
	Different   uint64   `json:"different_rows"`
	Differences []string `json:"differences,omitempty"`
	// Impossible is why there was nothing to replay.
	Impossible string `json:"impossible,omitempty"`
}

// replay rebuilds the state of a stopped node in a temporary directory and
// compares. The log entries up to `to` are used; 0 is the state's own index.
func (r *report) replay(dir *dataDir, db *storage.DB, to uint64, warnings io.Writer) (err error) {
	own := r.Applied
	if !r.Restore {
		// What lies between a state and a newer snapshot has no effect then.
		own = max(own, r.Snapshot)
	}
	if to == 0 {
		to = own
	}
	r.Replay = &replay{Index: to}
	if err := r.Replay.verify(db); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "snipdb-replay-")
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	options := storage.DefaultOptions()
	options.Profile, options.Logger = storage.Small, quiet(warnings)
	shared, err := storage.NewShared(options)
	if err != nil {
		return err
	}
	defer shared.Close()
	store, err := storage.OpenStore(filepath.Join(scratch, "state"), options, shared)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	switch err := r.rebuild(dir, store, warnings); {
	case errors.Is(err, fsm.ErrNotRebuildable):
		r.Replay.Impossible = err.Error()
		return nil
	case err != nil:
		return err
	}
	view, err := store.View()
	if err != nil {
		return err
	}
	defer view.Close()
	if r.Replay.Digest, r.Replay.Rows, err = digest(view); err != nil || to != own {
		return err
	}
	mine, err := db.View()
	if err != nil {
		return err
	}
	defer mine.Close()
	r.Replay.Compared = true
	return r.Replay.compare(mine, view)
}

// verify reads all of the node's own state and computes its hash anew.
func (r *replay) verify(db *storage.DB) error {
	view, err := db.View()
	if err != nil {
		return err
	}
	defer view.Close()
	v, err := view.Verify(context.Background(), storage.VerifyOptions{})
	if err != nil {
		return err
	}
	r.Problems = v.Problems
	return nil
}

// rebuild fills the store from the node's newest snapshot and its log.
func (r *report) rebuild(dir *dataDir, store *storage.Store, warnings io.Writer) (err error) {
	snapshots, err := snapshot.NewStore(dir.snapshots(), snapshot.Options{Logger: quiet(warnings)})
	if err != nil {
		return err
	}
	log, err := dir.openLog(r.LogStore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	machine, err := fsm.New(store, snapshots, fsm.Options{Logger: quiet(warnings), Fatal: func(error) {}})
	if err != nil {
		return err
	}
	defer machine.Close()
	r.Replay.Snapshot, r.Replay.Entries, err = machine.Rebuild(log, r.Replay.Index)
	return err
}

// stateRow is one row of a dump. It is valid until the next one.
type stateRow struct{ family, key, value []byte }

// compareKey orders rows as a dump does.
func (a stateRow) compareKey(b stateRow) int {
	families := storage.Families()
	c := slices.Index(families, string(a.family)) - slices.Index(families, string(b.family))
	return cmp.Or(c, bytes.Compare(a.key, b.key))
}

func (a stateRow) String() string {
	words, err := storage.DescribeKey(string(a.family), a.key)
	if err != nil {
		words = err.Error()
	}
	return fmt.Sprintf("%s: %s", a.family, words)
}

var errEnough = errors.New("no more rows are wanted")

// rows are all rows of the visible state; failed is asked after the last one.
func rows(v *storage.View) (all iter.Seq[stateRow], failed func() error) {
	var err error
	all = func(yield func(stateRow) bool) {
		err = v.Dump(context.Background(), func(family, key, value []byte) error {
			if !yield(stateRow{family, key, value}) {
				return errEnough
			}
			return nil
		})
	}
	return all, func() error {
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	}
}

// digest is the SHA-256 of all rows, each part with its length in front.
func digest(v *storage.View) (string, uint64, error) {
	sum, count := sha256.New(), uint64(0)
	all, failed := rows(v)
	for r := range all {
		count++
		for _, part := range [][]byte{r.family, r.key, r.value} {
			_ = binary.Write(sum, binary.BigEndian, uint32(len(part)))
			_, _ = sum.Write(part)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), count, failed()
}

// compare walks through both states side by side: they are as large as a
// state may be, and neither fits into memory.
func (r *replay) compare(mine, rebuilt *storage.View) error {
	seqA, failedA := rows(mine)
	seqB, failedB := rows(rebuilt)
	nextA, stopA := iter.Pull(seqA)
	defer stopA()
	nextB, stopB := iter.Pull(seqB)
	defer stopB()
	a, okA := nextA()
	b, okB := nextB()
	for okA || okB {
		order := 0
		switch {
		case !okA:
			order = 1
		case !okB:
			order = -1
		default:
			order = a.compareKey(b)
		}
		switch {
		case order < 0:
			r.differ("only the node has %s", a)
		case order > 0:
			r.differ("the node lacks %s", b)
		case !bytes.Equal(a.value, b.value):
			r.differ("another value in %s", a)
		}
		if order <= 0 {
			a, okA = nextA()
		}
		if order >= 0 {
			b, okB = nextB()
		}
	}
	return errors.Join(failedA(), failedB())
}

func (r *replay) differ(format string, row stateRow) {
	r.Different++
	if len(r.Differences) < shownDifferences {
		r.Differences = append(r.Differences, fmt.Sprintf(format, row))
	}
}

// verdict is the replay in words.
func (r *replay) verdict() string {
	made := fmt.Sprintf("%d rows from the snapshot of index %d and %d entries up to %d, digest %.16s", r.Rows, r.Snapshot, r.Entries, r.Index, r.Digest)
	switch {
	case r.Impossible != "":
		made = "not possible: " + r.Impossible
	case r.Different > 0:
		made = fmt.Sprintf("DIFFERENT in %d rows: %s", r.Different, made)
	case r.Compared:
		made = "the same: " + made
	}
	if len(r.Problems) > 0 {
		made += "; and the state does not fit together: " + strings.Join(r.Problems, "; ")
	}
	return made
}
