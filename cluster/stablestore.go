package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/snipdb/snipdb/storage/failpoint"
)

// raft's names of term and vote, from hashicorp/raft raft.go.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
	// keyVote is ours: both in one row.
	keyVote = []byte("SnipdbVote")
)

// stableStore holds the term and the vote, in a small file of its own so that
// a vote never waits for the log.
//
// raft writes a vote in two steps, first the term and then the candidate. A
// crash between the two pairs the new term with the candidate of an old one,
// and raft then grants that candidate a second vote in the term without
// looking at its log (hashicorp/raft #661).
//
// Invariant V1: term and candidate of the vote change in one transaction. The
// term is held back until the candidate comes, and both go into one row.
type stableStore struct {
	bolt  *raftboltdb.BoltStore
	guard *guard

	mu sync.Mutex // guards pending
	// pending is the term of a vote whose candidate has not come yet.
	pending *uint64
}

// stableStoreRoom is what the file needs for ever: a few rows, and the pages
// that a transaction writes beside the old ones.
const stableStoreRoom = 256 << 10

// stableStoreOptions are Limit, Fatal and Logger of logStoreOptions.
type stableStoreOptions = logStoreOptions

// openStableStore opens the file, and makes it if there is none. A write that
// fails or hangs ends the process, as one of the log does.
func openStableStore(path string, o stableStoreOptions) (*stableStore, error) {
	bolt, err := openBolt(path)
	if err != nil {
		return nil, fmt.Errorf("cluster: open vote store %s: %w", path, err)
	}
	// Before the disk is full: a node must be able to vote then.
	preallocate(path, stableStoreRoom)
	return &stableStore{bolt: bolt, guard: newGuard("vote store", o)}, nil
}

// Set writes a value. That of the candidate writes the whole vote.
func (s *stableStore) Set(key, val []byte) error {
	if bytes.Equal(key, keyLastVoteTerm) {
		return s.holdBack(val)
	}
	if !bytes.Equal(key, keyLastVoteCand) {
		failpoint.Hit(failpoint.TermBefore)
		err := s.guard.do("set "+string(key), func() error { return s.bolt.Set(key, val) })
		failpoint.Hit(failpoint.TermAfter)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		return errors.New("cluster: set vote: a candidate without a term")
	}
	row := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(val)), *s.pending)
	row = append(row, val...)
	err := s.guard.do("set vote", func() error {
		if err := failpoint.Error(failpoint.VoteBefore); err != nil {
			return err
		}
		return s.bolt.Set(keyVote, row)
	})
	if err == nil {
		s.pending = nil
		failpoint.Hit(failpoint.VoteAfter)
	}
	return err
}

func (s *stableStore) holdBack(val []byte) error {
	if len(val) != 8 {
		return fmt.Errorf("cluster: set vote: a term of %d bytes", len(val))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	term := binary.BigEndian.Uint64(val)
	s.pending = &term
	failpoint.Hit(failpoint.VoteBetween)
	return nil
}

// Get reads a value; an error with the text "not found", which raft looks for,
// if there is none.
func (s *stableStore) Get(key []byte) ([]byte, error) {
	isTerm, isCand := bytes.Equal(key, keyLastVoteTerm), bytes.Equal(key, keyLastVoteCand)
	if !isTerm && !isCand {
		return s.bolt.Get(key)
	}
	// Both come from the row, so that they always belong together, also
	// between the two calls of raft.
	row, err := s.bolt.Get(keyVote)
	if err != nil {
		return nil, err
	}
	if len(row) < 8 {
		return nil, fmt.Errorf("cluster: read vote: row of %d bytes", len(row))
	}
	if isTerm {
		return row[:8], nil
	}
	return row[8:], nil
}

// SetUint64 is Set of eight bytes.
func (s *stableStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 is Get of eight bytes.
func (s *stableStore) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(val) != 8 {
		return 0, fmt.Errorf("cluster: read %s: %d bytes, not 8", key, len(val))
	}
	return binary.BigEndian.Uint64(val), nil
}

// term is the current term, 0 if there has been none.
func (s *stableStore) term() (uint64, error) {
	term, err := s.GetUint64(keyCurrentTerm)
	if err != nil && err.Error() != raftboltdb.ErrKeyNotFound.Error() {
		return 0, fmt.Errorf("cluster: read the term: %w", err)
	}
	return term, nil
}

// Close closes the file. Call it after raft has ended.
func (s *stableStore) Close() error {
	s.guard.stop()
	return s.bolt.Close()
}
