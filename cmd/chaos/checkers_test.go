package chaos

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/httpapi/client"
)

// script makes a history by hand. Each call takes one tick of a clock of
// milliseconds, and begins when the one before has ended.
type script struct {
	ops   []*Op
	clock int64
}

func (s *script) add(o *Op) *Op {
	s.clock += 2
	o.ID, o.Key = len(s.ops), "k"
	o.Call, o.Return = s.clock*1e6, (s.clock+1)*1e6
	if o.Outcome == "" {
		o.Outcome = OK
	}
	s.ops = append(s.ops, o)
	return o
}

// put is an acknowledged put that creates the document if it is the first.
func (s *script) put(token string, index uint64) *Op {
	created := true
	for _, o := range s.ops {
		if o.Kind == KindPut {
			created = false
		}
	}
	return s.add(&Op{Kind: KindPut, Token: token, Index: index, Created: created})
}

func (s *script) read(level, token string, revision, index uint64) *Op {
	return s.add(&Op{Kind: KindRead, Level: level, Index: index, Seen: &Seen{Revision: revision, Title: token, Content: token, Rest: restOf(token)}})
}

func (s *script) absent(level string, index uint64) *Op {
	return s.add(&Op{Kind: KindRead, Level: level, Index: index})
}

// threeParts are writes that set a part of the document each.
func (s *script) threeParts() {
	s.put("t1", 10)
	s.add(&Op{Kind: KindPutSnippet, Token: "t2", Index: 11})
	s.add(&Op{Kind: KindPatch, Token: "t3", Index: 12})
}

const linear = client.LevelLinearizable

// histories are histories of one document, and which checkers must refuse
// them: none, or those named.
var histories = []struct {
	name   string
	make   func(s *script)
	broken string
}{
	{"all in order", func(s *script) {
		s.absent(linear, 1)
		s.put("a", 10)
		s.read(linear, "a", 10, 10)
		s.add(&Op{Kind: KindEmbed, Token: "m", Index: 11})
		s.add(&Op{Kind: KindRead, Level: linear, Index: 12, Seen: &Seen{Revision: 11, Title: "a", Content: "a", Model: "m", Rest: restOf("a")}})
		s.add(&Op{Kind: KindPutSnippet, Token: "b", Index: 13})
		s.add(&Op{Kind: KindRead, Level: linear, Index: 13, Seen: &Seen{Revision: 13, Title: "a", Content: "b", Rest: restOf("a")}})
		s.add(&Op{Kind: KindPatch, Token: "c", Index: 14, IfMatch: 13})
		s.add(&Op{Kind: KindRead, Level: linear, Index: 14, Seen: &Seen{Revision: 14, Title: "c", Content: "b", Rest: restOf("a")}})
		s.add(&Op{Kind: KindDelete, Index: 15})
		s.absent(linear, 15)
	}, ""},
	{"a stale linearizable read", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.read(linear, "a", 10, 10)
	}, "linearizable fresh"},
	{"a stale read that is allowed", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.read(client.LevelLocal, "a", 10, 10)
	}, ""},
	{"a lost write", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.read(linear, "a", 10, 12)
	}, "linearizable prefix"},
	{"a document that is gone", func(s *script) {
		s.put("a", 10)
		s.absent(linear, 12)
	}, "linearizable prefix"},
	{"a deletion that comes back", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindDelete, Index: 11})
		s.read(linear, "a", 10, 12)
	}, "linearizable prefix"},
	{"a read of two states mixed", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.add(&Op{Kind: KindRead, Level: linear, Index: 11, Seen: &Seen{Revision: 11, Title: "b", Content: "a", Rest: restOf("a")}})
	}, "linearizable prefix"},
	{"an embedding that outlives its text", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindEmbed, Token: "m", Index: 11})
		s.add(&Op{Kind: KindPutSnippet, Token: "b", Index: 12})
		s.add(&Op{Kind: KindRead, Level: linear, Index: 12, Seen: &Seen{Revision: 12, Title: "a", Content: "b", Model: "m", Rest: restOf("a")}})
	}, "linearizable prefix"},
	{"a damaged text", func(s *script) {
		s.put("a", 10)
		s.read(linear, "a", 10, 10).Seen.Damage = "half of it"
	}, "linearizable prefix"},
	{"two writers with one revision", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindPut, Token: "b", Index: 11, IfMatch: 10})
		s.add(&Op{Kind: KindPut, Token: "c", Index: 12, IfMatch: 10})
	}, "linearizable"},
	{"a refusal without a reason", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindPut, Token: "b", IfMatch: 10, Outcome: Refused, Code: "revision_mismatch", Current: 10})
	}, "linearizable"},
	{"not found, though it is there", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindPatch, Token: "b", Outcome: Refused, Code: "not_found"})
	}, "linearizable"},
	{"a write applied twice", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.read(linear, "b", 11, 11)
		s.read(linear, "a", 12, 12)
	}, "linearizable prefix"},
	{"a failed write that was applied", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindPut, Token: "b", Outcome: Failed})
		s.read(linear, "b", 11, 11)
	}, "linearizable prefix"},
	{"an unknown write that was applied late", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindPut, Token: "b", Outcome: Unknown})
		s.read(linear, "a", 10, 10)
		s.read(linear, "b", 12, 12)
	}, ""},
	{"an unknown write that was applied, and taken back", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindPut, Token: "b", Outcome: Unknown})
		s.read(linear, "b", 12, 12)
		s.read(linear, "a", 10, 13)
	}, "linearizable"},
	{"an unknown deletion", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindDelete, Outcome: Unknown})
		s.absent(linear, 12)
	}, ""},
	{"a session that does not read its write", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.read(client.LevelSession, "a", 10, 10)
	}, "session"},
	{"a session that goes back", func(s *script) {
		s.put("a", 10).Client = 2
		s.put("b", 11).Client = 2
		s.read(client.LevelLocal, "b", 11, 11).Client = 1
		s.read(client.LevelSession, "a", 10, 10).Client = 1
	}, "session"},
	{"a bounded read inside its bound", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.read(client.LevelBounded, "a", 10, 10).BoundMs = 500
	}, ""},
	{"a bounded read that is too old", func(s *script) {
		s.put("a", 10)
		s.put("b", 11)
		s.clock += 500
		s.read(client.LevelBounded, "a", 10, 10).BoundMs = 400
	}, "fresh"},
	{"a state of the future", func(s *script) {
		s.put("a", 10)
		s.read(client.LevelLocal, "a", 10, 9)
	}, "prefix"},
	{"a pair that is torn", func(s *script) {
		s.add(&Op{Kind: KindPairWrite, Token: "a", Index: 10})
		s.add(&Op{Kind: KindPairWrite, Token: "b", Index: 11})
		s.add(&Op{Kind: KindPairRead, Level: client.LevelLocal, Index: 11, Seen: &Seen{Revision: 11, Title: "b", Content: "a", Titles: true}})
	}, "atomic prefix"},
	{"a field that an older write set", func(s *script) {
		s.threeParts()
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 12, Seen: &Seen{Revision: 12, Title: "t3", Content: "t2", Rest: restOf("t1")}})
	}, ""},
	{"an older value of a field that the last write did not set", func(s *script) {
		s.threeParts()
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 12, Seen: &Seen{Revision: 12, Title: "t3", Content: "t1", Rest: restOf("t1")}})
	}, "prefix"},
	{"a value that nobody wrote, in a field that the last write did not set", func(s *script) {
		s.threeParts()
		s.add(&Op{Kind: KindRead, Level: client.LevelSession, Index: 12, Seen: &Seen{Revision: 12, Title: "t3", Content: "never-written", Rest: restOf("t1")}})
	}, "prefix"},
	{"an embedding that nobody set", func(s *script) {
		s.threeParts()
		s.add(&Op{Kind: KindRead, Level: client.LevelBounded, Index: 12, Seen: &Seen{Revision: 12, Title: "t3", Content: "t2", Model: "t1", Rest: restOf("t1")}})
	}, "prefix"},
	{"snippets behind the first that are gone", func(s *script) {
		s.threeParts()
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 12, Seen: &Seen{Revision: 12, Title: "t3", Content: "t2", Rest: "x"}})
	}, "prefix"},
	{"an unknown write behind the last that sets the field", func(s *script) {
		s.threeParts()
		s.add(&Op{Kind: KindPutSnippet, Token: "u", Outcome: Unknown})
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 13, Seen: &Seen{Revision: 13, Title: "t3", Content: "u", Rest: restOf("t1")}})
	}, ""},
	{"an unknown write in front of the last, which another has hidden", func(s *script) {
		s.put("t1", 10)
		s.add(&Op{Kind: KindPatch, Token: "u", Outcome: Unknown})
		s.add(&Op{Kind: KindPutSnippet, Token: "t2", Index: 12})
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 12, Seen: &Seen{Revision: 12, Title: "u", Content: "t2", Rest: restOf("t1")}})
	}, ""},
	{"half of an unknown write", func(s *script) {
		s.put("t1", 10)
		s.add(&Op{Kind: KindPut, Token: "u", Outcome: Unknown})
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 12, Seen: &Seen{Revision: 12, Title: "u", Content: "t1", Rest: restOf("t1")}})
	}, "prefix"},
	{"half of an unknown write, under another", func(s *script) {
		s.put("t1", 10)
		s.add(&Op{Kind: KindPut, Token: "u", Outcome: Unknown})
		s.add(&Op{Kind: KindPatch, Token: "t3", Index: 13})
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 13, Seen: &Seen{Revision: 13, Title: "t3", Content: "u", Rest: restOf("t1")}})
	}, "prefix"},
	{"an unknown write that was sent after what hides it", func(s *script) {
		s.put("t1", 10)
		s.add(&Op{Kind: KindPut, Token: "t2", Index: 20})
		s.add(&Op{Kind: KindPatch, Token: "u", Outcome: Unknown})
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 15, Seen: &Seen{Revision: 15, Title: "u", Content: "t1", Rest: restOf("t1")}})
	}, "prefix"},
	{"a revision that no write made", func(s *script) {
		s.put("t1", 10)
		s.add(&Op{Kind: KindPut, Token: "u", Outcome: Unknown})
		s.add(&Op{Kind: KindRead, Level: client.LevelLocal, Index: 15, Seen: &Seen{Revision: 15, Title: "t1", Content: "t1", Rest: restOf("t1")}})
	}, "prefix"},
	{"a document that was deleted with its owner", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindDeleteOwner, Index: 11, Deleted: 1})
		s.absent(linear, 11)
		s.add(&Op{Kind: KindDeleteOwner, Index: 12})
		s.put("b", 13).Created = true
		s.read(linear, "b", 13, 13)
	}, ""},
	{"a deletion by owner that comes back", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindDeleteOwner, Index: 11, Deleted: 1})
		s.read(linear, "a", 10, 12)
	}, "linearizable prefix"},
	{"a deletion by owner that finds nothing, though it is there", func(s *script) {
		s.put("a", 10)
		s.add(&Op{Kind: KindDeleteOwner, Index: 11})
	}, "linearizable"},
	{"half of a pair that is deleted", func(s *script) {
		s.add(&Op{Kind: KindPairWrite, Token: "a", Index: 10})
		s.add(&Op{Kind: KindPairDelete, Index: 11, Deleted: 1})
	}, "atomic"},
	{"a text of a pair that is not what was written", func(s *script) {
		s.add(&Op{Kind: KindPairWrite, Token: "a", Index: 10})
		s.add(&Op{Kind: KindReadOther, Level: client.LevelLocal, Index: 11, Seen: &Seen{Revision: 10, Title: "a", Content: "b", Rest: restOf("a")}})
	}, "prefix"},
	{"an import", func(s *script) {
		s.add(&Op{Kind: KindImport, Token: "a", Index: 10})
		s.add(&Op{Kind: KindImport, Token: "b", Index: 12, Again: true})
		s.add(&Op{Kind: KindReadOther, Level: client.LevelLocal, Index: 11, Seen: &Seen{Revision: 11, Title: "b", Content: "b", Rest: restOf("b")}})
		s.add(&Op{Kind: KindReadOther, Level: client.LevelLocal, Index: 12, Seen: &Seen{Revision: 12, Title: "b", Content: "b", Rest: restOf("b")}})
		s.add(&Op{Kind: KindReadOther, Level: client.LevelLocal, Index: 15, Seen: &Seen{Revision: 15, Title: "b", Content: "b", Rest: restOf("b")}})
	}, ""},
	{"a line of an import that was applied twice, though it was sent once", func(s *script) {
		s.add(&Op{Kind: KindImport, Token: "b", Index: 12})
		s.add(&Op{Kind: KindReadOther, Level: client.LevelLocal, Index: 15, Seen: &Seen{Revision: 15, Title: "b", Content: "b", Rest: restOf("b")}})
	}, "prefix"},
	{"a line of an import that is lost", func(s *script) {
		s.add(&Op{Kind: KindImport, Token: "b", Index: 12})
		s.add(&Op{Kind: KindReadOther, Level: client.LevelLocal, Index: 15})
	}, "prefix"},
	{"the life of a collection", func(s *script) {
		s.add(&Op{Kind: KindCollPut, Token: "3", Index: 10, Created: true})
		s.add(&Op{Kind: KindCollPut, Token: "4", Index: 11})
		s.add(&Op{Kind: KindCollRead, Level: linear, Index: 11, Seen: &Seen{Revision: 11, Title: "4"}})
		s.add(&Op{Kind: KindCollDelete, Index: 12, IfMatch: 11})
		s.add(&Op{Kind: KindCollRead, Level: linear, Index: 12})
		s.add(&Op{Kind: KindCollPut, Token: "5", Index: 13, Created: true, IfAbsent: true})
		s.add(&Op{Kind: KindCollRead, Level: linear, Index: 13, Seen: &Seen{Revision: 13, Title: "5"}})
	}, ""},
	{"a collection that comes back", func(s *script) {
		s.add(&Op{Kind: KindCollPut, Token: "3", Index: 10, Created: true})
		s.add(&Op{Kind: KindCollDelete, Index: 12})
		s.add(&Op{Kind: KindCollRead, Level: linear, Index: 13, Seen: &Seen{Revision: 10, Title: "3"}})
	}, "linearizable prefix"},
	{"a collection that keeps its old settings", func(s *script) {
		s.add(&Op{Kind: KindCollPut, Token: "3", Index: 10, Created: true})
		s.add(&Op{Kind: KindCollPut, Token: "4", Index: 11})
		s.add(&Op{Kind: KindCollRead, Level: linear, Index: 13, Seen: &Seen{Revision: 11, Title: "3"}})
	}, "linearizable prefix"},
	{"a collection that is made twice", func(s *script) {
		s.add(&Op{Kind: KindCollPut, Token: "3", Index: 10, Created: true})
		s.add(&Op{Kind: KindCollPut, Token: "4", Index: 11, Created: true})
	}, "linearizable"},
}

func TestEachWrongHistoryIsFound(t *testing.T) {
	for _, h := range histories {
		t.Run(h.name, func(t *testing.T) {
			s := new(script)
			h.make(s)
			got := map[string]bool{}
			note := func(found []Violation) {
				for _, v := range found {
					got[v.Checker] = true
				}
			}
			_, found := CheckLinearizable(s.ops, 1, "")
			note(found)
			_, found = CheckPrefix("prefix", s.ops, s.ops)
			note(found)
			_, found = CheckFresh(s.ops, client.LevelLinearizable)
			note(found)
			_, found = CheckFresh(s.ops, client.LevelBounded)
			note(found)
			_, found = CheckSessions(s.ops)
			note(found)
			_, found = CheckPairs(s.ops)
			note(found)
			for _, name := range strings.Fields(h.broken) {
				if !got[name] {
					t.Errorf("the checker %q has not found it; these have: %v", name, got)
				}
			}
			if h.broken == "" && len(got) > 0 {
				t.Errorf("it is right, and %v refuse it", got)
			}
		})
	}
}

func TestTooManyUnknownOutcomesAreAFailure(t *testing.T) {
	s := new(script)
	for range MaxUnknowns + 1 {
		s.add(&Op{Kind: KindPut, Token: "x", Outcome: Unknown})
	}
	if _, found := CheckLinearizable(s.ops, 1, ""); len(found) != 1 {
		t.Errorf("a history of %d unknown outcomes passes: %v", len(s.ops), found)
	}
}

func TestAPictureIsMadeOfWhatIsNotLinearizable(t *testing.T) {
	s, dir := new(script), t.TempDir()
	s.put("a", 10)
	s.absent(linear, 11)
	_, _ = CheckLinearizable(s.ops, 1, dir)
	if _, err := os.Stat(filepath.Join(dir, "linearizable-k.html")); err != nil {
		t.Error(err)
	}
}

func TestCreatesAreCounted(t *testing.T) {
	ops := []*Op{
		{Kind: KindCreate, Token: "acked", Outcome: OK},
		{Kind: KindCreate, Token: "unknown", Outcome: Unknown},
		{Kind: KindCreate, Token: "failed", Outcome: Failed},
	}
	for _, c := range []struct {
		name  string
		there map[string]int // how often each is there
		want  int
	}{
		{"as it should be", map[string]int{"acked": 1, "unknown": 1}, 0},
		{"the unknown one is not there", map[string]int{"acked": 1}, 0},
		{"lost", map[string]int{}, 1},
		{"duplicated", map[string]int{"acked": 2}, 1},
		{"an unknown one, twice", map[string]int{"acked": 1, "unknown": 2}, 1},
		{"a failed one", map[string]int{"acked": 1, "failed": 1}, 1},
		{"nobody's", map[string]int{"acked": 1, "who": 1}, 1},
	} {
		if _, found := CheckCreates(ops, "n1", seenTimes(c.there)); len(found) != c.want {
			t.Errorf("%s: %v; want %d", c.name, found, c.want)
		}
	}
}

// seenTimes makes documents of a node that were created with these titles.
func seenTimes(times map[string]int) map[string][]*Seen {
	there := map[string][]*Seen{}
	for title, n := range times {
		for range n {
			there[title] = append(there[title], &Seen{Title: title, Content: title, Rest: restOf(title)})
		}
	}
	return there
}

func TestQueuesAreFollowed(t *testing.T) {
	op := func(kind, token string, outcome Outcome, call int64) *Op {
		return &Op{Kind: kind, Key: "q", Token: token, Outcome: outcome, Call: call}
	}
	ops := []*Op{
		op(KindAppend, "a", OK, 1), op(KindAppend, "b", OK, 2), op(KindAppend, "c", OK, 3),
		op(KindPop, "", OK, 4), op(KindAppend, "d", Unknown, 5),
	}
	for _, c := range []struct {
		content string
		want    int
	}{
		{"b c", 0}, {"b c d", 0}, {"c", 1}, {"a b c", 1}, {"b c c", 1}, {"b c d d", 1}, {"c b", 1}, {"", 1},
	} {
		if _, found := CheckQueue(ops, "q", "n1", strings.Fields(c.content)); len(found) != c.want {
			t.Errorf("%q: %v; want %d", c.content, found, c.want)
		}
	}
	if count, _ := CheckQueue(ops, "q", "n1", strings.Fields("c c")); count.Lost != 1 || count.Duplicated != 1 {
		t.Errorf("lost and duplicated are %+v", count)
	}
}

func TestTwoLeadersInATermAreFound(t *testing.T) {
	log := `time=x level=INFO msg="election won" component=raft term=3 tally=2`
	f := ReadLog("n1", log+"\npanic: oh\n"+`time=x level=INFO msg="snapshot installed"`)
	if f.Elections != 1 || f.Installs != 1 || len(f.Alarms) != 1 || len(f.Reigns) != 1 {
		t.Fatalf("the log says %+v", f)
	}
	back := ReadLog("n1", `msg="snapshot taken" index=9`+"\n"+`msg="snapshot installed" index=8`)
	restarted := ReadLog("n1", `msg="snapshot taken" index=9`+"\n"+`msg="the API answers"`+"\n"+`msg="snapshot installed" index=8`)
	if len(back.Alarms) != 1 || len(restarted.Alarms) != 0 {
		t.Errorf("a state that goes back gives %v, an empty node %v", back.Alarms, restarted.Alarms)
	}
	ops := []*Op{{Kind: KindPut, Outcome: OK, Term: 2, Node: "n2"}, {Kind: KindPut, Outcome: OK, Term: 3, Node: "n1"}}
	if terms, found := CheckTerms(append(f.Reigns, reignsOfWrites(ops)...)); terms != 2 || len(found) != 0 {
		t.Errorf("%d terms, %v", terms, found)
	}
	ops[1].Node = "n2"
	if _, found := CheckTerms(append(f.Reigns, reignsOfWrites(ops)...)); len(found) != 1 {
		t.Errorf("two leaders in term 3: %v", found)
	}
}

func TestNodesThatDifferAreFound(t *testing.T) {
	state := func(node, text string) *NodeState {
		return &NodeState{Node: node, Documents: map[string]string{"c/d": text}, Collections: map[string]string{"c": "1"}}
	}
	if found := CompareStates([]*NodeState{state("n1", "x"), state("n2", "x")}); len(found) != 0 {
		t.Error(found)
	}
	if found := CompareStates([]*NodeState{state("n1", "x"), state("n2", "y")}); len(found) != 1 {
		t.Error(found)
	}
	missing := state("n2", "x")
	delete(missing.Documents, "c/d")
	if found := CompareStates([]*NodeState{state("n1", "x"), missing}); len(found) != 1 {
		t.Error(found)
	}
	if found := CompareStates(nil); len(found) != 1 {
		t.Error(found)
	}
}

func TestWhatIsLeftInADirectoryIsFound(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"state/db-1", "snapshots/1-2-3"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "state", "CURRENT_DB"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if found := CheckDirectory("n1", dir); len(found) != 0 {
		t.Fatal(found)
	}
	for _, name := range []string{"state/db-2", "state/restore-1", "snapshots/checkpoint-1.tmp", "snapshots/1-3-4", "node/vote.tmp"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if found := CheckDirectory("n1", dir); len(found) == 0 {
			t.Errorf("%s is not found", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADamagedTextIsSeen(t *testing.T) {
	text := textOf("t1-2")
	if token, damage := tokenOf(text); token != "t1-2" || damage != "" {
		t.Errorf("%s %s", token, damage)
	}
	for _, bad := range []string{text[:len(text)-1], text + "x", strings.Replace(text, " ", "  ", 1)} {
		if _, damage := tokenOf(bad); damage == "" {
			t.Errorf("%.40q is not seen as damaged", bad)
		}
	}
}
