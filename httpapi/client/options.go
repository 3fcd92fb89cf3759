package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// The defaults and limits of Options.
const (
	// DefaultTimeout is a whole call's, retries included. It covers several
	// elections (2 s timers), so that a call rides through one.
	DefaultTimeout = 30 * time.Second
	// DefaultMaxAttempts bounds the attempts that spend budget. Retries of an
	// overloaded node come at least a second apart.
	DefaultMaxAttempts = 10
	// DefaultBaseBackoff and DefaultMaxBackoff bound the wait between attempts.
	DefaultBaseBackoff = 100 * time.Millisecond
	DefaultMaxBackoff  = 5 * time.Second
	// DefaultMaxAnswerBytes bounds an answer in memory. A full page of
	// documents with the largest metadata is about as long.
	DefaultMaxAnswerBytes = 64 << 20
	// DefaultMaxIdleConns is how many idle connections are kept for each
	// node: as many as there may be workers, for a connection costs a round
	// trip, and under load the pool would otherwise close and open all the time.
	DefaultMaxIdleConns = 512

	dialTimeout     = 2 * time.Second
	idleConnTimeout = 60 * time.Second // below the server's, so that the client closes first
	maxEndpoints    = 64
)

// Options are the settings of a Client. The zero value works.
type Options struct {
	// Token is the bearer token, empty for none.
	Token string
	// HTTPClient sends the requests; nil means one with a pool for hundreds of
	// workers. Its redirect policy is not used: the client follows no redirect.
	HTTPClient *http.Client
	// TLS is for the connections of the own HTTPClient; nil means the system's
	// roots. Not used if HTTPClient is set.
	TLS *tls.Config
	// MaxIdleConns is the number of idle connections kept for each node, 0
	// means DefaultMaxIdleConns. Not used if HTTPClient is set.
	MaxIdleConns int
	// Timeout bounds a whole call, retries and waits included, if its context
	// has no nearer deadline. 0 means DefaultTimeout.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt, so that a node that hangs costs a part
	// of the call's time only. 0 means a third of Timeout.
	AttemptTimeout time.Duration
	// MaxAttempts bounds the attempts of a call that spend budget; 1 means no
	// such retry. 0 means DefaultMaxAttempts.
	MaxAttempts int
	// BaseBackoff is the largest first wait, MaxBackoff the largest of all. A
	// wait is chosen at random between zero and a bound that doubles. 0 means
	// the default.
	BaseBackoff, MaxBackoff time.Duration
	// Budget bounds the retries of all calls together.
	Budget RetryBudget
	// UserAgent names the program; empty means "snipdb-go".
	UserAgent string
	// DefaultConsistency is that of reads without WithConsistency. The zero
	// value is Local().
	DefaultConsistency Consistency
	// VectorsAsNumbers sends vectors as JSON numbers. By default they are sent
	// as base64, which is half as long and costs the node no parsing.
	VectorsAsNumbers bool
	// MaxAnswerBytes bounds an answer; a longer one is ErrAnswerTooLarge. 0
	// means DefaultMaxAnswerBytes.
	MaxAnswerBytes int64
	// NoDiscovery keeps the client to the endpoints that it was given. By
	// default it also sends writes to the address at which a node says that
	// the leader is; for clusters whose nodes advertise addresses that the
	// client can't reach, that costs a failed connection now and then.
	NoDiscovery bool
	// OnRetry, if set, is called before each retry, in the goroutine of the call.
	OnRetry func(RetryEvent)
}

// RetryBudget bounds the retries that a Client does over all calls: a bucket
// of tokens, one per retry. Redirects to the leader, and waits for a node
// that can't serve yet, spend nothing.
type RetryBudget struct {
	// Ratio is the tokens that each call brings: 0.15 allows 15 % of retries
	// in the long run. 0 means 0.15.
	Ratio float64
	// Burst is the largest number of tokens, and the number at the start. 0
	// means 100.
	Burst float64
	// PerSecond are tokens that time brings, so that a program with few calls
	// can retry too. 0 means 5.
	PerSecond float64
	// FailFast makes a call fail when there is no token. By default it waits
	// for one, until its deadline.
	FailFast bool
}

// RetryEvent describes a retry that is about to happen.
type RetryEvent struct {
	Method, Path string
	// Endpoint is the node that failed, Attempt the number of the failed
	// attempt, from 1.
	Endpoint string
	Attempt  int
	// Err is an *Error.
	Err error
	// Wait is the time until the next attempt. Free says that it spends no budget.
	Wait time.Duration
	Free bool
}

// withDefaults fills what is zero.
func (o Options) withDefaults() Options {
	orDuration(&o.Timeout, DefaultTimeout)
	orDuration(&o.AttemptTimeout, o.Timeout/3)
	orDuration(&o.BaseBackoff, DefaultBaseBackoff)
	orDuration(&o.MaxBackoff, max(DefaultMaxBackoff, o.BaseBackoff))
	if o.MaxAttempts == 0 {
		o.MaxAttempts = DefaultMaxAttempts
	}
	if o.MaxIdleConns == 0 {
		o.MaxIdleConns = DefaultMaxIdleConns
	}
	if o.MaxAnswerBytes == 0 {
		o.MaxAnswerBytes = DefaultMaxAnswerBytes
	}
	if o.UserAgent == "" {
		o.UserAgent = "snipdb-go"
	}
	b := &o.Budget
	for _, f := range []struct {
		value *float64
		def   float64
	}{{&b.Ratio, 0.15}, {&b.Burst, 100}, {&b.PerSecond, 5}} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	return o
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
	bad := func(is bool, format string, args ...any) {
		if is {
			problems = append(problems, fmt.Errorf("client: option "+format, args...))
		}
	}
	bad(o.Timeout < 0, "Timeout is %v, it must not be negative", o.Timeout)
	bad(o.AttemptTimeout < 0, "AttemptTimeout is %v, it must not be negative", o.AttemptTimeout)
	bad(o.MaxAttempts < 0, "MaxAttempts is %d, it must not be negative", o.MaxAttempts)
	bad(o.BaseBackoff < 0, "BaseBackoff is %v, it must not be negative", o.BaseBackoff)
	bad(o.MaxBackoff < o.BaseBackoff, "MaxBackoff is %v, it must be at least BaseBackoff, %v", o.MaxBackoff, o.BaseBackoff)
	bad(o.MaxAnswerBytes < 0, "MaxAnswerBytes is %d, it must not be negative", o.MaxAnswerBytes)
	bad(o.MaxIdleConns < 0, "MaxIdleConns is %d, it must not be negative", o.MaxIdleConns)
	bad(o.Budget.Ratio < 0 || o.Budget.Ratio > 1, "Budget.Ratio is %g, it must be from 0 to 1", o.Budget.Ratio)
	bad(o.Budget.Burst < 1, "Budget.Burst is %g, it must be at least 1", o.Budget.Burst)
	bad(o.Budget.PerSecond < 0, "Budget.PerSecond is %g, it must not be negative", o.Budget.PerSecond)
	if err := o.DefaultConsistency.validate(); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}
