package cluster

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage/mutant"
)

// The settings of the transport.
const (
	defaultMaxPool          = 4
	defaultTransportTimeout = 10 * time.Second
	// snapshotBytesPerTimeout: a snapshot may take one timeout for each so
	// many bytes. raft's default of 256 KiB gives 10 GB almost five days.
	snapshotBytesPerTimeout = 64 << 20
	// returnPoll is how often an unreachable node is dialled, and returnWait
	// how long, before its failure is told to raft.
	returnPoll = 100 * time.Millisecond
	returnWait = time.Minute
)

// transportOptions configure the Raft transport.
type transportOptions struct {
	// MaxPool is how many idle connections are kept for each peer; 0 is 4.
	MaxPool int
	// Timeout bounds one RPC; 0 is 10 s.
	Timeout time.Duration
	// AddressProvider finds a node's address by its id; nil uses the
	// address in the Raft configuration.
	AddressProvider raft.ServerAddressProvider
	// Sends says whether this node is leader and sends entries to that node at
	// that address; nil never waits for the return of an unreachable node.
	Sends func(raft.ServerID, raft.ServerAddress) bool
	// HasRoom asks a node that refused entries for its disk whether it takes
	// them again; nil does not wait for that.
	HasRoom func(raft.ServerID, raft.ServerAddress) bool
	// OutOfSpace says that writes of this node wait for space; nil: never.
	OutOfSpace func() bool
	Logger     *slog.Logger
}

// transport is raft's network transport with three habits taken away.
//
// Pipelining is off (MaxRPCsInFlight 1): a follower that refuses an append can
// lock the pipeline's two goroutines against each other until the leader
// restarts (hashicorp/raft #612). Throughput comes from large entries instead.
//
// The fast path for heartbeats is off: it changes the term on the transport's
// goroutine while the main loop is dispatching, which breaks Log Matching
// after a partition (hashicorp/raft #695). Heartbeats take the way of every
// other RPC. The price is that a follower in an fsync answers late; the timers
// are chosen for it.
//
// A node that comes back is not kept waiting: raft doubles its pause after
// each failed append up to 10 s (hashicorp/raft replication.go, backoff), and a
// node that was away for half a minute would get nothing for so long after its
// return. See AppendEntries.
type transport struct {
	*raft.NetworkTransport
	layer      raft.StreamLayer
	sends      func(raft.ServerID, raft.ServerAddress) bool
	hasRoom    func(raft.ServerID, raft.ServerAddress) bool
	outOfSpace func() bool
	stop       chan struct{} // closed by stopWaiting
	once       sync.Once
}

// Invariant: raft must see both, or it falls back silently.
var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

// newTransport runs Raft RPC over the mux. Close it before the mux.
func newTransport(m *mux, o transportOptions) *transport {
	if o.MaxPool <= 0 {
		o.MaxPool = defaultMaxPool
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTransportTimeout
	}
	layer := m.raftLayer()
	nt := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider:   o.AddressProvider,
		Logger:                  newRaftLogger(o.Logger).Named("transport"),
		Stream:                  layer,
		MaxPool:                 o.MaxPool,
		MaxRPCsInFlight:         1,
		Timeout:                 o.Timeout,
		MsgpackUseNewTimeFormat: true,
	})
	nt.TimeoutScale = snapshotBytesPerTimeout
	return &transport{NetworkTransport: nt, layer: layer, sends: o.Sends, hasRoom: o.HasRoom, outOfSpace: o.OutOfSpace, stop: make(chan struct{})}
}

// AppendEntries sends entries. If the node can't be reached, it returns the
// error only when the node can be dialled again, this node no longer leads, the
// node has another address, or returnWait is over: raft's next try then meets a node that is there, after a
// pause that is still short. The same for a node that refused the entries because
// its disk is full, until it has room. Heartbeats return at once; they have a short
// backoff of their own, and tell raft that the node is gone.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if mutant.On(mutant.AckBeforeCommit) {
		return t.pretend(id, target, args, resp)
	}
	if t.outOfSpace != nil && t.outOfSpace() {
		// A leader whose log waits for space must lose its office, which it would
		// keep as long as it is heard.
		if isHeartbeat(args) {
			return errNoSpace
		}
		t.await(id, target, func() bool { return !t.outOfSpace() })
	}
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	switch {
	case err == nil || t.sends == nil || isHeartbeat(args):
	case isNoSpace(err) && t.hasRoom != nil:
		t.await(id, target, func() bool { return t.hasRoom(id, target) })
	default:
		t.awaitReturn(id, target)
	}
	return err
}

// isHeartbeat tells a heartbeat as raft's own transport does.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// awaitReturn waits until the node can be dialled.
func (t *transport) awaitReturn(id raft.ServerID, target raft.ServerAddress) {
	t.await(id, target, func() bool {
		c, err := t.layer.Dial(target, returnPoll)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// await asks until the answer is yes, this node no longer sends to that one, or
// returnWait is over.
func (t *transport) await(id raft.ServerID, target raft.ServerAddress, done func() bool) {
	deadline := time.NewTimer(returnWait)
	defer deadline.Stop()
	poll := time.NewTicker(returnPoll)
	defer poll.Stop()
	for t.sends != nil && t.sends(id, target) && !done() {
		select {
		case <-t.stop:
			return
		case <-deadline.C:
			return
		case <-poll.C:
		}
	}
}

// stopWaiting ends all waits for unreachable nodes. Call it before raft is
// shut down: raft waits for its goroutines before it closes the transport.
func (t *transport) stopWaiting() { t.once.Do(func() { close(t.stop) }) }

// SetHeartbeatHandler does nothing: see transport.
func (t *transport) SetHeartbeatHandler(handler func(raft.RPC)) {
	if mutant.On(mutant.FastHeartbeats) {
		t.NetworkTransport.SetHeartbeatHandler(handler)
	}
}

// AppendEntriesPipeline says that there are no pipelines: see transport.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Close ends the transport, its streams and its idle connections. raft calls
// it too when it shuts down; it may be called twice.
func (t *transport) Close() error {
	t.stopWaiting()
	err := t.NetworkTransport.Close()
	t.CloseStreams()
	return errors.Join(err)
}
