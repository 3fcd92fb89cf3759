package storage

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/storage/snippet"
)

// BenchmarkDetail is what a scrape asks for.
func BenchmarkDetail(b *testing.B) {
	db, _ := benchFilled(b, 500)
	for b.Loop() {
		if _, err := db.Detail(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStatistics is what the counters cost: the same work on a database
// that counts and on one that does not, in turns of a few milliseconds, so
// that a busy machine slows both. The median of the turns' ratios is reported.
func BenchmarkStatistics(b *testing.B) {
	text := strings.Repeat("x", 1024)
	hash, vector := snippet.HashContent(text), testVector(1024, 1)
	open := func(b *testing.B, on bool) (*DB, *snippet.Collection) {
		o := Options{Profile: Default, Overrides: map[string]string{"statistics": fmt.Sprint(on)}}
		db := openDB(b, b.TempDir(), o)
		var c *snippet.Collection
		commit(b, db, func(batch *Batch) { c = newCollection(b, batch, "c") })
		return db, c
	}
	ids := map[*DB]int{}
	write := func(b *testing.B, db *DB, c *snippet.Collection) {
		for range 8 {
			commit(b, db, func(batch *Batch) { benchDocument(b, batch, c, fmt.Sprintf("%08d", ids[db]), text, hash, vector) })
			ids[db]++
		}
	}
	read := func(b *testing.B, db *DB, c *snippet.Collection) {
		v, err := db.View()
		must(b, err)
		defer v.Close()
		for range 50 {
			d, err := v.Document(c.ID, fmt.Sprintf("%08d", ids[db]%1000))
			must(b, err)
			ids[db] += 7919
			if list, err := v.Snippets(b.Context(), c.ID, d, 0, 0, true); err != nil || len(list) != 10 {
				b.Fatal(len(list), err)
			}
		}
	}
	for name, work := range map[string]func(*testing.B, *DB, *snippet.Collection){"commit": write, "read": read} {
		b.Run(name, func(b *testing.B) {
			with, cWith := open(b, true)
			without, cWithout := open(b, false)
			for range 1000 / 8 {
				write(b, with, cWith)
				write(b, without, cWithout)
			}
			must(b, with.Flush())
			must(b, without.Flush())
			var ratios []float64
			turn := func(db *DB, c *snippet.Collection) float64 {
				start := time.Now()
				work(b, db, c)
				return time.Since(start).Seconds()
			}
			for i := 0; b.Loop(); i++ {
				var on, off float64
				if i%2 == 0 {
					on = turn(with, cWith)
					off = turn(without, cWithout)
				} else {
					off = turn(without, cWithout)
					on = turn(with, cWith)
				}
				ratios = append(ratios, on/off)
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "with/without")
		})
	}
}
