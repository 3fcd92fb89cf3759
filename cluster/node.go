package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/storage/failpoint"
)

// Limits that no operator needs to turn.
const (
	// maxAppendEntries bounds one AppendEntries call and one batch of the
	// state machine: 32 entries of 512 KiB are 16 MiB.
	maxAppendEntries = 32
	// logCacheEntries stay in memory for followers that are near: 64 MiB at most.
	logCacheEntries = 128
	// enqueueTimeout is how long the hand-over to Raft's main loop may take. It
	// is long: the loop waits for an fsync at times.
	enqueueTimeout = 5 * time.Second
	// closeDrain is how long Close waits for the writes on their way.
	closeDrain = 2 * time.Second
	// neverSnapshot switches the library's own schedule off: it counts entries.
	neverSnapshot = 1 << 62
)

// Node is one member of a cluster, or on its way to become one. All methods
// may be called at any time from any goroutine.
type Node struct {
	o   Options
	p   Parts
	log *slog.Logger
	met *metrics

	identity *identity
	mux      *mux
	server   *peerServer
	peers    *peerClient
	logs     *logStore
	stable   *stableStore
	gates    *gates
	props    *proposer
	reads    *readGate
	installs *installWatch

	// raft is nil until this node may take part: a new node that has not been
	// taken in by a leader, or claimed for a new cluster, refuses Raft's
	// connections, so that a node whose data was wiped can't vote as if it
	// still knew what it once acknowledged.
	raft      atomic.Pointer[raft.Raft]
	transport atomic.Pointer[nudgedTransport]
	startMu   sync.Mutex // serialises startRaft with itself and with Close
	reloadMu  sync.Mutex // serialises changes of Raft's configuration

	state           stateCheck                     // this node's state against the others'
	verification    verification                   // a full scan of the state
	silence         silence                        // of members whose id a new node wants
	promise         promise                        // to the node that forms the cluster
	removed         atomic.Bool                    // the leader said that this node is no member
	foreign         atomic.Pointer[foreignVerdict] // what the join addresses say; nil: not asked yet
	caughtUp        atomic.Bool                    // since the start, this node once had all that a quorum knew
	stage           atomic.Value                   // string: what a node without Raft is doing, for Ready
	announce        chan struct{}
	started         time.Time
	closing         chan struct{}
	closeOnce       sync.Once
	closeErr        error
	cancel          context.CancelFunc // ends the goroutines
	ctx             func() context.Context
	stopRaftMetrics func()

	runMu   sync.Mutex // guards stopped, and that no goroutine is added once it is set
	stopped bool
	wg      sync.WaitGroup
}

// Open checks the directory (see startup.go), starts listening, and starts
// the node. A node with state, or a single-node cluster, has its Raft running
// when Open returns; a new node goes on to look for its cluster in the
// background: Ready tells when it is done.
//
// Open refuses, with what to do in the text, a directory of another node or
// another cluster, and a state that the log does not fit to.
func Open(ctx context.Context, o Options, p Parts) (*Node, error) {
	if err := errors.Join(o.Validate(), p.validate(o)); err != nil {
		if p.Log != nil {
			_ = p.Log.Close()
		}
		return nil, err
	}
	n, err := newNode(o, p)
	if err != nil {
		return nil, err
	}
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(err, n.Close(ctx))
	}
	return n, nil
}

// newNode builds the node up to the listener; nothing of Raft runs yet.
func newNode(o Options, p Parts) (_ *Node, err error) {
	o = o.withDefaults()
	n := &Node{o: o, p: p, log: o.Logger.With("component", "cluster", "node", o.NodeID),
		started: time.Now(), closing: make(chan struct{}), announce: make(chan struct{}, 1)}
	n.stage.Store("starting")
	bg, cancel := context.WithCancel(context.Background())
	n.cancel, n.ctx = cancel, func() context.Context { return bg }
	// What follows is undone by the same function that Close uses: it skips
	// what is nil.
	defer func() {
		if err != nil {
			err = errors.Join(err, n.release(context.Background()))
		}
	}()
	store := logStoreOptions{Limit: o.LogWriteLimit, Fatal: o.Fatal, Excuse: p.OutOfSpace, Logger: n.log, Registerer: o.Registerer}
	if n.logs, err = newLogStore(p.Log, store); err != nil {
		return nil, errors.Join(err, p.Log.Close())
	}
	if n.identity, err = openIdentity(o.DataDir, o.NodeID); err != nil {
		return nil, err
	}
	n.state.diverged.Store(n.identity.record().Diverged)
	if n.stable, err = openStableStore(filepath.Join(o.DataDir, stableFile), store); err != nil {
		return nil, err
	}
	n.met = newMetrics(o.Registerer, n)
	if n.stopRaftMetrics, err = bridgeRaftMetrics(o.Registerer); err != nil {
		return nil, err
	}
	n.mux, err = newMux(muxOptions{
		Bind: o.RaftAddr, Advertise: o.RaftAdvertise, NodeID: o.NodeID,
		ClusterID: n.identity.clusterID, AcceptCluster: n.acceptCluster, AcceptUnnamed: acceptUnnamed,
		NodeIDOf: n.nodeIDOf, TLS: o.TLS, Logger: n.log, Registerer: o.Registerer,
	})
	if err != nil {
		return nil, err
	}
	n.peers = newPeerClient(n.mux)
	n.gates = newGates(o, p, n.met, func() uint64 { return n.applyGap() })
	n.props = newProposer(n)
	n.reads = newReadGate(n)
	n.installs = &installWatch{snaps: p.Snapshots, logs: n.logs, applied: p.StateMachine.Applied, fatal: o.Fatal}
	return n, n.met.register()
}

// withDefaults fills in what may be nil.
func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Fatal == nil {
		logger := o.Logger
		o.Fatal = func(err error) {
			logger.Error("fatal: the process ends itself, because to go on could lose or fork data", "error", err)
			os.Exit(1)
		}
	}
	return o
}

// start checks the state on disk and starts what it allows.
func (n *Node) start(ctx context.Context) error {
	term, err := n.stable.term()
	if err != nil {
		return err
	}
	if err := checkStartup(n.p, n.logs, term, n.log); err != nil {
		return err
	}
	if err := n.checkClusterID(); err != nil {
		return err
	}
	hasState, err := n.hasRaftState()
	if err != nil {
		return err
	}
	handlers := http.NewServeMux()
	n.handlePeers(handlers)
	n.server = newPeerServer(n.mux, handlers, n.log)
	n.server.start()
	n.goRun(n.gates.run)
	n.goRun(n.reads.run)
	watch := &joinWatch{n: n, answers: map[string]contract.Identity{}}
	if err := n.begin(ctx, hasState, watch); err != nil {
		return err
	}
	n.goRun(n.upkeep)
	n.goRun(n.watchState)
	if len(n.o.Join) > 0 {
		n.goRun(func(ctx context.Context) { n.watchJoin(ctx, watch) })
	}
	return nil
}

// begin starts Raft, or the search for the cluster, by what is on disk.
func (n *Node) begin(ctx context.Context, hasState bool, watch *joinWatch) (err error) {
	rec := n.identity.record()
	switch {
	case len(rec.Pending) > 0:
		// A crash between the claim and the end of the bootstrap: go on with it.
		if len(rec.Pending) == 1 {
			err = n.checkJoin(ctx, watch)
		}
		if err == nil {
			err = n.bootstrapRaft(ctx, rec.Pending)
		}
	case hasState, rec.Founder:
		if err = n.startRaft(); err == nil && n.alone() {
			if err = n.checkJoin(ctx, watch); err == nil {
				n.electSelf(ctx)
			}
		}
	case len(n.o.Join) == 0:
		err = n.bootstrapAlone(ctx)
	default:
		n.goRun(n.findCluster)
	}
	return err
}

// hasRaftState says whether there is something of Raft here. The library takes
// a term for it, or a snapshot; a node that lost its log and kept those is to be
// taken in again all the same (M2).
func (n *Node) hasRaftState() (bool, error) {
	has, err := raft.HasExistingState(n.logs, n.stable, n.p.Snapshots)
	if err != nil {
		return false, fmt.Errorf("cluster: look for raft state: %w", err)
	}
	s, _, err := readDiskState(n.p, n.logs, 0)
	if err != nil {
		return false, err
	}
	rec := n.identity.record()
	if wiped(rec, s) && rec.ClusterID == "" {
		if has {
			n.log.Warn("this node has a term, and neither a cluster nor a log: it is taken for a new one")
		}
		return false, nil
	}
	if wiped(rec, s) {
		n.log.Warn("this node's log is gone, its identity is not: it asks the cluster to take it in again, and has no vote until then",
			"cluster", rec.ClusterID, "snapshot", s.Snapshot, "state", s.Applied)
		return false, nil
	}
	return has, nil
}

// checkClusterID compares what the directory says with what the state says.
func (n *Node) checkClusterID() error {
	state, pinned := n.p.StateMachine.ClusterID(), n.identity.clusterID()
	switch {
	case state == "" || state == pinned:
		return nil
	case pinned == "":
		n.log.Warn("the identity file names no cluster; taking the one of the state", "cluster", state)
		return n.identity.pin(state, false)
	}
	return fmt.Errorf("cluster: the state in %s is of cluster %s, the identity file is of cluster %s: the directory was mixed from two nodes; restore it from one of them, or empty it and let the node join again",
		n.o.DataDir, state, pinned)
}

// startRaft starts the Raft instance; a second call does nothing.
func (n *Node) startRaft() error {
	n.startMu.Lock()
	defer n.startMu.Unlock()
	if n.raft.Load() != nil {
		return nil
	}
	if n.isClosing() {
		return contract.ErrShutdown
	}
	tr := newNudgedTransport(newTransport(n.mux, transportOptions{Timeout: 2 * n.o.HeartbeatTimeout, Sends: n.sends,
		HasRoom: n.hasRoom, OutOfSpace: n.outOfSpace, Logger: n.log}), n.takesEntries)
	cache, err := raft.NewLogCache(logCacheEntries, n.logs)
	if err != nil {
		return fmt.Errorf("cluster: log cache: %w", err)
	}
	fsm := &watchedFSM{BatchingFSM: n.p.StateMachine, watch: n.installs}
	r, err := raft.NewRaft(n.raftConfig(), fsm, cache, n.stable, guardedSnapshots{n.p.Snapshots, n}, tr)
	if err != nil {
		return errors.Join(fmt.Errorf("cluster: start raft: %w", err), tr.Close())
	}
	n.transport.Store(tr)
	n.raft.Store(r)
	n.goRun(tr.run)
	n.goRun(n.lead)
	n.goRun(n.props.watchTransfer)
	n.goRun(n.keepSnapshots)
	n.goRun(n.keepDisk)
	n.props.start()
	return nil
}

// alone says whether this node is the only voter.
func (n *Node) alone() bool {
	r := n.raft.Load()
	return suffrage(r, n.o.NodeID) == raft.Voter && n.otherVoters(r) == 0
}

// raftConfig is the library's configuration; each line that differs from its
// default says why.
func (n *Node) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.o.NodeID)
	c.HeartbeatTimeout, c.ElectionTimeout = n.o.HeartbeatTimeout, n.o.ElectionTimeout
	if n.state.diverged.Load() != nil { // the last to stand for election: see standBack
		c.HeartbeatTimeout, c.ElectionTimeout = divergedPatience*c.HeartbeatTimeout, divergedPatience*c.ElectionTimeout
	}
	c.LeaderLeaseTimeout, c.CommitTimeout = n.o.LeaderLease, n.o.CommitTimeout
	c.MaxAppendEntries = maxAppendEntries
	// Buffered, so that Apply doesn't wait for the main loop's fsync. It makes
	// Apply's own timeout weak; the proposer has deadlines of its own.
	c.BatchApplyCh = true
	// Both are ours, by bytes: see snapshots.go.
	c.SnapshotInterval, c.SnapshotThreshold = 1000*time.Hour, neverSnapshot
	c.TrailingLogs = n.trailingLogs()
	// The state is in RocksDB already; checkStartup proved that it fits.
	c.NoSnapshotRestoreOnStart = true
	// A removed node stays up to tell its operator so.
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.Logger = newRaftLogger(n.log)
	return c
}

// goRun starts a goroutine that Close ends (by the context) and waits for.
// Once Close waits, it does nothing.
func (n *Node) goRun(f func(ctx context.Context)) {
	n.runMu.Lock()
	defer n.runMu.Unlock()
	if n.stopped {
		return
	}
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		f(n.ctx())
	}()
}

func (n *Node) isClosing() bool {
	select {
	case <-n.closing:
		return true
	default:
		return false
	}
}

// Close stops the node; a second call returns the first one's error. The
// order matters: first no new writes, then the leadership goes to another
// node while this one can still answer, then Raft, and the listener last.
func (n *Node) Close(ctx context.Context) error {
	n.closeOnce.Do(func() {
		close(n.closing)
		n.props.close()
		n.drain(ctx)
		n.handOver(ctx)
		n.closeErr = n.release(ctx)
	})
	return n.closeErr
}

// sends says whether Raft leads here and has that node at that address.
func (n *Node) sends(id raft.ServerID, addr raft.ServerAddress) bool {
	r := n.raft.Load()
	return r != nil && r.State() == raft.Leader && slices.ContainsFunc(r.GetConfiguration().Configuration().Servers,
		func(s raft.Server) bool { return s.ID == id && s.Address == addr })
}

// drain waits, for a short time, until what was accepted has its outcome:
// a write that is cut off by the transfer would be "unknown" for no reason.
func (n *Node) drain(ctx context.Context) {
	deadline := time.NewTimer(closeDrain)
	defer deadline.Stop()
	select {
	case <-n.props.idle():
	case <-deadline.C:
	case <-ctx.Done():
	}
}

// release frees everything in the reverse order of its making; what was never
// made is nil.
func (n *Node) release(ctx context.Context) error {
	var errs []error
	n.cancel()
	n.startMu.Lock()
	r := n.raft.Load()
	n.startMu.Unlock()
	if n.props != nil {
		n.props.close()
	}
	if r != nil {
		if tr := n.transport.Load(); tr != nil {
			tr.stopWaiting()
		}
		failpoint.Hit(failpoint.CloseRaftBefore)
		if err := r.Shutdown().Error(); err != nil {
			errs = append(errs, fmt.Errorf("cluster: stop raft: %w", err))
		}
		failpoint.Hit(failpoint.CloseRaftAfter)
		if tr := n.transport.Load(); tr != nil {
			errs = append(errs, tr.Close())
		}
	}
	if n.server != nil {
		errs = append(errs, n.server.shutdown(ctx))
	}
	n.runMu.Lock()
	n.stopped = true
	n.runMu.Unlock()
	n.wg.Wait()
	if n.props != nil {
		n.props.wait()
	}
	if n.peers != nil {
		n.peers.close()
	}
	if n.mux != nil {
		errs = append(errs, n.mux.close())
	}
	if n.stopRaftMetrics != nil {
		n.stopRaftMetrics()
	}
	if n.stable != nil {
		errs = append(errs, n.stable.Close())
	}
	if n.logs != nil {
		errs = append(errs, n.logs.Close())
	}
	if n.met != nil {
		n.met.unregister()
	}
	if n.identity != nil {
		errs = append(errs, n.identity.close())
	}
	return errors.Join(errs...)
}

// NodeID returns the node's id.
func (n *Node) NodeID() string { return n.o.NodeID }

// ClusterID returns the id of the cluster, "" while this node has none.
func (n *Node) ClusterID() string { return n.identity.clusterID() }

// Identity says who this node is.
func (n *Node) Identity() contract.Identity {
	return contract.Identity{NodeID: n.o.NodeID, ClusterID: n.ClusterID(), RaftAddr: n.mux.addr(),
		HTTPAddr: n.o.HTTPAdvertise, Learner: n.o.Learner, Version: n.o.Version}
}

// Leader returns what this node knows of the leader.
func (n *Node) Leader() contract.LeaderInfo {
	r := n.raft.Load()
	if r == nil {
		return contract.LeaderInfo{}
	}
	_, id := r.LeaderWithID()
	info := contract.LeaderInfo{ID: string(id), Term: r.CurrentTerm()}
	switch info.ID {
	case "":
	case n.o.NodeID:
		// Both are asked: the id stays for a moment after the role is lost.
		if info.Self = r.State() == raft.Leader; info.Self {
			info.HTTPAddr = n.o.HTTPAdvertise
		} else {
			info.ID = ""
		}
	default:
		for _, m := range n.p.StateMachine.Members() {
			if m.GetNodeId() == info.ID {
				info.HTTPAddr = m.GetHttpAddr()
			}
		}
	}
	return info
}

var errRemoved = fmt.Errorf("%w: to add it again, empty its data directory and restart it", contract.ErrRemoved)

// Ready returns nil if this node can do its part: it is a member, it knows a
// leader, and it once had all that the cluster had. Else it returns
// ErrShutdown, ErrNotReady or ErrNoLeader, wrapped with what it waits for.
func (n *Node) Ready() error {
	r := n.raft.Load()
	switch {
	case n.isClosing():
		return contract.ErrShutdown
	case n.removed.Load():
		return errRemoved
	case n.state.diverged.Load() != nil:
		return n.Diverged()
	case r == nil:
		return n.notRunning()
	case n.estranged() != nil:
		return n.estranged()
	case n.p.StateMachine.Restoring():
		return fmt.Errorf("%w: it installs a snapshot from the leader", contract.ErrNotReady)
	case n.p.StateMachine.ClusterID() == "":
		return fmt.Errorf("%w: the cluster is being formed", contract.ErrNotReady)
	}
	leader := n.Leader()
	switch {
	case leader.ID == "":
		return contract.ErrNoLeader
	case leader.Self && n.p.StateMachine.TickTerm() != leader.Term:
		return fmt.Errorf("%w: the new leader catches up", contract.ErrNotReady)
	case !leader.Self && !n.caughtUp.Load():
		return fmt.Errorf("%w: it catches up with the leader", contract.ErrNotReady)
	}
	return nil
}

// notRunning is the error of all that needs Raft, while it does not run.
func (n *Node) notRunning() error {
	if n.isClosing() {
		return contract.ErrShutdown
	}
	return fmt.Errorf("%w: %v", contract.ErrNotReady, n.stage.Load())
}

// applyGap is how many committed entries wait to be applied.
func (n *Node) applyGap() uint64 {
	r := n.raft.Load()
	if r == nil {
		return 0
	}
	applied, _ := n.p.StateMachine.Applied()
	if commit := r.CommitIndex(); commit > applied {
		return commit - applied
	}
	return 0
}
