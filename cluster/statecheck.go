package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
)

// The state check: every node compares the hash of its state with the others',
// at the indexes that all of them have marked, and stops serving if a majority
// of the voters has another one.

const (
	// stateCheckStep is the pause while a state is disputed or this node has
	// diverged; else it is Options.StateCheck.
	stateCheckStep = time.Second
	// divergedPatience is by how much a diverged voter waits longer before it
	// stands for election. If it wins all the same, its heartbeats come every
	// tenth to fifth of its own timeout, which must stay below the others'.
	divergedPatience = 4
)

// divergence is why a node serves nothing. It is in identity.json, so that a
// restart changes nothing: only an empty directory does.
type divergence struct {
	Index  uint64    `json:"index"`
	Term   uint64    `json:"term"`
	Hash   string    `json:"hash"`
	Others string    `json:"others"` // the majority's hash, with its term
	Found  time.Time `json:"found"`
}

func (d *divergence) String() string {
	return fmt.Sprintf("after entry %d (term %d) its state has the hash %s, that of a majority of the voters is %s, found %s;"+
		" stop it, empty its data directory and start it again: it joins and gets the state from the leader",
		d.Index, d.Term, d.Hash, d.Others, d.Found.UTC().Format(time.RFC3339))
}

// stateCheck is what this node knows of its state against the others'.
type stateCheck struct {
	// diverged is set once and never cleared.
	diverged atomic.Pointer[divergence]

	mu       sync.Mutex // guards what follows; a leaf
	settled  uint64     // newest index at which this node agreed with a majority
	compared uint64     // comparisons with an outcome
	disputed uint64     // newest index without a majority, 0 if the last look found none
	others   []string   // other members that differ from a majority
	told     string     // what was last said in the log
}

// Diverged returns nil, or ErrDiverged wrapped with why and what to do.
func (n *Node) Diverged() error {
	if d := n.state.diverged.Load(); d != nil {
		return fmt.Errorf("%w: %s", contract.ErrDiverged, d)
	}
	return nil
}

// hashReport is what one member says of its state.
type hashReport struct {
	id     string
	voter  bool
	points []contract.HashPoint
}

func (r *hashReport) at(index uint64) (contract.HashPoint, bool) {
	i, found := slices.BinarySearchFunc(r.points, index, func(p contract.HashPoint, index uint64) int { return cmp.Compare(p.Index, index) })
	if !found {
		return contract.HashPoint{}, false
	}
	return r.points[i], true
}

// judge compares the members at one index. A node has diverged if a majority
// of all voters, not only of those that answer, has one state, and the node
// another (invariant D1): with fewer, those who are silent might side with it,
// and a node that is stopped wrongly may be the one that the quorum needs.
func judge(index uint64, reports []hashReport, voters int) (verdicts map[string]contract.StateVerdict, majority contract.HashPoint) {
	votes := map[contract.HashPoint]int{}
	all := map[contract.HashPoint]bool{}
	for i := range reports {
		if p, ok := reports[i].at(index); ok {
			all[p] = true
			if reports[i].voter {
				votes[p]++
			}
		}
	}
	for p, n := range votes {
		if 2*n > voters {
			majority = p
		}
	}
	verdicts = map[string]contract.StateVerdict{}
	for i := range reports {
		p, ok := reports[i].at(index)
		v := contract.StateUnchecked
		switch {
		case !ok:
		case majority.Index != 0 && p == majority:
			v = contract.StateAgreed
		case majority.Index != 0:
			v = contract.StateDiverged
		case len(all) > 1:
			v = contract.StateDisputed
		}
		verdicts[reports[i].id] = v
	}
	return verdicts, majority
}

// watchState compares, for as long as the node runs.
func (n *Node) watchState(ctx context.Context) {
	if n.p.StateHash == nil {
		return
	}
	pause := n.o.StateCheck
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		pause = n.o.StateCheck
		if n.raft.Load() != nil {
			if n.compareState(ctx) {
				pause = min(pause, stateCheckStep)
			}
			if n.state.diverged.Load() != nil {
				n.standBack(ctx)
				pause = min(pause, stateCheckStep)
			}
		}
		t.Reset(pause)
	}
}

// compareState asks all members and judges every point that this node has and
// that is not settled yet. It returns true if it should look again soon.
func (n *Node) compareState(ctx context.Context) (again bool) {
	reports, voters := n.collectState(ctx)
	if len(reports) < 2 {
		return false
	}
	mine := reports[0]
	n.state.mu.Lock()
	settled := n.state.settled
	n.state.mu.Unlock()
	var disputed uint64
	compared := uint64(0)
	var others []string
	for _, p := range mine.points {
		if p.Index <= settled {
			continue
		}
		verdicts, majority := judge(p.Index, reports, voters)
		others = differing(verdicts, mine.id, others)
		switch verdicts[mine.id] {
		case contract.StateAgreed:
			settled, disputed = p.Index, 0
			compared++
		case contract.StateDisputed:
			disputed = p.Index
			compared++
		case contract.StateDiverged:
			compared++
			n.diverge(p, majority)
		}
	}
	n.state.mu.Lock()
	n.state.settled, n.state.disputed = settled, disputed
	n.state.compared += compared
	if compared > 0 {
		n.state.others = others
	}
	n.state.mu.Unlock()
	n.sayState(disputed, others)
	return disputed != 0
}

// differing adds the other nodes that have diverged.
func differing(verdicts map[string]contract.StateVerdict, self string, to []string) []string {
	for id, v := range verdicts {
		if id != self && v == contract.StateDiverged && !slices.Contains(to, id) {
			to = append(to, id)
		}
	}
	slices.Sort(to)
	return to
}

// sayState logs what has changed.
func (n *Node) sayState(disputed uint64, others []string) {
	text := ""
	if disputed != 0 {
		text = "disputed"
	}
	text += fmt.Sprint(others)
	n.state.mu.Lock()
	before := n.state.told
	n.state.told = text
	n.state.mu.Unlock()
	if text == before {
		return
	}
	if disputed != 0 {
		n.log.Error("the states of the nodes differ, and no state has a majority of the voters: no node is stopped;"+
			" run snipctl check consistency --deep, and empty the directory of the node that fails it", "index", disputed)
	}
	if len(others) > 0 {
		n.log.Error("nodes have another state than the majority of the voters; they stop serving by themselves", "nodes", others)
	}
}

// diverge stops this node from serving, for ever (invariant D2).
func (n *Node) diverge(mine, majority contract.HashPoint) {
	if n.state.diverged.Load() != nil {
		return
	}
	d := &divergence{Index: mine.Index, Term: mine.Term, Hash: mine.Hash, Found: n.o.Now(),
		Others: fmt.Sprintf("%s (term %d)", majority.Hash, majority.Term)}
	// First in memory: if the disk fails, the node must not serve all the same.
	n.state.diverged.Store(d)
	n.log.Error("this node has diverged and serves nothing from now on", "why", d.String())
	if err := n.identity.update(func(r *identityRecord) { r.Diverged = d }); err != nil {
		n.log.Error("the mark of the divergence could not be written: after a restart it will be found again", "error", err)
	}
}

// standBack gives the leadership away, and makes this node the last to stand
// for election. It goes on as a voter: its log is right, and the others may
// need its vote and its copy of the log; only its state is wrong.
func (n *Node) standBack(ctx context.Context) {
	r := n.raft.Load()
	if r.ReloadableConfig().HeartbeatTimeout < divergedPatience*n.o.HeartbeatTimeout {
		if err := n.reload(r, func(c *raft.ReloadableConfig) {
			c.HeartbeatTimeout, c.ElectionTimeout = divergedPatience*n.o.HeartbeatTimeout, divergedPatience*n.o.ElectionTimeout
		}); err != nil {
			n.log.Warn("the election timeout of a diverged node could not be raised", "error", err)
		}
	}
	if r.State() != raft.Leader || n.otherVoters(r) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.o.ElectionTimeout)
	defer cancel()
	if err := n.transfer(ctx, r, ""); err != nil {
		n.log.Warn("a diverged leader could not hand over; it tries again", "error", err)
	}
}

// collectState asks all members for their points; this node's are the first.
// Who does not answer, or hashes in another way, is left out.
func (n *Node) collectState(ctx context.Context) (reports []hashReport, voters int) {
	answers := n.askState(ctx)
	for _, a := range answers {
		if a.voter {
			voters++
		}
		if a.err == nil {
			reports = append(reports, hashReport{id: a.id, voter: a.voter, points: a.resp.Points})
		}
	}
	return reports, voters
}

// stateAnswer is one member's answer.
type stateAnswer struct {
	id, raftAddr string
	voter        bool
	resp         stateResponse
	err          error
}

// errScheme is a node whose hashes mean something else.
var errScheme = errors.New("it runs a release that computes the hash in another way")

// askState asks all members at once; this node's answer is the first.
func (n *Node) askState(ctx context.Context) []stateAnswer {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	own := n.ownState()
	r := n.raft.Load()
	answers := []stateAnswer{{id: n.o.NodeID, raftAddr: n.mux.addr(), resp: *own}}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if string(s.ID) == n.o.NodeID {
			answers[0].voter = s.Suffrage == raft.Voter
			continue
		}
		answers = append(answers, stateAnswer{id: string(s.ID), raftAddr: string(s.Address), voter: s.Suffrage == raft.Voter})
	}
	var wg sync.WaitGroup
	for i := range answers[1:] {
		a := &answers[i+1]
		wg.Go(func() {
			a.err = n.peers.call(ctx, a.raftAddr, a.id, routeState, &empty{}, &a.resp)
			if a.err == nil && a.resp.Scheme != own.Scheme {
				a.err = errScheme
			}
		})
	}
	wg.Wait()
	return answers
}

// ownState is this node's answer.
func (n *Node) ownState() *stateResponse {
	resp := &stateResponse{}
	if n.p.StateHash == nil {
		return resp
	}
	resp.Scheme, resp.Now, resp.Points = n.p.StateHash()
	if d := n.state.diverged.Load(); d != nil {
		resp.Diverged = d.String()
	}
	return resp
}

func (n *Node) onState(context.Context, string, *empty) (*stateResponse, error) {
	return n.ownState(), nil
}

// onMark is the leader's: it makes all nodes mark their state once more.
func (n *Node) onMark(ctx context.Context, _ string, _ *empty) (*markResponse, error) {
	r := n.raft.Load()
	if r == nil || r.State() != raft.Leader {
		return nil, contract.ErrNoLeader
	}
	result, err := n.propose(ctx, &command.Command{Op: &command.Command_Tick{
		Tick: &command.Tick{NodeId: n.o.NodeID, Term: r.CurrentTerm()}}}, true)
	if err != nil {
		return nil, err
	}
	return &markResponse{Index: result.GetIndex()}, nil
}

// markState asks the leader for a mark.
func (n *Node) markState(ctx context.Context) (uint64, error) {
	r := n.raft.Load()
	if r == nil {
		return 0, n.notRunning()
	}
	addr, id := r.LeaderWithID()
	var resp *markResponse
	var err error
	switch {
	case id == "":
		return 0, contract.ErrNoLeader
	case string(id) == n.o.NodeID:
		resp, err = n.onMark(ctx, "", nil)
	default:
		resp = new(markResponse)
		err = fromPeer(n.peers.call(ctx, string(addr), string(id), routeMark, &empty{}, resp))
	}
	if err != nil {
		return 0, err
	}
	return resp.Index, nil
}

// markWait is how long a check waits until all nodes that answer have applied
// the mark, and markPoll how often it looks.
const (
	markWait = 3 * time.Second
	markPoll = 50 * time.Millisecond
)

// CheckState compares the states of all members now. With mark, the leader
// first writes an entry at which all nodes mark their state, and the check
// waits for those that answer; without, or if there is no leader, it compares
// at the newest point that all have. Errors: ErrNotReady, ErrShutdown.
func (n *Node) CheckState(ctx context.Context, mark bool) (*contract.StateReport, error) {
	if n.raft.Load() == nil || n.p.StateHash == nil {
		return nil, n.notRunning()
	}
	if mark {
		// The questions are bounded by themselves: a mark that took all its time
		// must not leave them without any, or all others would seem unreachable.
		marked, cancel := context.WithTimeout(ctx, markWait)
		defer cancel()
		want, err := n.markState(marked)
		if err != nil && !errors.Is(err, contract.ErrNoLeader) {
			n.log.Debug("no mark for a check of the state", "error", err)
		}
		for err == nil {
			answers := n.askState(ctx)
			if newestCommon(answers) >= want || !pauseFor(marked, markPoll) {
				return n.reportState(answers), nil
			}
		}
	}
	return n.reportState(n.askState(ctx)), nil
}

// pauseFor waits, and returns false if the context ended.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// newestCommon is the newest index that all who answered have a point at.
func newestCommon(answers []stateAnswer) uint64 {
	count, nodes, best := map[uint64]int{}, 0, uint64(0)
	for i := range answers {
		if answers[i].err != nil {
			continue
		}
		nodes++
		for _, p := range answers[i].resp.Points {
			count[p.Index]++
		}
	}
	for index, n := range count {
		if n == nodes {
			best = max(best, index)
		}
	}
	return best
}

func (n *Node) reportState(answers []stateAnswer) *contract.StateReport {
	out := &contract.StateReport{Index: newestCommon(answers), Verdict: contract.StateUnchecked}
	var reports []hashReport
	voters := 0
	for _, a := range answers {
		if a.voter {
			voters++
		}
		if a.err == nil {
			reports = append(reports, hashReport{id: a.id, voter: a.voter, points: a.resp.Points})
		}
	}
	verdicts, majority := judge(out.Index, reports, voters)
	if majority.Index != 0 {
		out.Verdict = contract.StateAgreed
	}
	for i, a := range answers {
		s := contract.NodeState{ID: a.id, Voter: a.voter, Reachable: a.err == nil, Applied: a.resp.Now.Index,
			Verdict: contract.StateUnchecked, Diverged: a.resp.Diverged}
		if row := n.memberRow(a.id); row != nil {
			s.HTTPAddr = row.GetHttpAddr()
		}
		if a.err != nil {
			s.Error = a.err.Error()
		} else {
			s.Verdict = verdicts[a.id]
			report := hashReport{points: answers[i].resp.Points}
			s.At, _ = report.at(out.Index)
		}
		// Who has stopped stays so, even if its state has become right again.
		if s.Diverged != "" {
			s.Verdict = contract.StateDiverged
		}
		if s.Verdict == contract.StateDiverged || s.Verdict == contract.StateDisputed && out.Verdict != contract.StateDiverged {
			out.Verdict = s.Verdict
		}
		out.Nodes = append(out.Nodes, s)
	}
	slices.SortFunc(out.Nodes, func(a, b contract.NodeState) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// stateStatus is what the status says of the state's hash.
func (n *Node) stateStatus() contract.StateStatus {
	s := contract.StateStatus{Verdict: contract.StateUnchecked}
	if n.p.StateHash != nil {
		var points []contract.HashPoint
		if _, s.Now, points = n.p.StateHash(); len(points) > 0 {
			s.Point = points[len(points)-1]
		}
	}
	n.state.mu.Lock()
	defer n.state.mu.Unlock()
	s.Compared = n.state.settled
	switch d := n.state.diverged.Load(); {
	case d != nil:
		s.Verdict, s.Diverged = contract.StateDiverged, d.String()
	case n.state.disputed != 0:
		s.Verdict = contract.StateDisputed
	case n.state.settled != 0:
		s.Verdict = contract.StateAgreed
	}
	return s
}

// guardedSnapshots keeps a diverged leader from sending its state to a
// follower. All else goes through: a follower reads what it received by Open,
// and a leader only what it sends.
type guardedSnapshots struct {
	raft.SnapshotStore
	n *Node
}

func (g guardedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if r := g.n.raft.Load(); r != nil && r.State() == raft.Leader {
		if err := g.n.Diverged(); err != nil {
			return nil, nil, fmt.Errorf("cluster: send snapshot %s: %w", id, err)
		}
	}
	return g.SnapshotStore.Open(id)
}
