package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/cluster/contract"
)

// A node that made a cluster of its own once, without --join, and is started as
// the others are: it leads nobody but itself.
func TestTheOnlyVoterOfAForeignClusterDoesNotStart(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.start("n3", 0)
	c.allReady()
	for _, founded := range []bool{false, true} { // two ways into Raft
		if founded {
			c.start("n3", 0)
			c.allReady()
			c.founded()
		}
		c.stop("n3")
		_, err := c.open("n3", 3, "n1", "n2", "n3")
		for _, want := range []string{"this node belongs to cluster " + c.nodes["n3"].ClusterID(), "the join addresses to " + c.nodes["n1"].ClusterID(), "n1 at test://n1", "empty the data directory"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("founded %v: no %q in: %v", founded, want, err)
			}
		}
	}
}

// The others may come later: from then on it serves nothing as its cluster.
func TestTheOnlyVoterOfAForeignClusterStopsServing(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.write("d", "theirs")
	c.stop("n1")
	c.start("n3", 0)
	c.write("d", "alone")
	c.stop("n3")
	n3 := c.start("n3", 3, "n1", "n2", "n3") // nobody is there who could say otherwise
	c.allReady()
	n1 := c.start("n1", 0)
	eventually(t, "it knows", func() error {
		if err := n3.Ready(); !errors.Is(err, contract.ErrForeign) {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	if _, err := n3.Propose(t.Context(), put("d", "lost")); !errors.Is(err, contract.ErrForeign) || contract.Outcome(err) != contract.OutcomeNotApplied {
		t.Errorf("a write: %v", err)
	}
	if _, err := n3.ReadIndex(t.Context(), linearizable); !errors.Is(err, contract.ErrForeign) {
		t.Errorf("a linearizable read: %v", err)
	}
	if _, err := n3.ReadIndex(t.Context(), contract.Consistency{Level: contract.Local}); err != nil {
		t.Errorf("a local read: %v", err)
	}
	if got := strings.Join(n3.LocalStatus().Errors, "; "); !strings.Contains(got, "the join addresses to "+n1.ClusterID()) {
		t.Errorf("its status says %q", got)
	}
	if _, err := n1.Propose(t.Context(), put("d", "still theirs")); err != nil {
		t.Errorf("the other cluster: %v", err)
	}
	// What is in it can be read when it is started by itself.
	c.stop("n3")
	c.start("n3", 0)
	eventually(t, "n3 serves", func() error { return n3.Ready() })
	if got := n3.sm.title("d"); got != "alone" {
		t.Errorf("it has %q", got)
	}
}

// A node behind which a majority stands is not put out by a stranger in its
// list; without a leader it ends.
func TestANodeOfALargerClusterBelievesItsLeaderFirst(t *testing.T) {
	c := newTestCluster(t)
	ended := make(chan error, 1)
	c.opts = func(id string, o *Options) {
		if id == "n3" {
			o.Fatal = func(err error) { ended <- err }
		}
	}
	c.three()
	c.start("n4", 0)
	c.allReady()
	c.stop("n3")
	n3 := c.start("n3", 3, "n4")
	eventually(t, "it says that n4 is a stranger", func() error {
		if got := strings.Join(n3.LocalStatus().Errors, "; "); !strings.Contains(got, "n4 at test://n4") {
			return errors.New(got)
		}
		return n3.Ready()
	})
	c.write("d", "x")
	c.stop("n1")
	c.stop("n2")
	c.stop("n3")
	select {
	case err := <-ended:
		t.Fatalf("it ended although it had a leader: %v", err)
	default:
	}
	c.start("n3", 3, "n4")
	eventually(t, "it ends", func() error {
		select {
		case err := <-ended:
			if !strings.Contains(err.Error(), "the join addresses to "+c.nodes["n4"].ClusterID()) {
				t.Errorf("it says %v", err)
			}
			return nil
		default:
			return errors.New("not yet")
		}
	})
}

// An address that does not answer is named, by Ready and in the log.
func TestASilentJoinAddressIsNamed(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 3, "n1", "n2", "n3")
	eventually(t, "it names the two", func() error {
		err := n.Ready()
		if err == nil || !strings.Contains(err.Error(), "test://n2 does not answer; test://n3 does not answer") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
}

func TestJoinAddressesAreChecked(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8001", "http://", "://x"} {
		o := testOptions("n1", "x")
		o.Join = []string{bad}
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "Join") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
