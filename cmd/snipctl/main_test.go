package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snipdb/snipdb/httpapi/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is what a run of snipctl gave.
type result struct {
	code        int
	out, errOut string
}

// snipctl runs the program with the endpoint in front.
func snipctl(t *testing.T, endpoint, stdin string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	if endpoint != "" {
		args = append([]string{"--endpoints", endpoint}, args...)
	}
	code := run(args, strings.NewReader(stdin), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// server answers every request with one status and body.
func server(t *testing.T, status int, body any) (string, *[]*http.Request) {
	t.Helper()
	var seen []*http.Request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r)
		w.Header().Set("Content-Type", wire.TypeJSON)
		if status >= 400 {
			w.Header().Set("Content-Type", wire.TypeProblem)
		}
		w.Header().Set(wire.HeaderNode, "n1")
		w.Header().Set(wire.HeaderIndex, "7")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}))
	t.Cleanup(s.Close)
	return s.URL, &seen
}

func problem(code wire.Code) wire.Problem {
	return wire.Problem{Status: code.Info().Status, Code: code, Title: code.Info().Title, Detail: "the reason"}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name string
		code wire.Code
		args []string
		want int
	}{
		{"a document that is not there", wire.CodeNotFound, []string{"doc", "get", "c", "d"}, exitNotFound},
		{"another revision", wire.CodeRevisionMismatch, []string{"doc", "patch", "c", "d", "--title", "x", "--if-revision", "3"}, exitConflict},
		{"it exists", wire.CodeAlreadyExists, []string{"collection", "create", "c"}, exitConflict},
		{"bad input", wire.CodeInvalidField, []string{"doc", "patch", "c", "d", "--title", "x"}, exitFailed},
		{"no leader", wire.CodeNoLeader, []string{"--timeout", "300ms", "doc", "delete", "c", "d"}, exitUnavailable},
		{"overloaded", wire.CodeOverloaded, []string{"--timeout", "300ms", "doc", "delete", "c", "d"}, exitUnavailable},
		{"an internal error", wire.CodeInternal, []string{"--timeout", "300ms", "doc", "delete", "c", "d"}, exitFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, _ := server(t, c.code.Info().Status, problem(c.code))
			got := snipctl(t, url, "", c.args...)
			if got.code != c.want || !strings.Contains(got.errOut, "the reason") || got.out != "" {
				t.Errorf("code %d, want %d; stdout %q, stderr %q", got.code, c.want, got.out, got.errOut)
			}
		})
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"frob"},
		{},
		{"doc"},
		{"doc", "get", "only-one"},
		{"doc", "get", "c", "d", "--frob"},
		{"-o", "xml", "version"},
		{"--timeout", "0s", "version"},
		{"--endpoints", "ftp://x", "version"},
		{"--config", "/does/not/exist", "version"},
		{"doc", "get", "c", "d", "--consistency", "sometimes"},
		{"doc", "list", "c", "--owner", "noslash"},
		{"snippet", "get", "c", "d", "-1"},
		{"snippet", "get", "c", "d", "x"},
		{"doc", "patch", "c", "d"},
		{"import", "c"},
		{"limits", "set"},
		{"limits", "set", "--collection", "x=0"},
		{"limits", "set", "--collection", "x=1", "--none"},
		{"bench", "kv", "--op", "frob"},
		{"bench", "kv", "--clients", "0"},
		{"bench", "embed-workflows", "--docs", "0"},
		{"wait", "--deadline", "0s"},
		{"doctor", "--memory", "much"},
	} {
		if got := snipctl(t, "", "", args...); got.code != exitUsage || !strings.Contains(got.errOut, "snipctl: ") {
			t.Errorf("snipctl %q: code %d, stderr %q", args, got.code, got.errOut)
		}
	}
}

func TestNoNodeIsUnavailable(t *testing.T) {
	dead := httptest.NewServer(nil)
	dead.Close()
	for _, args := range [][]string{
		{"--timeout", "300ms", "doc", "get", "c", "d"},
		{"status"},
		{"wait", "--deadline", "300ms"},
	} {
		begin := time.Now()
		if got := snipctl(t, dead.URL, "", args...); got.code != exitUnavailable {
			t.Errorf("snipctl %q: code %d, stderr %q", args, got.code, got.errOut)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("snipctl %q took %s", args, took)
		}
	}
}

func TestDocPutSendsTextInSnippets(t *testing.T) {
	var body wire.DocumentInput
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || r.URL.EscapedPath() != "/v1/collections/c/docs/a%2Fb" || r.Header.Get(wire.HeaderIdempotencyKey) == "" {
			t.Errorf("%s %s, key %q", r.Method, r.URL.EscapedPath(), r.Header.Get(wire.HeaderIdempotencyKey))
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", wire.TypeJSON)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"collection":"c","id":"a/b","title":"T","revision":9,"snippet_count":2}`)
	}))
	t.Cleanup(s.Close)
	got := snipctl(t, s.URL, "# One\n\ntext\n\n# Two\n\nmore", "doc", "put", "c", "a/b", "--title", "T", "--owner", "agent/a1", "--metadata", `{"k":1}`)
	if got.code != exitOK || !strings.Contains(got.out, "revision    9\n") {
		t.Fatalf("got %+v", got)
	}
	if len(body.Content) != 2 || body.Title != "T" || body.Owner == nil || *body.Owner != (wire.Owner{Type: "agent", ID: "a1"}) || string(body.Metadata) != `{"k":1}` {
		t.Errorf("sent %+v", body)
	}
}

func TestDocPutRefusesMisspeltJSON(t *testing.T) {
	url, seen := server(t, 200, nil)
	got := snipctl(t, url, `{"contents":"x"}`, "doc", "put", "c", "d")
	if got.code != exitFailed || !strings.Contains(got.errOut, "contents") || len(*seen) != 0 {
		t.Errorf("got %+v, %d requests", got, len(*seen))
	}
}

func TestImportReportsFailuresInItsExitCode(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var text bytes.Buffer
		_, _ = text.ReadFrom(r.Body)
		w.Header().Set("Content-Type", wire.TypeNDJSON)
		enc := json.NewEncoder(w)
		lines := strings.Split(strings.TrimSpace(text.String()), "\n")
		for i, line := range lines {
			var doc wire.DocumentInput
			_ = json.Unmarshal([]byte(line), &doc)
			status := 201
			if doc.ID == "bad" {
				status = 422
			}
			_ = enc.Encode(wire.ImportResult{Line: i + 1, ID: doc.ID, Status: status, Code: "invalid_field", Detail: "as told"})
		}
		_ = enc.Encode(wire.ImportResult{Done: true, LastLine: len(lines)})
	}))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "docs.ndjson")
	text := "{\"id\":\"a\",\"content\":\"x\"}\n{\"id\":\"bad\",\"content\":\"x\"}\n{\"id\":\"b\",\"content\":\"x\"}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := snipctl(t, s.URL, "", "-o", "json", "import", "c", file)
	if got.code != exitFailed || !strings.Contains(got.errOut, "failed: 2 bad: as told") || !strings.Contains(got.out, `"continue_from": 2`) {
		t.Errorf("got %+v", got)
	}
	got = snipctl(t, s.URL, text, "import", "--collection", "c", "--continue-from", "3", "-")
	if got.code != exitOK || !strings.Contains(got.out, "documents  1") || !strings.Contains(got.out, "skipped    2") {
		t.Errorf("continued: got %+v", got)
	}
}

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestMembersRemoveForcesOnlyWhenTold(t *testing.T) {
	url, seen := server(t, http.StatusNoContent, nil)
	for _, c := range []struct{ flag, want string }{{"", ""}, {"--force", "force=true"}} {
		args := []string{"members", "remove", "n9"}
		if c.flag != "" {
			args = append(args, c.flag)
		}
		if r := snipctl(t, url, "", args...); r.code != 0 {
			t.Fatalf("%v: %+v", args, r)
		}
		last := (*seen)[len(*seen)-1]
		if last.Method != http.MethodDelete || last.URL.Path != "/v1/cluster/members/n9" || last.URL.RawQuery != c.want {
			t.Errorf("%v asks %s %s", args, last.Method, last.URL)
		}
	}
}
