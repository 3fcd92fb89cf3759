package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// The signals of the tests, by what they are for.
var (
	killSignal     = syscall.SIGKILL
	stopSignal     = syscall.SIGSTOP
	continueSignal = syscall.SIGCONT
)

// runSnipdb runs a command of the binary to its end, which must come soon.
func runSnipdb(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, proctest.Binary(t, "snipdb"), arguments...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("snipdb %s has not ended:\n%s", strings.Join(arguments, " "), out)
	}
	return string(out), err
}

func wantText(t *testing.T, out string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in:\n%s", want, out)
		}
	}
}

// copyDir copies one part of a data directory over another's.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// lonely is a cluster of one, whose data directory the tests change by hand.
func lonely(t *testing.T) *proctest.Node {
	t.Helper()
	return proctest.Start(t, proctest.Options{Nodes: 1, Args: smallLog}).Nodes[0]
}

// refusedStart starts the node and returns what it says when it refuses.
func refusedStart(t *testing.T, n *proctest.Node) string {
	t.Helper()
	out, err := runSnipdb(t, n.Args()...)
	if err == nil {
		t.Fatalf("the node started and stopped without an error:\n%s", out)
	}
	t.Logf("refused: %s", lastLine(out))
	return out
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// keep copies the data directory of a node that does not run.
func keep(t *testing.T, n *proctest.Node) string {
	t.Helper()
	kept := filepath.Join(t.TempDir(), "kept")
	copyDir(t, n.Dir, kept)
	return kept
}

// part is a part of a data directory.
func part(dir, name string) string { return filepath.Join(dir, name) }

// I1: the state is behind the newest snapshot, as after a crash between the
// arrival of a snapshot and its restore. The node restores it and starts.
func TestStateBehindTheSnapshotIsRestored(t *testing.T) {
	skipIfShort(t)
	n := lonely(t)
	first := put(n, "first", "first")
	n.Stop()
	old := keep(t, n)
	n.Start()
	n.WaitReady()
	written := fill(t, []*proctest.Node{n}, "later", 200)
	self := waitTruncated(t, n, first.index)
	n.Stop()

	copyDir(t, part(old, "state"), part(n.Dir, "state"))
	n.Start()
	n.WaitReady()
	readAll(t, n, append(written, first))
	t.Logf("the state was at %d, the snapshot at %d; all %d documents are there", first.index, self.SnapshotIndex, len(written)+1)
}

// I2: the state ends before the log begins, and no snapshot covers the gap.
func TestGapBetweenStateAndLogIsRefused(t *testing.T) {
	skipIfShort(t)
	n := lonely(t)
	first := put(n, "first", "first")
	n.Stop()
	old := keep(t, n)
	n.Start()
	n.WaitReady()
	fill(t, []*proctest.Node{n}, "later", 200)
	waitTruncated(t, n, first.index+5)
	n.Stop()

	copyDir(t, part(old, "state"), part(n.Dir, "state"))
	if err := os.RemoveAll(part(n.Dir, "snapshots")); err != nil {
		t.Fatal(err)
	}
	wantText(t, refusedStart(t, n), "I2")
}

// I3: the state is ahead of the log and of every snapshot: the log was lost.
func TestStateAheadOfTheLogIsRefused(t *testing.T) {
	skipIfShort(t)
	n := lonely(t)
	put(n, "first", "first")
	n.Stop()
	old := keep(t, n)
	n.Start()
	n.WaitReady()
	for i := range 20 {
		put(n, fmt.Sprintf("later-%d", i), "x")
	}
	n.Stop()

	copyDir(t, part(old, "log"), part(n.Dir, "log"))
	wantText(t, refusedStart(t, n), "I3")
}

// I4: state and log have the same index from different terms: two histories.
func TestStateOfAnotherHistoryIsRefused(t *testing.T) {
	skipIfShort(t)
	n := lonely(t)
	put(n, "first", "first")
	n.Stop()
	fork := keep(t, n)

	// One history: one more election, then writes.
	n.Start()
	n.WaitReady()
	for i := range 20 {
		put(n, fmt.Sprintf("one-%d", i), "x")
	}
	n.Stop()
	one := keep(t, n)

	// Another one from the same beginning: two more elections, and more writes.
	copyDir(t, fork, n.Dir)
	for range 2 {
		n.Start()
		n.WaitReady()
		n.Stop()
	}
	n.Start()
	n.WaitReady()
	for i := range 40 {
		put(n, fmt.Sprintf("two-%d", i), "x")
	}
	n.Stop()

	copyDir(t, part(one, "state"), part(n.Dir, "state"))
	wantText(t, refusedStart(t, n), "I4")
}

// A data directory belongs to one node and one cluster for ever.
func TestForeignDirectoriesAreRefused(t *testing.T) {
	skipIfShort(t)
	n, other := lonely(t), lonely(t)
	put(n, "mine", "mine")
	put(other, "other", "other")
	n.Stop()
	other.Stop()

	out, err := runSnipdb(t, append(n.Args(), "--node-id", "somebody")...)
	if err == nil {
		t.Errorf("a node of another name started:\n%s", out)
	}
	wantText(t, out, "belongs to node")

	copyDir(t, part(other.Dir, "node"), part(n.Dir, "node"))
	wantText(t, refusedStart(t, n), "cluster")
}
