package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// checked serves a report of two nodes, both of which are this server, and a
// scan that runs for one look.
func checked(t *testing.T, verdicts [2]string, scan wire.Verification) (string, *atomic.Int64) {
	t.Helper()
	var looks atomic.Int64
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	answer := func(w http.ResponseWriter, body any) {
		w.Header().Set("Content-Type", wire.TypeJSON)
		w.Header().Set(wire.HeaderNode, "n1")
		_ = json.NewEncoder(w).Encode(body)
	}
	at := &wire.HashPoint{Index: 12, Term: 3, Hash: "00ff"}
	report := wire.Consistency{Index: 12, Verdict: verdicts[1], Nodes: []wire.ConsistencyState{
		{ID: "n1", HTTPAddr: s.URL, Voter: true, Reachable: true, AppliedIndex: 13, At: at, Verdict: verdicts[0]},
		{ID: "n2", HTTPAddr: s.URL, Reachable: verdicts[1] != wire.StateUnchecked, Verdict: verdicts[1]},
	}}
	mux.HandleFunc("/v1/cluster/consistency", func(w http.ResponseWriter, _ *http.Request) { answer(w, report) })
	mux.HandleFunc("/v1/cluster/verification", func(w http.ResponseWriter, r *http.Request) {
		v := scan
		if r.Method == http.MethodPost || looks.Add(1) < 2 {
			v = wire.Verification{Node: "n1", Status: wire.VerifyRunning}
		}
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusAccepted)
		}
		answer(w, v)
	})
	return s.URL, &looks
}

func TestCheckConsistency(t *testing.T) {
	ok := wire.Verification{Node: "n1", Status: wire.VerifyOK, Rows: 77}
	for _, c := range []struct {
		what     string
		verdicts [2]string
		scan     wire.Verification
		deep     bool
		want     int
		says     string
	}{
		{"all agree", [2]string{wire.StateAgreed, wire.StateAgreed}, ok, false, exitOK, "00ff"},
		{"one differs", [2]string{wire.StateAgreed, wire.StateDiverged}, ok, false, exitFailed, "diverged"},
		{"no majority", [2]string{wire.StateDisputed, wire.StateDisputed}, ok, false, exitFailed, "disputed"},
		{"one is down", [2]string{wire.StateAgreed, wire.StateUnchecked}, ok, false, exitUnavailable, "unchecked"},
		{"a good scan", [2]string{wire.StateAgreed, wire.StateAgreed}, ok, true, exitOK, "77"},
		{"a scan finds something", [2]string{wire.StateAgreed, wire.StateAgreed},
			wire.Verification{Node: "n1", Status: wire.VerifyFailed, Problems: []string{"a text is not what was written"}}, true, exitFailed, "a text is not what was written"},
		{"a scan that was ended", [2]string{wire.StateAgreed, wire.StateAgreed}, wire.Verification{Status: wire.VerifyStopped, Error: "ended"}, true, exitUnavailable, "ended"},
	} {
		t.Run(c.what, func(t *testing.T) {
			url, looks := checked(t, c.verdicts, c.scan)
			args := []string{"check", "consistency"}
			if c.deep {
				args = append(args, "--deep")
			}
			got := snipctl(t, url, "", args...)
			if got.code != c.want || !strings.Contains(got.out, c.says) || got.errOut != "" {
				t.Errorf("code %d, want %d; stdout %q, stderr %q", got.code, c.want, got.out, got.errOut)
			}
			if (looks.Load() > 0) != c.deep {
				t.Errorf("%d looks at a scan", looks.Load())
			}
			var out consistencyOutput
			got = snipctl(t, url, "", append(args, "-o", "json")...)
			if err := json.Unmarshal([]byte(got.out), &out); err != nil || out.Index != 12 || (out.Scans != nil) != c.deep || got.code != c.want {
				t.Errorf("%v in %s", err, got.out)
			}
		})
	}
	if got := snipctl(t, "", "", "check", "consistency", "--mib-per-second", "-1"); got.code != exitUsage {
		t.Errorf("a rate below zero: %+v", got)
	}
}

// An interrupted command takes its own scan with it, and nobody else's.
func TestInterruptedScan(t *testing.T) {
	for status, want := range map[int]int64{http.StatusAccepted: 1, http.StatusOK: 0} {
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		var stops atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", wire.TypeJSON)
			w.Header().Set(wire.HeaderNode, "n1")
			switch r.Method {
			case http.MethodPost:
				w.WriteHeader(status)
			case http.MethodGet:
				interrupt()
			case http.MethodDelete:
				stops.Add(1)
			}
			_ = json.NewEncoder(w).Encode(wire.Verification{Node: "n1", Status: wire.VerifyRunning})
		}))
		defer s.Close()
		a := &app{stderr: io.Discard, timeout: 10 * time.Second}
		if _, err := a.verify(ctx, s.URL, 0); !errors.Is(err, context.Canceled) || stops.Load() != want {
			t.Errorf("started with %d: %v, and the scan was ended %d times, want %d", status, err, stops.Load(), want)
		}
	}
}
