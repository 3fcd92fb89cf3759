package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// VerifyScope says which nodes are verified.
type VerifyScope string

// The scopes. With VerifyReachable a node that does not answer is named and
// left out; with VerifyAll it is a failure. A node that answers and does not
// reach the last index is a failure with both.
const (
	VerifyAll       VerifyScope = "all"
	VerifyReachable VerifyScope = "reachable"
	VerifyNone      VerifyScope = "none"
)

const (
	// verifyReaders is how many documents are read at the same time from a node.
	verifyReaders = 8
	// answerWait is how long a node that did not reach the last index may take
	// to show that it answers at all. It is apart from VerifyWait: a wait that is
	// too short must not make every node look dead.
	answerWait = 5 * time.Second
)

// Verification is what the nodes have of what was written.
type Verification struct {
	OK bool `json:"ok"`
	// Index is the log index that every node had to reach.
	Index   uint64  `json:"index"`
	Seconds float64 `json:"seconds"`
	// Verified is how many nodes were read; without one nothing is known, and
	// OK is false.
	Verified int                `json:"verified"`
	Nodes    []NodeVerification `json:"nodes"`
}

// NodeVerification is one node's part.
type NodeVerification struct {
	Node
	// Documents were read and found right.
	Documents int64 `json:"documents"`
	// Lost were acknowledged and are not there, or without their embeddings.
	Lost int64 `json:"lost"`
	// Wrong have other text, vectors, revisions or counts than was written.
	Wrong int64 `json:"wrong"`
	// Duplicated appear more than once in the listing.
	Duplicated int64 `json:"duplicated"`
	// Unknown are in the listing and were never written.
	Unknown int64 `json:"unknown"`
	// Skipped says why the node was left out, if it was.
	Skipped  string   `json:"skipped,omitempty"`
	Examples []string `json:"examples,omitempty"`
}

func (n *NodeVerification) ok() bool {
	return n.Lost == 0 && n.Wrong == 0 && n.Duplicated == 0 && n.Unknown == 0 && len(n.Examples) == 0
}

// verify looks at every node for itself.
func (r *workflowRun) verify(ctx context.Context, own bool) *Verification {
	begin := time.Now()
	v := &Verification{OK: true, Index: r.lastIndex}
	for _, node := range r.env.nodes(ctx, r.cl) {
		check := &nodeCheck{run: r, at: client.OnEndpoint(node.Endpoint)}
		check.out.Node = node
		check.all(ctx, own)
		v.Nodes = append(v.Nodes, check.out)
		v.OK = v.OK && check.out.ok()
		if check.read {
			v.Verified++
		}
		r.env.say("verified %s: %d right, %d lost, %d wrong, %d duplicated, %d unknown %s",
			node.ID, check.out.Documents, check.out.Lost, check.out.Wrong, check.out.Duplicated, check.out.Unknown, check.out.Skipped)
	}
	v.OK = v.OK && v.Verified > 0
	v.Seconds = time.Since(begin).Seconds()
	return v
}

// nodeCheck verifies one node. mu guards out.
type nodeCheck struct {
	run *workflowRun
	at  client.CallOption
	// read says that the node reached the index and was looked at.
	read bool
	mu   sync.Mutex
	out  NodeVerification
}

func (c *nodeCheck) problem(count *int64, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if count != nil {
		*count++
	}
	if len(c.out.Examples) < maxExamples {
		c.out.Examples = append(c.out.Examples, fmt.Sprintf(format, args...))
	}
}

func (c *nodeCheck) all(ctx context.Context, own bool) {
	if err := c.reach(ctx); err != nil {
		if c.run.Verify == VerifyReachable && !c.answers(ctx) {
			c.out.Skipped = err.Error()
			return
		}
		c.problem(nil, "%v", err)
		return
	}
	c.read = true
	c.documents(ctx)
	c.listing(ctx)
	if own {
		c.totals(ctx)
	}
}

// options makes the options of a read that sees every write of the run.
func (c *nodeCheck) options(extra ...client.ReadOption) []client.ReadOption {
	return append([]client.ReadOption{c.at, client.WithConsistency(client.AtIndex(c.run.lastIndex))}, extra...)
}

// reach waits until the node has applied the last index of the run.
func (c *nodeCheck) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.run.VerifyWait)
	defer cancel()
	for {
		_, _, err := c.run.cl.GetCollection(ctx, c.run.Collection, c.options()...)
		if err == nil {
			return nil
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return fmt.Errorf("the node did not reach index %d in %s: %w", c.run.lastIndex, c.run.VerifyWait, err)
		}
	}
}

// answers says whether the node answers anything, also that it is not ready.
func (c *nodeCheck) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	_, _, err := c.run.cl.Ready(ctx, c.out.Endpoint)
	var e *client.Error
	return err == nil || errors.As(err, &e) && e.Status != 0
}

// documents reads each document that was acknowledged.
func (c *nodeCheck) documents(ctx context.Context) {
	numbers := make(chan int64)
	var (
		wait sync.WaitGroup
		good atomic.Int64
	)
	for range verifyReaders {
		wait.Go(func() {
			for n := range numbers {
				if c.document(ctx, n) {
					good.Add(1)
				}
			}
		})
	}
	for n, revision := range c.run.revisions {
		if revision > 0 && ctx.Err() == nil {
			numbers <- n
		}
	}
	close(numbers)
	wait.Wait()
	c.out.Documents = good.Load()
	if ctx.Err() != nil {
		c.problem(nil, "interrupted: %v", context.Cause(ctx))
	}
}

func (c *nodeCheck) document(ctx context.Context, n int64) bool {
	r, id := c.run, c.run.id(n)
	doc, _, err := r.cl.GetDocument(ctx, r.Collection, id, c.options(client.WithEmbeddings(client.AsBase64))...)
	switch {
	case client.IsNotFound(err):
		c.problem(&c.out.Lost, "%s is lost: %v", id, err)
		return false
	case err != nil:
		c.problem(&c.out.Wrong, "%s can't be read: %v", id, err)
		return false
	}
	if fault := c.fault(doc, n); fault != "" {
		c.problem(&c.out.Wrong, "%s: %s", id, fault)
		return false
	}
	return true
}

// fault compares a document with what was written; "" if it is the same.
func (c *nodeCheck) fault(doc *wire.Document, n int64) string {
	r := c.run
	switch {
	case doc.Revision != r.revisions[n]:
		return fmt.Sprintf("revision %d, written as %d", doc.Revision, r.revisions[n])
	case doc.SnippetCount != r.Snippets || len(doc.Snippets) != r.Snippets:
		return fmt.Sprintf("%d snippets counted, %d there, %d written", doc.SnippetCount, len(doc.Snippets), r.Snippets)
	}
	for i := range doc.Snippets {
		s := &doc.Snippets[i]
		want := Text(r.Seed, n, i, r.SnippetBytes)
		switch vector, err := vectorOf(s); {
		case s.Index != i:
			return fmt.Sprintf("snippet %d has index %d", i, s.Index)
		case s.Content != want || s.ContentHash != hashOf(want):
			return fmt.Sprintf("snippet %d has another text", i)
		case !s.Embedded || s.Model != model:
			return fmt.Sprintf("snippet %d has no embedding of model %s", i, model)
		case err != nil || !sameVector(vector, Vector(r.Seed, n, i, r.Dimension)):
			return fmt.Sprintf("snippet %d has another vector", i)
		}
	}
	return ""
}

// listing walks the run's documents and looks for what is there twice, is not
// there, or was never written.
func (c *nodeCheck) listing(ctx context.Context) {
	r := c.run
	seen := map[string]int{}
	query := client.ListQuery{Owner: r.owner(), Limit: 1000}
	for {
		page, _, err := r.cl.ListDocuments(ctx, r.Collection, query, c.options()...)
		if err != nil {
			c.problem(nil, "the documents can't be listed: %v", err)
			return
		}
		for _, doc := range page.Items {
			seen[doc.ID]++
		}
		if query.Cursor = page.NextCursor; query.Cursor == "" {
			break
		}
	}
	known := map[string]bool{}
	for n, revision := range r.revisions {
		id := r.id(n)
		known[id] = true
		if revision > 0 && seen[id] == 0 {
			c.problem(&c.out.Lost, "%s is not in the listing", id)
		}
	}
	for id, times := range seen {
		if times > 1 {
			c.problem(&c.out.Duplicated, "%s is in the listing %d times", id, times)
		}
		if !known[id] {
			c.problem(&c.out.Unknown, "%s is in the listing and was not written", id)
		}
	}
}

// totals compares the collection's own counts, if every workflow is known to
// have ended well and nobody else writes there.
func (c *nodeCheck) totals(ctx context.Context) {
	r := c.run
	for _, revision := range r.revisions {
		if revision == 0 {
			return
		}
	}
	got, _, err := r.cl.GetCollection(ctx, r.Collection, c.options()...)
	if err != nil {
		c.problem(nil, "the collection can't be read: %v", err)
		return
	}
	docs := uint64(len(r.revisions))
	snippets := docs * uint64(r.Snippets)
	if got.Documents != docs || got.Snippets != snippets || got.Embedded != snippets {
		c.problem(&c.out.Wrong, "the collection counts %d documents, %d snippets, %d embedded; written were %d, %d, %d",
			got.Documents, got.Snippets, got.Embedded, docs, snippets, snippets)
	}
}
