package importer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a Target in memory. answer decides what happens to a document:
// its status, or an error that breaks the stream.
type cluster struct {
	mu      sync.Mutex
	docs    map[string][]string
	puts    map[string]int
	appends int
	answer  func(id string, put int) (int, error)
	grow    func() error
	// gather is how many documents Import takes before it answers the first.
	gather int
}

func newCluster() *cluster {
	return &cluster{
		docs: map[string][]string{}, puts: map[string]int{},
		answer: func(string, int) (int, error) { return 201, nil },
		grow:   func() error { return nil },
	}
}

func (c *cluster) Import(ctx context.Context, docs iter.Seq[wire.DocumentInput], fn func(wire.ImportResult) error) error {
	line := 0
	var held []wire.DocumentInput
	for doc := range docs {
		if held = append(held, doc); len(held) < c.gather {
			continue
		}
		if err := c.send(held, &line, fn); err != nil {
			return err
		}
		held = nil
	}
	return errors.Join(c.send(held, &line, fn), ctx.Err())
}

func (c *cluster) send(docs []wire.DocumentInput, line *int, fn func(wire.ImportResult) error) error {
	for _, doc := range docs {
		*line++
		c.mu.Lock()
		c.puts[doc.ID]++
		status, err := c.answer(doc.ID, c.puts[doc.ID])
		if err == nil && status < 300 {
			c.docs[doc.ID] = nil
			for _, s := range doc.Snippets {
				c.docs[doc.ID] = append(c.docs[doc.ID], s.Content)
			}
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		if err := fn(wire.ImportResult{Line: *line, ID: doc.ID, Status: status, Detail: "as told"}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) Append(_ context.Context, ops []wire.Operation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.appends++
	if err := c.grow(); err != nil {
		return err
	}
	for _, op := range ops {
		have := c.docs[op.ID]
		switch {
		case *op.Index < len(have):
			have[*op.Index] = op.Snippet.Content
		case *op.Index == len(have):
			c.docs[op.ID] = append(have, op.Snippet.Content)
		default:
			return fmt.Errorf("gap: index %d of %d", *op.Index, len(have))
		}
	}
	return nil
}

func lines(n int) Source {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"id\":\"d%03d\",\"content\":[\"a\",\"b\"]}\n", i+1)
	}
	return NDJSON(strings.NewReader(b.String()))
}

func testOptions() Options { return Options{Pause: time.Millisecond} }

func TestRunWritesEverything(t *testing.T) {
	c := newCluster()
	report, err := Run(t.Context(), c, lines(3000), testOptions())
	if err != nil || report.Documents != 3000 || report.Snippets != 6000 || report.Failed != 0 || report.ContinueFrom != 0 || report.Rounds != 1 {
		t.Fatalf("got %+v, %v", report, err)
	}
	if len(c.docs) != 3000 {
		t.Errorf("the cluster has %d documents", len(c.docs))
	}
}

func TestRunContinuesAfterABrokenStream(t *testing.T) {
	c := newCluster()
	broken := 0
	c.answer = func(id string, put int) (int, error) {
		if strings.HasSuffix(id, "7") && put == 1 {
			broken++
			return 0, errors.New("connection reset")
		}
		return 201, nil
	}
	report, err := Run(t.Context(), c, lines(100), testOptions())
	if err != nil || report.Documents != 100 || report.Failed != 0 {
		t.Fatalf("got %+v, %v", report, err)
	}
	if broken == 0 || report.Rounds < 10 || len(c.docs) != 100 {
		t.Errorf("broken %d, rounds %d, documents %d", broken, report.Rounds, len(c.docs))
	}
}

func TestRunWaitsForARefusingCluster(t *testing.T) {
	c := newCluster()
	refusals := 0
	c.answer = func(string, int) (int, error) {
		if refusals < 5 {
			refusals++
			return 503, nil
		}
		return 200, nil
	}
	report, err := Run(t.Context(), c, lines(50), testOptions())
	if err != nil || report.Documents != 50 || refusals != 5 {
		t.Fatalf("got %+v, %v, %d refusals", report, err, refusals)
	}
}

func TestRunGivesUpAndSaysWhereToContinue(t *testing.T) {
	c := newCluster()
	c.answer = func(id string, _ int) (int, error) {
		if id >= "d031" {
			return 503, nil
		}
		return 201, nil
	}
	report, err := Run(t.Context(), c, lines(50), Options{Pause: time.Microsecond})
	if err == nil || report.ContinueFrom != 31 || report.Documents != 30 {
		t.Fatalf("got %+v, %v", report, err)
	}
	c.answer = func(string, int) (int, error) { return 201, nil }
	report, err = Run(t.Context(), c, lines(50), Options{ContinueFrom: 31})
	if err != nil || report.Documents != 20 || report.Skipped != 30 || len(c.docs) != 50 {
		t.Fatalf("continued: got %+v, %v", report, err)
	}
}

func TestRunReportsWhatFailed(t *testing.T) {
	c := newCluster()
	c.answer = func(id string, _ int) (int, error) {
		if id == "d005" {
			return 422, nil
		}
		return 201, nil
	}
	source := NDJSON(strings.NewReader("{\"id\":\"d001\",\"content\":\"a\"}\nbroken\n{\"id\":\"d005\",\"content\":\"a\"}\n{\"id\":\"d006\",\"content\":\"a\"}\n"))
	var seen []int
	report, err := Run(t.Context(), c, source, Options{OnFailure: func(f Failure) { seen = append(seen, f.Number) }})
	if err != nil || report.Failed != 2 || report.Documents != 2 || report.ContinueFrom != 2 {
		t.Fatalf("got %+v, %v", report, err)
	}
	if fmt.Sprint(seen) != "[2 3]" || report.Failures[1].Status != 422 {
		t.Errorf("failures %v, %+v", seen, report.Failures)
	}
}

func TestRunSplitsALargeDocument(t *testing.T) {
	c := newCluster()
	errs := 2
	c.grow = func() error {
		if errs > 0 {
			errs--
			return errors.New("connection reset")
		}
		return nil
	}
	text := strings.Repeat("x", 10_000)
	doc := wire.DocumentInput{ID: "big"}
	for i := range 120 {
		doc.Content = append(doc.Content, fmt.Sprint(i, text))
	}
	source := Source{Total: 1, Items: func(yield func(Item) bool) { yield(Item{Number: 1, Doc: doc}) }}
	report, err := Run(t.Context(), c, source, testOptions())
	if err != nil || report.Documents != 1 || report.Snippets != 120 {
		t.Fatalf("got %+v, %v", report, err)
	}
	if len(c.docs["big"]) != 120 || c.appends < 4 || c.puts["big"] != 3 {
		t.Fatalf("snippets %d, appends %d, puts %d", len(c.docs["big"]), c.appends, c.puts["big"])
	}
	for i, s := range c.docs["big"] {
		if s != fmt.Sprint(i, text) {
			t.Fatalf("snippet %d is another one: %.20s", i, s)
		}
	}
}

func TestRunStopsWhenInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := newCluster()
	c.answer = func(id string, _ int) (int, error) {
		if id == "d010" {
			cancel()
			return 0, ctx.Err()
		}
		return 201, nil
	}
	report, err := Run(ctx, c, lines(50), testOptions())
	if !errors.Is(err, context.Canceled) || report.ContinueFrom != 10 {
		t.Fatalf("got %+v, %v", report, err)
	}
}

// A stream whose window is full must end, not wait for room that only the next
// stream can make: the target here sends nothing before it has 1,000 documents.
func TestRunWindowFullOfRefusedDocuments(t *testing.T) {
	c := newCluster()
	c.gather = 1000
	text := strings.Repeat("x", 200_000)
	refused := map[string]bool{}
	c.answer = func(id string, put int) (int, error) {
		if put == 1 {
			refused[id] = true
			return 429, nil
		}
		return 201, nil
	}
	const n = 60
	source := Source{Total: n, Items: func(yield func(Item) bool) {
		for i := range n {
			doc := wire.DocumentInput{ID: fmt.Sprint(i), Content: wire.Content{text, text, text, text, text, text, text, text, text, text}}
			if !yield(Item{Number: i + 1, Doc: doc}) {
				return
			}
		}
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	report, err := Run(ctx, c, source, testOptions())
	if err != nil || report.Documents != n {
		t.Fatalf("got %+v, %v", report, err)
	}
}

func TestProgressLine(t *testing.T) {
	var p Progress
	p.begin(Source{Total: 200})
	begin := time.Unix(0, p.began.Load())
	for range 50 {
		p.done(&pending{snippets: 4, bytes: 1000})
	}
	p.Retries.Add(1)
	want := "50/200 documents, 200 snippets, 0.1 MB, 20 snippets/s, 25 %, 30s left, 1 retries"
	if got := p.Line(begin.Add(10 * time.Second)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProgressShowsAndStops(t *testing.T) {
	var p Progress
	p.begin(Source{})
	var b strings.Builder
	stop := p.Show(&b, true)
	stop()
	if !strings.Contains(b.String(), "\033[K") {
		t.Errorf("the line was not cleared: %q", b.String())
	}
}
