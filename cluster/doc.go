// Package cluster owns the Raft instance of a node: who leads, who is a
// member, how a write becomes a log entry, and when a read may be answered.
//
// A caller opens a Node over its parts (the state machine, the snapshot
// store, the entry log), and then knows three verbs:
//
//   - Propose puts one command into the log, together with those that wait
//     at the same moment (group commit), and returns its result;
//   - ReadIndex is the gate of every read: it returns when this node may
//     answer at the consistency asked for;
//   - the membership verbs (AddMember, RemoveMember, PromoteMember,
//     TransferLeadership, Snapshot), which work on any node, because a node
//     that does not lead asks the leader.
//
// No Raft type is in a result of these: what a caller must understand is in
// package contract. DESIGN.md holds the invariants and why things are as they are.
package cluster
