package httpapi

import (
	"context"
	"slices"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func (m *memory) Status(context.Context) (*contract.Status, error) {
	return &contract.Status{ClusterID: m.cluster, Leader: "n1", Term: 1, Nodes: []contract.NodeStatus{{ID: "n1", Role: contract.Leader, Reachable: true, Started: time.Unix(0, 0)}}}, nil
}

func (m *memory) Members() []contract.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.members)
}

func (m *memory) AddMember(_ context.Context, add contract.Member) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, err := m.find(add.ID); err == nil {
		if m.members[i].RaftAddr != add.RaftAddr {
			return &contract.MembershipError{Detail: "it is a member already"}
		}
		return nil
	}
	m.members = append(m.members, add)
	return nil
}

func (m *memory) find(id string) (int, error) {
	i := slices.IndexFunc(m.members, func(x contract.Member) bool { return x.ID == id })
	if i < 0 {
		return i, &contract.MembershipError{NotFound: true, Detail: "no such member"}
	}
	return i, nil
}

func (m *memory) RemoveMember(_ context.Context, id string, force bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.find(id)
	if err == nil && len(m.members) == 1 {
		err = &contract.MembershipError{Detail: "it is the last voter"}
	}
	if err == nil && m.noQuorum && !force {
		err = &contract.MembershipError{Detail: "no quorum would be left"}
	}
	if err == nil {
		m.members = slices.Delete(m.members, i, i+1)
	}
	return err
}

func (m *memory) PromoteMember(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.find(id)
	if err == nil {
		m.members[i].Voter = true
	}
	return err
}

func (m *memory) TransferLeadership(_ context.Context, to string) error {
	if m.transfer == nil {
		return &contract.MembershipError{Detail: "there is nobody to transfer to"}
	}
	return m.transfer(to)
}

func (m *memory) Diverged() error { return m.diverged }

// CheckState answers for n1 and n2, and marks nothing.
func (m *memory) CheckState(_ context.Context, mark bool) (*contract.StateReport, error) {
	if m.diverged != nil {
		return nil, m.diverged
	}
	at := contract.HashPoint{Index: m.index, Term: m.leader.Term, Hash: "0123456789abcdef0123456789abcdef"}
	if mark {
		at.Index++
	}
	return &contract.StateReport{Index: at.Index, Verdict: contract.StateAgreed, Nodes: []contract.NodeState{
		{ID: "n1", Voter: true, Reachable: true, Applied: at.Index, At: at, Verdict: contract.StateAgreed},
		{ID: "n2", Voter: true, Verdict: contract.StateUnchecked, Error: "it does not answer"},
	}}, nil
}

func (m *memory) StartVerification(bytesPerSecond int64) (contract.Verification, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.verification.Running {
		return m.verification, false, nil
	}
	m.verification = contract.Verification{Started: time.Unix(1, 0), Running: true, Bytes: bytesPerSecond}
	return m.verification, true, nil
}

func (m *memory) Verification() contract.Verification {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.verification
}

func (m *memory) StopVerification() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verification.Running, m.verification.Error = false, "context canceled"
}

func (m *memory) Snapshot(context.Context) (uint64, error) { return m.index, m.snapErr }
func (m *memory) Identity() wire.Identity {
	return wire.Identity{NodeID: "n1", ClusterID: m.cluster, RaftAddr: "127.0.0.1:7001", HTTPAddr: "http://127.0.0.1:1", Version: "test"}
}
