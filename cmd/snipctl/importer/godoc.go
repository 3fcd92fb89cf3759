package importer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// maxSignature bounds the source of one declaration in bytes; a table of a
// thousand constants says no more than its first lines do.
const maxSignature = 4 << 10

// goContext chooses the files of one platform, always the same one, so that
// the same tree gives the same documents on every machine.
func goContext() build.Context {
	return build.Context{
		GOOS: "linux", GOARCH: "amd64", Compiler: "gc", CgoEnabled: true,
		ToolTags: build.Default.ToolTags, ReleaseTags: build.Default.ReleaseTags,
	}
}

// Godoc yields a document per Go package below dir, sorted by import path,
// which is the id after prefix. The package's comment comes first, in snippets
// of about target bytes; then a snippet for each exported declaration that has
// a comment: its source without the body, and the comment. Packages without
// any comment, tests, testdata, vendor and hidden folders are left out, and so
// are internal packages unless internal is set.
func Godoc(dir, prefix string, target int, internal bool) (Source, error) {
	root, err := importRoot(dir)
	if err != nil {
		return Source{}, err
	}
	type found struct{ dir, importPath string }
	var packages []found
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		if base := entry.Name(); name != dir && (base == "testdata" || base == "vendor" || base == "internal" && !internal ||
			strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
			return filepath.SkipDir
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		importPath := path.Join(root, filepath.ToSlash(rel))
		if importPath != "." && hasGoFiles(name) {
			packages = append(packages, found{name, importPath})
		}
		return nil
	})
	if err != nil {
		return Source{}, fmt.Errorf("importer: walk %s: %w", dir, err)
	}
	slices.SortFunc(packages, func(a, b found) int { return strings.Compare(a.importPath, b.importPath) })
	return Source{Total: len(packages), Items: func(yield func(Item) bool) {
		for i, p := range packages {
			item := Item{Number: i + 1}
			item.Doc, item.Err = packageDocument(p.dir, p.importPath, prefix, target)
			if errors.Is(item.Err, errNoComment) {
				item.Err = errSkip
			}
			if !yield(item) {
				return
			}
		}
	}}, nil
}

// errNoComment says that a package has nothing to import.
var errNoComment = errors.New("the package has no comments")

// importRoot returns the import path of dir: from the module it is in, or, for
// a tree without go.mod or the standard library's (module "std"), the path
// below src, or "" if dir is the root itself.
func importRoot(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("importer: %w", err)
	}
	if info, err := os.Stat(abs); err != nil {
		return "", fmt.Errorf("importer: %w", err)
	} else if !info.IsDir() {
		return "", fmt.Errorf("importer: %s is not a folder", dir)
	}
	for at := abs; ; at = filepath.Dir(at) {
		module, err := moduleName(filepath.Join(at, "go.mod"))
		if err == nil {
			rel, err := filepath.Rel(at, abs)
			if module == "std" {
				module = ""
			}
			return strings.TrimPrefix(path.Join(module, filepath.ToSlash(rel)), "."), err
		}
		if at == filepath.Dir(at) {
			return "", nil
		}
	}
}

// moduleName reads the module's path from a go.mod.
func moduleName(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "module" {
			return strings.Trim(fields[1], `"`), nil
		}
	}
	return "", fmt.Errorf("importer: %s names no module", file)
}

func hasGoFiles(dir string) bool {
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	return slices.ContainsFunc(names, func(name string) bool { return !strings.HasSuffix(name, "_test.go") })
}

// packageDocument parses one folder and makes its document.
func packageDocument(dir, importPath, prefix string, target int) (wire.DocumentInput, error) {
	out := wire.DocumentInput{ID: prefix + importPath, Title: "package " + importPath}
	set, files, err := parsePackage(dir)
	if err != nil {
		return out, err
	}
	if len(files) == 0 {
		return out, errNoComment
	}
	pkg, err := doc.NewFromFiles(set, files, importPath)
	if err != nil {
		return out, fmt.Errorf("read the comments of %s: %w", importPath, err)
	}
	for _, piece := range Split(pkg.Doc, target) {
		out.Snippets = append(out.Snippets, wire.SnippetInput{Content: piece})
	}
	for _, text := range declarations(set, pkg) {
		out.Snippets = append(out.Snippets, wire.SnippetInput{Content: text})
	}
	if len(out.Snippets) == 0 {
		return out, errNoComment
	}
	meta := map[string]string{"kind": "go-package", "name": pkg.Name, "synopsis": pkg.Synopsis(pkg.Doc)}
	out.Metadata, err = json.Marshal(meta)
	return out, err
}

// parsePackage parses the files of dir that belong to goContext's platform.
// Of several packages in one folder (a main beside a library, for "go run")
// the one with the most files counts.
func parsePackage(dir string) (*token.FileSet, []*ast.File, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, nil, err
	}
	context := goContext()
	set := token.NewFileSet()
	byName := map[string][]*ast.File{}
	var best string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		if match, err := context.MatchFile(dir, name); err != nil || !match {
			continue
		}
		file, err := parser.ParseFile(set, filepath.Join(dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, fmt.Errorf("parse: %w", err)
		}
		own := append(byName[file.Name.Name], file)
		byName[file.Name.Name] = own
		if len(own) > len(byName[best]) {
			best = file.Name.Name
		}
	}
	return set, byName[best], nil
}

// declarations returns the text of every exported declaration with a comment,
// in the order of go doc: constants, variables, functions, types with theirs.
func declarations(set *token.FileSet, pkg *doc.Package) []string {
	var out []string
	add := func(node ast.Node, comment string) {
		if comment = strings.TrimSpace(comment); comment != "" {
			out = append(out, signature(set, node)+"\n\n"+limit(comment, maxComment))
		}
	}
	values := func(list []*doc.Value) {
		for _, v := range list {
			v.Decl.Doc = nil
			add(v.Decl, v.Doc)
		}
	}
	functions := func(list []*doc.Func) {
		for _, f := range list {
			f.Decl.Doc, f.Decl.Body = nil, nil
			add(f.Decl, f.Doc)
		}
	}
	values(pkg.Consts)
	values(pkg.Vars)
	functions(pkg.Funcs)
	for _, t := range pkg.Types {
		t.Decl.Doc = nil
		add(t.Decl, t.Doc)
		values(t.Consts)
		values(t.Vars)
		functions(t.Funcs)
		functions(t.Methods)
	}
	return out
}

// maxComment bounds one declaration's comment; real ones are far below.
const maxComment = 64 << 10

// signature prints a declaration as gofmt would.
func signature(set *token.FileSet, node ast.Node) string {
	var b bytes.Buffer
	if err := format.Node(&b, set, node); err != nil {
		return fmt.Sprintf("(source not printable: %v)", err)
	}
	return limit(b.String(), maxSignature)
}

// limit cuts s behind the last whole line within max bytes, and says so.
func limit(s string, max int) string {
	if len(s) <= max {
		return s
	}
	at := strings.LastIndexByte(s[:max], '\n')
	if at <= 0 {
		at = cutPoint(s, max)
	}
	return strings.TrimRight(s[:at], "\n") + "\n…"
}
