package bench

import (
	"context"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func workflows() Workflows {
	return Workflows{
		Load: Load{Workers: 8, Jobs: 40}, Snippets: 3, SnippetBytes: 100, Dimension: 8,
		Seed: 7, Verify: VerifyAll, VerifyWait: 2 * time.Second,
	}
}

func TestWorkflowsOnAGoodCluster(t *testing.T) {
	n := newNode(t)
	// The first write of every fifth document. To refuse every fifth write of all
	// would, by chance, refuse one document until its client gives up.
	refused := map[string]bool{}
	n.refuse = func(id string, _ int) int {
		if last := id[len(id)-1]; (last == '0' || last == '5') && !refused[id] {
			refused[id] = true
			return 503
		}
		return 0
	}
	result, err := workflows().Run(t.Context(), n.env(t))
	if err != nil {
		t.Fatal(err)
	}
	if !result.OK() || result.Completed != 40 || result.Failed != 0 || result.Create.Count != 40 || result.Embed.Count != 40 {
		t.Errorf("got %+v", result)
	}
	if result.Unavailable != int64(len(refused)) || len(refused) == 0 {
		t.Errorf("counted %d refusals, there were %d", result.Unavailable, len(refused))
	}
	v := result.Verification
	if len(v.Nodes) != 1 || v.Nodes[0].Documents != 40 || v.Index == 0 {
		t.Errorf("verification %+v", v)
	}
}

func TestWorkflowsThatFailAreCounted(t *testing.T) {
	n := newNode(t)
	n.refuse = func(id string, _ int) int {
		if strings.HasSuffix(id, "-0000003") {
			return 422
		}
		return 0
	}
	result, err := workflows().Run(t.Context(), n.env(t))
	if err != nil {
		t.Fatal(err)
	}
	if result.OK() || result.Failed != 1 || result.Completed != 39 || len(result.Examples) != 1 || result.Errors["422 invalid_field"] != 1 {
		t.Errorf("got %+v", result)
	}
	if !result.Verification.OK {
		t.Errorf("what was acknowledged is there: %+v", result.Verification)
	}
}

// Each fault of a node must be seen by the verification.
func TestVerificationSeesEveryFault(t *testing.T) {
	third := func(change func(*wire.Document)) func(*node) {
		return func(n *node) {
			n.spoilDoc = func(d *wire.Document) {
				if strings.HasSuffix(d.ID, "-0000003") {
					change(d)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		spoil                              func(*node)
		lost, wrong, duplicated, unknownIs int64
	}{
		"a lost document":    {spoil: third(func(d *wire.Document) { d.ID = "" }), lost: 1},
		"a changed text":     {spoil: third(func(d *wire.Document) { d.Snippets[1].Content += "x" }), wrong: 1},
		"a changed hash":     {spoil: third(func(d *wire.Document) { d.Snippets[1].ContentHash = "00" }), wrong: 1},
		"a lost snippet":     {spoil: third(func(d *wire.Document) { d.Snippets = d.Snippets[:2] }), wrong: 1},
		"snippets swapped":   {spoil: third(func(d *wire.Document) { d.Snippets[0], d.Snippets[1] = d.Snippets[1], d.Snippets[0] }), wrong: 1},
		"a lost embedding":   {spoil: third(func(d *wire.Document) { d.Snippets[2].Embedded = false }), wrong: 1},
		"a foreign vector":   {spoil: third(func(d *wire.Document) { d.Snippets[2].VectorBase64 = d.Snippets[1].VectorBase64 }), wrong: 1},
		"another revision":   {spoil: third(func(d *wire.Document) { d.Revision++ }), wrong: 1},
		"missing in listing": {spoil: func(n *node) { n.spoilList = func(l *wire.DocumentList) { l.Items = l.Items[1:] } }, lost: 1},
		"twice in listing": {spoil: func(n *node) {
			n.spoilList = func(l *wire.DocumentList) { l.Items = append(l.Items, l.Items[0]) }
		}, duplicated: 1},
		"unknown in listing": {spoil: func(n *node) {
			n.spoilList = func(l *wire.DocumentList) { l.Items = append(l.Items, wire.Document{ID: "other"}) }
		}, unknownIs: 1},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.spoil(n)
			result, err := workflows().Run(t.Context(), n.env(t))
			if err != nil {
				t.Fatal(err)
			}
			got := result.Verification.Nodes[0]
			if result.OK() || result.Verification.OK || len(got.Examples) == 0 {
				t.Errorf("the fault was not seen: %+v", got)
			}
			if got.Lost != c.lost || got.Wrong != c.wrong || got.Duplicated != c.duplicated || got.Unknown != c.unknownIs {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// Only a node that does not answer may be left out, and never all of them.
func TestVerificationOfReachableNodes(t *testing.T) {
	nobody := httptest.NewServer(nil)
	dead := wire.Member{ID: "n2", HTTPAddr: nobody.URL}
	nobody.Close()
	for name, c := range map[string]struct {
		scope    VerifyScope
		spoil    func(*node)
		ok       bool
		verified int
		skipped  string // the nodes that are left out
	}{
		"one is dead":               {scope: VerifyReachable, spoil: func(n *node) { n.others = []wire.Member{dead} }, ok: true, verified: 1, skipped: "n2 "},
		"one is dead, all wanted":   {scope: VerifyAll, spoil: func(n *node) { n.others = []wire.Member{dead} }, verified: 1},
		"one answers and is behind": {scope: VerifyReachable, spoil: func(n *node) { n.behind = true }},
		"nobody answers":            {scope: VerifyReachable, spoil: func(n *node) { n.memberAt = dead.HTTPAddr }, skipped: "n1 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			c.spoil(n)
			w := workflows()
			w.Verify, w.VerifyWait, w.Jobs = c.scope, 3*time.Second, 5
			result, err := w.Run(t.Context(), n.env(t))
			if err != nil {
				t.Fatal(err)
			}
			v, skipped := result.Verification, ""
			for _, n := range v.Nodes {
				if n.Skipped != "" {
					skipped += n.ID + " "
				}
			}
			if result.OK() != c.ok || v.OK != c.ok || v.Verified != c.verified || skipped != c.skipped {
				t.Errorf("got %+v", v)
			}
		})
	}
}

// A wait that is too short says nothing about the nodes, and is no success.
func TestVerificationWithoutTimeIsNoSuccess(t *testing.T) {
	w := workflows()
	w.Verify, w.VerifyWait = VerifyReachable, time.Nanosecond
	result, err := w.Run(t.Context(), newNode(t).env(t))
	if err != nil {
		t.Fatal(err)
	}
	if v := result.Verification; result.OK() || v.Verified != 0 || v.Nodes[0].Skipped != "" {
		t.Errorf("got %+v", v)
	}
}

func TestKV(t *testing.T) {
	n := newNode(t)
	k := KV{Load: Load{Workers: 4, Jobs: 200}, WriteShare: 0.5, Keys: 20, ValueBytes: 64, Consistency: client.AtIndex(0)}
	result, err := k.Run(t.Context(), n.env(t))
	if err != nil {
		t.Fatal(err)
	}
	if !result.OK() || result.Put.Count+result.Get.Count != 200 || result.Put.Count == 0 || result.Nodes["n1"].Count != result.Get.Count {
		t.Errorf("got %+v", result)
	}
}

func TestOverload(t *testing.T) {
	n := newNode(t)
	n.refuse = func(_ string, write int) int {
		if write%10 == 9 {
			return 503
		}
		return 0
	}
	o := Overload{
		PeakClients: []int{1, 2}, PeakTime: 100 * time.Millisecond, Factor: 2, Time: 300 * time.Millisecond, Clients: 16,
		Settle: 300 * time.Millisecond, Timeout: 5 * time.Second, ValueBytes: 64, Keys: 10,
	}
	result, err := o.Run(t.Context(), n.env(t))
	if err != nil {
		t.Fatal(err)
	}
	if result.Peak == 0 || result.Goodput == 0 || result.Other != 0 || result.Refused["503 overloaded"] == 0 {
		t.Errorf("got %+v", result)
	}
	// This node refuses for ever and without a Retry-After above 0: that is seen.
	if result.Recovered || result.WithoutRetryAfter == 0 || len(result.Misses(0.01, time.Second)) != 2 {
		t.Errorf("got %+v, misses %v", result, result.Misses(0.01, time.Second))
	}
	if len(result.Memory) != 1 || result.Memory[0].Before != 1<<20 {
		t.Errorf("memory %+v", result.Memory)
	}
	for key, times := range n.keys {
		if times > 1 {
			t.Errorf("%d writes under the key %q: a node does the first, and answers the others from its row", times, key)
		}
	}
}

func TestASenderKeepsTheNodesThatItKnows(t *testing.T) {
	var looks int
	found := []string{"a:1"}
	s := newSender(1, 1, time.Second, nil, func(context.Context) []string { looks++; return found })
	where := func(force bool) string { host, _ := s.where(t.Context(), 0, force); return host }
	if where(false) != "a:1" || where(true) != "a:1" || looks != 1 {
		t.Errorf("looked %d times at once, want 1", looks)
	}
	found, s.looked = nil, time.Time{}
	for range 2 {
		if host := where(true); host != "a:1" || looks != 2 {
			t.Errorf("looked %d times, want 2; the node is %q", looks, host)
		}
	}
	none := newSender(1, 1, time.Second, nil, func(context.Context) []string { looks++; return nil })
	for range 3 {
		if _, err := none.where(t.Context(), 0, false); err == nil {
			t.Error("a node was found where there is none")
		}
	}
	if looks != 3 {
		t.Errorf("nobody is there, and it looked %d times at once, want 1", looks-2)
	}
}

// A server that stops for a while must be seen by all jobs that were due in
// that time, not only by those that were under way.
func TestOpenLoopCountsFromTheDueTime(t *testing.T) {
	var once sync.Once
	rec := NewRecorder()
	const pause = 400 * time.Millisecond
	load := Load{Workers: 2, Jobs: 200, Rate: 400}
	starts, _ := load.Run(t.Context(), func(ctx context.Context, _ int, n int64, due time.Time) {
		if n >= 20 {
			once.Do(func() { sleep(ctx, pause) })
		}
		if n == 21 { // the other worker is held as well
			sleep(ctx, pause)
		}
		rec.Done(time.Since(due))
	}, nil)
	s := rec.Summary(time.Second)
	if starts != (Starts{Due: 200, Started: 200}) || s.Count != 200 {
		t.Fatalf("got %+v, recorded %d", starts, s.Count)
	}
	// The two that were held are 1 % of all; counted from their due time about
	// 160 jobs were late.
	if s.P50 < 10 {
		t.Errorf("p50 is %.1f ms: the wait was omitted", s.P50)
	}
}

func TestLoadIsBounded(t *testing.T) {
	t.Run("by count", func(t *testing.T) {
		var n atomic.Int64
		starts, _ := Load{Workers: 7, Jobs: 100}.Run(t.Context(), func(context.Context, int, int64, time.Time) { n.Add(1) }, nil)
		if starts != (Starts{Due: 100, Started: 100}) || n.Load() != 100 {
			t.Errorf("got %+v, ran %d", starts, n.Load())
		}
	})
	t.Run("by time", func(t *testing.T) {
		_, took := Load{Workers: 3, Duration: 50 * time.Millisecond}.Run(t.Context(), func(ctx context.Context, _ int, _ int64, _ time.Time) { sleep(ctx, time.Millisecond) }, nil)
		if took < 50*time.Millisecond || took > 5*time.Second {
			t.Errorf("took %s", took)
		}
	})
	t.Run("by the context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		starts, _ := Load{Workers: 1, Rate: 10, Jobs: 1000}.Run(ctx, func(context.Context, int, int64, time.Time) { cancel() }, nil)
		if starts.Started != 1 {
			t.Errorf("got %+v", starts)
		}
	})
}

func TestDataIsAFunctionOfItsNumbers(t *testing.T) {
	first, again := Text(1, 2, 3, 500), Text(1, 2, 3, 500)
	if first != again || len(first) != 500 {
		t.Error("the text changes")
	}
	if Text(1, 2, 3, 50) == Text(1, 2, 4, 50) || Text(1, 2, 3, 50) == Text(1, 3, 3, 50) || Text(1, 2, 3, 50) == Text(2, 2, 3, 50) {
		t.Error("two texts are the same")
	}
	v := Vector(1, 2, 3, 64)
	if err := v.Validate(); err != nil || !sameVector(v, v.Normalize()) || sameVector(v, Vector(1, 2, 4, 64)) {
		t.Errorf("vector: %v", err)
	}
}
