package cluster

import (
	"errors"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
)

// The settings of the transport.
const (
	defaultMaxPool          = 4
	defaultTransportTimeout = 10 * time.Second
	// snapshotBytesPerTimeout: a snapshot may take one timeout for each so
	// many bytes. raft's default of 256 KiB gives 10 GB almost five days.
	snapshotBytesPerTimeout = 64 << 20
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
	Logger          *slog.Logger
}

// transport is raft's network transport with two habits taken away.
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
type transport struct {
	*raft.NetworkTransport
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
	nt := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider:   o.AddressProvider,
		Logger:                  newRaftLogger(o.Logger).Named("transport"),
		Stream:                  m.raftLayer(),
		MaxPool:                 o.MaxPool,
		MaxRPCsInFlight:         1,
		Timeout:                 o.Timeout,
		MsgpackUseNewTimeFormat: true,
	})
	nt.TimeoutScale = snapshotBytesPerTimeout
	return &transport{NetworkTransport: nt}
}

// SetHeartbeatHandler does nothing: see transport.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline says that there are no pipelines: see transport.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Close ends the transport, its streams and its idle connections. raft calls
// it too when it shuts down; it may be called twice.
func (t *transport) Close() error {
	err := t.NetworkTransport.Close()
	t.CloseStreams()
	return errors.Join(err)
}
