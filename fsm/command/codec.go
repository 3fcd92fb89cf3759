// Package command holds the verbs of the replicated log: the commands that
// clients' writes become, their results, and the codec of a log entry. It is
// a leaf without cgo.
package command

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// FormatVersion is the version that this release writes, and the highest one
// that it can apply. It grows whenever a command could be read differently by
// an older release.
const FormatVersion = 1

// MaxEntryBytes bounds one Raft entry. hashicorp/raft wants entries at or
// below 512 KiB (api.go, SuggestedMaxDataSize): larger ones delay heartbeats.
const MaxEntryBytes = 512 << 10

// The errors of decoding. Each of them stops the process that meets it in the
// log: to skip an entry that other nodes apply would diverge.
var (
	ErrVersion   = errors.New("the log entry was written by a newer snipdb: upgrade this node")
	ErrUnknown   = errors.New("the log entry holds an unknown command: upgrade this node")
	ErrMalformed = errors.New("the log entry can't be decoded")
)

// Field numbers of Entry, for AppendCommand.
const (
	entryVersionField  protowire.Number = 1
	entryCommandsField protowire.Number = 2
)

// Encode encodes one command. The bytes may be joined into an entry by
// AppendCommand.
func Encode(c *Command) ([]byte, error) { return proto.Marshal(c) }

// NewEntry starts an entry: append commands to it with AppendCommand.
func NewEntry(sizeHint int) []byte {
	b := make([]byte, 0, sizeHint+8)
	b = protowire.AppendTag(b, entryVersionField, protowire.VarintType)
	return protowire.AppendVarint(b, FormatVersion)
}

// AppendCommand appends an encoded command to an entry. Joined pieces of one
// message are the message itself, so no command is encoded twice.
func AppendCommand(entry, encoded []byte) []byte {
	entry = protowire.AppendTag(entry, entryCommandsField, protowire.BytesType)
	return protowire.AppendBytes(entry, encoded)
}

// CommandOverhead is how many bytes AppendCommand adds to a command, at most.
const CommandOverhead = 1 + 5

// Decode decodes an entry. It returns ErrMalformed, ErrVersion or ErrUnknown,
// wrapped, if any part of it is not understood completely. The entry shares no
// memory with data.
func Decode(data []byte) (*Entry, error) {
	var e Entry
	if err := proto.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("command: %w: %v", ErrMalformed, err)
	}
	// The version comes before the unknown fields: a newer entry should be
	// called newer, whatever else is new in it.
	if e.GetVersion() > FormatVersion {
		return nil, fmt.Errorf("command: format version %d, this release knows %d: %w", e.GetVersion(), FormatVersion, ErrVersion)
	}
	if e.GetVersion() == 0 {
		return nil, fmt.Errorf("command: no format version: %w", ErrMalformed)
	}
	if err := entryShape().check(data); err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	for i, c := range e.GetCommands() {
		if !hasOperation(c) {
			return nil, fmt.Errorf("command: command %d of the entry has no operation: %w", i, ErrUnknown)
		}
	}
	return &e, nil
}

// hasOperation says whether the command, and each mutation in it, says what
// is to be done.
func hasOperation(c *Command) bool {
	switch op := c.GetOp().(type) {
	case nil:
		return false
	case *Command_Mutation:
		return op.Mutation.GetOp() != nil
	case *Command_Batch:
		for _, m := range op.Batch.GetMutations() {
			if m.GetOp() == nil {
				return false
			}
		}
	}
	return true
}

// Applied says whether the outcome is one that changed the state.
func (o Outcome) Applied() bool {
	switch o {
	case Outcome_CREATED, Outcome_UPDATED, Outcome_DELETED, Outcome_DONE:
		return true
	}
	return false
}
