package client

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// How long a node that failed is passed over. It doubles with each failure in
// a row, and then one call at a time tries the node again.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 5 * time.Second
)

// endpoint is one node. All fields but url are guarded by the pool's mutex.
type endpoint struct {
	// url is the base URL, without a slash at the end.
	url string
	// node is the node's id, once an answer told it.
	node string
	// learned endpoints were named by a node; they are used for writes, as
	// the leader, but take no share of the reads.
	learned bool
	// fails counts the failures in a row; until downUntil the node is passed over.
	// probing says that one call tries whether it is back.
	fails     int
	downUntil time.Time
	probing   bool
}

// pool is what the client knows of the nodes. Its methods do no I/O.
type pool struct {
	discover bool
	// secure is set if the given endpoints are all https: a learned address
	// must not take the token into the clear.
	secure bool
	// now is the clock, replaced in tests.
	now func() time.Time

	mu     sync.Mutex
	list   []*endpoint
	leader *endpoint
	next   int
}

func newPool(urls []string, discover bool) (*pool, error) {
	p := &pool{discover: discover, secure: true, now: time.Now}
	for _, text := range urls {
		base, err := baseURL(text)
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(base, "https:") {
			p.secure = false
		}
		if p.find(base) == nil {
			p.list = append(p.list, &endpoint{url: base})
		}
	}
	if len(p.list) == 0 {
		return nil, fmt.Errorf("client: no endpoint is given")
	}
	if len(p.list) > maxEndpoints {
		return nil, fmt.Errorf("client: %d endpoints are given, at most %d may be", len(p.list), maxEndpoints)
	}
	p.next = rand.N(len(p.list)) // so that many clients do not begin at the same node
	return p, nil
}

// baseURL checks and normalises an endpoint.
func baseURL(text string) (string, error) {
	full := strings.TrimSpace(text)
	if full != "" && !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("client: the endpoint %q is no base URL, as http://10.0.0.1:8001", text)
	}
	return strings.TrimRight(full, "/"), nil
}

// find returns the endpoint with the URL, or nil.
func (p *pool) find(base string) *endpoint {
	for _, e := range p.list {
		if e.url == base {
			return e
		}
	}
	return nil
}

// pinned returns the endpoint with the URL, which need not belong to the pool.
func (p *pool) pinned(text string) (*endpoint, error) {
	base, err := baseURL(text)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.find(base); e != nil {
		return e, nil
	}
	return &endpoint{url: base}, nil
}

// pick chooses a node for an attempt: for a write the leader, else one that
// is up and was not tried in this round of the call; the nodes in turn.
func (p *pool) pick(write bool, tried map[*endpoint]bool) *endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if l := p.leader; write && l != nil && !tried[l] && !l.downUntil.After(now) {
		return l
	}
	p.next++
	var best *endpoint
	for i := range p.list {
		e := p.list[(p.next+i)%len(p.list)]
		if tried[e] || e.learned && !write {
			continue
		}
		if !e.downUntil.After(now) {
			if e.fails > 0 {
				// One call finds out whether the node is back; the others
				// pass it over in the meantime.
				e.downUntil, e.probing = now.Add(pause(e.fails)), true
			}
			return e
		}
		// All that are left failed lately: the one whose pause ends first.
		if best == nil || e.downUntil.Before(best.downUntil) {
			best = e
		}
	}
	if best != nil {
		return best
	}
	return p.list[p.next%len(p.list)]
}

// untried says whether a node is up that the call has not tried in this round.
func (p *pool) untried(write bool, tried map[*endpoint]bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for _, e := range p.list {
		if !tried[e] && (write || !e.learned) && !e.downUntil.After(now) {
			return true
		}
	}
	return false
}

func pause(fails int) time.Duration {
	return min(firstPause<<min(fails-1, 10), maxPause)
}

// down takes note that the node did not answer, or can't serve.
func (p *pool) down(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if e.probing || !e.downUntil.After(now) {
		// Of many calls that fail together, one counts.
		e.fails++
	}
	e.probing = false
	d := pause(e.fails)
	e.downUntil = now.Add(d/2 + rand.N(d/2+1))
	if p.leader == e {
		p.leader = nil
	}
}

// up takes note of an answer.
func (p *pool) up(e *endpoint, node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.fails, e.downUntil, e.probing = 0, time.Time{}, false
	if node != "" {
		e.node = node
	}
}

// notLeader takes note that the node does not lead.
func (p *pool) notLeader(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == e {
		p.leader = nil
	}
}

// leads takes note that the endpoint led a moment ago.
func (p *pool) leads(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.find(e.url) == e {
		p.leader = e
	}
}

// leaderIs takes note of the leader's id. It returns false if it is not known
// where that node is.
func (p *pool) leaderIs(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.list {
		if node != "" && e.node == node {
			p.leader = e
			return true
		}
	}
	return false
}

// hint takes note of the leader's address, as a node gave it, and returns its
// endpoint, or nil if it can't be used.
func (p *pool) hint(text string) *endpoint {
	base, err := baseURL(text)
	if text == "" || err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.learn(base, "")
	if e != nil {
		p.leader = e
	}
	return e
}

// learn returns the endpoint with the URL, which is added if that is allowed.
func (p *pool) learn(base, node string) *endpoint {
	e := p.find(base)
	if e == nil {
		if !p.discover || p.secure && !strings.HasPrefix(base, "https:") || len(p.list) >= maxEndpoints {
			return nil
		}
		e = &endpoint{url: base, learned: true}
		p.list = append(p.list, e)
	}
	if node != "" {
		e.node = node
	}
	return e
}

// learnMembers takes in a list of members.
func (p *pool) learnMembers(members []wire.Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range members {
		if m.HTTPAddr == "" {
			continue
		}
		base, err := baseURL(m.HTTPAddr)
		if err != nil {
			continue
		}
		// A node that already answers at a given endpoint is not learned a
		// second time under the address that it advertises.
		if p.knows(m.ID, base) {
			continue
		}
		p.learn(base, m.ID)
	}
	for _, m := range members {
		for _, e := range p.list {
			if m.Leader && m.ID != "" && e.node == m.ID {
				p.leader = e
			}
		}
	}
}

func (p *pool) knows(node, base string) bool {
	for _, e := range p.list {
		if node != "" && e.node == node && e.url != base {
			return true
		}
	}
	return false
}

func (p *pool) urls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, len(p.list))
	for i, e := range p.list {
		out[i] = e.url
	}
	return out
}

func (p *pool) leaderURL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == nil {
		return ""
	}
	return p.leader.url
}
