package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Config is everything an operator can decide. It is read here and nowhere
// else, from flags, environment and file (settings.go), and handed on to the
// packages as their Options.
type Config struct {
	NodeID          string
	DataDir         string
	HTTPAddr        string
	HTTPAdvertise   string
	RaftAddr        string
	RaftAdvertise   string
	BootstrapExpect int
	Join            []string
	Learner         bool
	Insecure        bool

	HeartbeatTimeout   time.Duration
	ElectionTimeout    time.Duration
	LeaderLeaseTimeout time.Duration
	TickInterval       time.Duration
	StateCheckInterval time.Duration
	PollInterval       time.Duration
	PromoteAfter       time.Duration
	LogWriteLimit      time.Duration
	SnapshotLogBytes   bytesValue
	TrailingLogBytes   bytesValue
	SnapshotInterval   time.Duration
	LogStore           string
	GroupCommit        bool

	Profile          string
	Memory           bytesValue
	RocksDBOptions   []string
	DiskLowBytes     bytesValue
	MemoryLimit      bytesValue
	MaxInFlight      int
	MaxInFlightBytes bytesValue
	MaxReads         int
	MaxWrites        int
	MaxImports       int
	MaxConnections   int
	BodyMemory       bytesValue
	RequestTimeout   time.Duration
	MaxTimeout       time.Duration
	ShutdownTimeout  time.Duration

	LogFormat string
	LogLevel  string

	// sources says of each setting where it came from, by the flag's name.
	sources map[string]string
}

// The words that --log-store takes.
const (
	logStoreBolt    = "bolt"
	logStoreRocksDB = "rocksdb"
)

var nodeIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Numbers below which nothing works, and which are nobody's wish.
const (
	minTimeout      = 10 * time.Millisecond
	minSnapshotLog  = 64 << 10
	minInFlight     = 1 << 20
	minBodyMemory   = 16 << 20
	minMemoryBudget = 64 << 20
)

// register declares every setting once. The flag's name is the YAML key, and
// in capitals with SNIPDB_ in front the environment variable.
func (c *Config) register(f *pflag.FlagSet) {
	host, _ := os.Hostname()
	f.StringVar(&c.NodeID, "node-id", host, "this node's name in the cluster; never changes")
	f.StringVar(&c.DataDir, "data-dir", "data", "the directory with everything this node keeps")
	f.StringVar(&c.HTTPAddr, "http-addr", "127.0.0.1:8001", "where the HTTP API listens")
	f.StringVar(&c.HTTPAdvertise, "http-advertise", "", "the API's base URL for others (default: from --http-addr)")
	f.StringVar(&c.RaftAddr, "raft-addr", "127.0.0.1:7001", "where the other nodes connect to")
	f.StringVar(&c.RaftAdvertise, "raft-advertise", "", "host:port for the other nodes (default: from --raft-addr)")
	f.IntVar(&c.BootstrapExpect, "bootstrap-expect", 0, "how many nodes a new cluster waits for; the same on all of them")
	f.StringSliceVar(&c.Join, "join", nil, "base URLs of nodes of the cluster, this one's may be among them")
	f.BoolVar(&c.Learner, "learner", false, "never vote: serve reads only")
	f.BoolVar(&c.Insecure, "insecure", false, "listen beyond loopback in clear; for networks where everyone may do everything")
	c.registerRaft(f)
	c.registerStorage(f)
	c.registerLimits(f)
	f.StringVar(&c.LogFormat, "log-format", "text", "how log lines look: text or json")
	f.StringVar(&c.LogLevel, "log-level", "info", "the least important line that is logged: debug, info, warn or error")
}

func (c *Config) registerRaft(f *pflag.FlagSet) {
	f.DurationVar(&c.HeartbeatTimeout, "heartbeat-timeout", 1500*time.Millisecond, "a follower that hears nothing for this long asks for votes")
	f.DurationVar(&c.ElectionTimeout, "election-timeout", 2*time.Second, "a candidate that has not won after this long tries again")
	f.DurationVar(&c.LeaderLeaseTimeout, "leader-lease-timeout", 1250*time.Millisecond, "a leader that has reached no quorum for this long steps down")
	f.DurationVar(&c.TickInterval, "tick-interval", 10*time.Second, "how often the leader moves the replicated clock, and all nodes mark the hash of their state")
	f.DurationVar(&c.StateCheckInterval, "state-check-interval", 5*time.Second, "how often the node compares the hash of its state with the others'")
	f.DurationVar(&c.PollInterval, "poll-interval", 250*time.Millisecond, "how often a node asks how far the leader is, for bounded reads")
	f.DurationVar(&c.PromoteAfter, "promote-after", 3*time.Second, "how long a new node must have kept up before it may vote")
	f.DurationVar(&c.LogWriteLimit, "log-write-limit", 10*time.Second, "a node whose log takes longer than this for one write ends itself")
	f.BoolVar(&c.GroupCommit, "group-commit", true, "let writes that wait travel together; off is for measurements")
	f.StringVar(&c.LogStore, "log-store", logStoreRocksDB, "what keeps the Raft log: rocksdb or bolt")
	c.SnapshotLogBytes = 128 << 20
	f.Var(&c.SnapshotLogBytes, "snapshot-log-bytes", "take a snapshot when the log has grown by this much")
	c.TrailingLogBytes = 64 << 20
	f.Var(&c.TrailingLogBytes, "trailing-log-bytes", "how much log to keep behind a snapshot for followers that were away; more than is written while a snapshot is installed")
	f.DurationVar(&c.SnapshotInterval, "snapshot-check-interval", 5*time.Second, "how often the log's size is looked at")
}

func (c *Config) registerStorage(f *pflag.FlagSet) {
	f.StringVar(&c.Profile, "profile", "default", "RocksDB's options for a machine of this size: small, default or large")
	f.Var(&c.Memory, "memory", "memory for RocksDB's caches and write buffers (default: by the profile)")
	f.StringArrayVar(&c.RocksDBOptions, "rocksdb-option", nil, "one option instead of the profile's, as key=value; may be repeated")
	f.Var(&c.DiskLowBytes, "disk-low-bytes", "refuse writes while less than this would be free on the disk once all that is in memory is in files (default: a twentieth of it, 64MiB to 2GiB, and at least write_buffer_manager_bytes)")
	f.Var(&c.MemoryLimit, "memory-limit", "refuse writes while the process holds nearly this much (default: the container's limit, or nine tenths of the machine)")
}

func (c *Config) registerLimits(f *pflag.FlagSet) {
	f.IntVar(&c.MaxInFlight, "max-in-flight", 4096, "how many writes wait for Raft at once")
	c.MaxInFlightBytes = 64 << 20
	f.Var(&c.MaxInFlightBytes, "max-in-flight-bytes", "how many bytes of writes wait for Raft at once")
	f.IntVar(&c.MaxReads, "max-concurrent-reads", 256, "how many reads are served at once")
	f.IntVar(&c.MaxWrites, "max-concurrent-writes", 1024, "how many writes are served at once")
	f.IntVar(&c.MaxImports, "max-concurrent-imports", 16, "how many imports are served at once")
	f.IntVar(&c.MaxConnections, "max-connections", 4096, "how many HTTP connections are open at once")
	c.BodyMemory = 256 << 20
	f.Var(&c.BodyMemory, "body-memory", "how many bytes of request bodies are in memory at once")
	f.DurationVar(&c.RequestTimeout, "request-timeout", 10*time.Second, "a request's deadline if it names none")
	f.DurationVar(&c.MaxTimeout, "max-timeout", time.Minute, "the longest deadline that a request may name")
	f.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", 15*time.Second, "how long a stop may take before what is left is cut off")
}

// complete fills in what follows from other settings.
func (c *Config) complete() {
	// With port 0 the kernel chooses; then serve knows, and not yet we.
	if c.HTTPAdvertise == "" && !strings.HasSuffix(c.HTTPAddr, ":0") {
		c.HTTPAdvertise = "http://" + c.HTTPAddr
	}
	if c.RaftAdvertise == "" && !strings.HasSuffix(c.RaftAddr, ":0") {
		c.RaftAdvertise = c.RaftAddr
	}
	// A base URL has paths put behind it.
	c.HTTPAdvertise = strings.TrimRight(c.HTTPAdvertise, "/")
	for i, base := range c.Join {
		c.Join[i] = strings.TrimRight(base, "/")
	}
	// The same command line on every node: alone, without a number to wait for
	// and with nobody to join, a node is a cluster of one.
	if c.BootstrapExpect == 0 && len(c.Join) == 0 && !c.Learner {
		c.BootstrapExpect = 1
	}
}

// Validate returns all that is wrong, each with the setting's name and bound.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !nodeIDPattern.MatchString(c.NodeID) {
		fail("--node-id is %q; it must be 1 to 64 letters, digits, '.', '-' or '_'", c.NodeID)
	}
	if c.DataDir == "" {
		fail("--data-dir is empty")
	}
	if c.BootstrapExpect < 0 {
		fail("--bootstrap-expect is %d; it must not be negative", c.BootstrapExpect)
	}
	if c.BootstrapExpect > 1 && len(c.Join) == 0 {
		fail("--bootstrap-expect is %d, but --join names nobody to expect", c.BootstrapExpect)
	}
	if c.Learner && c.BootstrapExpect > 0 {
		fail("--learner joins a cluster and never makes one; leave --bootstrap-expect away")
	}
	if c.Learner && len(c.Join) == 0 {
		fail("--learner needs --join: the cluster to learn from")
	}
	errs = append(errs, c.validateAddresses()...)
	errs = append(errs, c.validateNumbers()...)
	errs = append(errs, c.validateWords()...)
	return errors.Join(errs...)
}

func (c *Config) validateAddresses() []error {
	var errs []error
	for _, a := range []struct{ name, addr, listen string }{
		{"--http-addr", c.HTTPAddr, "the API"}, {"--raft-addr", c.RaftAddr, "the Raft port, which means full control,"},
	} {
		host, _, err := net.SplitHostPort(a.addr)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s is %q; it must be host:port", a.name, a.addr))
		case !isLoopback(host) && !c.Insecure:
			errs = append(errs, fmt.Errorf("%s is %q: %s would be open, in clear, to everyone who reaches this machine; "+
				"listen on 127.0.0.1, or say --insecure if everyone there may do everything", a.name, a.addr, a.listen))
		}
	}
	advertised := c.RaftAdvertise
	if advertised == "" {
		advertised = c.RaftAddr
	}
	if host, _, err := net.SplitHostPort(advertised); err != nil || isUnspecified(host) {
		errs = append(errs, fmt.Errorf("--raft-advertise is %q; others need a host and a port to connect to", c.RaftAdvertise))
	}
	bases := c.Join
	if c.HTTPAdvertise != "" {
		bases = append([]string{c.HTTPAdvertise}, bases...)
	}
	for _, base := range bases {
		u, err := url.Parse(base)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" ||
			u.RawQuery != "" || u.Fragment != "" || u.User != nil:
			errs = append(errs, fmt.Errorf("%q is no base URL; --http-advertise and --join take the form http://host:port", base))
		case isUnspecified(u.Hostname()):
			errs = append(errs, fmt.Errorf("%q names no host that others could connect to; give --http-advertise", base))
		}
	}
	return errs
}

func (c *Config) validateNumbers() []error {
	var errs []error
	for name, d := range map[string]time.Duration{
		"heartbeat-timeout": c.HeartbeatTimeout, "election-timeout": c.ElectionTimeout,
		"leader-lease-timeout": c.LeaderLeaseTimeout, "snapshot-check-interval": c.SnapshotInterval,
		"request-timeout": c.RequestTimeout, "max-timeout": c.MaxTimeout, "shutdown-timeout": c.ShutdownTimeout,
		"tick-interval": c.TickInterval, "state-check-interval": c.StateCheckInterval, "poll-interval": c.PollInterval, "promote-after": c.PromoteAfter,
		"log-write-limit": c.LogWriteLimit,
	} {
		if d < minTimeout {
			errs = append(errs, fmt.Errorf("--%s is %v; at least %v", name, d, minTimeout))
		}
	}
	if c.LeaderLeaseTimeout > c.HeartbeatTimeout {
		errs = append(errs, fmt.Errorf("--leader-lease-timeout is %v, more than --heartbeat-timeout, %v: two leaders could believe in themselves",
			c.LeaderLeaseTimeout, c.HeartbeatTimeout))
	}
	if c.ElectionTimeout < c.HeartbeatTimeout {
		errs = append(errs, fmt.Errorf("--election-timeout is %v, less than --heartbeat-timeout, %v", c.ElectionTimeout, c.HeartbeatTimeout))
	}
	for name, n := range map[string][2]int64{
		"snapshot-log-bytes": {int64(c.SnapshotLogBytes), minSnapshotLog}, "trailing-log-bytes": {int64(c.TrailingLogBytes), 1},
		"max-in-flight-bytes": {int64(c.MaxInFlightBytes), minInFlight}, "max-in-flight": {int64(c.MaxInFlight), 1},
		"max-concurrent-reads": {int64(c.MaxReads), 1}, "max-concurrent-writes": {int64(c.MaxWrites), 1},
		"max-concurrent-imports": {int64(c.MaxImports), 1}, "body-memory": {int64(c.BodyMemory), minBodyMemory},
		"max-connections": {int64(c.MaxConnections), 128},
	} {
		if n[0] < n[1] {
			errs = append(errs, fmt.Errorf("--%s is %d; at least %d", name, n[0], n[1]))
		}
	}
	if c.Memory != 0 && c.Memory < minMemoryBudget {
		errs = append(errs, fmt.Errorf("--memory is %d; at least %d", c.Memory, int64(minMemoryBudget)))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

func (c *Config) validateWords() []error {
	var errs []error
	for _, w := range []struct {
		name, value string
		allowed     []string
	}{
		{"--profile", c.Profile, []string{"small", "default", "large"}},
		{"--log-store", c.LogStore, []string{logStoreBolt, logStoreRocksDB}},
		{"--log-format", c.LogFormat, []string{"text", "json"}},
		{"--log-level", c.LogLevel, []string{"debug", "info", "warn", "error"}},
	} {
		if !slices.Contains(w.allowed, w.value) {
			errs = append(errs, fmt.Errorf("%s is %q; it must be one of %s", w.name, w.value, strings.Join(w.allowed, ", ")))
		}
	}
	for _, option := range c.RocksDBOptions {
		if key, value, ok := strings.Cut(option, "="); !ok || key == "" || value == "" {
			errs = append(errs, fmt.Errorf("--rocksdb-option is %q; it must be key=value", option))
		}
	}
	return errs
}

// rocksDBOverrides returns the single options as a map.
func (c *Config) rocksDBOverrides() map[string]string {
	overrides := map[string]string{}
	for _, option := range c.RocksDBOptions {
		key, value, _ := strings.Cut(option, "=")
		overrides[key] = value
	}
	return overrides
}

// level returns the log level; Validate has seen it.
func (c *Config) level() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel))
	return level
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func isUnspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}
