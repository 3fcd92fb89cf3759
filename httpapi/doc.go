// Package httpapi is the HTTP side of a node: HTTP in, HTTP out. It parses and
// bounds a request, calls one method of its backend, translates the error, and
// answers. It knows no Raft, no RocksDB and no cluster: what it needs of them
// is in the interfaces Backend, View and Admin, which cmd/snipdb joins.
//
// The routes are one table (routes.go), the errors are one table (errors.go),
// the results of the state machine are one table (results.go), and
// openapi.json, which the server serves, is checked against all three.
// DESIGN.md says what is decided here and why.
package httpapi
