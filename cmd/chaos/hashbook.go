package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// verifyWait is how long the full scan of one node's state may take.
const verifyWait = time.Minute

// HashBook is what the hash of the visible state was after each entry of the
// log, on whichever node, over the whole run: a node that applied an entry
// differently is found while it runs, and so is one that lost a state and
// built another one on the same entries.
type HashBook struct {
	points map[uint64]bookPoint
	// Hashes is how many were seen, Compared how many of them another node had
	// been seen with before.
	Hashes, Compared int
}

type bookPoint struct {
	wire.HashPoint
	node string
}

// Add takes the hash that a node has after an entry.
func (b *HashBook) Add(node string, p wire.HashPoint) []Violation {
	if p.Index == 0 || p.Hash == "" {
		return nil // it has none yet
	}
	if b.points == nil {
		b.points = map[uint64]bookPoint{}
	}
	b.Hashes++
	first, known := b.points[p.Index]
	if !known {
		b.points[p.Index] = bookPoint{p, node}
		return nil
	}
	if first.node != node {
		b.Compared++
	}
	if first.HashPoint != p {
		return []Violation{violation("equal_hash", "", "after entry %d %s had the hash %s (term %d), and %s has %s (term %d)",
			p.Index, first.node, first.Hash, first.Term, node, p.Hash, p.Term)}
	}
	return nil
}

// seeHashes takes the hashes that a status shows.
func (r *Run) seeHashes(nodes []wire.NodeStatus) {
	var found []Violation
	r.mu.Lock()
	for _, n := range nodes {
		if !n.Reachable {
			continue
		}
		found = append(found, r.hashes.Add(n.ID, n.State.Hash)...)
		if n.State.Point != nil {
			found = append(found, r.hashes.Add(n.ID, *n.State.Point)...)
		}
		if n.State.Diverged != "" {
			found = append(found, violation("equal_hash", "", "%s says that it has diverged: %s", n.ID, n.State.Diverged))
		}
	}
	r.mu.Unlock()
	r.found(found...)
}

// checkHashes has the cluster itself compare the states, and each node compute
// the hash of its state anew from all its rows.
func (r *Run) checkHashes() {
	const checker = "equal_hash"
	ctx, cancel := context.WithTimeout(context.Background(), verifyWait)
	defer cancel()
	for {
		answer, _, err := r.admin.CheckConsistency(ctx, "")
		switch {
		case err == nil && answer.Verdict == wire.StateUnchecked && ctx.Err() == nil:
			time.Sleep(100 * time.Millisecond) // a node has not marked it yet
			continue
		case err != nil:
			r.violate(checker, "", "the states can't be compared: %v", err)
		case answer.Verdict != wire.StateAgreed:
			r.violate(checker, "", "the cluster says that its states are %s: %+v", answer.Verdict, answer.Nodes)
		}
		break
	}
	for _, n := range r.nodes {
		if err := r.verifyNode(ctx, n.URL); err != nil {
			r.violate(checker, "", "%s: %v", n.ID, err)
		}
	}
}

// verifyNode waits for a full scan of a node's state.
func (r *Run) verifyNode(ctx context.Context, url string) error {
	scan, _, err := r.admin.StartVerification(ctx, url, 0)
	for err == nil && scan.Status == wire.VerifyRunning {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the full scan has not ended after %v", verifyWait)
		case <-time.After(50 * time.Millisecond):
		}
		scan, _, err = r.admin.Verification(ctx, url)
	}
	switch {
	case err != nil:
		return fmt.Errorf("the full scan: %w", err)
	case scan.Status != wire.VerifyOK || scan.Stored != scan.Computed:
		return fmt.Errorf("the full scan found the hash %s, %s is stored: %s %v %s", scan.Computed, scan.Stored, scan.Status, scan.Problems, scan.Error)
	}
	r.figures.Scanned += scan.Rows
	return nil
}
