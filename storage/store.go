package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// The names within a store's directory.
const (
	pointerFile   = "CURRENT_DB"
	pointerTmp    = pointerFile + ".tmp"
	dbPrefix      = "db-"
	scratchPrefix = "restore-"
)

// pointerPattern is what the pointer file holds: the name of a database's
// directory, never a path.
var pointerPattern = regexp.MustCompile(`^db-([1-9][0-9]{0,17})$`)

// Store is the live database of a node and its directory. A restored state
// takes its place while readers are still in the old one.
//
//	<dir>/CURRENT_DB    names the live database: "db-3"
//	<dir>/db-3/         the live database
//	<dir>/restore-7/    a scratch directory, gone after a restart
//
// Invariant S5: CURRENT_DB names a complete, verified database on stable
// storage at every moment after the first open.
type Store struct {
	dir    string
	opts   Options
	shared *Shared
	log    *slog.Logger
	// current is the live generation; nil once the store is closed.
	current atomic.Pointer[generation]
	// changes serialises Install, NewScratch and Close. No reader and no
	// commit takes it.
	changes sync.Mutex
	closed  bool
	// serial is the last number used for a directory.
	serial int
	// retiring counts old generations that wait for their readers.
	retiring sync.WaitGroup
	// step is called before each step of Install, in tests.
	step func(name string) error
}

// generation is one database that is or was the live one.
type generation struct {
	db   *DB
	name string
	pins *pins
}

// OpenStore opens a store: it removes what a crash left half-made and opens
// the live database, or makes the first one. It refuses, with ErrCorrupt
// wrapped, to guess: a store with databases but without a pointer file must
// be looked at by a person.
func OpenStore(dir string, o Options, s *Shared) (*Store, error) {
	if o.ReadOnly {
		return nil, fmt.Errorf("storage: open store %s: %w: open the live database with Open", dir, ErrReadOnly)
	}
	st := &Store{dir: dir, opts: o, shared: s, log: o.logger(), step: func(string) error { return nil }}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("storage: open store: %w", err)
	}
	name, err := readPointer(dir)
	if err != nil {
		return nil, fmt.Errorf("storage: open store %s: %w", dir, err)
	}
	if name == "" {
		if err := st.checkUnused(); err != nil {
			return nil, fmt.Errorf("storage: open store %s: %w", dir, err)
		}
	}
	if err := st.sweep(name); err != nil {
		return nil, fmt.Errorf("storage: open store %s: %w", dir, err)
	}
	if name == "" {
		name, err = st.first()
	} else if _, statErr := os.Stat(filepath.Join(dir, name)); statErr != nil {
		err = fmt.Errorf("%s names %s, which can't be read: %w: %w", pointerFile, name, ErrCorrupt, statErr)
	}
	if err != nil {
		return nil, fmt.Errorf("storage: open store %s: %w", dir, err)
	}
	st.serial = max(st.serial, serialOf(name))
	db, err := Open(filepath.Join(dir, name), o, s)
	if err != nil {
		return nil, err
	}
	st.current.Store(&generation{db: db, name: name, pins: newPins()})
	return st, nil
}

// LiveDir returns the directory of a store's live database, for tools that
// open it for reading, or "" if there is none.
func LiveDir(dir string) (string, error) {
	name, err := readPointer(dir)
	if err != nil || name == "" {
		return "", err
	}
	return filepath.Join(dir, name), nil
}

// readPointer returns what the pointer file names, or "" if there is no file.
func readPointer(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, pointerFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	name := strings.TrimSuffix(string(b), "\n")
	if !pointerPattern.MatchString(name) {
		return "", fmt.Errorf("%s holds %q, which is no name of a database: %w", pointerFile, name, ErrCorrupt)
	}
	return name, nil
}

func serialOf(name string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(strings.TrimPrefix(name, dbPrefix), scratchPrefix))
	return n
}

// checkUnused accepts a store without a pointer file only if nothing was ever
// committed in it: a crash during the very first open.
func (st *Store) checkUnused() error {
	entries, err := os.ReadDir(st.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !pointerPattern.MatchString(e.Name()) {
			continue
		}
		o := st.opts
		o.ReadOnly = true
		db, err := Open(filepath.Join(st.dir, e.Name()), o, st.shared)
		if err != nil {
			// Only a database that was never opened completely fails so.
			if errors.Is(err, ErrFormat) || strings.Contains(err.Error(), "does not exist") || strings.Contains(err.Error(), "No such file") {
				continue
			}
			return err
		}
		p := db.Position()
		if err := db.Close(); err != nil {
			return err
		}
		if p != (Position{}) {
			return fmt.Errorf("%s is missing, but %s holds data up to %s: if that is the live state, write its name into %s: %w",
				pointerFile, e.Name(), p, filepath.Join(st.dir, pointerFile), ErrCorrupt)
		}
	}
	return nil
}

// sweep removes everything half-made: all scratch directories, and all
// databases but the live one.
func (st *Store) sweep(live string) error {
	entries, err := os.ReadDir(st.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		old := pointerPattern.MatchString(name) && name != live
		if !old && !strings.HasPrefix(name, scratchPrefix) && name != pointerTmp {
			continue
		}
		st.serial = max(st.serial, serialOf(name))
		failpoint.Hit(failpoint.SweepBefore)
		st.log.Info("removing what an earlier run left", "component", "storage", "path", filepath.Join(st.dir, name))
		if err := os.RemoveAll(filepath.Join(st.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// first makes the first database and then the pointer to it.
func (st *Store) first() (string, error) {
	st.serial++
	name := dbPrefix + strconv.Itoa(st.serial)
	db, err := Open(filepath.Join(st.dir, name), st.opts, st.shared)
	if err != nil {
		return "", err
	}
	if err := db.Close(); err != nil {
		return "", err
	}
	return name, st.writePointer(name)
}

// writePointer makes the pointer file name a database, durably and at once.
func (st *Store) writePointer(name string) error {
	tmp := filepath.Join(st.dir, pointerTmp)
	if err := writeSynced(tmp, []byte(name+"\n")); err != nil {
		return err
	}
	if err := failpoint.Error(failpoint.PointerBeforeRename); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(st.dir, pointerFile)); err != nil {
		return err
	}
	failpoint.Hit(failpoint.PointerAfterRename)
	return syncDir(st.dir)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if !mutant.On(mutant.PointerUnsynced) {
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncTree makes all files of a database's directory and their names durable.
func syncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file: %w", filepath.Join(dir, e.Name()), ErrCorrupt)
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// pin returns the live generation, pinned, or nil once the store is closed.
func (st *Store) pin() *generation {
	for {
		g := st.current.Load()
		if g == nil || g.pins.acquire() {
			return g
		}
		// It was replaced between the two steps: take the new one.
	}
}

// DB pins the live database and returns it with the function that lets it go,
// which must be called once; more calls do nothing. After Close it returns a
// nil DB and a function that does nothing.
func (st *Store) DB() (*DB, func()) {
	g := st.pin()
	if g == nil {
		return nil, func() {}
	}
	var once sync.Once
	return g.db, func() { once.Do(g.pins.release) }
}

// View makes a view of the live database; it stays valid, on the same state,
// if another database is installed meanwhile.
func (st *Store) View() (*View, error) {
	g := st.pin()
	if g == nil {
		return nil, fmt.Errorf("storage: view: %w", ErrClosed)
	}
	v, err := g.db.View()
	if err != nil {
		g.pins.release()
		return nil, err
	}
	v.after = g.pins.release
	return v, nil
}

// Position returns the position of the live database; zero once closed.
func (st *Store) Position() Position {
	if g := st.current.Load(); g != nil {
		return g.db.Position()
	}
	return Position{}
}

// NewScratch makes an empty directory on the store's file system, for the
// files of a database that is to be installed. Install takes it over; a
// scratch that is not installed may be removed, and is at the next open.
func (st *Store) NewScratch() (string, error) {
	st.changes.Lock()
	defer st.changes.Unlock()
	if st.closed {
		return "", fmt.Errorf("storage: new scratch directory: %w", ErrClosed)
	}
	st.serial++
	dir := filepath.Join(st.dir, scratchPrefix+strconv.Itoa(st.serial))
	if err := os.Mkdir(dir, 0o750); err != nil {
		return "", fmt.Errorf("storage: new scratch directory: %w", err)
	}
	return dir, nil
}

// Install makes the database in a scratch directory the live one: it reads
// all of it to verify it, makes it durable, points CURRENT_DB to it, and
// replaces the handle. Readers of the old database keep it until they leave;
// then it is closed and deleted. After an error the old database is the live
// one, untouched, here and after a restart, and the scratch is removed.
func (st *Store) Install(scratch string) error {
	st.changes.Lock()
	defer st.changes.Unlock()
	if st.closed {
		return fmt.Errorf("storage: install: %w", ErrClosed)
	}
	name := filepath.Base(scratch)
	if filepath.Dir(filepath.Clean(scratch)) != filepath.Clean(st.dir) || !strings.HasPrefix(name, scratchPrefix) {
		return fmt.Errorf("storage: install %s: it is not a scratch directory of %s", scratch, st.dir)
	}
	old := st.current.Load()
	g, err := st.prepare(scratch)
	if err == nil {
		err = st.point(g, old)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(scratch))
		return fmt.Errorf("storage: install %s: %w", scratch, err)
	}
	failpoint.Hit(failpoint.SwapBefore)
	st.current.Store(g)
	failpoint.Hit(failpoint.SwapAfter)
	st.retire(old)
	return nil
}

// prepare verifies a scratch directory, gives it its final name and opens it.
func (st *Store) prepare(scratch string) (*generation, error) {
	if err := st.step("verify"); err != nil {
		return nil, err
	}
	want, _, err := VerifyCheckpoint(scratch, st.opts)
	if err != nil {
		return nil, err
	}
	if err := st.step("sync"); err != nil {
		return nil, err
	}
	if err := syncTree(scratch); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.InstallVerified)
	st.serial++
	g := &generation{name: dbPrefix + strconv.Itoa(st.serial), pins: newPins()}
	dir := filepath.Join(st.dir, g.name)
	if err := st.step("rename"); err != nil {
		return nil, err
	}
	if err := os.Rename(scratch, dir); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.InstallAfterRename)
	err = st.step("open")
	if err == nil {
		g.db, err = Open(dir, st.opts, st.shared)
	}
	if err == nil && g.db.Position() != want {
		err = errors.Join(fmt.Errorf("the position is %s, it was %s: %w", g.db.Position(), want, ErrCorrupt), g.db.Close())
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return g, nil
}

// point makes the pointer file name the new generation. After an error it
// names the old one again and the new one is gone; if not even that can be
// written, both directories stay, because the file may name either.
func (st *Store) point(g, old *generation) error {
	dir := filepath.Join(st.dir, g.name)
	err := st.step("sync dir")
	if err == nil {
		err = syncDir(st.dir) // the name of the new directory, before the pointer to it
	}
	if err == nil {
		err = st.step("pointer")
	}
	if err != nil {
		return errors.Join(err, g.db.Close(), os.RemoveAll(dir))
	}
	err = st.writePointer(g.name)
	if err == nil {
		err = st.step("swap")
	}
	if err == nil {
		return nil
	}
	if back := st.writePointer(old.name); back != nil {
		return errors.Join(err, fmt.Errorf("the pointer could not be set back: %w", back), g.db.Close())
	}
	return errors.Join(err, g.db.Close(), os.RemoveAll(dir))
}

// retire closes and deletes a replaced generation when its last reader leaves.
func (st *Store) retire(g *generation) {
	g.pins.close()
	st.retiring.Add(1)
	go func() {
		defer st.retiring.Done()
		<-g.pins.drained // Close bounds this wait, and the readers their own
		if err := g.db.Close(); err != nil {
			// A batch or a view of it was never closed. Its memory and files
			// stay until the process ends; the next open removes the files.
			st.log.Error("an old database can't be closed", "component", "storage", "db", g.name, "err", err)
			return
		}
		failpoint.Hit(failpoint.RetireBefore)
		if err := os.RemoveAll(filepath.Join(st.dir, g.name)); err != nil {
			st.log.Error("an old database can't be removed; the next start does it", "component", "storage", "db", g.name, "err", err)
		}
		failpoint.Hit(failpoint.RetireAfter)
	}()
}

// Close waits until all readers have left, for Options.CloseTimeout at most,
// and closes the store. If some have not, it returns an error and leaves
// their databases open. Calling it again does nothing.
func (st *Store) Close() error {
	st.changes.Lock()
	defer st.changes.Unlock()
	if st.closed {
		return nil
	}
	st.closed = true
	g := st.current.Swap(nil)
	g.pins.close()
	err := g.pins.wait(st.opts.closeTimeout())
	if err == nil {
		err = g.db.Close()
	}
	return errors.Join(wrapClose(st.dir, err), st.waitRetired())
}

func wrapClose(dir string, err error) error {
	if err != nil {
		return fmt.Errorf("storage: close store %s: %w", dir, err)
	}
	return nil
}

// waitRetired waits for the readers of old generations.
func (st *Store) waitRetired() error {
	done := newPins()
	done.acquire()
	done.close()
	go func() {
		st.retiring.Wait()
		done.release()
	}()
	return wrapClose(st.dir, done.wait(st.opts.closeTimeout()))
}

// Databases returns the names of the database directories that exist, for
// status and tests: more than one while old readers stay.
func (st *Store) Databases() ([]string, error) {
	entries, err := os.ReadDir(st.dir)
	if err != nil {
		return nil, fmt.Errorf("storage: list databases: %w", err)
	}
	var names []string
	for _, e := range entries {
		if pointerPattern.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
