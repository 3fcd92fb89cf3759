package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// Env is what every benchmark needs from its caller.
type Env struct {
	// NewClient makes a client whose retries are reported to onRetry; conns is
	// how many requests will be under way at the same time. single: a call is
	// one attempt, and a refusal is its result.
	NewClient func(conns int, single bool, onRetry func(client.RetryEvent)) (*client.Client, error)
	// Endpoints are the nodes that the user named.
	Endpoints []string
	// Say shows one line of progress. May be nil.
	Say func(string)
}

func (e *Env) say(format string, args ...any) {
	if e.Say != nil {
		e.Say(fmt.Sprintf(format, args...))
	}
}

// Node is a node of the cluster.
type Node struct {
	ID       string `json:"id"`
	Endpoint string `json:"endpoint"`
}

// nodes returns the members that have an address, or the given endpoints if
// the cluster does not tell.
func (e *Env) nodes(ctx context.Context, cl *client.Client) []Node {
	var out []Node
	if list, _, err := cl.Members(ctx); err == nil {
		for _, m := range list.Items {
			if m.HTTPAddr != "" {
				out = append(out, Node{m.ID, strings.TrimRight(m.HTTPAddr, "/")})
			}
		}
	}
	if len(out) == 0 {
		for _, endpoint := range e.Endpoints {
			out = append(out, Node{endpoint, endpoint})
		}
	}
	slices.SortFunc(out, func(x, y Node) int { return strings.Compare(x.ID, y.ID) })
	return out
}

// runName names a run: it is part of every id that the run writes.
func runName() string {
	return strconv.FormatInt(time.Now().UnixMilli(), 36) + strconv.FormatUint(uint64(rand.Uint32N(36*36)), 36)
}

// reason names an error for a count: its status and code, or its cause.
func reason(err error) string {
	var e *client.Error
	if !errors.As(err, &e) {
		if errors.Is(err, context.DeadlineExceeded) {
			return "deadline"
		}
		return "other"
	}
	switch {
	case e.Status != 0 && e.Problem.Reason != "" && e.Problem.Reason != string(e.Problem.Code):
		return fmt.Sprintf("%d %s %s", e.Status, e.Problem.Code, e.Problem.Reason)
	case e.Status != 0:
		return fmt.Sprintf("%d %s", e.Status, e.Problem.Code)
	case errors.Is(e.Cause, context.DeadlineExceeded):
		return "timeout"
	}
	return "connection"
}

// Refusals counts what the nodes refused, over all attempts.
type Refusals struct {
	TooMany     int64 `json:"status_429"`
	Unavailable int64 `json:"status_503"`
}

// counters are what the clients of a run report.
type counters struct {
	retries  Tally
	errors   Tally
	mu       sync.Mutex
	refusals Refusals
	examples []string
}

// retry counts an attempt that is repeated.
func (c *counters) retry(e client.RetryEvent) {
	c.retries.Add(reason(e.Err))
	c.refused(e.Err)
}

// failure counts a call that failed for good, and keeps a few in full.
func (c *counters) failure(what string, err error) {
	c.errors.Add(reason(err))
	c.refused(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.examples) < maxExamples {
		c.examples = append(c.examples, what+": "+err.Error())
	}
}

// maxExamples bounds the failures and differences that a report shows in full.
const maxExamples = 20

func (c *counters) refused(err error) {
	var e *client.Error
	if !errors.As(err, &e) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Status {
	case 429:
		c.refusals.TooMany++
	case 503:
		c.refusals.Unavailable++
	}
}

func (c *counters) snapshot() (Refusals, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusals, append([]string{}, c.examples...)
}

// ensureCollection makes the collection, or accepts one that fits. created
// says that it is this run's own.
func ensureCollection(ctx context.Context, cl *client.Client, name string, dimension int) (created bool, err error) {
	in := wire.CollectionInput{}
	if dimension > 0 {
		in.Dimension = &dimension
	}
	_, meta, err := cl.PutCollection(ctx, name, in, client.IfAbsent())
	switch {
	case err == nil:
		return true, nil
	case !client.IsConflict(err):
		return false, fmt.Errorf("bench: create collection %s: %w", name, err)
	}
	have, _, err := cl.GetCollection(ctx, name, client.WithConsistency(client.AtIndex(meta.Index)))
	if err != nil {
		return false, fmt.Errorf("bench: read collection %s: %w", name, err)
	}
	if dimension > 0 && have.Dimension != 0 && have.Dimension != dimension {
		return false, fmt.Errorf("bench: collection %s has dimension %d, not %d", name, have.Dimension, dimension)
	}
	return false, nil
}

// live calls line every second until the returned function is called.
func (e *Env) live(line func(elapsed time.Duration) string) (stop func()) {
	quit, stopped := make(chan struct{}), make(chan struct{})
	begin := time.Now()
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case now := <-tick.C:
				e.say("%s", line(now.Sub(begin)))
			}
		}
	}()
	return func() {
		close(quit)
		<-stopped
	}
}

// sortedKeys is for reports that list counts.
func sortedKeys(m map[string]int64) []string { return slices.Sorted(maps.Keys(m)) }

// Counts renders counts as "3 connection, 2 503 no_leader"; "0" if there are none.
func Counts(m map[string]int64) string {
	if len(m) == 0 {
		return "0"
	}
	var parts []string
	for _, key := range sortedKeys(m) {
		parts = append(parts, fmt.Sprintf("%d × %s", m[key], key))
	}
	return strings.Join(parts, ", ")
}
