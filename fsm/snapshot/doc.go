// Package snapshot stores Raft snapshots as directories of hard links.
//
// A snapshot is a RocksDB checkpoint: files that never change again. The store
// keeps it as a directory, so that taking one copies nothing (Sink.Adopt), and
// so that restoring one on the same machine copies next to nothing
// (Materialize links what may be shared). Only a follower that is too far
// behind costs bytes: Store.Open gives a stream of the files, and a Sink that
// is written to rebuilds the directory from that stream, with every name,
// length and checksum checked before the snapshot becomes visible.
//
// The package knows nothing of RocksDB beyond the names of its files, and
// imports hashicorp/raft for the types of raft.SnapshotStore only.
//
// DESIGN.md has the layout on disk, the stream format as a table and the
// numbered invariants.
package snapshot
