package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// lose removes parts of the data directory of a node that does not run.
func lose(t *testing.T, n *proctest.Node, parts ...string) {
	t.Helper()
	for _, name := range parts {
		if err := os.RemoveAll(part(n.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// waitFounded waits until a node has put the founding of its cluster behind it.
func waitFounded(t *testing.T, n *proctest.Node) {
	t.Helper()
	proctest.Eventually(t, 30*time.Second, n.ID+" has ended the founding", func() error {
		raw, err := os.ReadFile(part(n.Dir, "node/identity.json"))
		if err == nil && strings.Contains(string(raw), `"founder"`) {
			err = errNot
		}
		return err
	})
}

// A voter loses state and log, and keeps identity and votes. With a node that
// was away it would be a majority of which nobody has the last write.
func TestAVoterThatLostLogAndStateElectsNobody(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	for _, n := range c.Nodes {
		waitFounded(t, n)
	}
	loser, keeper, away := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	away.Stop()
	proctest.Eventually(t, 30*time.Second, "a leader without it", func() error {
		if loser.Role() != "leader" && keeper.Role() != "leader" {
			return errNot
		}
		return nil
	})
	written := put(loser, "acknowledged", "by two of three")
	keeper.WaitApplied(written.index, 30*time.Second)
	loser.Kill()
	keeper.Kill()
	lose(t, loser, "state", "log")
	loser.Start()
	away.Start()
	proctest.Eventually(t, 30*time.Second, "the loser says what it lost", func() error {
		if !strings.Contains(loser.Log(), "this node's log is gone") {
			return errNot
		}
		return nil
	})
	// If it voted, there would be a leader by now and then.
	if loser.Role() == "leader" || away.Role() == "leader" {
		t.Error("a leader without the last acknowledged write")
	}
	keeper.Start()
	c.WaitReady()
	for _, n := range c.Nodes {
		if err := readBack(n, written, "consistency=linearizable"); err != nil {
			t.Error(err)
		}
	}
}

// recoverAlone makes the node the only voter, at that address.
func recoverAlone(t *testing.T, n *proctest.Node, address string) (out string, err error) {
	t.Helper()
	peers := filepath.Join(t.TempDir(), "peers.json")
	if err := os.WriteFile(peers, []byte(`[{"id":"`+n.ID+`","address":"`+address+`"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	return runSnipdb(t, "recover", "--data-dir", n.Dir, "--peers", peers)
}

// The votes of a node are lost, with a log that has more than one term.
func TestLostVotesAndBadAddressesAreRefused(t *testing.T) {
	skipIfShort(t)
	n := lonely(t)
	written := put(n, "first", "first")
	n.Stop()

	if out, err := recoverAlone(t, n, "bad"); err == nil {
		t.Errorf("recovered to an address that is none:\n%s", out)
	} else {
		wantText(t, out, "must be host:port")
	}

	lose(t, n, "node/vote.db")
	wantText(t, refusedStart(t, n), "I5", "snipdb recover")
	out, err := runSnipdb(t, "inspect", "--data-dir", n.Dir)
	if err == nil {
		t.Error("inspect finds nothing wrong")
	}
	wantText(t, out, "REFUSED", "I5")
	if out, err := recoverAlone(t, n, n.RaftAddr); err != nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	n.Start()
	n.WaitReady()
	readAll(t, n, []document{written})
}

// lostBehindASnapshot returns a stopped node that has lost its log and state,
// and not its snapshot, and a document that the snapshot holds.
func lostBehindASnapshot(t *testing.T) (*proctest.Node, document) {
	t.Helper()
	n := lonely(t)
	first := put(n, "first", "first")
	fill(t, []*proctest.Node{n}, "later", 200)
	waitTruncated(t, n, first.index)
	n.Stop()
	lose(t, n, "state", "log")
	return n, first
}

// A snapshot is left, but not what was acknowledged after it. The second start
// finds the log that the first one made.
func TestALostLogBehindASnapshotIsNoticed(t *testing.T) {
	skipIfShort(t)
	n, _ := lostBehindASnapshot(t)
	for range 2 {
		wantText(t, refusedStart(t, n), "lost its log", "--join")
	}
}

// It is noticed too if the first start after the loss ends before the node runs,
// and if it is the files that are gone, not their directory.
func TestALostLogIsNotForgottenByAStartThatFails(t *testing.T) {
	skipIfShort(t)
	n, first := lostBehindASnapshot(t)
	if err := os.MkdirAll(part(n.Dir, "log/rocksdb"), 0o700); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", n.RaftAddr)
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, refusedStart(t, n), "address already in use")
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	wantText(t, refusedStart(t, n), "lost its log", "--join", "snipdb recover")

	// There is nobody to join: it goes on with the snapshot.
	if out, err := recoverAlone(t, n, n.RaftAddr); err != nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	n.Start()
	n.WaitReady()
	readAll(t, n, []document{first})
}

// A node of a cluster is started once without --join on an empty directory, and
// then as always.
func TestANodeThatMadeItsOwnClusterIsRefused(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	n := c.Nodes[2]
	n.Stop()
	n.Wipe()
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	alone := proctest.Start(t, proctest.Options{Nodes: 1, NodeArgs: func(*proctest.Node) []string {
		return []string{"--data-dir", n.Dir, "--node-id", n.ID}
	}}).Nodes[0]
	put(alone, "alone", "acknowledged by nobody else")
	alone.Stop()

	n.Start()
	if err := n.Wait(); err == nil {
		t.Error("it ended without an error")
	}
	wantText(t, n.Log(), "this node belongs to cluster", "the join addresses to", "empty the data directory")
	// What the text says helps.
	n.Wipe()
	n.Start()
	n.WaitReady()
	proctest.Eventually(t, 30*time.Second, "it is a member again", func() error {
		status, err := c.Nodes[0].Status()
		if err != nil {
			return err
		}
		for _, node := range status.Nodes {
			if node.ID == n.ID && node.Reachable && len(node.Errors) == 0 {
				return nil
			}
		}
		return errors.New("not in the status of " + c.Nodes[0].ID)
	})
}
