package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/storage"
)

// runVersion runs `snipdb version` with these arguments.
func runVersion(args ...string) (string, error) {
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs(append([]string{"version"}, args...))
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.Execute()
	return out.String(), err
}

func TestVersionHasBothForms(t *testing.T) {
	out, err := runVersion()
	if err != nil || !strings.Contains(out, "snipdb "+version) || !strings.Contains(out, "RocksDB "+storage.LinkedVersion()) {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = runVersion("-o", "json"); err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(out), &got); err != nil || got["version"] != version || got["rocksdb"] != storage.LinkedVersion() || got["go"] == "" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := runVersion("-o", "xml"); err == nil || !strings.Contains(err.Error(), "table or json") {
		t.Errorf("-o xml: %v", err)
	}
}
