package httpapi

import (
	"bytes"
	"net/http"
	"sync"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

// pace bounds the writes that a follower has under way at its leader. A leader
// that can't take more refuses each write after the follower has read it, sent
// it on and read the answer; on the whole that costs more than the refusal at
// the follower, which the client needs as well. So the follower learns from the
// refusals how many the leader takes from it: a refusal makes the number
// smaller by a fifth, at most each pacePeriod, and as many answers as the number is
// make it greater by one. What is above it waits in the follower's own gate, as at
// any node, and is refused there.
//
// Only a refusal that is about the number of writes counts: a leader with a
// full disk refuses because of what a write is, and still takes deletions.
type pace struct {
	gate *gate // of the writes

	mu sync.Mutex // guards all below
	// leader is the node that the number is about; of another nothing is known.
	leader string
	number float64
	cut    time.Time // when it became smaller last
}

const (
	pacePeriod = 100 * time.Millisecond
	paceCut    = 0.8
	// paceLeast lets enough through to learn that the leader is well again.
	paceLeast = 8
)

func newPace(g *gate) *pace { return &pace{gate: g, number: float64(g.places)} }

// leads forgets what was learned of another leader than the given one. It is
// asked for each write, before the gate.
func (p *pace) leads(leader contract.LeaderInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == leader.ID {
		return
	}
	p.leader = leader.ID
	p.setLocked(float64(p.gate.places))
}

// answered learns from an answer of the leader to a write.
func (p *pace) answered(leader contract.LeaderInfo, status int, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.leader != leader.ID:
	case !tooMany(status, body):
		if most := float64(p.gate.places); p.number < most {
			p.setLocked(min(p.number+1/p.number, most))
		}
	case time.Since(p.cut) > pacePeriod:
		p.cut = time.Now()
		p.setLocked(max(p.number*paceCut, paceLeast))
	}
}

func (p *pace) setLocked(number float64) {
	before := int(p.number)
	if p.number = number; int(number) != before {
		p.gate.setLimit(int(number))
	}
}

// tooMany says whether an answer refuses a write because there are too many.
func tooMany(status int, body []byte) bool {
	if status != http.StatusServiceUnavailable {
		return false
	}
	for _, reason := range []contract.OverloadReason{contract.Concurrency, contract.QueueFull, contract.ApplyLag} {
		if bytes.Contains(body, []byte(`"reason":"`+string(reason)+`"`)) {
			return true
		}
	}
	return false
}
