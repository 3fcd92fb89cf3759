package storage

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/snipdb/snipdb/storage/snippet"
)

// model is what a database should hold, as plain maps.
type model struct {
	colls    map[string]snippet.Collection
	docs     map[uint32]map[string]modelDoc
	system   map[string]string
	idem     map[[32]byte]modelIdem
	nextID   uint32
	ordinals map[uint32]uint64
}

type modelDoc struct {
	d        snippet.Document
	snippets []snippet.Snippet
}

type modelIdem struct {
	expires int64
	index   uint64
	seq     uint32
	row     string
}

func newModel() *model {
	return &model{colls: map[string]snippet.Collection{}, docs: map[uint32]map[string]modelDoc{}, system: map[string]string{},
		idem: map[[32]byte]modelIdem{}, nextID: 1, ordinals: map[uint32]uint64{}}
}

func (m *model) clone() *model {
	c := &model{colls: maps.Clone(m.colls), docs: map[uint32]map[string]modelDoc{}, system: maps.Clone(m.system),
		idem: maps.Clone(m.idem), nextID: m.nextID, ordinals: maps.Clone(m.ordinals)}
	for id, docs := range m.docs {
		c.docs[id] = map[string]modelDoc{}
		for k, d := range docs {
			d.snippets = slices.Clone(d.snippets)
			c.docs[id][k] = d
		}
	}
	return c
}

// machine drives a database and the model with the same random operations.
type machine struct {
	dir    string
	opts   Options
	shared *Shared
	db     *DB
	b      *Batch
	now    *model // with the batch's writes
	// committed is what views must show; held are older views with their models.
	committed *model
	held      []heldView
	saves     []savedModel
	index     uint64
	seq       uint32
}

type heldView struct {
	v *View
	m *model
}

type savedModel struct {
	token int
	m     *model
}

var (
	collNames = []string{"a", "b"}
	docIDs    = []string{"d", "d1", "d10", "d2", "e"}
	owners    = []snippet.Owner{{}, {Type: "agent", ID: "x"}, {Type: "agent", ID: "xy"}, {Type: "agentx", ID: "y"}}
	sysKeys   = []string{"clock", "member/1", "member/2", "memberz"}
)

// TestModel holds Batch, View, Commit and reopening against the model.
func TestModel(t *testing.T) {
	opts := small()
	// Tiny memtables and few snippets per range deletion make all layers of
	// RocksDB take part.
	opts.Overrides = map[string]string{"write_buffer_size": "64KiB", "level0_file_num_compaction_trigger": "2", "min_blob_size": "16"}
	shared := newShared(t, opts)
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "model")
		must(t, err)
		m := &machine{dir: dir, opts: opts, shared: shared, now: newModel(), committed: newModel()}
		m.open(rt)
		defer m.close(rt)
		for range 2 {
			m.putCollection(rt)
		}
		for range 4 {
			m.putDocument(rt)
			m.putSnippet(rt)
		}
		writes := map[string]func(*rapid.T){
			"put collection":    m.putCollection,
			"delete collection": m.deleteCollection,
			"put document":      m.putDocument,
			"delete document":   m.deleteDocument,
			"put snippet":       m.putSnippet,
			"put text":          m.putText,
			"put embedding":     m.putEmbedding,
			"delete snippet":    m.deleteSnippet,
			"system":            m.putSystem,
			"delete system":     m.deleteSystem,
			"put idempotency":   m.putIdempotency,
			"expire":            m.expire,
		}
		actions := maps.Clone(writes)
		actions["some writes"] = func(rt *rapid.T) { m.some(rt, writes) }
		actions["writes taken back"] = func(rt *rapid.T) {
			m.savepoint(rt)
			m.some(rt, writes)
			m.check(rt)
			m.rollbackTo(len(m.saves) - 1)
		}
		actions["savepoint"] = m.savepoint
		actions["rollback"] = m.rollback
		actions["commit"] = m.commit
		actions["abandon"] = m.abandon
		actions["flush"] = func(rt *rapid.T) { noErr(rt, m.db.Flush()) }
		actions["hold view"] = m.holdView
		actions["reopen"] = m.reopen
		actions[""] = m.check
		rt.Repeat(actions)
	})
}

// some does a few writes, so that one batch writes the same keys again.
func (m *machine) some(rt *rapid.T, writes map[string]func(*rapid.T)) {
	names := slices.Sorted(maps.Keys(writes))
	for range rapid.IntRange(1, 6).Draw(rt, "writes") {
		writes[rapid.SampledFrom(names).Draw(rt, "write")](rt)
	}
}

func noErr(rt *rapid.T, err error) {
	if err != nil {
		rt.Fatal(err)
	}
}

func (m *machine) open(rt *rapid.T) {
	db, err := Open(m.dir, m.opts, m.shared)
	noErr(rt, err)
	if got := db.Position().Index; got != m.index {
		rt.Fatalf("the position after opening is %d, want %d", got, m.index)
	}
	m.db, m.b = db, db.NewBatch()
}

func (m *machine) close(rt *rapid.T) {
	m.b.Destroy()
	for _, h := range m.held {
		m.checkView(rt, h.v, h.m)
		h.v.Close()
	}
	m.held = nil
	noErr(rt, m.db.Close())
}

func (m *machine) reopen(rt *rapid.T) {
	m.close(rt)
	m.now, m.saves = m.committed.clone(), nil
	m.open(rt)
}

func (m *machine) commit(rt *rapid.T) {
	m.index++
	m.b.MarkPoint(Position{Index: m.index, Term: 1})
	noErr(rt, m.db.Commit(m.b, Position{Index: m.index, Term: 1}))
	m.committed = m.now.clone()
	m.next()
	v, err := m.db.View()
	noErr(rt, err)
	defer v.Close()
	m.checkView(rt, v, m.committed)
}

func (m *machine) abandon(*rapid.T) {
	m.now = m.committed.clone()
	m.next()
}

func (m *machine) next() {
	m.b.Destroy()
	m.b, m.saves = m.db.NewBatch(), nil
}

func (m *machine) holdView(rt *rapid.T) {
	v, err := m.db.View()
	noErr(rt, err)
	m.held = append(m.held, heldView{v, m.committed.clone()})
	if len(m.held) > 3 {
		m.checkView(rt, m.held[0].v, m.held[0].m)
		m.held[0].v.Close()
		m.held = m.held[1:]
	}
}

func (m *machine) savepoint(*rapid.T) {
	m.saves = append(m.saves, savedModel{m.b.Savepoint(), m.now.clone()})
}

func (m *machine) rollback(rt *rapid.T) {
	if len(m.saves) == 0 {
		return
	}
	m.rollbackTo(rapid.IntRange(0, len(m.saves)-1).Draw(rt, "savepoint"))
}

func (m *machine) rollbackTo(i int) {
	m.b.Rollback(m.saves[i].token)
	m.now = m.saves[i].m.clone()
	m.saves = m.saves[:i+1]
}

func (m *machine) putCollection(rt *rapid.T) {
	name := rapid.SampledFrom(collNames).Draw(rt, "name")
	c, exists := m.now.colls[name]
	if !exists {
		id, err := m.b.NewCollectionID()
		noErr(rt, err)
		if id != m.now.nextID {
			rt.Fatalf("collection id %d, want %d", id, m.now.nextID)
		}
		m.now.nextID++
		c = snippet.Collection{Name: name, ID: id, Metric: snippet.Dot}
		m.now.docs[id] = map[string]modelDoc{}
	}
	c.Documents = rapid.Uint64Max(1000).Draw(rt, "documents")
	noErr(rt, m.b.PutCollection(&c))
	m.now.colls[name] = c
}

// drawCollection takes a collection, and makes one if there is none.
func (m *machine) drawCollection(rt *rapid.T) snippet.Collection {
	if len(m.now.colls) == 0 {
		m.putCollection(rt)
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.now.colls))).Draw(rt, "collection")
	return m.now.colls[name]
}

func (m *machine) deleteCollection(rt *rapid.T) {
	c := m.drawCollection(rt)
	noErr(rt, m.b.DeleteCollection(&c))
	delete(m.now.colls, c.Name)
	delete(m.now.docs, c.ID)
	delete(m.now.ordinals, c.ID)
}

// drawDocument takes a document of a collection, and makes one if there is none.
func (m *machine) drawDocument(rt *rapid.T) (snippet.Collection, modelDoc) {
	c := m.drawCollection(rt)
	if len(m.now.docs[c.ID]) == 0 {
		m.putDocumentIn(rt, c)
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(m.now.docs[c.ID]))).Draw(rt, "document")
	d := m.now.docs[c.ID][id]
	d.snippets = slices.Clone(d.snippets)
	return c, d
}

// store writes the document's record and keeps it in the model.
func (m *machine) store(rt *rapid.T, c snippet.Collection, d modelDoc, created bool) {
	d.d.SnippetCount, d.d.EmbeddedCount = len(d.snippets), 0
	for _, s := range d.snippets {
		if s.Embedded {
			d.d.EmbeddedCount++
		}
	}
	noErr(rt, m.b.PutDocument(c.ID, &d.d, created))
	m.now.docs[c.ID][d.d.ID] = d
}

func (m *machine) putDocument(rt *rapid.T) { m.putDocumentIn(rt, m.drawCollection(rt)) }

func (m *machine) putDocumentIn(rt *rapid.T, c snippet.Collection) {
	id := rapid.SampledFrom(docIDs).Draw(rt, "id")
	d, exists := m.now.docs[c.ID][id]
	if !exists {
		ordinal, err := m.b.NewOrdinal(&c)
		noErr(rt, err)
		m.now.ordinals[c.ID]++
		if ordinal != m.now.ordinals[c.ID] {
			rt.Fatalf("ordinal %d, want %d", ordinal, m.now.ordinals[c.ID])
		}
		d.d = snippet.Document{ID: id, Ordinal: ordinal, Owner: rapid.SampledFrom(owners).Draw(rt, "owner")}
	}
	d.d.Title = rapid.StringN(0, 8, -1).Draw(rt, "title")
	d.d.Metadata = []byte(rapid.SampledFrom([]string{`{"k":"v"}`, `{"k":1}`, `{"l":"v"}`}).Draw(rt, "metadata"))
	m.store(rt, c, d, !exists)
}

func (m *machine) deleteDocument(rt *rapid.T) {
	c, d := m.drawDocument(rt)
	noErr(rt, m.b.DeleteDocument(c.ID, &d.d))
	delete(m.now.docs[c.ID], d.d.ID)
}

func drawSnippet(rt *rapid.T, index int) snippet.Snippet {
	text := rapid.SampledFrom([]string{"", "x", strings.Repeat("long text ", 900)}).Draw(rt, "text")
	s := snippet.Snippet{Index: index, Content: text, ContentHash: snippet.HashContent(text), Revision: rapid.Uint64Max(9).Draw(rt, "revision")}
	if rapid.Bool().Draw(rt, "embedded") {
		s.Embedded, s.Model, s.Vector = true, "m", testVector(rapid.IntRange(1, 20).Draw(rt, "dimension"), index)
	}
	return s
}

func (m *machine) putSnippet(rt *rapid.T) {
	c, d := m.drawDocument(rt)
	i := rapid.IntRange(0, len(d.snippets)).Draw(rt, "index")
	s := drawSnippet(rt, i)
	noErr(rt, m.b.PutSnippet(c.ID, &d.d, &s, i == len(d.snippets)))
	if i == len(d.snippets) {
		d.snippets = append(d.snippets, s)
	} else {
		d.snippets[i] = s
	}
	m.store(rt, c, d, false)
}

// drawIndex takes a snippet of a document, and makes one if there is none.
func (m *machine) drawIndex(rt *rapid.T) (snippet.Collection, modelDoc, int) {
	c, d := m.drawDocument(rt)
	if len(d.snippets) == 0 {
		s := drawSnippet(rt, 0)
		noErr(rt, m.b.PutSnippet(c.ID, &d.d, &s, true))
		d.snippets = append(d.snippets, s)
		m.store(rt, c, d, false)
	}
	return c, d, rapid.IntRange(0, len(d.snippets)-1).Draw(rt, "index")
}

func (m *machine) putText(rt *rapid.T) {
	c, d, i := m.drawIndex(rt)
	s := &d.snippets[i]
	s.Content = rapid.StringN(0, 5, -1).Draw(rt, "text")
	s.ContentHash = snippet.HashContent(s.Content)
	noErr(rt, m.b.PutSnippetText(c.ID, &d.d, s))
	m.store(rt, c, d, false)
}

func (m *machine) putEmbedding(rt *rapid.T) {
	c, d, i := m.drawIndex(rt)
	s := &d.snippets[i]
	s.Embedded, s.Model, s.Revision, s.Vector = true, "n", s.Revision+1, testVector(7, i)
	noErr(rt, m.b.PutEmbedding(c.ID, &d.d, i, "n", s.Vector, s.Revision))
	m.store(rt, c, d, false)
}

func (m *machine) deleteSnippet(rt *rapid.T) {
	c, d, _ := m.drawIndex(rt)
	i := len(d.snippets) - 1
	noErr(rt, m.b.DeleteSnippet(c.ID, &d.d, i))
	d.snippets = d.snippets[:i]
	m.store(rt, c, d, false)
}

func (m *machine) putSystem(rt *rapid.T) {
	k := rapid.SampledFrom(sysKeys).Draw(rt, "key")
	v := rapid.StringN(0, 4, -1).Draw(rt, "value")
	m.b.PutSystem(k, []byte(v))
	m.now.system[k] = v
}

func (m *machine) deleteSystem(rt *rapid.T) {
	k := rapid.SampledFrom(sysKeys).Draw(rt, "key")
	m.b.DeleteSystem(k)
	delete(m.now.system, k)
}

func idemHash(n int) [32]byte { return [32]byte{byte(n)} }

func (m *machine) putIdempotency(rt *rapid.T) {
	h := idemHash(rapid.IntRange(0, 5).Draw(rt, "key"))
	m.seq++
	r := modelIdem{expires: rapid.Int64Range(-5, 20).Draw(rt, "expires"), index: m.index + 1, seq: m.seq, row: fmt.Sprint(m.seq)}
	noErr(rt, m.b.PutIdempotency(h, r.expires, r.index, r.seq, []byte(r.row)))
	m.now.idem[h] = r
}

func (m *machine) expire(rt *rapid.T) {
	now := rapid.Int64Range(-5, 20).Draw(rt, "now")
	maxRows := rapid.Int64Range(0, 6).Draw(rt, "max rows")
	atMost := rapid.IntRange(0, 4).Draw(rt, "at most")
	type row struct {
		h [32]byte
		r modelIdem
	}
	var queue []row
	for h, r := range m.now.idem {
		queue = append(queue, row{h, r})
	}
	sort.Slice(queue, func(i, j int) bool {
		a, b := queue[i].r, queue[j].r
		if a.expires != b.expires {
			return a.expires < b.expires
		}
		if a.index != b.index {
			return a.index < b.index
		}
		return a.seq < b.seq
	})
	want := 0
	for _, r := range queue {
		if want == atMost || (r.r.expires > now && int64(len(m.now.idem)) <= maxRows) {
			break
		}
		delete(m.now.idem, r.h)
		want++
	}
	got, err := m.b.ExpireIdempotency(now, maxRows, atMost)
	noErr(rt, err)
	if got != want {
		rt.Fatalf("%d rows expired, want %d", got, want)
	}
}
