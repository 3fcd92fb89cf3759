package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a small server with the routes that benchmarks use. What it stores
// it gives back; spoil may change an answer before it is sent.
type node struct {
	mu         sync.Mutex
	url        string
	index      uint64
	docs       map[string]*wire.Document
	collection *wire.Collection
	// refuse decides before a write; a status of 0 lets it through.
	refuse func(id string, n int) int
	writes int
	// keys counts the documents that were stored under each idempotency key.
	keys map[string]int
	// others are further members; behind: reads at an index are refused.
	others    []wire.Member
	memberAt  string // its own address in the list, if it is another than url
	behind    bool
	slowGet   func()
	spoilDoc  func(*wire.Document)
	spoilList func(*wire.DocumentList)
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{docs: map[string]*wire.Document{}, keys: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/cluster/members", n.members)
	mux.HandleFunc("PUT /v1/collections/{c}", n.putCollection)
	mux.HandleFunc("GET /v1/collections/{c}", n.getCollection)
	mux.HandleFunc("DELETE /v1/collections/{c}", func(w http.ResponseWriter, _ *http.Request) { n.answer(w, 200, struct{}{}) })
	mux.HandleFunc("GET /v1/collections/{c}/docs", n.list)
	mux.HandleFunc("PUT /v1/collections/{c}/docs/{id}", n.put)
	mux.HandleFunc("GET /v1/collections/{c}/docs/{id}", n.get)
	mux.HandleFunc("PUT /v1/collections/{c}/docs/{id}/embeddings", n.embed)
	mux.HandleFunc("POST /v1/collections/{c}/batch", n.batch)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { n.answer(w, 200, wire.Ready{Status: "ok", Node: "n1"}) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP x\nprocess_resident_memory_bytes 1.048576e+06\n")
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	n.url = server.URL
	return n
}

func (n *node) env(t *testing.T) *Env {
	t.Helper()
	return &Env{
		Endpoints: []string{n.url},
		Say:       func(line string) { t.Log(line) },
		NewClient: func(conns int, single bool, onRetry func(client.RetryEvent)) (*client.Client, error) {
			o := client.Options{MaxIdleConns: conns, OnRetry: onRetry, BaseBackoff: 1, MaxBackoff: 1000}
			if single {
				o.MaxAttempts = 1
			}
			return client.New([]string{n.url}, o)
		},
	}
}

func (n *node) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set(wire.HeaderIndex, fmt.Sprint(n.index))
	w.Header().Set(wire.HeaderNode, "n1")
	w.Header().Set("Content-Type", wire.TypeJSON)
	if status >= 400 {
		w.Header().Set("Content-Type", wire.TypeProblem)
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (n *node) problem(w http.ResponseWriter, code wire.Code) {
	if status := code.Info().Status; status == 429 || status == 503 {
		w.Header().Set("Retry-After", "0")
	}
	n.answer(w, code.Info().Status, wire.Problem{Status: code.Info().Status, Code: code, Detail: "as told", Outcome: "not_applied"})
}

func (n *node) members(w http.ResponseWriter, _ *http.Request) {
	n.answer(w, 200, wire.MemberList{Items: append([]wire.Member{{ID: "n1", HTTPAddr: cmp.Or(n.memberAt, n.url), Voter: true, Leader: true}}, n.others...)})
}

func (n *node) putCollection(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.collection != nil {
		n.problem(w, wire.CodeAlreadyExists)
		return
	}
	n.index++
	n.collection = &wire.Collection{Name: r.PathValue("c")}
	n.answer(w, 201, n.collection)
}

func (n *node) getCollection(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.behind && r.URL.Query().Has("min_index") {
		n.problem(w, wire.CodeBehind)
		return
	}
	c := *n.collection
	for _, d := range n.docs {
		c.Documents++
		for _, s := range d.Snippets {
			c.Snippets++
			if s.Embedded {
				c.Embedded++
			}
		}
	}
	n.answer(w, 200, c)
}

// refused answers a write that is to be refused.
func (n *node) refused(w http.ResponseWriter, id string) bool {
	n.writes++
	if n.refuse == nil {
		return false
	}
	switch n.refuse(id, n.writes) {
	case 503:
		n.problem(w, wire.CodeOverloaded)
	case 422:
		n.problem(w, wire.CodeInvalidField)
	default:
		return false
	}
	return true
}

func (n *node) store(id string, in *wire.DocumentInput) *wire.Document {
	n.index++
	d := &wire.Document{ID: id, Owner: in.Owner, Revision: n.index}
	for _, text := range in.Content {
		in.Snippets = append(in.Snippets, wire.SnippetInput{Content: text})
	}
	for i, s := range in.Snippets {
		d.Snippets = append(d.Snippets, wire.Snippet{Index: i, Content: s.Content, ContentHash: hashOf(s.Content), Revision: n.index})
	}
	d.SnippetCount = len(d.Snippets)
	n.docs[id] = d
	return d
}

func (n *node) put(w http.ResponseWriter, r *http.Request) {
	var in wire.DocumentInput
	_ = json.NewDecoder(r.Body).Decode(&in)
	n.mu.Lock()
	defer n.mu.Unlock()
	id := r.PathValue("id")
	switch {
	case n.refused(w, id):
	case r.Header.Get("If-None-Match") == "*" && n.docs[id] != nil:
		n.problem(w, wire.CodeAlreadyExists)
	default:
		n.keys[r.Header.Get(wire.HeaderIdempotencyKey)]++
		d := *n.store(id, &in)
		d.Snippets = nil
		n.answer(w, 201, d)
	}
}

func (n *node) batch(w http.ResponseWriter, r *http.Request) {
	var in wire.BatchInput
	_ = json.NewDecoder(r.Body).Decode(&in)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, op := range in.Operations {
		n.store(op.ID, op.Doc)
	}
	n.answer(w, 200, wire.BatchResult{Index: n.index})
}

func (n *node) embed(w http.ResponseWriter, r *http.Request) {
	var in wire.EmbeddingsInput
	_ = json.NewDecoder(r.Body).Decode(&in)
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.docs[r.PathValue("id")]
	if n.refused(w, d.ID) {
		return
	}
	n.index++
	for _, e := range in.Embeddings {
		s := &d.Snippets[e.Index]
		s.Embedded, s.Model, s.VectorBase64 = true, in.Model, e.VectorBase64
		if s.VectorBase64 == "" {
			s.VectorBase64 = wire.EncodeBase64(snippet.VectorOf(e.Vector))
		}
	}
	d.Revision = n.index
	n.answer(w, 200, wire.EmbeddingsResult{ID: d.ID, Revision: n.index, Updated: len(in.Embeddings)})
}

func (n *node) get(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.slowGet != nil {
		n.slowGet()
	}
	d := n.docs[r.PathValue("id")]
	if d == nil {
		n.problem(w, wire.CodeNotFound)
		return
	}
	out := *d
	out.Snippets = slices.Clone(d.Snippets)
	if n.spoilDoc != nil {
		n.spoilDoc(&out)
	}
	if out.ID == "" {
		n.problem(w, wire.CodeNotFound)
		return
	}
	n.answer(w, 200, out)
}

func (n *node) list(w http.ResponseWriter, _ *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out wire.DocumentList
	for id, d := range n.docs {
		out.Items = append(out.Items, wire.Document{ID: id, Owner: d.Owner})
	}
	slices.SortFunc(out.Items, func(x, y wire.Document) int { return strings.Compare(x.ID, y.ID) })
	if n.spoilList != nil {
		n.spoilList(&out)
	}
	n.answer(w, 200, out)
}
