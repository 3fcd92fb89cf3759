package httpapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The limits of the HTTP side that are not options, with the reason of each.
const (
	// maxHeaderBytes bounds a request's header: names, cursors and tokens fit
	// many times over, and a slow or hostile client costs no more memory.
	maxHeaderBytes = 16 << 10
	// readHeaderTimeout ends connections that never finish their header.
	readHeaderTimeout = 5 * time.Second
	// idleTimeout closes kept-alive connections that nobody uses.
	idleTimeout = 90 * time.Second
	// answerGrace is the time that an answer has to reach the client after
	// the request's own deadline; a client that reads nothing is cut off then.
	answerGrace = 30 * time.Second
	// maxKeyBytes bounds an Idempotency-Key.
	maxKeyBytes = 128
	// minRetryAfter is the least that is sent in Retry-After.
	minRetryAfter = time.Second
	// maxRetryAfter is the most; a longer wait is worth another try in between.
	maxRetryAfter = 30 * time.Second
)

// The body limits per kind of route. One command is at most 512 KiB in the
// log; its JSON may be several times longer, because a float32 takes up to 14
// characters for 4 bytes and an escaped character up to 6 for one.
const (
	maxCommandBody = 4 << 20
	maxAdminBody   = 64 << 10
	// maxImportLine bounds one line of an import; the stream has no bound.
	maxImportLine = maxCommandBody
)

// Options are the settings of a Server. DefaultOptions gives working ones; in
// every integer and duration below, 0 means the default.
type Options struct {
	// Logger takes the few lines that the server logs; nil discards them.
	Logger *slog.Logger
	// Registerer takes the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Gatherer is what /metrics shows; nil answers 404 there.
	Gatherer prometheus.Gatherer
	// Version is the version of the binary, shown in openapi.json.
	Version string
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	// MaxConnections bounds the open connections; further ones wait in the
	// kernel's queue. Default 4,096.
	MaxConnections int
	// ReservedConnections of them serve health, status, metrics and admin
	// routes only, so that an operator gets in when clients have taken all
	// others. Default 64; less than MaxConnections.
	ReservedConnections int
	// ReadConcurrency bounds the reads that are served at once. Default 256.
	ReadConcurrency int
	// WriteConcurrency bounds the writes that are served at once; nearly all
	// of their time is waiting for the log. Default 1,024: with more, each waits
	// longer and no more are done.
	WriteConcurrency int
	// BulkConcurrency bounds the imports at once. Default 16.
	BulkConcurrency int
	// AdminConcurrency is the reserve of the admin routes. Default 32.
	AdminConcurrency int
	// QueueWait is how long a request waits for a free place of its class
	// before it is refused; as many may wait as there are places, and of writes
	// as many as there are connections. Default 250 ms.
	QueueWait time.Duration
	// BodyMemory bounds the bytes of request bodies in memory at once, over
	// all classes. Default 256 MiB; at least 16 MiB.
	BodyMemory int64

	// DefaultTimeout is a request's deadline if it names none. Default 10 s.
	DefaultTimeout time.Duration
	// MaxTimeout is the longest deadline; a longer wish is cut to it. Default 60 s.
	MaxTimeout time.Duration

	// ImportWindow is how many lines of one import are in flight. Default 64.
	ImportWindow int
	// ImportWindowBytes bounds their bytes. Default 8 MiB; at least one line (4 MiB).
	ImportWindowBytes int64
	// ImportIdle ends an import whose client neither sends nor reads for that
	// long. Default 2 min.
	ImportIdle time.Duration
	// ImportRetry is how long one line of an import is tried again while the
	// node is overloaded; the client meanwhile waits. Default 60 s.
	ImportRetry time.Duration

	// ForwardTransport reaches the leader's API; nil means a pool of its own.
	ForwardTransport http.RoundTripper
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options { return Options{}.withDefaults() }

// withDefaults fills what is zero.
func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	orInt(&o.MaxConnections, 4096)
	orInt(&o.ReservedConnections, 64)
	orInt(&o.ReadConcurrency, 256)
	orInt(&o.WriteConcurrency, 1024)
	orInt(&o.BulkConcurrency, 16)
	orInt(&o.AdminConcurrency, 32)
	orInt(&o.ImportWindow, 64)
	orDuration(&o.QueueWait, 250*time.Millisecond)
	orDuration(&o.DefaultTimeout, 10*time.Second)
	orDuration(&o.MaxTimeout, time.Minute)
	orDuration(&o.ImportIdle, 2*time.Minute)
	orDuration(&o.ImportRetry, time.Minute)
	if o.BodyMemory == 0 {
		o.BodyMemory = 256 << 20
	}
	if o.ImportWindowBytes == 0 {
		o.ImportWindowBytes = 8 << 20
	}
	return o
}

func orInt(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

func orDuration(v *time.Duration, def time.Duration) {
	if *v == 0 {
		*v = def
	}
}

// Validate returns every problem of the options, joined.
func (o Options) Validate() error {
	o = o.withDefaults()
	var problems []error
	atLeast := func(name string, value, bound int64) {
		if value < bound {
			problems = append(problems, fmt.Errorf("httpapi: option %s is %d, it must be at least %d", name, value, bound))
		}
	}
	atLeast("MaxConnections", int64(o.MaxConnections), 2)
	atLeast("ReservedConnections", int64(o.ReservedConnections), 1)
	atLeast("ReadConcurrency", int64(o.ReadConcurrency), 1)
	atLeast("WriteConcurrency", int64(o.WriteConcurrency), 1)
	atLeast("BulkConcurrency", int64(o.BulkConcurrency), 1)
	atLeast("AdminConcurrency", int64(o.AdminConcurrency), 1)
	atLeast("ImportWindow", int64(o.ImportWindow), 1)
	atLeast("BodyMemory", o.BodyMemory, 16<<20)
	atLeast("ImportWindowBytes", o.ImportWindowBytes, maxImportLine)
	atLeast("QueueWait", int64(o.QueueWait), 1)
	atLeast("DefaultTimeout", int64(o.DefaultTimeout), 1)
	atLeast("ImportIdle", int64(o.ImportIdle), 1)
	atLeast("ImportRetry", int64(o.ImportRetry), 1)
	if o.MaxTimeout < o.DefaultTimeout {
		problems = append(problems, fmt.Errorf("httpapi: option MaxTimeout is %v, it must be at least DefaultTimeout, %v", o.MaxTimeout, o.DefaultTimeout))
	}
	if o.ReservedConnections >= o.MaxConnections {
		problems = append(problems, fmt.Errorf("httpapi: option ReservedConnections is %d, it must be less than MaxConnections, %d", o.ReservedConnections, o.MaxConnections))
	}
	return errors.Join(problems...)
}
