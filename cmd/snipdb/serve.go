package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/snipdb/snipdb/cluster"
	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm"
	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/httpapi"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// server is one running node, from the lock of its directory up to its API.
// What was not started is nil.
type server struct {
	config   *Config
	log      *slog.Logger
	registry *prometheus.Registry
	clock    wallClock

	dir       *dataDir
	listener  net.Listener
	shared    *storage.Shared
	store     *storage.Store
	snapshots *snapshot.Store
	fsm       *fsm.FSM
	node      *cluster.Node
	api       *httpapi.Server
	// freeMemory undoes the limit of Go's memory.
	freeMemory func()
	// endSpace ends the goroutine that tells of writes that wait for space.
	endSpace func()
	// served receives what the API's accept loop returned, once.
	served chan error
}

// run serves until the context ends, and then stops. It is all of `snipdb
// serve`; tests call it as well, on port 0. ready is told when the API answers.
func run(ctx context.Context, config *Config, output io.Writer, ready func(*server)) error {
	s := &server{config: config, log: newLogger(config, output), registry: newRegistry()}
	if failpoint.Enabled {
		s.log.Warn("this binary was built with failpoints: it is for crash tests, and for nothing else")
	}
	if mutant.Enabled {
		s.log.Warn("this binary was built with mutants: it can make mistakes on purpose")
	}
	if err := failpoint.Arm(os.Environ()); err != nil {
		return err
	}
	err := s.start(ctx)
	if err == nil {
		s.log.Info("the API answers", "node", config.NodeID, "http", s.config.HTTPAdvertise,
			"raft", s.node.Identity().RaftAddr, "data_dir", config.DataDir, "version", version)
		if ready != nil {
			ready(s)
		}
		select {
		case <-ctx.Done():
			s.log.Info("stopping")
		case err = <-s.served:
			err = fmt.Errorf("the API ended by itself: %w", err)
		}
	}
	return errors.Join(err, s.stop())
}

// start builds the node from the bottom up. Each step needs the ones before it.
func (s *server) start(ctx context.Context) (err error) {
	// Another major version of RocksDB would misread the files: look first.
	if err := storage.CheckLinkedVersion(); err != nil {
		return err
	}
	// The lock before anything is opened, because opening cleans up.
	if s.dir, err = openDataDir(s.config.DataDir); err != nil {
		return err
	}
	// The API's port before the cluster, because the others are told of it;
	// it answers last, when there is something to answer with.
	if s.listener, err = net.Listen("tcp", s.config.HTTPAddr); err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	if s.config.HTTPAdvertise == "" {
		s.config.HTTPAdvertise = "http://" + s.listener.Addr().String()
	}
	// A node that waits for space before it can answer would keep its clients
	// waiting too; one that is not there sends them to another.
	defer s.endWithoutSpace()()
	if err := s.startStorage(); err != nil {
		return err
	}
	// The cluster checks that state, log and snapshots fit together, and
	// starts Raft, which begins to apply at once.
	if err := s.startCluster(ctx); err != nil {
		return err
	}
	return s.startAPI()
}

// startStorage opens what the state machine stands on, and the state machine.
func (s *server) startStorage() (err error) {
	options := s.storageOptions()
	// Before anything is opened: how a file meets a full disk is decided then.
	s.watchSpace()
	// What the process has once: cache, memory budget, rate limiter.
	if s.shared, err = storage.NewShared(options); err != nil {
		return err
	}
	if s.store, err = storage.OpenStore(s.dir.state(), options, s.shared); err != nil {
		return err
	}
	if err := s.registry.Register(newStorageCollector(s.store)); err != nil {
		return fmt.Errorf("register the storage's metrics: %w", err)
	}
	if s.snapshots, err = snapshot.NewStore(s.dir.snapshots(), snapshot.Options{Logger: s.log, Now: s.clock.now}); err != nil {
		return err
	}
	budget, err := options.MemoryBudget()
	if err != nil {
		return err
	}
	s.freeMemory = limitGoMemory(s.memoryLimit(), budget)
	s.registry.MustRegister(newNodeMetrics(s))
	s.fsm, err = fsm.New(s.store, s.snapshots, fsm.Options{Logger: s.log, Registerer: s.registry, Fatal: s.fatal})
	return err
}

// memoryLimit is what the process may hold, 0 if nobody says.
func (s *server) memoryLimit() uint64 {
	if s.config.MemoryLimit > 0 {
		return uint64(s.config.MemoryLimit)
	}
	return memoryLimit()
}

func (s *server) storageOptions() storage.Options {
	options := storage.DefaultOptions()
	options.Profile = storage.Profile(s.config.Profile)
	options.MemoryBytes = int64(s.config.Memory)
	options.Overrides = s.config.rocksDBOverrides()
	options.ProfileSource, options.MemorySource = s.config.sources["profile"], s.config.sources["memory"]
	options.OverrideSource = map[string]string{}
	for name := range options.Overrides {
		options.OverrideSource[name] = s.config.sources["rocksdb-option"]
	}
	options.Logger = s.log
	return options
}

func (s *server) startCluster(ctx context.Context) error {
	logOptions, err := s.storageOptions().LogOptions()
	if err != nil {
		return err
	}
	lost, err := s.dir.lacksLog(s.config.LogStore)
	if err != nil {
		return err
	}
	if lost {
		if err := cluster.NoteLostLog(s.dir.node(), s.config.NodeID); err != nil {
			return err
		}
	}
	log, err := s.dir.openLogWith(s.config.LogStore, logOptions)
	if err != nil {
		return err
	}
	parts := cluster.Parts{
		StateMachine: s.fsm, Snapshots: s.snapshots, Log: log, Discover: discoverer(),
		Pressure:  func() (float64, string) { return pressure(s.store) },
		MemoryLow: memoryGate(s.memoryLimit()),
		DiskFree:  s.dir.free,
		// What the state still takes of the disk, and what it may take for its
		// compactions; the log is asked by the cluster.
		DiskPending: func() uint64 { return unflushed(s.store) },
		DiskRoom:    s.shared.SetRoom,
		OutOfSpace:  storage.OutOfSpace,
		// A checkpoint flushes everything, and nothing is applied meanwhile.
		BeforeSnapshot: func() error { return flushState(s.store) },
		StateHash:      func() (int, contract.HashPoint, []contract.HashPoint) { return stateHash(s.fsm) },
		VerifyState: func(ctx context.Context, rate int64, progress func(rows, bytes int64)) (contract.Verification, error) {
			return verifyState(ctx, s.store, rate, progress)
		},
		Storage: func() (contract.StorageStatus, uint64, error) { return storageStatus(s.store) },
	}
	s.node, err = cluster.Open(ctx, s.clusterOptions(), parts)
	return err
}

func (s *server) clusterOptions() cluster.Options {
	c, o := s.config, cluster.DefaultOptions()
	o.NodeID, o.DataDir, o.Version = c.NodeID, s.dir.node(), version
	o.RaftAddr, o.RaftAdvertise, o.HTTPAdvertise = c.RaftAddr, c.RaftAdvertise, c.HTTPAdvertise
	o.BootstrapExpect, o.Join, o.Learner = c.BootstrapExpect, c.Join, c.Learner
	o.HeartbeatTimeout, o.ElectionTimeout, o.LeaderLease = c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout
	o.TickInterval, o.PollInterval, o.PromoteAfter = c.TickInterval, c.PollInterval, c.PromoteAfter
	o.StateCheck = c.StateCheckInterval
	o.LogWriteLimit, o.GroupCommit = c.LogWriteLimit, c.GroupCommit
	o.SnapshotBytes, o.TrailingBytes, o.SnapshotCheck = uint64(c.SnapshotLogBytes), uint64(c.TrailingLogBytes), c.SnapshotInterval
	o.MaxInflightCommands, o.MaxInflightBytes = c.MaxInFlight, int64(c.MaxInFlightBytes)
	o.DiskLowBytes = uint64(c.DiskLowBytes)
	// A compaction of what was flushed last takes about as much as all memtables.
	if budget, err := s.storageOptions().MemtableBudget(); err == nil {
		o.DiskLowFloor = uint64(budget)
	}
	o.Logger, o.Registerer, o.Fatal, o.Now = s.log, s.registry, s.fatal, s.clock.now
	return o
}

func (s *server) startAPI() (err error) {
	b := &backend{Node: s.node, fsm: s.fsm, bootstrapExpect: s.config.BootstrapExpect}
	o := httpapi.DefaultOptions()
	o.Logger, o.Registerer, o.Gatherer, o.Version, o.Now = s.log, s.registry, s.registry, version, s.clock.now
	o.MaxConnections, o.ReadConcurrency = s.config.MaxConnections, s.config.MaxReads
	o.WriteConcurrency, o.BulkConcurrency = s.config.MaxWrites, s.config.MaxImports
	o.BodyMemory = int64(s.config.BodyMemory)
	o.DefaultTimeout, o.MaxTimeout = s.config.RequestTimeout, s.config.MaxTimeout
	if s.api, err = httpapi.New(b, b, o); err != nil {
		return err
	}
	// Shutdown ends this goroutine, and stop calls it.
	s.served = make(chan error, 1)
	go func() { s.served <- s.api.Serve(s.listener) }()
	return nil
}

// stop undoes start from the top down; what was never started is skipped.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.ShutdownTimeout)
	defer cancel()
	defer s.endWithoutSpace()()
	var errs []error
	// No new requests; those in progress end while Raft can still answer them.
	if s.api != nil {
		errs = append(errs, s.api.Shutdown(ctx))
	}
	if s.listener != nil {
		// Shutdown has closed it, unless the API never came to serve it.
		if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	// The leadership goes to another node before this one is away, so that the
	// others need no election. Then Raft stops, and with it all applying.
	if s.node != nil {
		errs = append(errs, s.node.Close(ctx))
	}
	// Whoever still waits for an index is sent away.
	if s.fsm != nil {
		s.fsm.Close()
	}
	// Nobody writes any more, and the last view is given back: RocksDB flushes.
	if s.store != nil {
		failpoint.Hit(failpoint.CloseStoreBefore)
		errs = append(errs, s.store.Close())
		failpoint.Hit(failpoint.CloseStoreAfter)
	}
	// Its cache and budget are used until the last data base is closed.
	if s.shared != nil {
		s.shared.Close()
	}
	if s.freeMemory != nil {
		s.freeMemory()
	}
	if s.endSpace != nil {
		s.endSpace()
	}
	// The lock last: now the directory may be another's.
	if s.dir != nil {
		errs = append(errs, s.dir.close())
	}
	return errors.Join(errs...)
}

// fatal ends the process when going on could lose or fork data. No step of
// stop runs: a state that can't be trusted is left as it is for the next start,
// which checks it.
func (s *server) fatal(err error) {
	s.log.Error("this node can't go on; the process ends so that it does no harm", "error", err)
	os.Exit(1)
}

// watchSpace makes the databases wait for space on a full disk, and tells of it.
func (s *server) watchSpace() {
	ctx, cancel := context.WithCancel(context.Background())
	done := storage.WaitForSpace(ctx, s.log, s.fatal)
	s.endSpace = func() {
		cancel()
		<-done
	}
}

// endWithoutSpace ends the process if a step of start or stop waits for space on
// a full disk: it could wait for ever. What waits was not acknowledged. The
// function that it returns ends the watch.
func (s *server) endWithoutSpace() (end func()) {
	done := make(chan struct{})
	go func() {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for times := 0; times < 3; {
			select {
			case <-done:
				return
			case <-t.C:
			}
			if times++; !storage.OutOfSpace() {
				times = 0
			}
		}
		s.fatal(storage.ErrNoSpace)
	}()
	return func() { close(done) }
}

// newLogger logs to the output, in the form and from the level that is wished.
func newLogger(config *Config, output io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: config.level()}
	if config.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(output, options))
	}
	return slog.New(slog.NewTextHandler(output, options))
}

// newRegistry is the one registry of the process, with what Go and the kernel
// say of it. It is handed to every package and is never the global one.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "snipdb_build_info", Help: "1, with the version as a label.",
			ConstLabels: prometheus.Labels{"version": version, "rocksdb": strings.TrimSpace(storage.LinkedVersion())},
		}, func() float64 { return 1 }),
	)
	return registry
}
