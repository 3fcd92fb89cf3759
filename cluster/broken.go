package cluster

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage/mutant"
)

// The mistakes of package mutant that need more than a line. Nothing of this
// file is in a build without the tag `mutants`.

// verifyBroken is what a mutant does in place of the round of questions.
func verifyBroken(r *raft.Raft) error {
	if mutant.On(mutant.QuorumByLibrary) {
		return r.VerifyLeader().Error()
	}
	return nil
}

// closeDoor ends the time in which readers join the round that runs.
func (g *readGate) closeDoor() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = nil
}

// truncateNow cuts the log as the snapshot will, which is not there yet.
func (n *Node) truncateNow(trailing uint64) {
	applied, _ := n.p.StateMachine.Applied()
	first, err := n.logs.FirstIndex()
	if err == nil && first > 0 && applied > first+trailing {
		err = n.logs.DeleteRange(first, applied-trailing)
	}
	if err != nil {
		n.log.Warn("mutant: the log was not cut", "error", err)
	}
}

// pretended are the appends that a follower is said to have, and which are
// sent before the next one.
var pretended sync.Map // from pretendedTo to *raft.AppendEntriesRequest

type pretendedTo struct {
	t  *transport
	id raft.ServerID
}

// pretend sends what the last call said was sent, and says that this call is.
// Raft calls again within its commit timeout, so a follower is behind what it
// is believed to have by that time at most: only the death of the leader tells.
func (t *transport) pretend(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	to := pretendedTo{t, id}
	if isHeartbeat(args) {
		return t.NetworkTransport.AppendEntries(id, target, args, resp)
	}
	if before, ok := pretended.LoadAndDelete(to); ok && before.(*raft.AppendEntriesRequest).Term == args.Term {
		err := t.NetworkTransport.AppendEntries(id, target, before.(*raft.AppendEntriesRequest), resp)
		if err != nil || !resp.Success {
			return err // this call's entries are asked for again
		}
	}
	if len(args.Entries) == 0 {
		return t.NetworkTransport.AppendEntries(id, target, args, resp)
	}
	pretended.Store(to, args)
	*resp = raft.AppendEntriesResponse{RPCHeader: resp.RPCHeader, Term: args.Term, LastLog: args.Entries[len(args.Entries)-1].Index, Success: true}
	return nil
}
