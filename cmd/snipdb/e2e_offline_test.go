package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// inspected runs `snipdb inspect` on a stopped node.
func inspected(t *testing.T, n *proctest.Node) report {
	t.Helper()
	out, err := runSnipdb(t, "inspect", "--data-dir", n.Dir, "-o", "json", "--storage-options")
	if err != nil {
		t.Fatalf("inspect: %v\n%s", err, out)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	return r
}

func TestInspectSaysWhatIsThere(t *testing.T) {
	skipIfShort(t)
	n := lonely(t)
	written := fill(t, []*proctest.Node{n}, "seen", 100)
	waitTruncated(t, n, 1)
	// What the node is writing now would be "half-made" to whoever opens its
	// snapshots: the lock comes before that.
	halfMade := filepath.Join(part(n.Dir, "snapshots"), "2-1000000-1700000000000.tmp")
	if err := os.Mkdir(halfMade, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"inspect"}, {"recover", "--dry-run"}, {"migrate-log", "--to", logStoreRocksDB}} {
		if command[0] == "recover" {
			peers := filepath.Join(t.TempDir(), "peers.json")
			if err := os.WriteFile(peers, fmt.Appendf(nil, `[{"id":%q,"address":%q}]`, n.ID, n.RaftAddr), 0o600); err != nil {
				t.Fatal(err)
			}
			command = append(command, "--peers", peers)
		}
		out, err := runSnipdb(t, append(command, "--data-dir", n.Dir)...)
		if err == nil {
			t.Errorf("%s worked on a running node:\n%s", command[0], out)
		}
		wantText(t, out, "another snipdb process uses the data directory")
		if _, err := os.Stat(halfMade); err != nil {
			t.Fatalf("%s on a running node took its half-made snapshot away: %v", command[0], err)
		}
	}
	n.Stop()
	r := inspected(t, n)
	if r.NodeID != n.ID || r.ClusterID == "" || r.Snapshot == 0 || r.FirstLog < 2 || r.LastLog < r.Applied || r.Violation != "" {
		t.Errorf("inspect says %+v", r)
	}
	if len(r.Collections) != 1 || r.Collections[0].Name != "e2e" || r.Collections[0].Documents != uint64(len(written)) {
		t.Errorf("collections are %+v", r.Collections)
	}
	if len(r.Members) != 1 || r.Members[0].ID != n.ID || len(r.Options) == 0 {
		t.Errorf("members are %+v, %d options", r.Members, len(r.Options))
	}
	// It has changed nothing: the node starts, with all that it had.
	n.Start()
	n.WaitReady()
	readAll(t, n, written)
	n.Stop()

	if err := os.RemoveAll(part(n.Dir, "log")); err != nil {
		t.Fatal(err)
	}
	out, err := runSnipdb(t, "inspect", "--data-dir", n.Dir)
	if err == nil {
		t.Errorf("a node without its log was found in order:\n%s", out)
	}
	wantText(t, out, "no Raft log")
}

// Two of three nodes are lost with their disks. What the third has is served
// again, and new nodes join it.
func TestRecoverAfterTheMajorityIsLost(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	written := fill(t, c.Nodes, "kept", 50)
	last := written[0].index
	for _, d := range written {
		last = max(last, d.index)
	}
	survivor := c.Nodes[0]
	survivor.WaitApplied(last, 20*time.Second)
	for _, n := range c.Nodes {
		n.Kill()
	}
	c.Nodes[1].Wipe()
	c.Nodes[2].Wipe()

	peers := filepath.Join(t.TempDir(), "peers.json")
	list := fmt.Sprintf(`[{"id":%q,"address":%q}]`, survivor.ID, survivor.RaftAddr)
	if err := os.WriteFile(peers, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	before := inspected(t, survivor)
	out, err := runSnipdb(t, "recover", "--data-dir", survivor.Dir, "--peers", peers, "--dry-run")
	if err != nil {
		t.Fatalf("recover --dry-run: %v\n%s", err, out)
	}
	wantText(t, out, "dry run: nothing was changed")
	if after := inspected(t, survivor); after.Inspection != before.Inspection {
		t.Errorf("the dry run changed %+v to %+v", before.Inspection, after.Inspection)
	}
	if out, err = runSnipdb(t, "recover", "--data-dir", survivor.Dir, "--peers", peers); err != nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	t.Logf("recover says:\n%s", out)

	survivor.Start()
	survivor.WaitReady()
	readAll(t, survivor, written)
	added := put(survivor, "after-the-recovery", "x")
	// The others come back empty, with their old command lines.
	for _, n := range c.Nodes[1:] {
		n.Start()
	}
	c.WaitReady()
	for _, n := range c.Nodes {
		readAll(t, n, append(written, added))
	}
}

func TestMigrateLogThereAndBack(t *testing.T) {
	skipIfShort(t)
	n := lonely(t)
	written := fill(t, []*proctest.Node{n}, "moved", 60)
	n.Stop()
	kind := logStoreRocksDB // the default
	for _, to := range []string{logStoreBolt, logStoreRocksDB} {
		before := inspected(t, n)
		if before.LogStore != kind {
			t.Fatalf("the log is of the kind %s, not %s", before.LogStore, kind)
		}
		// A half-made copy of an earlier try is no obstacle.
		if err := os.MkdirAll(filepath.Join(n.Dir, "log", "migrating-"+to), 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := runSnipdb(t, "migrate-log", "--data-dir", n.Dir, "--to", to)
		if err != nil {
			t.Fatalf("migrate-log: %v\n%s", err, out)
		}
		t.Log(strings.TrimSpace(out))
		if after := inspected(t, n); after.Inspection != before.Inspection || after.LogStore != to {
			t.Errorf("before %+v, after %+v", before, after)
		}
		// The wrong --log-store is refused, and nothing is lost by trying.
		out, err = runSnipdb(t, append(n.Args(), "--log-store", kind)...)
		if err == nil {
			t.Errorf("the node started without its log:\n%s", out)
		}
		wantText(t, out, "migrate-log")
		n.Start("--log-store", to)
		n.WaitReady()
		readAll(t, n, written)
		written = append(written, put(n, "on-"+to, "x"))
		n.Stop()
		kind = to
	}
	out, err := runSnipdb(t, "migrate-log", "--data-dir", n.Dir, "--to", kind)
	if err != nil {
		t.Errorf("a migration to where the log is: %v\n%s", err, out)
	}
	wantText(t, out, "already")
}

// freeBasePort returns a port of which the two above are free as well, and
// those 1000 below.
func freeBasePort(t *testing.T) int {
	t.Helper()
	for base := 21001; base < 30000; base += 10 {
		free := true
		for i := range 3 {
			for _, port := range []int{base + i, base - 1000 + i} {
				l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
				if err != nil {
					free = false
					continue
				}
				_ = l.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("there are no free ports")
	return 0
}

// What `make run` does, twice with the same folder: the second time it starts
// from the data.
func TestMakeRunTwice(t *testing.T) {
	skipIfShort(t)
	bin, folder := filepath.Dir(proctest.Binary(t, "snipdb")), t.TempDir()
	proctest.Binary(t, "snipctl")
	for run, want := range []string{"Importing the documentation", "is there already"} {
		cmd := exec.Command("../../deploy/run.sh", folder)
		cmd.Env = append(os.Environ(), "RUN_ONCE=1", "BIN="+bin, fmt.Sprintf("BASE_PORT=%d", freeBasePort(t)))
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("run %d: %v\n%s", run+1, err, out)
		}
		t.Logf("run %d took %v", run+1, time.Since(start).Round(100*time.Millisecond))
		wantText(t, string(out), want, "linearizable", "leader", "ended with status 0", "Package sort provides primitives")
		if strings.Count(string(out), "ended with status 0") != 3 {
			t.Errorf("not all three nodes ended cleanly:\n%s", out)
		}
	}
}
