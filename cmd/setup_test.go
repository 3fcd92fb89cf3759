package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// setup runs deploy/setup.sh with the programs of a PATH, and one variable.
func setup(t *testing.T, path string, environment ...string) (string, error) {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	cmd := exec.Command(bash, "deploy/setup.sh")
	cmd.Dir, cmd.Env = "..", append([]string{"PATH=" + path}, environment...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// programs makes a folder with these programs and no others.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		found, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("there is no %s", name)
		}
		if err := os.Symlink(found, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSetupIsSilentWhenAllIsThere(t *testing.T) {
	out, err := setup(t, os.Getenv("PATH"))
	if err != nil || out != "" {
		t.Fatalf("%v: %q", err, out)
	}
}

func TestSetupSaysWhatIsNeededWhereThereIsNoApt(t *testing.T) {
	path := programs(t, "bash", "awk", "cat", "tr", "id", "gcc", "make")
	out, err := setup(t, path, "CXX=no-such-compiler")
	if err == nil {
		t.Fatalf("it ended well without a C++ compiler:\n%s", out)
	}
	for _, want := range []string{"missing here, by Debian's names: g++", "RocksDB 7.8, headers and library", "C++ compiler"} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in:\n%s", want, out)
		}
	}
}

// Where only another RocksDB is to be had, nothing is installed.
func TestSetupRefusesAnotherMajorVersion(t *testing.T) {
	include := t.TempDir()
	if err := os.MkdirAll(filepath.Join(include, "rocksdb"), 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("../deploy/setup.sh")
	if err != nil {
		t.Fatal(err)
	}
	// The same script, but that it looks for headers in one folder only.
	changed := strings.ReplaceAll(string(script), "/usr/include /usr/local/include", include)
	if changed == string(script) {
		t.Fatal("the script looks for headers elsewhere now; this test changes nothing")
	}
	for name, content := range map[string]string{
		"rocksdb/version.h": "#define ROCKSDB_MAJOR 8\n#define ROCKSDB_MINOR 9\n#define ROCKSDB_PATCH 1\n", "rocksdb/c.h": "", "stdlib.h": "",
	} {
		if err := os.WriteFile(filepath.Join(include, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "setup.sh")
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("bash", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is RocksDB 8.9.1, and snipdb needs 7.x") {
		t.Fatalf("%v:\n%s", err, out)
	}
}
