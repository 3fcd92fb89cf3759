package failpoint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/storage/tagtest"
)

// A point must cost nothing where it is not wanted: the function with points
// has, instruction for instruction, the code of the one without.
func TestPointsVanishWithoutTheTag(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program twice")
	}
	plain, _ := tagtest.Probe(t, "")
	if !slices.Equal(plain["with"], plain["without"]) {
		t.Errorf("a function with points is compiled to\n%s\nthe same without them to\n%s",
			strings.Join(plain["with"], "\n"), strings.Join(plain["without"], "\n"))
	}
	// The test can fail: with the tag there is a difference.
	tagged, _ := tagtest.Probe(t, "failpoints")
	if slices.Equal(tagged["with"], tagged["without"]) {
		t.Error("the points are not compiled in with the tag either")
	}
}

// The tests of what the points do are built only with the tag, which `go test
// ./...` does not give. So they would be run by nobody.
func TestWithTheTag(t *testing.T) {
	if testing.Short() || Enabled {
		t.Skip("builds the tests a second time")
	}
	out, err := exec.Command("go", "test", "-tags", "failpoints", "-count", "1", "-v", "-run", "Arm|Kill", ".").CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS") < 3 {
		t.Errorf("%v\n%s", err, out)
	}
}

// Each point is at one place in the code, called in the way of its kind, and
// is explained in DESIGN.md; and nothing else is.
func TestPointsCodeAndNotesAgree(t *testing.T) {
	used, notes := callSites(t), noted(t)
	for name, k := range points {
		want := map[kind]string{plain: "Hit", fallible: "Error", value: "Value"}[k]
		switch calls := used[name]; {
		case len(calls) == 0:
			t.Errorf("%s is at no place in the code", name)
		case len(calls) > 1 && k != value: // a value is no event: it may be asked for anywhere
			t.Errorf("%s is at %d places; which one a test meets nobody knows: %v", name, len(calls), calls)
		case calls[0] != want:
			t.Errorf("%s is called with %s; by its kind it needs %s", name, calls[0], want)
		}
		if !slices.Contains(notes, name) {
			t.Errorf("DESIGN.md does not have %s", name)
		}
	}
	for _, name := range notes {
		if _, known := points[name]; !known {
			t.Errorf("DESIGN.md has %s, which is no point", name)
		}
	}
	values := 0
	for _, k := range points {
		if k == value {
			values++
		}
	}
	if n := len(Names()); n < 24 || n != len(points)-values {
		t.Errorf("there are %d points", n)
	}
}

// noted returns the names in the first column of the tables in DESIGN.md.
func noted(t *testing.T) []Name {
	t.Helper()
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []Name
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		names = append(names, Name(m[1]))
	}
	return names
}

// callSites returns by which function each point is called, in the whole module.
func callSites(t *testing.T) map[Name][]string {
	t.Helper()
	constants := constantNames(t)
	used := map[Name][]string{}
	tagtest.Sources(t, "failpoint", func(path string, text []byte) {
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			function, argument := selected(call.Fun), selected(call.Args[0])
			if slices.Contains([]string{"Hit", "Error", "Value"}, function) {
				name, known := constants[argument]
				if !known {
					t.Errorf("%s: failpoint.%s is called with %q, which is no constant of this package", path, function, argument)
				}
				used[name] = append(used[name], function)
			}
			return true
		})
	})
	return used
}

// selected returns X of the expression failpoint.X, else "".
func selected(e ast.Expr) string {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := s.X.(*ast.Ident); !ok || x.Name != "failpoint" {
		return ""
	}
	return s.Sel.Name
}

// constantNames reads points.go: from the constant to the name.
func constantNames(t *testing.T) map[string]Name {
	t.Helper()
	names := map[string]Name{}
	for constant, name := range tagtest.Constants(t, "points.go") {
		names[constant] = Name(name)
		if _, known := points[Name(name)]; !known {
			t.Errorf("%s is a constant and not in the registry", name)
		}
	}
	return names
}

func TestParse(t *testing.T) {
	got, err := parse("log.store.before=kill@3, fsm.commit.after=sleep(50)@2+\npublish.rename.before=error\nfsm.expire.max_rows=set(9),")
	if err != nil {
		t.Fatal(err)
	}
	want := []rule{
		{name: LogStoreBefore, action: actionKill, at: 3},
		{name: CommitAfter, action: actionSleep, pause: 50 * time.Millisecond, at: 2, from: true},
		{name: PublishBeforeRename, action: actionError, at: 1},
		{name: ExpireMaxRows, action: actionSet, number: 9, at: 1, from: true},
	}
	for i, r := range want {
		// The numbers of the brackets are kept where they mean something.
		got[i].number *= map[bool]int64{true: 1}[r.action == actionSet]
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for _, wrong := range []string{
		"log.store.befor=kill", "log.store.before", "log.store.before=", "log.store.before=kil", "log.store.before=kill@0",
		"log.store.before=kill@x", "log.store.before=kill(3)", "log.store.before=sleep", "log.store.before=sleep(-1)",
		"log.store.before=sleep(1", "log.store.after=error", "log.store.before=set(1)", "fsm.expire.max_rows=kill", "=kill",
	} {
		if _, err := parse(wrong); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}
