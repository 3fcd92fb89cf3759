package fsm

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/snippet"
)

// system holds the small rows that callers ask for without a read of
// storage. It is a value: what its slices hold is never changed in place,
// because published copies share it.
type system struct {
	clusterID string
	members   []*command.Member // by node id
	limits    []*command.RateLimit
	clockMs   int64
	tickTerm  uint64
}

// loadSystem reads the rows.
func loadSystem(v *storage.View) (system, error) {
	var sys system
	var rows [4][]byte
	for i, key := range []string{clusterKey, clockKey, tickKey, limitsKey} {
		var err error
		if rows[i], err = v.System(key); err != nil {
			return sys, fmt.Errorf("fsm: read row %q: %w", key, err)
		}
	}
	sys.clusterID = string(rows[0])
	clock, err := decodeNumber(clockKey, rows[1])
	if err != nil {
		return sys, err
	}
	sys.clockMs = int64(clock)
	if sys.tickTerm, err = decodeNumber(tickKey, rows[2]); err != nil {
		return sys, err
	}
	var limits command.SetLimits
	if err := proto.Unmarshal(rows[3], &limits); err != nil {
		return sys, fmt.Errorf("fsm: decode row %q: %w: %v", limitsKey, storage.ErrCorrupt, err)
	}
	sys.limits = limits.GetRateLimits()
	members, err := v.SystemPrefix(memberPrefix)
	if err != nil {
		return sys, fmt.Errorf("fsm: read members: %w", err)
	}
	for _, kv := range members {
		m := &command.Member{}
		if err := proto.Unmarshal(kv.Value, m); err != nil {
			return sys, fmt.Errorf("fsm: decode row %q: %w: %v", kv.Key, storage.ErrCorrupt, err)
		}
		sys.members = append(sys.members, m)
	}
	slices.SortFunc(sys.members, func(a, b *command.Member) int { return strings.Compare(a.GetNodeId(), b.GetNodeId()) })
	return sys, nil
}

// done is the result of a system command that was applied.
func done() *command.Result { return &command.Result{Outcome: command.Outcome_DONE} }

// tick notes the term of its entry. The command's own term and node are for
// people who read the log: what counts is the term in which it was committed.
func (x *execution) tick(*command.Command_Tick) (*command.Result, error) {
	failpoint.Hit(failpoint.ApplyTick)
	x.ticked = true
	if x.at.Term > x.sys.tickTerm {
		x.sys.tickTerm = x.at.Term
		x.b.PutSystem(tickKey, encodeNumber(x.at.Term))
	}
	return done(), nil
}

// initCluster names the cluster. The first name stays for ever.
func (x *execution) initCluster(op *command.Command_InitCluster) (*command.Result, error) {
	id := op.InitCluster.GetClusterId()
	if err := snippet.ValidateID("cluster_id", id); err != nil {
		return nil, invalid(err)
	}
	if x.sys.clusterID == "" {
		x.sys.clusterID = id
		x.b.PutSystem(clusterKey, []byte(id))
	}
	return done(), nil
}

// setMember records a node's addresses.
func (x *execution) setMember(op *command.Command_SetMember) (*command.Result, error) {
	m := op.SetMember.GetMember()
	if err := snippet.ValidateID("node_id", m.GetNodeId()); err != nil {
		return nil, invalid(err)
	}
	at, found := x.findMember(m.GetNodeId())
	if !found && len(x.sys.members) >= MaxMembers {
		return nil, refuse(command.Outcome_LIMIT_EXCEEDED, "a cluster has at most %d members: remove one first", MaxMembers)
	}
	value, err := deterministic.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("fsm: encode member %s: %w", m.GetNodeId(), err)
	}
	x.b.PutSystem(memberPrefix+m.GetNodeId(), value)
	members := slices.Clone(x.sys.members)
	if found {
		members[at] = m
	} else {
		members = slices.Insert(members, at, m)
	}
	x.sys.members = members
	return done(), nil
}

// removeMember forgets a node's addresses; that of an unknown one changes nothing.
func (x *execution) removeMember(op *command.Command_RemoveMember) (*command.Result, error) {
	id := op.RemoveMember.GetNodeId()
	if at, found := x.findMember(id); found {
		x.b.DeleteSystem(memberPrefix + id)
		x.sys.members = slices.Delete(slices.Clone(x.sys.members), at, at+1)
	}
	return done(), nil
}

func (x *execution) findMember(id string) (int, bool) {
	return slices.BinarySearchFunc(x.sys.members, id, func(m *command.Member, id string) int {
		return strings.Compare(m.GetNodeId(), id)
	})
}

// setLimits replaces the run-time limits.
func (x *execution) setLimits(op *command.Command_SetLimits) (*command.Result, error) {
	limits := op.SetLimits.GetRateLimits()
	if len(limits) > MaxRateLimits {
		return nil, refuse(command.Outcome_LIMIT_EXCEEDED, "a cluster has at most %d rate limits, these are %d", MaxRateLimits, len(limits))
	}
	for i, l := range limits {
		scope := l.GetScope() == "collection" || l.GetScope() == "token"
		if !scope || l.GetName() == "" || !(l.GetWritesPerSecond() > 0) || l.GetBurst() < 1 { // NaN is not > 0
			return nil, refuse(command.Outcome_INVALID, "rate limit %d needs a scope (collection or token), a name, writes per second above 0 and a burst of 1 or more", i)
		}
	}
	value, err := deterministic.Marshal(op.SetLimits)
	if err != nil {
		return nil, fmt.Errorf("fsm: encode limits: %w", err)
	}
	x.b.PutSystem(limitsKey, value)
	x.sys.limits = limits
	return done(), nil
}
