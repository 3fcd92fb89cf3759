package cluster

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// TestAStuckTransferEndsTheProcess: hashicorp/raft #696 leaves a flag that
// refuses every entry. The watchdog needs to see only the refusal's age.
func TestAStuckTransferEndsTheProcess(t *testing.T) {
	c := newTestCluster(t)
	var fatal atomic.Int32
	c.opts = func(_ string, o *Options) { o.Fatal = func(error) { fatal.Add(1) } }
	n := c.start("n1", 0)
	c.allReady()
	n.props.noteTransfer(raft.ErrLeadershipTransferInProgress)
	first := n.props.transferSince.Load()
	n.props.noteTransfer(raft.ErrLeadershipTransferInProgress)
	if n.props.transferSince.Load() != first {
		t.Error("the time of the first refusal was overwritten")
	}
	// A refusal that is over is forgotten: the watchdog's own Tick passes.
	eventually(t, "the refusal is forgotten", func() error {
		if n.props.transferSince.Load() != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if fatal.Load() != 0 {
		t.Fatal("the process ended without need")
	}
	eventually(t, "an old refusal ends the process", func() error {
		n.props.transferSince.Store(time.Now().Add(-time.Hour).UnixNano())
		if fatal.Load() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

func TestAnErrorOfRaftSaysWhatItMeans(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	for err, want := range map[error]string{
		raft.ErrNotLeader:                    contract.OutcomeNotApplied,
		raft.ErrEnqueueTimeout:               contract.OutcomeNotApplied,
		raft.ErrLeadershipTransferInProgress: contract.OutcomeNotApplied,
		raft.ErrLeadershipLost:               contract.OutcomeUnknown,
		raft.ErrRaftShutdown:                 contract.OutcomeUnknown,
		raft.ErrAbortedByRestore:             contract.OutcomeUnknown,
		errors.New("something of the log"):   contract.OutcomeUnknown,
	} {
		if got := contract.Outcome(n.props.classify(err)); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

// TestErrorsKeepTheirMeaningBetweenNodes walks them through toPeer and fromPeer.
func TestErrorsKeepTheirMeaningBetweenNodes(t *testing.T) {
	for _, err := range []error{contract.ErrNoLeader, contract.ErrNotReady} {
		if got := fromPeer(toPeer(err)); !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	if got := fromPeer(toPeer(&contract.NotLeaderError{})); !errors.Is(got, contract.ErrNoLeader) {
		t.Errorf("not leader became %v", got)
	}
	for _, found := range []bool{true, false} {
		var m *contract.MembershipError
		if got := fromPeer(toPeer(&contract.MembershipError{NotFound: found, Detail: "x"})); !errors.As(got, &m) || m.NotFound != found || m.Detail != "x" {
			t.Errorf("membership error became %v", got)
		}
	}
	if got := fromPeer(toPeer(&contract.OutcomeUnknownError{Cause: errors.New("x")})); contract.Outcome(got) != contract.OutcomeUnknown {
		t.Errorf("unknown became %v", got)
	}
}
