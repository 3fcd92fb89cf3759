package cluster

import (
	"strings"
	"testing"
)

// A node that was killed before its identity file had its name is new, and
// inspect says so instead of naming a file that is not there.
func TestInspectOfANodeThatHasNeverRun(t *testing.T) {
	if _, err := Inspect(t.TempDir(), 0, 0, nil, nil); err == nil || !strings.Contains(err.Error(), "the node has never run") {
		t.Errorf("got %v", err)
	}
}
