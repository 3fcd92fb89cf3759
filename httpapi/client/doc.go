// Package client is the Go client of snipdb's HTTP API. It speaks to all nodes
// of a cluster: writes go to the leader, which it learns from the answers;
// reads are spread over the nodes, or pinned to one.
//
// # What an error means
//
// A call returns nil only if a node answered 2xx. A failed call returns an
// *Error with the problem that the node sent, or with the cause if no node
// answered. For a write, OutcomeUnknown tells whether it may still have been
// applied; if it returns false, it certainly was not, and never will be.
//
// # Retries
//
// Every data write carries an idempotency key, made by the client unless the
// caller gives one, and the state machine applies a key once. So a write
// whose outcome is not known (a lost connection, a timeout, a leader that
// fell) is repeated with the same key and the same bytes. A write without a key,
// which are the changes of the membership and those made with
// WithoutIdempotencyKey, is never repeated once it may have been sent.
//
// Waits grow exponentially with full jitter; Retry-After is honoured, plus
// jitter. What a node that can't serve now refuses (no leader, starting) is
// repeated until the call's deadline, so calls ride through an election.
// Everything else spends a retry budget that all calls of a Client share, so
// that retries never become the load that keeps a cluster down.
//
// # Freshness
//
// A read is local unless WithConsistency says otherwise. A Session reads its
// own writes and never goes back in time, on any node.
//
// # Volume
//
// Import sends a stream of documents and resumes where a connection broke.
// A BulkWriter collects documents from many goroutines and sends them in the
// background.
//
// A Client is safe for concurrent use, and meant to be shared by the whole
// program. Close it to stop its background work.
package client
