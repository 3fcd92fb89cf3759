package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/snipctl/doctor"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func sampleStatus() *wire.Status {
	return &wire.Status{ClusterID: "c1", Leader: "n1", Term: 4, Nodes: []wire.NodeStatus{
		{ID: "n1", HTTPAddr: "http://127.0.0.1:8001", Role: "leader", Voter: true, Reachable: true, Term: 4, AppliedIndex: 1200, CommitIndex: 1200,
			LogBytes: 5 << 20, DBBytes: 3 << 30, SnapshotIndex: 1000, SnapshotAge: 4000, Version: "v1", DiskFreeBytes: 40 << 30,
			State:   wire.StateStatus{Verdict: wire.StateAgreed},
			Storage: wire.StorageStatus{Stall: "none", Options: map[string]wire.OptionValue{"a": {Value: "1", Source: "profile default"}, "b": {Value: "2", Source: "flag"}}}},
		{ID: "n2", HTTPAddr: "http://127.0.0.1:8002", Role: "follower", Voter: true, Reachable: true, Restoring: true, Term: 4, AppliedIndex: 900, CommitIndex: 1100,
			Lag: 300, LogBytes: 100, Version: "v1", DiskFreeBytes: 1 << 20, Errors: []string{"disk is low", "two\nlines\x1b[2J"},
			State:   wire.StateStatus{Verdict: wire.StateDiverged},
			Storage: wire.StorageStatus{Stall: "slowdown", Options: map[string]wire.OptionValue{"a": {Value: "1", Source: "profile default"}, "b": {Value: "3", Source: "profile small"}}}},
		{ID: "n3", HTTPAddr: "http://127.0.0.1:8003", Role: "unknown", Voter: true, Errors: []string{"connection refused"}},
	}}
}

func TestStatusTable(t *testing.T) {
	var b bytes.Buffer
	if err := statusTable(sampleStatus()).render(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n")
	if err := storageTable(sampleStatus()).render(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.txt", b.String())
}

func TestMergeBelievesANodeAboutItself(t *testing.T) {
	node := func(id string, applied uint64, up bool) wire.NodeStatus {
		return wire.NodeStatus{ID: id, HTTPAddr: "http://" + id, Reachable: up, AppliedIndex: applied, CommitIndex: applied, Term: 5}
	}
	views := []view{
		{endpoint: "http://n1", node: "n1", status: &wire.Status{Leader: "n1", Term: 4, Nodes: []wire.NodeStatus{node("n1", 10, true), node("n2", 5, true), node("n3", 0, false)}}},
		{endpoint: "http://n2", node: "n2", status: &wire.Status{Leader: "n2", Term: 5, Nodes: []wire.NodeStatus{node("n1", 0, false), node("n2", 20, true), node("n3", 19, true)}}},
		{endpoint: "http://n4/", err: errors.New("refused")},
		{endpoint: "http://n3", err: errors.New("refused")},
	}
	got, err := merge(views)
	if err != nil {
		t.Fatal(err)
	}
	if got.Leader != "n2" || got.Term != 5 || len(got.Nodes) != 4 {
		t.Fatalf("got %+v", got)
	}
	var text []string
	for _, n := range got.Nodes {
		text = append(text, n.ID)
		if n.ID == "n1" && (n.AppliedIndex != 10 || !n.Reachable || n.Lag != 10) {
			t.Errorf("n1's own word does not count: %+v", n)
		}
		if n.ID == "n3" && !n.Reachable {
			t.Errorf("n2 reaches n3: %+v", n)
		}
	}
	if strings.Join(text, " ") != "? n1 n2 n3" {
		t.Errorf("nodes %v", text)
	}
}

// A node that takes the connection and never answers must cost a second, and
// not the answers of the others.
func TestStatusWithAHangingNode(t *testing.T) {
	quit := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-quit }))
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(quit) })
	status := sampleStatus()
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.TypeJSON)
		w.Header().Set(wire.HeaderNode, "n1")
		_ = json.NewEncoder(w).Encode(status)
	}))
	t.Cleanup(good.Close)
	begin := time.Now()
	got := snipctl(t, hanging.URL+","+good.URL, "", "status")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
	if got.code != exitOK || !strings.Contains(got.out, "leader n1, term 4") || !strings.Contains(got.out, "no answer in time") {
		t.Errorf("got %+v", got)
	}
}

// Two nodes of one cluster, and one with the id of its third that leads a
// cluster of its own.
func TestANodeOfAnotherClusterIsNoMember(t *testing.T) {
	serve := func(node string, status *wire.Status) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", wire.TypeJSON)
			w.Header().Set(wire.HeaderNode, node)
			if r.URL.Path == "/readyz" {
				_ = json.NewEncoder(w).Encode(wire.Ready{Status: "ok", Node: node})
				return
			}
			if strings.HasSuffix(r.URL.Path, "consistency") {
				_ = json.NewEncoder(w).Encode(wire.Consistency{})
				return
			}
			_ = json.NewEncoder(w).Encode(status)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	n1, n2 := serve("n1", sampleStatus()), serve("n2", sampleStatus())
	n3 := serve("n3", &wire.Status{ClusterID: "c2", Leader: "n3", Term: 9, Nodes: []wire.NodeStatus{
		{ID: "n3", Role: "leader", Voter: true, Reachable: true, Term: 9, AppliedIndex: 5000, CommitIndex: 5000},
	}})
	all, good := n3+","+n1+","+n2, n1+","+n2
	const says = "it belongs to cluster c2, not to c1"
	got := snipctl(t, all, "", "status")
	if got.code != exitFailed || !strings.Contains(got.out, "cluster c1, leader n1, term 4") || !strings.Contains(got.out, says) ||
		!strings.Contains(got.errOut, "n3 at "+n3+" belongs to c2") {
		t.Errorf("status: %+v", got)
	}
	if got := snipctl(t, good, "", "status"); got.code != exitOK || strings.Contains(got.out, says) {
		t.Errorf("status of one cluster: %+v", got)
	}
	for _, args := range [][]string{
		{"wait", "--ready", "--deadline", "300ms"}, {"wait", "--leader", "--deadline", "300ms"}, {"wait", "--nodes", "2", "--deadline", "300ms"}, {"check", "consistency"},
	} {
		if got := snipctl(t, all, "", args...); got.code == exitOK || !strings.Contains(got.errOut, "different clusters") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	if c, got := finding(t, all, "one cluster", "cluster", doctor.Fail); got.code != exitFailed || !strings.Contains(c.Found, "n3 at "+n3+" belongs to c2") || c.Advice == "" {
		t.Errorf("doctor: %+v, exit code %d", c, got.code)
	}
	if c, _ := finding(t, good, "one cluster", "cluster", doctor.OK); c.Found != "c1" {
		t.Errorf("doctor of one cluster: %+v", c)
	}
	if got := snipctl(t, good, "", "wait", "--leader", "--deadline", "20s"); got.code != exitOK {
		t.Errorf("wait for one cluster: %+v", got)
	}
}

func TestSizesAndAges(t *testing.T) {
	for n, want := range map[uint64]string{0: "0B", 1023: "1023B", 1024: "1.0KiB", 3 << 30: "3.0GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) is %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{5 * time.Second: "5s", 65 * time.Second: "1m5s", 90 * time.Minute: "1h30m", 50 * time.Hour: "2d2h"} {
		if got := age(d); got != want {
			t.Errorf("age(%s) is %s, want %s", d, got, want)
		}
	}
	for text, want := range map[string]uint64{"1GiB": 1 << 30, "512MiB": 512 << 20, "1.5KiB": 1536, "77": 77} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%s) is %d, %v", text, got, err)
		}
	}
}
