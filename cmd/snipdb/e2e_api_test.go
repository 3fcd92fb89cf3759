package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/apitest"
)

// Every wrong request gets its documented answer from a real node as well, and
// changes nothing: at the leader, and through a follower.
func TestBadInputOnRealNodes(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	leader, follower := c.Leader(), c.Followers()[0]
	t.Run("leader", func(t *testing.T) { apitest.BadInput(t, leader.URL) })
	t.Run("follower", func(t *testing.T) { apitest.BadInput(t, follower.URL) })
}

// metricsOfEachLayer are metrics of which one at least must be there, so that no
// layer is forgotten when the registry is handed on.
var metricsOfEachLayer = []string{
	"go_goroutines", "process_resident_memory_bytes", "snipdb_build_info",
	"snipdb_storage_", "snipdb_fsm_", "snipdb_cluster_", "snipdb_httpapi_",
}

func TestMetricsOfEveryLayerAreServed(t *testing.T) {
	skipIfShort(t)
	n := proctest.Start(t, proctest.Options{Nodes: 1}).Nodes[0]
	put(n, "one", "x")
	answer := n.Must(http.StatusOK, http.MethodGet, "/metrics", nil, nil)
	for _, want := range metricsOfEachLayer {
		if !strings.Contains(string(answer.Body), "\n"+want) {
			t.Errorf("/metrics has nothing that begins with %s", want)
		}
	}
	n.Must(http.StatusOK, http.MethodGet, "/livez", nil, nil)
	n.Must(http.StatusOK, http.MethodGet, "/openapi.json", nil, nil)
}

// A node that is down is shown as such within a second or so, and the rest of
// the status is not held up by it.
func TestStatusShowsADeadNodeSoon(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	put(c.Nodes[0], "one", "x")
	dead := c.Followers()[0]
	dead.Kill()
	start := time.Now()
	status, err := c.Leader().Status()
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if took > 2*time.Second {
		t.Errorf("the status took %v", took)
	}
	for _, n := range status.Nodes {
		if n.Reachable == (n.ID == dead.ID) {
			t.Errorf("%s is dead, and %s is shown as reachable: %v", dead.ID, n.ID, n.Reachable)
		}
		if n.Reachable && (n.DiskFreeBytes == 0 || n.Version == "" || n.AppliedIndex == 0 || n.Storage.Stall == "" || len(n.Storage.Options) == 0) {
			t.Errorf("the status of %s is not complete: %+v", n.ID, n)
		}
	}
}

// With ?redirect=true a follower says where the leader is and does nothing.
func TestRedirectNamesTheLeader(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	put(c.Nodes[0], "one", "x")
	leader, follower := c.Leader(), c.Followers()[0]
	answer, err := follower.Do(context.Background(), http.MethodPut, docs+"/redirected?redirect=true", map[string]any{"content": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status != http.StatusTemporaryRedirect || !strings.HasPrefix(answer.Header.Get("Location"), leader.URL+docs+"/redirected") {
		t.Fatalf("status %d, Location %q; the leader is %s", answer.Status, answer.Header.Get("Location"), leader.URL)
	}
	leader.Must(http.StatusNotFound, http.MethodGet, docs+"/redirected?consistency=linearizable", nil, nil)
}
