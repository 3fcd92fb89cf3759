package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// smallDisk mounts a file system of that many bytes in memory, and unmounts it
// with the test.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
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

// lowMark is the low-water mark of the node on the small disk. Below a quarter
// of it a node takes no entries.
const lowMark = 32 << 20

// onSmallDisk starts three nodes of which the named ones have their data on a
// small disk, with that mark, and the others a mark that they never reach.
func onSmallDisk(t *testing.T, bytes, mark int, named ...string) (c *proctest.Cluster, disk string) {
	t.Helper()
	disk = smallDisk(t, bytes)
	c = proctest.Start(t, proctest.Options{NodeArgs: func(n *proctest.Node) []string {
		if !slices.Contains(named, n.ID) {
			return nil
		}
		n.Dir = filepath.Join(disk, n.ID)
		return []string{"--disk-low-bytes", fmt.Sprint(mark)}
	}})
	return c, disk
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

// sameProcesses returns a check that no node has ended since.
func sameProcesses(t *testing.T, c *proctest.Cluster) (check func()) {
	pids := map[string]int{}
	for _, n := range c.Nodes {
		pids[n.ID] = n.Pid()
	}
	return func() {
		t.Helper()
		for _, n := range c.Nodes {
			if !n.Running() || n.Pid() != pids[n.ID] {
				t.Errorf("%s was restarted, or is gone:\n%s", n.ID, n.Log())
			}
		}
	}
}

// diskMetric reads one figure of a node, -1 if there is none.
func diskMetric(t *testing.T, n *proctest.Node, name string) float64 {
	t.Helper()
	answer := n.Must(http.StatusOK, http.MethodGet, "/metrics", nil, nil)
	for line := range strings.Lines(string(answer.Body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// fillAnyhow is fill for a time in which the leader may change: each write is
// repeated until it is acknowledged.
func fillAnyhow(t *testing.T, nodes []*proctest.Node, prefix string, count int) []document {
	t.Helper()
	written := make([]document, count)
	inParallel(t, 8, count, func(i int) error {
		d := document{id: fmt.Sprintf("%s-%d", prefix, i), content: strings.Repeat(prefix, 4096/len(prefix))}
		var err error
		for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			var answer *proctest.Answer
			answer, err = nodes[i%len(nodes)].Do(ctx, http.MethodPut, docs+"/"+d.id, map[string]any{"content": d.content})
			cancel()
			if err == nil && answer.Status < 300 {
				d.index = answer.Index()
				written[i] = d
				return nil
			}
			if err == nil {
				err = fmt.Errorf("%s: status %d: %.300s", d.id, answer.Status, answer.Body)
			}
		}
		return err
	})
	return written
}

// backAndWhole waits until the node has the last write, and then reads all.
func backAndWhole(t *testing.T, c *proctest.Cluster, n *proctest.Node, written []document) {
	t.Helper()
	proctest.Eventually(t, 30*time.Second, n.ID+" is back", func() error {
		return readBack(n, written[len(written)-1], levels[0])
	})
	for _, n := range c.Nodes {
		readAll(t, n, written)
	}
}

// A follower whose disk is full takes no entries, goes on to serve what it has,
// and holds nobody up; with space again it catches up. First it stops by itself,
// then somebody takes the last byte.
func TestFollowerOnAFullDiskHoldsNobodyUp(t *testing.T) {
	skipIfShort(t)
	c, disk := onSmallDisk(t, 96<<20, lowMark, "n1")
	same := sameProcesses(t, c)
	small := c.Nodes[0]
	two := others(c, small)
	makeLeader(t, c, two[0])
	written := fillAnyhow(t, c.Nodes, "before", 50)
	small.WaitApplied(written[len(written)-1].index, 10*time.Second)
	full := newBallast(t, disk)
	full.grow(lowMark / 8)
	proctest.Eventually(t, 10*time.Second, "it takes no entries", func() error {
		if diskMetric(t, small, "snipdb_cluster_disk_full") != 1 {
			return errNot
		}
		return nil
	})
	written = append(written, fillAnyhow(t, two, "full", 100)...)
	if waits := diskMetric(t, small, "snipdb_storage_space_waits_total"); waits != 0 {
		t.Errorf("it met the full disk %v times", waits)
	}
	// What it has in memory may be written at any time; now there is nothing to
	// write it to.
	full.grow(0)
	written = append(written, fillAnyhow(t, two, "nothing", 100)...)
	if err := readBack(small, document{id: written[0].id, content: written[0].content}, "consistency=local"); err != nil {
		t.Errorf("with a full disk: %v", err)
	}
	self, err := small.Self()
	if err != nil || self.Role == "leader" || !strings.Contains(strings.Join(self.Errors, " "), "disk") {
		t.Errorf("its status: %+v, %v", self, err)
	}
	full.remove()
	backAndWhole(t, c, small, written)
	same()
}

// The leader's disk fills up by its own writes. Before that goes wrong it hands
// over to a node with space; as a follower it stops in time, and with space
// again it catches up.
func TestLeaderOnAFullDiskHandsOver(t *testing.T) {
	skipIfShort(t)
	c, disk := onSmallDisk(t, 128<<20, lowMark, "n1")
	same := sameProcesses(t, c)
	small := c.Nodes[0]
	makeLeader(t, c, small)
	written := fillAnyhow(t, c.Nodes, "before", 50)
	full := newBallast(t, disk)
	full.grow(60 << 20)

	// As fast as it goes, through the mark.
	f := newFlood(small)
	f.bytes = 16 << 10
	filled := time.Now()
	proctest.Eventually(t, 60*time.Second, "another node leads", func() error {
		f.run(fmt.Sprintf("fill-%d", time.Since(filled)), 0, 16, 200*time.Millisecond)
		if small.Role() == "leader" {
			return fmt.Errorf("%d accepted, %d bytes free", len(f.accepted), freeBytes(t, disk))
		}
		return nil
	})
	t.Logf("after %v: %d accepted, refused %v; %d KiB are free, the mark is at %d KiB", time.Since(filled), len(f.accepted), f.refused, freeBytes(t, disk)>>10, lowMark>>10)
	// Through all, the small one too: the rest of its disk, and then much more.
	written = append(written, fillAnyhow(t, c.Nodes, "over", 200)...)
	if waits := diskMetric(t, small, "snipdb_storage_space_waits_total"); waits != 0 {
		t.Errorf("the reserve did not suffice: writes waited for space %v times", waits)
	}
	// Now somebody else takes what was kept for what is in memory.
	full.grow(lowMark / 8)
	written = append(written, fillAnyhow(t, c.Nodes, "more", 200)...)
	// A machine under load may make it leader again; then it hands over again.
	proctest.Eventually(t, 20*time.Second, "it does not lead", func() error {
		if small.Role() == "leader" {
			return errNot
		}
		return nil
	})
	t.Logf("it handed over %v times", diskMetric(t, small, "snipdb_cluster_disk_hand_overs_total"))
	full.remove()
	backAndWhole(t, c, small, written)
	same()
	verifyAccepted(t, c, f.accepted)
}

// All disks are full: writes are refused wherever they come in, by the reason,
// reads and deletions are served, and all goes on by itself.
func TestAllDisksFullRefuseWritesAndRecover(t *testing.T) {
	skipIfShort(t)
	c, disk := onSmallDisk(t, 192<<20, lowMark, "n1", "n2", "n3")
	same := sameProcesses(t, c)
	written := fillAnyhow(t, c.Nodes, "before", 50)
	leader := c.Leader()
	full := newBallast(t, disk)
	full.grow(2 * lowMark)
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
	t.Logf("until the disk was low: %d accepted, refused %v", len(f.accepted), f.refused)
	// Many at once are refused a little above the mark, for what is on its way.
	// What brings the disk below it is somebody else; what is in memory is kept
	// free for.
	full.grow(lowMark - 1<<20)
	proctest.Eventually(t, 10*time.Second, "the smallest write is refused", func() error {
		answer, err := leader.Do(context.Background(), http.MethodPut, docs+"/small", map[string]any{"content": "x"})
		if err == nil && answer.Problem().Reason != "disk_low" {
			err = fmt.Errorf("status %d", answer.Status)
		}
		return err
	})
	for _, n := range c.Nodes {
		// Wherever it comes in. What a leader that loses its office for a moment
		// says, on a machine under load, is not looked at here.
		proctest.Eventually(t, 10*time.Second, "a write through "+n.ID+" is refused", func() error {
			answer, err := n.Do(context.Background(), http.MethodPut, docs+"/refused", map[string]any{"content": "x"})
			if err == nil && (answer.Problem().Reason != "disk_low" || badRefusal(answer) != "") {
				err = fmt.Errorf("status %d, %s: %.300s", answer.Status, badRefusal(answer), answer.Body)
			}
			return err
		})
		for _, level := range levels {
			proctest.Eventually(t, 10*time.Second, "reads are served", func() error { return readBack(n, written[0], level) })
		}
		last := written[len(written)-1].id
		proctest.Eventually(t, 10*time.Second, "a deletion through "+n.ID, func() error {
			answer, err := n.Do(context.Background(), http.MethodDelete, docs+"/"+last, nil)
			if err == nil && answer.Status != http.StatusNoContent && answer.Status != http.StatusNotFound {
				err = fmt.Errorf("status %d: %.300s", answer.Status, answer.Body)
			}
			return err
		})
		written = written[:len(written)-1]
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
		// Each node keeps a reserve for itself; three on one disk may need more.
		t.Logf("%s: writes waited for space %v times", n.ID, diskMetric(t, n, "snipdb_storage_space_waits_total"))
		readAll(t, n, written)
	}
	same()
	verifyAccepted(t, c, f.accepted)
}

// The worst: another program takes the leader's last byte, at once and with a
// mark that warns of nothing. Another node leads, the one without space lives
// on, and with space it goes on where it was.
func TestLeaderWhoseDiskIsTakenAway(t *testing.T) {
	skipIfShort(t)
	c, disk := onSmallDisk(t, 96<<20, 4096, "n1")
	same := sameProcesses(t, c)
	small := c.Nodes[0]
	makeLeader(t, c, small)
	l := startLoad(c, 8)
	l.waitForMore(t, 200)
	full := newBallast(t, disk)
	proctest.Eventually(t, 30*time.Second, "another one leads", func() error {
		full.grow(0)
		for _, n := range others(c, small) {
			if n.Role() == "leader" {
				return nil
			}
		}
		return errNot
	})
	// Often some write has met the full disk; if the gate looked first, none has.
	t.Logf("writes waited for space %v times", diskMetric(t, small, "snipdb_storage_space_waits_total"))
	l.waitForMore(t, 200)
	full.grow(0)
	if !small.Running() {
		t.Errorf("it is gone:\n%s", small.Log())
	}
	full.remove()
	l.waitForMore(t, 200)
	l.end(t)
	l.verify(t)
	same()
}

// A node that is told to stop on a full disk ends in time: as it should, or, if
// its last writes wait for space, with an error that says so. Without space it
// does not start, or waits; with space all is there.
func TestStopOnAFullDisk(t *testing.T) {
	skipIfShort(t)
	c, disk := onSmallDisk(t, 96<<20, 4096, "n1")
	small := c.Nodes[0]
	makeLeader(t, c, small)
	l := startLoad(c, 4)
	l.waitForMore(t, 100)
	full := newBallast(t, disk)
	proctest.Eventually(t, 30*time.Second, "a write has met the full disk, or none will", func() error {
		full.grow(0)
		if diskMetric(t, small, "snipdb_storage_space_waits_total") < 1 && diskMetric(t, small, "snipdb_cluster_disk_full") != 1 {
			return errNot
		}
		return nil
	})
	full.grow(0)
	asked := time.Now()
	small.Signal(unix.SIGTERM)
	err := small.Wait()
	t.Logf("it ended after %v: %v", time.Since(asked), err)
	if err != nil && !strings.Contains(small.Log(), "ends without closing its databases") {
		t.Errorf("it does not say why it ended:\n%s", small.Log())
	}
	full.grow(0)
	small.Start()
	l.waitForMore(t, 200)
	full.remove()
	proctest.Eventually(t, 30*time.Second, small.ID+" is back", func() error {
		if !small.Running() {
			small.Start() // as a supervisor would
		}
		if small.Role() == "" {
			return errNot
		}
		return nil
	})
	small.WaitReady()
	l.end(t)
	l.verify(t)
}
