package snippet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCanonicalForm(t *testing.T) {
	for in, want := range map[string]string{
		``: ``, `  `: ``, `null`: ``, ` {} `: ``, `{ }`: ``,
		`{"b":1,"a":2}`: `{"a":2,"b":1}`,
		"{ \"a\" :\t[ 1 , {\"d\":1,\"c\":2} ]\n}": `{"a":[1,{"c":2,"d":1}]}`,
		`{"a":1,"a":2}`:                                 `{"a":2}`,
		`{"a":{"x":1},"a":{"y":2}}`:                     `{"a":{"y":2}}`,
		`{"a":null,"b":true,"c":false}`:                 `{"a":null,"b":true,"c":false}`,
		`{"n":[1,1.0,1e2,-0,12345678901234567890,0.1]}`: `{"n":[1,1.0,1e2,-0,12345678901234567890,0.1]}`,
		`{"é":"<&>\u2028"}`:                             "{\"é\":\"<&>\u2028\"}",
		`{"s":"\u0041\/\"\\\b\n\u0000"}`:                `{"s":"A/\"\\\u0008\u000a\u0000"}`,
		`{"s":"\ud83d\ude00"}`:                          `{"s":"😀"}`,
		`{"s":"\ud800"}`:                                "{\"s\":\"\ufffd\"}",
		`{"":""}`:                                       `{"":""}`,
		`{"a\u0062":1}`:                                 `{"ab":1}`,
		`{"Z":1,"a":2,"À":3,"aa":4}`:                    `{"Z":1,"a":2,"aa":4,"À":3}`,
	} {
		out, err := CanonicalMetadata("metadata", []byte(in))
		if err != nil || string(out) != want {
			t.Errorf("%s becomes %s (%v), want %s", in, out, err, want)
		}
	}
}

// nested returns an object of that many levels.
func nested(levels int) string {
	return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels)
}

func TestWhatIsNoMetadata(t *testing.T) {
	filler := func(n int) string { return `{"a":"` + strings.Repeat("x", n-len(`{"a":""}`)) + `"}` }
	for _, good := range []string{nested(MaxMetadataDepth), filler(MaxMetadataBytes)} {
		if _, err := CanonicalMetadata("metadata", []byte(good)); err != nil {
			t.Errorf("%.40s…: %v", good, err)
		}
	}
	for _, bad := range []string{
		`[]`, `"x"`, `1`, `true`, `nul`, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1} {}`, `{"a":1}x`, `{"a":01}`, `{"a":NaN}`,
		`{"a":+1}`, `{"a":'x'}`, `{"a":"\x"}`, "{\"a\":\"\n\"}", "{\"a\":\"\xff\"}", "{\"\xff\":1}", `{"a":[1,]}`, `{1:2}`, "\ufeff{}",
		nested(MaxMetadataDepth + 1), nested(100_000), strings.Repeat(`{"a":[`, 50_000), filler(MaxMetadataBytes + 1),
	} {
		_, err := CanonicalMetadata("metadata", []byte(bad))
		refused(t, fmt.Sprintf("%.40q", bad), "metadata", err)
	}
}

// value decodes JSON with numbers as they are written.
func value(raw []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

// checkCanonical checks what holds for every input: a clear error, or a
// canonical form that means the same and is its own canonical form.
func checkCanonical(t interface{ Fatalf(string, ...any) }, raw []byte) {
	out, err := CanonicalMetadata("metadata", raw)
	if err != nil {
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != "metadata" {
			t.Fatalf("%.200q: the error is %#v", raw, err)
		}
		return
	}
	if out == nil {
		if v, err := value(raw); err == nil && v != nil && len(v.(map[string]any)) > 0 {
			t.Fatalf("%.200q lost its content", raw)
		}
		return
	}
	if !json.Valid(out) || len(out) > MaxMetadataBytes {
		t.Fatalf("%.200q becomes %.200q", raw, out)
	}
	again, err := CanonicalMetadata("metadata", out)
	if err != nil || !bytes.Equal(again, out) {
		t.Fatalf("%.200q becomes %.200q, and that %.200q (%v)", raw, out, again, err)
	}
	before, err := value(raw)
	if err != nil {
		t.Fatalf("%.200q was taken, encoding/json refuses it: %v", raw, err)
	}
	after, err := value(out)
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Fatalf("%.200q becomes %.200q, which means something else (%v)", raw, out, err)
	}
}

func FuzzCanonicalMetadata(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `{"b":1,"a":[1,{"d":1,"c":null}]}`, `{"a":1,"a":{"x":"\ud800\u0000"}}`, `{"n":-0.0e+1}`, `[1]`, `{"a":"\ud83d\ude00<&>"}`,
		`{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{"i":{"j":{"k":{"l":{"m":{"n":{"o":{"p":{}}}}}}}}}}}}}}}}}`, "{\"\x7f\":\"\u2028\"}", `{"a":1}{}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkCanonical(t, raw) })
}

// jsonValue draws a value of at most that many levels.
func jsonValue(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 6
		if depth == 0 {
			kinds = 4
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return rapid.Float64Range(-1e9, 1e9).Draw(t, "number")
		case 3:
			return rapid.String().Draw(t, "text")
		case 4:
			return rapid.SliceOfN(jsonValue(depth-1), 0, 3).Draw(t, "array")
		default:
			return jsonObject(depth-1).Draw(t, "object")
		}
	})
}

// jsonObject draws an object with few keys, so that patches meet their targets.
func jsonObject(depth int) *rapid.Generator[map[string]any] {
	return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c", "é", "<", ""}), jsonValue(depth), 0, 4)
}

// spoil writes a value with the keys in another order and white space.
func spoil(t *rapid.T, v any) string {
	space := rapid.SampledFrom([]string{"", " ", "\n\t"})
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		keys = rapid.Permutation(keys).Draw(t, "order")
		parts := make([]string, len(keys))
		for i, k := range keys {
			parts[i] = space.Draw(t, "space") + mustJSON(k) + space.Draw(t, "space") + ":" + spoil(t, v[k])
		}
		return "{" + strings.Join(parts, ",") + space.Draw(t, "space") + "}"
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = spoil(t, v[i]) + space.Draw(t, "space")
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	return mustJSON(v)
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestTheCanonicalFormDoesNotDependOnTheWriting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := jsonObject(3).Draw(t, "object")
		one, two := spoil(t, v), spoil(t, v)
		checkCanonical(t, []byte(one))
		a, errA := CanonicalMetadata("metadata", []byte(one))
		b, errB := CanonicalMetadata("metadata", []byte(two))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s becomes %s (%v)\n%s becomes %s (%v)", one, a, errA, two, b, errB)
		}
	})
}

// The examples of RFC 7396, appendix A, in its order.
func TestMergePatchExamplesOfTheRFC(t *testing.T) {
	for _, tc := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		merged, err := mergePatch([]byte(tc[0]), []byte(tc[1]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := value(merged)
		if err != nil {
			t.Fatalf("%s + %s gives %s: %v", tc[0], tc[1], merged, err)
		}
		if want, _ := value([]byte(tc[2])); !reflect.DeepEqual(got, want) {
			t.Errorf("%s + %s gives %s, want %s", tc[0], tc[1], merged, tc[2])
		}
	}
}

// merge is the pseudo code of RFC 7396, section 2, on decoded values.
func merge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, _ := target.(map[string]any)
	out := map[string]any{}
	for k, v := range t {
		out[k] = v
	}
	for k, v := range p {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = merge(out[k], v)
		}
	}
	return out
}

func TestMergeMetadata(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		docValue, patchValue := jsonObject(3).Draw(t, "doc"), jsonObject(3).Draw(t, "patch")
		doc, err := CanonicalMetadata("metadata", []byte(mustJSON(docValue)))
		if err != nil {
			t.Fatal(err)
		}
		patch, err := CanonicalMetadata("metadata", []byte(mustJSON(patchValue)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := MergeMetadata(doc, patch)
		if err != nil {
			t.Fatalf("%s + %s: %v", doc, patch, err)
		}
		want, err := CanonicalMetadata("metadata", []byte(mustJSON(merge(docValue, patchValue))))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s + %s gives %s, want %s (%v)", doc, patch, got, want, err)
		}
		// A retried patch changes nothing more.
		if twice, err := MergeMetadata(got, patch); err != nil || !bytes.Equal(twice, got) {
			t.Fatalf("%s + %s, applied twice, gives %s, once %s (%v)", doc, patch, twice, got, err)
		}
		// The state machine runs it on every node: the same bytes, each time.
		for range 3 {
			if again, _ := MergeMetadata(doc, patch); !bytes.Equal(again, got) {
				t.Fatalf("%s + %s gives %s, and then %s", doc, patch, got, again)
			}
		}
	})
}

func TestMergeMetadataHoldsTheLimits(t *testing.T) {
	half := strings.Repeat("x", MaxMetadataBytes/2)
	_, err := MergeMetadata([]byte(`{"a":"`+half+`"}`), []byte(`{"b":"`+half+`"}`))
	refused(t, "a merge beyond the limit", "metadata", err)
	if out, err := MergeMetadata([]byte(`{"a":1}`), nil); err != nil || string(out) != `{"a":1}` {
		t.Errorf("no patch gives %s (%v)", out, err)
	}
	if out, err := MergeMetadata(nil, []byte(`{"a":{"b":null}}`)); err != nil || string(out) != `{"a":{}}` {
		t.Errorf("a patch of nothing gives %s (%v)", out, err)
	}
	if out, err := MergeMetadata([]byte(`{"a":1}`), []byte(`{"a":null}`)); err != nil || out != nil {
		t.Errorf("an emptied object is %q (%v)", out, err)
	}
}
