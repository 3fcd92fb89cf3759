package httpapi

import (
	"slices"
	"testing"

	"github.com/snipdb/snipdb/httpapi/apitest"
)

func TestBadInput(t *testing.T) {
	n := startNode(t, nil)
	before := n.dump()
	apitest.BadInput(t, n.url)
	if after := n.dump(); string(before) != string(after) {
		t.Errorf("something was left: %s", after)
	}
}

func TestBadInputAtAFollower(t *testing.T) {
	leader, follower := startPair(t, nil)
	// The follower of this test has no log: its reads show the leader's state.
	follower.reads = leader.memory
	apitest.BadInput(t, follower.url)
}

func TestBadInputKnowsEveryRoute(t *testing.T) {
	known := apitest.Routes()
	for i := range routes {
		if !slices.Contains(known, key(&routes[i])) {
			t.Errorf("%s has no wrong requests", key(&routes[i]))
		}
	}
	if len(known) != len(routes) {
		t.Errorf("apitest knows %d routes, the server has %d", len(known), len(routes))
	}
}
