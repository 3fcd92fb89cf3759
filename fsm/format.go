package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
	"google.golang.org/protobuf/proto"
)

// The constants of the format. Each of them decides what an entry of the log
// means, so all nodes must agree on it for ever: they are constants and not
// options, and a change of one needs a higher command.FormatVersion.
const (
	// IdempotencyRetentionMs is how long, by the replicated clock, the result
	// of a command with an idempotency key is kept at least, unless
	// IdempotencyMaxRows pushes it out. Clients stop retrying long before.
	IdempotencyRetentionMs = 24 * 60 * 60 * 1000
	// IdempotencyMaxRows is how many results are kept; beyond it the oldest go
	// first, however young.
	IdempotencyMaxRows = 1_000_000
	// ExpirePerCommand is how many rows one command of an entry may remove. It
	// is more than the one that the command may add, so the rows can't grow
	// beyond the two bounds above, and small, so that a day's rows don't expire
	// in one entry.
	ExpirePerCommand = 16
	// MaxClockJumpMs bounds how far one Tick moves the replicated clock: one
	// leader with a wrong clock must not expire every key at once. At a Tick each
	// ten seconds it takes three quarters of an hour to expire a day's keys.
	MaxClockJumpMs = 5 * 60 * 1000
	// MaxMovedBytes bounds the text and vectors that the deletions of single
	// snippets move in one entry (those behind the deleted one get another key).
	MaxMovedBytes = 64 << 20
	// MaxVisitedSnippets bounds the snippets that the commands of one entry look
	// at: a small command may replace a document of snippet.MaxSnippets, and an
	// entry has room for thousands of small commands. It takes about half a second.
	MaxVisitedSnippets = 200_000
	// MaxKeyBytes bounds an idempotency key.
	MaxKeyBytes = 128
	// MaxHashBytes bounds a request hash; it is a SHA-256.
	MaxHashBytes = 64
	// MaxMembers bounds the nodes of a cluster, MaxRateLimits its run-time limits.
	MaxMembers    = 128
	MaxRateLimits = 10_000
)

// maxBatchBytes is when a slice of entries is committed in pieces, at the end
// of an entry. It is not part of the format: the pieces give the same state.
const maxBatchBytes = 16 << 20

// The keys of this package's system rows, with the form of their values.
const (
	clusterKey   = storage.SystemClusterID // text
	clockKey     = "clock"                 // 8 bytes big-endian: Unix milliseconds
	tickKey      = "tick_term"             // 8 bytes big-endian: a Raft term
	limitsKey    = "limits"                // command.SetLimits
	memberPrefix = "member/"               // + node id: command.Member
)

// deterministic encodes what goes into rows. No message that is stored has a
// map, so this is a precaution only.
var deterministic = proto.MarshalOptions{Deterministic: true}

// The idempotency row, version 1:
//
//	offset  size  field
//	0       1     version, 1
//	1       1     H: length of the request hash
//	2       H     request hash
//	2+H     rest  command.Result, protobuf
const rowVersion = 1

// encodeRow encodes a result with the hash of the request that it answers.
func encodeRow(requestHash []byte, r *command.Result) ([]byte, error) {
	row := make([]byte, 0, 2+len(requestHash)+proto.Size(r))
	row = append(row, rowVersion, byte(len(requestHash)))
	row = append(row, requestHash...)
	row, err := deterministic.MarshalAppend(row, r)
	if err != nil {
		return nil, fmt.Errorf("fsm: encode idempotency row: %w", err)
	}
	return row, nil
}

// decodeRow is the inverse of encodeRow.
func decodeRow(row []byte) (requestHash []byte, r *command.Result, err error) {
	if len(row) < 2 || row[0] != rowVersion || len(row) < 2+int(row[1]) {
		return nil, nil, fmt.Errorf("fsm: decode idempotency row of %d bytes: %w", len(row), storage.ErrCorrupt)
	}
	end := 2 + int(row[1])
	r = &command.Result{}
	if err := proto.Unmarshal(row[end:], r); err != nil {
		return nil, nil, fmt.Errorf("fsm: decode idempotency row: %w: %v", storage.ErrCorrupt, err)
	}
	return row[2:end], r, nil
}

// encodeNumber and decodeNumber are the form of the clock and the tick term.
func encodeNumber(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func decodeNumber(key string, b []byte) (uint64, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("fsm: decode row %q of %d bytes: %w", key, len(b), storage.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), nil
}
