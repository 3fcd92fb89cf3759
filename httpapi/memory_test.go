package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/snippet"
)

// memory is a node in memory: it executes commands as the state machine does,
// and its views do not change. Hooks let a test make it fail.
type memory struct {
	mu      sync.Mutex
	state   memoryState
	index   uint64
	rows    map[string]memoryRow
	leader  contract.LeaderInfo
	ready   error
	cluster string
	// onPropose runs before a proposal; an error is the proposal's.
	onPropose func(ctx context.Context, c *command.Command) error
	// onAdmit is asked before a body is read; nil admits all.
	onAdmit      func(bytes int64, deletes bool) error
	onView       func(ctx context.Context, c contract.Consistency) error
	members      []contract.Member
	noQuorum     bool // too few of the members answer
	snapErr      error
	transfer     func(to string) error
	diverged     error // of Diverged
	verification contract.Verification
	// reads is whose state this node shows; nil: its own. A follower's.
	reads *memory
}

type memoryRow struct {
	hash   []byte
	result *command.Result
}

// memoryState is copied before it is changed; what it points to never changes.
type memoryState struct {
	collections map[string]*memoryCollection
	nextID      uint32
	limits      []*command.RateLimit
}

type memoryCollection struct {
	snippet.Collection
	docs map[string]*memoryDoc
}

type memoryDoc struct {
	snippet.Document
	snippets []snippet.Snippet
}

func newMemory() *memory {
	m := &memory{index: 1, cluster: "cluster-1", rows: map[string]memoryRow{}}
	m.state.collections = map[string]*memoryCollection{}
	m.leader = contract.LeaderInfo{ID: "n1", HTTPAddr: "http://127.0.0.1:1", Term: 1, Self: true}
	m.members = []contract.Member{{ID: "n1", RaftAddr: "127.0.0.1:7001", HTTPAddr: "http://127.0.0.1:1", Voter: true}}
	return m
}

func (m *memory) NodeID() string    { return "n1" }
func (m *memory) ClusterID() string { return m.cluster }
func (m *memory) Ready() error      { return m.ready }
func (m *memory) Leader() contract.LeaderInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader
}

func (m *memory) AppliedPosition() (uint64, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.index, 1
}

func (m *memory) Limits() []*command.RateLimit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.state.limits) // a new slice each time, which a backend may do
}

func (m *memory) AdmitWrite(bytes int64, deletes bool) error {
	if m.onAdmit == nil {
		return nil
	}
	return m.onAdmit(bytes, deletes)
}

func (m *memory) Propose(ctx context.Context, c *command.Command) (*command.Result, error) {
	if m.onPropose != nil {
		if err := m.onPropose(ctx, c); err != nil {
			return nil, err
		}
	}
	// The real way goes through bytes; so does this one.
	encoded, err := command.Encode(c)
	if err != nil {
		return nil, err
	}
	entry, err := command.Decode(command.AppendCommand(command.NewEntry(len(encoded)), encoded))
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index++
	return m.execute(entry.GetCommands()[0]), nil
}

func (m *memory) execute(c *command.Command) *command.Result {
	key := c.GetIdempotency()
	if key != nil {
		if row, ok := m.rows[key.GetKey()]; ok {
			if !bytes.Equal(row.hash, key.GetRequestHash()) {
				return &command.Result{Outcome: command.Outcome_KEY_REUSED, Index: m.index, Term: 1, Detail: "the key was used"}
			}
			replay := cloneResult(row.result)
			replay.Replayed = true
			return replay
		}
	}
	next := m.state.clone()
	var r *command.Result
	switch op := c.GetOp().(type) {
	case *command.Command_Mutation:
		r = next.mutate(op.Mutation, c.GetProposedMs(), m.index)
	case *command.Command_Batch:
		r = next.batch(op.Batch, c.GetProposedMs(), m.index)
	case *command.Command_SetLimits:
		next.limits = op.SetLimits.GetRateLimits()
		r = &command.Result{Outcome: command.Outcome_DONE}
	default:
		r = &command.Result{Outcome: command.Outcome_INVALID}
	}
	r.Index, r.Term = m.index, 1
	if r.GetOutcome().Applied() {
		m.state = next
	}
	if key != nil && r.GetOutcome() != command.Outcome_METRIC_CONFLICT {
		r.RequestId = key.GetRequestId()
		m.rows[key.GetKey()] = memoryRow{key.GetRequestHash(), cloneResult(r)}
	}
	return r
}

func (s memoryState) clone() memoryState {
	s.collections = maps.Clone(s.collections)
	for name, c := range s.collections {
		copied := *c
		copied.docs = maps.Clone(c.docs)
		s.collections[name] = &copied
	}
	return s
}

func refused(o command.Outcome, detail string) *command.Result {
	return &command.Result{Outcome: o, Detail: detail}
}

func (s *memoryState) batch(b *command.Batch, nowMs int64, index uint64) *command.Result {
	out := &command.Result{Outcome: command.Outcome_UPDATED}
	for i, m := range b.GetMutations() {
		r := s.mutate(m, nowMs, index)
		if !r.GetOutcome().Applied() {
			r.FailedOperation = uint32(i)
			return r
		}
		out.Items = append(out.Items, r)
	}
	return out
}

func (s *memoryState) mutate(m *command.Mutation, nowMs int64, index uint64) *command.Result {
	coll := s.collections[m.GetCollection()]
	switch op := m.GetOp().(type) {
	case *command.Mutation_PutCollection:
		return s.putCollection(m, op.PutCollection, coll, nowMs, index)
	case *command.Mutation_DeleteCollection:
		if coll == nil {
			return refused(command.Outcome_COLLECTION_NOT_FOUND, "no such collection")
		}
		if r := check(m.GetCondition(), coll.Revision); r != nil {
			return r
		}
		delete(s.collections, m.GetCollection())
		return &command.Result{Outcome: command.Outcome_DELETED}
	case *command.Mutation_DeleteOwner:
		return s.deleteOwner(coll, op.DeleteOwner)
	}
	_, creates := m.GetOp().(*command.Mutation_PutDocument)
	if coll == nil && !creates {
		return refused(command.Outcome_COLLECTION_NOT_FOUND, "no such collection")
	}
	if coll == nil {
		coll = s.newCollection(m.GetCollection(), nowMs, index)
	}
	var old *memoryDoc
	if doc := coll.docs[m.DocumentID()]; doc != nil {
		old = doc
	}
	revision := uint64(0)
	if old != nil {
		revision = old.Revision
	}
	if r := check(m.GetCondition(), revision); r != nil {
		return r
	}
	r := coll.mutateDoc(m, old, nowMs, index)
	if r.GetOutcome().Applied() {
		s.collections[m.GetCollection()] = coll
	}
	return r
}

func check(c *command.Condition, revision uint64) *command.Result {
	switch {
	case c.GetIfAbsent() && revision != 0:
		return &command.Result{Outcome: command.Outcome_ALREADY_EXISTS, Detail: fmt.Sprintf("it exists already, at revision %d", revision), CurrentRevision: revision}
	case c.GetIfPresent() && revision == 0, c.GetIfRevision() != 0 && c.GetIfRevision() != revision:
		return &command.Result{Outcome: command.Outcome_REVISION_MISMATCH, Detail: fmt.Sprintf("it is at revision %d", revision), CurrentRevision: revision}
	}
	return nil
}

func (s *memoryState) newCollection(name string, nowMs int64, index uint64) *memoryCollection {
	s.nextID++
	return &memoryCollection{docs: map[string]*memoryDoc{}, Collection: snippet.Collection{
		Name: name, ID: s.nextID, Metric: snippet.Cosine, Analyzer: snippet.AnalyzerStandard, CreatedMs: nowMs, UpdatedMs: nowMs, Revision: index,
	}}
}

func (s *memoryState) putCollection(m *command.Mutation, put *command.PutCollection, coll *memoryCollection, nowMs int64, index uint64) *command.Result {
	outcome, revision := command.Outcome_UPDATED, uint64(0)
	if coll != nil {
		revision = coll.Revision
	}
	if r := check(m.GetCondition(), revision); r != nil {
		return r
	}
	if coll == nil {
		coll, outcome = s.newCollection(m.GetCollection(), nowMs, index), command.Outcome_CREATED
	}
	if put.Dimension != nil && int(put.GetDimension()) != coll.Dimension && coll.Dimension != 0 || put.Metric != nil && coll.Dimension != 0 && put.GetMetric() != string(coll.Metric) {
		return refused(command.Outcome_COLLECTION_CONFLICT, "vectors are stored")
	}
	if put.Dimension != nil {
		coll.Dimension = int(put.GetDimension())
	}
	if put.Metric != nil {
		coll.Metric = snippet.Metric(put.GetMetric())
	}
	if put.Analyzer != nil {
		coll.Analyzer = snippet.Analyzer(put.GetAnalyzer())
	}
	coll.Revision, coll.UpdatedMs = index, nowMs
	s.collections[coll.Name] = coll
	return &command.Result{Outcome: outcome, Collection: &command.ResultCollection{
		Name: coll.Name, Dimension: uint32(coll.Dimension), Metric: string(coll.Metric), Analyzer: string(coll.Analyzer),
		CreatedMs: coll.CreatedMs, UpdatedMs: coll.UpdatedMs, Revision: coll.Revision,
	}}
}

func (s *memoryState) deleteOwner(coll *memoryCollection, d *command.DeleteOwner) *command.Result {
	if coll == nil {
		return refused(command.Outcome_COLLECTION_NOT_FOUND, "no such collection")
	}
	n := uint32(0)
	for id, doc := range coll.docs {
		if doc.Owner.Type == d.GetOwner().GetType() && doc.Owner.ID == d.GetOwner().GetId() {
			delete(coll.docs, id)
			n++
		}
	}
	return &command.Result{Outcome: command.Outcome_DELETED, Updated: n}
}

func (c *memoryCollection) mutateDoc(m *command.Mutation, old *memoryDoc, nowMs int64, index uint64) *command.Result {
	doc, outcome := &memoryDoc{}, command.Outcome_UPDATED
	if old != nil {
		*doc = *old
		doc.snippets = slices.Clone(old.snippets)
	}
	var touched *snippet.Snippet
	updated := uint32(0)
	put, isPut := m.GetOp().(*command.Mutation_PutDocument)
	switch {
	case isPut && old == nil:
		outcome = command.Outcome_CREATED
		doc.ID, doc.CreatedMs = put.PutDocument.GetId(), nowMs
		doc.Owner = snippet.Owner{Type: put.PutDocument.GetOwner().GetType(), ID: put.PutDocument.GetOwner().GetId()}
	case isPut:
		if o := put.PutDocument.GetOwner(); o != nil && (o.GetType() != old.Owner.Type || o.GetId() != old.Owner.ID) {
			return refused(command.Outcome_OWNER_CONFLICT, "the owner is fixed")
		}
	case old == nil:
		return refused(command.Outcome_DOCUMENT_NOT_FOUND, "no such document")
	}
	index32 := func(i uint32) (*snippet.Snippet, *command.Result) {
		if int(i) >= len(doc.snippets) {
			return nil, refused(command.Outcome_SNIPPET_NOT_FOUND, "no such snippet")
		}
		return &doc.snippets[i], nil
	}
	var r *command.Result
	switch op := m.GetOp().(type) {
	case *command.Mutation_PutDocument:
		doc.Title, doc.Metadata, doc.snippets = op.PutDocument.GetTitle(), op.PutDocument.GetMetadata(), nil
		for _, in := range op.PutDocument.GetSnippets() {
			s := c.snippetOf(in, index)
			doc.snippets = append(doc.snippets, s)
			if r = c.takeVector(s.Vector, op.PutDocument.GetMetric()); r != nil {
				return r
			}
		}
	case *command.Mutation_PatchDocument:
		if op.PatchDocument.Title != nil {
			doc.Title = op.PatchDocument.GetTitle()
		}
		merged, err := snippet.MergeMetadata(doc.Metadata, op.PatchDocument.GetMetadataPatch())
		if err != nil {
			return refused(command.Outcome_INVALID, err.Error())
		}
		doc.Metadata = merged
	case *command.Mutation_DeleteDocument:
		delete(c.docs, doc.ID)
		return &command.Result{Outcome: command.Outcome_DELETED}
	case *command.Mutation_PutSnippet:
		i := int(op.PutSnippet.GetIndex())
		if i > len(doc.snippets) {
			return refused(command.Outcome_SNIPPET_GAP, "beyond the end")
		}
		s := c.snippetOf(op.PutSnippet.GetSnippet(), index)
		if r = c.takeVector(s.Vector, op.PutSnippet.GetMetric()); r != nil {
			return r
		}
		if i == len(doc.snippets) {
			doc.snippets, outcome = append(doc.snippets, s), command.Outcome_CREATED
		} else {
			doc.snippets[i] = s
		}
		touched = &doc.snippets[i]
	case *command.Mutation_PatchSnippet:
		if touched, r = index32(op.PatchSnippet.GetIndex()); r != nil {
			return r
		}
		if r = c.takeVector(op.PatchSnippet.GetVector(), op.PatchSnippet.GetMetric()); r != nil {
			return r
		}
		if op.PatchSnippet.Content != nil && op.PatchSnippet.GetContent() != touched.Content {
			touched.Content, touched.ContentHash = op.PatchSnippet.GetContent(), [32]byte(op.PatchSnippet.GetContentHash())
			touched.Vector, touched.Embedded = nil, false
		}
		if v := op.PatchSnippet.GetVector(); len(v) > 0 {
			touched.Vector, touched.Embedded = v, true
		}
		if op.PatchSnippet.Model != nil {
			touched.Model = op.PatchSnippet.GetModel()
		}
		touched.Revision = index
	case *command.Mutation_DeleteSnippet:
		if _, r = index32(op.DeleteSnippet.GetIndex()); r != nil {
			return r
		}
		i := int(op.DeleteSnippet.GetIndex())
		doc.snippets = slices.Delete(doc.snippets, i, i+1)
		outcome = command.Outcome_DELETED
	case *command.Mutation_PutEmbeddings:
		if len(op.PutEmbeddings.GetEmbeddings()) == 0 {
			return refused(command.Outcome_INVALID, "there is no embedding to set")
		}
		for _, e := range op.PutEmbeddings.GetEmbeddings() {
			s, r := index32(e.GetIndex())
			if r != nil {
				return refused(command.Outcome_EMBEDDING_INDEX, "no such snippet")
			}
			if len(e.GetVector()) == 0 {
				return refused(command.Outcome_INVALID, fmt.Sprintf("the vector for index %d is empty", e.GetIndex()))
			}
			if r = c.takeVector(e.GetVector(), op.PutEmbeddings.GetMetric()); r != nil {
				return r
			}
			s.Vector, s.Embedded, s.Model, s.Revision = e.GetVector(), true, op.PutEmbeddings.GetModel(), index
			updated++
		}
	}
	doc.Revision, doc.UpdatedMs, doc.SnippetCount = index, nowMs, len(doc.snippets)
	for i := range doc.snippets {
		doc.snippets[i].Index = i
	}
	c.docs[doc.ID] = doc
	out := &command.Result{Outcome: outcome, Updated: updated, Document: &command.ResultDocument{
		Collection: c.Name, Id: doc.ID, Title: doc.Title, Metadata: doc.Metadata, CreatedMs: doc.CreatedMs, UpdatedMs: doc.UpdatedMs,
		Revision: index, SnippetCount: uint32(len(doc.snippets)),
	}}
	if !doc.Owner.IsZero() {
		out.Document.Owner = &command.Owner{Type: doc.Owner.Type, Id: doc.Owner.ID}
	}
	if touched != nil {
		out.Snippet = &command.ResultSnippet{
			Index: uint32(touched.Index), Content: touched.Content, ContentHash: touched.ContentHash[:], Embedded: touched.Embedded,
			Model: touched.Model, Revision: touched.Revision,
		}
	}
	return out
}

func (c *memoryCollection) snippetOf(in *command.SnippetInput, index uint64) snippet.Snippet {
	return snippet.Snippet{
		Content: in.GetContent(), ContentHash: [32]byte(in.GetContentHash()), Vector: in.GetVector(), Embedded: len(in.GetVector()) > 0,
		Model: in.GetModel(), Revision: index,
	}
}

// takeVector checks a vector against the collection, and fixes its dimension
// with the first one.
func (c *memoryCollection) takeVector(v snippet.Vector, metric string) *command.Result {
	switch {
	case len(v) == 0:
	case metric != string(c.Metric):
		return refused(command.Outcome_METRIC_CONFLICT, "the metric changed")
	case c.Dimension != 0 && c.Dimension != v.Dimension():
		return refused(command.Outcome_DIMENSION_MISMATCH, "another dimension")
	default:
		c.Dimension = v.Dimension()
	}
	return nil
}

// dump is the visible state, for "nothing was applied".
func (m *memory) dump() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	type doc struct {
		snippet.Document
		Snippets []snippet.Snippet
	}
	out := map[string]any{}
	for name, c := range m.state.collections {
		docs := map[string]doc{}
		for id, d := range c.docs {
			docs[id] = doc{d.Document, d.snippets}
		}
		out[name] = map[string]any{"collection": c.Collection, "docs": docs}
	}
	out["/limits"], out["/members"] = m.state.limits, m.members
	b, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	return b
}

var errPlain = errors.New("memory: something else")
