package httpapi

import (
	"fmt"
	"strings"
	"testing"
)

// embeddingsJSON is a body with the vectors of ten snippets of dimension 1,024.
func embeddingsJSON() []byte {
	var b strings.Builder
	b.WriteString(`{"model":"m","embeddings":[`)
	for i := range 10 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"index":%d,"vector":[0.5`, i)
		for j := range 1023 {
			fmt.Fprintf(&b, ",%.8f", float64(j)/1000-0.5)
		}
		b.WriteString("]}")
	}
	b.WriteString("]}")
	return []byte(b.String())
}

// BenchmarkDecodeEmbeddings is what a write of ten 1,024-d embeddings costs
// before the log.
func BenchmarkDecodeEmbeddings(b *testing.B) {
	body := embeddingsJSON()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var in embeddingsBody
		if err := decodeEmbeddings(body, &in); err != nil {
			b.Fatal(err)
		}
		build := newBuilder("c")
		if _, err := build.putEmbeddings("d", in.Model, in.Embeddings); err != nil {
			b.Fatal(err)
		}
		if err := build.vectors.prepare(nil, true); err != nil {
			b.Fatal(err)
		}
	}
}
