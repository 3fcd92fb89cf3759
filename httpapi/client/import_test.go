package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// ndjson returns n documents, d1 to dn.
func ndjson(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"d%d","content":"text %d"}`+"\n", i+1, i+1)
	}
	return b.String()
}

// collect returns a callback that keeps the answers.
func collect(into *[]wire.ImportResult) func(wire.ImportResult) error {
	return func(r wire.ImportResult) error { *into = append(*into, r); return nil }
}

// mustBeInOrder checks that lines 1 to n were answered with 2xx, once each.
func mustBeInOrder(t *testing.T, got []wire.ImportResult, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d answers for %d lines", len(got), n)
	}
	for i, r := range got {
		if r.Line != i+1 || r.ID != fmt.Sprintf("d%d", i+1) || r.Status != 201 && r.Status != 200 {
			t.Fatalf("answer %d is %+v", i+1, r)
		}
	}
}

func (c *fakeCluster) imports() (n int) {
	for _, s := range c.requests() {
		if strings.HasSuffix(s.path, "/import") {
			n++
		}
	}
	return n
}

func TestImportSendsAllInPieces(t *testing.T) {
	for name, o := range map[string]struct {
		options  ImportOptions
		requests int
	}{
		"one request": {ImportOptions{}, 1},
		"by lines":    {ImportOptions{MaxLines: 7}, 15},
		"by bytes":    {ImportOptions{MaxBytes: 400}, 9}, // 12 lines of 33 bytes each
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			var got []wire.ImportResult
			o.options.OnResult = collect(&got)
			sum, err := c.client(nil).Import(t.Context(), "c", strings.NewReader(ndjson(100)), o.options)
			if err != nil {
				t.Fatal(err)
			}
			mustBeInOrder(t, got, 100)
			if sum != (ImportSummary{Lines: 100, Applied: 100, LastLine: 100}) {
				t.Errorf("summary %+v", sum)
			}
			if n := c.imports(); n != o.requests {
				t.Errorf("%d requests, want %d", n, o.requests)
			}
		})
	}
}

func TestImportResumesBehindTheLastAnswer(t *testing.T) {
	c := newFakeCluster(t, 1)
	breaks := []int{30, 0, 5}
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		after, left := 0, false
		c.with(func() {
			if left = len(breaks) > 0; left {
				after, breaks = breaks[0], breaks[1:]
			}
		})
		if left {
			n.serveImport(w, r, after)
		}
		return left
	})
	var got []wire.ImportResult
	sum, err := c.client(nil).Import(t.Context(), "c", strings.NewReader(ndjson(100)), ImportOptions{OnResult: collect(&got)})
	if err != nil {
		t.Fatal(err)
	}
	mustBeInOrder(t, got, 100)
	if sum.Resumes != 3 || sum.Applied != 100 || c.imports() != 4 {
		t.Errorf("summary %+v, %d requests", sum, c.imports())
	}
	// Only the line in whose answer the connection broke was sent twice: 31
	// (three times, for the second request broke there as well), and 36.
	for i := range 100 {
		want := map[int]int{31: 3, 36: 2}[i+1]
		if puts := c.docs[fmt.Sprintf("/v1/collections/c/docs/d%d", i+1)].puts; puts != max(want, 1) {
			t.Errorf("line %d was applied %d times", i+1, puts)
		}
	}
}

func TestImportGoesOnPastRefusedDocuments(t *testing.T) {
	c := newFakeCluster(t, 1)
	in := "\n{\"id\":\"d1\",\"content\":\"x\"}\n  \n{\"id\":\"bad\"}\nno json\n{\"id\":\"d2\"}" // no line end at the end
	var got []wire.ImportResult
	sum, err := c.client(nil).Import(t.Context(), "c", strings.NewReader(in), ImportOptions{OnResult: collect(&got)})
	if err != nil || sum != (ImportSummary{Lines: 4, Applied: 2, Failed: 2, LastLine: 6}) {
		t.Fatalf("summary %+v, error %v", sum, err)
	}
	var shape []string
	for _, r := range got {
		shape = append(shape, fmt.Sprintf("%d:%d", r.Line, r.Status))
	}
	if s := strings.Join(shape, " "); s != "2:201 4:422 5:422 6:201" {
		t.Fatalf("answers %s", s)
	}
}

func TestImportStopsAtARefusedDocument(t *testing.T) {
	for name, rest := range map[string]string{
		"the rest is answered":  `{"line":3,"id":"d3","status":201,"revision":2}` + "\n" + `{"done":true,"status":422,"code":"invalid_field","last_line":2,"applied":2,"failed":1}` + "\n",
		"the import ended":      `{"done":true,"status":422,"code":"invalid_field","last_line":2,"applied":1,"failed":1}` + "\n",
		"the connection breaks": `{"li`,
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.setHook(func(_ *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
				if r.URL.Query().Get(wire.ParamStopOnError) != "true" {
					t.Errorf("asked %s", r.URL)
				}
				_, _ = io.ReadAll(r.Body)
				fmt.Fprintf(w, `{"line":1,"id":"d1","status":201,"revision":1}`+"\n")
				fmt.Fprintf(w, `{"line":2,"id":"d2","status":422,"code":"invalid_field","detail":"as told","outcome":"not_applied"}`+"\n%s", rest)
				return true
			})
			var got []wire.ImportResult
			sum, err := c.client(nil).Import(t.Context(), "c", strings.NewReader("\n"+ndjson(9)), ImportOptions{StopOnError: true, MaxLines: 3, OnResult: collect(&got)})
			if CodeOf(err) != wire.CodeInvalidField || OutcomeUnknown(err) || !strings.Contains(err.Error(), `line 3`) || !strings.Contains(err.Error(), `"d2"`) {
				t.Fatalf("error %v", err)
			}
			// One line of the input is empty. What is behind the refused one counts, but is not covered.
			if sum.LastLine != 3 || sum.Failed != 1 || sum.Lines != len(got) || sum.Applied != len(got)-1 || c.imports() != 1 {
				t.Fatalf("summary %+v, %d answers, %d requests", sum, len(got), c.imports())
			}
			if answered := strings.Contains(rest, `"d3"`); answered != (len(got) == 3) {
				t.Errorf("%d answers", len(got))
			}
		})
	}
}

func TestImportWaitsForALineThatCantBeTakenNow(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeNoLeader, wire.CodeOverloaded, wire.CodeOutcomeUnknown, wire.CodeWriteConflict} {
		c := newFakeCluster(t, 2)
		c.setHook(once(func(*fakeNode, *http.Request) bool { return true }, func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) {
			_, _ = io.ReadAll(r.Body)
			w.Header().Set("Content-Type", wire.TypeNDJSON)
			fmt.Fprintf(w, `{"line":1,"id":"d1","status":201,"revision":1}`+"\n")
			fmt.Fprintf(w, `{"line":2,"id":"d2","status":%d,"code":%q,"outcome":"not_applied"}`+"\n", code.Info().Status, code)
			fmt.Fprintf(w, `{"line":3,"id":"d3","status":201,"revision":2}`+"\n")
			fmt.Fprintf(w, `{"done":true,"last_line":3,"applied":2,"failed":1}`+"\n")
		}))
		var got []wire.ImportResult
		sum, err := c.client(nil).Import(t.Context(), "c", strings.NewReader(ndjson(3)), ImportOptions{OnResult: collect(&got)})
		if err != nil || sum.Resumes != 1 {
			t.Fatalf("%s: summary %+v, error %v", code, sum, err)
		}
		mustBeInOrder(t, got, 3)
	}
}

func TestImportFollowsTheLeader(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.leader = 1
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if n.n == 1 || !strings.HasSuffix(r.URL.Path, "/import") {
			return false
		}
		writeProblem(w, wire.CodeNotLeader, OutcomeNotApplied, 0, c.nodes[1].srv.URL)
		return true
	})
	var got []wire.ImportResult
	cl := mustNew(t, c.urls()[:1], Options{})
	if _, err := cl.Import(t.Context(), "c", strings.NewReader(ndjson(10)), ImportOptions{OnResult: collect(&got)}); err != nil {
		t.Fatal(err)
	}
	mustBeInOrder(t, got, 10)
	if cl.Leader() != c.urls()[1] {
		t.Errorf("the leader is taken to be at %q", cl.Leader())
	}
}

func TestImportGivesUpAfterManyResumesWithoutProgress(t *testing.T) {
	c := newFakeCluster(t, 1)
	var n atomic.Int32
	c.setHook(func(node *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if n.Add(1) == 1 {
			node.serveImport(w, r, 4)
			return true
		}
		reset(w)
		return true
	})
	sum, err := c.client(nil).Import(t.Context(), "c", strings.NewReader(ndjson(10)), ImportOptions{MaxResumes: 3})
	var e *Error
	if !errors.As(err, &e) || e.GaveUp != GaveUpAttempts || !OutcomeUnknown(err) {
		t.Fatalf("error %v", err)
	}
	// The first failure is a lost connection, which is free.
	if sum.LastLine != 4 || sum.Applied != 4 || sum.Resumes != 1+1+3 || n.Load() != 6 {
		t.Fatalf("summary %+v, %d requests", sum, n.Load())
	}
}

func TestWhatWasSentBeforeStaysUnknown(t *testing.T) {
	// The connection breaks behind an answer, then no node is reached: the
	// lines without an answer may have been applied.
	c := newFakeCluster(t, 1)
	var n atomic.Int32
	c.setHook(func(node *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if n.Add(1) == 1 {
			node.serveImport(w, r, 4)
			return true
		}
		node.problem(w, wire.CodeInvalidParameter, OutcomeNotApplied, 0)
		return true
	})
	_, err := c.client(nil).Import(t.Context(), "c", strings.NewReader(ndjson(10)), ImportOptions{})
	if CodeOf(err) != wire.CodeInvalidParameter || !OutcomeUnknown(err) {
		t.Fatalf("error %v", err)
	}
}

func TestImportStopsWhenItIsTold(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	stop := errors.New("enough")
	sum, err := cl.Import(t.Context(), "c", strings.NewReader(ndjson(100)), ImportOptions{MaxLines: 10, OnResult: func(r wire.ImportResult) error {
		if r.Line == 25 {
			return stop
		}
		return nil
	}})
	if err != stop || sum.LastLine != 25 || c.imports() != 3 {
		t.Fatalf("error %v, summary %+v, %d requests", err, sum, c.imports())
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = cl.Import(ctx, "c", strings.NewReader(ndjson(100)), ImportOptions{MaxLines: 10, OnResult: func(r wire.ImportResult) error { cancel(); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
}

func TestAStreamThatStallsIsResumed(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(once(func(*fakeNode, *http.Request) bool { return true }, func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) {
		_, _ = io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"line":1,"id":"d1","status":201,"revision":1}`+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	var got []wire.ImportResult
	sum, err := c.client(func(o *Options) { o.Timeout = 200 * time.Millisecond }).
		Import(t.Context(), "c", strings.NewReader(ndjson(3)), ImportOptions{OnResult: collect(&got)})
	if err != nil || sum.Resumes != 1 {
		t.Fatalf("summary %+v, error %v", sum, err)
	}
	mustBeInOrder(t, got, 3)
}

func TestAStreamMayLastLongerThanTheTimeoutWhileItMovesOn(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(func(n *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		for i := range 12 {
			fmt.Fprintf(w, `{"line":%d,"id":"d%d","status":201,"revision":1}`+"\n", i+1, i+1)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(200 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		return true
	})
	var got []wire.ImportResult
	sum, err := c.client(func(o *Options) { o.Timeout = 1500 * time.Millisecond }).
		Import(t.Context(), "c", strings.NewReader(ndjson(12)), ImportOptions{OnResult: collect(&got)})
	if err != nil || sum.Resumes != 0 {
		t.Fatalf("summary %+v, error %v", sum, err)
	}
	mustBeInOrder(t, got, 12)
}

func TestAWrongAnswerIsNoAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"another line":   `{"line":2,"id":"d2","status":201}` + "\n",
		"no JSON":        "<html>\n",
		"nothing":        "",
		"done too early": `{"done":true,"last_line":0}` + "\n",
		"too long":       strings.Repeat("x", maxResultLine+10),
	} {
		t.Run(name, func(t *testing.T) {
			c := newFakeCluster(t, 1)
			c.setHook(func(_ *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
				_, _ = io.ReadAll(r.Body)
				_, _ = io.WriteString(w, answer)
				return true
			})
			sum, err := c.client(nil).Import(t.Context(), "c", strings.NewReader(ndjson(2)), ImportOptions{MaxResumes: 2})
			if err == nil || !OutcomeUnknown(err) && !errors.Is(err, ErrAnswerTooLarge) || sum.Lines != 0 {
				t.Fatalf("summary %+v, error %v", sum, err)
			}
		})
	}
}

func TestABadInputKeepsWhatCameBefore(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	broken := errors.New("disk on fire")
	sum, err := cl.Import(t.Context(), "c", io.MultiReader(strings.NewReader(ndjson(3)), iotest.ErrReader(broken)), ImportOptions{})
	if !errors.Is(err, broken) || sum.LastLine != 3 || !strings.Contains(err.Error(), "line 4") {
		t.Fatalf("summary %+v, error %v", sum, err)
	}
	sum, err = cl.Import(t.Context(), "c", strings.NewReader(ndjson(2)+strings.Repeat("x", MaxLineBytes+10)), ImportOptions{})
	if err == nil || sum.LastLine != 2 || !strings.Contains(err.Error(), "line 3") {
		t.Fatalf("summary %+v, error %v", sum, err)
	}
	if _, err := cl.Import(t.Context(), "c", strings.NewReader(""), ImportOptions{MaxLines: -1}); err == nil {
		t.Error("a negative option was taken")
	}
}

func TestImportDocuments(t *testing.T) {
	c := newFakeCluster(t, 1)
	cl := c.client(nil)
	docs := func(yield func(wire.DocumentInput) bool) {
		for i := range 25 {
			if !yield(wire.DocumentInput{ID: fmt.Sprintf("d%d", i+1), Snippets: []wire.SnippetInput{{Content: "x", Vector: wire.Floats{1}}}}) {
				return
			}
		}
	}
	var got []wire.ImportResult
	if _, err := cl.ImportDocuments(t.Context(), "c", docs, ImportOptions{MaxLines: 10, OnResult: collect(&got)}); err != nil {
		t.Fatal(err)
	}
	mustBeInOrder(t, got, 25)
	if body := string(c.docs["/v1/collections/c/docs/d1"].body); body != `{"id":"d1","snippets":[{"content":"x","vector_base64":"AACAPw=="}]}` {
		t.Errorf("sent %s", body)
	}
	_, err := cl.ImportDocuments(t.Context(), "c", func(yield func(wire.DocumentInput) bool) { yield(content("no id")) }, ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("error %v", err)
	}
}
