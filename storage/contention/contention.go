// Package contention does to RocksDB what CozoDB did when Julep's embedding
// workflows wrote to it: many workers, each in an optimistic transaction of its
// own, on one relation called `snippets` with a vector index. It exists to show
// the failure that snipdb was built against, and is used by
// `snipdb bench contention` only; it shares nothing with package storage.
//
// One transaction is one workflow's write: the embeddings of all snippets of
// one document. No two workflows touch the same document. They conflict all the
// same, because a graph index (HNSW) rewrites the rows of the neighbours of
// each vector that is put in, and neighbours are shared. RocksDB finds that at
// commit and answers `Resource busy`.
package contention

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/linxGnu/grocksdb"
)

// Options says how much is done, and by how many.
type Options struct {
	// Dir is an empty directory for the data base.
	Dir string
	// Workers is how many workflows are written at once, ≥ 1.
	Workers int
	// Duration is how long they go on.
	Duration time.Duration
	// Snippets is how many snippets a document has.
	Snippets int
	// Dimension is the number of float32 in an embedding.
	Dimension int
	// ContentBytes is the length of a snippet's text.
	ContentBytes int
	// Neighbours is how many rows of other vectors the index rewrites for each
	// vector put in (HNSW's M). 0 is a relation without a vector index.
	Neighbours int
	// Existing is how many vectors there are at the start, to be neighbours.
	// The neighbours are drawn from them evenly, which is the kindest choice:
	// in a real graph they cluster around the same few hubs, and conflict more.
	Existing int
	// Seed makes the neighbours the same from run to run.
	Seed uint64
}

// Validate returns an error that names every value out of range.
func (o Options) Validate() error {
	var errs []error
	check := func(ok bool, field string, value int, bound string) {
		if !ok {
			errs = append(errs, fmt.Errorf("contention: %s is %d; must be %s", field, value, bound))
		}
	}
	check(o.Workers >= 1, "workers", o.Workers, "at least 1")
	check(o.Duration > 0, "duration", int(o.Duration), "more than 0")
	check(o.Snippets >= 1, "snippets", o.Snippets, "at least 1")
	check(o.Dimension >= 1, "dimension", o.Dimension, "at least 1")
	check(o.ContentBytes >= 0, "content bytes", o.ContentBytes, "at least 0")
	check(o.Neighbours >= 0, "neighbours", o.Neighbours, "at least 0")
	check(o.Existing >= o.Neighbours, "existing", o.Existing, "at least the neighbours")
	return errors.Join(errs...)
}

// Result is what came of it.
type Result struct {
	Workers   int           `json:"workers"`
	Elapsed   time.Duration `json:"-"`
	Attempted uint64        `json:"attempted"`
	Committed uint64        `json:"committed"`
	// Busy is how many commits RocksDB refused with `Resource busy`. A
	// workflow that gets this has failed, unless it begins anew.
	Busy uint64 `json:"resource_busy"`
	// TryAgain is how many it refused because it could not check: the
	// memtables did not reach back to the beginning of the transaction.
	TryAgain uint64 `json:"try_again"`
}

// BusyShare is the part of the attempts that ended in `Resource busy`, 0 to 1.
func (r Result) BusyShare() float64 {
	if r.Attempted == 0 {
		return 0
	}
	return float64(r.Busy) / float64(r.Attempted)
}

// engine is one run's data base with the C objects that it needs. All of them
// are freed by close, which is called when no worker runs any more.
type engine struct {
	options *grocksdb.Options
	read    *grocksdb.ReadOptions
	write   *grocksdb.WriteOptions
	begin   *grocksdb.OptimisticTransactionOptions
	db      *grocksdb.OptimisticTransactionDB
}

// historyBytes is how much of the past the memtables keep, so that RocksDB can
// check a transaction against it. Too little would turn conflicts into
// `Try again` and hide them.
const historyBytes = 256 << 20

func open(dir string) (*engine, error) {
	e := &engine{
		options: grocksdb.NewDefaultOptions(),
		read:    grocksdb.NewDefaultReadOptions(),
		write:   grocksdb.NewDefaultWriteOptions(),
		begin:   grocksdb.NewDefaultOptimisticTransactionOptions(),
	}
	e.options.SetCreateIfMissing(true)
	e.options.SetMaxWriteBufferSizeToMaintain(historyBytes)
	e.options.IncreaseParallelism(2)
	// A transaction sees the state at its beginning, and conflicts with every
	// write after that.
	e.begin.SetSetSnapshot(true)
	db, err := grocksdb.OpenOptimisticTransactionDb(e.options, dir)
	if err != nil {
		e.close()
		return nil, fmt.Errorf("contention: open %s: %w", dir, err)
	}
	e.db = db
	return e, nil
}

func (e *engine) close() {
	if e.db != nil {
		e.db.Close()
	}
	e.begin.Destroy()
	e.write.Destroy()
	e.read.Destroy()
	e.options.Destroy()
}

// Run opens a data base in o.Dir, fills it, and lets the workers loose on it.
// The error is one of the engine; conflicts are no errors but what is counted.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.Validate(); err != nil {
		return Result{}, err
	}
	e, err := open(o.Dir)
	if err != nil {
		return Result{}, err
	}
	defer e.close()
	if err := e.fill(o.Existing); err != nil {
		return Result{}, err
	}

	ctx, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()
	var (
		counts   counters
		workers  sync.WaitGroup
		failures = make(chan error, o.Workers)
		start    = time.Now()
	)
	for worker := range o.Workers {
		workers.Go(func() {
			if err := e.work(ctx, o, worker, &counts); err != nil {
				failures <- err
				cancel()
			}
		})
	}
	workers.Wait()
	close(failures)
	return counts.result(o.Workers, time.Since(start)), <-failures
}

type counters struct{ attempted, committed, busy, tryAgain atomic.Uint64 }

func (c *counters) result(workers int, elapsed time.Duration) Result {
	return Result{
		Workers: workers, Elapsed: elapsed,
		Attempted: c.attempted.Load(), Committed: c.committed.Load(),
		Busy: c.busy.Load(), TryAgain: c.tryAgain.Load(),
	}
}

// work writes one document after the other until the time is over.
func (e *engine) work(ctx context.Context, o Options, worker int, counts *counters) error {
	random := rand.New(rand.NewPCG(o.Seed, uint64(worker)))
	row := make([]byte, o.ContentBytes+4*o.Dimension)
	for document := 0; ctx.Err() == nil; document++ {
		err := e.writeDocument(o, uint32(worker), uint32(document), row, random)
		counts.attempted.Add(1)
		switch {
		case err == nil:
			counts.committed.Add(1)
		case strings.Contains(err.Error(), "Resource busy"):
			counts.busy.Add(1)
		case strings.Contains(err.Error(), "try again"), strings.Contains(err.Error(), "Try again"):
			counts.tryAgain.Add(1)
		default:
			return fmt.Errorf("contention: worker %d: %w", worker, err)
		}
	}
	return nil
}

// writeDocument is one workflow's transaction: for each snippet its row, and
// in the index its own node, an edge in each direction for each neighbour, and
// each neighbour's node, whose degree grows.
func (e *engine) writeDocument(o Options, worker, document uint32, row []byte, random *rand.Rand) error {
	txn := e.db.TransactionBegin(e.write, e.begin, nil)
	defer txn.Destroy()
	for index := range o.Snippets {
		id := snippetID(worker, document, uint32(index))
		// `:update` and `:put` read the row that is there, for the index's sake.
		if _, err := e.get(txn, key('s', id)); err != nil {
			return err
		}
		if err := txn.Put(key('s', id), row); err != nil {
			return err
		}
		if err := txn.Put(key('n', id), degree(uint32(o.Neighbours))); err != nil {
			return err
		}
		for range o.Neighbours {
			neighbour := existingID(uint32(random.IntN(o.Existing)))
			if err := e.link(txn, id, neighbour); err != nil {
				return err
			}
		}
	}
	return txn.Commit()
}

// link makes two vectors neighbours.
func (e *engine) link(txn *grocksdb.Transaction, id, neighbour []byte) error {
	node, err := e.get(txn, key('n', neighbour))
	if err != nil {
		return err
	}
	grown := uint32(1)
	if len(node) == 4 {
		grown = binary.BigEndian.Uint32(node) + 1
	}
	if err := txn.Put(key('n', neighbour), degree(grown)); err != nil {
		return err
	}
	if err := txn.Put(key('e', id, neighbour), nil); err != nil {
		return err
	}
	return txn.Put(key('e', neighbour, id), nil)
}

// get reads a row that the transaction depends on.
func (e *engine) get(txn *grocksdb.Transaction, k []byte) ([]byte, error) {
	slice, err := txn.GetForUpdate(e.read, k)
	if err != nil {
		return nil, err
	}
	defer slice.Free()
	return append([]byte(nil), slice.Data()...), nil
}

// fill puts the nodes in that are there before the workers begin.
func (e *engine) fill(existing int) error {
	batch := grocksdb.NewWriteBatch()
	defer batch.Destroy()
	for i := range existing {
		batch.Put(key('n', existingID(uint32(i))), degree(0))
	}
	if err := e.db.Write(e.write, batch); err != nil {
		return fmt.Errorf("contention: fill: %w", err)
	}
	return nil
}

// key is a table's letter and the ids: s snippets, n nodes, e edges.
func key(table byte, ids ...[]byte) []byte {
	k := []byte{table}
	for _, id := range ids {
		k = append(k, id...)
	}
	return k
}

func snippetID(worker, document, index uint32) []byte {
	id := binary.BigEndian.AppendUint32(nil, worker)
	id = binary.BigEndian.AppendUint32(id, document)
	return binary.BigEndian.AppendUint32(id, index)
}

// existingID has another length than a snippet's, so that the two never meet.
func existingID(i uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0xff}, i) }

func degree(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
