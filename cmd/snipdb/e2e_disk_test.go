package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// smallDisk mounts a file system of that many bytes in memory, and unmounts it
// with the test.
//
// The tests on it failed now and then on a machine loaded with other work, for
// a reason that is not found yet; until it is, `make disk` runs them.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	if os.Getenv("SNIPDB_DISK") == "" {
		t.Skip("full disks are tested by `make disk`")
	}
	dir := t.TempDir()
	if err := unix.Mount("snipdb-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) {
			t.Skipf("a small file system can't be mounted here (%v): run as root, with CAP_SYS_ADMIN", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The node's own cleanup came first: the processes are gone.
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	return int64(stat.Bavail) * stat.Bsize
}

// ballast is a file that takes space, as another program would.
type ballast struct {
	t          *testing.T
	disk, path string
}

func newBallast(t *testing.T, disk string) *ballast {
	return &ballast{t, disk, filepath.Join(disk, "ballast")}
}

// grow takes all but so many bytes of what is free now. Somebody else may
// write meanwhile, so it takes what it gets.
func (b *ballast) grow(leave int64) {
	b.t.Helper()
	file, err := os.OpenFile(b.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		b.t.Fatal(err)
	}
	size := info.Size()
	for n := freeBytes(b.t, b.disk) - leave; n >= 4096; {
		switch err := unix.Fallocate(int(file.Fd()), 0, size, n); {
		case err == nil:
			size += n
			n = freeBytes(b.t, b.disk) - leave
		case errors.Is(err, unix.ENOSPC):
			n /= 2
		case !errors.Is(err, unix.EINTR):
			b.t.Fatal(err)
		}
	}
}

func (b *ballast) remove() {
	b.t.Helper()
	if err := os.Remove(b.path); err != nil {
		b.t.Fatal(err)
	}
}

// lowMark is the low-water mark of the node on the small disk.
const lowMark = 32 << 20

// onSmallDisk starts three nodes of which one has its data on a disk of its
// own, and the others a low-water mark that they never reach.
func onSmallDisk(t *testing.T, bytes int, args ...string) (c *proctest.Cluster, small *proctest.Node, disk string) {
	t.Helper()
	disk = smallDisk(t, bytes)
	c = proctest.Start(t, proctest.Options{Args: args, NodeArgs: func(n *proctest.Node) []string {
		if n.ID != "n1" {
			return nil
		}
		n.Dir = filepath.Join(disk, "n1")
		return []string{"--disk-low-bytes", fmt.Sprint(lowMark)}
	}})
	small = c.Nodes[0]
	return c, small, disk
}

func others(c *proctest.Cluster, but *proctest.Node) []*proctest.Node {
	var nodes []*proctest.Node
	for _, n := range c.Nodes {
		if n != but {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// makeLeader hands the leadership to the node.
func makeLeader(t *testing.T, c *proctest.Cluster, n *proctest.Node) {
	t.Helper()
	proctest.Eventually(t, 30*time.Second, n.ID+" leads", func() error {
		if n.Role() == "leader" {
			return nil
		}
		_, _ = n.Do(context.Background(), http.MethodPost, "/v1/cluster/transfer-leader", map[string]any{"to": n.ID})
		return errNot
	})
}

// A follower whose disk is full ends itself, the others go on, and with space
// again it comes back as it was: nothing that it said was written is lost.
func TestFollowerOnAFullDiskHoldsNobodyUp(t *testing.T) {
	skipIfShort(t)
	c, small, disk := onSmallDisk(t, 96<<20)
	two := others(c, small)
	makeLeader(t, c, two[0])
	written := fill(t, c.Nodes, "before", 100)
	full := newBallast(t, disk)
	for i := 0; small.Running(); i++ {
		// Until the last block of the files that it has open is used up.
		full.grow(0)
		written = append(written, fill(t, two, fmt.Sprintf("full-%d", i), 50)...)
		if i > 100 {
			t.Fatalf("%s runs on a full disk, with %d bytes free", small.ID, freeBytes(t, disk))
		}
	}
	if !saysWhy(small.Log()) {
		t.Errorf("the log of %s does not say that the disk is full:\n%s", small.ID, small.Log())
	}
	written = append(written, fill(t, two, "away", 20)...)
	// Without space it may start or not; it must not harm what is there.
	full.grow(0)
	small.Start()
	proctest.Eventually(t, 20*time.Second, small.ID+" has ended, or waits for space", func() error {
		if small.Running() && small.Role() == "" {
			return errNot
		}
		return nil
	})
	written = append(written, fill(t, two, "again", 20)...)
	full.remove()
	proctest.Eventually(t, 60*time.Second, small.ID+" is back", func() error {
		if !small.Running() {
			small.Start() // as a supervisor would
		}
		return readBack(small, written[len(written)-1], levels[0])
	})
	for _, n := range c.Nodes {
		readAll(t, n, written)
	}
}

// saysWhy looks for the reason in the log of a node that ended on a full disk:
// the error of the write, the warning before it, or the assertion with which
// Debian's RocksDB, which is built with them, ends the process in the write
// after the one that failed.
func saysWhy(log string) bool {
	for _, reason := range []string{"no space left", "No space left", "the data disk is low", "WritableFileWriter::AssertFalse"} {
		if strings.Contains(log, reason) {
			return true
		}
	}
	return false
}

// The leader's disk fills up by its own writes. Before that goes wrong it
// refuses them, goes on to serve reads and deletions, and goes on by itself
// when there is space.
func TestLeaderOnAFullDiskRefusesWritesAndRecovers(t *testing.T) {
	skipIfShort(t)
	c, leader, disk := onSmallDisk(t, 128<<20)
	makeLeader(t, c, leader)
	pids := map[string]int{}
	for _, n := range c.Nodes {
		pids[n.ID] = n.Pid()
	}
	written := fill(t, c.Nodes, "before", 100)
	full := newBallast(t, disk)
	full.grow(44 << 20)

	// As fast as it goes, through the mark.
	f := newFlood(leader)
	f.bytes = 16 << 10
	filled := time.Now()
	proctest.Eventually(t, 60*time.Second, "the disk is low", func() error {
		f.run(fmt.Sprintf("fill-%d", time.Since(filled)), 0, 16, 200*time.Millisecond)
		if f.refused["503 overloaded disk_low"] == 0 {
			return fmt.Errorf("%d accepted, %d bytes free", len(f.accepted), freeBytes(t, disk))
		}
		return nil
	})
	f.report(t, "until the disk was low", time.Since(filled))
	least := freeBytes(t, disk)
	t.Logf("%d KiB are free; the mark is at %d KiB", least>>10, lowMark>>10)
	// Memtables of the log and of the state are written to files after the last
	// write was taken, and that comes out of the reserve; it must be enough.
	if least <= 0 {
		t.Errorf("%d bytes are left of the %d that the mark keeps back", least, lowMark)
	}
	// Many at once are refused a little above the mark, for what is on its way.
	// What brings the disk below it is somebody else.
	full.grow(lowMark - 1<<20)
	proctest.Eventually(t, 10*time.Second, "the smallest write is refused", func() error {
		answer, err := leader.Do(context.Background(), http.MethodPut, docs+"/small", map[string]any{"content": "x"})
		if err == nil && answer.Problem().Reason != "disk_low" {
			err = fmt.Errorf("status %d", answer.Status)
		}
		return err
	})

	for _, n := range c.Nodes {
		// Wherever it comes in.
		answer, err := n.Do(context.Background(), http.MethodPut, docs+"/refused", map[string]any{"content": "x"})
		if err != nil {
			t.Fatal(err)
		}
		if p := answer.Problem(); p.Reason != "disk_low" || badRefusal(answer) != "" {
			t.Errorf("through %s: status %d, %s: %.300s", n.ID, answer.Status, badRefusal(answer), answer.Body)
		}
		for _, level := range levels {
			if err := readBack(n, written[0], level); err != nil {
				t.Errorf("with a full disk: %v", err)
			}
		}
		n.Must(http.StatusNoContent, http.MethodDelete, docs+"/"+written[len(written)-1].id, nil, nil)
		written = written[:len(written)-1]
	}
	self, err := leader.Self()
	if err != nil || self.Role != "leader" || self.DiskFreeBytes > 40<<20 {
		t.Errorf("%+v, %v", self, err)
	}

	full.remove()
	proctest.Eventually(t, 10*time.Second, "writes are taken again", func() error {
		answer, err := leader.Do(context.Background(), http.MethodPut, docs+"/after", map[string]any{"content": "x"})
		if err == nil && answer.Status >= 300 {
			err = fmt.Errorf("status %d: %.300s", answer.Status, answer.Body)
		}
		return err
	})
	for _, n := range c.Nodes {
		if !n.Running() || n.Pid() != pids[n.ID] {
			t.Errorf("%s was restarted, or is gone", n.ID)
		}
		readAll(t, n, written)
	}
	verifyAccepted(t, c, f.accepted)
}

// The worst: another program takes the leader's last byte. The leader ends
// itself or refuses, another one leads, and nothing is lost or spoilt.
func TestLeaderWhoseDiskIsTakenAway(t *testing.T) {
	skipIfShort(t)
	c, leader, disk := onSmallDisk(t, 96<<20, "--disk-low-bytes", "1MiB")
	makeLeader(t, c, leader)
	l := startLoad(c, 8)
	l.waitForMore(t, 200)
	full := newBallast(t, disk)
	proctest.Eventually(t, 30*time.Second, "the leader refuses, or has ended itself", func() error {
		full.grow(0)
		if !leader.Running() {
			return nil
		}
		answer, err := leader.Do(context.Background(), http.MethodPut, docs+"/refused", map[string]any{"content": "x"})
		if err == nil && answer.Problem().Reason != "disk_low" {
			err = fmt.Errorf("status %d", answer.Status)
		}
		return err
	})
	t.Logf("the leader runs: %v", leader.Running())
	full.remove()
	if !leader.Running() {
		leader.Start()
	}
	leader.WaitReady()
	l.waitForMore(t, 200)
	l.end(t)
	l.verify(t)
}
