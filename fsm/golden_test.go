package fsm

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
)

// update rewrites the golden file. Each difference in it is a difference in
// what an existing log means: it needs a higher command.FormatVersion and a new
// file beside the old one.
var update = flag.Bool("update", false, "rewrite golden files (only for a version that has not been shipped)")

// goldenEntries is a small log with each verb, refusals with their texts, and
// rows of each kind that this package keeps.
func goldenEntries() [][]*command.Command {
	meta := putDoc("m")
	meta.GetPutDocument().Title = "Title"
	meta.GetPutDocument().Metadata = []byte(`{"a":1,"b":{"c":2}}`)
	return [][]*command.Command{
		{initCluster("cluster-1"), setMember("n1", "h:1"), setMember("n2", "h:2")},
		{tick()},
		{at(t0+1, keyed("k1", "r1", mutation(ownedDoc("d", "o", embedded("a", 2), text("b")))))},
		{at(t0+2, keyed("k1", "r1", mutation(ownedDoc("d", "o", embedded("a", 2), text("b"))))), at(t0+2, keyed("k1", "other", mutation(putDoc("d"))))},
		{mutation(meta), mutation(putDoc("m")), mutation(putDoc("wrong", embedded("x", 3)))},
		{at(t0-5, mutation(patchDoc("m", "New", `{"b":{"c":null,"d":"<&>"},"e":[1.50,"ü"]}`)))},
		{at(t0+3, keyed("k2", "r2", mutation(putSnip("d", 2, text("c"))))), at(t0+3, keyed("k3", "r3", mutation(when(ifAbsent, putDoc("m")))))},
		{mutation(patchSnip(&command.PatchSnippet{Id: "d", Index: 0, Content: proto.String("A")})), mutation(embed("m", 2, 0))},
		{mutation(embed("d", 2, 0, 2))},
		{mutation(deleteSnip("d", 1))},
		{keyed("k4", "r4", batchOf(putDoc("x"), in("n", putDoc("y")), deleteDoc("x")))},
		{keyed("k5", "r5", batchOf(putDoc("x"), deleteDoc("nothing")))},
		{mutation(in("n", putColl(&command.PutCollection{Dimension: proto.Uint32(8), Metric: proto.String("dot"), Analyzer: proto.String("english")})))},
		{mutation(putColl(&command.PutCollection{Dimension: proto.Uint32(8)}))},
		{mutation(when(ifRevision(99), deleteDoc("m"))), mutation(ownedDoc("d", "other"))},
		{mutation(deleteOwner("o"))},
		{mutation(deleteDoc("m"))},
		{mutation(in("n", deleteColl()))},
		{removeMember("n2"), setLimits(&command.RateLimit{Scope: "collection", Name: "c", WritesPerSecond: 100, Burst: 10})},
		{at(t0+10*MaxClockJumpMs, tick())},
	}
}

func TestGolden(t *testing.T) {
	m := newMachine(t)
	m.term = 2
	var b strings.Builder
	for _, commands := range goldenEntries() {
		for _, r := range m.apply(commands...) {
			fmt.Fprintln(&b, show(r))
		}
	}
	fmt.Fprintln(&b, "--- rows of package fsm")
	for line := range strings.Lines(m.dump()) {
		if strings.HasPrefix(line, "idempotency") || strings.HasPrefix(line, `meta "s`) {
			b.WriteString(line)
		}
	}
	path := filepath.Join("testdata", "golden-v1.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(b.String(), "\n")
	for i, line := range strings.Split(string(want), "\n") {
		if i >= len(got) || got[i] != line {
			t.Fatalf("line %d:\n got %s\nwant %s\nThis log means something else than it did: see the comment at update.", i+1, append(got, "nothing")[min(i, len(got))], line)
		}
	}
	if len(got) != strings.Count(string(want), "\n")+1 {
		t.Errorf("%d lines more", len(got)-strings.Count(string(want), "\n")-1)
	}
}
