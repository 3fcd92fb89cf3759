package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Client speaks to one cluster.
type Client struct {
	core *core
	// session is set in the Client inside a Session only.
	session *sessionState
}

// core is what a Client and its Sessions share.
type core struct {
	opts   Options
	http   *http.Client
	pool   *pool
	budget *budget
	// own is set if the transport is the client's own, to be closed with it.
	own *http.Transport

	// ctx ends with Close. It is the only stored context, because it is the
	// life of the background work, not of a call.
	ctx    context.Context
	cancel context.CancelFunc
	// wg counts the goroutines of spawn.
	wg sync.WaitGroup
	// refresh is set while the members are asked for.
	refresh atomic.Bool
	// mu guards closed, so that no goroutine starts after Close began to wait.
	mu     sync.Mutex
	closed bool
}

// New returns a Client for the cluster of the nodes at endpoints: base URLs, as
// "http://10.0.0.1:8001"; "http://" may be left out. It sends nothing yet.
func New(endpoints []string, o Options) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	p, err := newPool(endpoints, !o.NoDiscovery)
	if err != nil {
		return nil, err
	}
	c := &core{opts: o, pool: p, budget: newBudget(o.Budget)}
	if o.HTTPClient != nil {
		copied := *o.HTTPClient
		c.http = &copied
	} else {
		c.own = &http.Transport{
			DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:       o.TLS,
			TLSHandshakeTimeout:   2 * dialTimeout,
			MaxIdleConnsPerHost:   o.MaxIdleConns,
			IdleConnTimeout:       idleConnTimeout,
			ExpectContinueTimeout: time.Second,
			// The bound on an answer must be one on the memory it takes.
			DisableCompression: true,
			WriteBufferSize:    32 << 10,
			ReadBufferSize:     16 << 10,
		}
		c.http = &http.Client{Transport: c.own}
	}
	// A redirect would take the token to an address that nobody checked, and
	// a write past the rules for retries.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http.Timeout = 0 // the context of each attempt has the deadline
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return &Client{core: c}, nil
}

// Close ends the background work and closes idle connections. Calls that are
// under way come to their own end; new ones get ErrClosed. Close BulkWriters
// first: Close cancels what they are sending. It may be called twice.
func (c *Client) Close() {
	c.core.mu.Lock()
	c.core.closed = true
	c.core.mu.Unlock()
	c.core.cancel()
	c.core.wg.Wait()
	if c.core.own != nil {
		c.core.own.CloseIdleConnections()
	}
}

// spawn runs f in a goroutine that Close waits for, unless the client is closed.
func (c *core) spawn(f func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	c.wg.Go(f)
	return nil
}

func (c *core) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Endpoints returns the nodes' base URLs that the client knows: those given to
// New, then those it has learned.
func (c *Client) Endpoints() []string { return c.core.pool.urls() }

// Leader returns the base URL of the node that the client takes for the
// leader, or "".
func (c *Client) Leader() string { return c.core.pool.leaderURL() }

// sleep waits for d or until ctx ends, and says whether d has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// isContextError says that err comes from the end of a context.
func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
