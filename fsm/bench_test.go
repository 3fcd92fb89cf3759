package fsm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/fsm/command"
)

// BenchmarkApply is one ApplyBatch of one entry: what a group commit costs
// after Raft is done with it.
func BenchmarkApply(b *testing.B) {
	kib := text(strings.Repeat("x", 1024))
	for _, bb := range []struct {
		name     string
		commands int
		make     func(n int) *command.Mutation
	}{
		{"1 new document of 1 KiB", 1, func(n int) *command.Mutation { return ownedDoc(fmt.Sprint("d", n), "o", kib) }},
		{"64 new documents of 1 KiB", 64, func(n int) *command.Mutation { return ownedDoc(fmt.Sprint("d", n), "o", kib) }},
		{"64 replacements of 1 KiB", 64, func(n int) *command.Mutation {
			return putDoc(fmt.Sprint("d", n%1000), text(fmt.Sprint(n, kib.Content)))
		}},
		{"8 documents of 10 snippets with 1024-d vectors", 8, func(n int) *command.Mutation {
			m := putDoc(fmt.Sprint("d", n))
			for range 10 {
				s := embedded("", 1024)
				s.Content, s.ContentHash = kib.Content, kib.ContentHash
				m.GetPutDocument().Snippets = append(m.GetPutDocument().Snippets, s)
			}
			return m
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			m := newMachine(b)
			n := 0
			entries := make([][]byte, 200)
			for i := range entries {
				var commands []*command.Command
				for range bb.commands {
					commands = append(commands, mutation(bb.make(n)))
					n++
				}
				entries[i] = entryOf(b, commands...)
			}
			b.ReportAllocs()
			index, bytes := uint64(0), 0
			for b.Loop() {
				data := entries[index%uint64(len(entries))]
				index++
				bytes += len(data)
				m.f.ApplyBatch([]*raft.Log{logOf(index, 1, data)})
			}
			b.ReportMetric(float64(b.N*bb.commands)/b.Elapsed().Seconds(), "commands/s")
			b.ReportMetric(float64(bytes)/1e6/b.Elapsed().Seconds(), "MB/s")
			if m.fatal != nil {
				b.Fatal(m.fatal)
			}
		})
	}
}
