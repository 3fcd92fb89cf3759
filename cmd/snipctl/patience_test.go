package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestAnImportWithoutANodeFailsSoon(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(release) }) // before the server waits for its handlers
	for _, url := range []string{dead.URL, silent.URL} {
		begin := time.Now()
		got := snipctl(t, url, `{"id":"a","content":"x"}`+"\n", "--timeout", "300ms", "import", "c", "-")
		if got.code != exitUnavailable || !strings.Contains(got.errOut, "no node answers at "+url) || !strings.Contains(got.errOut, "nothing is imported") {
			t.Errorf("got %+v", got)
		}
		if took := time.Since(begin); took > startPatience {
			t.Errorf("it took %s", took)
		}
	}
}

// TestPatience tells a slow source from a cluster that does not answer.
func TestPatience(t *testing.T) {
	var out bytes.Buffer
	p := &patience{w: &out}
	now := time.Unix(1000, 0)
	after := func(d time.Duration) time.Time { now = now.Add(d); return now }
	told := func(what, want string) {
		t.Helper()
		if got := out.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: said %q, want %q", what, got, want)
		}
		out.Reset()
	}
	p.answer(now)
	p.look(after(silence - time.Second))
	told("a short silence", "")
	p.read(now, true)
	p.look(after(time.Hour))
	told("while the source is read", "")
	p.read(now, false)
	p.look(now)
	told("what the source took does not count", "")
	p.look(after(time.Second))
	told("a long silence", "no answer from the cluster for 5s")
	p.look(after(time.Second))
	told("once is enough", "")
	p.look(after(sayAgain))
	told("and again after a while", "no answer from the cluster for 36s")
	p.answer(after(4 * time.Second))
	told("an answer", "answers again, after 40s")
	p.answer(now)
	told("the next answer", "")
}

func TestPatienceFollowsTheSource(t *testing.T) {
	p := &patience{w: &bytes.Buffer{}}
	reading := func() bool { p.mu.Lock(); defer p.mu.Unlock(); return !p.reading.IsZero() }
	in := func(yield func(wire.DocumentInput) bool) {
		for _, id := range []string{"a", "b", "c"} {
			if !reading() {
				t.Errorf("%s: the source is read, and that is not known", id)
			}
			if !yield(wire.DocumentInput{ID: id}) {
				return
			}
		}
	}
	var ids []string
	for doc := range p.source(in) {
		if reading() {
			t.Errorf("%s was read, and the reading has not ended", doc.ID)
		}
		if ids = append(ids, doc.ID); doc.ID == "b" {
			break
		}
	}
	if !slices.Equal(ids, []string{"a", "b"}) || reading() {
		t.Errorf("%q, still reading: %v", ids, reading())
	}
	for range p.source(in) {
		continue
	}
	if reading() {
		t.Error("the source is at its end, and the reading has not ended")
	}
}

func TestDeletingACollectionCountsWhatThereIsNow(t *testing.T) {
	url, seen := server(t, http.StatusOK, wire.Collection{Name: "c", Documents: 7})
	got := snipctl(t, url, "", "collection", "delete", "c")
	if got.code != exitUsage || !strings.Contains(got.errOut, "7 documents") || len(*seen) != 1 {
		t.Fatalf("got %+v, %d requests", got, len(*seen))
	}
	if r := (*seen)[0]; r.Method != http.MethodGet || r.URL.Query().Get(wire.ParamConsistency) != "linearizable" {
		t.Errorf("%s %s", r.Method, r.URL)
	}
}

// TestMakeRunTakesAnyFolder runs the Makefile's own lines with a script in
// place of deploy/run.sh that shows its arguments.
func TestMakeRunTakesAnyFolder(t *testing.T) {
	mk, err := exec.LookPath("make")
	if err != nil {
		t.Skip("there is no make")
	}
	lines, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(lines), "\nrun:")
	if !found {
		t.Fatal("the Makefile has no target run")
	}
	_, rest, _ = strings.Cut(rest, "\n")
	recipe, _, _ := strings.Cut(rest, "\n\n")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "deploy"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"Makefile": "run:\n" + recipe + "\n", "deploy/run.sh": "#!/bin/sh\nfor a in \"$@\"; do echo \"<$a>\"; done\necho end\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for folder, want := range map[string]string{"": "end\n", "plain": "<plain>\nend\n", "/tmp/my folder": "</tmp/my folder>\nend\n", `a'b"c`: "<a'b\"c>\nend\n"} {
		cmd := exec.Command(mk, "-s", "run", "DIR="+folder)
		cmd.Dir = dir
		cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool {
			return strings.HasPrefix(e, "MAKE") || strings.HasPrefix(e, "MFLAGS") || strings.HasPrefix(e, "DIR=")
		})
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("DIR=%s: %v: %q, want %q", folder, err, out, want)
		}
	}
}
