// Package fsm is the replicated state machine: it applies the entries of the
// Raft log to storage, one after the other, on every node with the same result.
//
// The flow of an entry: ApplyBatch (apply.go) decodes it, runs each of its
// commands (execute.go) through one table of functions (table.go), and commits
// the whole slice of entries with its log position in one storage batch; then
// the applied index is published and those who wait for it are woken
// (waiters.go). Snapshot takes a RocksDB checkpoint, Restore installs one
// (snapshot.go).
//
// What a command did is decided here and nowhere else: conditions, limits,
// dimension and metric, and whether an idempotency key was seen before
// (exactlyonce.go). A refusal is a result (command.Result), not an error. An
// error means that this node can't go on without diverging from the others; it
// ends the process.
//
// DESIGN.md has the numbered invariants, the rows that this package keeps in
// storage, and the reasons.
package fsm
