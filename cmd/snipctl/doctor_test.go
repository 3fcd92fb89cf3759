package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/snipctl/doctor"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// statusNode answers for one node with what status returns, given the base URL.
func statusNode(t *testing.T, id string, status func() *wire.Status) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/cluster/status" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", wire.TypeJSON)
		w.Header().Set(wire.HeaderNode, id)
		_ = json.NewEncoder(w).Encode(status())
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// healthy is a node that knows its own clock, and with ahead, what it is wrong by.
func healthy(id, url string, ahead time.Duration) wire.NodeStatus {
	return wire.NodeStatus{ID: id, HTTPAddr: url, Role: "follower", Voter: true, Reachable: true, Term: 1, Version: version,
		DiskFreeBytes: 67 << 30, DiskLeftBytes: 66 << 30, DiskLowBytes: 2 << 30, ClockMs: time.Now().Add(ahead).UnixMilli(),
		State: wire.StateStatus{Verdict: wire.StateAgreed}, Storage: wire.StorageStatus{Stall: "none"}}
}

// finding runs the doctor until one of its findings has the verdict, a few times
// at most: on a busy machine a node may answer too late for one survey.
func finding(t *testing.T, endpoints, name, where string, want doctor.Verdict) (doctor.Check, result) {
	t.Helper()
	var found doctor.Check
	var got result
	for range 5 {
		got = snipctl(t, endpoints, "", "-o", "json", "doctor")
		var report struct{ Checks []doctor.Check }
		if err := json.Unmarshal([]byte(got.out), &report); err != nil {
			t.Fatalf("%v in %+v", err, got)
		}
		for _, c := range report.Checks {
			if c.Name == name && c.Where == where {
				if found = c; c.Verdict == want {
					return c, got
				}
			}
		}
	}
	t.Errorf("%s of %s: got %+v, want %s, in %s", name, where, found, want, got.out)
	return found, got
}

// One endpoint is enough: the doctor asks the members that it names for their
// clocks, and takes the word of a member for one that it can't reach itself.
func TestTheDoctorFindsTheOtherNodesClocks(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		ahead   time.Duration // n2 by itself
		byWord  time.Duration // n2 as n1 says; 0: n1 does not say
		reached bool
		want    doctor.Verdict
	}{
		"n2 is asked itself, in step":       {reached: true, want: doctor.OK},
		"n2 is asked itself, two hours off": {reached: true, ahead: 2 * time.Hour, want: doctor.Fail},
		"n1 has asked n2, two hours off":    {byWord: 2 * time.Hour, want: doctor.Fail},
		"nobody has asked n2":               {want: doctor.Warn},
	} {
		t.Run(name, func(t *testing.T) {
			second := gone.URL
			if c.reached {
				second = statusNode(t, "n2", func() *wire.Status {
					return &wire.Status{Leader: "n1", Term: 1, Nodes: []wire.NodeStatus{healthy("n2", "", c.ahead)}}
				})
			}
			var first string
			first = statusNode(t, "n1", func() *wire.Status {
				n2 := healthy("n2", second, c.byWord)
				if c.byWord == 0 {
					n2.ClockMs = 0
				}
				return &wire.Status{Leader: "n1", Term: 1, Nodes: []wire.NodeStatus{healthy("n1", first, 0), n2}}
			})
			finding(t, first, "clocks", "cluster", c.want)
		})
	}
	alone := statusNode(t, "n1", func() *wire.Status {
		return &wire.Status{Leader: "n1", Term: 1, Nodes: []wire.NodeStatus{healthy("n1", "", 0)}}
	})
	finding(t, alone, "clocks", "cluster", doctor.Skip)
}

// A node that refuses every write is not healthy, however much space there is.
func TestTheDoctorSeesANodeThatRefusesWrites(t *testing.T) {
	url := statusNode(t, "n1", func() *wire.Status {
		n := healthy("n1", "", 0)
		n.DiskLowBytes, n.Refusing, n.Errors = 100<<30, []string{"disk_low"}, []string{"the data disk is low"}
		return &wire.Status{Leader: "n1", Term: 1, Nodes: []wire.NodeStatus{n}}
	})
	got, all := finding(t, url, "disk space", "n1", doctor.Fail)
	if !strings.Contains(got.Advice, "--disk-low-bytes") || all.code != exitFailed {
		t.Errorf("got %+v, exit code %d", got, all.code)
	}
}
