package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// Outcome is what a client knows of a call.
type Outcome string

const (
	// OK: a write is acknowledged, a read has shown something, be it that the
	// document is absent.
	OK Outcome = "ok"
	// Refused: the state machine looked at the state and said no. That tells
	// something of the state, as a read does.
	Refused Outcome = "refused"
	// Failed: the write has not been applied and never will be; a read showed nothing.
	Failed Outcome = "failed"
	// Unknown: the write may have been applied, or may be later.
	Unknown Outcome = "unknown"
)

// The kinds of calls.
const (
	KindRead         = "read"
	KindPut          = "put"
	KindPatch        = "patch"
	KindPutSnippet   = "put_snippet"
	KindPatchSnippet = "patch_snippet"
	KindEmbed        = "put_embeddings"
	KindVector       = "put_vector"
	KindDelete       = "delete"
	KindDeleteOwner  = "delete_owner"
	KindCreate       = "create"
	KindImport       = "import"
	KindReadOther    = "read_other" // a document of another collection than the registers
	KindAppend       = "append"
	KindPop          = "pop"
	KindQueueRead    = "queue_read"
	KindPairWrite    = "pair_write"
	KindPairDelete   = "pair_delete"
	KindPairRead     = "pair_read"
	KindCollPut      = "coll_put"
	KindCollDelete   = "coll_delete"
	KindCollRead     = "coll_read"
	KindLimits       = "limits"
	KindLimitsRead   = "limits_read"
)

// kinds are all of them: each must have succeeded once in a run.
var kinds = []string{
	KindRead, KindPut, KindPatch, KindPutSnippet, KindPatchSnippet, KindEmbed, KindVector, KindDelete, KindDeleteOwner,
	KindCreate, KindImport, KindReadOther, KindAppend, KindPop, KindQueueRead, KindPairWrite, KindPairDelete, KindPairRead,
	KindCollPut, KindCollDelete, KindCollRead, KindLimits, KindLimitsRead,
}

// Op is one call, or the part of a batch that concerns one document.
type Op struct {
	ID     int    `json:"id"`
	Client int    `json:"client"`
	Kind   string `json:"kind"`
	Key    string `json:"key"`
	// Token is the unique value of a write. A put makes it title and text of a
	// document, a patch its title, a snippet its text, an embedding the model.
	Token string `json:"token,omitempty"`
	// Model says that a put in a batch came with an embedding named Token.
	Model bool `json:"model,omitempty"`
	// Again says that an acknowledged write was sent more than once without a
	// key, as a line of an import that resumed: it may be applied again.
	Again bool `json:"again,omitempty"`
	// Deleted is how many documents a deletion by owner says it has deleted.
	Deleted int `json:"deleted,omitempty"`
	// Level is a read's; BoundMs goes with bounded.
	Level   string `json:"level,omitempty"`
	BoundMs int64  `json:"bound_ms,omitempty"`
	// IfMatch and IfAbsent are a write's condition. Keyed: it has an
	// idempotency key, and was sent again under it.
	IfMatch  uint64 `json:"if_match,omitempty"`
	IfAbsent bool   `json:"if_absent,omitempty"`
	Keyed    bool   `json:"keyed,omitempty"`

	// Call and Return are nanoseconds since the start, on one monotonic clock.
	Call    int64   `json:"call"`
	Return  int64   `json:"return"`
	Outcome Outcome `json:"outcome"`
	// Index and Term are the answer's: of a write, or of the state that was read.
	Index    uint64 `json:"index,omitempty"`
	Term     uint64 `json:"term,omitempty"`
	Node     string `json:"node,omitempty"`
	Via      string `json:"via,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	Replayed bool   `json:"replayed,omitempty"`
	Code     string `json:"code,omitempty"`
	Status   int    `json:"status,omitempty"` // of an error
	// Current is the revision that a refused condition was compared with.
	Current uint64 `json:"current,omitempty"`
	Created bool   `json:"created,omitempty"`
	Error   string `json:"error,omitempty"`
	// Seen is what a read showed; nil for an absent document.
	Seen *Seen `json:"seen,omitempty"`
}

// Seen is a document as a read shows it, reduced to the tokens in it.
type Seen struct {
	Revision uint64 `json:"revision"`
	Title    string `json:"title"`
	Content  string `json:"content"`
	Model    string `json:"model,omitempty"`
	// Rest is the token of the snippets behind the first, "" if there are none.
	Rest string `json:"rest,omitempty"`
	// Titles says that only titles were read, as a listing shows them.
	Titles bool `json:"titles,omitempty"`
	// Parts are the tokens of a queue's snippets.
	Parts []string `json:"parts,omitempty"`
	// Damage says that the parts of the document do not fit together.
	Damage string `json:"damage,omitempty"`
}

// IsRead says that the call changes nothing.
func (o *Op) IsRead() bool {
	switch o.Kind {
	case KindRead, KindReadOther, KindPairRead, KindQueueRead, KindCollRead, KindLimitsRead:
		return true
	}
	return false
}

// answered takes in what every answer says.
func (o *Op) answered(meta client.Meta, err error) {
	o.Index, o.Term, o.Node, o.Via = meta.Index, meta.Term, meta.Node, meta.ForwardedBy
	o.Attempts, o.Replayed = meta.Attempts, meta.Replayed
	o.Created = err == nil && meta.Status == 201
	o.Outcome = outcomeOf(o, err)
	if err == nil {
		return
	}
	o.Error = err.Error()
	var e *client.Error
	if errors.As(err, &e) {
		o.Code, o.Current, o.Attempts, o.Status = string(e.Problem.Code), e.Problem.CurrentRevision, e.Attempts, e.Status
	}
}

// outcomeOf says what is known after an error. Only what a node or the client
// promises counts as not applied.
func outcomeOf(o *Op, err error) Outcome {
	if err == nil {
		return OK
	}
	var e *client.Error
	if !errors.As(err, &e) {
		if o.IsRead() {
			return Failed
		}
		return Unknown
	}
	code := e.Problem.Code
	switch {
	case o.IsRead() && code == wire.CodeNotFound:
		return OK
	case o.IsRead():
		return Failed
	case client.OutcomeUnknown(err):
		return Unknown
	case code == wire.CodeNotFound, code == wire.CodeRevisionMismatch, code == wire.CodeAlreadyExists:
		return Refused
	case code == wire.CodeWriteConflict && e.Attempts > 1:
		// This answer keeps no row under the key: an earlier attempt that is
		// still on its way could be applied yet.
		return Unknown
	}
	return Failed
}

// History collects the calls of a run.
type History struct {
	start time.Time

	mu      sync.Mutex // guards what follows
	ops     []*Op
	lastAck int64
	oks     int
	acks    int
	gap     Span // the longest time without an acknowledged write
	highest uint64
}

// Span is a stretch of the run's time.
type Span struct{ From, To int64 }

// Length is its duration.
func (s Span) Length() time.Duration { return time.Duration(s.To - s.From) }

// NewHistory begins now.
func NewHistory() *History { return &History{start: time.Now()} }

// Now is the time since the start.
func (h *History) Now() int64 { return int64(time.Since(h.start)) }

// Add takes finished calls. Those of one batch come together and count once.
func (h *History) Add(ops ...*Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range ops {
		o.ID = len(h.ops)
		h.ops = append(h.ops, o)
		h.highest = max(h.highest, o.Index)
	}
	if first := ops[0]; first.Outcome == OK {
		h.oks++
		if !first.IsRead() {
			h.acks++
			if gap := (Span{h.lastAck, first.Return}); h.acks > 1 && gap.Length() > h.gap.Length() {
				h.gap = gap
			}
			h.lastAck = max(h.lastAck, first.Return)
		}
	}
}

// Progress returns how many calls and how many writes succeeded, and when the
// last write did.
func (h *History) Progress() (oks, acks int, lastAck int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.oks, h.acks, h.lastAck
}

// LongestGap is the longest time between two acknowledged writes.
func (h *History) LongestGap() Span {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gap
}

// Highest is the highest index that any client was told: all up to it is
// committed.
func (h *History) Highest() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.highest
}

// Ops returns all calls so far.
func (h *History) Ops() []*Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*Op(nil), h.ops...)
}

// Save writes the calls as a line of JSON each.
func (h *History) Save(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("chaos: save the history: %w", err)
	}
	defer file.Close()
	encoder := json.NewEncoder(file)
	for _, o := range h.Ops() {
		if err := encoder.Encode(o); err != nil {
			return fmt.Errorf("chaos: save the history: %w", err)
		}
	}
	return nil
}

// Violation is a promise that was broken.
type Violation struct {
	// Checker names the promise.
	Checker string `json:"checker"`
	Key     string `json:"key,omitempty"`
	Detail  string `json:"detail"`
}

func (v Violation) String() string {
	if v.Key == "" {
		return v.Checker + ": " + v.Detail
	}
	return v.Checker + ": " + v.Key + ": " + v.Detail
}

func violation(checker, key, format string, args ...any) Violation {
	return Violation{checker, key, fmt.Sprintf(format, args...)}
}
