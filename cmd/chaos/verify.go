package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

const (
	// settleWait is for the calls that were open when the faults ended.
	settleWait = 30 * time.Second
	// captureTries: a write that the client has given up may still be applied
	// while the nodes are read.
	captureTries = 3
	// readWhole is how long the documents of a node may take to be read, and
	// perDocument what each of them adds.
	readWhole, perDocument = 2 * time.Minute, 10 * time.Millisecond
	pageSize               = 500
)

// NodeState is all that a node shows.
type NodeState struct {
	Node  string
	Index uint64
	// Documents are whole, as JSON, by collection and id; Listed all documents
	// as a listing shows them.
	Documents, Listed map[string]string
	Collections       map[string]string
	// created are the documents with ids of the server's making, by title;
	// queues are what these hold; seen are all other documents, by collection
	// and id, and collections, by name.
	created map[string][]*Seen
	queues  map[string][]string
	seen    map[string]*Seen
	limits  *Op // a read of the limits
}

// Verify waits until the cluster is at rest, and checks everything. Of a run
// that was given up it checks what the clients saw.
func (r *Run) Verify() {
	r.network.Heal()
	if r.stuck == nil {
		r.waitWhole()
	}
	wait := settleWait
	if r.stuck != nil {
		wait = time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	r.load.Close(ctx)
	cancel()
	ops := r.history.Ops()
	var states []*NodeState
	if r.stuck == nil {
		states = r.capture(ops)
		r.figures.Dumps = len(states)
		r.found(CompareStates(states)...)
		r.checkEnd(ops, states)
		r.checkHashes()
	}
	r.checkHistory(ops, states)
	if r.stuck == nil {
		r.checkLeaks()
		for id, samples := range r.samples {
			r.found(CheckFlat(id, samples)...)
		}
		r.stopAll()
	}
	r.readLogs(ops)
	r.figures.history(ops, r.history.LongestGap())
	r.found(CheckUnknown(r.figures.unknown, r.figures.writesSent)...)
	calm, found := CheckCalm(ops, r.figures.calms)
	r.figures.calm = calm
	r.found(found...)
	if r.stuck == nil && r.count() < enough { // else it has failed, and was not done to its end
		r.found(CheckProved(append(r.figures.proofs, r.proofs(ops, states)...), r.o.Duration)...)
	}
}

// proofs are what the checkers had to look at that compare nodes, and what
// calls of each kind were acknowledged.
func (r *Run) proofs(ops []*Op, states []*NodeState) []proof {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []proof{
		{"whole states of nodes compared", len(states) / len(r.nodes), 0},
		{"documents compared at the end", r.figures.Durable, 0.5},
		{"exactly-once writes compared at the end", r.figures.Once, 0.5},
		{"state hashes compared with another node's", r.hashes.Compared, 0.05},
		{"rows hashed anew", int(r.figures.Scanned), 0.5},
		{"entries of logs compared with another node's", r.book.Compared, 0},
		{"terms with a leader", r.figures.Terms, 0},
	}
	const allKinds = 15 * time.Second // in less some kinds may not have come up
	if r.o.Duration < allKinds {
		return out
	}
	acked := map[string]int{}
	for _, o := range ops {
		if o.Outcome == OK && !o.changesNothing() {
			acked[o.Kind]++
		}
	}
	for _, kind := range kinds {
		out = append(out, proof{"acknowledged calls of the kind " + kind, acked[kind], 0})
	}
	return out
}

// CheckUnknown checks that a run knows enough: with too many writes of unknown
// outcome nearly any history passes.
func CheckUnknown(unknown, writes int) []Violation {
	const slack = 30
	if float64(unknown) <= maxUnknown*float64(writes)+slack {
		return nil
	}
	return []Violation{violation("unknown", "", "%d of %d writes have an unknown outcome: too many to say anything", unknown, writes)}
}

// capture reads everything from every node, as of the last write or later.
func (r *Run) capture(ops []*Op) []*NodeState {
	index, wait := uint64(0), readWhole
	for _, o := range ops {
		index = max(index, o.Index)
		if o.creates() {
			wait += perDocument
		}
	}
	var states []*NodeState
	for range captureTries {
		states = states[:0]
		for _, n := range r.nodes {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			s, err := readNode(ctx, r.admin, n, index)
			cancel()
			if err != nil {
				r.violate("durability", "", "%s can't be read: %v", n.ID, err)
				continue
			}
			states = append(states, s)
		}
		if len(CompareStates(states)) == 0 {
			break
		}
		r.note("the nodes differ, or a late write was applied; reading them again")
		time.Sleep(2 * time.Second)
	}
	return states
}

// readNode reads a node's whole state.
func readNode(ctx context.Context, c *client.Client, n *proctest.Node, index uint64) (*NodeState, error) {
	s := &NodeState{Node: n.ID, Documents: map[string]string{}, Listed: map[string]string{}, Collections: map[string]string{},
		created: map[string][]*Seen{}, queues: map[string][]string{}, seen: map[string]*Seen{}}
	opts := []client.ReadOption{client.OnEndpoint(n.URL), client.WithConsistency(client.AtIndex(index))}
	var collections []wire.Collection
	for cursor := ""; ; {
		page, meta, err := c.ListCollections(ctx, pageSize, cursor, opts...)
		if err != nil {
			return nil, err
		}
		s.Index = meta.Index
		collections = append(collections, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	for i, coll := range collections {
		if strings.HasPrefix(coll.Name, collLife) {
			s.seen[coll.Name] = seeCollection(&collections[i])
		}
		ids, err := s.list(ctx, c, coll, opts)
		if err != nil {
			return nil, err
		}
		if err := s.read(ctx, c, coll.Name, ids, opts); err != nil {
			return nil, err
		}
	}
	limits, meta, err := c.Limits(ctx, opts...)
	if err != nil {
		return nil, err
	}
	s.Documents[limitsKey] = asJSON(limits)
	s.limits = &Op{Kind: KindLimitsRead, Key: limitsKey, Level: "end", Node: n.ID, Outcome: OK, Index: meta.Index, Return: math.MaxInt64, Seen: seeLimits(limits)}
	return s, nil
}

// list pages through a collection, and compares its counters with what is there.
func (s *NodeState) list(ctx context.Context, c *client.Client, coll wire.Collection, opts []client.ReadOption) (ids []string, err error) {
	documents, snippets := uint64(0), uint64(0)
	for cursor := ""; ; {
		page, _, err := c.ListDocuments(ctx, coll.Name, client.ListQuery{Limit: pageSize, Cursor: cursor}, opts...)
		if err != nil {
			return nil, err
		}
		for _, d := range page.Items {
			s.Listed[coll.Name+"/"+d.ID] = asJSON(d)
			ids = append(ids, d.ID)
			documents, snippets = documents+1, snippets+uint64(d.SnippetCount)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	s.Collections[coll.Name] = asJSON(coll)
	if documents != coll.Documents || snippets != coll.Snippets {
		s.Collections[coll.Name] += fmt.Sprintf(" but %d documents with %d snippets are there on %s", documents, snippets, s.Node)
	}
	return ids, nil
}

// read gets documents whole, a few at a time.
func (s *NodeState) read(ctx context.Context, c *client.Client, coll string, ids []string, opts []client.ReadOption) error {
	var (
		mu    sync.Mutex // guards s and first
		first error
		wg    sync.WaitGroup
		next  = make(chan string)
	)
	opts = append(slices.Clone(opts), client.WithEmbeddings(client.AsBase64))
	for range 4 {
		wg.Go(func() {
			for id := range next {
				doc, _, err := c.GetDocument(ctx, coll, id, opts...)
				mu.Lock()
				if err == nil {
					s.add(coll, doc)
				} else if first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	for _, id := range ids {
		next <- id
	}
	close(next)
	wg.Wait()
	return first
}

func (s *NodeState) add(coll string, doc *wire.Document) {
	s.Documents[coll+"/"+doc.ID] = asJSON(doc)
	switch coll {
	case collCreates:
		s.created[doc.Title] = append(s.created[doc.Title], see(doc, coll, doc.ID))
	case collQueues:
		seen := seeQueue(doc)
		if seen.Damage != "" {
			seen.Parts = append(seen.Parts, seen.Damage)
		}
		s.queues[doc.ID] = seen.Parts
	default:
		s.seen[coll+"/"+doc.ID] = see(doc, coll, doc.ID)
	}
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// CompareStates checks that all nodes show the same.
func CompareStates(states []*NodeState) (found []Violation) {
	if len(states) == 0 {
		return []Violation{violation("equal_state", "", "no node could be read")}
	}
	first := states[0]
	for _, s := range states {
		for name, text := range s.Collections {
			if strings.Contains(text, " but ") {
				found = append(found, violation("equal_state", name, "%s", text))
			}
		}
	}
	for _, s := range states[1:] {
		for _, part := range []struct {
			what string
			a, b map[string]string
		}{{"collection", first.Collections, s.Collections}, {"listing", first.Listed, s.Listed}, {"document", first.Documents, s.Documents}} {
			keys := maps.Clone(part.a)
			maps.Copy(keys, part.b)
			for _, key := range slices.Sorted(maps.Keys(keys)) {
				if part.a[key] != part.b[key] {
					found = append(found, violation("equal_state", key, "%s has the %s %.300q, %s has %.300q", first.Node, part.what, part.a[key], s.Node, part.b[key]))
				}
			}
		}
	}
	return found
}

// checkEnd checks what is on each node against what was acknowledged.
func (r *Run) checkEnd(ops []*Op, states []*NodeState) {
	for _, s := range states {
		reads, found := s.reads(ops)
		r.found(found...)
		_, found = CheckPrefix("durability", ops, reads)
		r.figures.Durable += len(reads)
		r.figures.Lost += len(found)
		r.found(found...)
		_, found = CheckLimits(ops, []*Op{s.limits})
		r.found(found...)
		count, found := CheckCreates(ops, s.Node, s.created)
		r.figures.count(count)
		r.found(found...)
		for _, w := range r.load.workers {
			count, found := CheckQueue(ops, w.queue, s.Node, s.queues[w.queue])
			r.figures.count(count)
			r.found(found...)
		}
	}
	for _, w := range r.load.workers {
		if w.pending != nil {
			r.violate("progress", w.queue, "a write was not acknowledged in %v without faults: %s", settleWait, w.pending.ops[0].Error)
		}
	}
}

// placeOf is where a register, or a collection that has a life, is in
// NodeState.seen.
func placeOf(key string) string {
	if strings.HasPrefix(key, collLife) {
		return key
	}
	return collRegisters + "/" + key
}

// reads are reads of everything that a client ever wrote, and is not created or
// a queue, as the node shows it; what nobody wrote is a violation.
func (s *NodeState) reads(ops []*Op) (reads []*Op, found []Violation) {
	places := map[string]string{} // and the key under which the writes are recorded
	for _, o := range ops {
		switch o.Kind {
		case KindImport:
			places[collImports+"/"+o.Key] = o.Key
		case KindPairWrite:
			places[collPairs+"/"+o.Key+"-a"], places[collPairs+"/"+o.Key+"-b"] = o.Key, o.Key
		default:
			if isRegisterKind(o.Kind) {
				places[placeOf(o.Key)] = o.Key
			}
		}
	}
	for place, key := range places {
		reads = append(reads, &Op{Kind: KindRead, Key: key, Level: "end", Node: s.Node, Outcome: OK, Index: s.Index, Return: math.MaxInt64, Seen: s.seen[place]})
	}
	for place := range s.seen {
		if places[place] == "" {
			found = append(found, violation("durability", place, "nobody wrote it, and it is on %s", s.Node))
		}
	}
	return reads, found
}

// checkHistory runs the checkers of what the clients saw.
func (r *Run) checkHistory(ops []*Op, states []*NodeState) {
	f := &r.figures
	add := func(what string, n int, rate float64, found []Violation) {
		f.Checks = append(f.Checks, checkFigure{what, n, len(found)})
		f.proofs = append(f.proofs, proof{what, n, rate})
		r.found(found...)
	}
	n, found := CheckPrefix("prefix", ops, ops)
	add("reads that show the state of their index", n, 2, found)
	n, found = CheckFresh(ops, client.LevelLinearizable)
	add("linearizable reads that are new enough", n, 1, found)
	n, found = CheckFresh(ops, client.LevelBounded)
	add("bounded reads that are new enough", n, 0.2, found)
	n, found = CheckSessions(ops)
	add("session reads that do not go back", n, 0.2, found)
	n, found = CheckPairs(ops)
	add("reads of a batch's documents", n, 0.1, found)
	n, found = CheckQueueReads(ops)
	add("reads of queues", n, 0.1, found)
	n, found = CheckLimits(ops, ops)
	add("reads of the limits", n, 0, found)
	r.found(CheckAnswers(ops)...)
	// What is there at the end closes each document's history.
	all := ops
	if len(states) > 0 {
		now := r.history.Now()
		for key := range byRegister(ops) {
			all = append(all, &Op{ID: len(all), Client: -2, Kind: KindRead, Key: key, Level: client.LevelLinearizable,
				Call: now, Return: now, Outcome: OK, Seen: states[0].seen[placeOf(key)]})
		}
	}
	lin, found := CheckLinearizable(all, 2, r.o.Keep)
	f.Linear = lin
	add("documents whose histories are linearizable", lin.Keys, 0.5, found)
}

// gauge reads a value from a node's metrics.
func gauge(text []byte, name string) float64 {
	m := regexp.MustCompile(`(?m)^` + name + ` ([0-9.e+]+)$`).FindSubmatch(text)
	if m == nil {
		return -1
	}
	v, _ := strconv.ParseFloat(string(m[1]), 64)
	return v
}

// stopAll stops the nodes as an operator does, and looks at what they leave.
func (r *Run) stopAll() {
	for _, n := range r.nodes {
		if !n.Running() {
			continue // the run was given up
		}
		n.Stop()
		r.found(CheckDirectory(n.ID, n.Dir)...)
		r.compareLog(n)
		cmd := exec.Command(proctest.Binary(r.tb, "snipdb", r.tags...), "inspect", "--data-dir", n.Dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			r.violate("inspect", "", "%s: %v: %s", n.ID, err, out)
		}
	}
}

var (
	snapshotName = regexp.MustCompile(`^\d+-\d+-\d+$`)
	stateName    = regexp.MustCompile(`^(CURRENT_DB|db-\d+)$`)
)

// CheckDirectory looks for what is half-made, or should have been deleted, in
// the data directory of a node that was stopped.
func CheckDirectory(node, dir string) (found []Violation) {
	const checker = "directories"
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			found = append(found, violation(checker, "", "%s: %v", node, err))
			return nil
		}
		if name := d.Name(); strings.HasSuffix(name, ".tmp") || strings.HasPrefix(name, "restore-") {
			found = append(found, violation(checker, "", "%s left %s", node, path))
		}
		return nil
	})
	for folder, rule := range map[string]struct {
		name *regexp.Regexp
		dirs int
	}{"state": {stateName, 1}, "snapshots": {snapshotName, 1}} {
		dirs := 0
		entries, _ := filepath.Glob(filepath.Join(dir, folder, "*"))
		for _, entry := range entries {
			if name := filepath.Base(entry); !rule.name.MatchString(name) {
				found = append(found, violation(checker, "", "%s left %s", node, entry))
			} else if name != "CURRENT_DB" {
				dirs++
			}
		}
		if dirs > rule.dirs {
			found = append(found, violation(checker, "", "%s has %d directories in %s, and needs %d", node, dirs, folder, rule.dirs))
		}
	}
	return found
}

// readLogs counts what the nodes' logs say, and checks the leaders.
func (r *Run) readLogs(ops []*Op) {
	reigns := append(slices.Clone(r.reigns), reignsOfWrites(ops)...)
	for _, n := range append(slices.Clone(r.nodes), r.extra) {
		f := ReadLog(n.ID, n.Log())
		r.figures.Elections += f.Elections
		r.figures.Snapshots += f.Snapshots
		r.figures.Installs += f.Installs
		r.figures.StartupRestores += f.StartupRestores
		reigns = append(reigns, f.Reigns...)
		for _, line := range f.Errors {
			r.figures.Errors = append(r.figures.Errors, n.ID+": "+line)
		}
		for _, line := range f.Alarms {
			r.violate("log", "", "%s: %s", n.ID, line)
		}
	}
	slices.SortFunc(reigns, func(a, b Reign) int { return cmp.Compare(a.Term, b.Term) })
	terms, found := CheckTerms(reigns)
	r.figures.Terms = terms
	r.found(found...)
}
