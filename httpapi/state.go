package httpapi

import (
	"net/http"
	"strconv"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// maxVerifyMiB bounds the rate that a verification may be given.
const (
	maxVerifyMiB     = 100_000
	defaultVerifyMiB = 64
)

// getConsistency compares the states where all nodes have marked them already.
func getConsistency(c *call) (*reply, error) { return c.consistencyReport(false) }

// checkConsistency has them marked anew, which writes one entry to the log.
func checkConsistency(c *call) (*reply, error) { return c.consistencyReport(true) }

func (c *call) consistencyReport(mark bool) (*reply, error) {
	report, err := c.s.admin.CheckState(c.ctx(), mark)
	if err != nil {
		return nil, err
	}
	out := wire.Consistency{Index: report.Index, Verdict: string(report.Verdict), Nodes: make([]wire.ConsistencyState, len(report.Nodes))}
	for i, n := range report.Nodes {
		out.Nodes[i] = wire.ConsistencyState{
			ID: n.ID, HTTPAddr: n.HTTPAddr, Voter: n.Voter, Reachable: n.Reachable, AppliedIndex: n.Applied,
			At: renderPoint(n.At), Verdict: string(n.Verdict), Diverged: n.Diverged, Error: n.Error,
		}
	}
	return &reply{status: 200, body: out}, nil
}

func renderPoint(p contract.HashPoint) *wire.HashPoint {
	if p.Index == 0 {
		return nil
	}
	return &wire.HashPoint{Index: p.Index, Term: p.Term, Hash: p.Hash}
}

func renderStateStatus(s *contract.StateStatus) wire.StateStatus {
	out := wire.StateStatus{Point: renderPoint(s.Point), ComparedIndex: s.Compared, Verdict: string(s.Verdict), Diverged: s.Diverged,
		Hash: wire.HashPoint{Index: s.Now.Index, Term: s.Now.Term, Hash: s.Now.Hash}}
	if out.Verdict == "" {
		out.Verdict = wire.StateUnchecked
	}
	return out
}

// startVerification acts on the node that was asked, as the two below do.
func startVerification(c *call) (*reply, error) {
	rate := int64(defaultVerifyMiB)
	if text, given := c.param(wire.ParamRate); given {
		var err error
		if rate, err = strconv.ParseInt(text, 10, 64); err != nil || rate < 0 || rate > maxVerifyMiB {
			return nil, badRequest(wire.CodeInvalidParameter, wire.ParamRate, "%s is MiB per second, 0 (no bound) to %d", wire.ParamRate, maxVerifyMiB)
		}
	}
	v, started, err := c.s.admin.StartVerification(rate << 20)
	if err != nil {
		return nil, err
	}
	status := http.StatusOK // one ran already
	if started {
		status = http.StatusAccepted
	}
	return &reply{status: status, body: c.s.renderVerification(v)}, nil
}

func getVerification(c *call) (*reply, error) {
	return &reply{status: 200, body: c.s.renderVerification(c.s.admin.Verification())}, nil
}

func stopVerification(c *call) (*reply, error) {
	c.s.admin.StopVerification()
	return &reply{status: 200, body: c.s.renderVerification(c.s.admin.Verification())}, nil
}

func (s *Server) renderVerification(v contract.Verification) wire.Verification {
	out := wire.Verification{Node: s.backend.NodeID(), Status: wire.VerifyOK, Rows: v.Rows, Bytes: v.Bytes, Index: v.Index, Term: v.Term,
		Stored: v.Stored, Computed: v.Computed, Problems: v.Problems, Error: v.Error}
	switch {
	case v.Running:
		out.Status = wire.VerifyRunning
	case v.Started.IsZero():
		out.Status = wire.VerifyNone
	case v.Error != "":
		out.Status = wire.VerifyStopped
	case len(v.Problems) > 0:
		out.Status = wire.VerifyFailed
	}
	if started := v.Started.UTC(); !v.Started.IsZero() {
		out.Started = &started
	}
	if ended := v.Ended.UTC(); !v.Ended.IsZero() {
		out.Ended = &ended
	}
	return out
}
