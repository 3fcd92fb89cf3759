package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// smallLog makes a node take a snapshot and cut its log after a few hundred
// kilobytes.
var smallLog = []string{"--snapshot-log-bytes", "256KiB", "--trailing-log-bytes", "64KiB", "--snapshot-check-interval", "200ms"}

// fill writes documents of 4 KiB and returns them.
func fill(t *testing.T, nodes []*proctest.Node, prefix string, count int) []document {
	t.Helper()
	written := make([]document, count)
	inParallel(t, 8, count, func(i int) error {
		d := document{id: fmt.Sprintf("%s-%d", prefix, i), content: strings.Repeat(prefix, 4096/len(prefix))}
		answer, err := nodes[i%len(nodes)].Do(context.Background(), http.MethodPut, docs+"/"+d.id, map[string]any{"content": d.content})
		if err == nil && answer.Status != http.StatusCreated {
			err = fmt.Errorf("%s: status %d: %.300s", d.id, answer.Status, answer.Body)
		}
		if err == nil {
			d.index = answer.Index()
			written[i] = d
		}
		return err
	})
	return written
}

// waitTruncated waits until the node's log begins after the index: whoever has
// no more than that needs a snapshot.
func waitTruncated(t *testing.T, n *proctest.Node, index uint64) wire.NodeStatus {
	t.Helper()
	var self wire.NodeStatus
	proctest.Eventually(t, 30*time.Second, fmt.Sprintf("the log of %s begins after %d", n.ID, index), func() error {
		var err error
		if self, err = n.Self(); err != nil {
			return err
		}
		if self.FirstLogIndex <= index+1 || self.SnapshotIndex == 0 {
			return fmt.Errorf("the log begins at %d, the snapshot is at %d", self.FirstLogIndex, self.SnapshotIndex)
		}
		return nil
	})
	return self
}

func readAll(t *testing.T, n *proctest.Node, written []document) {
	t.Helper()
	inParallel(t, 8, len(written), func(i int) error { return readBack(n, written[i], levels[0]) })
}

func TestWipedFollowerComesBackThroughASnapshot(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{Args: smallLog})
	written := fill(t, c.Nodes, "wiped", 300)
	leader := c.Leader()
	before := waitTruncated(t, leader, 1)
	follower := c.Followers()[0]
	follower.Kill()
	follower.Wipe()
	follower.Start()
	follower.WaitReady()
	readAll(t, follower, written)
	self, err := follower.Self()
	if err != nil {
		t.Fatal(err)
	}
	if self.SnapshotIndex == 0 {
		t.Errorf("the log of the leader began at %d, and the wiped node has no snapshot: %+v", before.FirstLogIndex, self)
	}
	t.Logf("the leader's log began at %d; the wiped node has the snapshot of %d and applied %d", before.FirstLogIndex, self.SnapshotIndex, self.AppliedIndex)
}

// The follower was away while the log was cut. While it takes the snapshot in,
// it goes on to answer reads from the state that it has.
func TestFollowerThatWasAwayCatchesUpAndReadsGoOnMeanwhile(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{Args: smallLog})
	old := fill(t, c.Nodes, "old", 50)
	follower := c.Followers()[0]
	for _, d := range old {
		if err := readBack(follower, d, levels[0]); err != nil {
			t.Fatal(err)
		}
	}
	self, err := follower.Self()
	if err != nil {
		t.Fatal(err)
	}
	follower.Kill()
	var others []*proctest.Node
	for _, n := range c.Nodes {
		if n.Running() {
			others = append(others, n)
		}
	}
	written := fill(t, others, "new", 1500)
	waitTruncated(t, c.Leader(), self.LastLogIndex)

	follower.Start()
	proctest.Eventually(t, 20*time.Second, "the follower's API answers", func() error {
		_, err := follower.Do(context.Background(), http.MethodGet, "/livez", nil)
		return err
	})
	reads, restored := 0, false
	deadline := time.Now().Add(60 * time.Second)
	for !restored {
		if err := readBack(follower, old[reads%len(old)], "consistency=local"); err != nil {
			t.Fatalf("read %d while the snapshot came: %v", reads, err)
		}
		reads++
		now, err := follower.Self()
		restored = err == nil && now.SnapshotIndex > self.LastLogIndex && now.AppliedIndex >= written[len(written)-1].index
		if time.Now().After(deadline) {
			t.Fatalf("the follower has not caught up: %+v", now)
		}
	}
	t.Logf("%d reads were answered from the start until the follower had caught up", reads)
	readAll(t, follower, written)
	readAll(t, follower, old)
}

func TestLearnerServesReadsAndNeverVotes(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{Args: smallLog})
	written := fill(t, c.Nodes, "learned", 200)
	voters := append([]*proctest.Node(nil), c.Nodes...)
	learner := c.AddNode("l1", "--learner")
	learner.Start()
	learner.WaitReady()
	for _, level := range levels {
		inParallel(t, 8, len(written), func(i int) error { return readBack(learner, written[i], level) })
	}
	// A write through the learner goes to the leader, as through any node.
	d := put(learner, "through-the-learner", "x")
	for _, n := range c.Nodes {
		if err := readBack(n, d, levels[0]); err != nil {
			t.Error(err)
		}
	}
	// It has long kept up, and is not promoted.
	for i := range 40 {
		put(voters[i%3], fmt.Sprintf("later-%d", i), "x")
	}
	self, err := learner.Self()
	if err != nil {
		t.Fatal(err)
	}
	if self.Voter || self.Role != "learner" {
		t.Fatalf("the learner is %+v", self)
	}
	// One voter and the learner are two of four, and no majority of three.
	leader := c.Leader()
	for _, n := range voters {
		if n != leader {
			n.Kill()
		}
	}
	proctest.Eventually(t, 20*time.Second, "there is no leader any more", func() error {
		status, err := leader.Self()
		if err == nil && status.Role == "leader" {
			err = errNot
		}
		return err
	})
	ctx, cancel := context.WithTimeout(context.Background(), 6*proctest.Election)
	defer cancel()
	answer, err := learner.Do(ctx, http.MethodPut, docs+"/never", map[string]any{"content": "x"}, wire.HeaderTimeout, "2s")
	if err == nil && answer.Status < 500 {
		t.Fatalf("one voter and a learner took a write: %d %.200s", answer.Status, answer.Body)
	}
	// A local read needs no leader.
	if err := readBack(learner, written[0], "consistency=local"); err != nil {
		t.Error(err)
	}
}
