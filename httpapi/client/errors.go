package client

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

var (
	// ErrClosed: the Client or BulkWriter is closed. Nothing was sent.
	ErrClosed = errors.New("client: closed")
	// ErrUnavailable matches an *Error with errors.Is if no node could serve:
	// none was reached, or they had no leader or were not ready.
	ErrUnavailable = errors.New("client: the cluster is not available")
	// ErrAnswerTooLarge: the answer is longer than Options.MaxAnswerBytes.
	ErrAnswerTooLarge = errors.New("client: the answer is larger than MaxAnswerBytes")
)

// The outcomes of a failed write.
const (
	OutcomeNotApplied    = "not_applied"
	OutcomeUnknownToNode = "unknown"
)

// Why a call that could have been repeated was not, in Error.GaveUp.
const (
	GaveUpDeadline = "deadline" // the next attempt would have come too late
	GaveUpAttempts = "attempts" // MaxAttempts is reached
	GaveUpBudget   = "budget"   // the retry budget is used up, and FailFast is set
	GaveUpNoKey    = "no_key"   // a write without a key may have been applied
)

// Error is a failed call: what the last node that was tried answered, or why
// none did.
type Error struct {
	Method, Path string
	// Problem is the answer's; its Code is empty if there was no answer, or
	// none of snipdb's. Problem.Outcome is that of the whole call: "unknown" if
	// any of the attempts may have been applied.
	Problem wire.Problem
	// Status is the answer's, 0 if there was none.
	Status   int
	Endpoint string
	// RetryAfter is what the node asked for, 0 for nothing.
	RetryAfter time.Duration
	Attempts   int
	// GaveUp says why it was not tried again; empty if the error is final.
	GaveUp string
	// Cause is the error of the connection or the context, or nil.
	Cause error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client: %s %s: ", e.Method, e.Path)
	switch {
	case e.Problem.Code != "":
		fmt.Fprintf(&b, "%d %s: %s", e.Status, e.Problem.Code, e.Problem.Detail)
	case e.Status != 0:
		fmt.Fprintf(&b, "%d %s: %s", e.Status, http.StatusText(e.Status), e.Problem.Detail)
	case e.Cause != nil:
		b.WriteString(e.Cause.Error())
	}
	if e.Endpoint != "" {
		fmt.Fprintf(&b, " (from %s", e.Endpoint)
		if e.Attempts > 1 {
			fmt.Fprintf(&b, ", attempt %d", e.Attempts)
		}
		if e.GaveUp != "" {
			fmt.Fprintf(&b, ", gave up: %s", e.GaveUp)
		}
		b.WriteString(")")
	}
	if e.Problem.Outcome == OutcomeUnknownToNode {
		b.WriteString("; the write may have been applied")
	}
	if e.Problem.RequestID != "" {
		fmt.Fprintf(&b, "; request %s", e.Problem.RequestID)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is matches ErrUnavailable.
func (e *Error) Is(target error) bool {
	if target != ErrUnavailable {
		return false
	}
	switch e.Problem.Code {
	case wire.CodeNoLeader, wire.CodeNotReady, wire.CodeNotLeader:
		return true
	}
	return e.Status == 0 && !errors.Is(e.Cause, ErrAnswerTooLarge)
}

// CodeOf returns the API's code of the error, or "" if no node sent one.
func CodeOf(err error) wire.Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Problem.Code
	}
	return ""
}

// IsNotFound says that the collection, document or snippet does not exist.
func IsNotFound(err error) bool { return CodeOf(err) == wire.CodeNotFound }

// IsAlreadyExists says that CreateDocument found its id taken, or that IfAbsent
// failed: nothing was written.
func IsAlreadyExists(err error) bool { return CodeOf(err) == wire.CodeAlreadyExists }

// IsConflict says that a condition failed or that the object is in a state
// that forbids the write: read it again, and decide.
func IsConflict(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusConflict || e.Status == http.StatusPreconditionFailed)
}

// IsOverloaded says that the nodes took no more work until the call gave up.
func IsOverloaded(err error) bool {
	code := CodeOf(err)
	return code == wire.CodeOverloaded || code == wire.CodeRateLimited
}

// IsWrongCluster says that the answer came from another cluster than the
// session's. The session has been reset.
func IsWrongCluster(err error) bool { return CodeOf(err) == wire.CodeWrongCluster }

// OutcomeUnknown says whether the failed write may have been applied, or may
// be later. To repeat it safely, use the same IdempotencyKey.
func OutcomeUnknown(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Problem.Outcome == OutcomeUnknownToNode
}
