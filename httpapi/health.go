package httpapi

import (
	_ "embed"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// openAPI describes the API. A test builds it from the table of routes and
// the structs of package wire, and compares.
//
//go:embed openapi.json
var openAPI []byte

// getLive says that the process answers. It asks nothing else: a probe that
// depends on the cluster restarts healthy nodes during an election.
func getLive(c *call) (*reply, error) {
	return &reply{status: 200, body: wire.Ready{Status: "ok", Node: c.s.backend.NodeID()}}, nil
}

// getReady says whether the node can serve.
func getReady(c *call) (*reply, error) {
	ready := wire.Ready{Status: "ok", Node: c.s.backend.NodeID(), Role: string(c.s.role())}
	if err := c.s.backend.Ready(); err != nil {
		ready.Status, ready.Reason = "unavailable", translate(err).detail
		if code := translate(err).code; code == wire.CodeInternal || code == wire.CodeNotReady {
			ready.Reason = err.Error() // the node's own words; they are made for operators
		}
		c.g.Writer.Header().Set("Retry-After", "1")
		return &reply{status: http.StatusServiceUnavailable, body: ready}, nil
	}
	return &reply{status: 200, body: ready}, nil
}

// role is what this node is, as far as it knows.
func (s *Server) role() contract.Role {
	if s.backend.Leader().Self {
		return contract.Leader
	}
	for _, m := range s.admin.Members() {
		if m.ID == s.backend.NodeID() && !m.Voter {
			return contract.Learner
		}
	}
	return contract.Follower
}

func getMetrics(c *call) (*reply, error) {
	if c.s.opts.Gatherer == nil {
		return nil, badRequest(wire.CodeRouteNotFound, "", "this node shows no metrics")
	}
	c.setHeaders()
	promhttp.HandlerFor(c.s.opts.Gatherer, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(c.g.Writer, c.g.Request)
	return &reply{written: true}, nil
}

func getOpenAPI(*call) (*reply, error) {
	return &reply{status: 200, raw: openAPI, contentType: wire.TypeJSON}, nil
}
