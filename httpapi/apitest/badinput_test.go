package apitest

import (
	"encoding/json"
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// An election between two requests is no change that one of them has made.
func TestAnElectionChangesNothing(t *testing.T) {
	state := func(leader int) string {
		list := wire.MemberList{Items: []wire.Member{{ID: "n1", Voter: true}, {ID: "n2", Voter: true}}}
		list.Items[leader].Leader = true
		body, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return string(withoutLeader(body))
	}
	if state(0) != state(1) {
		t.Errorf("the states differ:\n%s\n%s", state(0), state(1))
	}
}
