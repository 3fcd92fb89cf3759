package fsm

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
	"github.com/snipdb/snipdb/storage/snippet"
)

// formatRules are the rules of the format, as every server runs them.
func formatRules() rules {
	return rules{
		retentionMs:  IdempotencyRetentionMs,
		maxRows:      failpoint.Value(failpoint.ExpireMaxRows, IdempotencyMaxRows),
		maxMoved:     MaxMovedBytes,
		maxVisited:   MaxVisitedSnippets,
		maxSnippets:  snippet.MaxSnippets,
		maxColls:     snippet.MaxCollections,
		maxOwnerDocs: snippet.MaxOwnerDelete,
		batchBytes:   maxBatchBytes,
	}
}

// Apply implements raft.FSM; Raft calls ApplyBatch instead.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. The answer to a command entry is
// []*command.Result, one for each of its commands; entries that the state held
// already, and entries of Raft's own, have the answer nil.
//
// An error here is none of the client's: it means that this node does not
// understand an entry, or can't write. To go on would diverge from the nodes
// that can, so Options.Fatal is called, and with it the process ends. Nothing of
// the slice's uncommitted part is kept; Raft delivers it again after the restart.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	answers := make([]any, len(logs))
	if f.stopped != nil {
		f.fail(fmt.Errorf("fsm: apply: %w: %w", ErrStopped, f.stopped))
		return answers
	}
	start := time.Now()
	s := slice{f: f}
	now := f.now.Load()
	s.at, s.sys = now.at, now.sys
	db, release := f.store.DB()
	defer release()
	if db == nil {
		f.fail(fmt.Errorf("fsm: apply: the store was closed under Raft: %w", ErrClosed))
		return answers
	}
	s.db = db
	defer s.drop()
	if err := s.apply(logs, answers); err != nil {
		clear(answers)
		f.fail(err)
		return answers
	}
	f.metrics.batchSeconds.Observe(time.Since(start).Seconds())
	f.metrics.batchEntries.Observe(float64(len(logs)))
	return answers
}

// slice is what one ApplyBatch works on: entries whose effects are in the
// batch, but not committed yet.
type slice struct {
	f   *FSM
	db  *storage.DB
	b   *storage.Batch // nil between commits
	at  storage.Position
	sys system
}

// apply runs the entries in order and commits them.
func (s *slice) apply(logs []*raft.Log, answers []any) error {
	for i, l := range logs {
		s.f.delivered = max(s.f.delivered, l.Index)
		// Invariant F2: an entry is applied once. What the state holds already is
		// skipped, which makes it safe that Raft replays the log from its newest
		// snapshot after each restart.
		if l.Index <= s.at.Index && !skipBroken(l.Index, s.at.Index) {
			s.f.metrics.skipped.Inc()
			continue
		}
		if l.Term < s.at.Term {
			return fmt.Errorf("fsm: F3 violated: entry %d has term %d, the state is at index %d term %d: this node has diverged; wipe it and let it join again",
				l.Index, l.Term, s.at.Index, s.at.Term)
		}
		if s.b == nil {
			s.b = s.db.NewBatch()
		}
		s.at = storage.Position{Index: l.Index, Term: l.Term}
		switch l.Type {
		case raft.LogCommand:
			results, err := s.entry(l)
			if err != nil {
				return fmt.Errorf("fsm: apply entry %d: %w", l.Index, err)
			}
			answers[i] = results
		case raft.LogConfiguration:
			// Raft keeps the configuration; here it only moves the position.
		default:
			return fmt.Errorf("fsm: apply entry %d: unknown type %s", l.Index, l.Type)
		}
		if s.b.Bytes() >= s.f.rules.batchBytes {
			if err := s.commit(); err != nil {
				return err
			}
		}
	}
	return s.commit()
}

// entry decodes one entry and runs its commands.
func (s *slice) entry(l *raft.Log) ([]*command.Result, error) {
	decoded, err := command.Decode(l.Data)
	if err != nil {
		return nil, err
	}
	e := &entry{f: s.f, b: s.b, at: s.at, sys: &s.sys, touched: map[target]struct{}{}}
	results, err := e.run(decoded.GetCommands())
	if err != nil {
		return nil, err
	}
	s.f.metrics.entryCommands.Observe(float64(len(results)))
	for _, r := range results {
		s.f.metrics.outcomes[r.GetOutcome()].Inc()
	}
	return results, nil
}

// commit writes what has gathered, with its position in the same batch
// (invariant F1), and then publishes it.
func (s *slice) commit() error {
	if s.b == nil {
		return nil
	}
	s.f.metrics.batchBytes.Observe(float64(s.b.Bytes()))
	err := failpoint.Error(failpoint.CommitBefore)
	if err == nil {
		err = s.db.Commit(s.b, s.committedAt())
	}
	if err != nil {
		return fmt.Errorf("fsm: commit up to entry %d: %w", s.at.Index, err)
	}
	failpoint.Hit(failpoint.CommitAfter)
	hash := stateHash{sum: s.b.StateSum(), points: s.b.Points()}
	s.drop()
	if mutant.On(mutant.PositionApart) || mutant.On(mutant.IdempotencyApart) {
		if err := s.commitLate(); err != nil {
			return err
		}
	}
	s.f.publish(s.at, s.sys, hash)
	return nil
}

// drop frees the batch.
func (s *slice) drop() {
	if s.b != nil {
		s.b.Destroy()
		s.b = nil
	}
}
