package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/snipdb/snipdb/storage"
)

// loadConfig reads settings as serve does.
func loadConfig(t *testing.T, yaml string, environment []string, arguments ...string) (*Config, *pflag.FlagSet, error) {
	t.Helper()
	config := new(Config)
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.register(flags)
	if err := flags.Parse(arguments); err != nil {
		t.Fatal(err)
	}
	file := ""
	if yaml != "" {
		file = filepath.Join(t.TempDir(), "snipdb.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config, flags, config.load(flags, file, environment)
}

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	config, _, err := loadConfig(t,
		"node-id: file\ndata-dir: file\nhttp-addr: 127.0.0.1:1\n",
		[]string{"SNIPDB_NODE_ID=environment", "SNIPDB_DATA_DIR=environment", "PATH=/bin"},
		"--node-id", "flag")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, got, want, source string }{
		{"node-id", config.NodeID, "flag", sourceFlag},
		{"data-dir", config.DataDir, "environment", sourceEnvironment},
		{"http-addr", config.HTTPAddr, "127.0.0.1:1", sourceFile},
		{"raft-addr", config.RaftAddr, "127.0.0.1:7001", sourceDefault},
	} {
		if row.got != row.want || config.sources[row.name] != row.source {
			t.Errorf("%s is %q from %s; want %q from %s", row.name, row.got, config.sources[row.name], row.want, row.source)
		}
	}
}

func TestListsAndMappingsOfTheFile(t *testing.T) {
	config, _, err := loadConfig(t, `
node-id: 01
bootstrap-expect: 3
join: [http://127.0.0.1:1, "http://127.0.0.1:2"]
rocksdb-option: {max_background_jobs: 4, write_buffer_size: 64MiB}
memory: 1GiB
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if config.NodeID != "01" || config.BootstrapExpect != 3 || config.Memory != 1<<30 {
		t.Errorf("read %+v", config)
	}
	if strings.Join(config.Join, " ") != "http://127.0.0.1:1 http://127.0.0.1:2" {
		t.Errorf("join is %q", config.Join)
	}
	if o := config.rocksDBOverrides(); len(o) != 2 || o["max_background_jobs"] != "4" || o["write_buffer_size"] != "64MiB" {
		t.Errorf("rocksdb-option is %q", o)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, row := range []struct {
		name, yaml  string
		environment []string
		arguments   []string
		want        string
	}{
		{"an unknown key", "nod-id: x\n", nil, nil, `no setting "nod-id"`},
		{"a key twice", "node-id: x\nnode-id: y\n", nil, nil, "node-id"},
		{"a list for a name", "node-id: {a: {b: c}}\n", nil, nil, "no value of a setting"},
		{"an unknown variable", "", []string{"SNIPDB_NOD_ID=x"}, nil, "SNIPDB_NOD_ID"},
		{"a variable of the wrong type", "", []string{"SNIPDB_BOOTSTRAP_EXPECT=three"}, nil, "SNIPDB_BOOTSTRAP_EXPECT"},
		{"a file that is not there", "", nil, nil, ""},
		{"an open API", "", nil, []string{"--http-addr", "0.0.0.0:8001", "--http-advertise", "http://a:8001"}, "--insecure"},
		{"an open Raft port", "", nil, []string{"--raft-addr", "10.0.0.1:7001"}, "--insecure"},
		{"a name for everyone", "", nil, []string{"--insecure", "--raft-addr", ":7001"}, "--raft-advertise"},
		{"an address without host", "", nil, []string{"--insecure", "--http-addr", ":8001"}, "--http-advertise"},
		{"a lease beyond the heartbeat", "", nil, []string{"--leader-lease-timeout", "3s"}, "two leaders"},
		{"three without the others", "", nil, []string{"--bootstrap-expect", "3"}, "--join"},
		{"a learner alone", "", nil, []string{"--learner"}, "--join"},
		{"a learner that makes a cluster", "", nil, []string{"--learner", "--join", "http://a:1", "--bootstrap-expect", "3"}, "never makes one"},
		{"an unknown profile", "", nil, []string{"--profile", "huge"}, "small, default, large"},
		{"an option without value", "", nil, []string{"--rocksdb-option", "max_open_files"}, "key=value"},
		{"a join that is no URL", "", nil, []string{"--join", "127.0.0.1:8001"}, "http://host:port"},
		{"a join without a host", "", nil, []string{"--join", "http://"}, "http://host:port"},
		{"a join with a port alone", "", nil, []string{"--join", "http://:8001"}, "http://host:port"},
		{"a join with a path", "", nil, []string{"--join", "http://a:8001/v1"}, "http://host:port"},
		{"a join with a query", "", nil, []string{"--join", "http://a:8001/?x=y"}, "http://host:port"},
		{"a negative number", "", nil, []string{"--max-in-flight", "0"}, "--max-in-flight is 0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, _, err := loadConfig(t, row.yaml, row.environment, row.arguments...)
			if row.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("got %v; want an error with %q", err, row.want)
			}
		})
	}
	if _, err := readFile("/nowhere/snipdb.yaml"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, _, err := loadConfig(t, "", nil, "--profile", "huge", "--log-level", "loud", "--node-id", "a b")
	for _, want := range []string{"--profile", "--log-level", "--node-id"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

func TestANodeAloneIsAClusterOfOne(t *testing.T) {
	config, _, err := loadConfig(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if config.BootstrapExpect != 1 || config.HTTPAdvertise != "http://127.0.0.1:8001" || config.RaftAdvertise != "127.0.0.1:7001" {
		t.Errorf("completed to %+v", config)
	}
}

// A slash at the end of a base URL is no other address.
func TestBaseURLsLoseTheirSlash(t *testing.T) {
	config, _, err := loadConfig(t, "", nil, "--join", "http://a:1/,http://b:2", "--http-advertise", "http://a:1//")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(append(config.Join, config.HTTPAdvertise), " "); got != "http://a:1 http://b:2 http://a:1" {
		t.Errorf("got %s", got)
	}
}

// What --print-config writes is a file that says the same again.
func TestPrintedConfigReadsBack(t *testing.T) {
	first, flags, err := loadConfig(t, "", nil, "--node-id", "n1", "--bootstrap-expect", "3", "--memory", "1GiB",
		"--join", "http://127.0.0.1:1,http://127.0.0.1:2", "--rocksdb-option", "a=b,c", "--rocksdb-option", "d=e")
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	if err := first.print(&printed, flags); err != nil {
		t.Fatal(err)
	}
	second, flags, err := loadConfig(t, printed.String(), nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, printed.String())
	}
	var again bytes.Buffer
	if err := second.print(&again, flags); err != nil {
		t.Fatal(err)
	}
	strip := func(s string) string {
		for _, source := range []string{sourceFlag, sourceFile, sourceDefault} {
			s = strings.ReplaceAll(s, " # "+source, "")
		}
		return s
	}
	if strip(printed.String()) != strip(again.String()) {
		t.Errorf("printed\n%s\nread back\n%s", printed.String(), again.String())
	}
	if !strings.Contains(printed.String(), `node-id: "n1" # flag`) {
		t.Errorf("the source is not shown:\n%s", printed.String())
	}
}

func TestBytesWithUnits(t *testing.T) {
	for text, want := range map[string]int64{"1GiB": 1 << 30, "64KiB": 64 << 10, "7": 7, "3B": 3, "2MB": 2e6, "0": 0} {
		var b bytesValue
		if err := b.Set(text); err != nil || int64(b) != want {
			t.Errorf("%q is %d, %v; want %d", text, b, err, want)
		}
		var again bytesValue
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%q is printed as %q, which is %d", text, b.String(), again)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1.5GiB", "9999999TiB", "1 GB x"} {
		var b bytesValue
		if err := b.Set(text); err == nil {
			t.Errorf("%q was read as %d", text, b)
		}
	}
}

// What `snipctl status --storage` shows as source is where the setting came from.
func TestStorageOptionsNameTheirSource(t *testing.T) {
	for name, row := range map[string]struct {
		yaml        string
		environment []string
		arguments   []string
		want        map[string]storage.OptionValue
	}{
		"nothing set": {"", nil, nil, map[string]storage.OptionValue{
			"profile": {Value: "default", Source: "default"}, "memory_bytes": {Value: "1GiB", Source: "profile default"}, "max_open_files": {Value: "4096", Source: "profile default"}}},
		"flags": {"", nil, []string{"--profile", "small", "--memory", "128MiB", "--rocksdb-option", "max_open_files=99"}, map[string]storage.OptionValue{
			"profile": {Value: "small", Source: "flag"}, "memory_bytes": {Value: "128MiB", Source: "flag"}, "max_open_files": {Value: "99", Source: "flag"}}},
		"environment": {"", []string{"SNIPDB_PROFILE=small", "SNIPDB_MEMORY=128MiB", "SNIPDB_ROCKSDB_OPTION=max_open_files=99"}, nil, map[string]storage.OptionValue{
			"profile": {Value: "small", Source: "environment"}, "memory_bytes": {Value: "128MiB", Source: "environment"}, "max_open_files": {Value: "99", Source: "environment"}}},
		"file": {"profile: large\nmemory: 2GiB\nrocksdb-option: {max_open_files: 99}\n", nil, nil, map[string]storage.OptionValue{
			"profile": {Value: "large", Source: "file"}, "memory_bytes": {Value: "2GiB", Source: "file"}, "max_open_files": {Value: "99", Source: "file"}}},
		"of each one": {"memory: 2GiB\n", []string{"SNIPDB_PROFILE=small"}, []string{"--rocksdb-option", "max_open_files=99"}, map[string]storage.OptionValue{
			"profile": {Value: "small", Source: "environment"}, "memory_bytes": {Value: "2GiB", Source: "file"}, "max_open_files": {Value: "99", Source: "flag"},
			"max_background_jobs": {Value: "2", Source: "profile small"}, "block_cache_bytes": {Value: "1GiB", Source: "memory budget"}}},
	} {
		config, _, err := loadConfig(t, row.yaml, row.environment, row.arguments...)
		if err != nil {
			t.Fatal(err)
		}
		got := (&server{config: config}).storageOptions().Effective()
		for option, want := range row.want {
			if got[option] != want {
				t.Errorf("%s: %s is %+v, want %+v", name, option, got[option], want)
			}
		}
	}
}
