package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// requestError is an error that already knows its code: the handlers make it
// for wrong requests, results.go for refusals of the state machine.
type requestError struct {
	code   wire.Code
	detail string
	// The others are zero if they say nothing.
	field, reason, leader string
	operation             *int
	currentRevision       uint64
	retryAfter            time.Duration
	// firstRequest is the request id to show in a replayed refusal.
	firstRequest string
}

func (e *requestError) Error() string {
	if e.field != "" {
		return fmt.Sprintf("%s: %s: %s", e.code, e.field, e.detail)
	}
	return fmt.Sprintf("%s: %s", e.code, e.detail)
}

// badRequest builds a requestError about one field of the input, or none.
func badRequest(code wire.Code, field, format string, args ...any) error {
	return &requestError{code: code, field: field, detail: fmt.Sprintf(format, args...)}
}

// badParameter turns the validation error of a path, query or header value
// into 400; the same error about a body is 422.
func badParameter(name string, err error) error {
	var fe *snippet.FieldError
	if errors.As(err, &fe) {
		return badRequest(wire.CodeInvalidParameter, name, "%s %s", name, fe.Reason)
	}
	return badRequest(wire.CodeInvalidParameter, name, "%s: %v", name, err)
}

// sentinels are the errors that carry no more than their name. What they wrap
// or are wrapped in is not shown: it may name paths or addresses.
var sentinels = []struct {
	is     error
	code   wire.Code
	reason string
	detail string
}{
	{contract.ErrNoLeader, wire.CodeNoLeader, "no_leader", "no leader is known or reachable now; an election takes a few seconds"},
	{contract.ErrRemoved, wire.CodeNotReady, "", "this node was removed from the cluster and is no member any more; ask another node. To add it again, its operator must empty its data directory and restart it"},
	{contract.ErrForeign, wire.CodeNotReady, "", "this node is alone in its cluster, and the nodes at its join addresses belong to another one; ask one of those. Its operator must correct --join, or empty its data directory and restart it"},
	{contract.ErrNotReady, wire.CodeNotReady, "", "this node is starting, restoring, or not yet a member; ask another node"},
	{contract.ErrShutdown, wire.CodeNotReady, "", "this node is stopping; ask another node"},
	{contract.ErrTooStale, wire.CodeTooStale, "", "this node's state is older than max_staleness allows, and did not become newer in time"},
	{contract.ErrBehind, wire.CodeBehind, "", "this node has not reached the state that the read asks for within the request's deadline"},
	{contract.ErrTooLarge, wire.CodeDocumentTooLarge, "", "the write does not fit into one log entry; write less at once"},
	{contract.ErrExpired, wire.CodeTimeout, "", "the deadline passed before the write was proposed; nothing was written"},
	{contract.ErrDiverged, wire.CodeDiverged, "", "this node's state differs from that of the majority, so it serves nothing; ask another node. Its operator must stop it, empty its data directory and start it again: it gets the state from the leader"},
	{context.DeadlineExceeded, wire.CodeTimeout, "", "the deadline of the request passed"},
	{context.Canceled, wire.CodeTimeout, "", "the request was cancelled"},
	{os.ErrDeadlineExceeded, wire.CodeTimeout, "", "the body did not arrive before the deadline of the request"},
}

// translate is the one table from errors to the API's codes. The order
// matters: an unknown outcome stays unknown whatever caused it.
func translate(err error) *requestError {
	var (
		unknown    *contract.OutcomeUnknownError
		own        *requestError
		notLeader  *contract.NotLeaderError
		overload   *contract.OverloadError
		membership *contract.MembershipError
		field      *snippet.FieldError
		tooLarge   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &unknown):
		return &requestError{
			code:   wire.CodeOutcomeUnknown,
			detail: "the write was handed over, and this node can't tell whether it will be applied; repeat it with the same Idempotency-Key, or read first",
		}
	case errors.As(err, &own):
		return own
	case errors.As(err, &notLeader):
		return &requestError{
			code: wire.CodeNotLeader, leader: notLeader.Leader.HTTPAddr,
			detail: fmt.Sprintf("this node is not the leader; the leader is %q", notLeader.Leader.ID),
		}
	case errors.As(err, &overload):
		code := wire.CodeOverloaded
		if overload.Reason == contract.RateLimited {
			code = wire.CodeRateLimited
		}
		return &requestError{code: code, reason: string(overload.Reason), detail: overload.Detail, retryAfter: overload.RetryAfter}
	case errors.As(err, &membership):
		code := wire.CodeMembership
		if membership.NotFound {
			code = wire.CodeNotFound
		}
		return &requestError{code: code, detail: membership.Detail}
	case errors.As(err, &field):
		return &requestError{code: wire.CodeInvalidField, field: field.Field, detail: field.Error()}
	case errors.As(err, &tooLarge):
		return &requestError{code: wire.CodeBodyTooLarge, detail: fmt.Sprintf("the body may have at most %d bytes on this route", tooLarge.Limit)}
	}
	for _, s := range sentinels {
		if errors.Is(err, s.is) {
			return &requestError{code: s.code, reason: s.reason, detail: s.detail}
		}
	}
	return &requestError{code: wire.CodeInternal, detail: "see the log of the node for the request id"}
}

// problem renders an error for the wire.
func (e *requestError) problem(requestID, outcome string) *wire.Problem {
	info := e.code.Info()
	if e.firstRequest != "" {
		requestID = e.firstRequest
	}
	return &wire.Problem{
		Type:            wire.TypePrefix + string(e.code),
		Title:           info.Title,
		Status:          info.Status,
		Code:            e.code,
		Detail:          e.detail,
		Outcome:         outcome,
		RequestID:       requestID,
		Field:           e.field,
		Reason:          e.reason,
		Operation:       e.operation,
		CurrentRevision: e.currentRevision,
		Leader:          e.leader,
	}
}

// retryAfterSeconds is what Retry-After says, or 0 for an error that waiting
// does not mend. Up to half is added at random, so that the clients that were
// refused together do not come back together.
func (e *requestError) retryAfterSeconds() int {
	switch e.code.Info().Status {
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusGatewayTimeout:
	default:
		return 0
	}
	wait := min(max(e.retryAfter, minRetryAfter), maxRetryAfter)
	wait += rand.N(wait/2 + 1)
	return int((wait + time.Second/2) / time.Second) // >= 1, because wait >= 1 s
}
