package fsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// once runs a command at most once for each idempotency key. The result is
// stored in the batch that holds the command's effects (invariant F9), so
// there is no moment at which one of them exists without the other.
func (e *entry) once(c *command.Command, seq uint32) (*command.Result, error) {
	idem := c.GetIdempotency()
	if idem == nil {
		return e.execute(c)
	}
	if n := len(idem.GetKey()); n == 0 || n > MaxKeyBytes || len(idem.GetRequestHash()) > MaxHashBytes {
		return e.refused(command.Outcome_INVALID, fmt.Sprintf("an idempotency key has 1 to %d bytes, this one has %d", MaxKeyBytes, n)), nil
	}
	key := sha256.Sum256([]byte(idem.GetKey()))
	row, err := e.b.Idempotency(key)
	if err != nil {
		return nil, err
	}
	if row != nil {
		return e.replay(row, c)
	}
	r, err := e.execute(c)
	if err != nil {
		return nil, err
	}
	r.RequestId = idem.GetRequestId()
	if transient(r.GetOutcome()) {
		return r, nil
	}
	stored, err := encodeRow(idem.GetRequestHash(), slim(r, c))
	if err != nil {
		return nil, err
	}
	e.f.metrics.idemStored.Inc()
	if mutant.On(mutant.IdempotencyApart) {
		return r, e.putLate(key, seq, stored)
	}
	return r, e.b.PutIdempotency(key, e.sys.clockMs+e.f.rules.retentionMs, e.at.Index, seq, stored)
}

// replay answers a command from the row of the first one under its key.
func (e *entry) replay(row []byte, c *command.Command) (*command.Result, error) {
	hash, r, err := decodeRow(row)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(hash, c.GetIdempotency().GetRequestHash()) {
		no := e.refused(command.Outcome_KEY_REUSED, "the idempotency key was used for another request")
		no.RequestId = r.GetRequestId()
		return no, nil
	}
	e.f.metrics.idemReplayed.Inc()
	r.Replayed = true
	if s := r.GetSnippet(); s != nil && s.GetContent() == "" {
		s.Content = contentOf(c)
	}
	return r, nil
}

// refused is the result of a command that is refused before it runs.
func (e *entry) refused(outcome command.Outcome, detail string) *command.Result {
	return &command.Result{Outcome: outcome, Detail: detail, Index: e.at.Index, Term: e.at.Term}
}

// transient says that the outcome is an accident of this attempt: the client
// is told to retry, and under the same key the retry must run.
func transient(o command.Outcome) bool {
	return o == command.Outcome_WRITE_CONFLICT || o == command.Outcome_METRIC_CONFLICT
}

// slim returns the result as it is stored: without a text that the request
// brought itself. A replay has the same request, by its hash, and so the text.
func slim(r *command.Result, c *command.Command) *command.Result {
	s := r.GetSnippet()
	if s == nil || s.GetContent() == "" || s.GetContent() != contentOf(c) {
		return r
	}
	out := proto.CloneOf(r)
	out.Snippet.Content = ""
	return out
}

// contentOf returns the text that a mutation of one snippet brings, or "".
func contentOf(c *command.Command) string {
	switch op := c.GetMutation().GetOp().(type) {
	case *command.Mutation_PutSnippet:
		return op.PutSnippet.GetSnippet().GetContent()
	case *command.Mutation_PatchSnippet:
		return op.PatchSnippet.GetContent()
	}
	return ""
}

// expire removes old idempotency rows, at most ExpirePerCommand for each
// command of the entry. It counts by entry and never by slice: two nodes cut
// the log into different slices.
func (e *entry) expire(commands int) error {
	now := e.sys.clockMs
	if mutant.On(mutant.ExpiryByWallClock) {
		now = nodeClockMs()
	}
	n, err := e.b.ExpireIdempotency(now, e.f.rules.maxRows, commands*ExpirePerCommand)
	if err != nil {
		return err
	}
	if n > 0 {
		failpoint.Hit(failpoint.ExpireRows)
	}
	e.f.metrics.idemExpired.Add(float64(n))
	return nil
}
