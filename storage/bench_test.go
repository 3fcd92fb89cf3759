package storage

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/storage/snippet"
)

// benchDocument writes one document of 10 snippets of 1 KiB with 1024-d
// vectors the way the state machine does, counters included.
func benchDocument(b *testing.B, batch *Batch, c *snippet.Collection, id, text string, hash [32]byte, v snippet.Vector) {
	d, err := batch.Document(c.ID, id)
	if err != nil || d != nil {
		b.Fatal(d, err)
	}
	ordinal, err := batch.NewOrdinal(c)
	if err != nil {
		b.Fatal(err)
	}
	d = &snippet.Document{ID: id, Owner: snippet.Owner{Type: "agent", ID: "a1"}, Ordinal: ordinal, Title: "title", SnippetCount: 10, EmbeddedCount: 10}
	for i := range 10 {
		s := snippet.Snippet{Index: i, Content: text, ContentHash: hash, Embedded: true, Model: "m", Vector: v}
		if err := batch.PutSnippet(c.ID, d, &s, true); err != nil {
			b.Fatal(err)
		}
	}
	if err := batch.PutDocument(c.ID, d, true); err != nil {
		b.Fatal(err)
	}
	c.Documents++
	if err := batch.PutCollection(c); err != nil {
		b.Fatal(err)
	}
}

func benchSetup(b *testing.B) (*DB, *snippet.Collection) {
	db := openDB(b, b.TempDir(), Options{Profile: Default})
	var c *snippet.Collection
	commit(b, db, func(batch *Batch) { c = newCollection(b, batch, "c") })
	return db, c
}

// BenchmarkBuild is the batch without the commit.
func BenchmarkBuild(b *testing.B) {
	db, c := benchSetup(b)
	text := strings.Repeat("x", 1024)
	hash, v := snippet.HashContent(text), testVector(1024, 1)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		batch := db.NewBatch()
		batch.Savepoint()
		benchDocument(b, batch, c, fmt.Sprint(n), text, hash, v)
		batch.Destroy()
	}
}

// BenchmarkCommit is one document per commit, and 16 per commit.
func BenchmarkCommit(b *testing.B) {
	for _, group := range []int{1, 16} {
		b.Run(fmt.Sprintf("docs=%d", group), func(b *testing.B) {
			db, c := benchSetup(b)
			text := strings.Repeat("x", 1024)
			hash, v := snippet.HashContent(text), testVector(1024, 1)
			index := db.Position().Index
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				batch := db.NewBatch()
				for range group {
					batch.Savepoint()
					benchDocument(b, batch, c, fmt.Sprint(n), text, hash, v)
					n++
				}
				index++
				if err := db.Commit(batch, Position{index, 1}); err != nil {
					b.Fatal(err)
				}
				batch.Destroy()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/doc")
		})
	}
}

// benchFilled is a database with documents, from files.
func benchFilled(b *testing.B, docs int) (*DB, *snippet.Collection) {
	db, c := benchSetup(b)
	text := strings.Repeat("x", 1024)
	hash, v := snippet.HashContent(text), testVector(1024, 1)
	for n := 0; n < docs; n += 10 {
		commit(b, db, func(batch *Batch) {
			for i := range 10 {
				benchDocument(b, batch, c, fmt.Sprintf("%08d", n+i), text, hash, v)
			}
		})
	}
	must(b, db.Flush())
	return db, c
}

func BenchmarkRead(b *testing.B) {
	const docs = 2000
	db, c := benchFilled(b, docs)
	ctx := context.Background()
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			v, err := db.View()
			if err != nil {
				b.Fatal(err)
			}
			v.Close()
		}
	})
	v, err := db.View()
	must(b, err)
	defer v.Close()
	b.Run("document", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			if d, err := v.Document(c.ID, fmt.Sprintf("%08d", n*7919%docs)); err != nil || d == nil {
				b.Fatal(d, err)
			}
		}
	})
	b.Run("absent", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			if d, err := v.Document(c.ID, fmt.Sprintf("%08dx", n%docs)); err != nil || d != nil {
				b.Fatal(d, err)
			}
		}
	})
	for _, withVectors := range []bool{false, true} {
		b.Run(fmt.Sprintf("10 snippets, vectors=%v", withVectors), func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				d, err := v.Document(c.ID, fmt.Sprintf("%08d", n*7919%docs))
				if err != nil {
					b.Fatal(err)
				}
				if list, err := v.Snippets(ctx, c.ID, d, 0, 0, withVectors); err != nil || len(list) != 10 {
					b.Fatal(len(list), err)
				}
			}
		})
	}
	b.Run("page of 100", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if p, err := v.Documents(ctx, c.ID, snippet.ListQuery{Owner: snippet.Owner{Type: "agent", ID: "a1"}}); err != nil || len(p.Documents) != 100 {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLogAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 40 << 10} {
		for _, sync := range []bool{true, false} {
			b.Run(fmt.Sprintf("%dKiB/sync=%v", size>>10, sync), func(b *testing.B) {
				l := openLog(b, b.TempDir(), LogOptions{NoSync: !sync})
				record := [][]byte{make([]byte, size)}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				index := uint64(0)
				for b.Loop() {
					index++
					if err := l.Append([]uint64{index}, record); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkLogGet(b *testing.B) {
	l := openLog(b, b.TempDir(), LogOptions{NoSync: true})
	for i := uint64(1); i <= 10_000; i++ {
		must(b, l.Append([]uint64{i}, [][]byte{make([]byte, 1024)}))
	}
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		if _, ok, err := l.Get(n%10_000 + 1); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
