package fsm

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage/snippet"
)

// smallRules make the limits reachable for random commands.
func smallRules() rules {
	r := formatRules()
	r.retentionMs, r.maxRows, r.maxMoved, r.maxSnippets, r.maxColls, r.maxOwnerDocs = 4000, 3, 40, 4, 2, 2
	return r
}

// between draws a number of the range, all equally likely. rapid's own ranges
// and samples prefer their first values, and most logs would be of one entry.
func between(t *rapid.T, label string, low, high int) int {
	n := 0
	for range 10 {
		n <<= 1
		if rapid.Bool().Draw(t, label) {
			n++
		}
	}
	return low + n%(high-low+1)
}

// pick draws one of the options.
func pick[T any](t *rapid.T, label string, options []T) T {
	return options[between(t, label, 0, len(options)-1)]
}

// genSnippet, genMutation, genCommand and genLog make random input over a
// small world, so that commands meet each other.
func genSnippet(t *rapid.T) *command.SnippetInput {
	s := text(pick(t, "content", []string{"", "x", "y", "text of 20 characters"}))
	s.Vector, s.Model = genVector(t), pick(t, "model", []string{"", "m", "n"})
	return s
}

func genVector(t *rapid.T) []byte {
	return vector(pick(t, "dimension", []int{0, 0, 0, 2, 2, 3}))
}

func genMetric(t *rapid.T) string {
	return pick(t, "metric", []string{"cosine", "cosine", "cosine", "dot"})
}

// verbs are drawn from evenly: what builds stands here more often than what
// destroys, so that most commands find something.
var verbs = []string{
	"put", "put", "put", "put", "put", "put", "patch", "patch", "delete", "putsnip", "putsnip", "putsnip", "putsnip",
	"patchsnip", "patchsnip", "delsnip", "delsnip", "embed", "embed", "embed", "owner", "putcoll",
	"put", "put", "putsnip", "patchsnip", "delsnip", "delsnip", "delsnip", "embed", "delcoll",
}

func genMutation(t *rapid.T, last uint64) *command.Mutation {
	id := pick(t, "id", []string{"d1", "d2", "d3"})
	index := uint32(between(t, "index", 0, 4))
	var m *command.Mutation
	switch pick(t, "verb", verbs) {
	case "put":
		m = putDoc(id)
		p := m.GetPutDocument()
		for range pick(t, "snippets", []int{0, 1, 2, 3, 3, 4, 5}) {
			p.Snippets = append(p.Snippets, genSnippet(t))
		}
		p.Title = pick(t, "title", []string{"", "T"})
		p.Metadata = pick(t, "metadata", [][]byte{nil, []byte(`{"a":1}`), []byte(`{"a":"x","b":true}`)})
		p.Metric = genMetric(t)
		if o := pick(t, "owner", []string{"", "", "o1", "o2"}); o != "" {
			p.Owner = &command.Owner{Type: "agent", Id: o}
		}
	case "patch":
		m = patchDoc(id, pick(t, "title", []string{"", "U"}), pick(t, "patch", []string{"", `{"a":null}`, `{"c":[1]}`}))
	case "delete":
		m = deleteDoc(id)
	case "putsnip":
		m = withMetric(genMetric(t), putSnip(id, index, genSnippet(t)))
	case "patchsnip":
		p := &command.PatchSnippet{Id: id, Index: index, Vector: genVector(t)}
		if rapid.Bool().Draw(t, "with content") {
			p.Content = proto.String(pick(t, "content", []string{"", "x", "z"}))
		}
		if rapid.Bool().Draw(t, "with model") {
			p.Model = proto.String("p")
		}
		m = withMetric(genMetric(t), patchSnip(p))
	case "delsnip":
		m = deleteSnip(id, index)
	case "embed":
		m = withMetric(genMetric(t), embed(id, pick(t, "dimension", []int{2, 2, 3}), rapid.SliceOfN(rapid.Uint32Range(0, 3), 0, 3).Draw(t, "indexes")...))
	case "owner":
		return in(genColl(t), deleteOwner(pick(t, "owner", []string{"o1", "o2"})))
	case "putcoll":
		p := &command.PutCollection{}
		if rapid.Bool().Draw(t, "with dimension") {
			p.Dimension = proto.Uint32(pick(t, "dimension", []uint32{0, 2, 3}))
		}
		if rapid.Bool().Draw(t, "with metric") {
			p.Metric = proto.String(genMetric(t))
		}
		m = putColl(p)
	case "delcoll":
		m = deleteColl()
	}
	switch between(t, "condition", 0, 14) {
	case 0:
		m.Condition = ifAbsent
	case 1:
		m.Condition = ifPresent
	case 2:
		m.Condition = ifRevision(uint64(between(t, "revision", 1, int(max(last, 1)))))
	}
	return in(genColl(t), m)
}

func genColl(t *rapid.T) string {
	return pick(t, "collection", []string{"c", "c", "c", "c", "c", "c", "c", "other", "other", "third"})
}

func genCommand(t *rapid.T, last uint64, ms int64) *command.Command {
	var c *command.Command
	switch between(t, "kind", 0, 11) {
	case 0:
		c = pick(t, "system", []func() *command.Command{
			tick, func() *command.Command { return initCluster("cluster-1") }, func() *command.Command { return initCluster("cluster-2") },
			func() *command.Command { return setMember("n1", "h:1") }, func() *command.Command { return setMember("n2", "h:2") },
			func() *command.Command { return removeMember("n1") },
		})()
	case 1, 2:
		var list []*command.Mutation
		for range between(t, "mutations", 0, 4) {
			list = append(list, genMutation(t, last))
		}
		c = batchOf(list...)
	default:
		c = mutation(genMutation(t, last))
	}
	c.ProposedMs = ms
	if between(t, "keyed", 0, 2) == 0 {
		keyed(pick(t, "key", []string{"k1", "k2", "k3", "k4", "k5"}), pick(t, "request", []string{"r", "r", "r", "s"}), c)
	}
	return c
}

// plan is a log with the commands that are in it.
type plan struct {
	logs     []*raft.Log
	commands [][]*command.Command // nil for Raft's own entries
}

func genPlan(t *rapid.T, tb testing.TB) plan {
	var p plan
	index, term, ms := uint64(1), uint64(1), t0
	first := []*command.Command{mutation(putDoc("d1", text("x"), text("y"), text("z"))), mutation(ownedDoc("d2", "o1", embedded("x", 2), text("y")))}
	p.logs, p.commands = append(p.logs, logOf(index, term, entryOf(tb, first...))), append(p.commands, first)
	for range between(t, "entries", 1, 80) {
		index += uint64(pick(t, "step", []int{1, 1, 1, 1, 2}))
		if between(t, "election", 0, 7) == 0 {
			term++
		}
		if between(t, "configuration", 0, 9) == 0 {
			p.logs = append(p.logs, &raft.Log{Index: index, Term: term, Type: raft.LogConfiguration})
			p.commands = append(p.commands, nil)
			continue
		}
		var commands []*command.Command
		for range between(t, "commands", 1, 4) {
			ms += int64(pick(t, "time", []int{0, 1, 500, -300, 2 * MaxClockJumpMs}))
			commands = append(commands, genCommand(t, index, ms))
		}
		p.logs = append(p.logs, logOf(index, term, entryOf(tb, commands...)))
		p.commands = append(p.commands, commands)
	}
	return p
}

// TestSameLogSameState is the property that everything rests on: however the
// log is cut into slices, whatever is delivered twice, and wherever there are
// restarts, snapshots and restores in between, the visible state is the same
// to the byte, and each command has the same result.
func TestSameLogSameState(t *testing.T) {
	shared := sharedFor(t)
	defer shared.Close()
	root, run := t.TempDir(), 0
	seen := map[command.Outcome]int{}
	rapid.Check(t, func(rt *rapid.T) {
		run++
		dir := filepath.Join(root, strconv.Itoa(run))
		defer os.RemoveAll(dir)
		p := genPlan(rt, t)
		plain := &machine{tb: t, dir: filepath.Join(dir, "plain"), rules: smallRules(), shared: shared}
		plain.open()
		defer plain.close()
		wild := &wildMachine{machine: &machine{tb: t, rules: smallRules(), shared: shared}, dir: dir, rt: rt}
		wild.rules.batchBytes = pick(rt, "bytes of a commit", []int{1, 300, maxBatchBytes})
		wild.fresh()
		defer func() { wild.close() }()

		state := newModel()
		results := make([][]*command.Result, len(p.logs))
		for i, l := range p.logs {
			answer := plain.f.Apply(l)
			if p.commands[i] == nil {
				continue
			}
			results[i] = answer.([]*command.Result)
			for j, want := range state.apply(l.Index, l.Term, plain.rules, p.commands[i]) {
				r := results[i][j]
				seen[r.GetOutcome()]++
				if r.GetOutcome() != want.outcome || r.GetReplayed() != want.replayed || r.GetIndex() != want.index {
					rt.Fatalf("entry %d command %d: %s\nthe model says %s, replayed %t, index %d", l.Index, j, show(r), want.outcome, want.replayed, want.index)
				}
			}
		}
		wild.deliver(p, results)
		if plain.fatal != nil || wild.fatal != nil {
			rt.Fatalf("Fatal: %v, %v", plain.fatal, wild.fatal)
		}
		if a, b := plain.dump(), wild.dump(); a != b {
			rt.Fatalf("the states differ:\n%s\n%s", a, b)
		}
		plainNow, points := plain.verified()
		if wildNow, wildPoints := wild.verified(); wildNow != plainNow || !slices.Equal(points, wildPoints) {
			rt.Fatalf("the state hashes differ: %v with %v, and %v with %v", plainNow, points, wildNow, wildPoints)
		}
		pa, ta := plain.f.Applied()
		if wa, wt := wild.f.Applied(); wa != pa || wt != ta || pa != p.logs[len(p.logs)-1].Index {
			rt.Fatalf("positions %d/%d and %d/%d", pa, ta, wa, wt)
		}
		if diff := state.compare(wild.machine); diff != "" {
			rt.Fatalf("the state is not the model's: %s", diff)
		}
	})
	t.Logf("%d logs, outcomes %v", run, seen)
}

// wildMachine is a machine to which everything happens that may happen.
type wildMachine struct {
	*machine
	dir  string
	rt   *rapid.T
	made int
}

// fresh opens an empty machine in a new directory.
func (w *wildMachine) fresh() {
	w.made++
	w.machine.dir = filepath.Join(w.dir, fmt.Sprint("wild", w.made))
	w.open()
}

// deliver hands the log over in random slices with random events between them,
// and compares the results with those of the plain machine.
func (w *wildMachine) deliver(p plan, results [][]*command.Result) {
	for from := 0; from < len(p.logs); {
		to := from + between(w.rt, "slice", 1, 8)
		to = min(to, len(p.logs))
		for i, answer := range w.f.ApplyBatch(p.logs[from:to]) {
			if results[from+i] == nil {
				if answer != nil {
					w.rt.Fatalf("entry %d has the answer %v", p.logs[from+i].Index, answer)
				}
				continue
			}
			if answer == nil { // skipped: it was applied before
				if i, _ := w.f.Applied(); p.logs[from].Index > i {
					w.rt.Fatalf("entry %d was skipped", p.logs[from].Index)
				}
				continue
			}
			for j, r := range answer.([]*command.Result) {
				if !proto.Equal(r, results[from+i][j]) {
					w.rt.Fatalf("entry %d command %d: %s\nand %s", p.logs[from+i].Index, j, show(r), show(results[from+i][j]))
				}
			}
		}
		if w.fatal != nil {
			w.rt.Fatalf("Fatal: %v", w.fatal)
		}
		from = w.event(p, to)
	}
}

// event may disturb the machine; it returns from where the log goes on.
func (w *wildMachine) event(p plan, next int) int {
	back := between(w.rt, "delivered again", 0, 5)
	switch between(w.rt, "event", 0, 9) {
	case 0: // a restart, after which Raft replays from its last snapshot
		w.restart()
		return max(0, next-back)
	case 1: // a snapshot that is restored on the same node
		if !w.caughtUp() {
			return next
		}
		if err := w.restoreOwn(w.snapshot()); err != nil {
			w.rt.Fatalf("restore: %v", err)
		}
	case 2: // a new node that gets a snapshot and goes on
		if !w.caughtUp() {
			return next
		}
		old := *w.machine
		id := old.snapshot()
		w.fresh()
		err := w.receive(&old, id)
		old.close()
		if err != nil {
			w.rt.Fatalf("receive: %v", err)
		}
	case 3: // the slice again, without a restart
		return max(0, next-back)
	}
	return next
}

// caughtUp says whether a snapshot may be taken.
func (w *wildMachine) caughtUp() bool {
	at, _ := w.f.Applied()
	return at > 0 && w.f.delivered >= at
}

// compare reads the state as a client does and compares it with the model;
// "" if it is the same.
func (m *model) compare(x *machine) string {
	v, err := x.store.View()
	if err != nil {
		return err.Error()
	}
	defer v.Close()
	colls, err := v.Collections("", snippet.MaxPage)
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, c := range colls {
		names = append(names, c.Name)
		if diff := m.compareColl(x, c); diff != "" {
			return fmt.Sprintf("collection %q: %s", c.Name, diff)
		}
	}
	if want := slices.Sorted(maps.Keys(m.Colls)); !slices.Equal(names, want) {
		return fmt.Sprintf("collections %v, want %v", names, want)
	}
	members := map[string]string{}
	for _, n := range x.f.Members() {
		members[n.GetNodeId()] = n.GetRaftAddr()
	}
	if !maps.Equal(members, m.Members) || x.f.ClusterID() != m.Cluster || x.f.ClockMs() != m.Clock || x.f.TickTerm() != m.TickT {
		return fmt.Sprintf("members %v, cluster %q, clock %d, tick %d; want %v, %q, %d, %d", members, x.f.ClusterID(), x.f.ClockMs(), x.f.TickTerm(), m.Members, m.Cluster, m.Clock, m.TickT)
	}
	for key := range m.Keys {
		if row := rowOf(x, key); row == nil {
			return fmt.Sprintf("no idempotency row of key %q", key)
		}
	}
	return ""
}

func rowOf(x *machine, key string) []byte {
	db, release := x.store.DB()
	defer release()
	b := db.NewBatch()
	defer b.Destroy()
	row, err := b.Idempotency(keyHash(key))
	if err != nil {
		x.tb.Fatal(err)
	}
	return row
}

func (m *model) compareColl(x *machine, c snippet.Collection) string {
	want := m.Colls[c.Name]
	if want == nil {
		return "should not exist"
	}
	v, err := x.store.View()
	if err != nil {
		return err.Error()
	}
	defer v.Close()
	page, err := v.Documents(context.Background(), c.ID, snippet.ListQuery{Order: snippet.ByID, Limit: snippet.MaxPage})
	if err != nil {
		return err.Error()
	}
	var snippets, vectors uint64
	got := map[string]*modelDoc{}
	for _, d := range page.Documents {
		g := &modelDoc{Owner: d.Owner.ID, Title: d.Title, Meta: jsonOf(d.Metadata), Created: d.CreatedMs, Updated: d.UpdatedMs, Rev: d.Revision}
		list, err := v.Snippets(context.Background(), c.ID, &d, 0, d.SnippetCount, true)
		if err != nil {
			return err.Error()
		}
		embedded := 0
		for _, s := range list {
			g.Snippets = append(g.Snippets, modelSnippet{Content: s.Content, Vector: s.Vector.Dimension(), Model: s.Model, Rev: s.Revision})
			embedded += min(s.Vector.Dimension(), 1)
		}
		if d.SnippetCount != len(list) || d.EmbeddedCount != embedded {
			return fmt.Sprintf("document %q counts %d and %d, has %d and %d", d.ID, d.SnippetCount, d.EmbeddedCount, len(list), embedded)
		}
		snippets += uint64(len(list))
		vectors += uint64(embedded)
		got[d.ID] = g
	}
	if g, w := canonical(got), canonical(want.Docs); g != w {
		return fmt.Sprintf("documents\n%s\nwant\n%s", g, w)
	}
	if c.Dimension != want.Dim || string(c.Metric) != want.Metric || c.Revision != want.Rev {
		return fmt.Sprintf("%+v, want %+v", c, *want)
	}
	counts := []uint64{c.Documents, c.Snippets, c.Embedded}
	if have := []uint64{uint64(len(got)), snippets, vectors}; !reflect.DeepEqual(counts, have) {
		return fmt.Sprintf("counters %v, it holds %v", counts, have)
	}
	return ""
}

// canonical is documents as text; an empty list is the same as none.
func canonical(docs map[string]*modelDoc) string {
	for _, d := range docs {
		if len(d.Meta) == 0 {
			d.Meta = nil
		}
		if len(d.Snippets) == 0 {
			d.Snippets = nil
		}
	}
	b, err := json.MarshalIndent(docs, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}
