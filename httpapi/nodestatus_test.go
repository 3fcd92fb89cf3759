package httpapi

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/cluster/contract"
)

// Who looks after a cluster must see from the status that a node refuses writes.
func TestANodesStatusSaysWhatItRefuses(t *testing.T) {
	text, err := json.Marshal(renderNode(&contract.NodeStatus{DiskFreeBytes: 30, DiskLeftBytes: 20, DiskLowBytes: 25, Refusing: []contract.OverloadReason{contract.DiskLow}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"disk_free_bytes":30`, `"disk_left_bytes":20`, `"disk_low_bytes":25`, `"refusing":["disk_low"]`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}
