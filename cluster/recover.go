package cluster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// RecoverServer is a voter of the recovered cluster.
type RecoverServer struct {
	ID       string
	RaftAddr string
}

// RecoverOptions are those of Recover.
type RecoverOptions struct {
	NodeID  string
	DataDir string
	// Voters is the whole new configuration; the same on each node that is
	// recovered. Nodes that are not in it must never be started again with
	// their old data.
	Voters []RecoverServer
	// AcceptDiverged recovers from a node that has diverged, and makes its state
	// the truth: only if no other node is left.
	AcceptDiverged bool
	// DryRun prints what would be done and changes nothing.
	DryRun bool
	// Out gets a line for each step; nil discards.
	Out    io.Writer
	Logger *slog.Logger
}

// Recover gives a node that lost its quorum for ever a new configuration. It
// is run on a stopped node, for which it holds the lock.
//
// It is the last resort, and it is not without loss: all entries of this
// node's log become committed, also those that never were; and writes that
// were acknowledged by a quorum without this node are gone. Run it on the
// node with the highest last index, and let the others join empty.
func Recover(o RecoverOptions, p Parts) (err error) {
	o = o.withDefaults()
	say := func(format string, args ...any) { fmt.Fprintf(o.Out, format+"\n", args...) }
	defer func() { err = errors.Join(err, p.Log.Close()) }()
	c, err := recoverConfiguration(o)
	if err != nil {
		return err
	}
	id, err := openIdentity(o.DataDir, o.NodeID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, id.close()) }()
	diverged := id.record().Diverged
	if diverged != nil && !o.AcceptDiverged {
		return fmt.Errorf("cluster: recover: this node has diverged: %s; recover from another node, or, if there is none, accept this one's state with --accept-diverged", diverged)
	}
	stable, err := openStableStore(filepath.Join(o.DataDir, stableFile), stableStoreOptions{Logger: o.Logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stable.Close()) }()
	term, err := stable.term()
	if err != nil {
		return err
	}
	s, _, err := readDiskState(p, p.Log, term)
	if err != nil {
		return err
	}
	lost := id.record()
	lost.LogLost = false // the snapshot, if there is one, is better than nothing
	if wiped(lost, s) {
		return fmt.Errorf("cluster: recover: node %s has no log, no snapshot and no state of cluster %s: there is nothing to recover from; start it with --join, and it is taken in again", o.NodeID, id.clusterID())
	}
	sayPlan(say, o.NodeID, id.clusterID(), s, c)
	if o.DryRun {
		say("dry run: nothing was changed")
		return nil
	}
	newTerm := max(term, lostTerm(term, s))
	if err := checkStartup(p, p.Log, newTerm, o.Logger); err != nil {
		return err
	}
	if err := rewrite(o, p, stable, c); err != nil {
		return err
	}
	// Last: a node whose recovery was cut off must not look as if it knew how it
	// voted.
	if newTerm != term {
		if err := stable.SetUint64(keyCurrentTerm, newTerm); err != nil {
			return fmt.Errorf("cluster: recover: write the term: %w", err)
		}
		say("the votes were lost: this node goes on in term %d", newTerm)
	}
	if err := id.update(func(r *identityRecord) { r.Diverged, r.LogLost = nil, false }); err != nil {
		return err
	}
	if diverged != nil {
		say("this node had diverged: its state is the cluster's from now on")
	}
	applied, _ := p.StateMachine.Applied()
	say("done: the state is at %d, a snapshot with the new configuration was written, the log is empty", applied)
	say("start this node; empty the data directories of all nodes that are not in the list before they are started again")
	return nil
}

// lostTerm returns a term above all that the log knows if the votes are lost,
// and 0 if not. In the new configuration nobody has voted yet.
func lostTerm(term uint64, s diskState) uint64 {
	if newest := max(s.LastTerm, s.SnapshotTerm); term < newest {
		return newest + 1
	}
	return 0
}

func (o RecoverOptions) withDefaults() RecoverOptions {
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// sayPlan says what the node has, and what will become of it.
func sayPlan(say func(string, ...any), node, cluster string, s diskState, c raft.Configuration) {
	say("node %s of cluster %s: state at %d, snapshot at %d, log %d to %d", node, cluster, s.Applied, s.Snapshot, s.First, s.Last)
	for _, v := range c.Servers {
		say("  new configuration: voter %s at %s", v.ID, v.Address)
	}
	say("every entry up to %d becomes committed, whether it was or not", max(s.Last, s.Snapshot))
}

// rewrite applies the whole log, and makes a snapshot with the new configuration.
func rewrite(o RecoverOptions, p Parts, stable *stableStore, c raft.Configuration) error {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(o.NodeID)
	conf.NoSnapshotRestoreOnStart = true
	conf.Logger = newRaftLogger(o.Logger)
	_, trans := raft.NewInmemTransport(raft.ServerAddress(addrOf(o)))
	defer trans.Close()
	if err := raft.RecoverCluster(conf, p.StateMachine, p.Log, stable, p.Snapshots, trans, c); err != nil {
		return fmt.Errorf("cluster: recover: %w", err)
	}
	return nil
}

// recoverConfiguration checks the list of voters.
func recoverConfiguration(o RecoverOptions) (raft.Configuration, error) {
	var c raft.Configuration
	for _, v := range o.Voters {
		if !validNodeID(v.ID) {
			return c, fmt.Errorf("cluster: recover: voter %q: a node id is 1 to %d letters, digits, '.', '-' or '_'", v.ID, maxNodeIDBytes)
		}
		if err := checkAddress(v.RaftAddr); err != nil {
			return c, fmt.Errorf("cluster: recover: voter %s: %w", v.ID, err)
		}
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v.ID), Address: raft.ServerAddress(v.RaftAddr)})
	}
	if addrOf(o) == "" {
		return c, fmt.Errorf("cluster: recover: node %q must be one of the voters", o.NodeID)
	}
	return c, nil
}

func addrOf(o RecoverOptions) string {
	for _, v := range o.Voters {
		if v.ID == o.NodeID {
			return v.RaftAddr
		}
	}
	return ""
}
