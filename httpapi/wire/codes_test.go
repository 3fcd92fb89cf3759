package wire

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// declaredCodes reads the constants of type Code from the source, so that a
// new one can't be forgotten in the table.
func declaredCodes(t *testing.T) map[Code]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[Code]bool{}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			value := spec.(*ast.ValueSpec)
			if kind, ok := value.Type.(*ast.Ident); !ok || kind.Name != "Code" {
				continue
			}
			text, err := strconv.Unquote(value.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes[Code(text)] = true
		}
	}
	return codes
}

func TestEveryCodeIsInTheTableOnce(t *testing.T) {
	declared := declaredCodes(t)
	if len(declared) < 30 {
		t.Fatalf("found %d codes: this test looks in the wrong place", len(declared))
	}
	name := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[Code]bool{}
	for _, info := range Codes {
		switch {
		case seen[info.Code]:
			t.Errorf("%s is there twice", info.Code)
		case !declared[info.Code]:
			t.Errorf("%s has no constant", info.Code)
		case !name.MatchString(string(info.Code)):
			t.Errorf("%s is no name in the style of the others", info.Code)
		case info.Status < 400 || info.Status > 599 || http.StatusText(info.Status) == "":
			t.Errorf("%s has status %d", info.Code, info.Status)
		case info.Title == "" || strings.HasSuffix(info.Title, "."):
			t.Errorf("%s has the title %q", info.Code, info.Title)
		case !strings.HasSuffix(info.Action, "."):
			t.Errorf("%s has the action %q", info.Code, info.Action)
		case info.Code.Info() != info:
			t.Errorf("%s finds %+v", info.Code, info.Code.Info())
		}
		seen[info.Code] = true
	}
	for code := range declared {
		if !seen[code] {
			t.Errorf("%s is not in the table", code)
		}
	}
	if got := Code("made up").Info(); got.Code != CodeInternal {
		t.Errorf("an unknown code is taken for %s", got.Code)
	}
}
