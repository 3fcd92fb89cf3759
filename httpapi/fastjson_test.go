package httpapi

import (
	"reflect"
	"testing"
)

var embeddingBodies = []string{
	`{"model":"m","embeddings":[{"index":0,"vector":[0.1,-2e3,0,1E+2]},{"index":1,"vector_base64":"AACAPw=="}]}`,
	" {\n\"embeddings\" : [ { \"vector\" : [ 1 , 2 ] , \"index\" : 7 } ] , \"model\" : \"m\" } \n",
	`{}`, `{"embeddings":[]}`, `{"embeddings":[{}]}`, `{"embeddings":[{"vector":[]}]}`, `{"embeddings":null}`, `{"model":"é\n"}`,
	`{"model":"m","model":"n"}`, `{"Model":"m"}`, `{"x":1}`, `{} {}`, `{"embeddings":[{"index":1.0}]}`, `{"embeddings":[{"index":-0}]}`,
	`{"embeddings":[{"vector":[01]}]}`, `{"embeddings":[{"vector":[1.]}]}`, `{"embeddings":[{"vector":[.5]}]}`, `{"embeddings":[{"vector":[1e]}]}`,
	`{"embeddings":[{"vector":[1,]}]}`, `{"embeddings":[{"vector":[1e39]}]}`, `{"embeddings":[{"vector":[1e-60]}]}`, `{"embeddings":[{"vector":[0x1p2]}]}`, `{"embeddings":[{"vector":[+1]}]}`,
	`{"embeddings":[{"vector":["1"]}]}`, `[]`, ``, `{"embeddings":[{"index":99999999999999999999}]}`, "{\"model\":\"a\x7fb\"}",
}

// compareEmbeddings fails if the fast parser takes what decodeJSON refuses, or
// reads it as something else.
func compareEmbeddings(t *testing.T, body []byte) (fastOK bool) {
	t.Helper()
	p := fastParser{rest: body}
	fast, ok := p.embeddingsBody()
	if !ok {
		return false
	}
	var slow embeddingsBody
	if err := decodeJSON(body, &slow); err != nil {
		t.Fatalf("the fast parser takes %q, which is wrong: %v", body, err)
	}
	if !reflect.DeepEqual(fast, slow) {
		t.Fatalf("%q: fast %+v, slow %+v", body, fast, slow)
	}
	return true
}

func TestFastEmbeddings(t *testing.T) {
	for i, body := range embeddingBodies {
		if ok := compareEmbeddings(t, []byte(body)); i < 2 && !ok {
			t.Errorf("the fast parser does not take %s", body)
		}
	}
	if !compareEmbeddings(t, embeddingsJSON()) {
		t.Error("the fast parser does not take what clients send")
	}
}

func FuzzFastEmbeddings(f *testing.F) {
	for _, body := range embeddingBodies {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { compareEmbeddings(t, body) })
}
