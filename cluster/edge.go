package cluster

import (
	"errors"

	"github.com/hashicorp/raft"
)

// atSnapshot helps Raft over the edge between a snapshot and the log.
//
// A follower that dies after an install, and after it has stored the first
// entries behind it but before it has said so, starts with a log that begins
// right behind its snapshot. The leader goes on at the snapshot's index, and
// the library looks for the entry there in the log alone (raft.go,
// appendEntries: it thinks of its last entry only). It refuses, the leader goes
// back until its own log ends and installs the same snapshot once more: for
// ever, as fast as it goes, until it has a snapshot above the follower's log.
//
// What a snapshot holds is committed, so the entry before the first new one is
// the leader's if it is the snapshot's last one. Then Raft is given a request
// without an entry before, which it does not check. Where entries behind the
// snapshot conflict, Raft cuts them off as in any request.
func (n *Node) atSnapshot(a *raft.AppendEntriesRequest) {
	if a.PrevLogEntry == 0 {
		return
	}
	// Nearly always it is the last entry of the log, and this costs nothing.
	if last, err := n.logs.LastIndex(); err != nil || a.PrevLogEntry >= last {
		return
	}
	if err := n.logs.GetLog(a.PrevLogEntry, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		return
	}
	// A snapshot that is there but not restored proves nothing: the state is
	// older, and the entries between would be missing.
	applied, _ := n.p.StateMachine.Applied()
	newest, err := newestSnapshot(n.p.Snapshots)
	if err != nil || newest == nil || newest.Index != a.PrevLogEntry || newest.Term != a.PrevLogTerm || applied < newest.Index {
		return
	}
	n.log.Info("the entry before the leader's is the last one in the snapshot, and not in the log", "index", newest.Index, "term", newest.Term)
	a.PrevLogEntry, a.PrevLogTerm = 0, 0
}
