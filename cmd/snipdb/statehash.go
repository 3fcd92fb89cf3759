package main

import (
	"context"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm"
	"github.com/snipdb/snipdb/storage"
)

// stateHash is the hash of the state in the words that the nodes compare.
func stateHash(f *fsm.FSM) (scheme int, now contract.HashPoint, points []contract.HashPoint) {
	at, marked := f.StateHash()
	points = make([]contract.HashPoint, len(marked))
	for i, p := range marked {
		points[i] = hashPoint(p)
	}
	return storage.HashScheme, hashPoint(at), points
}

func hashPoint(p storage.Point) contract.HashPoint {
	return contract.HashPoint{Index: p.Index, Term: p.Term, Hash: p.Sum.String()}
}

// verifyState reads the whole state of one moment.
func verifyState(ctx context.Context, store *storage.Store, rate int64, progress func(rows, bytes int64)) (contract.Verification, error) {
	view, err := store.View()
	if err != nil {
		return contract.Verification{}, err
	}
	defer view.Close()
	r, err := view.Verify(ctx, storage.VerifyOptions{BytesPerSecond: rate, Progress: progress})
	if err != nil {
		return contract.Verification{}, err
	}
	return contract.Verification{Rows: r.Rows, Bytes: r.Bytes, Index: r.Position.Index, Term: r.Position.Term,
		Stored: r.Stored.String(), Computed: r.Computed.String(), Problems: r.Problems}, nil
}
