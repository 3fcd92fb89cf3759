package crashmatrix

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// readers is how many requests read a node at once.
const readers = 8

// state is all that a node shows of the collection, by what it shows: the raw
// answer for each document, with its revision, times, hashes and vectors.
type state map[string]string

// collectionKey is the collection's own answer, with its counters.
const collectionKey = "(the collection)"

// scratchID is the node that replays from nothing. Its wall clock is more than
// a day ahead, which is longer than an idempotency row lives: what the log
// means does not depend on when, and where, it is applied.
const (
	scratchID      = "scratch"
	scratchAheadMs = 25 * 60 * 60 * 1000
)

// verify compares every node with what was acknowledged, the nodes with each
// other, and all of them with a new node that replays from nothing.
func (c *crash) verify() {
	first := c.Nodes[0]
	want := c.read(first)
	c.checkContent(first, want)
	for _, n := range c.Nodes[1:] {
		c.compare(n, first, want)
	}
	// A learner, so that it has no part in any quorum.
	scratch := c.AddNode(scratchID, "--learner")
	scratch.Start()
	scratch.WaitReady()
	c.compare(scratch, first, want)
	self, err := scratch.Self()
	switch {
	case err != nil:
		c.t.Error(err)
	case self.SnapshotIndex > 0:
		c.result.replay = fmt.Sprintf("snapshot %d + log", self.SnapshotIndex)
	default:
		c.result.replay = fmt.Sprintf("log of %d", self.LastLogIndex)
	}
	c.checkStopped()
}

// read reads the collection from a node, as of the last acknowledged write or
// later. No client writes any more, so all nodes show the same documents then.
func (c *crash) read(n *proctest.Node) state {
	c.t.Helper()
	got := state{collectionKey: string(n.Must(http.StatusOK, http.MethodGet, collection+"?"+c.level(), nil, nil).Body)}
	var ids []string
	for cursor := ""; ; {
		var page wire.DocumentList
		query := "?limit=500&" + c.level()
		if cursor != "" {
			query += "&cursor=" + url.QueryEscape(cursor)
		}
		n.Must(http.StatusOK, http.MethodGet, docs+query, nil, &page)
		for _, d := range page.Items {
			ids = append(ids, d.ID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if again := len(ids) - len(slices.Compact(slices.Sorted(slices.Values(ids)))); again > 0 {
		c.result.extra += again
		c.violate(c.contentOf(n), "%s lists %d documents twice", n.ID, again)
	}
	var (
		mu sync.Mutex // guards got
		wg sync.WaitGroup
	)
	for part := range readers {
		wg.Go(func() {
			for i := part; i < len(ids); i += readers {
				body, err := c.document(n, ids[i])
				mu.Lock()
				if errors.As(err, new(*url.Error)) {
					c.t.Errorf("%s: %v", n.ID, err) // no answer says nothing of the content
				} else if err != nil {
					c.violate(c.contentOf(n), "%s: %v", n.ID, err)
				}
				got[ids[i]] = body
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return got
}

// level makes a read wait for the last acknowledged write.
func (c *crash) level() string {
	return fmt.Sprintf("consistency=session&min_index=%d", c.load.maxIndex)
}

func (c *crash) document(n *proctest.Node, id string) (string, error) {
	answer, err := n.Do(context.Background(), http.MethodGet, docs+"/"+url.PathEscape(id)+"?with_embeddings=true&"+c.level(), nil)
	if err == nil && answer.Status != http.StatusOK {
		err = fmt.Errorf("%s is listed and answers %d: %.300s", id, answer.Status, answer.Body)
	}
	if err != nil {
		return "", err
	}
	var d wire.Document
	if err := answer.JSON(&d); err != nil {
		return "", err
	}
	for _, s := range d.Snippets {
		sum := sha256.Sum256([]byte(s.Content))
		if hex.EncodeToString(sum[:]) != s.ContentHash || s.Embedded != (len(s.Vector) == dimension) {
			return "", fmt.Errorf("%s: snippet %d does not fit its hash or its vector: %.300s", id, s.Index, answer.Body)
		}
	}
	return string(answer.Body), nil
}

// contentOf is the checker of what a node shows.
func (c *crash) contentOf(n *proctest.Node) checker {
	if n.ID == scratchID {
		return byScratch
	}
	return byContent
}

// checkContent compares a node with what the clients were told.
func (c *crash) checkContent(n *proctest.Node, got state) {
	c.t.Helper()
	var lost, wrong, extra []string
	for id, want := range c.load.want {
		body, found := got[id]
		if !found {
			lost = append(lost, id)
		} else if err := want.differs(body); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", id, err))
		}
	}
	for id := range got {
		if _, known := c.load.want[id]; !known && id != collectionKey {
			extra = append(extra, id+": "+got[id])
		}
	}
	r := c.result
	r.compared, r.lost, r.wrong, r.extra = r.compared+len(c.load.want), r.lost+len(lost), r.wrong+len(wrong), r.extra+len(extra)
	if len(lost)+len(wrong)+len(extra) > 0 {
		c.violate(c.contentOf(n), "%s: of %d documents %d are lost %.300q, %d are wrong %.600q, and %d are too many %.600q",
			n.ID, len(c.load.want), len(lost), lost, len(wrong), wrong, len(extra), extra)
	}
}

func (d document) differs(body string) error {
	var got wire.Document
	if err := (&proctest.Answer{Body: []byte(body)}).JSON(&got); err != nil {
		return err
	}
	var contents []string
	embedded := len(got.Snippets) > 0
	for _, s := range got.Snippets {
		contents = append(contents, s.Content)
		embedded = embedded && s.Embedded
	}
	same := slices.Equal(contents, d.contents) || d.open && slices.Equal(contents, d.contents[1:])
	if got.Title != d.title || !same || embedded != d.embedded {
		return fmt.Errorf("want %+v, got %.400s", d, body)
	}
	return nil
}

// compare reads a node and compares it with another one's state.
func (c *crash) compare(n, first *proctest.Node, want state) {
	c.t.Helper()
	got := c.read(n)
	c.checkContent(n, got)
	if maps.Equal(got, want) {
		return
	}
	name, shown := byNodes, 0
	if n.ID == scratchID {
		name = byScratch
	}
	for id := range want {
		if got[id] != want[id] && shown < 5 {
			shown++
			c.violate(name, "%s differs from %s in %s:\n  %.600s\n  %.600s", n.ID, first.ID, id, got[id], want[id])
		}
	}
	c.violate(name, "%s shows %d documents, %s shows %d, and they are not the same", n.ID, len(got), first.ID, len(want))
}

// checkStopped stops all nodes and looks at what they leave: states that fit
// their logs, and nothing half-made.
func (c *crash) checkStopped() {
	c.t.Helper()
	c.waitQuiet()
	for _, n := range slices.Backward(c.Nodes) {
		n.Stop()
	}
	at := map[*proctest.Node]inspection{}
	for _, n := range c.Nodes {
		i, text, err := c.inspect(n.Dir)
		if err != nil || i.Restore || i.DropLog {
			c.violate(byInspect, "inspect says of %s at the end: %v %s %+v", n.ID, err, text, i)
		}
		c.checkReplay(n.ID+", at the end", i)
		c.checkLeftovers(n)
		at[n] = i
	}
	c.checkDigests(at)
}

// waitQuiet waits until every node has applied what is committed: a node that
// is stopped before has nothing wrong, but says less.
func (c *crash) waitQuiet() {
	c.t.Helper()
	for _, n := range c.Nodes {
		n.WaitApplied(c.load.maxIndex, 30*time.Second)
	}
}

// checkLeftovers looks for what should have been finished or removed.
func (c *crash) checkLeftovers(n *proctest.Node) {
	c.t.Helper()
	counts := map[string]int{}
	err := filepath.WalkDir(n.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if strings.HasSuffix(name, ".tmp") || strings.HasPrefix(name, "restore-") {
			c.violate(byLeftovers, "%s left %s", n.ID, path)
		}
		counts[filepath.Dir(path)] += map[bool]int{true: 1}[d.IsDir()]
		return nil
	})
	for folder, most := range map[string]int{"state": 1, "snapshots": 1} {
		if got := counts[filepath.Join(n.Dir, folder)]; got > most {
			err = errors.Join(err, fmt.Errorf("%d directories are in %s, %d is right", got, folder, most))
		}
	}
	if err != nil {
		c.violate(byLeftovers, "%s: %v", n.ID, err)
	}
}
