package chaos

import (
	"fmt"
	"sync"
	"time"
)

// ModeKind is what a link does with the bytes on it.
type ModeKind string

const (
	// Pass forwards at once.
	Pass ModeKind = "pass"
	// Blackhole holds everything back until the link is healed. As with a real
	// network, whose ends send again what was lost, the bytes of a connection
	// that is still open arrive late, and in order.
	Blackhole ModeKind = "blackhole"
	// Reset ends every connection that uses the link, and every new one.
	Reset ModeKind = "reset"
	// Delay holds each piece back for a time.
	Delay ModeKind = "delay"
	// Bandwidth lets so many bytes pass in a second.
	Bandwidth ModeKind = "bandwidth"
)

// Mode is the state of a link.
type Mode struct {
	Kind ModeKind
	// Delay and Jitter are for Delay: each piece waits Delay ± Jitter, and
	// stays in order.
	Delay, Jitter time.Duration
	// BytesPerSecond is for Bandwidth.
	BytesPerSecond int
}

func (m Mode) String() string {
	switch m.Kind {
	case Delay:
		return fmt.Sprintf("delay %v ± %v", m.Delay, m.Jitter)
	case Bandwidth:
		return fmt.Sprintf("%d bytes/s", m.BytesPerSecond)
	}
	return string(m.Kind)
}

// link is one direction between two nodes.
type link struct {
	mu      sync.Mutex // guards what follows
	mode    Mode
	changed chan struct{} // closed when mode changes
}

func newLink() *link { return &link{mode: Mode{Kind: Pass}, changed: make(chan struct{})} }

func (l *link) get() (Mode, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode, l.changed
}

func (l *link) set(m Mode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mode = m
	close(l.changed)
	l.changed = make(chan struct{})
}

// Network is all links between the nodes, and the proxies that obey them.
type Network struct {
	mu      sync.Mutex // guards what follows
	links   map[[2]string]*link
	proxies []*proxy
	stats   NetworkStats
}

// NetworkStats count over a run.
type NetworkStats struct {
	Connections, Resets int
	Bytes               int64
}

// NewNetwork returns a network in which everything passes.
func NewNetwork() *Network { return &Network{links: map[[2]string]*link{}} }

// link returns the link of one direction. The clients are no node: "" is a
// sender whose bytes always pass.
func (n *Network) link(from, to string) *link {
	if from == "" || to == "" {
		return newLink()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]string{from, to}
	if n.links[key] == nil {
		n.links[key] = newLink()
	}
	return n.links[key]
}

// Set sets what happens to the bytes that one node sends to another.
func (n *Network) Set(from, to string, m Mode) { n.link(from, to).set(m) }

// SetBoth sets both directions between two nodes.
func (n *Network) SetBoth(a, b string, m Mode) {
	n.Set(a, b, m)
	n.Set(b, a, m)
}

// Heal makes everything pass.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		l.set(Mode{Kind: Pass})
	}
}

// Stats returns the counts.
func (n *Network) Stats() NetworkStats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

func (n *Network) count(f func(s *NetworkStats)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.stats)
}

// Close ends all proxies and waits for their goroutines.
func (n *Network) Close() {
	n.mu.Lock()
	proxies := n.proxies
	n.mu.Unlock()
	for _, p := range proxies {
		p.close()
	}
}
