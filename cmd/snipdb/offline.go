package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/snipdb/snipdb/cluster"
	"github.com/snipdb/snipdb/fsm"
	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
)

// stopped is a node that does not run, opened by an offline command.
type stopped struct {
	dir       *dataDir
	shared    *storage.Shared
	store     *storage.Store
	snapshots *snapshot.Store
	fsm       *fsm.FSM
	log       cluster.LogStore
	logKind   string
}

// openStopped opens what the start-up check needs, in the order of serve.
func openStopped(path string, options storage.Options, logger *slog.Logger) (_ *stopped, err error) {
	n := new(stopped)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if n.dir, err = openExisting(path); err != nil {
		return n, err
	}
	if n.logKind, err = n.dir.existingLog(); err != nil {
		return n, err
	}
	if n.logKind == "" {
		return n, fmt.Errorf("there is no Raft log in %s: the node has never run, or its log is lost", n.dir.log())
	}
	if n.shared, err = storage.NewShared(options); err != nil {
		return n, err
	}
	if n.store, err = storage.OpenStore(n.dir.state(), options, n.shared); err != nil {
		return n, err
	}
	if n.snapshots, err = snapshot.NewStore(n.dir.snapshots(), snapshot.Options{Logger: logger}); err != nil {
		return n, err
	}
	if n.fsm, err = fsm.New(n.store, n.snapshots, fsm.Options{Logger: logger}); err != nil {
		return n, err
	}
	n.log, err = n.dir.openLog(n.logKind)
	return n, err
}

func (n *stopped) parts() cluster.Parts {
	return cluster.Parts{StateMachine: n.fsm, Snapshots: n.snapshots, Log: n.log}
}

// close gives everything back; what was not opened is skipped.
func (n *stopped) close() error {
	var errs []error
	if n.log != nil {
		errs = append(errs, n.log.Close())
	}
	if n.fsm != nil {
		n.fsm.Close()
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.shared != nil {
		n.shared.Close()
	}
	if n.dir != nil {
		errs = append(errs, n.dir.close())
	}
	return errors.Join(errs...)
}

// quiet logs nothing but what an operator at the keyboard must see.
func quiet(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
