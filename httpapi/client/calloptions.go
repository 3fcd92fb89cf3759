package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// Consistency is how fresh a read must be. Use Local, Bounded, AtIndex or
// Linearizable; the zero value is Local.
type Consistency struct {
	// Level is "local", "bounded", "session" or "linearizable".
	Level string
	// MaxStaleness is for "bounded", MinIndex for "session".
	MaxStaleness time.Duration
	MinIndex     uint64
}

// The levels of Consistency.
const (
	LevelLocal        = "local"
	LevelBounded      = "bounded"
	LevelSession      = "session"
	LevelLinearizable = "linearizable"
)

// Local is the state of the node that answers, now. It may be old.
func Local() Consistency { return Consistency{Level: LevelLocal} }

// Bounded is a state that was the newest at most d ago.
func Bounded(d time.Duration) Consistency { return Consistency{Level: LevelBounded, MaxStaleness: d} }

// AtIndex is a state that holds at least the log entry with that index, which
// is the Meta.Index of an earlier call.
func AtIndex(index uint64) Consistency { return Consistency{Level: LevelSession, MinIndex: index} }

// Linearizable is a state that holds every write that was acknowledged before
// the read began.
func Linearizable() Consistency { return Consistency{Level: LevelLinearizable} }

func (c Consistency) validate() error {
	switch c.Level {
	case "", LevelLocal, LevelSession, LevelLinearizable:
		return nil
	case LevelBounded:
		if c.MaxStaleness <= 0 {
			return errors.New("client: consistency bounded needs a MaxStaleness above zero")
		}
		return nil
	}
	return fmt.Errorf("client: consistency must be one of local, bounded, session, linearizable, it is %q", c.Level)
}

// addTo writes the parameters of the level; local is the node's default.
func (c Consistency) addTo(q url.Values) {
	switch c.Level {
	case LevelBounded:
		q.Set(wire.ParamMaxStaleness, c.MaxStaleness.String())
	case LevelSession:
		q.Set(wire.ParamMinIndex, strconv.FormatUint(c.MinIndex, 10))
	case LevelLinearizable:
	default:
		return
	}
	q.Set(wire.ParamConsistency, c.Level)
}

// callConfig is what the options of one call set.
type callConfig struct {
	consistency    Consistency
	hasConsistency bool
	embeddings     string
	endpoint       string
	key            string
	noKey          bool
	ifMatch        uint64
	ifPresent      bool
	ifAbsent       bool
	force          bool
}

// ReadOption is an option of a read.
type ReadOption interface{ applyRead(*callConfig) }

// WriteOption is an option of a write.
type WriteOption interface{ applyWrite(*callConfig) }

// CallOption is an option of both.
type CallOption interface {
	ReadOption
	WriteOption
}

type (
	readOption  func(*callConfig)
	writeOption func(*callConfig)
	callOption  func(*callConfig)
)

func (f readOption) applyRead(c *callConfig)   { f(c) }
func (f writeOption) applyWrite(c *callConfig) { f(c) }
func (f callOption) applyRead(c *callConfig)   { f(c) }
func (f callOption) applyWrite(c *callConfig)  { f(c) }

// The forms of vectors in an answer, for WithEmbeddings.
const (
	AsNumbers = "array"
	AsBase64  = "base64"
)

// WithConsistency sets the freshness of a read. In a Session it takes the
// place of the session's own. Status, Members and Consistency show what one node
// knows: to give it to them is an error, and a Session changes nothing about them.
func WithConsistency(c Consistency) ReadOption {
	return readOption(func(cfg *callConfig) { cfg.consistency, cfg.hasConsistency = c, true })
}

// WithEmbeddings asks for the vectors, AsNumbers or AsBase64. SnippetVector
// reads both.
func WithEmbeddings(form string) ReadOption {
	return readOption(func(cfg *callConfig) { cfg.embeddings = form })
}

// OnEndpoint pins the call to one node, given as its base URL, which need not
// be one of the Client's endpoints. It is not tried anywhere else.
func OnEndpoint(endpoint string) CallOption {
	return callOption(func(cfg *callConfig) { cfg.endpoint = endpoint })
}

// IfMatch makes a write depend on the revision that the document has.
func IfMatch(revision uint64) WriteOption {
	return writeOption(func(cfg *callConfig) { cfg.ifMatch = revision })
}

// IfPresent makes a write depend on the existence of its object.
func IfPresent() WriteOption { return writeOption(func(cfg *callConfig) { cfg.ifPresent = true }) }

// IfAbsent makes a write depend on the absence of its object.
func IfAbsent() WriteOption { return writeOption(func(cfg *callConfig) { cfg.ifAbsent = true }) }

// IdempotencyKey gives the write's key in place of one made by the client: for
// a write that is repeated after the program was restarted. 1 to 128 visible
// ASCII characters.
func IdempotencyKey(key string) WriteOption {
	return writeOption(func(cfg *callConfig) { cfg.key = key })
}

// WithoutIdempotencyKey sends no key: it saves the node a row, and the write
// is not repeated once it may have been sent.
func WithoutIdempotencyKey() WriteOption {
	return writeOption(func(cfg *callConfig) { cfg.noKey = true })
}

// Force makes RemoveMember remove a node though the voters that are left and
// answer are no quorum: then nothing can be written until others come back.
// Other calls ignore it.
func Force() WriteOption { return writeOption(func(cfg *callConfig) { cfg.force = true }) }

func readConfig(opts []ReadOption) *callConfig {
	cfg := &callConfig{}
	for _, o := range opts {
		o.applyRead(cfg)
	}
	return cfg
}

func writeConfig(opts []WriteOption) *callConfig {
	cfg := &callConfig{}
	for _, o := range opts {
		o.applyWrite(cfg)
	}
	return cfg
}

// conditions sets If-Match and If-None-Match.
func (cfg *callConfig) conditions(h http.Header) error {
	n := 0
	set := func(is bool, name, value string) {
		if is {
			n++
			h.Set(name, value)
		}
	}
	set(cfg.ifMatch > 0, "If-Match", `"`+strconv.FormatUint(cfg.ifMatch, 10)+`"`)
	set(cfg.ifPresent, "If-Match", "*")
	set(cfg.ifAbsent, "If-None-Match", "*")
	if n > 1 {
		return errors.New("client: at most one of IfMatch, IfPresent and IfAbsent may be given")
	}
	return nil
}

// Meta is what every answer says beside its body. It is filled as far as known
// when the call fails.
type Meta struct {
	// Index is the write's log index, or the index at which a read was
	// answered; Term its Raft term.
	Index, Term uint64
	// Node answered; Cluster is its cluster; ForwardedBy is the node that
	// passed a write on, if one did.
	Node, Cluster, ForwardedBy string
	// Replayed says that an earlier attempt with the same key had been applied.
	Replayed bool
	// Attempts is the number of requests sent, Endpoint the last one's node.
	Attempts  int
	Endpoint  string
	Status    int
	ETag      string
	RequestID string
}
