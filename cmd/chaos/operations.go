package chaos

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// read reads one document from one node.
func (w *worker) read(level client.Consistency) {
	o := w.begin(KindRead, w.key())
	o.Level = level.Level
	o.BoundMs = level.MaxStaleness.Milliseconds()
	opts := []client.ReadOption{client.OnEndpoint(w.endpoint())}
	if level.Level != client.LevelSession {
		opts = append(opts, client.WithConsistency(level)) // else it is the session's own
	}
	if w.rng.IntN(3) == 0 {
		opts = append(opts, client.WithEmbeddings(client.AsBase64))
	}
	ctx, cancel := context.WithTimeout(context.Background(), readWait)
	defer cancel()
	doc, meta, err := w.session.GetDocument(ctx, collRegisters, o.Key, opts...)
	if err == nil {
		o.Seen = see(doc, collRegisters, o.Key)
		w.revisions[o.Key] = max(w.revisions[o.Key], doc.Revision)
	}
	w.finish(meta, err, o)
}

// mode decides how a write is sent: with a key to whichever node leads, until
// its outcome is known; or once, without a key, through one node.
func (w *worker) mode(o *Op) (context.Context, context.CancelFunc, []client.WriteOption) {
	o.Keyed = w.rng.IntN(5) > 1
	if o.Keyed {
		ctx, cancel := context.WithTimeout(context.Background(), keyedWait)
		if w.rng.IntN(2) == 0 {
			return ctx, cancel, nil
		}
		return ctx, cancel, []client.WriteOption{client.OnEndpoint(w.endpoint())}
	}
	ctx, cancel := context.WithTimeout(context.Background(), plainWait)
	return ctx, cancel, []client.WriteOption{client.WithoutIdempotencyKey(), client.OnEndpoint(w.endpoint())}
}

// register begins a write of a document in the model, sometimes on a condition.
func (w *worker) register(kind string, conditional bool) *Op {
	o := w.begin(kind, w.key())
	o.Token = w.token()
	if !conditional {
		return o
	}
	if revision := w.revisions[o.Key]; revision > 0 {
		o.IfMatch = revision
	} else if kind == KindPut {
		o.IfAbsent = true
	}
	return o
}

// conditions are the options of a write's conditions.
func (o *Op) conditions() []client.WriteOption {
	switch {
	case o.IfMatch > 0:
		return []client.WriteOption{client.IfMatch(o.IfMatch)}
	case o.IfAbsent:
		return []client.WriteOption{client.IfAbsent()}
	}
	return nil
}

// send does a write of one document.
func (w *worker) send(o *Op, do func(ctx context.Context, opts []client.WriteOption) (client.Meta, error)) {
	ctx, cancel, opts := w.mode(o)
	defer cancel()
	meta, err := do(ctx, append(opts, o.conditions()...))
	w.finish(meta, err, o)
}

func (w *worker) put(conditional bool) {
	o := w.register(KindPut, conditional)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		_, meta, err := w.session.PutDocument(ctx, collRegisters, o.Key, registerOf(o.Token, o.Key), opts...)
		return meta, err
	})
}

func (w *worker) patch() {
	o := w.register(KindPatch, w.rng.IntN(3) == 0)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		in := documentOf(o.Token)
		_, meta, err := w.session.PatchDocument(ctx, collRegisters, o.Key, wire.DocumentPatch{Title: &in.Title, Metadata: in.Metadata}, opts...)
		return meta, err
	})
}

func (w *worker) putSnippet() {
	o := w.register(KindPutSnippet, w.rng.IntN(3) == 0)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		_, meta, err := w.session.PutSnippet(ctx, collRegisters, o.Key, 0, wire.SnippetInput{Content: textOf(o.Token)}, opts...)
		return meta, err
	})
}

func (w *worker) patchSnippet() {
	o := w.register(KindPatchSnippet, w.rng.IntN(3) == 0)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		text := textOf(o.Token)
		_, meta, err := w.session.PatchSnippet(ctx, collRegisters, o.Key, 0, wire.SnippetPatch{Content: &text}, opts...)
		return meta, err
	})
}

func (w *worker) embed() {
	o := w.register(KindEmbed, w.rng.IntN(3) == 0)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		_, meta, err := w.session.PutEmbeddings(ctx, collRegisters, o.Key, embeddingsOf(o.Token), opts...)
		return meta, err
	})
}

func embeddingsOf(token string) wire.EmbeddingsInput {
	return wire.EmbeddingsInput{Model: token, Embeddings: []wire.EmbeddingInput{{Index: 0, Vector: vectorOf(token)}}}
}

func (w *worker) vector() {
	o := w.register(KindVector, w.rng.IntN(3) == 0)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		_, meta, err := w.session.PutVector(ctx, collRegisters, o.Key, 0, o.Token, vectorOf(o.Token), opts...)
		return meta, err
	})
}

func (w *worker) remove() {
	o := w.register(KindDelete, w.rng.IntN(3) == 0)
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		return w.session.DeleteDocument(ctx, collRegisters, o.Key, opts...)
	})
}

// batch puts two documents at once, one of them with its embedding.
func (w *worker) batch() {
	a, b := w.register(KindPut, false), w.register(KindPut, false)
	if a.Key == b.Key {
		b.Key = fmt.Sprintf("%s-b", a.Key)
	}
	a.Model, b.Call = true, a.Call
	first, second, embeddings := registerOf(a.Token, a.Key), registerOf(b.Token, b.Key), embeddingsOf(a.Token)
	ctx, cancel, opts := w.mode(a)
	defer cancel()
	b.Keyed = a.Keyed
	results, meta, err := w.session.Batch(ctx, collRegisters, []wire.Operation{
		{Op: wire.OpPutDoc, ID: a.Key, Doc: &first},
		{Op: wire.OpPutEmbeddings, ID: a.Key, Model: embeddings.Model, Embeddings: embeddings.Embeddings},
		{Op: wire.OpPutDoc, ID: b.Key, Doc: &second},
	}, opts...)
	w.finishBatch(meta, err, func() {
		if len(results.Results) == 3 {
			a.Created, b.Created = results.Results[0].Status == 201, results.Results[2].Status == 201
		}
	}, a, b)
}

// create makes a document whose id the server chooses: one that is made twice
// is there twice.
func (w *worker) create() {
	o := w.begin(KindCreate, "")
	o.Token = w.token()
	o.Key = o.Token
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		doc, meta, err := w.session.CreateDocument(ctx, collCreates, documentOf(o.Token), opts...)
		if err == nil {
			w.load.remember(other{collCreates, doc.ID, o.Key})
		}
		return meta, err
	})
}

// queueCall is a call on a queue that is repeated, under its key, until its
// outcome is known.
type queueCall struct {
	key    string
	ops    []*Op
	change int // of the length
	do     func(ctx context.Context, opts ...client.WriteOption) (client.Meta, error)
}

// queueStep appends one or two snippets to this client's own queue, or takes
// the first away.
func (w *worker) queueStep() {
	if w.pending == nil {
		w.pending = w.nextQueueCall()
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyedWait)
	defer cancel()
	w.tryQueue(ctx)
}

func (w *worker) nextQueueCall() *queueCall {
	w.made++
	q := &queueCall{key: fmt.Sprintf("%s-call-%d", w.queue, w.made)}
	add := func(kind, token string) {
		o := w.begin(kind, w.queue)
		o.Token, o.Keyed = token, true
		q.ops = append(q.ops, o)
	}
	at, token := w.length, w.token()
	snip := func(t string) wire.SnippetInput { return wire.SnippetInput{Content: textOf(t)} }
	switch {
	case w.made == 1:
		add(KindAppend, token)
		q.change = 1
		q.do = func(ctx context.Context, opts ...client.WriteOption) (client.Meta, error) {
			_, meta, err := w.session.PutDocument(ctx, collQueues, w.queue, wire.DocumentInput{Title: w.queue, Snippets: []wire.SnippetInput{snip(token)}}, opts...)
			return meta, err
		}
	case at > 1 && w.rng.IntN(6) == 0:
		w.turn(q, add, token)
	case at > 1 && (at >= maxQueue || w.rng.IntN(3) == 0):
		add(KindPop, "")
		q.change = -1
		q.do = func(ctx context.Context, opts ...client.WriteOption) (client.Meta, error) {
			return w.session.DeleteSnippet(ctx, collQueues, w.queue, 0, opts...)
		}
	case w.rng.IntN(4) == 0:
		one, two, next := snip(token), snip(token+"b"), at+1
		add(KindAppend, token)
		add(KindAppend, token+"b")
		q.change = 2
		q.do = func(ctx context.Context, opts ...client.WriteOption) (client.Meta, error) {
			_, meta, err := w.session.Batch(ctx, collQueues, []wire.Operation{
				{Op: wire.OpPutSnippet, ID: w.queue, Index: &at, Snippet: &one},
				{Op: wire.OpPutSnippet, ID: w.queue, Index: &next, Snippet: &two},
			}, opts...)
			return meta, err
		}
	default:
		add(KindAppend, token)
		q.change = 1
		q.do = func(ctx context.Context, opts ...client.WriteOption) (client.Meta, error) {
			_, meta, err := w.session.PutSnippet(ctx, collQueues, w.queue, at, snip(token), opts...)
			return meta, err
		}
	}
	return q
}

// tryQueue sends the pending call and takes it off if it was acknowledged. Any
// other answer is asked for again: a queue has one writer, which knows its
// length, so there is nothing that a node could refuse for good.
func (w *worker) tryQueue(ctx context.Context) bool {
	q := w.pending
	meta, err := q.do(ctx, client.IdempotencyKey(q.key))
	if err != nil {
		// It is recorded when its outcome is known; the last try of the run counts.
		w.pending.ops[0].Error = err.Error()
		return false
	}
	w.length += q.change
	w.finish(meta, nil, q.ops...)
	w.pending = nil
	return true
}

// settle ends the pending call after the run, or records that it could not.
func (w *worker) settle(ctx context.Context) {
	for w.pending != nil && ctx.Err() == nil {
		if !w.tryQueue(ctx) {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	if w.pending == nil {
		return
	}
	for _, o := range w.pending.ops {
		o.Return, o.Outcome = w.load.history.Now(), Unknown
	}
	w.load.history.Add(w.pending.ops...)
}

// pairWrite writes two documents in one batch, always with the same token.
func (w *worker) pairWrite() {
	o := w.begin(KindPairWrite, w.pair)
	o.Token = w.token()
	w.send(o, func(ctx context.Context, opts []client.WriteOption) (client.Meta, error) {
		doc := pairOf(o.Token, w.pair)
		_, meta, err := w.session.Batch(ctx, collPairs, []wire.Operation{
			{Op: wire.OpPutDoc, ID: w.pair + "-a", Doc: &doc}, {Op: wire.OpPutDoc, ID: w.pair + "-b", Doc: &doc},
		}, opts...)
		return meta, err
	})
}

// pairRead reads both documents of some client's pair in one listing.
func (w *worker) pairRead() {
	pair := w.load.workers[w.rng.IntN(len(w.load.workers))].pair
	o := w.begin(KindPairRead, pair)
	level := []client.Consistency{
		client.Local(), client.Linearizable(), client.Bounded(boundMs * time.Millisecond),
	}[w.rng.IntN(3)]
	o.Level, o.BoundMs = level.Level, level.MaxStaleness.Milliseconds()
	ctx, cancel := context.WithTimeout(context.Background(), readWait)
	defer cancel()
	list, meta, err := w.session.ListDocuments(ctx, collPairs, client.ListQuery{Owner: &wire.Owner{Type: ownerPair, ID: pair}},
		client.WithConsistency(level), client.OnEndpoint(w.endpoint()))
	if err == nil {
		o.Seen = seePair(list.Items)
	}
	w.finish(meta, err, o)
}

// seePair shows the title of one document of a pair as title, that of the
// other as content.
func seePair(items []wire.Document) *Seen {
	switch len(items) {
	case 0:
		return nil
	case 2:
		s := &Seen{Revision: items[0].Revision, Title: items[0].Title, Content: items[1].Title, Titles: true}
		for i := range items {
			s.Damage = max(s.Damage, checkOwner(&items[i]))
		}
		if items[0].Revision != items[1].Revision || !strings.HasSuffix(items[0].ID, "-a") {
			s.Damage = fmt.Sprintf("%s has revision %d, %s has %d", items[0].ID, items[0].Revision, items[1].ID, items[1].Revision)
		}
		return s
	}
	return &Seen{Revision: items[0].Revision, Title: items[0].Title, Titles: true, Damage: fmt.Sprintf("%d documents of a pair are there", len(items))}
}
