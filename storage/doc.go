// Package storage keeps the replicated state of a node in RocksDB: documents,
// snippets and vectors with their listings, the exactly-once rows, and the
// small system rows of the state machine. It knows nothing of Raft but the
// Position that every commit carries.
//
// A Store holds the live database of a node and its directory. One goroutine,
// the state machine, makes a Batch, which reads its own writes, and commits
// it with a position; data and position are one atomic write, and there is no
// other way to write. Readers take a View, which is one state, for one
// request. A Checkpoint is a copy by hard links; Store.Install verifies a
// checkpoint that came from elsewhere and puts it in the place of the live
// database, while readers of the old one finish.
//
//	shared, err := storage.NewShared(opts)        // once per process
//	store, err := storage.OpenStore(dir, opts, shared)
//	db, release := store.DB()
//	batch := db.NewBatch()
//	err = batch.PutDocument(collection.ID, document, true)
//	err = db.Commit(batch, storage.Position{Index: 7, Term: 2})
//	batch.Destroy()
//	release()
//	view, err := store.View()
//	page, err := view.Documents(ctx, collection.ID, snippet.ListQuery{})
//	view.Close()
//
// A Log is an ordered, synced record log on a RocksDB instance of its own,
// for the entries of the Raft log.
//
// The package needs cgo and RocksDB 7 (Debian 12: librocksdb-dev); all C
// memory is made and freed in native.go. Layout, invariants and decisions are
// in DESIGN.md.
package storage
