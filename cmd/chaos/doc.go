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
//   - schedule.go, faults.go, storagefaults.go: the faults, drawn from a seed,
//     one every few seconds.
//   - disk.go: a file system for each node, that can be filled and frozen.
//   - workload.go, operations.go, otherwrites.go: the clients. Every value that
//     they write is unique; values.go makes documents of it, and the reverse.
//   - history.go: what each call was, when it began and ended, what it answered.
//   - model.go, timeline.go, reads.go, once.go, floors.go, terms.go, logbook.go,
//     hashbook.go, resources.go, verify.go: the checkers. They take a history, or what nodes
//     show, and return what is wrong; their own tests feed them what is wrong
//     in each way.
//   - report.go: the table of figures at the end.
//
// # What is checked
//
//   - Linearizable reads and all writes of a document or a collection, by
//     porcupine, with revisions and conditions. A write of unknown outcome stays
//     open for ever. A history for which porcupine does not come to an end is a
//     failure.
//   - Every read at every level: it must show exactly the state of the index
//     that it names, in all its fields, also those that the last write left alone.
//   - Sessions: read your writes, never back in time.
//   - Bounded reads: nothing that was acknowledged before the bound is missing.
//   - Batches: two documents that are always written together are never seen apart.
//   - Exactly once: documents with ids of the server's making, and queues,
//     which a write that is applied twice would change.
//   - Answers: no node calls a request wrong that is right.
//   - At the end: every acknowledged write on every node with all that was sent,
//     deleted documents stay deleted, all nodes have the same state, one leader in each term, no
//     process ended by itself, nothing half-made left on disk.
//   - Equal logs: whenever a process has ended, and at the end, its log is read;
//     two nodes, or one at two times, never have different entries at an index
//     that is committed.
//   - Equal hashes: the hash of the visible state after an entry is the same on
//     all nodes, at all times; twice and more each second. At the end each node
//     computes its own anew from all its rows.
//   - Leaks: goroutines, sockets, files and deleted files of each process at
//     rest, against a fresh one. A soak adds memory, over time, of two processes
//     that live from its beginning to its end.
//   - Progress: after each fault a write must succeed within a limit, each phase
//     needs a least number of calls, and the calms together a least number of
//     writes and of reads of each level, of which few may fail. Too many writes of
//     unknown outcome are a failure, and so is a checker that had too little to
//     look at.
//
// # Running it
//
//	go test ./cmd/chaos                     a short run with a seed from the clock
//	make chaos SEED=42 DURATION=30m         a long one
//	make chaos FAULTS=disk_full_leader,ring  only these; a name that is none is an error
//	make soak                               half an hour, with quiet phases
//
// The seed decides the faults, their order, targets and times, and what each
// client does; how the processes' threads interleave it does not decide, so a
// run with the same seed is alike, not the same. The nodes are built with the
// tag failpoints, which delays fsyncs and sets clocks wrong. Faults of disks
// need root, for mounts, and are in runs of a minute and more; a run that names
// one where it can't be made fails.
//
// A run that fails leaves history, events, logs and data in a folder of its own,
// snipdb-chaos-SEED-TIME-… in the temporary directory or in SNIPDB_CHAOS_KEEP,
// and prints the command that repeats it.
package chaos
