package httpapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// TestADivergedNodeServesNoData, neither its own nor another's: it passes no
// write on. What an operator needs still works.
func TestADivergedNodeServesNoData(t *testing.T) {
	leader, n := startPair(t, nil)
	leader.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"content":"x"}`)
	n.diverged = fmt.Errorf("%w: here is why", contract.ErrDiverged)
	n.ready = n.diverged
	before := leader.index
	for _, r := range routes {
		if r.Class == classAdmin || r.Class == classHealth {
			continue
		}
		body, header := "", []string{}
		if len(r.Types) > 0 && !r.OptionalBody {
			body, header = "{}", []string{"Content-Type", r.Types[0]}
		}
		p := n.want(t, 503, nil, r.Method, exampleOf(r.Path), body, header...).problem(t)
		if p.Code != wire.CodeDiverged || r.mutates() != (p.Outcome == contract.OutcomeNotApplied) {
			t.Errorf("%s %s: %+v", r.Method, r.Path, p)
		}
	}
	if leader.index != before {
		t.Error("the leader got a write")
	}
	n.want(t, 200, nil, "GET", "/livez", "")
	var ready wire.Ready
	n.want(t, 503, &ready, "GET", "/readyz", "")
	if ready.Reason == "" {
		t.Error("it does not say why it is not ready")
	}
	n.want(t, 200, nil, "GET", "/v1/cluster/status", "")
	n.want(t, 201, nil, "POST", "/v1/cluster/members", `{"id":"n9","raft":"127.0.0.1:7009"}`)
	n.want(t, 200, nil, "GET", "/v1/cluster/verification", "")
}

// exampleOf fills in the parts of a path that a client chooses.
func exampleOf(path string) string {
	return strings.NewReplacer(":collection", "c", ":id", "d", ":index", "0").Replace(path)
}

func TestConsistencyRoutes(t *testing.T) {
	n := startNode(t, nil)
	var report wire.Consistency
	n.want(t, 200, &report, "GET", "/v1/cluster/consistency", "")
	if report.Index != n.index || report.Verdict != wire.StateAgreed || len(report.Nodes) != 2 {
		t.Errorf("%+v", report)
	}
	if first, second := report.Nodes[0], report.Nodes[1]; first.At == nil || first.At.Index != report.Index || second.At != nil || second.Error == "" {
		t.Errorf("%+v", report.Nodes)
	}
	n.want(t, 200, &report, "POST", "/v1/cluster/consistency", "")
	if report.Index != n.index+1 {
		t.Errorf("no mark was written: %+v", report)
	}
}

func TestVerificationRoutes(t *testing.T) {
	n := startNode(t, nil)
	var v wire.Verification
	wantStatus := func(status int, method, query, want string) {
		t.Helper()
		v = wire.Verification{}
		n.want(t, status, &v, method, "/v1/cluster/verification"+query, "")
		if v.Status != want || v.Node != "n1" {
			t.Errorf("%s: %+v, want %s", method, v, want)
		}
	}
	wantStatus(200, "GET", "", wire.VerifyNone)
	wantStatus(202, "POST", "", wire.VerifyRunning)
	if v.Bytes != defaultVerifyMiB<<20 {
		t.Errorf("the default rate is %d", v.Bytes)
	}
	wantStatus(200, "POST", "?mib_per_second=2", wire.VerifyRunning) // the one that runs
	if v.Bytes != defaultVerifyMiB<<20 {
		t.Errorf("one that runs is shown; there are %d bytes", v.Bytes)
	}
	wantStatus(200, "DELETE", "", wire.VerifyStopped)
	wantStatus(202, "POST", "?mib_per_second=2", wire.VerifyRunning)
	if v.Bytes != 2<<20 {
		t.Errorf("the rate is %d", v.Bytes)
	}
	wantStatus(200, "DELETE", "", wire.VerifyStopped)
	for _, rate := range []string{"-1", "x", "1.5", "100001", ""} {
		n.want(t, 400, nil, "POST", "/v1/cluster/verification?mib_per_second="+rate, "")
	}
	n.mu.Lock()
	n.verification = contract.Verification{Started: n.verification.Started, Ended: n.verification.Started, Problems: []string{"a row"}}
	n.mu.Unlock()
	wantStatus(200, "GET", "", wire.VerifyFailed)
	n.mu.Lock()
	n.verification.Problems = nil
	n.mu.Unlock()
	wantStatus(200, "GET", "", wire.VerifyOK)
	if v.Started == nil || v.Ended == nil {
		t.Errorf("%+v", v)
	}
}
