package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// The size of BenchmarkRestart: 200,000 snippets.
const (
	restartDocuments = 2000
	restartSnippets  = 100
)

// BenchmarkRestart kills a node with 200,000 snippets and prints how long it
// takes until it is ready again, once with all of its log since the beginning
// and once with a log that was cut behind a snapshot. The two should not
// differ: the state is not replayed, it is there.
func BenchmarkRestart(b *testing.B) {
	for name, args := range map[string][]string{
		"whole-log":   {"--snapshot-log-bytes", "10GiB"},
		"cut-log":     {"--snapshot-log-bytes", "8MiB", "--trailing-log-bytes", "1MiB", "--snapshot-check-interval", "200ms"},
		"log-in-bolt": {"--snapshot-log-bytes", "10GiB", "--log-store", "bolt"},
	} {
		b.Run(name, func(b *testing.B) {
			n := proctest.Start(b, proctest.Options{Nodes: 1, Args: args}).Nodes[0]
			importMany(b, n)
			self, err := n.Self()
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				n.Kill()
				b.StartTimer()
				n.Start()
				n.WaitReady()
			}
			b.StopTimer()
			n.Must(http.StatusOK, http.MethodGet, docs+"/d-1?consistency=linearizable", nil, nil)
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s-until-ready")
			b.ReportMetric(float64(self.LogBytes)/(1<<20), "MiB-log")
			b.ReportMetric(float64(self.AppliedIndex-self.SnapshotIndex), "entries-since-snapshot")
		})
	}
}

// importMany streams the documents in.
func importMany(b *testing.B, n *proctest.Node) {
	b.Helper()
	for first := 0; first < restartDocuments; first += 200 {
		var lines bytes.Buffer
		encoder := json.NewEncoder(&lines)
		for i := first; i < first+200; i++ {
			content := make([]string, restartSnippets)
			for s := range content {
				content[s] = strings.Repeat(fmt.Sprintf("document %d snippet %d ", i, s), 26)
			}
			if err := encoder.Encode(map[string]any{"id": fmt.Sprintf("d-%d", i), "content": content}); err != nil {
				b.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		answer, err := n.Do(ctx, http.MethodPost, strings.TrimSuffix(docs, "/docs")+"/import", lines.Bytes(), "Content-Type", wire.TypeNDJSON)
		cancel()
		if err != nil || answer.Status != http.StatusOK || bytes.Count(answer.Body, []byte(`"status":201`)) != 200 {
			b.Fatalf("import: %v: %.500s", err, answer.Body)
		}
	}
}
