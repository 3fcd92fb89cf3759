package cluster

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package if any test leaves a goroutine behind. The tests
// of nodes and of the mux look for themselves as well, so that the one at fault
// is named.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
