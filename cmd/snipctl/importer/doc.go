// Package importer turns files into documents and writes them to a cluster.
//
// A Source yields documents in a fixed order, each with its number from 1: the
// line of an NDJSON file, or the place in the sorted list of files or packages.
// The number is what a user continues from after a failure, so the same input
// must always give the same numbers.
//
// Run writes what a Source yields: through the import stream, with at most
// Window documents unanswered. Every document is a put, which replaces the
// whole document, so sending one again after a lost connection is safe. A
// document that does not fit into one log entry is put with its first
// snippets and then grows by batches of put_snippet at fixed indices, which is
// safe to repeat for the same reason.
package importer
