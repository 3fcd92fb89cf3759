package bench

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// words make text that compresses about as English does, unlike random bytes.
var words = strings.Fields(`the of and a to in is that it was for on are as with his they at be this from have or by one had not
but what all were when we there can an your which their said if do will each about how up out them then she many some so these would
other into has more her two like him see time could no make than first been its who now people my made over did down only way find use
may water long little very after called just where most know agent memory session user document snippet embedding vector search recall
context window token model prompt answer question tool function task workflow retry queue worker leader follower log index snapshot`)

// Text returns n bytes of text that depend on seed, doc and index only.
func Text(seed uint64, doc int64, index, n int) string {
	r := rand.New(rand.NewPCG(seed, uint64(doc)<<20|uint64(index)))
	b := make([]byte, 0, n+16)
	// The first words make every text its own, whatever the words after them.
	b = fmt.Appendf(b, "d%d s%d %08x:", doc, index, r.Uint32())
	for len(b) < n {
		b = append(b, ' ')
		b = append(b, words[r.IntN(len(words))]...)
	}
	return string(b[:n])
}

// Vector returns the embedding of a snippet: unit length, so that a cosine
// collection keeps it but for rounding. It depends on the arguments only.
func Vector(seed uint64, doc int64, index, dimension int) snippet.Vector {
	r := rand.New(rand.NewPCG(^seed, uint64(doc)<<20|uint64(index)))
	v := make(snippet.Vector, 4*dimension)
	for i := range dimension {
		binary.LittleEndian.PutUint32(v[4*i:], math.Float32bits(float32(r.NormFloat64())))
	}
	return v.Normalize()
}

// sameVector compares what was stored with what was sent. A cosine collection
// scales a vector again, which may change the last bits of each value.
func sameVector(got, want snippet.Vector) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range want.Dimension() {
		if math.Abs(float64(got.At(i))-float64(want.At(i))) > 1e-6 {
			return false
		}
	}
	return true
}

// hashOf is the content hash as the API shows it.
func hashOf(content string) string {
	sum := snippet.HashContent(content)
	return hex.EncodeToString(sum[:])
}

// vectorOf decodes the vector of an answer.
func vectorOf(s *wire.Snippet) (snippet.Vector, error) {
	if s.VectorBase64 != "" {
		b, err := wire.DecodeBase64(s.VectorBase64)
		return snippet.Vector(b), err
	}
	return snippet.VectorOf(s.Vector), nil
}
