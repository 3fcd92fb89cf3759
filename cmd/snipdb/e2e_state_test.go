package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/snippet"
)

// checkOften makes nodes mark and compare their states often.
var checkOften = []string{"--tick-interval", "500ms", "--state-check-interval", "100ms"}

// stateWait is long because a loaded machine is no failure.
const stateWait = 60 * time.Second

// stateOf is what a node says of its own state, as it says it to another.
func stateOf(through, of *proctest.Node) (wire.StateStatus, error) {
	answer, err := through.Do(context.Background(), http.MethodGet, "/v1/cluster/status", nil)
	if err != nil {
		return wire.StateStatus{}, err
	}
	var status wire.Status
	if err := answer.JSON(&status); err != nil {
		return wire.StateStatus{}, err
	}
	for _, n := range status.Nodes {
		if n.ID == of.ID {
			return n.State, nil
		}
	}
	return wire.StateStatus{}, fmt.Errorf("%s does not know %s", through.ID, of.ID)
}

// waitAgreed waits until the nodes have compared a state that holds the entry.
func waitAgreed(t *testing.T, index uint64, nodes ...*proctest.Node) {
	t.Helper()
	for _, n := range nodes {
		proctest.Eventually(t, stateWait, n.ID+" agrees with the others", func() error {
			s, err := stateOf(n, n)
			if err == nil && (s.Verdict != wire.StateAgreed || s.ComparedIndex < index) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
}

// tamper changes one row of a stopped node's state behind the cluster's back,
// and with rot behind that of the state's hash as well, as a bad disk would.
func tamper(t *testing.T, n *proctest.Node, collection, id string, rot bool) {
	t.Helper()
	options := storage.Options{Profile: storage.Small, NoStateHash: rot}
	shared, err := storage.NewShared(options)
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	store, err := storage.OpenStore(part(n.Dir, "state"), options, shared)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	db, release := store.DB()
	defer release()
	b := db.NewBatch()
	defer b.Destroy()
	c, err := b.Collection(collection)
	if err != nil || c == nil {
		t.Fatal(c, err)
	}
	d, err := b.Document(c.ID, id)
	if err != nil || d == nil {
		t.Fatal(d, err)
	}
	text := "nobody wrote this"
	s := &snippet.Snippet{Content: text, ContentHash: snippet.HashContent(text), Revision: d.Revision}
	if err := b.PutSnippet(c.ID, d, s, false); err != nil {
		t.Fatal(err)
	}
	if err := b.PutDocument(c.ID, d, false); err != nil {
		t.Fatal(err)
	}
	if err := db.Commit(b, db.Position()); err != nil {
		t.Fatal(err)
	}
}

// wantDiverged fails unless the node refuses all that it is for, says why, and
// answers what an operator asks.
func wantDiverged(t *testing.T, n *proctest.Node) {
	t.Helper()
	for _, request := range [][2]string{
		{http.MethodGet, docs + "/d0"}, {http.MethodGet, docs + "/d0?consistency=linearizable"}, {http.MethodGet, docs}, {http.MethodGet, "/v1/collections"},
		{http.MethodDelete, docs + "/d0"}, {http.MethodPut, docs + "/new"},
	} {
		var body any
		if request[0] == http.MethodPut {
			body = map[string]any{"content": "x"}
		}
		answer := n.Must(http.StatusServiceUnavailable, request[0], request[1], body, nil)
		p := answer.Problem()
		if p.Code != wire.CodeDiverged || !strings.Contains(p.Detail, "empty its data directory") || answer.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %+v", request[0], request[1], p)
		}
		if request[0] != http.MethodGet && p.Outcome != "not_applied" {
			t.Errorf("%s %s: outcome %q", request[0], request[1], p.Outcome)
		}
	}
	n.Must(http.StatusOK, http.MethodGet, "/livez", nil, nil)
	n.Must(http.StatusOK, http.MethodGet, "/v1/cluster/members", nil, nil)
	ready := n.Must(http.StatusServiceUnavailable, http.MethodGet, "/readyz", nil, nil)
	if !strings.Contains(string(ready.Body), "differs") {
		t.Errorf("not ready, and not why: %s", ready.Body)
	}
	if got := gauge(t, n, "snipdb_cluster_state_diverged"); got != 1 {
		t.Errorf("snipdb_cluster_state_diverged is %v", got)
	}
}

// gauge reads a metric without labels.
func gauge(t *testing.T, n *proctest.Node, name string) float64 {
	t.Helper()
	return metric(n.Must(http.StatusOK, http.MethodGet, "/metrics", nil, nil).Body, name)
}

// snipctlCheck runs snipctl check consistency and returns its exit code.
func snipctlCheck(t *testing.T, c *proctest.Cluster, args ...string) (int, string) {
	t.Helper()
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, n.URL)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stateWait)
	defer cancel()
	args = append([]string{"--endpoints", strings.Join(urls, ","), "check", "consistency"}, args...)
	command := exec.CommandContext(ctx, proctest.Binary(t, "snipctl"), args...)
	out, err := command.CombinedOutput()
	if command.ProcessState == nil {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), string(out)
}

// A row of one node's state is changed while it is stopped. That node, and
// only that node, finds out and serves nothing; a restart changes nothing; an
// empty directory heals it.
func TestDivergedNodeStopsServing(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{Args: checkOften})
	var written []document
	for i := range 20 {
		written = append(written, put(c.Nodes[i%3], fmt.Sprint("d", i), fmt.Sprint("text ", i)))
	}
	last := written[len(written)-1].index
	waitAgreed(t, last, c.Nodes...)
	if code, out := snipctlCheck(t, c, "--deep"); code != 0 || strings.Count(out, "agreed") != 3 || strings.Count(out, " ok ") != 3 {
		t.Errorf("three equal nodes: exit code %d\n%s", code, out)
	}

	bad, good := c.Leader(), c.Followers()
	bad.Stop()
	tamper(t, bad, "e2e", "d0", false)
	bad.Start()
	proctest.Eventually(t, stateWait, bad.ID+" finds that it has diverged", func() error {
		s, err := stateOf(good[0], bad)
		if err == nil && (s.Verdict != wire.StateDiverged || s.Diverged == "") {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	wantDiverged(t, bad)
	if !strings.Contains(bad.Log(), "diverged and serves nothing") {
		t.Error("it does not say so in its log")
	}
	code, out := snipctlCheck(t, c)
	if code != 1 || strings.Count(out, "agreed") != 2 || strings.Count(out, "diverged") != 1 {
		t.Errorf("one of three differs: exit code %d\n%s", code, out)
	}
	t.Logf("\n%s", out)
	written = append(written, put(good[0], "later", "written without "+bad.ID))
	for _, n := range good {
		if got := gauge(t, n, "snipdb_cluster_state_diverged"); got != 0 {
			t.Errorf("%s: snipdb_cluster_state_diverged is %v", n.ID, got)
		}
		readAll(t, n, written)
	}

	bad.Kill()
	bad.Start()
	proctest.Eventually(t, stateWait, bad.ID+" is still diverged", func() error {
		s, err := stateOf(bad, bad)
		if err == nil && s.Verdict != wire.StateDiverged {
			t.Fatalf("after a restart: %+v", s)
		}
		return err
	})
	wantDiverged(t, bad)

	bad.Kill()
	if out, err := runSnipdb(t, "inspect", "--data-dir", bad.Dir); err != nil || !strings.Contains(out, "NOTHING") {
		t.Errorf("inspect: %v\n%s", err, out)
	}
	peers := filepath.Join(t.TempDir(), "peers.json")
	if err := os.WriteFile(peers, fmt.Appendf(nil, `[{"id":%q,"address":%q}]`, bad.ID, bad.RaftAddr), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := runSnipdb(t, "recover", "--data-dir", bad.Dir, "--peers", peers, "--dry-run"); err == nil || !strings.Contains(out, "--accept-diverged") {
		t.Errorf("recover from a node that has diverged: %v\n%s", err, out)
	}
	bad.Wipe()
	bad.Start()
	bad.WaitReady()
	waitAgreed(t, last, c.Nodes...)
	readAll(t, bad, written)
	if code, out := snipctlCheck(t, c, "--deep"); code != 0 {
		t.Errorf("after the healing: exit code %d\n%s", code, out)
	}
}

// What changes behind the hash's back is found by a full scan, and only there:
// that node goes on, because one command must not be able to stop a cluster.
func TestDeepCheckFindsARottenRow(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{Args: checkOften})
	put(c.Nodes[0], "d0", "text")
	last := put(c.Nodes[0], "d1", "text").index
	waitAgreed(t, last, c.Nodes...)
	bad := c.Followers()[0]
	bad.Stop()
	tamper(t, bad, "e2e", "d0", true)
	bad.Start()
	bad.WaitReady()
	waitAgreed(t, last, c.Nodes...)
	if code, out := snipctlCheck(t, c); code != 0 {
		t.Errorf("the hashes that were kept: exit code %d\n%s", code, out)
	}
	code, out := snipctlCheck(t, c, "--deep")
	if code != 1 || strings.Count(out, " ok ") != 2 || strings.Count(out, " failed ") != 1 || !strings.Contains(out, "the rows have the hash") {
		t.Errorf("a row that nobody wrote: exit code %d\n%s", code, out)
	}
	t.Logf("\n%s", out)
	if got := gauge(t, bad, "snipdb_cluster_state_verify_problems"); got < 1 {
		t.Errorf("snipdb_cluster_state_verify_problems is %v", got)
	}
	bad.Must(http.StatusOK, http.MethodGet, docs+"/d1", nil, nil)
}
