package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// BenchmarkLogStore appends as Raft does under load, with the truncations that
// the snapshots bring: at 192 MiB the log is cut to 64 MiB. The mean hides
// what matters, so the slow appends are printed too.
func BenchmarkLogStore(b *testing.B) {
	const cutAt, cutTo = 192 << 20, 64 << 20
	for _, size := range []int{4 << 10, 64 << 10, 512 << 10} {
		for _, kind := range []string{logStoreBolt, logStoreRocksDB} {
			b.Run(fmt.Sprintf("%s/%dKiB", kind, size>>10), func(b *testing.B) {
				store, err := openLogStore(kind, filepath.Join(b.TempDir(), "log"))
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = store.Close() }()
				var (
					words = someWords(4 << 20)
					took  []time.Duration
					first = uint64(1)
				)
				b.SetBytes(int64(size))
				b.ResetTimer()
				for i := range uint64(b.N) {
					at := rand.IntN(len(words) - size)
					entry := &raft.Log{Index: i + 1, Term: 1, Data: words[at : at+size]}
					start := time.Now()
					if err := store.StoreLog(entry); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(start))
					if last := i + 1; (last-first+1)*uint64(size) >= cutAt {
						end := last - cutTo/uint64(size)
						if err := store.DeleteRange(first, end); err != nil {
							b.Fatal(err)
						}
						first = end + 1
					}
				}
				b.StopTimer()
				slices.Sort(took)
				for name, q := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99, "max-ms": 1} {
					b.ReportMetric(took[int(q*float64(len(took)-1))].Seconds()*1e3, name)
				}
			})
		}
	}
}

// someWords is text that compresses about as written text does.
func someWords(size int) []byte {
	vocabulary := make([][]byte, 4000)
	for i := range vocabulary {
		for range 2 + rand.IntN(9) {
			vocabulary[i] = append(vocabulary[i], byte('a'+rand.IntN(26)))
		}
	}
	text := make([]byte, 0, size+16)
	for len(text) < size {
		text = append(text, vocabulary[int(4000*rand.Float64()*rand.Float64())]...)
		text = append(text, ' ')
	}
	return text
}
