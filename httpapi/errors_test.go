package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// TestErrorTable feeds each error bare and wrapped, because an error that is
// only known bare is known until somebody adds a word to it.
func TestErrorTable(t *testing.T) {
	rows := []struct {
		err     error
		status  int
		code    wire.Code
		outcome string
	}{
		{&contract.OutcomeUnknownError{Cause: contract.ErrNoLeader}, 504, wire.CodeOutcomeUnknown, "unknown"},
		{&contract.NotLeaderError{Leader: contract.LeaderInfo{ID: "n2", HTTPAddr: "http://n2"}}, 503, wire.CodeNotLeader, "not_applied"},
		{&contract.OverloadError{Reason: contract.QueueFull}, 503, wire.CodeOverloaded, "not_applied"},
		{&contract.OverloadError{Reason: contract.DiskLow}, 503, wire.CodeOverloaded, "not_applied"},
		{&contract.OverloadError{Reason: contract.RateLimited}, 429, wire.CodeRateLimited, "not_applied"},
		{&contract.MembershipError{NotFound: true}, 404, wire.CodeNotFound, "not_applied"},
		{&contract.MembershipError{}, 409, wire.CodeMembership, "not_applied"},
		{&snippet.FieldError{Field: "title", Reason: "is wrong"}, 422, wire.CodeInvalidField, "not_applied"},
		{&http.MaxBytesError{Limit: 1}, 413, wire.CodeBodyTooLarge, "not_applied"},
		{contract.ErrNoLeader, 503, wire.CodeNoLeader, "not_applied"},
		{contract.ErrNotReady, 503, wire.CodeNotReady, "not_applied"},
		{contract.ErrRemoved, 503, wire.CodeNotReady, "not_applied"},
		{contract.ErrForeign, 503, wire.CodeNotReady, "not_applied"},
		{contract.ErrShutdown, 503, wire.CodeNotReady, "not_applied"},
		{contract.ErrTooStale, 503, wire.CodeTooStale, "not_applied"},
		{contract.ErrBehind, 503, wire.CodeBehind, "not_applied"},
		{contract.ErrTooLarge, 413, wire.CodeDocumentTooLarge, "not_applied"},
		{contract.ErrExpired, 504, wire.CodeTimeout, "not_applied"},
		{contract.ErrDiverged, 503, wire.CodeDiverged, "not_applied"},
		{context.DeadlineExceeded, 504, wire.CodeTimeout, "not_applied"},
		{context.Canceled, 504, wire.CodeTimeout, "not_applied"},
		{os.ErrDeadlineExceeded, 504, wire.CodeTimeout, "not_applied"},
		{badRequest(wire.CodeInvalidJSON, "x", "y"), 400, wire.CodeInvalidJSON, "not_applied"},
		{errors.New("anything"), 500, wire.CodeInternal, "not_applied"},
	}
	for _, row := range rows {
		for _, err := range []error{row.err, fmt.Errorf("wrapped: %w", row.err), errors.Join(errors.New("other"), row.err)} {
			e := translate(err)
			p := e.problem("id", contract.Outcome(err))
			if p.Code != row.code || p.Status != row.status || p.Outcome != row.outcome || p.Detail == "" && row.code != wire.CodeOverloaded && row.code != wire.CodeRateLimited && row.code != wire.CodeMembership && row.code != wire.CodeNotFound {
				t.Errorf("%v: %+v, want %d %s %s", err, p, row.status, row.code, row.outcome)
			}
			waits := p.Status == 503 || p.Status == 429 || p.Status == 504
			if seconds := e.retryAfterSeconds(); waits != (seconds >= 1) {
				t.Errorf("%v: Retry-After %d at status %d", err, seconds, p.Status)
			}
		}
	}
}

func TestEverySentinelOfContractIsKnown(t *testing.T) {
	for _, err := range []error{contract.ErrNoLeader, contract.ErrNotReady, contract.ErrRemoved, contract.ErrForeign, contract.ErrShutdown, contract.ErrTooStale, contract.ErrBehind, contract.ErrTooLarge, contract.ErrExpired, contract.ErrDiverged} {
		if translate(err).code == wire.CodeInternal {
			t.Errorf("%v is not in the table", err)
		}
	}
}

func TestCodesAreEachDescribedOnce(t *testing.T) {
	seen := map[wire.Code]bool{}
	for _, info := range wire.Codes {
		if seen[info.Code] || info.Status < 400 || info.Title == "" || info.Action == "" {
			t.Errorf("code %+v", info)
		}
		seen[info.Code] = true
	}
}

func TestEveryOutcomeHasAnAnswer(t *testing.T) {
	for number, name := range command.Outcome_name {
		o := command.Outcome(number)
		if o == command.Outcome_OUTCOME_UNSPECIFIED {
			continue
		}
		_, ok := appliedStatus[o]
		_, refuses := refusedCode[o]
		if ok == refuses || ok != o.Applied() {
			t.Errorf("%s: applied %v, refused %v", name, ok, refuses)
		}
	}
	if err := refusal(&command.Result{}, false); translate(err).code != wire.CodeInternal {
		t.Errorf("a result without an outcome is %v", err)
	}
}

func TestRetryAfterIsBoundedAndSpread(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		e := &requestError{code: wire.CodeOverloaded, retryAfter: 10 * time.Second}
		n := e.retryAfterSeconds()
		if n < 10 || n > 15 {
			t.Fatalf("Retry-After %d for 10 s", n)
		}
		seen[n] = true
	}
	if len(seen) < 3 {
		t.Errorf("no jitter: %v", seen)
	}
	if n := (&requestError{code: wire.CodeOverloaded, retryAfter: time.Hour}).retryAfterSeconds(); n > 46 {
		t.Errorf("Retry-After %d", n)
	}
}
