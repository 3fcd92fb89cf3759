package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

// machine is a state machine in memory: documents with the index of their
// last change. It outlives its node, as RocksDB's files would.
type machine struct {
	mu        sync.Mutex
	changed   *sync.Cond
	s         machineState
	restoring bool
	restores  int
	hold      chan struct{}       // Apply waits while it is not nil and not closed
	conflicts []string            // two changes of a document in one entry
	entries   map[uint64][]string // index -> documents of the entry
}

type machineState struct {
	Index, Term uint64
	Cluster     string
	Clock       int64
	TickTerm    uint64
	Members     map[string]*command.Member
	Docs        map[string]uint64
	Titles      map[string]string
	Changes     int
	// Wrong makes the state another one; Points are its hashes at the Ticks.
	Wrong  string
	Points []contract.HashPoint
}

func newMachine() *machine {
	m := &machine{entries: map[uint64][]string{}}
	m.changed = sync.NewCond(&m.mu)
	m.s.Members, m.s.Docs, m.s.Titles = map[string]*command.Member{}, map[string]uint64{}, map[string]string{}
	return m
}

func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		<-hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Index <= m.s.Index {
			continue
		}
		if l.Type == raft.LogCommand {
			e, err := command.Decode(l.Data)
			if err != nil {
				panic(err)
			}
			results := []*command.Result{}
			for _, c := range e.GetCommands() {
				results = append(results, m.execute(l, c))
			}
			out[i] = results
			m.s.Index, m.s.Term = l.Index, l.Term
			for _, c := range e.GetCommands() {
				if c.GetTick() != nil {
					m.s.Points = append(m.s.Points, m.hashLocked())
				}
			}
		}
		m.s.Index, m.s.Term = l.Index, l.Term
	}
	m.changed.Broadcast()
	return out
}

func (m *machine) execute(l *raft.Log, c *command.Command) *command.Result {
	m.s.Clock = max(m.s.Clock, c.GetProposedMs())
	res := &command.Result{Outcome: command.Outcome_DONE, Index: l.Index, Term: l.Term}
	switch op := c.GetOp().(type) {
	case *command.Command_InitCluster:
		if m.s.Cluster == "" {
			m.s.Cluster = op.InitCluster.GetClusterId()
		}
	case *command.Command_Tick:
		m.s.TickTerm = max(m.s.TickTerm, op.Tick.GetTerm())
	case *command.Command_SetMember:
		m.s.Members[op.SetMember.GetMember().GetNodeId()] = op.SetMember.GetMember()
	case *command.Command_RemoveMember:
		delete(m.s.Members, op.RemoveMember.GetNodeId())
	case *command.Command_Mutation:
		d := op.Mutation.GetPutDocument()
		if m.s.Docs[d.GetId()] == l.Index {
			m.conflicts = append(m.conflicts, fmt.Sprintf("%s twice at %d", d.GetId(), l.Index))
		}
		m.s.Docs[d.GetId()], m.s.Titles[d.GetId()] = l.Index, d.GetTitle()
		m.s.Changes++
		m.entries[l.Index] = append(m.entries[l.Index], d.GetId())
		res.Outcome = command.Outcome_UPDATED
		res.Document = &command.ResultDocument{Id: d.GetId(), Revision: l.Index}
	}
	return res
}

func (m *machine) hashLocked() contract.HashPoint {
	return contract.HashPoint{Index: m.s.Index, Term: m.s.Term, Hash: fmt.Sprintf("%d changes %s", m.s.Changes, m.s.Wrong)}
}

// stateHash is Parts.StateHash.
func (m *machine) stateHash() (int, contract.HashPoint, []contract.HashPoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return 1, m.hashLocked(), slices.Clone(m.s.Points)
}

// diverge makes the state another one from now on.
func (m *machine) diverge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.s.Wrong = "and one that nobody made"
}

type machineSnapshot []byte

func (s machineSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}
func (s machineSnapshot) Release() {}

func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := json.Marshal(m.s)
	return machineSnapshot(b), err
}

func (m *machine) Restore(rc io.ReadCloser) error {
	m.mu.Lock()
	m.restoring = true
	m.mu.Unlock()
	var s machineState
	err := json.NewDecoder(rc).Decode(&s)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.s = s
	}
	m.restoring, m.restores = false, m.restores+1
	m.changed.Broadcast()
	return err
}

func (m *machine) Applied() (uint64, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.s.Index, m.s.Term
}

func (m *machine) WaitApplied(ctx context.Context, index uint64) error {
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.changed.Broadcast()
	})
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.s.Index < index {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.changed.Wait()
	}
	return nil
}

func (m *machine) get(f func(s *machineState)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.s)
}

func (m *machine) ClusterID() (id string) {
	m.get(func(s *machineState) { id = s.Cluster })
	return id
}

func (m *machine) ClockMs() (ms int64) {
	m.get(func(s *machineState) { ms = s.Clock })
	return ms
}

func (m *machine) TickTerm() (t uint64) {
	m.get(func(s *machineState) { t = s.TickTerm })
	return t
}

func (m *machine) Members() (out []*command.Member) {
	m.get(func(s *machineState) { out = slices.Collect(maps.Values(s.Members)) })
	return out
}

func (m *machine) Restoring() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restoring
}

func (m *machine) title(id string) (t string) {
	m.get(func(s *machineState) { t = s.Titles[id] })
	return t
}

// setHold makes Apply wait until the returned function is called.
func (m *machine) setHold() (release func()) {
	ch := make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hold = ch
	return sync.OnceFunc(func() {
		m.mu.Lock()
		m.hold = nil
		m.mu.Unlock()
		close(ch)
	})
}

// put is a command that sets a document's title.
func put(id, title string) *command.Command {
	return &command.Command{Op: &command.Command_Mutation{Mutation: &command.Mutation{Collection: "c",
		Op: &command.Mutation_PutDocument{PutDocument: &command.PutDocument{Id: id, Title: title}}}}}
}
