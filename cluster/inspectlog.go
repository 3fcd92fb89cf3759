package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// LogEntry is an entry of a stopped node's log, with a digest of its bytes, so
// that the logs of two nodes can be compared. Entries up to the applied index
// of any node are committed, and must be the same everywhere (Raft's log
// matching and state machine safety); later ones may still be overwritten.
type LogEntry struct {
	Index  uint64 `json:"index"`
	Term   uint64 `json:"term"`
	Type   string `json:"type"`
	Bytes  int    `json:"bytes"`
	Digest string `json:"digest"`
}

// InspectLog returns all entries of a log, in order. It closes nothing.
func InspectLog(log LogStore) ([]LogEntry, error) {
	first, err := log.FirstIndex()
	if err != nil {
		return nil, fmt.Errorf("cluster: inspect log: %w", err)
	}
	last, err := log.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("cluster: inspect log: %w", err)
	}
	var entries []LogEntry
	for index := first; index > 0 && index <= last; index++ {
		var l raft.Log
		switch err := log.GetLog(index, &l); {
		case errors.Is(err, raft.ErrLogNotFound):
			continue // the gap below a snapshot that was installed (L2)
		case err != nil:
			return nil, fmt.Errorf("cluster: inspect log entry %d: %w", index, err)
		}
		// The time of the append is each node's own, and not part of the entry.
		sum := sha256.New()
		fmt.Fprintf(sum, "%d %d %d %d ", l.Index, l.Term, l.Type, len(l.Data))
		sum.Write(l.Data)
		sum.Write(l.Extensions)
		entries = append(entries, LogEntry{l.Index, l.Term, l.Type.String(), len(l.Data), hex.EncodeToString(sum.Sum(nil)[:16])})
	}
	return entries, nil
}
