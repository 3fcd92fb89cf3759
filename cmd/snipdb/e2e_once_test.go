package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// keyed is a write with an idempotency key, and the first answer to it.
type keyed struct {
	method, path, key string
	body              any
	header            []string

	status int
	answer []byte
}

// send sends the write, and fails unless it is answered.
func (k *keyed) send(n *proctest.Node) (*proctest.Answer, error) {
	return n.Do(context.Background(), k.method, k.path, k.body, append([]string{wire.HeaderIdempotencyKey, k.key}, k.header...)...)
}

// replay returns an error unless the node gives the first answer again, byte
// for byte.
func (k *keyed) replay(n *proctest.Node) error {
	answer, err := k.send(n)
	switch {
	case err != nil:
		return err
	case answer.Status != k.status || !bytes.Equal(answer.Body, k.answer):
		return fmt.Errorf("%s %s with key %s at %s: first\n%d %s\nnow\n%d %s", k.method, k.path, k.key, n.ID, k.status, k.answer, answer.Status, answer.Body)
	case answer.Header.Get(wire.HeaderReplayed) != "true":
		return fmt.Errorf("%s %s with key %s at %s is not marked as a replay", k.method, k.path, k.key, n.ID)
	}
	return nil
}

// keyedWrites does one write of each kind, with the answers that it may get:
// made, replaced, gone, and refused in several ways.
func keyedWrites(t *testing.T, n *proctest.Node) []*keyed {
	t.Helper()
	put(n, "once-there", "x")
	writes := []*keyed{
		{method: "POST", path: docs, key: "post", body: map[string]any{"content": "made by the server", "metadata": map[string]any{"n": 1}}, status: 201},
		{method: "PUT", path: docs + "/once", key: "put", body: map[string]any{"content": []string{"a", "b"}}, status: 201},
		{method: "PUT", path: docs + "/once", key: "put-again", body: map[string]any{"content": "c"}, status: 200},
		{method: "PATCH", path: docs + "/once", key: "patch", body: map[string]any{"title": "T"}, status: 200},
		{method: "PUT", path: docs + "/once/snippets/1", key: "append", body: map[string]any{"content": "d"}, status: 201},
		{method: "PUT", path: docs + "/once/embeddings", key: "embed", body: map[string]any{"model": "m",
			"embeddings": []map[string]any{{"index": 0, "vector": []float64{1, 2, 3}}}}, status: 200},
		{method: "POST", path: "/v1/collections/e2e/batch", key: "batch", body: map[string]any{"operations": []map[string]any{
			{"op": "put_doc", "id": "batched", "doc": map[string]any{"content": "x"}}, {"op": "delete_doc", "id": "once-there"}}}, status: 200},
		{method: "DELETE", path: docs + "/batched", key: "delete", status: 204},
		{method: "PUT", path: docs + "/once", key: "stale", body: map[string]any{"content": "e"}, header: []string{"If-Match", `"1"`}, status: 412},
		{method: "PUT", path: docs + "/once", key: "exists", body: map[string]any{"content": "e"}, header: []string{"If-None-Match", "*"}, status: 412},
		{method: "DELETE", path: docs + "/never", key: "not-found", status: 404},
		{method: "PUT", path: docs + "/once/snippets/9", key: "gap", body: map[string]any{"content": "e"}, status: 422},
	}
	for _, k := range writes {
		answer, err := k.send(n)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status != k.status || answer.Header.Get(wire.HeaderReplayed) != "" {
			t.Fatalf("%s %s: status %d, want %d, replayed %q: %s", k.method, k.path, answer.Status, k.status, answer.Header.Get(wire.HeaderReplayed), answer.Body)
		}
		k.answer = answer.Body
	}
	return writes
}

// replayAll sends all of them once more to each node, and fails unless each
// answer is the first one and nothing has changed.
func replayAll(t *testing.T, when string, writes []*keyed, nodes []*proctest.Node) {
	t.Helper()
	before := listIDs(t, nodes[0])
	for _, n := range nodes {
		for _, k := range writes {
			if err := k.replay(n); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		other := *writes[0]
		other.body = map[string]any{"content": "something else"}
		answer, err := other.send(n)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status != http.StatusUnprocessableEntity || answer.Problem().Code != wire.CodeKeyReused || answer.Problem().Outcome != "not_applied" {
			t.Errorf("%s: the key with another body at %s: %d %s", when, n.ID, answer.Status, answer.Body)
		}
	}
	if after := listIDs(t, nodes[0]); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("%s: the replays changed %v to %v", when, before, after)
	}
}

// One key, one effect, one answer: whatever happens in between.
func TestTheFirstAnswerIsReplayedWhateverHappens(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{Args: smallLog})
	writes := keyedWrites(t, c.Nodes[0])
	replayAll(t, "at once", writes, c.Nodes)

	leader := c.Leader()
	leader.Kill()
	waitWritable(t, c, time.Now())
	replayAll(t, "after the leader was killed", writes, others(c, leader))
	leader.Start()
	leader.WaitReady()

	for _, n := range c.Nodes {
		n.Signal(killSignal)
	}
	for _, n := range c.Nodes {
		_ = n.Wait()
		n.Start()
	}
	c.WaitReady()
	waitWritable(t, c, time.Now())
	replayAll(t, "after all were killed", writes, c.Nodes)

	// A follower that has its state from a snapshot, and none of the entries.
	written := fill(t, c.Nodes, "filler", 300)
	waitTruncated(t, c.Leader(), written[0].index)
	follower := c.Followers()[0]
	follower.Kill()
	follower.Wipe()
	follower.Start()
	follower.WaitReady()
	readAll(t, follower, written[len(written)-1:])
	self, err := follower.Self()
	if err != nil || self.SnapshotIndex == 0 {
		t.Fatalf("the wiped node has no snapshot: %+v, %v", self, err)
	}
	// It gets its vote back when it has caught up, and then may lead.
	makeLeader(t, c, follower)
	replayAll(t, "led by a node that was restored from a snapshot", writes, c.Nodes)
}

// Many clients send the same write at the same time, at all nodes: it is done
// once, and all get the one answer.
func TestConcurrentDuplicatesAreAppliedOnce(t *testing.T) {
	skipIfShort(t)
	c := proctest.Start(t, proctest.Options{})
	const rounds, duplicates = 30, 12
	for round := range rounds {
		write := &keyed{method: "POST", path: docs, key: fmt.Sprintf("same-%d", round), body: map[string]any{"content": "x", "title": fmt.Sprint(round)}}
		answers := make([]*proctest.Answer, duplicates)
		inParallel(t, duplicates, duplicates, func(i int) (err error) {
			answers[i], err = write.send(c.Nodes[i%len(c.Nodes)])
			return err
		})
		first := 0
		for _, a := range answers {
			if a.Status != http.StatusCreated || !bytes.Equal(a.Body, answers[0].Body) {
				t.Fatalf("round %d: %d %s; another got %d %s", round, a.Status, a.Body, answers[0].Status, answers[0].Body)
			}
			if a.Header.Get(wire.HeaderReplayed) == "" {
				first++
			}
		}
		if first != 1 {
			t.Errorf("round %d: %d of %d answers are no replay", round, first, duplicates)
		}
	}
	for _, n := range c.Nodes {
		if ids := listIDs(t, n); len(ids) != rounds {
			t.Errorf("%s has %d documents of %d writes", n.ID, len(ids), rounds)
		}
	}
}
