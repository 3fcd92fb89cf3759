package command

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// update rewrites the golden files. A golden file of a shipped version is
// never rewritten: logs hold its bytes.
var update = flag.Bool("update", false, "rewrite golden files (only for a version that has not been shipped)")

// encode makes an entry of commands.
func encode(tb testing.TB, commands ...*Command) []byte {
	tb.Helper()
	entry := NewEntry(0)
	for _, c := range commands {
		b, err := Encode(c)
		if err != nil {
			tb.Fatalf("encode: %v", err)
		}
		entry = AppendCommand(entry, b)
	}
	return entry
}

// goldenCommands has each verb once, with every field set.
func goldenCommands() []*Command {
	hash := bytes.Repeat([]byte{0xab}, 32)
	vector := []byte{0, 0, 128, 63, 0, 0, 0, 0}
	in := &SnippetInput{Content: "text ü", ContentHash: hash, Vector: vector, Model: "m"}
	owner := &Owner{Type: "agent", Id: "a1"}
	condition := &Condition{IfAbsent: true, IfPresent: true, IfRevision: 7}
	mutations := []*Mutation{
		{Op: &Mutation_PutCollection{PutCollection: &PutCollection{Dimension: proto.Uint32(2), Metric: proto.String("dot"), Analyzer: proto.String("english")}}},
		{Op: &Mutation_DeleteCollection{DeleteCollection: &DeleteCollection{}}},
		{Op: &Mutation_PutDocument{PutDocument: &PutDocument{Id: "d", Owner: owner, Title: "T", Metadata: []byte(`{"a":1}`), Snippets: []*SnippetInput{in, in}, Metric: "cosine"}}},
		{Op: &Mutation_PatchDocument{PatchDocument: &PatchDocument{Id: "d", Title: proto.String(""), MetadataPatch: []byte(`{"a":null}`)}}},
		{Op: &Mutation_DeleteDocument{DeleteDocument: &DeleteDocument{Id: "d"}}},
		{Op: &Mutation_PutSnippet{PutSnippet: &PutSnippet{Id: "d", Index: 1, Snippet: in, Metric: "cosine"}}},
		{Op: &Mutation_PatchSnippet{PatchSnippet: &PatchSnippet{Id: "d", Index: 1, Content: proto.String("t"), ContentHash: hash, Vector: vector, Model: proto.String("m"), Metric: "cosine"}}},
		{Op: &Mutation_DeleteSnippet{DeleteSnippet: &DeleteSnippet{Id: "d", Index: 3}}},
		{Op: &Mutation_PutEmbeddings{PutEmbeddings: &PutEmbeddings{Id: "d", Model: "m", Embeddings: []*EmbeddingInput{{Index: 2, Vector: vector}}, Metric: "cosine"}}},
		{Op: &Mutation_DeleteOwner{DeleteOwner: &DeleteOwner{Owner: owner}}},
	}
	var out []*Command
	for _, m := range mutations {
		m.Collection, m.Condition = "c", condition
		out = append(out, &Command{Op: &Command_Mutation{Mutation: m}})
	}
	out = append(out,
		&Command{Op: &Command_Batch{Batch: &Batch{Mutations: mutations}}},
		&Command{Op: &Command_Tick{Tick: &Tick{NodeId: "n1", Term: 3}}},
		&Command{Op: &Command_InitCluster{InitCluster: &InitCluster{ClusterId: "id"}}},
		&Command{Op: &Command_SetMember{SetMember: &SetMember{Member: &Member{NodeId: "n1", RaftAddr: "h:1", HttpAddr: "http://h:2", Version: "v", Learner: true}}}},
		&Command{Op: &Command_RemoveMember{RemoveMember: &RemoveMember{NodeId: "n1"}}},
		&Command{Op: &Command_SetLimits{SetLimits: &SetLimits{RateLimits: []*RateLimit{{Scope: "token", Name: "*", WritesPerSecond: 1.5, Burst: 2}}}}},
	)
	for i, c := range out {
		c.ProposedMs = 1_700_000_000_000 + int64(i)
		c.Idempotency = &Idempotency{Key: fmt.Sprintf("key%d", i), RequestHash: hash, RequestId: "r"}
	}
	return out
}

// TestGoldenEntry holds the bytes of format version 1: an entry written by any
// release must be read the same way by all later ones.
func TestGoldenEntry(t *testing.T) {
	want := &Entry{Version: 1, Commands: goldenCommands()}
	path := filepath.Join("testdata", "entry-v1.bin")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, encode(t, goldenCommands()...), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".json", []byte(protojson.Format(want)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("the golden entry is read as\n%s", protojson.Format(got))
	}
	if now := encode(t, goldenCommands()...); !bytes.Equal(now, golden) {
		t.Errorf("the same commands are now written as other bytes: %d, golden %d", len(now), len(golden))
	}
}

// TestGoldenCoversEachVerb fails when a verb or field is added to the
// protobuf file without a place in the golden entry.
func TestGoldenCoversEachVerb(t *testing.T) {
	e := &Entry{Version: 1, Commands: goldenCommands()}
	seen := map[protoreflect.FullName]bool{}
	collectFields(e.ProtoReflect(), seen)
	var check func(d protoreflect.MessageDescriptor)
	check = func(d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			if !seen[fd.FullName()] {
				t.Errorf("field %s is not in the golden entry", fd.FullName())
			}
			if fd.Message() != nil {
				check(fd.Message())
			}
		}
	}
	check(e.ProtoReflect().Descriptor())
}

func collectFields(m protoreflect.Message, seen map[protoreflect.FullName]bool) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		seen[fd.FullName()] = true
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				collectFields(v.List().Get(i).Message(), seen)
			}
		default:
			collectFields(v.Message(), seen)
		}
		return true
	})
}

// TestUnknownFieldAnywhereIsRefused puts one unknown field into each message
// of the golden entry in turn, through protobuf's own reflection.
func TestUnknownFieldAnywhereIsRefused(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)
	messages := 0
	var walk func(root proto.Message, m protoreflect.Message)
	walk = func(root proto.Message, m protoreflect.Message) {
		messages++
		m.SetUnknown(unknown)
		b, err := proto.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); !errors.Is(err, ErrUnknown) {
			t.Errorf("unknown field in %s: %v", m.Descriptor().FullName(), err)
		}
		m.SetUnknown(nil)
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case fd.Message() == nil:
			case fd.IsList():
				for i := range v.List().Len() {
					walk(root, v.List().Get(i).Message())
				}
			default:
				walk(root, v.Message())
			}
			return true
		})
	}
	e := &Entry{Version: 1, Commands: goldenCommands()}
	walk(e, e.ProtoReflect())
	if messages < 60 {
		t.Errorf("only %d messages were tried", messages)
	}
}

func TestDecodeRefuses(t *testing.T) {
	tick := &Command{Op: &Command_Tick{Tick: &Tick{Term: 1}}}
	version := func(v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), v)
	}
	wrongWire := protowire.AppendVarint(protowire.AppendTag(NewEntry(0), 2, protowire.VarintType), 5)
	noOp := encode(t, &Command{Op: &Command_Batch{Batch: &Batch{Mutations: []*Mutation{{Collection: "c"}}}}})
	for _, tt := range []struct {
		name string
		data []byte
		want error
	}{
		{"nothing at all", nil, ErrMalformed},
		{"a commands list without a version", AppendCommand(nil, nil), ErrMalformed},
		{"a newer version", version(FormatVersion + 1), ErrVersion},
		{"a newer version with unknown fields", protowire.AppendVarint(protowire.AppendTag(version(9), 99, protowire.VarintType), 1), ErrVersion},
		{"a command without an operation", encode(t, &Command{ProposedMs: 1}), ErrUnknown},
		{"a mutation without an operation", encode(t, &Command{Op: &Command_Mutation{Mutation: &Mutation{Collection: "c"}}}), ErrUnknown},
		{"a batch with a mutation without an operation", noOp, ErrUnknown},
		{"a field in another wire type", wrongWire, ErrUnknown},
		{"an entry that is cut off", encode(t, tick)[:len(encode(t, tick))-1], ErrMalformed},
		{"text that is not UTF-8", bytes.Replace(encode(t, &Command{Op: &Command_InitCluster{InitCluster: &InitCluster{ClusterId: "abc"}}}), []byte("abc"), []byte("a\xffc"), 1), ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Decode(tt.data); !errors.Is(err, tt.want) {
				t.Errorf("Decode: %v, want %v", err, tt.want)
			}
		})
	}
}

// TestDecodeSharesNoMemory: raft's log cache keeps the bytes of an entry.
func TestDecodeSharesNoMemory(t *testing.T) {
	data := encode(t, goldenCommands()...)
	e, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	if !proto.Equal(e, &Entry{Version: 1, Commands: goldenCommands()}) {
		t.Error("the decoded entry changed with its bytes")
	}
}

func TestConflictKey(t *testing.T) {
	put := func(c, id string) *Command {
		return &Command{Op: &Command_Mutation{Mutation: &Mutation{Collection: c, Op: &Mutation_PutDocument{PutDocument: &PutDocument{Id: id}}}}}
	}
	if one, again := put("c", "d").ConflictKey(), put("c", "d").ConflictKey(); one != again {
		t.Error("one document has two keys")
	}
	if put("c", "d").ConflictKey() == put("cd", "").ConflictKey() || put("c", "d").ConflictKey() == put("c", "e").ConflictKey() {
		t.Error("two documents share a key")
	}
	if k := (&Command{Op: &Command_Tick{}}).ConflictKey(); k != 0 {
		t.Errorf("the key of a tick is %d", k)
	}
	if k := (&Command{Op: &Command_Batch{}}).ConflictKey(); k != Whole {
		t.Errorf("the key of a batch is %d", k)
	}
	for _, c := range goldenCommands() {
		m := c.GetMutation()
		if m == nil {
			continue
		}
		name := fmt.Sprintf("%T", m.GetOp())
		whole := strings.Contains(name, "Collection") || strings.Contains(name, "Owner")
		if got := c.ConflictKey() == Whole; got != whole {
			t.Errorf("%s: alone in its entry: %t, want %t", name, got, whole)
		}
	}
}

func TestCommandOverhead(t *testing.T) {
	c := make([]byte, MaxEntryBytes)
	if got := len(AppendCommand(nil, c)) - len(c); got > CommandOverhead {
		t.Errorf("AppendCommand adds %d bytes, CommandOverhead is %d", got, CommandOverhead)
	}
}

// FuzzDecode: bytes from anywhere give an entry or an error, and what is
// accepted holds no field that this release does not know.
func FuzzDecode(f *testing.F) {
	f.Add(encode(f, goldenCommands()...))
	for _, c := range goldenCommands() {
		f.Add(encode(f, c))
	}
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Decode(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrVersion) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if hasUnknown(e.ProtoReflect()) {
			t.Errorf("an unknown field was accepted: %x", data)
		}
		for _, c := range e.GetCommands() {
			_ = c.ConflictKey()
		}
	})
}

// hasUnknown is the plain way to find unknown fields: the oracle of the walk
// over the bytes.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = hasUnknown(v.Message())
		}
		return !found
	})
	return found
}

// document is a put of n snippets of 1 KiB with vectors of 1024 values.
func document(n int) *Command {
	put := &PutDocument{Id: "document-0001", Title: "title", Metric: "cosine", Metadata: []byte(`{"lang":"en"}`)}
	for range n {
		put.Snippets = append(put.Snippets, &SnippetInput{Content: strings.Repeat("x", 1024), ContentHash: make([]byte, 32), Vector: make([]byte, 4096), Model: "m"})
	}
	return &Command{ProposedMs: 1_700_000_000_000, Op: &Command_Mutation{Mutation: &Mutation{Collection: "c", Op: &Mutation_PutDocument{PutDocument: put}}}}
}

func benchmarkEntries() map[string]func(testing.TB) []byte {
	return map[string]func(testing.TB) []byte{
		"10 snippets 50 KiB": func(tb testing.TB) []byte { return encode(tb, document(10)) },
		"256 small commands": func(tb testing.TB) []byte {
			c := document(1)
			c.GetMutation().GetPutDocument().Snippets[0].Vector = nil
			all := make([]*Command, 256)
			for i := range all {
				all[i] = c
			}
			return encode(tb, all...)
		},
	}
}

// BenchmarkDecode is the whole of Decode; BenchmarkUnknown compares the two
// ways to find unknown fields.
func BenchmarkDecode(b *testing.B) {
	for name, entry := range benchmarkEntries() {
		b.Run(name, func(b *testing.B) {
			data := entry(b)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnknown(b *testing.B) {
	for name, entry := range benchmarkEntries() {
		data := entry(b)
		e, err := Decode(data)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("walk bytes/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := entryShape().check(data); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("reflect/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if hasUnknown(e.ProtoReflect()) {
					b.Fatal("unknown")
				}
			}
		})
	}
}
