package fsm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
)

// model is the state machine as simply as it can be said: maps, and a deep
// copy for each command that may fail. It shares no code with the real one
// beyond the protobuf types. It knows no storage, no slices, no snapshots.
type model struct {
	Colls   map[string]*modelColl
	NextID  int
	Clock   int64
	Keys    map[string]*modelRow
	Queue   []string // keys, oldest first
	Cluster string
	Members map[string]string
	TickT   uint64
}

type modelColl struct {
	ID       int // tells a collection from one of the same name that was deleted
	Dim      int
	Metric   string
	Analyzer string
	Rev      uint64
	Docs     map[string]*modelDoc
}

type modelDoc struct {
	Owner, Title     string
	Meta             map[string]any
	Created, Updated int64
	Rev              uint64
	Snippets         []modelSnippet
}

type modelSnippet struct {
	Content string
	Vector  int // its dimension; 0: none
	Model   string
	Rev     uint64
}

type modelRow struct {
	Hash    string
	Outcome command.Outcome
	Index   uint64
	Expires int64
}

func newModel() *model {
	return &model{Colls: map[string]*modelColl{}, Keys: map[string]*modelRow{}, Members: map[string]string{}}
}

// clone is a deep copy.
func (m *model) clone() *model {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	out := newModel()
	if err := json.Unmarshal(b, out); err != nil {
		panic(err)
	}
	return out
}

// modelOutcome is what the model says of one command.
type modelOutcome struct {
	outcome  command.Outcome
	replayed bool
	index    uint64
}

// apply applies an entry.
func (m *model) apply(index, term uint64, r rules, commands []*command.Command) []modelOutcome {
	var out []modelOutcome
	touched := map[string]bool{}
	moved := 0
	ownerDocs := 0
	for _, c := range commands {
		switch {
		case m.Clock == 0:
			m.Clock = max(0, c.ProposedMs)
		case c.GetTick() == nil:
		case c.ProposedMs > m.Clock+MaxClockJumpMs:
			m.Clock += MaxClockJumpMs
		case c.ProposedMs > m.Clock:
			m.Clock = c.ProposedMs
		}
		idem := c.GetIdempotency()
		if row := m.Keys[idem.GetKey()]; idem != nil && row != nil {
			if row.Hash == fmt.Sprintf("%x", idem.RequestHash) {
				out = append(out, modelOutcome{row.Outcome, true, row.Index})
			} else {
				out = append(out, modelOutcome{keyReused, false, index})
			}
			continue
		}
		trial := &trial{model: m.clone(), r: r, index: index, term: term, ms: c.ProposedMs, taken: touched, mine: map[string]bool{}, moved: moved, movedBefore: moved, ownerDocs: ownerDocs}
		outcome := trial.command(c)
		if outcome.Applied() {
			*m = *trial.model
			maps.Copy(touched, trial.mine)
			moved, ownerDocs = trial.moved, trial.ownerDocs
		}
		if idem != nil && outcome != writeConflict && outcome != metricConflict {
			m.Keys[idem.Key] = &modelRow{fmt.Sprintf("%x", idem.RequestHash), outcome, index, m.Clock + r.retentionMs}
			m.Queue = append(m.Queue, idem.Key)
		}
		out = append(out, modelOutcome{outcome, false, index})
	}
	for range ExpirePerCommand * len(commands) {
		if len(m.Queue) == 0 || m.Keys[m.Queue[0]].Expires > m.Clock && int64(len(m.Queue)) <= r.maxRows {
			break
		}
		delete(m.Keys, m.Queue[0])
		m.Queue = m.Queue[1:]
	}
	return out
}

// trial is one command on a copy of the model.
type trial struct {
	*model
	r           rules
	index, term uint64
	ms          int64
	taken, mine map[string]bool
	moved       int
	movedBefore int
	ownerDocs   int
}

func (t *trial) command(c *command.Command) command.Outcome {
	switch op := c.Op.(type) {
	case *command.Command_Mutation:
		return t.mutation(op.Mutation)
	case *command.Command_Batch:
		for _, m := range op.Batch.Mutations {
			if o := t.mutation(m); !o.Applied() {
				return o
			}
		}
		if len(op.Batch.Mutations) == 0 {
			return invalidOutcome
		}
	case *command.Command_Tick:
		t.TickT = max(t.TickT, t.term)
	case *command.Command_InitCluster:
		if t.Cluster == "" {
			t.Cluster = op.InitCluster.ClusterId
		}
	case *command.Command_SetMember:
		t.Members[op.SetMember.Member.NodeId] = op.SetMember.Member.RaftAddr
	case *command.Command_RemoveMember:
		delete(t.Members, op.RemoveMember.NodeId)
	}
	return done_
}

// claim says whether an earlier command of the entry has the thing.
func (t *trial) claim(key string) bool {
	t.mine[key] = true
	return !t.taken[key]
}

func (t *trial) claimDoc(coll, id string) bool {
	t.mine["used "+coll] = true
	return t.claim("doc " + coll + " " + id)
}

func condition(c *command.Condition, rev uint64) command.Outcome {
	switch {
	case c.GetIfAbsent() && rev > 0:
		return alreadyExists
	case c.GetIfPresent() && rev == 0, c.GetIfRevision() > 0 && c.GetIfRevision() != rev:
		return revisionMismatch
	}
	return 0
}

func (t *trial) newColl(name string) (*modelColl, command.Outcome) {
	if !t.claim("coll " + name) {
		return nil, writeConflict
	}
	if len(t.Colls) >= t.r.maxColls {
		return nil, limitExceeded
	}
	t.NextID++
	c := &modelColl{ID: t.NextID, Metric: "cosine", Analyzer: "standard", Rev: t.index, Docs: map[string]*modelDoc{}}
	t.Colls[name] = c
	return c, 0
}

func (t *trial) mutation(m *command.Mutation) command.Outcome {
	name, coll := m.Collection, t.Colls[m.Collection]
	switch op := m.Op.(type) {
	case *command.Mutation_PutCollection:
		return t.putColl(name, coll, m.Condition, op.PutCollection)
	case *command.Mutation_DeleteCollection:
		if !t.claim("used "+name) || !t.claim("coll "+name) {
			return writeConflict
		}
		if coll == nil {
			return collectionNotFound
		}
		if o := condition(m.Condition, coll.Rev); o != 0 {
			return o
		}
		delete(t.Colls, name)
		return deleted
	case *command.Mutation_PutDocument:
		return t.putDoc(name, coll, m.Condition, op.PutDocument)
	case *command.Mutation_DeleteOwner:
		return t.deleteOwner(name, coll, op.DeleteOwner.Owner.GetId())
	}
	if coll == nil {
		return collectionNotFound
	}
	if !t.claimDoc(name, m.DocumentID()) {
		return writeConflict
	}
	d := coll.Docs[m.DocumentID()]
	if d == nil {
		return documentNotFound
	}
	if o := condition(m.Condition, d.Rev); o != 0 {
		return o
	}
	o := t.change(coll, d, m)
	if !o.Applied() {
		return o
	}
	d.Rev, d.Updated = t.index, max(d.Updated, t.ms)
	if m.GetDeleteDocument() != nil {
		delete(coll.Docs, m.DocumentID())
	}
	return o
}

func (t *trial) putColl(name string, coll *modelColl, cond *command.Condition, p *command.PutCollection) command.Outcome {
	if !t.claim("used "+name) || !t.claim("coll "+name) {
		return writeConflict
	}
	o, rev := updated, uint64(0)
	if coll != nil {
		rev = coll.Rev
	}
	if no := condition(cond, rev); no != 0 {
		return no
	}
	if coll == nil {
		var no command.Outcome
		if coll, no = t.newColl(name); no != 0 {
			return no
		}
		o = created
	}
	vectors := 0
	for _, d := range coll.Docs {
		for _, s := range d.Snippets {
			vectors += min(s.Vector, 1)
		}
	}
	if p.Dimension != nil {
		if vectors > 0 && int(*p.Dimension) != coll.Dim {
			return collectionConflict
		}
		coll.Dim = int(*p.Dimension)
	}
	if p.Metric != nil {
		if vectors > 0 && *p.Metric != coll.Metric {
			return collectionConflict
		}
		coll.Metric = *p.Metric
	}
	coll.Rev = t.index
	return o
}

func (t *trial) putDoc(name string, coll *modelColl, cond *command.Condition, p *command.PutDocument) command.Outcome {
	if len(p.Snippets) > t.r.maxSnippets {
		return limitExceeded
	}
	if !t.claimDoc(name, p.Id) {
		return writeConflict
	}
	var d *modelDoc
	rev := uint64(0)
	if coll != nil {
		if d = coll.Docs[p.Id]; d != nil {
			rev = d.Rev
		}
	}
	if o := condition(cond, rev); o != 0 {
		return o
	}
	if coll == nil {
		var o command.Outcome
		if coll, o = t.newColl(name); o != 0 {
			return o
		}
	}
	o := updated
	if d == nil {
		o = created
		d = &modelDoc{Owner: p.Owner.GetId(), Created: t.ms, Updated: t.ms}
		coll.Docs[p.Id] = d
	} else if p.Owner != nil && p.Owner.Id != d.Owner {
		return ownerConflict
	}
	d.Title = p.Title
	d.Meta = jsonOf(p.Metadata)
	old := d.Snippets
	d.Snippets = nil
	for i, s := range p.Snippets {
		before := modelSnippet{Content: "no such content"}
		if i < len(old) {
			before = old[i]
		}
		after, no := t.snippet(coll, before, s.Content, s.Vector, s.Model, p.Metric)
		if no != 0 {
			return no
		}
		d.Snippets = append(d.Snippets, after)
	}
	d.Rev, d.Updated = t.index, max(d.Updated, t.ms)
	return o
}

// snippet is what becomes of a snippet that is given new content.
func (t *trial) snippet(coll *modelColl, before modelSnippet, content string, vector []byte, mod, metric string) (modelSnippet, command.Outcome) {
	if o := t.vector(coll, vector, metric); o != 0 {
		return before, o
	}
	if before.Content == content && len(vector) == 0 {
		return before, 0
	}
	after := modelSnippet{Content: content, Rev: t.index}
	if len(vector) > 0 {
		after.Vector, after.Model = len(vector)/4, mod
	}
	return after, 0
}

func (t *trial) vector(coll *modelColl, vector []byte, metric string) command.Outcome {
	switch n := len(vector) / 4; {
	case n == 0:
		return 0
	case metric != coll.Metric:
		return metricConflict
	case coll.Dim == 0:
		coll.Dim = n
	case coll.Dim != n:
		return dimensionMismatch
	}
	return 0
}

func (t *trial) deleteOwner(name string, coll *modelColl, owner string) command.Outcome {
	if coll == nil {
		return collectionNotFound
	}
	for _, id := range slices.Sorted(maps.Keys(coll.Docs)) {
		if coll.Docs[id].Owner != owner {
			continue
		}
		if t.ownerDocs == t.r.maxOwnerDocs {
			break
		}
		t.ownerDocs++
		if !t.claimDoc(name, id) {
			return writeConflict
		}
		delete(coll.Docs, id)
	}
	return deleted
}

// change is a mutation of a document that exists.
func (t *trial) change(coll *modelColl, d *modelDoc, m *command.Mutation) command.Outcome {
	switch op := m.Op.(type) {
	case *command.Mutation_DeleteDocument:
		return deleted
	case *command.Mutation_PatchDocument:
		if op.PatchDocument.Title != nil {
			d.Title = *op.PatchDocument.Title
		}
		for k, v := range jsonOf(op.PatchDocument.MetadataPatch) { // flat in these tests
			if v == nil {
				delete(d.Meta, k)
				continue
			}
			if d.Meta == nil {
				d.Meta = map[string]any{}
			}
			d.Meta[k] = v
		}
		return updated
	case *command.Mutation_PutSnippet:
		return t.putSnippet(coll, d, op.PutSnippet)
	case *command.Mutation_PatchSnippet:
		return t.patchSnippet(coll, d, op.PatchSnippet)
	case *command.Mutation_DeleteSnippet:
		return t.deleteSnippet(coll, d, int(op.DeleteSnippet.Index))
	case *command.Mutation_PutEmbeddings:
		seen := map[uint32]bool{}
		if len(op.PutEmbeddings.Embeddings) == 0 {
			return invalidOutcome
		}
		for _, e := range op.PutEmbeddings.Embeddings {
			if int(e.Index) >= len(d.Snippets) {
				return embeddingIndex
			}
			if seen[e.Index] {
				return invalidOutcome
			}
			seen[e.Index] = true
			if o := t.vector(coll, e.Vector, op.PutEmbeddings.Metric); o != 0 {
				return o
			}
			s := &d.Snippets[e.Index]
			s.Vector, s.Model, s.Rev = len(e.Vector)/4, op.PutEmbeddings.Model, t.index
		}
		return updated
	}
	panic(protojson.Format(proto.Message(m)))
}

func (t *trial) putSnippet(coll *modelColl, d *modelDoc, p *command.PutSnippet) command.Outcome {
	i, n := int(p.Index), len(d.Snippets)
	switch {
	case i > n:
		return snippetGap
	case i == n && n >= t.r.maxSnippets:
		return limitExceeded
	}
	before, o := modelSnippet{Content: "no such content"}, created
	if i < n {
		before, o = d.Snippets[i], updated
	}
	after, no := t.snippet(coll, before, p.Snippet.Content, p.Snippet.Vector, p.Snippet.Model, p.Metric)
	if no != 0 {
		return no
	}
	d.Snippets = append(d.Snippets[:i:i], append([]modelSnippet{after}, d.Snippets[min(i+1, n):]...)...)
	return o
}

func (t *trial) patchSnippet(coll *modelColl, d *modelDoc, p *command.PatchSnippet) command.Outcome {
	if int(p.Index) >= len(d.Snippets) {
		return snippetNotFound
	}
	s := &d.Snippets[p.Index]
	if o := t.vector(coll, p.Vector, p.Metric); o != 0 {
		return o
	}
	mod := s.Model
	if p.Model != nil {
		mod = *p.Model
	}
	newContent := p.Content != nil && *p.Content != s.Content
	switch {
	case newContent && len(p.Vector) == 0:
		*s = modelSnippet{Content: *p.Content, Rev: t.index}
	case len(p.Vector) > 0:
		content := s.Content
		if newContent {
			content = *p.Content
		}
		*s = modelSnippet{Content: content, Vector: len(p.Vector) / 4, Model: mod, Rev: t.index}
	case p.Model != nil && s.Vector == 0:
		return invalidOutcome
	case p.Model != nil:
		s.Model, s.Rev = mod, t.index
	}
	return updated
}

func (t *trial) deleteSnippet(coll *modelColl, d *modelDoc, i int) command.Outcome {
	if i >= len(d.Snippets) {
		return snippetNotFound
	}
	size := 0
	for _, s := range d.Snippets[i+1:] {
		size += len(s.Content) + 4*s.Vector
	}
	t.moved += size
	switch {
	case int64(t.moved-t.movedBefore) > t.r.maxMoved:
		return limitExceeded
	case int64(t.moved) > t.r.maxMoved:
		return writeConflict
	}
	d.Snippets = slices.Delete(d.Snippets, i, i+1)
	for j := i; j < len(d.Snippets); j++ {
		d.Snippets[j].Rev = t.index
	}
	return deleted
}

func jsonOf(b []byte) map[string]any {
	if len(b) == 0 {
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		panic(err)
	}
	return m
}
