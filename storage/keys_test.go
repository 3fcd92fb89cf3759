package storage

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/snipdb/snipdb/storage/snippet"
)

// TestEncodings holds every key and record to the bytes that were shipped.
// A difference needs a new format version, not a new golden file.
func TestEncodings(t *testing.T) {
	o := snippet.Owner{Type: "agent", ID: "a1"}
	d := &snippet.Document{ID: "d1", Owner: o, Ordinal: 0x0102030405060708, Title: "T", Metadata: []byte(`{"k":"v"}`),
		CreatedMs: 1700000000000, UpdatedMs: 1700000000001, Revision: 42, SnippetCount: 3, EmbeddedCount: 2,
		SnippetsSum: snippet.Sum{Hi: 0x0102030405060708, Lo: 0x090a0b0c0d0e0f10}}
	free := &snippet.Document{ID: "d2", Ordinal: 7}
	c := &snippet.Collection{Name: "docs", ID: 5, Dimension: 1024, Metric: snippet.Cosine, Analyzer: snippet.AnalyzerStandard,
		CreatedMs: 1700000000000, UpdatedMs: 1700000000001, Revision: 9, Documents: 1, Snippets: 3, Embedded: 2}
	hash := snippet.HashContent("hello")
	var out strings.Builder
	key := func(what, cf string, key []byte) {
		words, err := DescribeKey(cf, key)
		must(t, err)
		fmt.Fprintf(&out, "key    %-28s %-12s %s  (%s)\n", what, cf, hex.EncodeToString(key), words)
	}
	key("format", "meta", keyFormat)
	key("position", "meta", keyPosition)
	key("next collection id", "meta", keyNextID)
	key("collection count", "meta", keyCollectionCount)
	key("state hash", "meta", keyHash)
	key("sum of a collection", "meta", appendHashKey(nil, c.ID))
	key("points of the state hash", "meta", keyPoints)
	key("collection", "meta", appendCollectionKey(nil, c.Name))
	key("next ordinal", "meta", appendNextOrdinalKey(nil, c.ID))
	key("system", "meta", appendSystemKey(nil, SystemClusterID))
	key("document", "docs", appendDocumentKey(nil, c.ID, d.ID))
	key("listing by ordinal", "listing", appendOrdinalKey(nil, c.ID, d.Ordinal))
	key("listing by owner, id", "listing", appendOwnerIDKey(nil, c.ID, o, d.ID))
	key("listing by owner, ordinal", "listing", appendOwnerOrdinalKey(nil, c.ID, o, d.Ordinal))
	key("snippet", "snippet_meta", appendSnippetKey(nil, c.ID, d, 2))
	key("snippet without owner", "snippet_text", appendSnippetKey(nil, c.ID, free, 2))
	key("vector", "embeddings", appendSnippetKey(nil, c.ID, d, 2))
	key("idempotency", "idempotency", appendIdempotencyKey(nil, hash))
	key("idempotency queue", "idempotency", appendQueueKey(nil, 1700000000000, 43, 2))
	key("idempotency count", "idempotency", keyIdempotencyCount)

	value := func(what string, m proto.Message) {
		b, err := marshalRecord(nil, what, m)
		must(t, err)
		fmt.Fprintf(&out, "value  %-28s %s\n", what, hex.EncodeToString(b))
	}
	var cr CollectionRecord
	cr.set(c)
	value("collection", &cr)
	var dr DocumentRecord
	dr.set(d)
	value("document", &dr)
	var sr SnippetRecord
	sr.set(&SnippetMeta{ContentHash: hash, ContentLength: 5, Model: "m", Embedded: true, Revision: 42,
		TextDigest: 0x0102030405060708, VectorDigest: 0x1112131415161718})
	value("snippet", &sr)
	fmt.Fprintf(&out, "value  %-28s %s\n", "position", hex.EncodeToString(appendPosition(nil, Position{Index: 42, Term: 3})))
	points := []Point{{Position: Position{Index: 42, Term: 3}, Sum: d.SnippetsSum}}
	fmt.Fprintf(&out, "value  %-28s %s\n", "points of the state hash", hex.EncodeToString(encodePoints(points)))
	row := rowSum(new(hasher), cfDocs, appendDocumentKey(nil, c.ID, d.ID), []byte("value"))
	fmt.Fprintf(&out, "hash   %-28s %s\n", "of a document's row", row)
	fmt.Fprintf(&out, "hash   %-28s %016x\n", "of an idempotency row", new(hasher).idemDigest(hash[:], []byte("value")))
	fmt.Fprintf(&out, "log    %-28s %s\n", "key of index 42", hex.EncodeToString(appendLogKey(nil, 42)))
	golden(t, "encodings.golden", out.String())
}

// TestRecordsRoundTrip checks that a record read is the record written.
func TestRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringN(0, 10, -1)
		d := snippet.Document{ID: "id", Owner: snippet.Owner{Type: text.Draw(rt, "type"), ID: text.Draw(rt, "owner")}, Ordinal: rapid.Uint64().Draw(rt, "ordinal"),
			Title: text.Draw(rt, "title"), CreatedMs: rapid.Int64().Draw(rt, "created"), UpdatedMs: rapid.Int64().Draw(rt, "updated"),
			Revision: rapid.Uint64().Draw(rt, "revision"), SnippetCount: rapid.IntRange(0, 1<<31).Draw(rt, "snippets"), EmbeddedCount: 1}
		if rapid.Bool().Draw(rt, "metadata") {
			d.Metadata = []byte("{}")
		}
		var r DocumentRecord
		r.set(&d)
		b, err := marshalRecord(nil, "document", &r)
		noErr(rt, err)
		got, err := decodeDocument(d.ID, b)
		noErr(rt, err)
		equal(rt, "document", *got, d)
	})
}

// TestKeyOrder checks what the scans rest on: an owner's keys are together,
// no owner's range holds another's, and numbers sort as numbers.
func TestKeyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		part := rapid.StringMatching(`[a-c\x{7f}é]{1,3}`)
		a := snippet.Owner{Type: part.Draw(rt, "type a"), ID: part.Draw(rt, "id a")}
		b := snippet.Owner{Type: part.Draw(rt, "type b"), ID: part.Draw(rt, "id b")}
		i, j := rapid.Uint64().Draw(rt, "i"), rapid.Uint64().Draw(rt, "j")
		if a != b {
			lo := appendOwner(appendListingPrefix(nil, 1, listOwnerOrdinal), a)
			key := appendOwnerOrdinalKey(nil, 1, b, i)
			if bytes.Compare(key, lo) >= 0 && bytes.Compare(key, prefixEnd(lo)) < 0 {
				rt.Fatalf("a key of %v is in the range of %v", b, a)
			}
		}
		got := bytes.Compare(appendOwnerOrdinalKey(nil, 1, a, i), appendOwnerOrdinalKey(nil, 1, a, j))
		equal(rt, "order of ordinals", got < 0, i < j)
		x, y := rapid.Int64().Draw(rt, "x"), rapid.Int64().Draw(rt, "y")
		got = bytes.Compare(appendQueueKey(nil, x, 0, 0), appendQueueKey(nil, y, 0, 0))
		equal(rt, "order of times", got < 0, x < y)
		ms, index, seq := parseQueueKey(appendQueueKey(nil, x, i, 7))
		equal(rt, "queue key", fmt.Sprint(ms, index, seq), fmt.Sprint(x, i, 7))
	})
}

func TestPrefixEnd(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a", "b"}, {"a\xff", "b"}, {"\xff\xff", ""}, {"", ""}, {"a\x00", "a\x01"},
	} {
		if got := prefixEnd([]byte(c.in)); string(got) != c.want {
			t.Errorf("prefixEnd(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

// FuzzDescribeKey looks for a key that makes the decoder panic, and for a
// listing key that is read back as another one.
func FuzzDescribeKey(f *testing.F) {
	o := snippet.Owner{Type: "agent", ID: "a1"}
	f.Add("meta", appendCollectionKey(nil, "c"))
	f.Add("listing", appendOwnerIDKey(nil, 1, o, "d"))
	f.Add("listing", appendOwnerOrdinalKey(nil, 1, o, 1))
	f.Add("snippet_meta", appendSnippetKey(nil, 1, &snippet.Document{Owner: o, Ordinal: 1}, 0))
	f.Add("idempotency", appendQueueKey(nil, 1, 2, 3))
	f.Add("docs", []byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, cf string, key []byte) {
		words, err := DescribeKey(cf, key)
		if (err == nil) == (words == "") {
			t.Errorf("DescribeKey(%q, %x) = %q, %v", cf, key, words, err)
		}
		if owner, rest, ok := cutOwner(key); ok {
			if back := append(appendOwner(nil, owner), rest...); !bytes.Equal(back, key) {
				t.Errorf("cutOwner(%x) gives %v and %x", key, owner, rest)
			}
		}
	})
}
