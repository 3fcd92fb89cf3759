package fsm

import (
	"errors"
	"fmt"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/mutant"
	"github.com/snipdb/snipdb/storage/snippet"
)

// entry is one Raft entry being applied. Everything in it is a function of
// the log and of the state before: no clock, no randomness, no order of a map.
type entry struct {
	f   *FSM
	b   *storage.Batch
	at  storage.Position
	sys *system

	// touched is what earlier commands of this entry changed (invariant F6).
	touched map[target]struct{}
	spent   spent
	ticked  bool // a command of this entry was a Tick
}

// spent is what an entry has used of the bounds on its work: MaxMovedBytes,
// MaxVisitedSnippets, snippet.MaxOwnerDelete. A small command may cause much
// work, and an entry may hold many of them.
type spent struct {
	moved     int64
	visited   int
	ownerDocs int
}

// target names something that has a revision of its own: a document, or with
// an empty id the collection. all marks "the collection with its documents".
type target struct {
	collection, id string
	all            bool
}

// execution is one command of an entry.
type execution struct {
	*entry
	proposedMs int64
	before     spent // what earlier commands of the entry spent
	touching   []target
}

// refusal is the error of a command that the state machine refuses. It
// becomes a Result; any other error stops the process.
type refusal struct {
	outcome command.Outcome
	detail  string
	current uint64 // REVISION_MISMATCH and ALREADY_EXISTS: the revision there is
}

func (r *refusal) Error() string { return r.outcome.String() + ": " + r.detail }

// refuse makes a refusal. The text is stored in idempotency rows: it must be
// made of the command and the state only, and it is part of the format.
func refuse(outcome command.Outcome, format string, args ...any) error {
	return &refusal{outcome: outcome, detail: fmt.Sprintf(format, args...)}
}

// refuseMismatch is a refusal that tells the present revision.
func refuseMismatch(outcome command.Outcome, current uint64, format string, args ...any) error {
	return &refusal{outcome: outcome, detail: fmt.Sprintf(format, args...), current: current}
}

// invalid turns an error of package snippet's validation into a refusal.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return refuse(command.Outcome_INVALID, "%v", err)
}

// run applies the commands of the entry and returns a result for each.
func (e *entry) run(commands []*command.Command) ([]*command.Result, error) {
	results := make([]*command.Result, len(commands))
	before := e.sys.clockMs
	for i, c := range commands {
		if e.sys.clockMs == 0 || c.GetTick() != nil {
			e.sys.clockMs = advance(e.sys.clockMs, c.GetProposedMs())
		}
		r, err := e.once(c, uint32(i))
		if err != nil {
			return nil, fmt.Errorf("command %d: %w", i, err)
		}
		results[i] = r
	}
	if e.sys.clockMs != before {
		e.b.PutSystem(clockKey, encodeNumber(uint64(e.sys.clockMs)))
	}
	if err := e.expire(len(commands)); err != nil {
		return nil, err
	}
	// Invariant F13: every node marks the state after each entry with a Tick.
	// Nothing of the entry is written after this line.
	if e.ticked {
		e.b.MarkPoint(e.at)
	}
	return results, nil
}

// advance moves the replicated clock: never back, and not further than
// MaxClockJumpMs at once. The first value is taken as it is, from whatever
// command comes first; after it only a Tick moves the clock. We let every
// command move it: then a leader whose clock was a day ahead expired every key
// within 300 writes, which is a second or less, and what clients sent again
// under their keys was applied twice.
func advance(clock, proposed int64) int64 {
	if clock == 0 {
		return max(proposed, 0)
	}
	return max(clock, min(proposed, clock+MaxClockJumpMs))
}

// execute runs one command. If it is refused, its writes are rolled back and
// the result says why (invariant F4).
func (e *entry) execute(c *command.Command) (*command.Result, error) {
	x := &execution{entry: e, proposedMs: c.GetProposedMs(), before: e.spent}
	if mutant.On(mutant.ApplyByNode) {
		x.proposedMs = nodeClockMs()
	}
	savepoint := e.b.Savepoint()
	r, err := x.dispatch(c)
	var no *refusal
	switch {
	case err == nil:
		for _, t := range x.touching {
			e.touched[t] = struct{}{}
		}
	case errors.As(err, &no):
		e.b.Rollback(savepoint)
		// What it moved and deleted is undone; what it looked at was work.
		e.spent.moved, e.spent.ownerDocs = x.before.moved, x.before.ownerDocs
		if r == nil {
			r = &command.Result{}
		}
		r.Outcome, r.Detail, r.CurrentRevision = no.outcome, no.detail, no.current
	default:
		return nil, err
	}
	r.Index, r.Term = e.at.Index, e.at.Term
	return r, nil
}

// batch runs the mutations of an atomic batch. They see each other's effects.
func (x *execution) batch(op *command.Batch) (*command.Result, error) {
	if n := len(op.GetMutations()); n == 0 || n > snippet.MaxBatch {
		return nil, refuse(command.Outcome_INVALID, "a batch has 1 to %d operations, this one has %d", snippet.MaxBatch, n)
	}
	items := make([]*command.Result, len(op.GetMutations()))
	for i, m := range op.GetMutations() {
		item, err := x.mutate(m)
		if err != nil {
			return &command.Result{FailedOperation: uint32(i)}, err
		}
		item.Index, item.Term = x.at.Index, x.at.Term
		items[i] = item
	}
	return &command.Result{Outcome: command.Outcome_DONE, Items: items}, nil
}

// claim says that the command changes t. It is refused if an earlier command
// of the same entry changed t already: the revision of both changes would be
// the entry's index, and the second would hide behind the first. Mutations of
// one batch are one change.
func (x *execution) claim(t target) error {
	if _, taken := x.touched[t]; taken {
		return refuse(command.Outcome_WRITE_CONFLICT, "another command of the same log entry changes %s: retry", t)
	}
	x.touching = append(x.touching, t)
	return nil
}

// overspent refuses a command that would exceed a bound on the work of one
// entry: for good if it would alone, else only this time.
func overspent(alone bool, format string, args ...any) error {
	if alone {
		return refuse(command.Outcome_LIMIT_EXCEEDED, format, args...)
	}
	return refuse(command.Outcome_WRITE_CONFLICT, "the commands of this log entry are too much work together: retry")
}

// String names the target in a refusal.
func (t target) String() string {
	if t.id == "" {
		return fmt.Sprintf("collection %q", t.collection)
	}
	return fmt.Sprintf("document %q of collection %q", t.id, t.collection)
}

// claimDocument claims a document, and tells that its collection is in use.
func (x *execution) claimDocument(collection, id string) error {
	x.touching = append(x.touching, target{collection: collection, all: true})
	return x.claim(target{collection: collection, id: id})
}

// claimCollection claims a collection with all its documents.
func (x *execution) claimCollection(name string) error {
	if err := x.claim(target{collection: name, all: true}); err != nil {
		return err
	}
	return x.claim(target{collection: name})
}
