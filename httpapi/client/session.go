package client

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// Session is a Client whose reads see every write and every state that calls of
// the same session have seen before (read your writes, monotonic reads), on
// any node. It is safe for concurrent use. It needs no closing; Close does
// nothing, and the Client below stays open.
//
// Indices of two clusters must not be compared, so a session is bound to the
// cluster that answers first. An answer from another one is an error for which
// IsWrongCluster holds, whatever the call did there, and the session begins
// anew.
type Session struct {
	*Client
}

// NewSession begins a session.
func (c *Client) NewSession() *Session {
	return &Session{Client: &Client{core: c.core, session: &sessionState{}}}
}

// ResumeSession begins a session that has seen an index of a cluster: for a
// session that is passed on between programs. Both come from a Meta, or from
// Index and Cluster.
func (c *Client) ResumeSession(cluster string, index uint64) *Session {
	s := c.NewSession()
	s.session.cluster, s.session.index = cluster, index
	return s
}

// Index is the highest index that the session has seen.
func (s *Session) Index() uint64 { _, index := s.session.get(); return index }

// Cluster is the id of the session's cluster, empty before the first answer.
func (s *Session) Cluster() string { cluster, _ := s.session.get(); return cluster }

// Reset forgets what the session has seen.
func (s *Session) Reset() { s.session.reset() }

// Close does nothing.
func (s *Session) Close() {}

// sessionState is shared by all calls of a session; nil means no session.
type sessionState struct {
	mu      sync.Mutex
	cluster string
	// index is the largest of the cluster's that any answer has shown.
	index uint64
}

func (s *sessionState) get() (cluster string, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cluster, s.index
}

func (s *sessionState) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster, s.index = "", 0
}

// addTo asks for a state that holds what the session has seen. It returns
// false if it has seen nothing yet.
func (s *sessionState) addTo(q url.Values) bool {
	cluster, index := s.get()
	if index == 0 {
		return false
	}
	AtIndex(index).addTo(q)
	if cluster != "" {
		q.Set(wire.ParamClusterID, cluster)
	}
	return true
}

// observe takes in an answer, successful or not. The error says that it came
// from another cluster.
func (s *sessionState) observe(status int, h http.Header) error {
	switch {
	case status >= 200 && status < 300:
	case status == http.StatusNotFound, status == http.StatusConflict, status == http.StatusPreconditionFailed,
		status == http.StatusUnprocessableEntity:
		// A refusal shows the state as well: who saw "not found" must not find
		// the document again on a node that is behind.
	default:
		return nil
	}
	cluster := h.Get(wire.HeaderCluster)
	index, err := strconv.ParseUint(h.Get(wire.HeaderIndex), 10, 64)
	if err != nil || cluster == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster != "" && s.cluster != cluster {
		was := s.cluster
		s.cluster, s.index = "", 0
		return fmt.Errorf("the answer came from cluster %q, the session is of %q; the session has been reset", cluster, was)
	}
	s.cluster, s.index = cluster, max(s.index, index)
	return nil
}
