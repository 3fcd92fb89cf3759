package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
)

// FuzzIdentityFile: a file that is taken is the node's own, and one that is
// refused is left as it is.
func FuzzIdentityFile(f *testing.F) {
	f.Add([]byte(`{"format":1,"node_id":"n1","cluster_id":"c","founder":true}`))
	f.Add([]byte(`{"format":1,"node_id":"n2"}`))
	f.Add([]byte(`{"format":2,"node_id":"n1"}`))
	f.Add([]byte(``))
	f.Add([]byte(`{"format":1,"node_id":"n1"} x`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(dir, identityFile)
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		id := &identity{dir: dir}
		if err := id.load("n1"); err != nil {
			if left, _ := os.ReadFile(path); !bytes.Equal(left, raw) {
				t.Errorf("refused (%v), and changed to %q", err, left)
			}
			return
		}
		if id.rec.NodeID != "n1" || id.rec.Format != identityFormat {
			t.Errorf("%q is taken as %+v", raw, id.rec)
		}
	})
}

// FuzzPeerRequests sends any body to any route between nodes, to a node that
// waits to be taken in. It must answer, and may agree to nothing but a claim
// that names it.
func FuzzPeerRequests(f *testing.F) {
	f.Add(uint8(0), "n2", []byte(`{}`))
	f.Add(uint8(1), "n2", []byte(`{"term":1}`))
	f.Add(uint8(2), "", []byte(`null`))
	f.Add(uint8(4), "n2", []byte(`{"cluster_id":"x","claimer":"n2","expect":3,"servers":[]}`))
	f.Add(uint8(4), "a", []byte(`{"cluster_id":"x","claimer":"a","expect":3,"servers":[{"id":"a"},{"id":"b"},{"id":"c"}]}`))
	f.Add(uint8(5), "n2", []byte(`{"member":{"id":"n2","raft_addr":"x"},"fresh":true,"hops":0}`))
	f.Add(uint8(6), "n2", []byte(`{"op":"remove","id":"n1","force":true}`))
	c := newTestCluster(f)
	n := c.start("n1", 3, "n1", "n2", "n3")
	mux := http.NewServeMux()
	n.handlePeers(mux)
	routes := []string{routeReadIndex, routeVerify, routeProgress, routeStatus, routeClaim, routeAnnounce, routeChange, routeKick}
	f.Fuzz(func(t *testing.T, which uint8, from string, body []byte) {
		route := routes[int(which)%len(routes)]
		if route == routeClaim && bytes.Contains(body, []byte(n.mux.addr())) {
			return // it would be true
		}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), peerFromKey{}, from), time.Second)
		defer cancel()
		request := httptest.NewRequestWithContext(ctx, http.MethodPost, peerPrefix+route, bytes.NewReader(body))
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, request)
		if w.Code == http.StatusOK {
			if route == routeClaim || route == routeAnnounce || route == routeChange || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %q is answered %s", route, body, w.Body)
			}
			return
		}
		var e peerError
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" || e.Code == peerInternal {
			t.Errorf("%s %q: status %d %s: %v", route, body, w.Code, w.Body, err)
		}
		if n.raft.Load() != nil {
			t.Fatalf("%s %q started Raft", route, body)
		}
	})
}

// FuzzPeerAnswers: what is no 200 is an error, whatever it says, and never one
// that promises more than the other node knows.
func FuzzPeerAnswers(f *testing.F) {
	f.Add(409, "application/json", []byte(`{"code":"no_leader","message":"x"}`))
	f.Add(404, "text/plain", []byte(`404`))
	f.Add(500, "application/json", []byte(`{"code":"outcome_unknown"}`))
	f.Add(400, "application/json", []byte(`{"code":1}`))
	f.Fuzz(func(t *testing.T, status int, media string, body []byte) {
		response := &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {media}}}
		err := remoteError(response, body)
		var e *peerError
		if !errors.As(err, &e) || e.Code == "" {
			t.Fatalf("%d %q is the error %v", status, body, err)
		}
		got := fromPeer(err)
		if got == nil || got.Error() == "" && e.Message != "" {
			t.Fatalf("%d %q is %v for the caller", status, body, got)
		}
		var unknown *contract.OutcomeUnknownError
		if errors.As(got, &unknown) != (e.Code == codeUnknown) {
			t.Errorf("the code %q is %v", e.Code, got)
		}
	})
}
