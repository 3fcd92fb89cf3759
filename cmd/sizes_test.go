package cmd_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// The sizes at which a reader loses the thread. What is longer has two jobs,
// or is a table; a table may be listed below, with the reason.
const (
	maxFileLines     = 600
	maxFunctionLines = 70
)

// longFiles and longFunctions are the exceptions: "path" and "path Function".
var (
	longFiles     = map[string]string{}
	longFunctions = map[string]string{}
)

func TestFilesAndFunctionsAreShort(t *testing.T) {
	files := repositoryFiles(t)
	if len(files) < 10 {
		t.Fatalf("found %d files: this test looks in the wrong place", len(files))
	}
	used := map[string]bool{}
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		short := strings.TrimPrefix(name, "../")
		if lines := bytes.Count(source, []byte("\n")); lines > maxFileLines {
			used[short] = true
			if longFiles[short] == "" {
				t.Errorf("%s has %d lines; at most %d", short, lines, maxFileLines)
			}
		}
		for function, lines := range functionLines(t, name, source) {
			if lines <= maxFunctionLines {
				continue
			}
			used[short+" "+function] = true
			if longFunctions[short+" "+function] == "" {
				t.Errorf("%s: %s has %d lines; at most %d", short, function, lines, maxFunctionLines)
			}
		}
	}
	for _, exceptions := range []map[string]string{longFiles, longFunctions} {
		for name := range exceptions {
			if !used[name] {
				t.Errorf("%s is no exception any more; take it off the list", name)
			}
		}
	}
}

// functionLines returns the length of each function's body with its signature.
func functionLines(t *testing.T, name string, source []byte) map[string]int {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]int{}
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		key := function.Name.Name
		if function.Recv != nil && len(function.Recv.List) == 1 {
			key = receiver(function.Recv.List[0].Type) + "." + key
		}
		lines[key] = set.Position(function.End()).Line - set.Position(function.Pos()).Line + 1
	}
	return lines
}

func receiver(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	case *ast.IndexExpr:
		return receiver(e.X)
	default:
		return "?"
	}
}
