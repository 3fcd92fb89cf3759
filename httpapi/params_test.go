package httpapi

import (
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// A node that still looks for its cluster is of no other one: a client asks the
// next node then, while "another cluster" would end its session.
func TestANodeWithoutAClusterIsNotReady(t *testing.T) {
	n := startNode(t, nil)
	own := n.cluster
	for _, row := range []struct {
		cluster, asked string
		status         int
		code           wire.Code
	}{
		{"", own, 503, wire.CodeNotReady},
		{own, "another", 409, wire.CodeWrongCluster},
	} {
		n.mu.Lock()
		n.cluster = row.cluster
		n.mu.Unlock()
		a := n.do(t, "GET", "/v1/collections?cluster_id="+row.asked, "")
		if a.status != row.status || a.problem(t).Code != row.code {
			t.Errorf("a node of %q is asked for %q: %d %s", row.cluster, row.asked, a.status, a.body)
		}
	}
}
