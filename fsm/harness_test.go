package fsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/fsm/snapshot"
	"github.com/snipdb/snipdb/storage"
	"github.com/snipdb/snipdb/storage/snippet"
)

// propertyRuns is how many random logs the property test tries unless
// -rapid.checks says otherwise: about ten seconds.
const propertyRuns = "40"

func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "rapid.checks" })
	if !chosen {
		if err := flag.Set("rapid.checks", propertyRuns); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// t0 is when the tests' commands are proposed.
const t0 = int64(1_700_000_000_000)

// machine is one node's state machine on a real RocksDB.
type machine struct {
	tb     testing.TB
	dir    string
	rules  rules
	noHash bool // storage.Options.NoStateHash
	shared *storage.Shared
	store  *storage.Store
	snaps  *snapshot.Store
	f      *FSM
	fatal  error // of the last call of Options.Fatal

	index, term uint64 // of the last entry that apply made
}

// sharedFor is one memory budget for all databases of a test.
func sharedFor(tb testing.TB) *storage.Shared {
	tb.Helper()
	s, err := storage.NewShared(storage.Options{Profile: storage.Small})
	if err != nil {
		tb.Fatalf("NewShared: %v", err)
	}
	return s
}

// newMachine opens a machine in a fresh directory and closes it with the test.
func newMachine(tb testing.TB) *machine {
	tb.Helper()
	shared := sharedFor(tb)
	m := &machine{tb: tb, dir: tb.TempDir(), rules: formatRules(), shared: shared, term: 1}
	m.open()
	tb.Cleanup(func() {
		m.close()
		shared.Close()
	})
	return m
}

func (m *machine) open() {
	m.tb.Helper()
	var err error
	if m.store, err = storage.OpenStore(filepath.Join(m.dir, "state"), storage.Options{Profile: storage.Small, CloseTimeout: 10 * time.Second, NoStateHash: m.noHash}, m.shared); err != nil {
		m.tb.Fatalf("OpenStore: %v", err)
	}
	if m.snaps, err = snapshot.NewStore(filepath.Join(m.dir, "snapshots"), snapshot.Options{}); err != nil {
		m.tb.Fatalf("NewStore: %v", err)
	}
	if m.f, err = New(m.store, m.snaps, Options{Fatal: func(err error) { m.fatal = err }}); err != nil {
		m.tb.Fatalf("New: %v", err)
	}
	m.f.rules = m.rules
}

func (m *machine) close() {
	m.tb.Helper()
	m.f.Close()
	if err := m.store.Close(); err != nil {
		m.tb.Errorf("close the store: %v", err)
	}
}

// restart closes and opens the machine on the same directory.
func (m *machine) restart() {
	m.tb.Helper()
	m.close()
	m.open()
}

// entryOf encodes one entry.
func entryOf(tb testing.TB, commands ...*command.Command) []byte {
	tb.Helper()
	data := command.NewEntry(0)
	for _, c := range commands {
		b, err := command.Encode(c)
		if err != nil {
			tb.Fatalf("encode: %v", err)
		}
		data = command.AppendCommand(data, b)
	}
	return data
}

// apply applies commands as one entry, the next one, and returns its results.
func (m *machine) apply(commands ...*command.Command) []*command.Result {
	m.tb.Helper()
	m.index++
	answer := m.f.Apply(&raft.Log{Index: m.index, Term: m.term, Type: raft.LogCommand, Data: entryOf(m.tb, commands...)})
	if m.fatal != nil {
		m.tb.Fatalf("entry %d: Fatal: %v", m.index, m.fatal)
	}
	return answer.([]*command.Result)
}

// one applies one command.
func (m *machine) one(c *command.Command) *command.Result {
	m.tb.Helper()
	return m.apply(c)[0]
}

// must applies mutations one by one and fails the test if one is refused.
func (m *machine) must(mutations ...*command.Mutation) *command.Result {
	m.tb.Helper()
	var r *command.Result
	for _, mu := range mutations {
		if r = m.one(mutation(mu)); !r.GetOutcome().Applied() {
			m.tb.Fatalf("%T: %s: %s", mu.GetOp(), r.GetOutcome(), r.GetDetail())
		}
	}
	return r
}

// dump returns the visible state, one row a line.
func (m *machine) dump() string {
	m.tb.Helper()
	v, err := m.store.View()
	if err != nil {
		m.tb.Fatalf("View: %v", err)
	}
	defer v.Close()
	var b strings.Builder
	err = v.Dump(context.Background(), func(cf, key, value []byte) error {
		if len(value) > 64 {
			sum := sha256.Sum256(value)
			value = sum[:]
		}
		_, err := fmt.Fprintf(&b, "%s %q = %x\n", cf, key, value)
		return err
	})
	if err != nil {
		m.tb.Fatalf("Dump: %v", err)
	}
	return b.String()
}

// verified reads every row, compares the state hash that was kept with one made
// of them, and returns what the machine says of it.
func (m *machine) verified() (storage.Point, []storage.Point) {
	m.tb.Helper()
	v, err := m.store.View()
	if err != nil {
		m.tb.Fatalf("View: %v", err)
	}
	defer v.Close()
	r, err := v.Verify(context.Background(), storage.VerifyOptions{})
	if err != nil {
		m.tb.Fatalf("Verify: %v", err)
	}
	now, points := m.f.StateHash()
	if !r.OK() || now != (storage.Point{Position: r.Position, Sum: r.Computed}) {
		m.tb.Fatalf("the state hash is %v, a scan finds %+v", now, r)
	}
	return now, points
}

// document reads a document with its snippets; nil if there is none.
func (m *machine) document(collection, id string) (*snippet.Document, []snippet.Snippet) {
	m.tb.Helper()
	v, err := m.store.View()
	if err != nil {
		m.tb.Fatalf("View: %v", err)
	}
	defer v.Close()
	c, err := v.Collection(collection)
	if err != nil || c == nil {
		return nil, nil
	}
	d, err := v.Document(c.ID, id)
	if err != nil || d == nil {
		return nil, nil
	}
	s, err := v.Snippets(context.Background(), c.ID, d, 0, d.SnippetCount, true)
	if err != nil {
		m.tb.Fatalf("Snippets: %v", err)
	}
	return d, s
}

func (m *machine) collection(name string) *snippet.Collection {
	m.tb.Helper()
	v, err := m.store.View()
	if err != nil {
		m.tb.Fatalf("View: %v", err)
	}
	defer v.Close()
	c, err := v.Collection(name)
	if err != nil {
		m.tb.Fatalf("Collection: %v", err)
	}
	return c
}

var configuration = raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: "n1", Address: "h:1"}}}

// snapshot takes a snapshot as Raft does and returns its id.
func (m *machine) snapshot() string {
	m.tb.Helper()
	snap, err := m.f.Snapshot()
	if err != nil {
		m.tb.Fatalf("Snapshot: %v", err)
	}
	defer snap.Release()
	index, term := m.f.Applied()
	sink, err := m.snaps.Create(raft.SnapshotVersionMax, index, term, configuration, 1, nil)
	if err != nil {
		m.tb.Fatalf("Create: %v", err)
	}
	if err := snap.Persist(sink); err != nil {
		m.tb.Fatalf("Persist: %v", err)
	}
	if err := sink.Close(); err != nil {
		m.tb.Fatalf("Close: %v", err)
	}
	return sink.ID()
}

// stream returns the bytes of a snapshot.
func (m *machine) stream(id string) []byte {
	m.tb.Helper()
	_, r, err := m.snaps.Open(id)
	if err != nil {
		m.tb.Fatalf("Open: %v", err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		m.tb.Fatalf("read snapshot: %v", err)
	}
	return b
}

// counting wraps a reader as raft does before it calls Restore.
type counting struct{ io.ReadCloser }

func (c counting) WrappedReadCloser() io.ReadCloser { return c.ReadCloser }

// restoreOwn restores a snapshot of this machine's own store.
func (m *machine) restoreOwn(id string) error {
	m.tb.Helper()
	_, r, err := m.snaps.Open(id)
	if err != nil {
		m.tb.Fatalf("Open: %v", err)
	}
	defer r.Close()
	return m.f.Restore(counting{r})
}

// receive installs another machine's snapshot as a follower does: through
// its own snapshot store.
func (m *machine) receive(from *machine, id string) error {
	m.tb.Helper()
	meta, r, err := from.snaps.Open(id)
	if err != nil {
		m.tb.Fatalf("Open: %v", err)
	}
	defer r.Close()
	sink, err := m.snaps.Create(raft.SnapshotVersionMax, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		m.tb.Fatalf("Create: %v", err)
	}
	if _, err := io.Copy(sink, r); err != nil {
		_ = sink.Cancel()
		return err
	}
	if err := sink.Close(); err != nil {
		return err
	}
	return m.restoreOwn(sink.ID())
}

func foreign(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }

// ---- commands ----

func mutation(m *command.Mutation) *command.Command {
	if m.Collection == "" {
		m.Collection = "c"
	}
	return &command.Command{ProposedMs: t0, Op: &command.Command_Mutation{Mutation: m}}
}

func batchOf(mutations ...*command.Mutation) *command.Command {
	for _, m := range mutations {
		mutation(m)
	}
	return &command.Command{ProposedMs: t0, Op: &command.Command_Batch{Batch: &command.Batch{Mutations: mutations}}}
}

func at(ms int64, c *command.Command) *command.Command {
	c.ProposedMs = ms
	return c
}

func keyed(key, request string, c *command.Command) *command.Command {
	sum := sha256.Sum256([]byte(request))
	c.Idempotency = &command.Idempotency{Key: key, RequestHash: sum[:], RequestId: "id of " + request}
	return c
}

func when(c *command.Condition, m *command.Mutation) *command.Mutation {
	m.Condition = c
	return m
}

func in(collection string, m *command.Mutation) *command.Mutation {
	m.Collection = collection
	return m
}

// text is a snippet without a vector; embedded one with the vector 1, 2, … of
// the dimension.
func text(content string) *command.SnippetInput {
	h := snippet.HashContent(content)
	return &command.SnippetInput{Content: content, ContentHash: h[:]}
}

func vector(dimension int) []byte {
	v := make([]float32, dimension)
	for i := range v {
		v[i] = float32(i + 1)
	}
	return snippet.VectorOf(v)
}

func embedded(content string, dimension int) *command.SnippetInput {
	s := text(content)
	s.Vector, s.Model = vector(dimension), "m"
	return s
}

func putDoc(id string, snippets ...*command.SnippetInput) *command.Mutation {
	return &command.Mutation{Op: &command.Mutation_PutDocument{PutDocument: &command.PutDocument{Id: id, Snippets: snippets, Metric: "cosine"}}}
}

func ownedDoc(id, owner string, snippets ...*command.SnippetInput) *command.Mutation {
	m := putDoc(id, snippets...)
	m.GetPutDocument().Owner = &command.Owner{Type: "agent", Id: owner}
	return m
}

func patchDoc(id, title, metadata string) *command.Mutation {
	p := &command.PatchDocument{Id: id}
	if title != "" {
		p.Title = proto.String(title)
	}
	if metadata != "" {
		p.MetadataPatch = []byte(metadata)
	}
	return &command.Mutation{Op: &command.Mutation_PatchDocument{PatchDocument: p}}
}

func deleteDoc(id string) *command.Mutation {
	return &command.Mutation{Op: &command.Mutation_DeleteDocument{DeleteDocument: &command.DeleteDocument{Id: id}}}
}

func putSnip(id string, index uint32, s *command.SnippetInput) *command.Mutation {
	return &command.Mutation{Op: &command.Mutation_PutSnippet{PutSnippet: &command.PutSnippet{Id: id, Index: index, Snippet: s, Metric: "cosine"}}}
}

func patchSnip(p *command.PatchSnippet) *command.Mutation {
	if p.Content != nil && p.ContentHash == nil {
		h := snippet.HashContent(p.GetContent())
		p.ContentHash = h[:]
	}
	p.Metric = "cosine"
	return &command.Mutation{Op: &command.Mutation_PatchSnippet{PatchSnippet: p}}
}

func deleteSnip(id string, index uint32) *command.Mutation {
	return &command.Mutation{Op: &command.Mutation_DeleteSnippet{DeleteSnippet: &command.DeleteSnippet{Id: id, Index: index}}}
}

func embed(id string, dimension int, indexes ...uint32) *command.Mutation {
	p := &command.PutEmbeddings{Id: id, Model: "e", Metric: "cosine"}
	for _, i := range indexes {
		p.Embeddings = append(p.Embeddings, &command.EmbeddingInput{Index: i, Vector: vector(dimension)})
	}
	return &command.Mutation{Op: &command.Mutation_PutEmbeddings{PutEmbeddings: p}}
}

func deleteOwner(owner string) *command.Mutation {
	return &command.Mutation{Op: &command.Mutation_DeleteOwner{DeleteOwner: &command.DeleteOwner{Owner: &command.Owner{Type: "agent", Id: owner}}}}
}

func putColl(p *command.PutCollection) *command.Mutation {
	return &command.Mutation{Op: &command.Mutation_PutCollection{PutCollection: p}}
}

func deleteColl() *command.Mutation {
	return &command.Mutation{Op: &command.Mutation_DeleteCollection{DeleteCollection: &command.DeleteCollection{}}}
}

func tick() *command.Command {
	return &command.Command{ProposedMs: t0, Op: &command.Command_Tick{Tick: &command.Tick{NodeId: "n1"}}}
}

func initCluster(id string) *command.Command {
	return &command.Command{ProposedMs: t0, Op: &command.Command_InitCluster{InitCluster: &command.InitCluster{ClusterId: id}}}
}

func setMember(id, addr string) *command.Command {
	return &command.Command{ProposedMs: t0, Op: &command.Command_SetMember{SetMember: &command.SetMember{Member: &command.Member{NodeId: id, RaftAddr: addr}}}}
}

func removeMember(id string) *command.Command {
	return &command.Command{ProposedMs: t0, Op: &command.Command_RemoveMember{RemoveMember: &command.RemoveMember{NodeId: id}}}
}

func setLimits(limits ...*command.RateLimit) *command.Command {
	return &command.Command{ProposedMs: t0, Op: &command.Command_SetLimits{SetLimits: &command.SetLimits{RateLimits: limits}}}
}

// show is a result for messages; its spaces are made the same every time.
func show(r *command.Result) string {
	return strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(r)), " ")
}

// wantEntries fails the test if dir holds other names.
func wantEntries(tb testing.TB, dir string, want int) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	if len(entries) != want {
		tb.Errorf("%s holds %v, want %d entries", dir, entries, want)
	}
}

var errCorruptRow = storage.ErrCorrupt

// keyHash is what a key becomes in storage.
func keyHash(key string) [32]byte { return sha256.Sum256([]byte(key)) }
