package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/mutant"
	"github.com/snipdb/snipdb/storage/snippet"
)

// write is a checked write: what to propose, and how to answer.
type write struct {
	collection string
	command    *command.Command
	vectors    vectors
	// raw are vectors that are cut up before each proposal; nil: there are none.
	raw *rawEmbeddings
	// batch is the number of operations of a batch, whose refusals name one of
	// them; 0: it is none.
	batch int
	// reply renders a result that was applied. It uses the result and the
	// request, and nothing else: a replay must be the same answer.
	reply func(r *command.Result) *reply
}

// serveWrite brings a write to the leader: by proposing it, if this node
// leads, or else by passing it on.
func (c *call) serveWrite() (*reply, error) {
	key, err := c.idempotencyKey()
	if err != nil {
		return nil, err
	}
	if leader := c.s.backend.Leader(); !leader.Self {
		return c.toLeader(leader, nil)
	}
	if err := c.checkRate(); err != nil {
		return nil, err
	}
	if err := c.admit(); err != nil {
		return nil, err
	}
	body, release, err := c.readBody()
	defer release()
	if err != nil {
		return nil, err
	}
	var rep *reply
	if c.route.Admin != nil {
		rep, err = c.route.Admin(c, body)
	} else {
		rep, err = c.proposeWrite(key, body)
	}
	if leader, moved := leaderOf(err); moved {
		// The leadership went elsewhere between the look and the proposal.
		// Nothing was proposed, so the write may go there.
		return c.toLeader(leader, body)
	}
	return rep, err
}

// proposeWrite parses the write, proposes it, and renders the result.
func (c *call) proposeWrite(key string, body []byte) (*reply, error) {
	w, err := c.route.Write(c, body)
	if err != nil {
		return nil, err
	}
	// Now it is known how many writes a batch is; one it has paid for already.
	c.s.rates.charge(c.s.backend.Limits(), w.collection, c.tokenID(), w.batch-1)
	if key != "" {
		w.command.Idempotency = &command.Idempotency{
			Key: key, RequestHash: c.requestHash(body), RequestId: c.requestID,
		}
	}
	c.proposed = true
	result, err := c.s.propose(c.ctx(), w)
	if err != nil {
		return nil, err
	}
	c.index, c.term = result.GetIndex(), result.GetTerm()
	if result.GetReplayed() {
		c.s.metrics.replayed.Inc()
		c.g.Writer.Header().Set(wire.HeaderReplayed, "true")
	}
	if err := refusal(result, w.batch > 0); err != nil {
		return nil, err
	}
	return w.reply(result), nil
}

// propose prepares the vectors and sends the command through the log. If the
// collection's metric changed in between, it does so once more.
func (s *Server) propose(ctx context.Context, w *write) (*command.Result, error) {
	for attempt := 0; ; attempt++ {
		if err := s.prepareVectors(ctx, w); err != nil {
			return nil, err
		}
		if proto.Size(w.command) > snippet.MaxCommandBytes {
			return nil, contract.ErrTooLarge
		}
		// Whoever waits for the answer has gone: do not make the log work for it.
		if ctx.Err() != nil {
			s.metrics.refused.WithLabelValues("deadline", reasonDeadline).Inc()
			return nil, contract.ErrExpired
		}
		if mutant.On(mutant.ConditionEarly) {
			if refused, err := s.checkEarly(ctx, w); refused != nil || err != nil {
				return refused, err
			}
		}
		w.command.ProposedMs = s.opts.Now().UnixMilli()
		result, err := s.backend.Propose(ctx, w.command)
		if err != nil {
			return nil, proposeError(err)
		}
		if result.GetOutcome() != command.Outcome_METRIC_CONFLICT || attempt > 0 {
			return result, nil
		}
		s.metrics.metricRetry.Inc()
	}
}

// proposeError makes sure that no error of a proposal is taken for "not
// applied" by accident: only an error that is known to mean it does.
func proposeError(err error) error {
	if errors.Is(err, contract.ErrExpired) || translate(err).code != wire.CodeTimeout && translate(err).code != wire.CodeInternal {
		return err
	}
	return &contract.OutcomeUnknownError{Cause: err}
}

// prepareVectors cuts up raw vectors and scales all of them as the collection
// asks. It reads this node's own state, which may be behind, also at a leader:
// a new one has not applied all that was acknowledged before, and one that was
// replaced may not know it. If the metric changed, the state machine answers
// METRIC_CONFLICT; but what does not fit here never gets there, so it is
// refused by a state that is not behind.
func (s *Server) prepareVectors(ctx context.Context, w *write) error {
	switch {
	case w.raw != nil:
		return s.prepareFrom(ctx, w, contract.Linearizable)
	case len(w.vectors.slots) == 0:
		return nil
	}
	err := s.prepareFrom(ctx, w, contract.Local)
	var misfit *requestError
	if errors.As(err, &misfit) {
		return s.prepareFrom(ctx, w, contract.Linearizable)
	}
	return err
}

// prepareFrom does it with a state of that level. A write with an idempotency
// key may be a replay, and then what the collection is by now does not matter:
// only the state machine, which looks at the key first, may refuse it.
func (s *Server) prepareFrom(ctx context.Context, w *write, level contract.Level) error {
	view, _, err := s.backend.View(ctx, contract.Consistency{Level: level})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", contract.ErrExpired, err)
	}
	if err != nil {
		return err
	}
	defer view.Close()
	judge := w.command.GetIdempotency() == nil
	if w.raw != nil {
		if err := w.raw.split(view, w, judge); err != nil {
			return err
		}
		judge = false // what does not fit is for the state machine
	}
	coll, err := view.Collection(w.collection)
	if err != nil {
		return err
	}
	return w.vectors.prepare(coll, judge)
}

// checkRate asks the rate limits of the write's collection and token. Admin
// routes have none.
func (c *call) checkRate() error {
	if c.route.Class == classAdmin {
		return nil
	}
	collection, err := c.collectionName()
	if err != nil {
		return err
	}
	if err := c.s.rates.check(c.s.backend.Limits(), collection, c.tokenID()); err != nil {
		c.s.metrics.refused.WithLabelValues("rate", string(contract.RateLimited)).Inc()
		return err
	}
	return nil
}

// admit refuses a write that the node would not take anyway before its body is
// read and parsed: that is most of what a refusal costs. Routes of the class
// admin pass: they end an overload, and are not part of it.
func (c *call) admit() error {
	if c.route.Class == classAdmin {
		return nil
	}
	return c.s.backend.AdmitWrite(max(c.g.Request.ContentLength, 0), c.route.mayOnlyDelete())
}

// requestHash tells a repeated request from another one under the same key.
// Each part has its length in front, so that two requests never hash the
// same bytes. What does not change the meaning (timeout, redirect) is left out.
// It is stored with the key, so it must not change from release to release: a
// request that is repeated during an upgrade would be taken for another one.
func (c *call) requestHash(body []byte) []byte {
	r := c.g.Request
	parts := []string{r.Method, r.URL.EscapedPath()}
	for _, name := range c.route.Params {
		value, given := c.param(name)
		if !given && slices.Contains(c.route.LaterParams, name) {
			continue
		}
		parts = append(parts, name, value)
	}
	parts = append(parts, r.Header.Get("If-Match"), r.Header.Get("If-None-Match"), c.mediaType())
	h := sha256.New()
	var length [8]byte
	for _, part := range parts {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write([]byte(part))
	}
	h.Write(body)
	return h.Sum(nil)
}

// newWrite begins a write of one mutation.
func newWrite(b *builder, m *command.Mutation, rep func(r *command.Result) *reply) *write {
	return &write{
		collection: b.collection, vectors: b.vectors, reply: rep,
		command: &command.Command{Op: &command.Command_Mutation{Mutation: m}},
	}
}

// applied builds the reply of a result that was applied.
func applied(r *command.Result, body any) *reply {
	rep := &reply{status: appliedStatus[r.GetOutcome()], body: body}
	if r.GetDocument() != nil {
		rep.etag = r.GetDocument().GetRevision()
	} else if r.GetCollection() != nil {
		rep.etag = r.GetCollection().GetRevision()
	}
	return rep
}

// deleted is the reply of a deletion: there is nothing left to show.
func deleted(*command.Result) *reply { return &reply{status: http.StatusNoContent} }
