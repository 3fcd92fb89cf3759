package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

func TestSnapshotsAndTheLogAreBoundedByBytes(t *testing.T) {
	const snapshotBytes, trailing = 200 << 10, 50 << 10
	c := newTestCluster(t)
	c.opts = func(_ string, o *Options) { o.SnapshotBytes, o.TrailingBytes = snapshotBytes, trailing }
	n := c.start("n1", 0)
	c.allReady()
	text := strings.Repeat("x", 10<<10)
	for i := range 60 { // 600 KiB: three snapshots' worth
		if _, err := n.Propose(t.Context(), put(fmt.Sprint("d", i), text)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a snapshot that keeps the log small", func() error {
		if n.snapshotIndex() == 0 || n.logs.bytes() > snapshotBytes+trailing {
			return fmt.Errorf("snapshot at %d, log of %d bytes", n.snapshotIndex(), n.logs.bytes())
		}
		return nil
	})
	index, err := n.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := n.logs.bytes(); got > trailing+20<<10 || got < trailing/2 {
		t.Errorf("after a snapshot the log has %d bytes, TrailingBytes is %d", got, trailing)
	}
	s := n.LocalStatus()
	if s.SnapshotIndex != index || s.SnapshotAge > time.Minute || s.FirstLogIndex < 2 {
		t.Errorf("status: %+v", s)
	}
	c.stop("n1")
	n = c.start("n1", 0)
	c.allReady()
	if n.sm.restores != 0 {
		t.Error("a healthy state was restored at the start")
	}
	if got := n.sm.title("d59"); got != text {
		t.Error("a write is missing after the restart")
	}
}

// TestBeforeSnapshot: the hook runs while entries are applied, so a write that
// it waits for goes through; and its error is the snapshot's.
func TestBeforeSnapshot(t *testing.T) {
	c := newTestCluster(t)
	before := func() error { return nil }
	c.parts = func(_ string, p *Parts) { p.BeforeSnapshot = func() error { return before() } }
	n := c.start("n1", 0)
	c.allReady()
	var wrote uint64
	before = func() error {
		r, err := n.Propose(t.Context(), put("d", "x"))
		wrote = r.GetIndex()
		return err
	}
	if index, err := n.Snapshot(t.Context()); err != nil || wrote == 0 || index < wrote {
		t.Errorf("snapshot at %d, the hook's write at %d: %v", index, wrote, err)
	}
	failure := errors.New("no space")
	before = func() error { return failure }
	if _, err := n.Snapshot(t.Context()); !errors.Is(err, failure) {
		t.Errorf("the hook's error is %v", err)
	}
}

func TestAFollowerThatWasAwayGetsASnapshot(t *testing.T) {
	c := newTestCluster(t)
	c.opts = func(_ string, o *Options) { o.TrailingBytes = 1 }
	c.three()
	f := c.follower()
	c.stop(f.id)
	for i := range 50 {
		c.write(fmt.Sprint("d", i), "x")
	}
	if _, err := c.leader().Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.start(f.id, 3, "n1", "n2", "n3")
	last := c.write("last", "x").GetIndex()
	eventually(t, "it has caught up", func() error {
		_, err := f.ReadIndex(t.Context(), contract.Consistency{Level: contract.Session, MinIndex: last})
		return err
	})
	if f.sm.restores != 1 || f.sm.title("d49") != "x" {
		t.Errorf("%d restores, title %q", f.sm.restores, f.sm.title("d49"))
	}
}

func TestTheSameInstallAgainAndAgainIsFatal(t *testing.T) {
	d := newDisk(t)
	d.logs(1, 8, 1, raft.LogCommand) // of another term than the snapshot: it conflicts
	d.snapshot(8, 2, 8)
	f, fatal := d.watched()
	for i := range installLimit {
		if *fatal != nil {
			t.Fatalf("fatal after %d installs: %v", i, *fatal)
		}
		d.install(f)
	}
	if *fatal == nil {
		t.Error("three installs of one snapshot over a log that conflicts passed")
	}
}

// A snapshot that a slow link brings again and again does no harm.
func TestARepeatedInstallWithoutConflictIsNone(t *testing.T) {
	d := newDisk(t)
	d.snapshot(8, 2, 8)
	f, fatal := d.watched()
	for range 2 * installLimit {
		d.install(f)
	}
	if *fatal != nil {
		t.Errorf("fatal: %v", *fatal)
	}
}

// indexed is a snapshot's reader that says its index, inside a wrapper like Raft's.
type indexed struct {
	io.ReadCloser
	index uint64
}

func (r indexed) SnapshotIndex() uint64 { return r.index }

type wrapped struct{ io.ReadCloser }

func (w wrapped) WrappedReadCloser() io.ReadCloser { return w.ReadCloser }

// An InstallSnapshot that comes late must not roll the state back.
func TestALateInstallIsRefused(t *testing.T) {
	d := newDisk(t)
	d.snapshot(8, 2, 8)
	f, _ := d.watched()
	d.install(f)
	d.sm.s.Index = 11
	_, rc, err := d.parts.Snapshots.Open(mustNewest(t, d.parts.Snapshots).ID)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if err := f.Restore(wrapped{indexed{rc, 8}}); err == nil {
		t.Error("the state went back from 11 to 8")
	}
	if a, _ := d.sm.Applied(); a != 11 {
		t.Errorf("the state is at %d", a)
	}
}

// watched is the state machine as Raft gets it.
func (d *disk) watched() (*watchedFSM, *error) {
	var fatal error
	w := &installWatch{snaps: d.parts.Snapshots, logs: d.parts.Log, applied: d.sm.Applied, fatal: func(err error) { fatal = err }}
	return &watchedFSM{BatchingFSM: d.sm, watch: w}, &fatal
}

// install restores the newest snapshot as Raft does.
func (d *disk) install(f *watchedFSM) {
	d.t.Helper()
	_, rc, err := d.parts.Snapshots.Open(mustNewest(d.t, d.parts.Snapshots).ID)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := f.Restore(rc); err != nil {
		d.t.Fatal(err)
	}
}

func mustNewest(t *testing.T, s raft.SnapshotStore) *raft.SnapshotMeta {
	t.Helper()
	m, err := newestSnapshot(s)
	if err != nil || m == nil {
		t.Fatalf("newest snapshot: %v, %v", m, err)
	}
	return m
}

func TestRecoverAfterTheQuorumIsLost(t *testing.T) {
	c := newTestCluster(t)
	c.three()
	c.write("d", "x")
	f := c.follower()
	if _, err := f.ReadIndex(t.Context(), linearizable); err != nil {
		t.Fatal(err)
	}
	cluster := f.ClusterID()
	for _, n := range c.running() {
		c.stop(n.id)
	}
	o := RecoverOptions{NodeID: f.id, DataDir: f.dir, DryRun: true,
		Voters: []RecoverServer{{ID: f.id, RaftAddr: f.proxy.listener.Addr().String()}}}
	var out bytes.Buffer
	o.Out = &out
	for _, dry := range []bool{true, false} {
		o.DryRun = dry
		if err := Recover(o, c.partsOf(f)); err != nil {
			t.Fatalf("dry run %v: %v", dry, err)
		}
	}
	if !strings.Contains(out.String(), "dry run") || !strings.Contains(out.String(), "done") {
		t.Errorf("it said:\n%s", out.String())
	}
	n := c.start(f.id, 3, "n1", "n2", "n3")
	c.allReady()
	if n.ClusterID() != cluster || n.sm.title("d") != "x" {
		t.Errorf("cluster %s, title %q", n.ClusterID(), n.sm.title("d"))
	}
	c.write("d", "y")
	if got := n.Members(); len(got) != 1 {
		t.Errorf("members: %v", got)
	}
}

func TestRecoverRefusesNonsense(t *testing.T) {
	c := newTestCluster(t)
	n := c.start("n1", 0)
	c.allReady()
	o := RecoverOptions{NodeID: "n1", DataDir: n.dir, Voters: []RecoverServer{{ID: "n1", RaftAddr: "127.0.0.1:1"}}}
	d := newDisk(t)
	if err := Recover(o, d.parts); err == nil || !strings.Contains(err.Error(), "another snipdb process") {
		t.Errorf("a running node: %v", err)
	}
	o.Voters[0].ID = "n2"
	if err := Recover(o, newDisk(t).parts); err == nil || !strings.Contains(err.Error(), "must be one of the voters") {
		t.Errorf("a configuration without the node: %v", err)
	}
}

func TestAnotherNodesDirectoryIsRefused(t *testing.T) {
	c := newTestCluster(t)
	c.start("n1", 0)
	c.allReady()
	if _, err := openIdentity(c.nodes["n1"].dir, "n1"); err == nil {
		t.Error("a directory in use was opened")
	}
	c.stop("n1")
	if _, err := openIdentity(c.nodes["n1"].dir, "n2"); err == nil || !strings.Contains(err.Error(), `belongs to node "n1"`) {
		t.Errorf("another node's directory: %v", err)
	}
	id, err := openIdentity(c.nodes["n1"].dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := id.update(func(r *identityRecord) { r.ClusterID = "another" }); err == nil {
		t.Error("a node changed its cluster")
	}
	if err := id.close(); err != nil {
		t.Fatal(err)
	}
	// State and identity of two clusters in one directory.
	c.nodes["n1"].sm.get(func(s *machineState) { s.Cluster = "another" })
	if _, err := c.open("n1", 0); err == nil || !strings.Contains(err.Error(), "mixed") {
		t.Errorf("a mixed directory: %v", err)
	}
	c.nodes["n1"].sm.get(func(s *machineState) { s.Index += 1000 })
	if _, err := c.open("n1", 0); err == nil || !strings.Contains(err.Error(), "I3 violated") {
		t.Errorf("a state ahead of the log: %v", err)
	}
}

func TestOptionsSayAllThatIsWrong(t *testing.T) {
	if err := testOptions("n1", "x").Validate(); err != nil {
		t.Errorf("good options: %v", err)
	}
	o := Options{NodeID: "a/b", RaftAddr: "nowhere", BootstrapExpect: 3, Learner: true}
	err := o.Validate()
	for _, want := range []string{"NodeID", "DataDir", "RaftAddr", "BootstrapExpect", "Learner", "HeartbeatTimeout", "MaxInflightEntries", "SnapshotBytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s: %v", want, err)
		}
	}
	if _, err := Open(t.Context(), o, Parts{}); err == nil {
		t.Error("bad options were opened")
	}
	if errors.Is(err, contract.ErrNotReady) {
		t.Error("a bad option is no state")
	}
}
