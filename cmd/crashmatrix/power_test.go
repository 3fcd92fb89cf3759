package crashmatrix

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/storage/failpoint"
)

// A killed process leaves its writes with the kernel; a power cut takes all
// that was not synced. Here every node has a file system of its own in a file.
// A cut kills the process and copies that file as it is at this moment: what
// the kernel still holds in its memory is not in the copy. The copy is what the
// node finds when it starts again.
//
// It needs root, for the mounts:
//
//	make power-cut                     every row; SEED=7 for the same moments again
//	make power-cut POINT=all-at-once   the rows whose names match the pattern

// diskBytes is the size of a node's file system; the file is sparse.
const diskBytes = 512 << 20

// mountOptions make a file system that keeps nothing that it need not keep: it
// writes back by itself only after ten minutes, and does not guess that a file
// which is renamed over another should be written first, as ext4 does for
// programs that forget to.
const mountOptions = "loop,noauto_da_alloc,commit=600"

// disks are the file systems of a cluster's nodes.
type disks struct {
	t   *testing.T
	dir string
}

func (d *disks) image(n *proctest.Node) string { return filepath.Join(d.dir, n.ID+".img") }

func (d *disks) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// mount makes a node's file system, once, in place of its directory.
func (d *disks) mount(n *proctest.Node) {
	d.t.Helper()
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.image(n), nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Truncate(d.image(n), diskBytes); err != nil {
		d.t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-F", d.image(n))
	d.run("mount", "-o", mountOptions, d.image(n), n.Dir)
	d.t.Cleanup(func() { d.unmount(n) }) // before the harness removes it, after it has killed the node
	d.run("rmdir", filepath.Join(n.Dir, "lost+found"))
	// What mkfs and the mount have written is no part of the test.
	d.run("sync", "-f", n.Dir)
}

func (d *disks) unmount(n *proctest.Node) {
	if out, err := exec.Command("umount", n.Dir).CombinedOutput(); err != nil {
		d.t.Logf("umount %s: %v: %s", n.Dir, err, out)
		_ = exec.Command("umount", "-l", n.Dir).Run()
	}
}

// cut takes the power from a node that has just died.
func (d *disks) cut(n *proctest.Node) {
	d.t.Helper()
	after := d.image(n) + ".cut"
	d.run("cp", "--sparse=always", d.image(n), after)
	d.run("umount", n.Dir)
	if err := os.Rename(after, d.image(n)); err != nil {
		d.t.Fatal(err)
	}
	d.run("mount", "-o", mountOptions, d.image(n), n.Dir)
}

// powerCuts are the moments. Without a point, all nodes lose it at once, in
// the middle of the load.
var powerCuts = []row{
	{point: failpoint.LogStoreAfter, within: 60, drive: leaderUnderLoad},
	{point: failpoint.CommitAfter, within: 60, drive: aloneUnderLoad},
	{point: failpoint.PublishAfterRename, within: 2, drive: leaderSnapshots},
	{point: failpoint.LogDeleteAfter, within: 2, drive: followerSnapshots},
	{point: failpoint.VoteAfter, drive: election},
	{point: failpoint.PublishAfterRename, drive: install},
	{point: failpoint.SwapBefore, drive: install},
	{point: failpoint.RestoreAfter, drive: install},
	{point: failpoint.LogDeleteAfter, drive: install},
	{drive: drive{name: "all-at-once", nodes: 3, args: wholeLog}},
	{drive: drive{name: "all-at-once-with-snapshots", nodes: 3, args: smallLog}},
}

func TestPowerCut(t *testing.T) {
	if os.Getenv("SNIPDB_POWER_CUT") != "1" {
		t.Skip("mounts file systems, so it needs root: make power-cut")
	}
	s := readSettings(t, "SNIPDB_POWER_CUT", "power")
	powerTable.runAll(t, s, cutPower)
}

// cutPower is one row.
func cutPower(t *testing.T, s settings, r *result) {
	c := newCrash(t, s, r)
	c.disks = &disks{t: t, dir: c.dir}
	if r.point == "" {
		c.cutAll()
	} else {
		dead := c.crash()
		c.cut(dead)
		c.examine(dead)
		c.restart(dead)
	}
	c.verify()
	r.passed = !t.Failed()
}

// cut takes the power from a dead node, and counts it.
func (c *crash) cut(n *proctest.Node) {
	c.t.Helper()
	c.disks.cut(n)
	c.result.cuts++
}

// cutAll takes the power from all nodes at once.
func (c *crash) cutAll() {
	c.Cluster = proctest.Start(c.t, proctest.Options{
		Nodes: c.result.drive.nodes, Args: c.result.drive.args, Tags: []string{"failpoints"}, Dir: c.dir, NodeEnv: c.environment,
	})
	c.begin()
	c.load.waitFor(c.t, 200)
	for _, n := range c.Nodes {
		n.Signal(syscall.SIGKILL)
	}
	for _, n := range c.Nodes {
		_ = n.Wait()
		c.result.kills++
		c.cut(n)
	}
	c.result.node = fmt.Sprint("all ", len(c.Nodes))
	for _, n := range c.Nodes[1:] {
		c.examine(n)
		n.Start()
	}
	c.examine(c.Nodes[0])
	c.restart(c.Nodes[0])
}
