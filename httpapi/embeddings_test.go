package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

const embeddingsPath = "/v1/collections/c/docs/d/embeddings"

// rawBody is vectors one after the other.
func rawBody(values ...float32) string { return string(snippet.VectorOf(values)) }

// vectorsOf returns the vectors of the document d, and their models.
func (n *node) vectorsOf(tb testing.TB) string {
	tb.Helper()
	var doc wire.Document
	n.want(tb, 200, &doc, "GET", "/v1/collections/c/docs/d?with_embeddings=true", "")
	var out []string
	for _, s := range doc.Snippets {
		out = append(out, fmt.Sprint(s.Vector, s.Model))
	}
	return strings.Join(out, " ")
}

func TestRawEmbeddings(t *testing.T) {
	leader, follower := startPair(t, nil)
	raw := func(n *node, query string, values ...float32) wire.EmbeddingsResult {
		t.Helper()
		var out wire.EmbeddingsResult
		n.want(t, 200, &out, "PUT", embeddingsPath+query, rawBody(values...), "Content-Type", wire.TypeVector)
		return out
	}
	leader.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"content":["a","b"]}`)
	before := leader.index
	// The first vectors fix the dimension; they are scaled as those of JSON are.
	if out := raw(leader, "?model=m1", 3, 4, 0, 0, 0, 2); out.ID != "d" || out.Updated != 2 || out.Revision != before+1 || leader.index != before+1 {
		t.Errorf("%+v at %d", out, leader.index)
	}
	if got := leader.vectorsOf(t); got != "[0.6 0.8 0]m1 [0 0 1]m1" {
		t.Error(got)
	}
	// Through a follower, without a model; now the dimension is known.
	if out := raw(follower, "", 1, 0, 0, 0, 1, 0); out.Updated != 2 {
		t.Errorf("%+v", out)
	}
	if got := leader.vectorsOf(t); got != "[1 0 0] [0 1 0]" {
		t.Error(got)
	}
	a := leader.want(t, 200, nil, "PUT", embeddingsPath, rawBody(0, 0, 5, 0, 5, 0), "Content-Type", wire.TypeVector, "If-Match", "*")
	if a.header.Get("ETag") != fmt.Sprintf("%q", fmt.Sprint(leader.index)) {
		t.Errorf("headers %v", a.header)
	}
}

// Whatever does not fit is refused, with a key and without, and a condition
// that fails comes first.
func TestRawEmbeddingsThatDoNotFit(t *testing.T) {
	for _, known := range []bool{true, false} { // the dimension
		n := startNode(t, nil)
		if known {
			n.want(t, 201, nil, "PUT", "/v1/collections/c", `{"dimension":3}`)
		}
		n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"content":["a","b"]}`)
		n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/none", `{}`)
		before := string(n.dump())
		for name, tc := range map[string]struct {
			path, body string
			status     int
			known      bool // only if the dimension is
		}{
			"not whole numbers":              {embeddingsPath, rawBody(1, 2, 3, 4, 5, 6) + "x", 422, false},
			"infinity":                       {embeddingsPath, "\x00\x00\x80\x7f" + rawBody(2, 3, 4, 5, 6), 422, false},
			"what can't be divided":          {embeddingsPath, rawBody(1, 2, 3, 4, 5), 422, false},
			"one value":                      {embeddingsPath, rawBody(1), 422, false},
			"one vector":                     {embeddingsPath, rawBody(1, 2, 3), 422, false},
			"zeros":                          {embeddingsPath, rawBody(1, 2, 3, 0, 0, 0), 422, false},
			"three vectors":                  {embeddingsPath, rawBody(1, 2, 3, 4, 5, 6, 7, 8, 9), 422, false},
			"more than any document has":     {embeddingsPath, rawBody(make([]float32, 3*snippet.MaxSnippets+30)...), 422, true},
			"a document of no snippets":      {"/v1/collections/c/docs/none/embeddings", rawBody(1, 2, 3), 422, false},
			"no document":                    {"/v1/collections/c/docs/x/embeddings", rawBody(1, 2, 3), 404, false},
			"no collection":                  {"/v1/collections/x/docs/d/embeddings", rawBody(1, 2, 3), 404, false},
			"a condition, and what is short": {embeddingsPath, rawBody(1, 2, 3), 412, false},
		} {
			if tc.known && !known {
				continue
			}
			headers := []string{"Content-Type", wire.TypeVector}
			if tc.status == 412 {
				headers = append(headers, "If-Match", `"999"`)
			}
			for _, key := range []string{"", name} {
				a := n.do(t, "PUT", tc.path, tc.body, append(headers, headerIf(key)...)...)
				if a.status != tc.status || a.problem(t).Outcome != contract.OutcomeNotApplied || a.problem(t).Detail == "" {
					t.Errorf("%s, dimension known %v, key %q: %d %s", name, known, key, a.status, a.body)
				}
			}
		}
		if after := string(n.dump()); after != before {
			t.Errorf("something was changed:\n%s\n%s", before, after)
		}
	}
}

// headerIf is the header of a key, or none.
func headerIf(key string) []string {
	if key == "" {
		return nil
	}
	return []string{wire.HeaderIdempotencyKey, strings.ReplaceAll(strings.ReplaceAll(key, " ", "-"), "'", "")}
}

// A replay answers as the first time, though the body fits no more.
func TestRawEmbeddingsAreReplayed(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"content":["a","b"]}`)
	put := func(key, body string) answer {
		return n.do(t, "PUT", embeddingsPath, body, "Content-Type", wire.TypeVector, wire.HeaderIdempotencyKey, key)
	}
	good, bad := rawBody(1, 2, 3, 4, 5, 6), rawBody(1, 2, 3, 4, 5)
	first, refused := put("k1", good), put("k2", bad)
	if first.status != 200 || refused.status != 422 {
		t.Fatalf("%d %s, %d %s", first.status, first.body, refused.status, refused.body)
	}
	n.want(t, 204, nil, "DELETE", "/v1/collections/c", "")
	n.want(t, 201, nil, "PUT", "/v1/collections/c", `{"dimension":5}`)
	for _, content := range []string{"", `{"content":["a"]}`} { // no document, and one that the bad body fits
		if content != "" {
			n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", content)
		}
		if again := put("k1", good); again.status != 200 || !bytes.Equal(again.body, first.body) {
			t.Errorf("first %s\nthen %d %s", first.body, again.status, again.body)
		}
		if again := put("k2", bad); again.status != 422 || !bytes.Equal(again.body, refused.body) {
			t.Errorf("first %s\nthen %d %s", refused.body, again.status, again.body)
		}
	}
	if got := n.vectorsOf(t); got != "[]" {
		t.Errorf("vectors %s", got)
	}
}

// They are cut up by a state that is not behind, and again when they are prepared again.
func TestRawEmbeddingsAreCutByTheNewestState(t *testing.T) {
	n := startNode(t, nil)
	n.want(t, 201, nil, "PUT", "/v1/collections/c", `{"dimension":3,"metric":"dot"}`)
	n.want(t, 201, nil, "PUT", "/v1/collections/c/docs/d", `{"content":["a"]}`)
	n.onView = func(_ context.Context, c contract.Consistency) error {
		if c.Level != contract.Linearizable {
			t.Errorf("read at level %s", c.Level)
		}
		return nil
	}
	proposals := 0
	n.onPropose = func(context.Context, *command.Command) error {
		if proposals++; proposals == 1 { // the collection is made anew in between
			n.mu.Lock()
			defer n.mu.Unlock()
			next := n.state.clone()
			next.collections["c"].Metric, next.collections["c"].Dimension = snippet.Cosine, 2
			n.state = next
			two := *next.collections["c"].docs["d"]
			two.snippets, two.SnippetCount = append(two.snippets[:1:1], snippet.Snippet{Index: 1, Content: "b"}), 2
			next.collections["c"].docs["d"] = &two
		}
		return nil
	}
	a := n.want(t, 200, nil, "PUT", embeddingsPath, rawBody(3, 4, 0, 2), "Content-Type", wire.TypeVector, wire.HeaderIdempotencyKey, "k")
	n.onView = nil
	if got := n.vectorsOf(t); got != "[0.6 0.8] [0 1]" || proposals != 2 {
		t.Errorf("vectors %s after %d proposals: %s", got, proposals, a.body)
	}
	n.onView = func(context.Context, contract.Consistency) error { return context.DeadlineExceeded }
	if p := n.want(t, 504, nil, "PUT", embeddingsPath, rawBody(3, 4, 0, 2), "Content-Type", wire.TypeVector).problem(t); p.Outcome != contract.OutcomeNotApplied {
		t.Errorf("%+v", p)
	}
}
