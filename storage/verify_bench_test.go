package storage

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/storage/snippet"
)

// BenchmarkVerify is a full scan of 1,000 documents of 10 snippets of 1 KiB
// with 1024-d vectors: 50 MiB.
func BenchmarkVerify(b *testing.B) {
	db, c := benchSetup(b)
	text := strings.Repeat("x", 1024)
	hash, v := snippet.HashContent(text), testVector(1024, 1)
	for n := range 1000 {
		commit(b, db, func(batch *Batch) { benchDocument(b, batch, c, fmt.Sprint(n), text, hash, v) })
	}
	if err := db.Flush(); err != nil {
		b.Fatal(err)
	}
	view, err := db.View()
	if err != nil {
		b.Fatal(err)
	}
	defer view.Close()
	for b.Loop() {
		r, err := view.Verify(context.Background(), VerifyOptions{})
		if err != nil || !r.OK() {
			b.Fatal(r, err)
		}
		b.SetBytes(r.Bytes)
	}
}
