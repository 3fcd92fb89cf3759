package mutant

import (
	"bytes"
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

// A mistake must not be in what people run: the function that asks for two
// has, instruction for instruction, the code of the one that does not, and
// neither the names nor the code behind them are in the program.
func TestMutantsVanishWithoutTheTag(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program twice")
	}
	plain, code := probe(t, "")
	if !slices.Equal(plain["with"], plain["without"]) {
		t.Errorf("a function with mutants is compiled to\n%s\nthe same without them to\n%s",
			strings.Join(plain["with"], "\n"), strings.Join(plain["without"], "\n"))
	}
	if len(plain["mistake"]) != 0 || bytes.Contains(code, []byte(ExpiryByWallClock)) {
		t.Error("a mistake or its name is in the program")
	}
	// The test can fail: with the tag all of it is there.
	tagged, code := probe(t, "mutants")
	if slices.Equal(tagged["with"], tagged["without"]) || len(tagged["mistake"]) == 0 || !bytes.Contains(code, []byte(ExpiryByWallClock)) {
		t.Error("the mutants are not compiled in with the tag either")
	}
}

// instruction is a line of objdump: file, address, code, text.
var instruction = regexp.MustCompile(`^\s+\S+:\d+\s+0x[0-9a-f]+\s+[0-9a-f]+\s+(.+?)\s*$`)

// address is where a jump goes to, which differs between two functions.
var address = regexp.MustCompile(`0x[0-9a-f]+`)

// probe builds the probe and returns the instructions of its functions, and
// the program.
func probe(t *testing.T, tags string) (map[string][]string, []byte) {
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
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return code, program
}

// Each mutant is a constant that says what it breaks, and is somewhere in the
// code of one package; and On is asked for nothing else.
func TestEveryMutantIsInTheCode(t *testing.T) {
	constants, used := constantNames(t), callSites(t)
	if len(constants) != len(All()) {
		t.Errorf("there are %d constants, and All has %d", len(constants), len(All()))
	}
	for constant, name := range constants {
		if All()[name] == "" {
			t.Errorf("All does not say what %s breaks", name)
		}
		if len(used[constant]) == 0 {
			t.Errorf("%s is at no place in the code", name)
		}
	}
	for constant, files := range used {
		if _, known := constants[constant]; !known {
			t.Errorf("%v ask for mutant.%s, which is none", files, constant)
		}
	}
	if len(All()) < 12 {
		t.Errorf("there are %d mutants", len(All()))
	}
}

// constantNames reads mutants.go: from the constant to the name.
func constantNames(t *testing.T) map[string]Name {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "mutants.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]Name{}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.ValueSpec); ok && len(s.Values) == 1 {
			if lit, ok := s.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				names[s.Names[0].Name] = Name(strings.Trim(lit.Value, `"`))
			}
		}
		return true
	})
	return names
}

// callSites returns the files that ask for each constant, in the whole module.
func callSites(t *testing.T) map[string][]string {
	t.Helper()
	used := map[string][]string{}
	call := regexp.MustCompile(`\bmutant\.On\(mutant\.(\w+)\)`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if slices.Contains([]string{"testdata", "mutant", ".git", "bin", "data"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllSubmatch(text, -1) {
			used[string(m[1])] = append(used[string(m[1])], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}
