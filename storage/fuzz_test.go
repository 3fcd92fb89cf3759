package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/storage/snippet"
)

// FuzzMetadataFilter compares the filter of listings with the plain way: decode
// all of the metadata, and look.
func FuzzMetadataFilter(f *testing.F) {
	f.Add([]byte(`{"lang":"en","n":1.50,"deep":{"b":[1,{"c":"x"}]},"ok":true,"none":null}`), "lang", "en")
	f.Add([]byte(`{"a\"b":"x","\u2028":"\u2029","é<&>":"\u0000"}`), "a\"b", "x")
	f.Add([]byte(`{"x":{"lang":"en"}}`), "lang", "en")
	f.Add([]byte(`{"":""}`), "", "")
	f.Add([]byte("{\"\x7f\":\"\xff\"}"), "\x7f", "\ufffd")
	f.Fuzz(func(t *testing.T, raw []byte, key, value string) {
		metadata, err := snippet.CanonicalMetadata("metadata", raw)
		if err != nil || len(metadata) == 0 {
			return
		}
		want := map[string]string{key: value}
		for _, probe := range append(wishes(t, metadata), want) {
			filter := newMetadataFilter(probe)
			if got, want := filter.matches(metadata), plainMatch(t, metadata, probe); got != want {
				t.Errorf("%s with %q: %v, want %v", metadata, probe, got, want)
			}
		}
	})
}

// wishes are filters that must find the metadata: one a field, and all at once.
func wishes(t *testing.T, metadata []byte) []map[string]string {
	t.Helper()
	all := map[string]string{}
	list := []map[string]string{all}
	for key, raw := range fieldsOf(t, metadata) {
		value := string(raw)
		if raw[0] == '"' {
			if err := json.Unmarshal(raw, &value); err != nil {
				t.Fatal(err)
			}
		}
		all[key] = value
		list = append(list, map[string]string{key: value})
	}
	if len(all) > 0 {
		for _, one := range list {
			if !plainMatch(t, metadata, one) {
				t.Errorf("%s does not match its own %q", metadata, one)
			}
		}
	}
	return list
}

func fieldsOf(t *testing.T, metadata []byte) map[string]json.RawMessage {
	t.Helper()
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(metadata, &fields); err != nil {
		t.Fatalf("canonical metadata %q: %v", metadata, err)
	}
	return fields
}

// plainMatch: a string matches by its value, anything else by its JSON text.
func plainMatch(t *testing.T, metadata []byte, want map[string]string) bool {
	t.Helper()
	fields := fieldsOf(t, metadata)
	for key, value := range want {
		raw, found := fields[key]
		if !found {
			return false
		}
		var text string
		if strings.HasPrefix(string(raw), `"`) {
			if err := json.Unmarshal(raw, &text); err != nil {
				t.Fatal(err)
			}
		} else {
			text = string(raw)
		}
		if text != value {
			return false
		}
	}
	return true
}

// FuzzRecords decodes any bytes as each kind of record. What is accepted has
// one meaning: written again and read again it is the same.
func FuzzRecords(f *testing.F) {
	c := &snippet.Collection{Name: "c", ID: 7, Dimension: 4, Metric: "cosine", Documents: 3, CreatedMs: 5}
	var cr CollectionRecord
	cr.set(c)
	var dr DocumentRecord
	dr.set(&snippet.Document{ID: "d", Owner: snippet.Owner{Type: "t", ID: "i"}, Title: "T", Metadata: []byte(`{"a":1}`), SnippetCount: 2})
	var sr SnippetRecord
	sr.set(&SnippetMeta{ContentLength: 5, Model: "m", Embedded: true, Revision: 9})
	for kind, seed := range [][]byte{mustMarshal(f, &cr), mustMarshal(f, &dr), mustMarshal(f, &sr)} {
		f.Add(uint8(kind), seed)
		f.Add(uint8(kind), seed[:len(seed)-1])
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		first, err := decodeAny(kind, data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		again, err := decodeAny(kind, encodeAny(t, first))
		if err != nil || !reflect.DeepEqual(first, again) {
			t.Errorf("%x is %+v, and written and read again %+v, %v", data, first, again, err)
		}
	})
}

func decodeAny(kind uint8, data []byte) (any, error) {
	switch kind % 3 {
	case 0:
		return decodeCollection("c", data)
	case 1:
		return decodeDocument("d", data)
	default:
		return decodeSnippetMeta(data)
	}
}

func encodeAny(t *testing.T, value any) []byte {
	t.Helper()
	switch v := value.(type) {
	case *snippet.Collection:
		var r CollectionRecord
		r.set(v)
		return mustMarshal(t, &r)
	case *snippet.Document:
		var r DocumentRecord
		r.set(v)
		return mustMarshal(t, &r)
	default:
		var r SnippetRecord
		r.set(v.(*SnippetMeta))
		return mustMarshal(t, &r)
	}
}

// FuzzPointer: whatever the pointer file holds, the live database is a
// directory of the store, or the file is refused.
func FuzzPointer(f *testing.F) {
	f.Add([]byte("db-1\n"))
	f.Add([]byte("db-1"))
	f.Add([]byte("db-1\n\n"))
	f.Add([]byte("../db-1\n"))
	f.Add([]byte("db-99999999999999999999999\n"))
	f.Add([]byte("restore-1\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, pointerFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		live, err := LiveDir(dir)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		name := filepath.Base(live)
		if filepath.Dir(live) != dir || !bytes.Equal(bytes.TrimSuffix(text, []byte("\n")), []byte(name)) || serialOf(name) < 0 {
			t.Errorf("%q names %s", text, live)
		}
	})
}

func mustMarshal(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := marshalRecord(nil, "a record", m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
