package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

// verification is the one full scan of the state that may run at a time.
type verification struct {
	mu     sync.Mutex // guards what follows; a leaf
	now    contract.Verification
	cancel context.CancelFunc // of the one that runs
}

// StartVerification starts a full scan of this node's state in the background,
// unless one runs, and returns what is known of it; started says that there was
// none. It reads at most so many bytes per second; 0: as fast as it can. The result changes nothing by
// itself: a mistake in the hash would be the same on every node, and one
// command must not be able to stop all of them.
func (n *Node) StartVerification(bytesPerSecond int64) (now contract.Verification, started bool, err error) {
	if n.isClosing() {
		return contract.Verification{}, false, contract.ErrShutdown
	}
	if n.p.VerifyState == nil {
		return contract.Verification{}, false, contract.ErrNotReady
	}
	v := &n.verification
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.now.Running {
		return v.now, false, nil
	}
	v.now = contract.Verification{Running: true, Started: n.o.Now()}
	ctx, cancel := context.WithCancel(n.ctx())
	v.cancel = cancel
	n.goRun(func(context.Context) {
		defer cancel()
		n.verify(ctx, bytesPerSecond)
	})
	return v.now, true, nil
}

func (n *Node) verify(ctx context.Context, bytesPerSecond int64) {
	v := &n.verification
	result, err := n.p.VerifyState(ctx, bytesPerSecond, func(rows, bytes int64) {
		v.mu.Lock()
		v.now.Rows, v.now.Bytes = rows, bytes
		v.mu.Unlock()
	})
	v.mu.Lock()
	result.Started, result.Ended = v.now.Started, n.o.Now()
	if err != nil {
		result.Rows, result.Bytes, result.Error = v.now.Rows, v.now.Bytes, err.Error()
	}
	v.now = result
	v.mu.Unlock()
	dur := time.Since(result.Started).Milliseconds()
	switch {
	case err != nil:
		n.log.Warn("the verification of the state did not end", "rows", result.Rows, "error", err)
	case len(result.Problems) > 0:
		n.log.Error("the verification of the state found that this node's data is not what was written;"+
			" if the other nodes pass theirs, empty this one's directory and let it join again", "problems", result.Problems)
	default:
		n.log.Info("the state is verified", "index", result.Index, "rows", result.Rows, "bytes", result.Bytes, "dur_ms", dur)
	}
}

// Verification returns what is known of the newest full scan.
func (n *Node) Verification() contract.Verification {
	n.verification.mu.Lock()
	defer n.verification.mu.Unlock()
	return n.verification.now
}

// StopVerification ends the scan that runs, if one does.
func (n *Node) StopVerification() {
	n.verification.mu.Lock()
	defer n.verification.mu.Unlock()
	if n.verification.cancel != nil {
		n.verification.cancel()
	}
}
