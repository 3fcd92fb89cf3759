package fsm

import (
	"sync"
	"time"

	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// The mistakes of package mutant that need more than a line. Nothing of this
// file is in a build without the tag `mutants`.

// skipBroken says whether an entry that is to be skipped is applied again.
func skipBroken(index, applied uint64) bool {
	return mutant.On(mutant.SkipOff) || index == applied && mutant.On(mutant.SkipOffByOne)
}

// nodeClockMs is the clock of this node, which no entry may depend on.
func nodeClockMs() int64 {
	return time.Now().UnixMilli() + failpoint.Value(failpoint.ClockOffset, 0)
}

// heldBack are the writes that IdempotencyApart keeps for a second batch, by
// FSM. Only the goroutine that applies touches those of its own.
var heldBack sync.Map // from *FSM to []func(b *storage.Batch) error

// putLate keeps the row of an idempotency key for the second batch.
func (e *entry) putLate(key [32]byte, seq uint32, stored []byte) error {
	expires, index := e.sys.clockMs+e.f.rules.retentionMs, e.at.Index
	writes, _ := heldBack.Load(e.f)
	late, _ := writes.([]func(b *storage.Batch) error)
	heldBack.Store(e.f, append(late, func(b *storage.Batch) error {
		return b.PutIdempotency(key, expires, index, seq, stored)
	}))
	return nil
}

// committedAt is the position that goes into the batch of the data.
func (s *slice) committedAt() storage.Position {
	if mutant.On(mutant.PositionApart) {
		return s.db.Position()
	}
	return s.at
}

// commitLate commits what was held back, in the second batch.
func (s *slice) commitLate() error {
	b := s.db.NewBatch()
	defer b.Destroy()
	writes, _ := heldBack.LoadAndDelete(s.f)
	late, _ := writes.([]func(b *storage.Batch) error)
	for _, write := range late {
		if err := write(b); err != nil {
			return err
		}
	}
	return s.db.Commit(b, s.at)
}
