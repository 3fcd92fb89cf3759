package fsm

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/snippet"
)

// step is a command and what must come of it.
type step struct {
	do   *command.Mutation
	want command.Outcome
	// says is part of the detail, for refusals.
	says string
}

// The names of the outcomes, for rows that read like sentences.
const (
	created            = command.Outcome_CREATED
	updated            = command.Outcome_UPDATED
	deleted            = command.Outcome_DELETED
	done_              = command.Outcome_DONE
	collectionNotFound = command.Outcome_COLLECTION_NOT_FOUND
	documentNotFound   = command.Outcome_DOCUMENT_NOT_FOUND
	snippetNotFound    = command.Outcome_SNIPPET_NOT_FOUND
	alreadyExists      = command.Outcome_ALREADY_EXISTS
	revisionMismatch   = command.Outcome_REVISION_MISMATCH
	dimensionMismatch  = command.Outcome_DIMENSION_MISMATCH
	metricConflict     = command.Outcome_METRIC_CONFLICT
	ownerConflict      = command.Outcome_OWNER_CONFLICT
	limitExceeded      = command.Outcome_LIMIT_EXCEEDED
	collectionConflict = command.Outcome_COLLECTION_CONFLICT
	keyReused          = command.Outcome_KEY_REUSED
	writeConflict      = command.Outcome_WRITE_CONFLICT
	snippetGap         = command.Outcome_SNIPPET_GAP
	embeddingIndex     = command.Outcome_EMBEDDING_INDEX
	invalidOutcome     = command.Outcome_INVALID
)

func ifRevision(n uint64) *command.Condition { return &command.Condition{IfRevision: n} }

var (
	ifAbsent  = &command.Condition{IfAbsent: true}
	ifPresent = &command.Condition{IfPresent: true}
)

func withMetric(metric string, m *command.Mutation) *command.Mutation {
	switch {
	case m.GetPutDocument() != nil:
		m.GetPutDocument().Metric = metric
	case m.GetPutSnippet() != nil:
		m.GetPutSnippet().Metric = metric
	case m.GetPatchSnippet() != nil:
		m.GetPatchSnippet().Metric = metric
	case m.GetPutEmbeddings() != nil:
		m.GetPutEmbeddings().Metric = metric
	}
	return m
}

func noHash(s *command.SnippetInput) *command.SnippetInput {
	s.ContentHash = nil
	return s
}

// TestMutations walks through each mutation and each reason for a refusal.
// Entry i has index i (from 1), and so have the revisions.
func TestMutations(t *testing.T) {
	dim := func(d uint32) *command.PutCollection { return &command.PutCollection{Dimension: proto.Uint32(d)} }
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"a document is created, replaced, patched and deleted", []step{
			{putDoc("d", text("a")), created, ""},
			{putDoc("d", text("b"), text("c")), updated, ""},
			{patchDoc("d", "T", `{"k":1}`), updated, ""},
			{deleteDoc("d"), deleted, ""},
			{deleteDoc("d"), documentNotFound, `"d"`},
			{patchDoc("d", "T", ""), documentNotFound, ""},
			{putDoc("d"), created, ""},
		}},
		{"conditions on a document", []step{
			{when(ifPresent, putDoc("d")), revisionMismatch, "does not exist"},
			{when(ifRevision(7), putDoc("d")), revisionMismatch, "revision 0, not 7"},
			{when(ifAbsent, putDoc("d", text("a"))), created, ""}, // 3
			{when(ifAbsent, putDoc("d")), alreadyExists, "revision 3"},
			{when(ifRevision(2), putDoc("d")), revisionMismatch, "revision 3, not 2"},
			{when(ifRevision(3), putDoc("d", text("a"))), updated, ""}, // 6
			{when(ifPresent, patchDoc("d", "T", "")), updated, ""},     // 7
			{when(ifRevision(6), patchDoc("d", "U", "")), revisionMismatch, ""},
			{when(ifRevision(7), putSnip("d", 0, text("x"))), updated, ""}, // 9
			{when(ifRevision(7), patchSnip(&command.PatchSnippet{Id: "d"})), revisionMismatch, ""},
			{when(ifRevision(7), deleteSnip("d", 0)), revisionMismatch, ""},
			{when(ifRevision(7), embed("d", 2, 0)), revisionMismatch, ""},
			{when(ifRevision(7), deleteDoc("d")), revisionMismatch, ""},
			{when(ifAbsent, deleteDoc("d")), alreadyExists, ""},
			{when(ifRevision(9), deleteDoc("d")), deleted, ""},
		}},
		{"nothing but a put of a document makes a collection", []step{
			{patchDoc("d", "T", ""), collectionNotFound, `"c"`},
			{deleteDoc("d"), collectionNotFound, ""},
			{putSnip("d", 0, text("a")), collectionNotFound, ""},
			{patchSnip(&command.PatchSnippet{Id: "d"}), collectionNotFound, ""},
			{deleteSnip("d", 0), collectionNotFound, ""},
			{embed("d", 2, 0), collectionNotFound, ""},
			{deleteOwner("o"), collectionNotFound, ""},
			{deleteColl(), collectionNotFound, ""},
			{putDoc("d"), created, ""},
		}},
		{"names and ids that can't be keys", []step{
			{in("a/b", putDoc("d")), invalidOutcome, "collection"},
			{putDoc(""), invalidOutcome, "id"},
			{putDoc("a\x00b"), invalidOutcome, "control"},
			{putDoc(strings.Repeat("x", 257)), invalidOutcome, "257"},
			{ownedDoc("d", ""), invalidOutcome, "owner"},
			{ownedDoc("d", "\n"), invalidOutcome, "owner.id"},
			{deleteDoc("\x01"), invalidOutcome, "id"},
		}},
		{"the owner is fixed at creation", []step{
			{ownedDoc("d", "o1"), created, ""},
			{ownedDoc("d", "o1", text("a")), updated, ""},
			{ownedDoc("d", "o2"), ownerConflict, "fixed"},
			{putDoc("d"), updated, ""}, // absent: unchanged
			{putDoc("free"), created, ""},
			{ownedDoc("free", "o1"), ownerConflict, ""},
		}},
		{"the first stored vector fixes the dimension", []step{
			{putDoc("d", text("a")), created, ""},
			{putDoc("e", embedded("a", 3)), created, ""},
			{putDoc("d", embedded("a", 2)), dimensionMismatch, "3 values, this one has 2"},
			{putSnip("d", 0, embedded("a", 4)), dimensionMismatch, ""},
			{patchSnip(&command.PatchSnippet{Id: "d", Vector: vector(2)}), dimensionMismatch, ""},
			{embed("d", 2, 0), dimensionMismatch, ""},
			{putDoc("f", embedded("a", 3), embedded("b", 2)), dimensionMismatch, ""},
			{embed("d", 3, 0), updated, ""},
		}},
		{"vectors prepared for another metric", []step{
			{withMetric("dot", putDoc("d", embedded("a", 2))), metricConflict, `"cosine": retry`},
			{withMetric("dot", putDoc("d", text("a"))), created, ""}, // no vector, no conflict
			{withMetric("", putSnip("d", 0, embedded("a", 2))), metricConflict, ""},
			{withMetric("dot", patchSnip(&command.PatchSnippet{Id: "d", Vector: vector(2)})), metricConflict, ""},
			{withMetric("dot", embed("d", 2, 0)), metricConflict, ""},
			{putColl(&command.PutCollection{Metric: proto.String("dot")}), updated, ""},
			{withMetric("dot", embed("d", 2, 0)), updated, ""},
		}},
		{"vectors and hashes that are not ones", []step{
			{putDoc("d", &command.SnippetInput{ContentHash: make([]byte, 32), Vector: []byte{1, 2, 3}}), invalidOutcome, "3 bytes"},
			{putDoc("d", noHash(text("a"))), invalidOutcome, "32 bytes"},
			{putDoc("d", text("a")), created, ""},
			{patchSnip(&command.PatchSnippet{Id: "d", Content: proto.String("x"), ContentHash: []byte("short")}), invalidOutcome, "hash"},
			{putSnip("d", 0, noHash(text("a"))), invalidOutcome, "32 bytes"},
			{putSnip("d", 0, &command.SnippetInput{ContentHash: make([]byte, 32), Model: "\x00"}), invalidOutcome, "model"},
			{putDoc("e", &command.SnippetInput{ContentHash: make([]byte, 32), Vector: make([]byte, 4*(snippet.MaxDimension+1))}), invalidOutcome, "dimension"},
		}},
		{"snippets are put, appended, patched and deleted", []step{
			{putDoc("d"), created, ""},
			{putSnip("d", 1, text("b")), snippetGap, "the next index is 0, not 1"},
			{putSnip("d", 0, text("a")), created, ""},
			{putSnip("d", 1, text("b")), created, ""},
			{putSnip("d", 0, text("A")), updated, ""},
			{patchSnip(&command.PatchSnippet{Id: "d", Index: 1, Content: proto.String("B")}), updated, ""},
			{patchSnip(&command.PatchSnippet{Id: "d", Index: 2}), snippetNotFound, "none at 2"},
			{patchSnip(&command.PatchSnippet{Id: "d", Index: 1, Model: proto.String("m")}), invalidOutcome, "no embedding"},
			{deleteSnip("d", 2), snippetNotFound, ""},
			{deleteSnip("d", 0), deleted, ""},
			{deleteSnip("d", 0), deleted, ""},
			{deleteSnip("d", 0), snippetNotFound, "0 snippets"},
			{putSnip("x", 0, text("a")), documentNotFound, ""},
		}},
		{"embeddings are set all or none", []step{
			{putDoc("d", text("a"), text("b")), created, ""},
			{embed("d", 2, 0, 2), embeddingIndex, "none at 2; nothing was changed"},
			{embed("d", 2, 1, 1), invalidOutcome, "twice"},
			{embed("d", 2), invalidOutcome, "no embedding"},
			{embed("d", 0, 0), invalidOutcome, "empty"},
			{embed("d", 2, 0, 1), updated, ""},
			{embed("x", 2, 0), documentNotFound, ""},
		}},
		{"limits", []step{
			{putDoc("d", text("1"), text("2"), text("3"), text("4")), limitExceeded, "at most 3 snippets"},
			{putDoc("d", text("1"), text("2"), text("3")), created, ""},
			{putSnip("d", 3, text("4")), limitExceeded, "at most 3 snippets"},
			{in("c2", putDoc("d")), created, ""},
			{in("c3", putDoc("d")), limitExceeded, "at most 2 collections"},
			{in("c3", putColl(&command.PutCollection{})), limitExceeded, ""},
			{in("c2", deleteColl()), deleted, ""},
			{in("c3", putDoc("d")), created, ""},
			{patchDoc("d", "", `{"k":"`+strings.Repeat("x", snippet.MaxMetadataBytes)+`"}`), invalidOutcome, "65536 bytes"},
			{patchDoc("d", strings.Repeat("x", snippet.MaxTitleBytes+1), ""), invalidOutcome, "title"},
			{patchDoc("d", "", `not JSON`), invalidOutcome, "metadata patch"},
		}},
		{"a deletion in the middle moves a bounded number of bytes", []step{
			{putDoc("d", text("1"), text(strings.Repeat("x", 600)), text(strings.Repeat("y", 600))), created, ""},
			{deleteSnip("d", 0), limitExceeded, "1200 bytes"},
			{deleteSnip("d", 1), deleted, ""},
			{deleteSnip("d", 0), deleted, ""},
		}},
		{"collections", []step{
			{putColl(dim(3)), created, ""},
			{when(ifAbsent, putColl(dim(3))), alreadyExists, ""},
			{when(ifRevision(9), putColl(dim(3))), revisionMismatch, ""},
			{when(ifRevision(1), putColl(dim(2))), updated, ""}, // 4
			{putColl(&command.PutCollection{Metric: proto.String("angle")}), invalidOutcome, "metric"},
			{putColl(&command.PutCollection{Analyzer: proto.String("none")}), invalidOutcome, "analyzer"},
			{putColl(dim(snippet.MaxDimension + 1)), invalidOutcome, "dimension"},
			{putDoc("d", embedded("a", 2)), created, ""},
			{putColl(dim(3)), collectionConflict, "1 vectors"},
			{putColl(dim(0)), collectionConflict, ""},
			{putColl(&command.PutCollection{Metric: proto.String("dot")}), collectionConflict, ""},
			{putColl(dim(2)), updated, ""}, // the same is no change
			{putColl(&command.PutCollection{Analyzer: proto.String("english")}), updated, ""},
			{putDoc("d", text("b")), updated, ""}, // the vector is gone
			{putColl(&command.PutCollection{Dimension: proto.Uint32(0), Metric: proto.String("dot")}), updated, ""},
			{when(ifRevision(1), deleteColl()), revisionMismatch, "revision 15"},
			{when(ifRevision(15), deleteColl()), deleted, ""},
			{when(ifPresent, putColl(dim(2))), revisionMismatch, ""},
		}},
		{"deletion by owner", []step{
			{ownedDoc("d1", "o1", embedded("a", 2)), created, ""},
			{ownedDoc("d2", "o2"), created, ""},
			{ownedDoc("d3", "o1"), created, ""},
			{putDoc("d4"), created, ""},
			{when(ifPresent, deleteOwner("o1")), invalidOutcome, "no condition"},
			{deleteOwner(""), invalidOutcome, "owner"},
			{deleteOwner("o3"), deleted, ""},
			{deleteOwner("o1"), deleted, ""},
			{deleteDoc("d1"), documentNotFound, ""},
			{deleteDoc("d3"), documentNotFound, ""},
			{deleteDoc("d2"), deleted, ""},
			{deleteDoc("d4"), deleted, ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.f.rules.maxSnippets, m.f.rules.maxColls, m.f.rules.maxMoved = 3, 2, 1000
			for i, s := range tt.steps {
				before := m.dump()
				r := m.one(mutation(s.do))
				if r.GetOutcome() != s.want || !strings.Contains(r.GetDetail(), s.says) {
					t.Fatalf("step %d, %T: %s, want %s %q", i+1, s.do.GetOp(), show(r), s.want, s.says)
				}
				if r.GetIndex() != uint64(i+1) || r.GetTerm() != 1 {
					t.Errorf("step %d: result at index %d term %d", i+1, r.GetIndex(), r.GetTerm())
				}
				if r.GetOutcome().Applied() {
					continue
				}
				if r.GetDetail() == "" {
					t.Errorf("step %d: no detail", i+1)
				}
				// A refused command leaves no trace but the clock that it may have moved.
				if after := m.dump(); after != before && i > 0 {
					t.Errorf("step %d was refused, but changed\n%s\nto\n%s", i+1, before, after)
				}
			}
		})
	}
}

func TestMismatchTellsTheRevision(t *testing.T) {
	m := newMachine(t)
	m.must(putDoc("d"), putDoc("e"), putDoc("d"))
	for _, c := range []*command.Condition{ifAbsent, ifRevision(1)} {
		if r := m.one(mutation(when(c, putDoc("d")))); r.GetCurrentRevision() != 3 {
			t.Errorf("current revision in %s", show(r))
		}
	}
}

// embeddedAt says which snippets have an embedding, and their revisions.
func (m *machine) embeddedAt(id string) string {
	m.tb.Helper()
	d, snippets := m.document("c", id)
	if d == nil {
		return "none"
	}
	var out []string
	n := 0
	for i, s := range snippets {
		mark := "-"
		if s.Embedded {
			n++
			mark = s.Model
		}
		if s.Embedded != (len(s.Vector) > 0) || s.Index != i || s.ContentHash != snippet.HashContent(s.Content) {
			m.tb.Errorf("snippet %d is inconsistent: %+v", i, s)
		}
		out = append(out, fmt.Sprintf("%s:%s@%d", s.Content, mark, s.Revision))
	}
	if d.EmbeddedCount != n || d.SnippetCount != len(snippets) {
		m.tb.Errorf("document %q counts %d snippets, %d embedded; there are %d and %d", id, d.SnippetCount, d.EmbeddedCount, len(snippets), n)
	}
	return strings.Join(out, " ")
}

// TestEmbeddingsFollowTheContent: unchanged content keeps its embedding,
// changed content loses it in the same mutation.
func TestEmbeddingsFollowTheContent(t *testing.T) {
	m := newMachine(t)
	for i, s := range []struct {
		do   *command.Mutation
		want string
	}{
		{putDoc("d", embedded("a", 2), text("b"), embedded("c", 2)), "a:m@1 b:-@1 c:m@1"},
		{putDoc("d", text("a"), embedded("b", 2), text("C")), "a:m@1 b:m@2 C:-@2"},
		{embed("d", 2, 2), "a:m@1 b:m@2 C:e@3"},
		{putSnip("d", 0, text("a")), "a:m@1 b:m@2 C:e@3"},
		{putSnip("d", 0, text("A")), "A:-@5 b:m@2 C:e@3"},
		{putSnip("d", 0, embedded("A", 2)), "A:m@6 b:m@2 C:e@3"},
		{patchSnip(&command.PatchSnippet{Id: "d", Index: 1, Content: proto.String("B")}), "A:m@6 B:-@7 C:e@3"},
		{patchSnip(&command.PatchSnippet{Id: "d", Index: 2, Content: proto.String("C")}), "A:m@6 B:-@7 C:e@3"},
		{patchSnip(&command.PatchSnippet{Id: "d", Index: 2, Model: proto.String("n")}), "A:m@6 B:-@7 C:n@9"},
		{patchSnip(&command.PatchSnippet{Id: "d", Index: 2, Vector: vector(2)}), "A:m@6 B:-@7 C:n@10"},
		{patchSnip(&command.PatchSnippet{Id: "d", Index: 2, Content: proto.String("D"), Vector: vector(2), Model: proto.String("o")}), "A:m@6 B:-@7 D:o@11"},
		{deleteSnip("d", 0), "B:-@12 D:o@12"},
		{deleteSnip("d", 1), "B:-@12"},
		{putDoc("d", embedded("x", 2), embedded("y", 2)), "x:m@14 y:m@14"},
		{putDoc("d", text("x")), "x:m@14"},
		{putDoc("d"), ""},
	} {
		m.must(s.do)
		if got := m.embeddedAt("d"); got != s.want {
			t.Errorf("step %d: %q, want %q", i+1, got, s.want)
		}
	}
	if c := m.collection("c"); c.Documents != 1 || c.Snippets != 0 || c.Embedded != 0 || c.Dimension != 2 {
		t.Errorf("counters %+v", c)
	}
}

func TestCountersAndResults(t *testing.T) {
	m := newMachine(t)
	m.must(ownedDoc("d", "o", embedded("a", 2), text("b")), putDoc("e", text("x")))
	r := m.must(embed("d", 2, 1))
	want := &command.ResultDocument{Collection: "c", Id: "d", Owner: &command.Owner{Type: "agent", Id: "o"}, CreatedMs: t0, UpdatedMs: t0, Revision: 3, SnippetCount: 2}
	if !proto.Equal(r.GetDocument(), want) || r.GetUpdated() != 1 {
		t.Errorf("result %s", show(r))
	}
	if c := m.collection("c"); c.Documents != 2 || c.Snippets != 3 || c.Embedded != 2 {
		t.Errorf("counters %+v", c)
	}
	r = m.must(putSnip("d", 2, text("new")))
	h := snippet.HashContent("new")
	if !proto.Equal(r.GetSnippet(), &command.ResultSnippet{Index: 2, Content: "new", ContentHash: h[:], Revision: 4}) || r.GetDocument().GetSnippetCount() != 3 {
		t.Errorf("result %s", show(r))
	}
	r = m.must(patchSnip(&command.PatchSnippet{Id: "d", Index: 2, Vector: vector(2), Model: proto.String("q")}))
	if s := r.GetSnippet(); s.GetContent() != "new" || !s.GetEmbedded() || s.GetModel() != "q" || s.GetRevision() != 5 {
		t.Errorf("result %s", show(r))
	}
	r = m.must(deleteDoc("d"))
	if r.GetDocument().GetRevision() != 6 {
		t.Errorf("result %s", show(r))
	}
	if c := m.collection("c"); c.Documents != 1 || c.Snippets != 1 || c.Embedded != 0 {
		t.Errorf("counters %+v", c)
	}
	r = m.must(deleteColl())
	if c := r.GetCollection(); c.GetName() != "c" || c.GetDocuments() != 1 || m.collection("c") != nil {
		t.Errorf("result %s", show(r))
	}
	m.must(putDoc("d"))
	if d, _ := m.document("c", "e"); d != nil {
		t.Error("a document came back with a new collection of the same name")
	}
}

func TestDeleteOwnerInPieces(t *testing.T) {
	m := newMachine(t)
	m.f.rules.maxOwnerDocs = 2
	for i := range 5 {
		m.must(ownedDoc(fmt.Sprint("d", i), "o", text("x")))
	}
	for _, want := range []struct {
		updated uint32
		more    bool
	}{{2, true}, {2, true}, {1, false}, {0, false}} {
		if r := m.must(deleteOwner("o")); r.GetUpdated() != want.updated || r.GetMore() != want.more {
			t.Errorf("%s, want %+v", show(r), want)
		}
	}
	if c := m.collection("c"); c.Documents != 0 || c.Snippets != 0 {
		t.Errorf("counters %+v", c)
	}
}

func TestDatesComeFromTheCommand(t *testing.T) {
	m := newMachine(t)
	r := m.one(at(t0, mutation(putDoc("d"))))
	if d := r.GetDocument(); d.GetCreatedMs() != t0 || d.GetUpdatedMs() != t0 {
		t.Errorf("%s", show(r))
	}
	r = m.one(at(t0+5, mutation(putDoc("d"))))
	if d := r.GetDocument(); d.GetCreatedMs() != t0 || d.GetUpdatedMs() != t0+5 {
		t.Errorf("%s", show(r))
	}
	r = m.one(at(t0+3, mutation(putDoc("d")))) // a new leader's clock is behind
	if d := r.GetDocument(); d.GetUpdatedMs() != t0+5 {
		t.Errorf("updated_at went back: %s", show(r))
	}
}

func TestMetadataPatch(t *testing.T) {
	m := newMachine(t)
	put := putDoc("d")
	put.GetPutDocument().Metadata = []byte(`{"a":1,"b":{"c":2,"d":3}}`)
	m.must(put)
	r := m.must(patchDoc("d", "", `{"b":{"c":null,"e":"<x>"},"z":[1.50]}`))
	if got, want := string(r.GetDocument().GetMetadata()), `{"a":1,"b":{"d":3,"e":"<x>"},"z":[1.50]}`; got != want {
		t.Errorf("metadata %s, want %s", got, want)
	}
}

func TestBatch(t *testing.T) {
	m := newMachine(t)
	m.must(putDoc("old", text("x"))) // 1
	r := m.one(batchOf(putDoc("d", text("a")), putSnip("d", 1, text("b")), embed("d", 2, 0, 1), deleteDoc("old"), in("other", putDoc("d"))))
	if r.GetOutcome() != done_ || len(r.GetItems()) != 5 {
		t.Fatalf("%s", show(r))
	}
	for i, want := range []command.Outcome{created, created, updated, deleted, created} {
		if item := r.GetItems()[i]; item.GetOutcome() != want || item.GetIndex() != 2 || item.GetDocument().GetRevision() != 2 {
			t.Errorf("item %d: %s, want %s", i, show(item), want)
		}
	}
	if got := m.embeddedAt("d"); got != "a:e@2 b:e@2" {
		t.Errorf("document %s", got)
	}
	before := m.dump()
	for name, tt := range map[string]struct {
		c      *command.Command
		want   command.Outcome
		failed uint32
	}{
		"the last one fails":                      {batchOf(putDoc("new"), deleteDoc("d"), patchDoc("nothing", "T", "")), documentNotFound, 2},
		"the first one fails":                     {batchOf(when(ifAbsent, putDoc("d")), putDoc("new")), alreadyExists, 0},
		"a new collection with another dimension": {batchOf(in("n", putDoc("a", embedded("a", 2))), in("n", putDoc("b", embedded("a", 3)))), dimensionMismatch, 1},
		"nothing in it":                           {batchOf(), invalidOutcome, 0},
		"too many":                                {batchOf(puts(snippet.MaxBatch + 1)...), invalidOutcome, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := m.one(tt.c)
			if r.GetOutcome() != tt.want || r.GetFailedOperation() != tt.failed || len(r.GetItems()) != 0 || r.GetDetail() == "" {
				t.Errorf("%s, want %s at %d", show(r), tt.want, tt.failed)
			}
			if after := m.dump(); after != before {
				t.Errorf("a refused batch changed the state")
			}
		})
	}
}

func puts(n int) []*command.Mutation {
	out := make([]*command.Mutation, n)
	for i := range out {
		out[i] = putDoc(fmt.Sprint("x", i))
	}
	return out
}

// TestOneEntryManyCommands: commands of one entry see each other's effects,
// but no two of them change the same document (invariant F6).
func TestOneEntryManyCommands(t *testing.T) {
	outcomes := func(rs []*command.Result) (out []command.Outcome) {
		for _, r := range rs {
			out = append(out, r.GetOutcome())
		}
		return out
	}
	for _, tt := range []struct {
		name     string
		commands []*command.Command
		want     []command.Outcome
	}{
		{"different documents of a new collection", []*command.Command{mutation(putDoc("a", embedded("x", 2))), mutation(putDoc("b", embedded("x", 3))), mutation(putDoc("z", embedded("x", 2)))},
			[]command.Outcome{created, dimensionMismatch, created}},
		{"the same document twice", []*command.Command{mutation(putDoc("a")), mutation(putDoc("a")), mutation(putDoc("b"))}, []command.Outcome{created, writeConflict, created}},
		{"a document that a refused command named", []*command.Command{mutation(when(ifPresent, putDoc("a"))), mutation(putDoc("a"))}, []command.Outcome{revisionMismatch, created}},
		{"deleted and created again", []*command.Command{mutation(deleteDoc("old")), mutation(putDoc("old"))}, []command.Outcome{deleted, writeConflict}},
		{"every kind of change after another", []*command.Command{mutation(putSnip("old", 0, text("y"))), mutation(patchDoc("old", "T", "")), mutation(deleteSnip("old", 0)), mutation(embed("old", 2, 0)),
			mutation(patchSnip(&command.PatchSnippet{Id: "old"})), mutation(deleteDoc("old"))}, []command.Outcome{updated, writeConflict, writeConflict, writeConflict, writeConflict, writeConflict}},
		{"by owner after a change of one of them", []*command.Command{mutation(putDoc("old")), mutation(deleteOwner("o"))}, []command.Outcome{updated, writeConflict}},
		{"a collection after one of its documents", []*command.Command{mutation(putDoc("old")), mutation(deleteColl())}, []command.Outcome{updated, writeConflict}},
		{"a document after its collection", []*command.Command{mutation(deleteColl()), mutation(putDoc("old"))}, []command.Outcome{deleted, writeConflict}},
		{"a document in a collection made before it", []*command.Command{mutation(in("n", putColl(&command.PutCollection{}))), mutation(in("n", putDoc("a")))}, []command.Outcome{created, created}},
		{"many changes of one document in one batch", []*command.Command{batchOf(putDoc("a"), putSnip("a", 0, text("x")), putDoc("a"), deleteDoc("a"), putDoc("a")), mutation(putDoc("a"))}, []command.Outcome{done_, writeConflict}},
		{"ticks", []*command.Command{tick(), tick(), mutation(putDoc("a"))}, []command.Outcome{done_, done_, created}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.must(ownedDoc("old", "o", text("x")))
			if got := outcomes(m.apply(tt.commands...)); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// TestMovesOfOneEntryAreBounded: many small deletions must not make one huge write.
func TestMovesOfOneEntryAreBounded(t *testing.T) {
	m := newMachine(t)
	m.f.rules.maxMoved = 1000
	long := strings.Repeat("x", 600)
	m.must(putDoc("a", text("1"), text(long)), putDoc("b", text("1"), text(long)))
	rs := m.apply(mutation(deleteSnip("a", 0)), mutation(deleteSnip("b", 0)))
	if rs[0].GetOutcome() != deleted || rs[1].GetOutcome() != writeConflict {
		t.Errorf("%s; %s", show(rs[0]), show(rs[1]))
	}
	if r := m.one(mutation(deleteSnip("b", 0))); r.GetOutcome() != deleted {
		t.Errorf("the retry: %s", show(r))
	}
}

// TestWorkOfABatchIsBounded: alone in its entry a batch that is too much work
// is refused for good, not told to retry for ever.
func TestWorkOfABatchIsBounded(t *testing.T) {
	m := newMachine(t)
	m.f.rules.maxMoved, m.f.rules.maxVisited = 1000, 10
	long := strings.Repeat("x", 600)
	m.must(putDoc("a", text("1"), text(long)), putDoc("b", text("1"), text(long)))
	if r := m.one(batchOf(deleteSnip("a", 0), deleteSnip("b", 0))); r.GetOutcome() != limitExceeded || r.GetFailedOperation() != 1 {
		t.Errorf("moves: %s", show(r))
	}
	m.must(putDoc("six", text("1"), text("2"), text("3"), text("4"), text("5"), text("6")))
	rs := m.apply(batchOf(putDoc("six"), putDoc("a", text("1"), text("2"))), mutation(putDoc("b", text("1"), text("2"))), mutation(putDoc("b2")), mutation(deleteSnip("b", 0)))
	if rs[0].GetOutcome() != done_ || rs[1].GetOutcome() != updated || rs[2].GetOutcome() != created || rs[3].GetOutcome() != writeConflict {
		t.Errorf("a full entry: %s; %s; %s; %s", show(rs[0]), show(rs[1]), show(rs[2]), show(rs[3]))
	}
	var many []*command.Mutation
	for range 6 {
		many = append(many, putDoc("b", text("1"), text("2")))
	}
	if r := m.one(batchOf(many...)); r.GetOutcome() != limitExceeded || !strings.Contains(r.GetDetail(), "split it") {
		t.Errorf("visits: %s", show(r))
	}
}

// TestTablesNameEachVerb holds the tables against the protobuf file.
func TestTablesNameEachVerb(t *testing.T) {
	for _, tt := range []struct {
		message proto.Message
		table   []reflect.Type
	}{
		{&command.Command{}, keys(commandTable)},
		{&command.Mutation{}, keys(mutationTable)},
	} {
		oneof := tt.message.ProtoReflect().Descriptor().Oneofs().ByName("op")
		have := map[reflect.Type]bool{}
		for _, k := range tt.table {
			have[k] = true
		}
		for i := range oneof.Fields().Len() {
			fd := oneof.Fields().Get(i)
			m := tt.message.ProtoReflect().New()
			m.Set(fd, protoreflect.ValueOfMessage(m.NewField(fd).Message()))
			var wrapper reflect.Type
			switch c := m.Interface().(type) {
			case *command.Command:
				wrapper = reflect.TypeOf(c.GetOp())
			case *command.Mutation:
				wrapper = reflect.TypeOf(c.GetOp())
			}
			if !have[wrapper] {
				t.Errorf("%s has no function", wrapper)
			}
		}
		if len(tt.table) != oneof.Fields().Len() {
			t.Errorf("%d functions for %d verbs of %s", len(tt.table), oneof.Fields().Len(), oneof.FullName())
		}
	}
}

func keys[V any](m map[reflect.Type]V) (out []reflect.Type) {
	for k := range m {
		out = append(out, k)
	}
	return out
}
