package storage

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/snipdb/snipdb/storage/snippet"
)

// View reads one state of a database: what was committed when the view was
// made, whatever is committed meanwhile. Its methods may be called from any
// goroutine; results are Go-owned copies. A view keeps old data on disk, so
// it is for one request: close it.
//
// Invariant S4: all reads of a view, and its position, are of one RocksDB
// snapshot.
type View struct {
	db       *DB
	snap     *snapshot
	position Position
	closed   atomic.Bool
	// after is called when the view is closed, for the store's own pin.
	after func()
	// mu keeps Close from freeing the snapshot under a running call. Readers
	// of one view share it; the writer has nothing to do with it.
	mu sync.RWMutex
}

// View makes a view of the newest state. It takes no lock that a commit
// needs for longer than RocksDB needs to add a snapshot to its list.
func (db *DB) View() (*View, error) {
	if err := db.enter("view"); err != nil {
		return nil, err
	}
	v := &View{db: db, snap: db.n.newSnapshot()}
	row, err := db.n.get(cfMeta, v.snap, keyPosition, nil)
	if err == nil {
		v.position, err = parsePosition(row)
	}
	if err != nil {
		v.Close()
		return nil, fmt.Errorf("storage: view: %w", err)
	}
	return v, nil
}

// Position is that of the last commit which the view sees.
func (v *View) Position() Position { return v.position }

// Close frees the view. It waits for calls that are running, and may be
// called again.
func (v *View) Close() {
	if v == nil || v.closed.Swap(true) {
		return
	}
	v.mu.Lock()
	v.db.n.releaseSnapshot(v.snap)
	v.snap = nil
	v.mu.Unlock()
	v.db.pins.release()
	if v.after != nil {
		v.after()
	}
}

// session is one call on a view, with its scratch memory.
type session struct {
	v       *View
	scratch *scratch
}

// scratch is memory for keys and values that are decoded at once.
type scratch struct{ key, value []byte }

var scratches = sync.Pool{New: func() any { return &scratch{key: make([]byte, 0, keyBytes), value: make([]byte, 4096)} }}

// begin starts a call; end it.
func (v *View) begin() (session, error) {
	v.mu.RLock()
	if v.snap == nil {
		v.mu.RUnlock()
		return session{}, fmt.Errorf("storage: read view: %w", ErrClosed)
	}
	return session{v: v, scratch: scratches.Get().(*scratch)}, nil
}

func (s session) end() {
	if cap(s.scratch.value) <= maxKeptValue {
		scratches.Put(s.scratch)
	}
	s.v.mu.RUnlock()
}

func (s session) key() []byte { return s.scratch.key[:0] }

func (s session) get(cf int, key []byte) ([]byte, error) {
	value, err := s.v.db.n.get(cf, s.v.snap, key, s.scratch.value)
	if err != nil {
		return nil, fmt.Errorf("storage: read %s: %w", familyName(cf), err)
	}
	if cap(value) > cap(s.scratch.value) {
		s.scratch.value = value
	}
	return value, nil
}

// scan opens a scan of the view's state.
func (s session) scan(cf int, lo, hi []byte, flags int) *scan {
	return s.v.db.n.newScan(cf, s.v.snap, lo, hi, flags, nil)
}

// Collection returns a collection by name, or nil.
func (v *View) Collection(name string) (*snippet.Collection, error) {
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	return readCollection(s, name)
}

// Collections returns up to limit collections whose names come after a name,
// in order; limit <= 0 means all.
func (v *View) Collections(after string, limit int) ([]snippet.Collection, error) {
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	lo := appendCollectionKey(nil, after)
	if after != "" {
		lo = append(lo, 0) // the first key behind it
	}
	sc := s.scan(cfMeta, lo, []byte{metaCollection + 1}, 0)
	defer sc.close()
	var list []snippet.Collection
	for limit <= 0 || len(list) < limit {
		key, value, ok := sc.next()
		if !ok {
			break
		}
		c, err := decodeCollection(string(key[1:]), value)
		if err != nil {
			return nil, err
		}
		list = append(list, *c)
	}
	return list, scanError(cfMeta, sc)
}

func scanError(cf int, sc *scan) error {
	if sc.err != nil {
		return fmt.Errorf("storage: scan %s: %w", familyName(cf), sc.err)
	}
	return nil
}

// Document returns a document, or nil.
func (v *View) Document(coll uint32, id string) (*snippet.Document, error) {
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	return readDocument(s, coll, id)
}

// System returns a system row, or nil.
func (v *View) System(key string) ([]byte, error) {
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	return readSystem(s, key)
}

// SystemPrefix returns the system rows whose keys begin with prefix, in order.
func (v *View) SystemPrefix(prefix string) ([]KV, error) {
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	lo := appendSystemKey(nil, prefix)
	sc := s.scan(cfMeta, lo, prefixEnd(lo), 0)
	defer sc.close()
	var rows []KV
	for key, value, ok := sc.next(); ok; key, value, ok = sc.next() {
		rows = append(rows, KV{Key: string(key[1:]), Value: append([]byte{}, value...)})
	}
	return rows, scanError(cfMeta, sc)
}

// fewSnippets is up to how many snippets are read by key: opening a scan
// costs as much as some point reads.
const fewSnippets = 2

// checkEvery is after how many rows a long read looks at its context.
const checkEvery = 256

// Snippets returns up to limit snippets of a document from index from on;
// limit <= 0 means all. d must come from the same view.
func (v *View) Snippets(ctx context.Context, coll uint32, d *snippet.Document, from, limit int, withVectors bool) ([]snippet.Snippet, error) {
	s, err := v.begin()
	if err != nil {
		return nil, err
	}
	defer s.end()
	from = max(from, 0)
	to := d.SnippetCount
	if limit > 0 {
		to = min(to, from+limit)
	}
	if to <= from {
		return nil, nil
	}
	if to-from <= fewSnippets {
		return s.snippetsByKey(coll, d, from, to, withVectors)
	}
	return s.snippetsByScan(ctx, coll, d, from, to, withVectors)
}

func missingSnippet(d *snippet.Document, index int) error {
	return fmt.Errorf("storage: read document %q: snippet %d of %d is missing: %w", d.ID, index, d.SnippetCount, ErrCorrupt)
}

func (s session) snippetsByKey(coll uint32, d *snippet.Document, from, to int, withVectors bool) ([]snippet.Snippet, error) {
	list := make([]snippet.Snippet, 0, to-from)
	for i := from; i < to; i++ {
		sn, err := readSnippet(s, coll, d, i, withVectors)
		if err != nil {
			return nil, err
		}
		if sn == nil {
			return nil, missingSnippet(d, i)
		}
		list = append(list, *sn)
	}
	return list, nil
}

// snippetsByScan reads the rows of the families side by side: their keys are
// the same.
func (s session) snippetsByScan(ctx context.Context, coll uint32, d *snippet.Document, from, to int, withVectors bool) ([]snippet.Snippet, error) {
	lo, hi := appendSnippetKey(nil, coll, d, from), appendSnippetKey(nil, coll, d, to)
	metas := s.scan(cfSnippetMeta, lo, hi, 0)
	defer metas.close()
	texts := s.scan(cfText, lo, hi, 0)
	defer texts.close()
	var vectors *scan
	if withVectors && d.EmbeddedCount > 0 {
		vectors = s.scan(cfVectors, lo, hi, 0)
		defer vectors.close()
	}
	list := make([]snippet.Snippet, 0, to-from)
	want := append([]byte{}, lo...)
	for i := from; i < to; i++ {
		if i%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("storage: read document %q: %w", d.ID, err)
			}
		}
		want = appendSnippetKey(want[:0], coll, d, i)
		row, ok := metas.at(want)
		text, textOK := texts.at(want)
		if !ok || !textOK {
			if err := firstError(scanError(cfSnippetMeta, metas), scanError(cfText, texts)); err != nil {
				return nil, err
			}
			return nil, missingSnippet(d, i)
		}
		meta, err := decodeSnippetMeta(row)
		if err != nil {
			return nil, err
		}
		var vector []byte
		if vectors != nil && meta.Embedded {
			if vector, ok = vectors.at(want); !ok && vectors.err != nil {
				return nil, scanError(cfVectors, vectors)
			}
		}
		sn, err := joinSnippet(i, meta, text, vector, withVectors)
		if err != nil {
			return nil, fmt.Errorf("storage: document %q: %w", d.ID, err)
		}
		list = append(list, *sn)
	}
	return list, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Dump calls fn for every row of the visible state, in order of family and
// key. It leaves out the position and the format: two nodes with the same
// state give the same rows. fn must copy what it keeps.
func (v *View) Dump(ctx context.Context, fn func(cf, key, value []byte) error) error {
	s, err := v.begin()
	if err != nil {
		return err
	}
	defer s.end()
	for cf := range familyCount {
		if err := s.dumpFamily(ctx, cf, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s session) dumpFamily(ctx context.Context, cf int, fn func(cf, key, value []byte) error) error {
	name := []byte(familyName(cf))
	sc := s.scan(cf, nil, nil, scanPast)
	defer sc.close()
	for i := 0; ; i++ {
		if i%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("storage: dump: %w", err)
			}
		}
		key, value, ok := sc.next()
		if !ok {
			return scanError(cf, sc)
		}
		if cf == cfMeta && (string(key) == string(keyPosition) || string(key) == string(keyFormat)) {
			continue
		}
		if err := fn(name, key, value); err != nil {
			return err
		}
	}
}
