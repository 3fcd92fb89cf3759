// Package proctest runs snipdb as its users do, for tests: the built binary,
// as separate processes on free ports, with data directories of their own. A
// test can kill, stop, pause, wipe and restart each node, and talks to them
// over HTTP. Nothing in a process is faked.
//
// A package that uses it calls Main from its TestMain, which builds the
// binaries once and removes them at the end.
package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The timers that tests use in place of the defaults, so that a leader is
// found in a few seconds. They are long enough for two cores that other
// programs keep busy as well: a leader that waits for half a second for its
// turn, or for its disk, stays the leader, and most tests write without the
// patience of a client.
//
// A voter refuses to vote while it believes in the old leader, for one to two
// heartbeat timeouts; a candidate that was refused waits one to two election
// timeouts. With a heartbeat timeout of half the election timeout both together
// are at most three election timeouts.
const (
	Heartbeat = 800 * time.Millisecond
	Election  = 2 * Heartbeat
	Lease     = 600 * time.Millisecond
)

// The longest that the harness waits: for a process to end, and for a cluster
// to be ready. They are generous because a loaded machine is no failure.
const (
	stopWait  = 30 * time.Second
	readyWait = 60 * time.Second
	pollEvery = 20 * time.Millisecond
)

// commands are what can be built; how is in the environment of each. snipctl
// is pure Go, and is built so.
var commands = map[string]string{"snipdb": "CGO_ENABLED=1", "snipctl": "CGO_ENABLED=0"}

// built are the binaries of this test process.
var built struct {
	mu    sync.Mutex // guards what follows, and is held while one is built
	dir   string
	paths map[string]string
}

// Main runs the tests of a package and removes the binaries afterwards. Use it
// as `func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }`.
func Main(m *testing.M) int {
	code := m.Run()
	if code == 0 {
		code = leaked()
	}
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	return code
}

// The variables by which a test process is told to test another server than
// the one that it would build, and what to tell that server: see cmd/mutants.
const (
	serverVariable = "PROCTEST_SNIPDB" // a path
	toldVariable   = "PROCTEST_ENV"    // NAME=value, for every node; several with a space between
	raceVariable   = "PROCTEST_RACE"   // 1: the server is built with the race detector
	keepVariable   = "PROCTEST_KEEP"   // a folder
)

// Keep is a folder for what the tests leave, even those that pass: whoever runs
// them expects a failure, and wants to see why there was none. "" is no such
// folder; then a test that fails chooses its own.
func Keep() string { return os.Getenv(keepVariable) }

// Binary builds a command, once for each test process, and returns its path:
// "snipdb" or "snipctl", with the build tags given.
func Binary(tb testing.TB, name string, tags ...string) string {
	tb.Helper()
	if path := os.Getenv(serverVariable); path != "" && name == "snipdb" {
		return path
	}
	built.mu.Lock()
	defer built.mu.Unlock()
	race := os.Getenv(raceVariable) == "1" && commands[name] == "CGO_ENABLED=1" // it needs cgo
	key := strings.Join(append([]string{name}, tags...), "-")
	if path := built.paths[key]; path != "" {
		return path
	}
	path, err := build(key, name, tags, race)
	if err != nil {
		tb.Fatal(err)
	}
	built.paths[key] = path
	return path
}

func build(file, name string, tags []string, race bool) (string, error) {
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "snipdb-bin-")
		if err != nil {
			return "", fmt.Errorf("proctest: %w", err)
		}
		built.dir, built.paths = dir, map[string]string{}
	}
	_, source, _, _ := runtime.Caller(0)
	path := filepath.Join(built.dir, file)
	cmd := exec.Command("go", "build", fmt.Sprintf("-race=%v", race), "-tags", strings.Join(tags, ","), "-o", path, "./cmd/"+name)
	cmd.Dir, cmd.Env = filepath.Join(filepath.Dir(source), "..", ".."), append(os.Environ(), commands[name])
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("proctest: build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// Options say what cluster to start. The zero value is three voters with the
// tests' timers and small limits.
type Options struct {
	// Nodes is the number of nodes that form the cluster; 0 means 3.
	Nodes int
	// Args are given to every node, after the harness's own: a flag that is
	// given twice takes the last value.
	Args []string
	// NodeArgs, if set, are asked for once for each node, before it starts,
	// and come after Args: for flags that differ, as an address of a proxy.
	NodeArgs func(n *Node) []string
	// NodeEnv, if set, is asked once for each node for its Env.
	NodeEnv func(n *Node) []string
	// Tags are the build tags of the nodes' binary.
	Tags []string
	// Dir is where the nodes' directories are made, and stay; "" is a
	// directory that goes away with the test.
	Dir string
	// NoWait lets Start return before the nodes are ready: for one that is to
	// die before it ever is.
	NoWait bool
}

// Cluster is a set of processes. It is stopped and removed with the test.
type Cluster struct {
	Nodes []*Node
	tb    testing.TB
	dir   string
	args  []string
	each  func(n *Node) []string
	env   func(n *Node) []string
	tags  []string
	join  string
}

// Start starts a cluster and waits until all its nodes are ready.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	c := &Cluster{tb: tb, dir: o.Dir, args: o.Args, each: o.NodeArgs, env: o.NodeEnv, tags: o.Tags}
	var join []string
	for i := range o.Nodes {
		n := c.newNode(fmt.Sprintf("n%d", i+1))
		join = append(join, n.URL)
	}
	c.join = strings.Join(join, ",")
	for _, n := range c.Nodes {
		if o.Nodes > 1 {
			n.extra = []string{"--bootstrap-expect", fmt.Sprint(o.Nodes), "--join", c.join}
		}
		n.Start()
	}
	if !o.NoWait {
		c.WaitReady()
	}
	return c
}

// AddNode makes one more node that joins the running cluster; it is not started.
func (c *Cluster) AddNode(id string, args ...string) *Node {
	c.tb.Helper()
	n := c.newNode(id)
	n.extra = append([]string{"--join", c.join}, args...)
	return n
}

func (c *Cluster) newNode(id string) *Node {
	c.tb.Helper()
	n := &Node{
		ID: id, Dir: filepath.Join(c.dir, id), HTTPAddr: freeAddr(c.tb), RaftAddr: freeAddr(c.tb), cluster: c, tb: c.tb,
	}
	n.URL = "http://" + n.HTTPAddr
	if c.each != nil {
		n.own = c.each(n)
	}
	if c.env != nil {
		n.Env = c.env(n)
	}
	c.Nodes = append(c.Nodes, n)
	c.tb.Cleanup(n.cleanup)
	return n
}

// taken are the addresses that freeAddr gave out. None is given twice: a node
// that is down comes back to its own.
var taken struct {
	mu    sync.Mutex
	addrs map[string]bool
}

// freeAddr asks the kernel for a port that is free now. Between that and the
// node's start, and while a node is down, nobody else may take the port; with
// 127.0.0.1 any outgoing connection on the machine can. So each test process
// has a loopback address of its own (all of 127.0.0.0/8 is this machine), made
// of its pid, on which nobody but its nodes listens and from which nobody
// connects: the kernel connects from 127.0.0.1.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	taken.mu.Lock()
	defer taken.mu.Unlock()
	if taken.addrs == nil {
		taken.addrs = map[string]bool{}
	}
	pid := os.Getpid()
	host := net.IPv4(127, 1+byte(pid>>16)&0x7f, byte(pid>>8), byte(pid)).String()
	for {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			tb.Fatal(err)
		}
		addr := l.Addr().String()
		_ = l.Close()
		if !taken.addrs[addr] {
			taken.addrs[addr] = true
			return addr
		}
	}
}

// Node is one process, running or not.
type Node struct {
	ID, Dir, URL       string
	HTTPAddr, RaftAddr string
	// Env is added to the environment of the process at its next start.
	Env []string

	tb      testing.TB
	cluster *Cluster
	extra   []string
	own     []string // from Options.NodeArgs

	mu   sync.Mutex // guards what follows
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	exit error
	log  bytes.Buffer
}

// Write takes what the process logs.
func (n *Node) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(p)
}

// Log is all that the node has logged, over all its starts.
func (n *Node) Log() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.String()
}

// Args is the command line of the node.
func (n *Node) Args() []string {
	args := []string{
		"serve", "--node-id", n.ID, "--data-dir", n.Dir, "--http-addr", n.HTTPAddr, "--raft-addr", n.RaftAddr,
		"--heartbeat-timeout", Heartbeat.String(), "--election-timeout", Election.String(), "--leader-lease-timeout", Lease.String(),
		"--profile", "small", "--disk-low-bytes", "1MiB", "--promote-after", "500ms",
	}
	args = append(args, n.cluster.args...)
	args = append(args, n.own...)
	return append(args, n.extra...)
}

// Start starts the process and does not wait for it to be ready.
func (n *Node) Start(more ...string) {
	n.tb.Helper()
	cmd := exec.Command(Binary(n.tb, "snipdb", n.cluster.tags...), append(n.Args(), more...)...)
	cmd.Stdout, cmd.Stderr = n, n
	cmd.Env = append(append(environment(), strings.Fields(os.Getenv(toldVariable))...), n.Env...)
	// No process outlives the test, not even one that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		n.tb.Fatalf("proctest: start %s: %v", n.ID, err)
	}
	done := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.done = cmd, done
	n.mu.Unlock()
	go func() {
		err := cmd.Wait()
		n.mu.Lock()
		n.exit = err
		n.mu.Unlock()
		close(done)
	}()
}

// environment is that of this process without settings of snipdb: a node has
// those that its test gives it, and refuses to start with one that it does not
// know, as a test's own.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "SNIPDB_") })
}

// Running says whether the process is there.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Pid is the process's id.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
}

// Signal sends the process a signal.
func (n *Node) Signal(s os.Signal) {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.tb.Errorf("proctest: signal %s: %v", n.ID, err)
	}
}

// Kill ends the process with SIGKILL, as a crash would.
func (n *Node) Kill() {
	n.tb.Helper()
	n.Signal(syscall.SIGKILL)
	_ = n.Wait()
}

// Stop ends the process with SIGTERM and fails the test if it does not end
// cleanly.
func (n *Node) Stop() {
	n.tb.Helper()
	n.Signal(syscall.SIGTERM)
	if err := n.Wait(); err != nil {
		n.tb.Errorf("proctest: %s did not stop cleanly: %v", n.ID, err)
	}
}

// Wait waits until the process has ended, and returns its exit error.
func (n *Node) Wait() error {
	n.tb.Helper()
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	select {
	case <-done:
	case <-time.After(stopWait):
		n.tb.Fatalf("proctest: %s has not ended after %v", n.ID, stopWait)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.exit
}

// Wipe removes the data directory of a node that does not run.
func (n *Node) Wipe() {
	n.tb.Helper()
	if n.Running() {
		n.tb.Fatalf("proctest: wipe %s while it runs", n.ID)
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		n.tb.Fatal(err)
	}
}

// cleanup kills what still runs and shows the log of a test that failed. A node
// that had a data race fails its test, whatever that looked at.
func (n *Node) cleanup() {
	if n.Running() {
		n.Signal(syscall.SIGCONT)
		n.Kill()
	}
	if races, first := dataRaces(n.Log()); races > 0 {
		n.tb.Errorf("proctest: %s had %d data races, the first of them:\n%s", n.ID, races, first)
	}
	if n.tb.Failed() {
		n.tb.Logf("the end of the log of %s:\n%s", n.ID, tail(n.Log(), 80))
	}
}

// raceReport is how the race detector says what it found, in stderr.
var raceReport = regexp.MustCompile(`(?s)WARNING: DATA RACE\n.*?(?:\n={18}|$)`)

// dataRaces returns how many a log has, and the first.
func dataRaces(log string) (count int, first string) {
	found := raceReport.FindAllString(log, -1)
	if len(found) == 0 {
		return 0, ""
	}
	const longest = 8 << 10 // bytes; two stacks, and where the goroutines began
	return len(found), found[0][:min(longest, len(found[0]))]
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Eventually calls check until it returns nil, and fails the test with its
// last error if that takes longer than wait.
func Eventually(tb testing.TB, wait time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(wait)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not after %v: %v", what, wait, err)
		}
		time.Sleep(pollEvery) // between two looks; the deadline decides
	}
}
