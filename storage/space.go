package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Space is what the process knows of writes that a full disk held up.
type Space struct {
	Waiting int    // threads of RocksDB that wait for space now
	Waits   uint64 // how often one had to
	File    string // that the last one waited for
}

const (
	// spaceLook is how often WaitForSpace looks.
	spaceLook = 100 * time.Millisecond
	// spaceTell is how often it says that writes still wait.
	spaceTell = 30 * time.Second
	// preallocRoom is the room below which files take no space in advance:
	// room for each database's new log, several times over.
	preallocRoom = 512 * mib
)

// WaitForSpace makes the databases that are opened from now on meet a full
// disk by waiting: a write that finds no space is repeated until there is some,
// and RocksDB never learns of it. It knows no way back from a failed write but
// to open the database again, and Debian's library ends the process in the next
// use of that file.
//
// Reads go on, writes stand still, and when there is space all goes on where it
// was. Any other error of a write, and every error of a sync, is told to fatal,
// which must end the process; RocksDB does not see it either.
//
// The goroutine that looks ends with the context; the waiting does not.
func WaitForSpace(ctx context.Context, log *slog.Logger, fatal func(error)) (done <-chan struct{}) {
	setSpaceWait(true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watchSpace(ctx, log.With("component", "storage"), fatal)
	}()
	return ended
}

// watchSpace tells people of what goes on below.
func watchSpace(ctx context.Context, log *slog.Logger, fatal func(error)) {
	t := time.NewTicker(spaceLook)
	defer t.Stop()
	var since, told time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s, failure := spaceState()
		switch {
		case failure != "":
			fatal(fmt.Errorf("storage: %s: check the disk; after a restart all is there that was acknowledged", failure))
			return
		case s.Waiting == 0 && !since.IsZero():
			log.Info("the disk has space again: writes go on", "waited", time.Since(since).Round(time.Millisecond))
			since, told = time.Time{}, time.Time{}
		case s.Waiting > 0 && time.Since(told) >= spaceTell:
			if since.IsZero() {
				since = time.Now()
			}
			told = time.Now()
			log.Error("no space left on the data disk: writes of this node wait until there is some; reads go on", "file", s.File, "waiting", s.Waiting)
		}
	}
}

// SpaceNow returns what is known of writes that wait for space.
func SpaceNow() Space {
	s, _ := spaceState()
	return s
}

// OutOfSpace says whether a write waits for space now. It costs next to nothing.
func OutOfSpace() bool { return spaceWaiting() > 0 }

// ErrNoSpace is for a process that must end while writes wait for space.
var ErrNoSpace = errors.New("no space left on the data disk: the process ends without closing its databases; nothing that was acknowledged is lost")

// SetRoom says how much of the free space is for compactions, which write their
// outputs before their inputs are removed: one that needs more is put off. The
// rest is for the log and for what is in memory and must go to files. With
// little room, files also take no more space in advance.
func (s *Shared) SetRoom(bytes uint64) {
	if s == nil || s.n == nil {
		return
	}
	s.n.setRoom(bytes)
	setPreallocate(bytes >= preallocRoom)
}

// MemtableBudget is the bound on all memtables of the state that the options
// give, set or by the profile.
func (o Options) MemtableBudget() (int64, error) {
	r, err := o.resolve()
	if err != nil {
		return 0, err
	}
	return r.general("write_buffer_manager_bytes").num, nil
}

// Unflushed is how many bytes are in memory and will go to files: what the
// database still takes of the disk if nothing more is written. 0 once closed.
func (db *DB) Unflushed() uint64 {
	if db.enter("read properties of") != nil {
		return 0
	}
	defer db.pins.release()
	var sum uint64
	for cf := range familyCount {
		sum += db.familyProperty(cf, "cur-size-all-mem-tables")
	}
	return sum
}

// Unflushed is the same of the log.
func (l *Log) Unflushed() uint64 {
	if l.enter("read properties of") != nil {
		return 0
	}
	defer l.pins.release()
	v, _ := l.n.db.GetIntProperty("rocksdb.cur-size-all-mem-tables")
	return v
}
