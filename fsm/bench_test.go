package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/command"
)

// shape is a kind of entry for the benchmarks.
type shape struct {
	name     string
	commands int
	make     func(n int) *command.Mutation
	// before makes what the entries change; 0: nothing.
	before int
}

func shapes() []shape {
	kib := text(strings.Repeat("x", 1024))
	ten := func(n int) *command.Mutation {
		m := putDoc(fmt.Sprint("d", n))
		for range 10 {
			s := embedded("", 1024)
			s.Content, s.ContentHash = kib.Content, kib.ContentHash
			m.GetPutDocument().Snippets = append(m.GetPutDocument().Snippets, s)
		}
		return m
	}
	return []shape{
		{name: "1 new document of 1 KiB", commands: 1, make: func(n int) *command.Mutation { return ownedDoc(fmt.Sprint("d", n), "o", kib) }},
		{name: "64 new documents of 1 KiB", commands: 64, make: func(n int) *command.Mutation { return ownedDoc(fmt.Sprint("d", n), "o", kib) }},
		{name: "64 replacements of 1 KiB", commands: 64, make: func(n int) *command.Mutation {
			return putDoc(fmt.Sprint("d", n%1000), text(fmt.Sprint(n, kib.Content)))
		}},
		{name: "8 documents of 10 snippets with 1024-d vectors", commands: 8, make: ten},
		{name: "8 times 10 embeddings of 1024 values", commands: 8, before: 1600, make: func(n int) *command.Mutation {
			return embed(fmt.Sprint("d", n%1600), 1024, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		}},
	}
}

// entries encodes entries of the shape, whose commands carry idempotency keys
// if keyed is not "".
func (s *shape) entries(b *testing.B, count int, key string) [][]byte {
	b.Helper()
	n, list := 0, make([][]byte, count)
	for i := range list {
		var commands []*command.Command
		for range s.commands {
			c := mutation(s.make(n))
			if key != "" {
				c = keyed(fmt.Sprint(key, n), "r", c)
			}
			commands = append(commands, c)
			n++
		}
		list[i] = entryOf(b, commands...)
	}
	return list
}

// prepare writes what the entries change.
func (s *shape) prepare(m *machine) (index uint64) {
	for n := 0; n < s.before; n++ {
		d := putDoc(fmt.Sprint("d", n))
		for range 10 {
			d.GetPutDocument().Snippets = append(d.GetPutDocument().Snippets, text("a text"))
		}
		m.must(d)
	}
	return m.index
}

// BenchmarkApply is one ApplyBatch of one entry: what a group commit costs
// after Raft is done with it.
func BenchmarkApply(b *testing.B) {
	for _, s := range shapes() {
		b.Run(s.name, func(b *testing.B) {
			m := newMachine(b)
			index := s.prepare(m)
			entries := s.entries(b, 200, "")
			b.ReportAllocs()
			bytes := 0
			for b.Loop() {
				index++
				data := entries[index%uint64(len(entries))]
				bytes += len(data)
				m.f.ApplyBatch([]*raft.Log{logOf(index, 1, data)})
			}
			b.ReportMetric(float64(b.N*s.commands)/b.Elapsed().Seconds(), "commands/s")
			b.ReportMetric(float64(bytes)/1e6/b.Elapsed().Seconds(), "MB/s")
			if m.fatal != nil {
				b.Fatal(m.fatal)
			}
		})
	}
}

// BenchmarkStateHash applies the same entries with the state hash and without,
// in turns, so that both meet the same machine: "cost-%" is what the hash adds
// to the median time of an entry.
func BenchmarkStateHash(b *testing.B) {
	for _, s := range shapes() {
		for _, key := range []string{"", "key"} {
			name := s.name
			if key != "" {
				name += ", each with an idempotency key"
			}
			b.Run(name, func(b *testing.B) {
				var pair [2]*machine // without, with
				var times [2][]time.Duration
				var index uint64
				for i := range pair {
					m := &machine{tb: b, dir: b.TempDir(), rules: formatRules(), shared: sharedFor(b), term: 1, noHash: i == 0}
					m.open()
					b.Cleanup(func() {
						m.close()
						m.shared.Close()
					})
					pair[i], index = m, s.prepare(m)
				}
				entries := s.entries(b, 400, key)
				for n := 0; b.Loop(); n++ {
					index++
					log := logOf(index, 1, entries[n%len(entries)])
					for k := range pair {
						i := (k + n) % 2 // who begins changes
						start := time.Now()
						pair[i].f.ApplyBatch([]*raft.Log{log})
						times[i] = append(times[i], time.Since(start))
					}
				}
				for _, m := range pair {
					if m.fatal != nil {
						b.Fatal(m.fatal)
					}
				}
				without, with := median(times[0]), median(times[1])
				b.ReportMetric(float64(without.Microseconds()), "us-without")
				b.ReportMetric(float64(with.Microseconds()), "us-with")
				b.ReportMetric(100*(float64(with)/float64(without)-1), "cost-%")
			})
		}
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
