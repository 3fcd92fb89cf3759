package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// exampleNode stands in for a node, so that the examples run by themselves.
// It loses the answer to the first write: the client repeats it.
func exampleNode() *httptest.Server {
	var index atomic.Uint64
	var lost atomic.Bool
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h := w.Header()
		h.Set(wire.HeaderNode, "n1")
		h.Set(wire.HeaderCluster, "c1")
		if r.Method == http.MethodPut && !lost.Swap(true) {
			panic(http.ErrAbortHandler)
		}
		if r.Method != http.MethodGet {
			index.Add(1)
		}
		h.Set(wire.HeaderIndex, fmt.Sprint(index.Load()))
		switch {
		case strings.HasSuffix(r.URL.Path, "/import"):
			lines := strings.Split(strings.TrimSpace(string(body)), "\n")
			for i, line := range lines {
				var doc wire.DocumentInput
				_ = json.Unmarshal([]byte(line), &doc)
				_ = json.NewEncoder(w).Encode(wire.ImportResult{Line: i + 1, ID: doc.ID, Status: 201, Revision: index.Load()})
			}
			_ = json.NewEncoder(w).Encode(wire.ImportResult{Done: true, LastLine: len(lines), Applied: len(lines)})
		case strings.HasSuffix(r.URL.Path, "/missing"):
			h.Set("Content-Type", wire.TypeProblem)
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(wire.Problem{Status: 404, Code: wire.CodeNotFound, Detail: "there is no document missing"})
		default:
			_ = json.NewEncoder(w).Encode(wire.Document{ID: "d1", Title: "A note", Revision: index.Load(), SnippetCount: 1})
		}
	}))
}

func Example() {
	node := exampleNode()
	defer node.Close()

	db, err := client.New([]string{node.URL}, client.Options{Timeout: 10 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()

	ctx := context.Background()
	doc, meta, err := db.PutDocument(ctx, "notes", "d1", wire.DocumentInput{
		Title:   "A note",
		Content: wire.Content{"The first paragraph."},
	})
	if err != nil {
		fmt.Println("not stored:", err, "may be stored:", client.OutcomeUnknown(err))
		return
	}
	fmt.Println(doc.ID, "at revision", doc.Revision, "after", meta.Attempts, "attempts")

	_, _, err = db.GetDocument(ctx, "notes", "missing")
	fmt.Println("not found:", client.IsNotFound(err))
	// Output:
	// d1 at revision 1 after 2 attempts
	// not found: true
}

func ExampleClient_NewSession() {
	node := exampleNode()
	defer node.Close()
	db, err := client.New([]string{node.URL}, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()

	// Reads of a session see its writes, on whichever node they are answered.
	s := db.NewSession()
	ctx := context.Background()
	if _, _, err := s.PutDocument(ctx, "notes", "d1", wire.DocumentInput{Title: "A note"}); err != nil {
		fmt.Println(err)
		return
	}
	doc, meta, err := s.GetDocument(ctx, "notes", "d1")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(doc.Title, meta.Index >= s.Index(), s.Cluster())
	// Output: A note true c1
}

func ExampleClient_Import() {
	node := exampleNode()
	defer node.Close()
	db, err := client.New([]string{node.URL}, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()

	lines := strings.NewReader(`{"id":"d1","content":"one"}
{"id":"d2","content":["two", "snippets"]}
`)
	sum, err := db.Import(context.Background(), "notes", lines, client.ImportOptions{
		OnResult: func(r wire.ImportResult) error {
			fmt.Println("line", r.Line, r.ID, r.Status)
			return nil
		},
	})
	fmt.Println(sum.Applied, "stored,", sum.Failed, "refused,", err)
	// Output:
	// line 1 d1 201
	// line 2 d2 201
	// 2 stored, 0 refused, <nil>
}

func ExampleClient_NewBulkWriter() {
	node := exampleNode()
	defer node.Close()
	db, err := client.New([]string{node.URL}, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()

	w, err := db.NewBulkWriter("notes", client.BulkOptions{OnResult: func(i client.BulkItem) {
		if i.Err != nil {
			fmt.Println(i.ID, i.Err)
		}
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	for i := range 1000 {
		doc := wire.DocumentInput{ID: fmt.Sprintf("d%d", i), Content: wire.Content{"text"}}
		if err := w.Put(ctx, doc); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := w.Close(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(w.Stats().Applied, "stored")
	// Output: 1000 stored
}
