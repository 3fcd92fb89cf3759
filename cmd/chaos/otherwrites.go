package chaos

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// other is a document that is no register: what it is called, and under which
// key its writes are recorded.
type other struct{ coll, id, key string }

// maxOthers is how many of the newest of them are read.
const maxOthers = 256

// remember lets the clients read a document that one of them has written.
func (w *Workload) remember(o other) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.remembered++; len(w.others) < maxOthers {
		w.others = append(w.others, o)
	} else {
		w.others[w.remembered%maxOthers] = o
	}
}

// other chooses a document to be read: one that was created or imported, or
// half of a pair.
func (w *worker) other() other {
	w.load.mu.Lock()
	defer w.load.mu.Unlock()
	if len(w.load.others) == 0 || w.rng.IntN(3) == 0 {
		pair := w.load.workers[w.rng.IntN(len(w.load.workers))].pair
		return other{collPairs, pair + []string{"-a", "-b"}[w.rng.IntN(2)], pair}
	}
	return w.load.others[w.rng.IntN(len(w.load.others))]
}

// level chooses how fresh a read must be, and records it.
func (w *worker) level(o *Op) []client.ReadOption {
	level := []client.Consistency{
		client.Local(), client.Linearizable(), client.Bounded(boundMs * time.Millisecond), {Level: client.LevelSession},
	}[w.rng.IntN(4)]
	o.Level, o.BoundMs = level.Level, level.MaxStaleness.Milliseconds()
	opts := []client.ReadOption{client.OnEndpoint(w.endpoint())}
	if level.Level != client.LevelSession {
		opts = append(opts, client.WithConsistency(level))
	}
	return opts
}

// look does a read of any kind; do returns what it has seen.
func (w *worker) look(o *Op, do func(ctx context.Context, opts []client.ReadOption) (*Seen, client.Meta, error)) {
	opts := w.level(o)
	ctx, cancel := context.WithTimeout(context.Background(), readWait)
	defer cancel()
	seen, meta, err := do(ctx, opts)
	if err == nil {
		o.Seen = seen
	}
	w.finish(meta, err, o)
}

// readOther reads a whole document that is no register.
func (w *worker) readOther() {
	which := w.other()
	w.look(w.begin(KindReadOther, which.key), func(ctx context.Context, opts []client.ReadOption) (*Seen, client.Meta, error) {
		doc, meta, err := w.session.GetDocument(ctx, which.coll, which.id, opts...)
		if err != nil {
			return nil, meta, err
		}
		return see(doc, which.coll, which.id), meta, nil
	})
}

// readQueue reads some client's queue.
func (w *worker) readQueue() {
	queue := w.load.workers[w.rng.IntN(len(w.load.workers))].queue
	w.look(w.begin(KindQueueRead, queue), func(ctx context.Context, opts []client.ReadOption) (*Seen, client.Meta, error) {
		doc, meta, err := w.session.GetDocument(ctx, collQueues, queue, opts...)
		if err != nil {
			return nil, meta, err
		}
		return seeQueue(doc), meta, nil
	})
}

// removeOwner deletes a register by its owner.
func (w *worker) removeOwner() {
	o := w.register(KindDeleteOwner, false)
	w.deleteOwner(o, collRegisters, wire.Owner{Type: ownerRegister, ID: o.Key})
}

// pairRemove deletes both documents of this client's pair.
func (w *worker) pairRemove() {
	o := w.begin(KindPairDelete, w.pair)
	w.deleteOwner(o, collPairs, wire.Owner{Type: ownerPair, ID: w.pair})
}

func (w *worker) deleteOwner(o *Op, coll string, owner wire.Owner) {
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		result, meta, err := w.session.DeleteOwner(ctx, coll, owner, opts...)
		if err == nil {
			o.Deleted = result.Deleted
		}
		return meta, err
	})
}

// mixedBatch puts one document and changes or deletes another: both, or none.
func (w *worker) mixedBatch() {
	kinds := map[string]string{KindPatch: wire.OpPatchDoc, KindDelete: wire.OpDeleteDoc, KindPatchSnippet: wire.OpPatchSnippet, KindPutSnippet: wire.OpPutSnippet}
	kind := []string{KindPatch, KindDelete, KindPatchSnippet, KindPutSnippet}[w.rng.IntN(4)]
	a, b := w.register(KindPut, false), w.register(kind, w.rng.IntN(3) == 0)
	if a.Key == b.Key {
		a.Key = fmt.Sprintf("%s-b", a.Key)
	}
	b.Call = a.Call
	put, changed, text, zero := registerOf(a.Token, a.Key), documentOf(b.Token), textOf(b.Token), 0
	second := wire.Operation{Op: kinds[kind], ID: b.Key, IfRevision: b.IfMatch}
	switch kind {
	case KindPatch:
		second.Patch = &wire.DocumentPatch{Title: &changed.Title, Metadata: changed.Metadata}
	case KindPatchSnippet:
		second.Index, second.SnipPatch = &zero, &wire.SnippetPatch{Content: &text}
	case KindPutSnippet:
		second.Index, second.Snippet = &zero, &wire.SnippetInput{Content: text}
	}
	ctx, cancel, opts := w.mode(a)
	defer cancel()
	b.Keyed = a.Keyed
	results, meta, err := w.session.Batch(ctx, collRegisters, []wire.Operation{{Op: wire.OpPutDoc, ID: a.Key, Doc: &put}, second}, opts...)
	w.finishBatch(meta, err, func() {
		if len(results.Results) == 2 {
			a.Created = results.Results[0].Status == 201
		}
	}, a, b)
}

// turn takes the first snippet of the queue away and appends one, in one batch.
func (w *worker) turn(q *queueCall, add func(kind, token string), token string) {
	first, last, one := 0, w.length-1, wire.SnippetInput{Content: textOf(token)}
	add(KindPop, "")
	add(KindAppend, token)
	q.do = func(ctx context.Context, opts ...client.WriteOption) (client.Meta, error) {
		_, meta, err := w.session.Batch(ctx, collQueues, []wire.Operation{
			{Op: wire.OpDeleteSnippet, ID: w.queue, Index: &first},
			{Op: wire.OpPutSnippet, ID: w.queue, Index: &last, Snippet: &one},
		}, opts...)
		return meta, err
	}
}

// importDocuments imports some documents; now and then one comes twice, and the
// later line wins. It is through any node, or the leader.
func (w *worker) importDocuments() {
	var (
		ops  []*Op
		docs []wire.DocumentInput
	)
	for range 2 + w.rng.IntN(4) {
		o := w.begin(KindImport, "")
		o.Token = w.token()
		o.Key = o.Token
		if len(ops) > 0 && w.rng.IntN(5) == 0 {
			o.Key = ops[len(ops)-1].Key
		}
		doc := documentOf(o.Token)
		doc.ID = o.Key
		ops, docs = append(ops, o), append(docs, doc)
	}
	opts := client.ImportOptions{OnResult: func(res wire.ImportResult) error {
		o := ops[res.Line-1]
		o.Return, o.Index, o.Code, o.Status, o.Outcome = w.load.history.Now(), res.Revision, res.Code, res.Status, Failed
		o.Error = res.Detail
		if res.Status >= 200 && res.Status < 300 {
			o.Outcome, o.Status = OK, 0
		}
		return nil
	}}
	if w.rng.IntN(2) == 0 {
		opts.Endpoint = w.endpoint()
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyedWait)
	defer cancel()
	sum, err := w.client.ImportDocuments(ctx, collImports, slices.Values(docs), opts)
	for _, o := range ops {
		if o.Outcome == "" { // no answer to this line
			o.Return = w.load.history.Now()
			o.answered(client.Meta{}, err)
			if err == nil {
				o.Outcome, o.Status, o.Error = Failed, 400, "the import ended well without an answer to this line"
			}
		}
		o.Again = sum.Resumes > 0
		w.load.history.Add(o)
		if o.Outcome == OK {
			w.load.remember(other{collImports, o.Key, o.Key})
		}
	}
}

const (
	// lifeTime is how long a set of collections is used, and lives how many are
	// in it. Old ones are deleted by and by.
	lifeTime = 8 * time.Second
	lives    = 2
)

// life chooses a collection that is made and deleted.
func (w *worker) life(old bool) string {
	round := w.load.history.Now() / int64(lifeTime)
	if old {
		round = max(0, round-1-w.rng.Int64N(3))
	}
	return fmt.Sprintf("%s%d-%d", collLife, round, w.rng.IntN(lives))
}

// condition puts a condition on a write, sometimes.
func (w *worker) condition(o *Op) {
	switch revision := w.revisions[o.Key]; {
	case w.rng.IntN(3) > 0:
	case revision > 0:
		o.IfMatch = revision
	case o.Kind == KindCollPut:
		o.IfAbsent = true
	}
}

func (w *worker) collPut() {
	o := w.begin(KindCollPut, w.life(false))
	dimension := 1 + int(w.load.made.Add(1)%mostDimension)
	o.Token = fmt.Sprint(dimension)
	w.condition(o)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		_, meta, err := w.session.PutCollection(ctx, o.Key, settingsOf(dimension), opts...)
		return meta, err
	})
}

func (w *worker) collRemove() {
	o := w.begin(KindCollDelete, w.life(w.rng.IntN(2) == 0))
	w.condition(o)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		return w.session.DeleteCollection(ctx, o.Key, opts...)
	})
}

func (w *worker) collRead() {
	o := w.begin(KindCollRead, w.life(false))
	w.look(o, func(ctx context.Context, opts []client.ReadOption) (*Seen, client.Meta, error) {
		coll, meta, err := w.session.GetCollection(ctx, o.Key, opts...)
		if err != nil {
			return nil, meta, err
		}
		w.revisions[o.Key] = max(w.revisions[o.Key], coll.Revision)
		return seeCollection(coll), meta, nil
	})
}

// limits sets the limits of the cluster, for a collection that nobody writes.
func (w *worker) limits() {
	o := w.begin(KindLimits, limitsKey)
	token := int(w.load.made.Add(1))
	o.Token = fmt.Sprint(token)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		_, meta, err := w.session.SetLimits(ctx, limitOf(token), opts...)
		return meta, err
	})
}

func (w *worker) readLimits() {
	w.look(w.begin(KindLimitsRead, limitsKey), func(ctx context.Context, opts []client.ReadOption) (*Seen, client.Meta, error) {
		limits, meta, err := w.session.Limits(ctx, opts...)
		if err != nil {
			return nil, meta, err
		}
		return seeLimits(limits), meta, nil
	})
}
