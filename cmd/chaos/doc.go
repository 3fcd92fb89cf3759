// Package chaos runs a cluster of real snipdb processes through faults while
// clients write and read, and then decides from what the clients saw whether
// every promise was kept.
//
// # The parts
//
//   - network.go, proxy.go: a TCP proxy in front of each node's peer port and
//     API. All nodes dial one address per node, so the proxy learns who dials
//     from the first bytes of a connection, and treats the two directions of
//     it as two links: what n1 sends to n2, and what n2 sends to n1.
//   - schedule.go, faults.go: the faults, drawn from a seed, one every few
//     seconds.
//   - workload.go, operations.go: the clients. Every value that they write is unique.
//   - history.go: what each call was, when it began and ended, what it answered.
//   - model.go, reads.go, once.go, state.go, terms.go: the checkers. They take
//     a history and return what is wrong; their own tests feed them histories
//     that are wrong in each way.
//   - report.go: the table of figures at the end.
//
// # What is checked
//
//   - Linearizable reads and all writes of a document, by porcupine, with
//     revisions and conditions. A write of unknown outcome stays open for ever.
//     A document for which porcupine does not come to an end is a failure.
//   - Every read at every level: it must show exactly the state of the index
//     that it names.
//   - Sessions: read your writes, never back in time.
//   - Bounded reads: nothing that was acknowledged before the bound is missing.
//   - Batches: two documents that are always written together are never seen apart.
//   - Exactly once: documents with ids of the server's making, and queues,
//     which a write that is applied twice would change.
//   - At the end: every acknowledged write on every node, deleted documents
//     stay deleted, all nodes have the same state, one leader in each term, no
//     process ended by itself, nothing half-made left on disk.
//   - Progress: after each fault a write must succeed within a limit, and each
//     phase needs a least number of operations, so a dead cluster can't pass.
//
// # Running it
//
//	go test ./cmd/chaos                     a short run with a seed from the clock
//	make chaos SEED=42 DURATION=30m         a long one
//
// The seed decides the faults, their order, targets and times, and what each
// client does; how the processes' threads interleave it does not decide, so a
// run with the same seed is alike, not the same.
package chaos
