// Package cmd_test holds the tests that look at the source instead of running
// it: the layers, the sizes, and the top level of the repository.
package cmd_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/snipdb/snipdb/"

// mayImport says, for each package of this module, which others of this module
// it may import directly. A package that is not listed has no place in the
// layers yet, and the test says so. The arrows point only downwards:
//
//	L4  cmd/snipdb, cmd/snipctl
//	L3  httpapi/client
//	L2  httpapi   cluster   fsm -> fsm/snapshot
//	L1  storage
//	L0  storage/snippet  storage/failpoint  storage/mutant  fsm/command  cluster/contract  httpapi/wire
var mayImport = map[string][]string{
	"storage/snippet":  {},
	"fsm/command":      {"storage/snippet"},
	"cluster/contract": {},
	"httpapi/wire":     {},

	// Names of places where a crash test kills the process; nothing at all in
	// a build without its tag. A leaf, whatever folder it is in.
	"storage/failpoint": {},
	// Names of mistakes that a test makes on purpose; nothing at all in a build
	// without its tag. A leaf as well.
	"storage/mutant": {},

	"storage": {"storage/snippet", "storage/failpoint", "storage/mutant"},
	// The engine of `snipdb bench contention`: RocksDB as CozoDB drove it. It
	// is beside storage because RocksDB stays under that folder, and it shares
	// nothing with it.
	"storage/contention": {},

	"fsm/snapshot": {"storage/failpoint"},
	"fsm":          {"storage", "storage/snippet", "storage/failpoint", "storage/mutant", "fsm/command", "fsm/snapshot"},
	"cluster":      {"cluster/contract", "fsm/command", "storage/failpoint", "storage/mutant"},
	"httpapi":      {"httpapi/wire", "cluster/contract", "fsm/command", "storage/snippet", "storage/mutant"},

	"httpapi/client": {"httpapi/wire"},

	// What the tests of failpoint and mutant share; tests alone import it.
	"storage/tagtest": {},

	// The conformance suite of log stores; tests alone import it.
	"cluster/logtest": {},

	// What every node must answer to wrong requests; tests alone import it.
	"httpapi/apitest": {"httpapi/wire", "storage/snippet"},

	// Starts the built binaries for tests and talks HTTP to them.
	"cmd/proctest": {"httpapi/wire"},
	// Faults against real processes, and the checkers of what clients saw.
	"cmd/chaos": {"cmd/proctest", "httpapi/client", "httpapi/wire"},

	"cmd/snipctl/bench":    {"httpapi/client", "httpapi/wire", "storage/snippet"},
	"cmd/snipctl/doctor":   {"httpapi/wire"},
	"cmd/snipctl/importer": {"httpapi/wire", "storage/snippet"},
	"cmd/snipctl": {
		"cmd/snipctl/bench", "cmd/snipctl/doctor", "cmd/snipctl/importer", "httpapi/client", "httpapi/wire",
	},
	"cmd/snipdb": {
		"storage", "storage/contention", "storage/failpoint", "storage/mutant", "storage/snippet", "fsm", "fsm/snapshot", "fsm/command",
		"cluster", "cluster/contract", "httpapi", "httpapi/wire",
	},
}

// foreign says which module from outside each package may import directly,
// beside the standard library. Where a name ends in "/", what is under it
// counts as well.
var foreign = map[string][]string{
	"fsm/command":        {"google.golang.org/protobuf/"},
	"cluster/logtest":    {"github.com/hashicorp/raft"},
	"storage":            {"github.com/linxGnu/grocksdb", "google.golang.org/protobuf/", "github.com/prometheus/client_golang/", "golang.org/x/sys/", "github.com/cespare/xxhash/v2"},
	"storage/contention": {"github.com/linxGnu/grocksdb"},
	"fsm/snapshot":       {"github.com/hashicorp/raft", "github.com/prometheus/client_golang/", "golang.org/x/sys/"},
	"fsm":                {"github.com/hashicorp/raft", "google.golang.org/protobuf/", "github.com/prometheus/client_golang/"},
	"cluster": {
		"github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb/v2", "go.etcd.io/bbolt", "github.com/hashicorp/go-hclog",
		"github.com/armon/go-metrics", "github.com/hashicorp/go-metrics", "github.com/hashicorp/go-metrics/compat",
		"google.golang.org/protobuf/", "github.com/prometheus/client_golang/", "golang.org/x/", "github.com/hashicorp/go-msgpack/v2/",
		"github.com/google/uuid",
	},
	"httpapi": {
		"github.com/gin-gonic/gin", "github.com/prometheus/client_golang/", "github.com/prometheus/common/", "google.golang.org/protobuf/",
		"github.com/google/uuid", "golang.org/x/",
	},
	"httpapi/client":       {"github.com/cenkalti/backoff/v5", "github.com/google/uuid", "golang.org/x/"},
	"cmd/proctest":         {"go.uber.org/goleak"},
	"cmd/chaos":            {"github.com/anishathalye/porcupine", "golang.org/x/sys/"},
	"cmd/snipctl/bench":    {"github.com/HdrHistogram/hdrhistogram-go"},
	"cmd/snipctl/importer": {"golang.org/x/"},
	"cmd/snipctl": {
		"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/goccy/go-yaml",
	},
	"cmd/snipdb": {
		"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/goccy/go-yaml", "github.com/goccy/go-yaml/",
		"github.com/prometheus/client_golang/", "github.com/google/uuid", "golang.org/x/", "google.golang.org/protobuf/",
	},
}

// never says what must not be below a package, however far down: the client,
// the command line and the API are to be built and tested without RocksDB and
// without Raft.
var never = map[string][]string{
	"httpapi":            {"github.com/hashicorp/raft", "github.com/linxGnu/grocksdb", module + "storage", module + "cluster", module + "fsm"},
	"httpapi/client":     {"github.com/hashicorp/raft", "github.com/linxGnu/grocksdb", "github.com/gin-gonic/gin", module + "storage", module + "cluster", module + "fsm"},
	"httpapi/wire":       {"github.com/gin-gonic/gin"},
	"cmd/snipctl":        {"github.com/hashicorp/raft", "github.com/linxGnu/grocksdb", "github.com/gin-gonic/gin", module + "storage", module + "cluster", module + "fsm", module + "httpapi"},
	"cluster":            {"github.com/linxGnu/grocksdb", "github.com/gin-gonic/gin", module + "storage", module + "fsm", module + "httpapi"},
	"fsm":                {"github.com/gin-gonic/gin", module + "cluster", module + "httpapi"},
	"storage":            {"github.com/hashicorp/raft", "github.com/gin-gonic/gin", module + "cluster", module + "fsm", module + "httpapi"},
	"storage/contention": {"github.com/hashicorp/raft", "github.com/gin-gonic/gin", module + "storage"},
}

// leaves have no cgo below them outside of the standard library, nor do the
// two that are built with CGO_ENABLED=0.
var withoutCgo = []string{
	"storage/snippet", "storage/failpoint", "storage/mutant", "fsm/command", "cluster/contract", "httpapi/wire", "httpapi", "httpapi/client", "cmd/snipctl", "cluster",
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath, Dir                    string
	Standard                           bool
	Imports, TestImports, XTestImports []string
	Deps, CgoFiles, GoFiles            []string
}

var (
	listOnce sync.Once
	listAll  map[string]*listed
	errList  error
)

// packages returns every package that this module needs, by import path.
func packages(t *testing.T) map[string]*listed {
	t.Helper()
	listOnce.Do(func() { listAll, errList = list() })
	if errList != nil {
		t.Fatal(errList)
	}
	return listAll
}

func list() (map[string]*listed, error) {
	cmd := exec.Command("go", "list", "-deps",
		"-json=ImportPath,Dir,Standard,Imports,TestImports,XTestImports,Deps,CgoFiles,GoFiles", "./...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	all := map[string]*listed{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		p := new(listed)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: decode: %w", err)
		}
		all[p.ImportPath] = p
	}
}

// ours returns this module's packages with their names inside the module.
func ours(t *testing.T) map[string]*listed {
	t.Helper()
	own := map[string]*listed{}
	for name, p := range packages(t) {
		// A package of tests only has no layer.
		if rest, ok := strings.CutPrefix(name, module); ok && len(p.GoFiles)+len(p.CgoFiles) > 0 {
			own[rest] = p
		}
	}
	if len(own) < 5 {
		t.Fatalf("go list named %d packages of this module: this test looks in the wrong place", len(own))
	}
	return own
}

func TestImportsPointDownwardsOnly(t *testing.T) {
	for name, p := range ours(t) {
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("%s is in no layer; give it one in mayImport", name)
			continue
		}
		for _, imported := range p.Imports {
			rest, own := strings.CutPrefix(imported, module)
			if own && !slices.Contains(allowed, rest) {
				t.Errorf("%s imports %s, which is not below it", name, rest)
			}
		}
	}
}

func TestForeignModulesStayWhereTheyBelong(t *testing.T) {
	all := packages(t)
	for name, p := range ours(t) {
		for _, imported := range p.Imports {
			if imported == "C" || strings.HasPrefix(imported, module) || isStandard(all, imported) {
				continue
			}
			if !allowedForeign(foreign[name], imported) {
				t.Errorf("%s imports %s; the package that may is another one", name, imported)
			}
		}
	}
}

func isStandard(all map[string]*listed, name string) bool {
	p := all[name]
	return p == nil && !strings.Contains(strings.Split(name, "/")[0], ".") || p != nil && p.Standard
}

func allowedForeign(allowed []string, imported string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		return a == imported || strings.HasSuffix(a, "/") && strings.HasPrefix(imported, a)
	})
}

func TestNothingForbiddenIsBelow(t *testing.T) {
	own := ours(t)
	for name, forbidden := range never {
		p := own[name]
		if p == nil {
			continue
		}
		for _, dep := range p.Deps {
			if slices.Contains(forbidden, dep) {
				t.Errorf("%s has %s below it", name, dep)
			}
		}
	}
}

func TestNoCgoBelowTheLeavesAndTheClient(t *testing.T) {
	all, own := packages(t), ours(t)
	for _, name := range withoutCgo {
		p := own[name]
		if p == nil {
			continue
		}
		for _, dep := range append(slices.Clone(p.Deps), p.ImportPath) {
			if d := all[dep]; d != nil && !d.Standard && len(d.CgoFiles) > 0 {
				t.Errorf("%s has cgo below it, in %s", name, dep)
			}
		}
	}
}

func TestTestsUseNoAssertionLibrary(t *testing.T) {
	for name, p := range ours(t) {
		for _, imported := range append(slices.Clone(p.TestImports), p.XTestImports...) {
			for _, library := range []string{"testify", "gomega", "ginkgo", "go-cmp", "gotest.tools"} {
				if strings.Contains(imported, library) {
					t.Errorf("the tests of %s import %s; the standard library is enough", name, imported)
				}
			}
		}
	}
}

// topLevel is all there may be beside files whose names begin with a dot and
// what make builds.
var topLevel = []string{
	"cmd", "fsm", "cluster", "httpapi", "storage", "deploy", "Makefile", "README.md", "LICENSE", "go.mod", "go.sum", "bin", "data",
}

func TestTopLevelIsFixed(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") && !slices.Contains(topLevel, entry.Name()) {
			t.Errorf("%s has no place at the top level", entry.Name())
		}
	}
}

func TestNoFolderForOddsAndEnds(t *testing.T) {
	for name := range ours(t) {
		for _, part := range strings.Split(name, "/") {
			if slices.Contains([]string{"util", "utils", "common", "pkg", "internal", "types", "helpers"}, part) {
				t.Errorf("%s: a folder called %s says nothing of what is in it", name, part)
			}
		}
	}
}

// repositoryFiles returns the Go files of this module, tests and generated
// files left out.
func repositoryFiles(t *testing.T) []string {
	t.Helper()
	return filesThat(t, func(name string) bool {
		return path.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, ".pb.go")
	})
}

// filesThat returns the files of the repository that are wanted; what make
// builds, data, testdata and folders that begin with a dot are left out.
func filesThat(t *testing.T, wanted func(name string) bool) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir("..", func(name string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "data" || d.Name() == "testdata"):
			return filepath.SkipDir
		case !d.IsDir() && wanted(name):
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
