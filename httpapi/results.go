package httpapi

import (
	"net/http"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// appliedStatus is the status of each outcome that changed the state.
var appliedStatus = map[command.Outcome]int{
	command.Outcome_CREATED: http.StatusCreated,
	command.Outcome_UPDATED: http.StatusOK,
	command.Outcome_DELETED: http.StatusNoContent,
	command.Outcome_DONE:    http.StatusOK,
}

// refusedCode is the code of each outcome that changed nothing. Every outcome
// of the state machine is in one of the two tables; a test walks the
// protobuf enum.
var refusedCode = map[command.Outcome]wire.Code{
	command.Outcome_COLLECTION_NOT_FOUND: wire.CodeNotFound,
	command.Outcome_DOCUMENT_NOT_FOUND:   wire.CodeNotFound,
	command.Outcome_SNIPPET_NOT_FOUND:    wire.CodeNotFound,
	command.Outcome_ALREADY_EXISTS:       wire.CodeAlreadyExists,
	command.Outcome_REVISION_MISMATCH:    wire.CodeRevisionMismatch,
	command.Outcome_DIMENSION_MISMATCH:   wire.CodeDimensionMismatch,
	command.Outcome_METRIC_CONFLICT:      wire.CodeWriteConflict,
	command.Outcome_OWNER_CONFLICT:       wire.CodeOwnerConflict,
	command.Outcome_LIMIT_EXCEEDED:       wire.CodeLimitExceeded,
	command.Outcome_COLLECTION_CONFLICT:  wire.CodeCollectionConflict,
	command.Outcome_KEY_REUSED:           wire.CodeKeyReused,
	command.Outcome_WRITE_CONFLICT:       wire.CodeWriteConflict,
	command.Outcome_SNIPPET_GAP:          wire.CodeSnippetGap,
	command.Outcome_EMBEDDING_INDEX:      wire.CodeEmbeddingIndex,
	command.Outcome_INVALID:              wire.CodeInvalidField,
}

// refusal returns the error of a result that changed nothing, or nil. It uses
// nothing but the result, so that a replay is the same answer byte for byte.
func refusal(r *command.Result, batch bool) error {
	if r.GetOutcome().Applied() {
		return nil
	}
	code, known := refusedCode[r.GetOutcome()]
	if !known {
		code = wire.CodeInternal
	}
	e := &requestError{
		code:            code,
		detail:          r.GetDetail(),
		currentRevision: r.GetCurrentRevision(),
		firstRequest:    r.GetRequestId(),
	}
	if e.detail == "" {
		e.detail = code.Info().Title
	}
	// The state machine compares with what the operations before have made, which
	// was undone with them: that revision does not exist. Its text names it as well;
	// it is stored in rows, so it is replaced here and not there.
	if batch && e.currentRevision == r.GetIndex() && e.currentRevision != 0 {
		e.currentRevision = 0
		e.detail = "an earlier operation of the same batch changed it, so it is not as the condition asks; nothing was applied"
	}
	// A reused key is refused as a whole, before any operation was looked at.
	if batch && r.GetOutcome() != command.Outcome_KEY_REUSED {
		n := int(r.GetFailedOperation())
		e.operation = &n
	}
	return e
}
