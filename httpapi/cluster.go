package httpapi

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

const (
	// maxRateLimits bounds the rules of /v1/cluster/limits.
	maxRateLimits = 1_000
	// maxNodeBytes bounds a node's id and its addresses.
	maxNodeBytes = 256
	// transferPoll is how often the new leader is looked for.
	transferPoll = 10 * time.Millisecond
)

func getIdentity(c *call) (*reply, error) {
	return &reply{status: 200, body: c.s.admin.Identity()}, nil
}

func getStatus(c *call) (*reply, error) {
	status, err := c.s.admin.Status(c.ctx())
	if err != nil {
		return nil, err
	}
	return &reply{status: 200, body: renderStatus(status)}, nil
}

func getMembers(c *call) (*reply, error) {
	leader := c.s.backend.Leader().ID
	list := wire.MemberList{Items: []wire.Member{}}
	for _, m := range c.s.admin.Members() {
		list.Items = append(list.Items, renderMember(m, leader))
	}
	return &reply{status: 200, body: list}, nil
}

func renderMember(m contract.Member, leader string) wire.Member {
	return wire.Member{
		ID: m.ID, RaftAddr: m.RaftAddr, HTTPAddr: m.HTTPAddr, Voter: m.Voter, Learner: m.Learner,
		Leader: m.ID == leader, Version: m.Version,
	}
}

func addMember(c *call, body []byte) (*reply, error) {
	var in wire.MemberInput
	if err := decodeJSON(body, &in); err != nil {
		return nil, err
	}
	if err := nodeText("id", in.ID); err != nil {
		return nil, err
	}
	if err := nodeText("raft", in.RaftAddr); err != nil {
		return nil, err
	}
	if in.HTTPAddr != "" {
		if u, err := url.Parse(in.HTTPAddr); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len(in.HTTPAddr) > maxNodeBytes {
			return nil, badRequest(wire.CodeInvalidField, "http", "http must be a base URL, for example http://10.0.0.4:8001")
		}
	}
	status := http.StatusCreated
	if _, known := c.member(in.ID); known {
		status = http.StatusOK // AddMember refuses it, unless there is nothing to change
	}
	m := contract.Member{ID: in.ID, RaftAddr: in.RaftAddr, HTTPAddr: in.HTTPAddr, Learner: in.Learner}
	if err := c.s.admin.AddMember(c.ctx(), m); err != nil {
		return nil, err
	}
	if now, known := c.member(in.ID); known {
		m = now
	}
	return &reply{status: status, body: renderMember(m, c.s.backend.Leader().ID)}, nil
}

// member returns a member as this node knows it.
func (c *call) member(id string) (contract.Member, bool) {
	members := c.s.admin.Members()
	i := slices.IndexFunc(members, func(m contract.Member) bool { return m.ID == id })
	if i < 0 {
		return contract.Member{}, false
	}
	return members[i], true
}

// nodeText checks a node's id or address.
func nodeText(field, text string) error {
	if text == "" || len(text) > maxNodeBytes || !visible(text) {
		return badRequest(wire.CodeInvalidField, field, "%s must have 1 to %d visible ASCII characters", field, maxNodeBytes)
	}
	return nil
}

// nodeID returns the node of the path, checked.
func (c *call) nodeID() (string, error) {
	id, err := c.pathValue("node")
	if err != nil {
		return "", err
	}
	if len(id) > maxNodeBytes || !visible(id) {
		return "", badRequest(wire.CodeInvalidParameter, "node", "a node's id has 1 to %d visible ASCII characters", maxNodeBytes)
	}
	return id, nil
}

func removeMember(c *call, _ []byte) (*reply, error) {
	id, err := c.nodeID()
	if err != nil {
		return nil, err
	}
	force, err := c.flag(wire.ParamForce)
	if err != nil {
		return nil, err
	}
	if err := c.s.admin.RemoveMember(c.ctx(), id, force); err != nil {
		return nil, err
	}
	return &reply{status: http.StatusNoContent}, nil
}

func promoteMember(c *call, _ []byte) (*reply, error) {
	id, err := c.nodeID()
	if err != nil {
		return nil, err
	}
	if err := c.s.admin.PromoteMember(c.ctx(), id); err != nil {
		return nil, err
	}
	return &reply{status: http.StatusNoContent}, nil
}

func transferLeader(c *call, body []byte) (*reply, error) {
	var in wire.TransferInput
	if len(body) > 0 {
		if err := decodeJSON(body, &in); err != nil {
			return nil, err
		}
	}
	if in.To != "" {
		if err := nodeText("to", in.To); err != nil {
			return nil, err
		}
	}
	before := c.s.backend.Leader().Term
	if err := c.s.admin.TransferLeadership(c.ctx(), in.To); err != nil {
		return nil, err
	}
	leader, err := c.s.newLeader(c.ctx(), in.To, before)
	if err != nil {
		return nil, err
	}
	return &reply{status: 200, body: wire.TransferResult{Leader: leader}}, nil
}

// newLeader waits until this node knows who leads after a transfer that began
// in the term before. That the old leader stepped down does not say who comes
// next: any voter may win the election, the old leader too.
func (s *Server) newLeader(ctx context.Context, to string, before uint64) (string, error) {
	ticker := time.NewTicker(transferPoll)
	defer ticker.Stop()
	for {
		leader := s.backend.Leader()
		switch {
		case leader.ID == "":
		case leader.ID == to, to == "" && !leader.Self:
			return leader.ID, nil
		case leader.Term > before && leader == s.backend.Leader():
			// Seen twice, because id and term are not read as one: a leader that
			// has just left could show up in the term of the next one.
			return "", lostTransfer(leader, to)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return "", &requestError{
				code:   wire.CodeOutcomeUnknown,
				detail: "the leadership was handed over, and no new leader was known before the deadline; see /v1/cluster/status",
			}
		}
	}
}

// lostTransfer is the error of a transfer after which another node leads.
func lostTransfer(leader contract.LeaderInfo, to string) error {
	e := &requestError{code: wire.CodeMembership, leader: leader.HTTPAddr}
	if to == "" {
		e.detail = fmt.Sprintf("no other voter was elected: %s leads again, in term %d", leader.ID, leader.Term)
	} else {
		e.detail = fmt.Sprintf("%s was not elected: %s leads, in term %d", to, leader.ID, leader.Term)
	}
	return e
}

// takeSnapshot acts on the node that was asked: each node has its own.
func takeSnapshot(c *call) (*reply, error) {
	index, err := c.s.admin.Snapshot(c.ctx())
	if err != nil {
		return nil, err
	}
	return &reply{status: 200, body: wire.SnapshotResult{Index: index, Node: c.s.backend.NodeID()}}, nil
}

// getLimits shows the limits that this node applies; the gate of a read has
// been passed, so that a reader who asks for it sees the limits just set.
func getLimits(c *call, _ View) (*reply, error) {
	return &reply{status: 200, body: renderLimits(c.s.backend.Limits())}, nil
}

func renderLimits(rules []*command.RateLimit) wire.Limits {
	out := wire.Limits{RateLimits: []wire.RateLimit{}}
	for _, r := range rules {
		out.RateLimits = append(out.RateLimits, wire.RateLimit{
			Scope: r.GetScope(), Name: r.GetName(), WritesPerSecond: r.GetWritesPerSecond(), Burst: int(r.GetBurst()),
		})
	}
	return out
}

func putLimits(_ *call, body []byte) (*write, error) {
	// A forgotten list must not be an empty one, which lifts all limits.
	var in struct {
		RateLimits *[]wire.RateLimit `json:"rate_limits"`
	}
	if err := decodeJSON(body, &in); err != nil {
		return nil, err
	}
	if in.RateLimits == nil {
		return nil, badRequest(wire.CodeInvalidField, "rate_limits", "rate_limits is missing; an empty list lifts all limits")
	}
	if len(*in.RateLimits) > maxRateLimits {
		return nil, badRequest(wire.CodeInvalidField, "rate_limits", "there may be %d rate limits, these are %d", maxRateLimits, len(*in.RateLimits))
	}
	set := &command.SetLimits{}
	var seen []limitKey
	for i, r := range *in.RateLimits {
		if err := checkRateLimit(fmt.Sprintf("rate_limits[%d].", i), r); err != nil {
			return nil, err
		}
		key := limitKey{r.Scope, r.Name}
		if slices.Contains(seen, key) {
			return nil, badRequest(wire.CodeInvalidField, fmt.Sprintf("rate_limits[%d].name", i), "there is already a limit for %s %q", r.Scope, r.Name)
		}
		seen = append(seen, key)
		set.RateLimits = append(set.RateLimits, &command.RateLimit{
			Scope: r.Scope, Name: r.Name, WritesPerSecond: r.WritesPerSecond, Burst: uint32(r.Burst),
		})
	}
	return &write{
		command: &command.Command{Op: &command.Command_SetLimits{SetLimits: set}},
		reply:   func(*command.Result) *reply { return &reply{status: 200, body: renderLimits(set.GetRateLimits())} },
	}, nil
}

func checkRateLimit(path string, r wire.RateLimit) error {
	if r.Scope != scopeCollection && r.Scope != scopeToken {
		return badRequest(wire.CodeInvalidField, path+"scope", "%sscope must be collection or token", path)
	}
	switch {
	case r.Name == eachOne:
	case r.Scope == scopeCollection:
		if err := snippet.ValidateName(path+"name", r.Name); err != nil {
			return err
		}
	case r.Name == "" || len(r.Name) > maxKeyBytes || !visible(r.Name) || strings.Contains(r.Name, "."):
		return badRequest(wire.CodeInvalidField, path+"name", "%sname must be the id of a token, 1 to %d visible ASCII characters without a dot", path, maxKeyBytes)
	}
	if r.WritesPerSecond <= 0 || r.WritesPerSecond > math.MaxInt32 {
		return badRequest(wire.CodeInvalidField, path+"writes_per_second", "%swrites_per_second must be above 0 and at most %d", path, math.MaxInt32)
	}
	if r.Burst < 1 || r.Burst > math.MaxInt32 {
		return badRequest(wire.CodeInvalidField, path+"burst", "%sburst must be 1 to %d", path, math.MaxInt32)
	}
	return nil
}

func renderStatus(s *contract.Status) wire.Status {
	out := wire.Status{ClusterID: s.ClusterID, Leader: s.Leader, Term: s.Term, Nodes: make([]wire.NodeStatus, len(s.Nodes))}
	for i := range s.Nodes {
		out.Nodes[i] = renderNode(&s.Nodes[i])
	}
	return out
}

func renderNode(n *contract.NodeStatus) wire.NodeStatus {
	out := wire.NodeStatus{
		ID: n.ID, HTTPAddr: n.HTTPAddr, RaftAddr: n.RaftAddr, Role: string(n.Role), Voter: n.Voter, Reachable: n.Reachable,
		Term: n.Term, Leader: n.Leader, AppliedIndex: n.AppliedIndex, CommitIndex: n.CommitIndex, Lag: n.Lag,
		FirstLogIndex: n.FirstLogIndex, LastLogIndex: n.LastLogIndex, LogBytes: n.LogBytes, DBBytes: n.DBBytes,
		SnapshotIndex: n.SnapshotIndex, SnapshotAge: n.SnapshotAge.Seconds(), Version: n.Version, Started: n.Started.UTC(),
		Restoring: n.Restoring, DiskFreeBytes: n.DiskFreeBytes, ClockMs: n.ClockMs, State: renderStateStatus(&n.State), Errors: n.Errors,
		Storage: wire.StorageStatus{
			Stall: n.Storage.Stall, L0Files: n.Storage.L0Files, MemtableBytes: n.Storage.MemtableBytes,
			BlockCacheBytes: n.Storage.BlockCacheBytes, PendingBytes: n.Storage.PendingBytes, BlobBytes: n.Storage.BlobBytes,
			LiveSSTBytes: n.Storage.LiveSSTBytes, BackgroundErrors: n.Storage.BackgroundErrors,
		},
	}
	out.DiskLeftBytes, out.DiskLowBytes = n.DiskLeftBytes, n.DiskLowBytes
	for _, reason := range n.Refusing {
		out.Refusing = append(out.Refusing, string(reason))
	}
	if out.Errors == nil {
		out.Errors = []string{}
	}
	if out.Role == "" {
		out.Role = string(contract.Unknown)
	}
	if out.Storage.Stall == "" {
		out.Storage.Stall = "none"
	}
	if len(n.Storage.Options) > 0 {
		out.Storage.Options = make(map[string]wire.OptionValue, len(n.Storage.Options))
		for name, v := range n.Storage.Options {
			out.Storage.Options[name] = wire.OptionValue{Value: v.Value, Source: v.Source}
		}
	}
	return out
}
