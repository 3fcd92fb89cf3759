// Package tagtest helps the tests of packages whose functions must vanish from
// a program that is built without a tag: storage/failpoint and storage/mutant.
package tagtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	// instruction is a line of objdump: file, address, code, text.
	instruction = regexp.MustCompile(`^\s+\S+:\d+\s+0x[0-9a-f]+\s+[0-9a-f]+\s+(.+?)\s*$`)
	// address is where a jump goes to, which differs between two functions.
	address = regexp.MustCompile(`0x[0-9a-f]+`)
)

// Probe builds ./testdata/probe with the tags and returns the instructions of
// its functions with, without and, if it is there, mistake; and the program.
func Probe(t *testing.T, tags string) (code map[string][]string, program []byte) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "probe")
	if out, err := exec.Command("go", "build", "-tags", tags, "-o", binary, "./testdata/probe").CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	out, err := exec.Command("go", "tool", "objdump", "-s", `^main\.(with|without|mistake)$`, binary).Output()
	if err != nil {
		t.Fatalf("objdump: %v", err)
	}
	code, name := map[string][]string{}, ""
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "TEXT main."); ok {
			name, _, _ = strings.Cut(rest, "(")
		} else if m := instruction.FindStringSubmatch(line); m != nil {
			code[name] = append(code[name], address.ReplaceAllString(m[1], "there"))
		}
	}
	if len(code["with"]) == 0 || len(code["without"]) == 0 {
		t.Fatalf("objdump shows no code:\n%s", out)
	}
	program, err = os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return code, program
}

// Sources calls f with each Go file of the module that is no test and not in a
// directory called own, which is the package that asks.
func Sources(t *testing.T, own string, f func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if slices.Contains([]string{"testdata", own, ".git", "bin", "data"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			f(path, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Constants reads a file of the package: from each constant of a string to it.
func Constants(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.ValueSpec); ok && len(s.Values) == 1 {
			if lit, ok := s.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				names[s.Names[0].Name] = strings.Trim(lit.Value, `"`)
			}
		}
		return true
	})
	return names
}
