package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"
)

// FuzzConfigFile: a file is refused, or says something that can be printed and
// read again as the same. Nothing of it may panic.
func FuzzConfigFile(f *testing.F) {
	f.Add([]byte("node-id: n1\ndata-dir: d\nhttp-addr: 127.0.0.1:1\njoin: [http://a:1, http://b:2]\n"))
	f.Add([]byte("memory: 1GiB\nrocksdb-option:\n- a=b\nlearner: yes\n"))
	f.Add([]byte("node-id: {a: b}\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Add([]byte("learner:\n"))
	f.Add([]byte("join:\n- \n"))
	f.Add([]byte("---\n---\n"))
	path := filepath.Join(f.TempDir(), "snipdb.yaml")
	load := func(t *testing.T, text []byte) (*Config, error) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		config, flags := new(Config), pflag.NewFlagSet("serve", pflag.ContinueOnError)
		config.register(flags)
		return config, config.load(flags, path, nil)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		config, err := load(t, text)
		if err != nil {
			return
		}
		config.complete()
		if err := config.Validate(); err == nil {
			_, _ = config.rocksDBOverrides(), config.level()
		}
	})
}

// FuzzPeersFile: the list of voters for recover is refused, or is a whole list.
// A file that an editor has garbled must not make a smaller cluster.
func FuzzPeersFile(f *testing.F) {
	f.Add([]byte(`[{"id":"n1","address":"127.0.0.1:7001"},{"id":"n2","address":"127.0.0.1:7002","non_voter":false}]`))
	f.Add([]byte(`[{"id":"n1","address":"127.0.0.1:7001","non_voter":true}]`))
	f.Add([]byte(`[{}]`))
	f.Add([]byte(`[]x`))
	path := filepath.Join(f.TempDir(), "peers.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		voters, err := readPeers(path)
		if err != nil {
			return
		}
		// Whether the voters are good ones is for cluster.Recover to say.
		var all []json.RawMessage
		if json.Unmarshal(text, &all) != nil || len(all) != len(voters) {
			t.Errorf("%q is %+v", text, voters)
		}
	})
}
