package wire

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// sameFloats compares bit by bit, so that -0 is not 0.
func sameFloats(a, b []float32) bool {
	return (a == nil) == (b == nil) && slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// hasNull says whether the array holds null, which encoding/json takes for 0
// and Floats refuses: a forgotten value must not become a number.
func hasNull(b []byte) bool {
	var list []any
	return json.Unmarshal(b, &list) == nil && slices.Contains(list, any(nil))
}

// checkFloats compares Floats with []float32 through encoding/json.
func checkFloats(t *testing.T, b []byte) {
	t.Helper()
	var want []float32
	wantErr := json.Unmarshal(b, &want)
	var got Floats
	err := json.Unmarshal(b, &got)
	if (err == nil) != (wantErr == nil) {
		if err != nil && hasNull(b) {
			return
		}
		t.Fatalf("%.200q: error %v, encoding/json has %v", b, err, wantErr)
	}
	if err != nil {
		return
	}
	if !sameFloats(got, want) {
		t.Fatalf("%.200q: %v, encoding/json has %v", b, got, want)
	}
	out, err := json.Marshal(got)
	if err != nil {
		t.Fatalf("%.200q: %v", b, err)
	}
	var back []float32
	if err := json.Unmarshal(out, &back); err != nil || !sameFloats(back, want) {
		t.Fatalf("%.200q came back as %s (%v)", b, out, err)
	}
}

var floatCases = []string{
	"[]", " [ ] ", "null", "[0]", "[-0]", "[1,2.5,-3e2]", " [ 1 ,\t2\n,\r3 ] ", "[1e-45]", "[1e-46]", "[3.4028235e38]", "[3.5e38]",
	"[1e400]", "[-1e39]", "[0.1,0.2,0.30000000000000004]", "[16777217]", "[1E+2,1e-2]", "[null]", "[1,null]", "[true]", `["1"]`, "[[1]]",
	"[{}]", "{}", `"x"`, "1", "true", "[1,]", "[,1]", "[1 2]", "[01]", "[.5]", "[5.]", "[+1]", "[0x10]", "[1_0]", "[NaN]", "[Infinity]",
	"[-]", "[1e]", "[", "]", "", "[1", "[1]]", `["a,b"]`, "[1,\"2\"]", "[0.00000000000000000000000000000000000000000000000000000001]",
}

func TestFloatsAreWhatEncodingJSONMakesOfThem(t *testing.T) {
	for _, text := range floatCases {
		checkFloats(t, []byte(text))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		values := make([]float32, random.IntN(50))
		for i := range values {
			for {
				values[i] = math.Float32frombits(random.Uint32())
				if x := float64(values[i]); !math.IsNaN(x) && !math.IsInf(x, 0) {
					break
				}
			}
		}
		b, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		checkFloats(t, b)
		own, err := json.Marshal(Floats(values))
		if err != nil {
			t.Fatal(err)
		}
		checkFloats(t, own)
	}
}

func TestFloatsThatAreNoNumbersAreNotWritten(t *testing.T) {
	for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if b, err := json.Marshal(Floats{float32(x)}); err == nil {
			t.Errorf("%v was written as %s", x, b)
		}
	}
}

// encoding/json checks the syntax before it calls UnmarshalJSON. What has
// another structure is refused all the same, and never a panic.
func TestUnmarshalJSONAloneRefusesOtherStructures(t *testing.T) {
	for _, text := range []string{
		"[1 2]", "[,1]", "[1,,2]", "[", "]", "", "[1", "1]", "[NaN]", "[Infinity]", "[+1]", "[.5]", "[-]", "[1e]", "{}", "1", "[[1]]", "[{}]", "[true]", "[null]", `["1"]`,
	} {
		var f Floats
		if err := f.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%q was taken as %v", text, f)
		}
	}
}

func FuzzFloats(f *testing.F) {
	for _, text := range floatCases {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkFloats(t, b) })
}

func TestContentIsATextOrTexts(t *testing.T) {
	for text, want := range map[string]Content{
		`"a"`: {"a"}, `["a","b"]`: {"a", "b"}, `[]`: {}, `null`: nil, ` "é" `: {"é"}, `""`: {""},
	} {
		var c Content
		if err := json.Unmarshal([]byte(text), &c); err != nil || !slices.Equal(c, want) || (c == nil) != (want == nil) {
			t.Errorf("%s: %q, %v", text, c, err)
		}
	}
	for _, text := range []string{`1`, `{}`, `[1]`, `true`, `[["a"]]`} {
		var c Content
		if err := json.Unmarshal([]byte(text), &c); err == nil {
			t.Errorf("%s was taken as %q", text, c)
		}
	}
}

func TestBase64OfAllAlphabets(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for n := range 200 {
		raw := make([]byte, n)
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			if got, err := DecodeBase64(enc.EncodeToString(raw)); err != nil || !slices.Equal(got, raw) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
		if got, err := DecodeBase64(EncodeBase64(raw)); err != nil || !slices.Equal(got, raw) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for _, bad := range []string{"!", "a", "====", "AA-+", "AAA=A"} {
		if b, err := DecodeBase64(bad); err == nil {
			t.Errorf("%q was taken as %x", bad, b)
		}
	}
}

func benchmarkVector(b *testing.B) []byte {
	values := make(Floats, 1024)
	random := rand.New(rand.NewPCG(5, 6))
	for i := range values {
		values[i] = random.Float32()*2 - 1
	}
	out, err := json.Marshal(values)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func BenchmarkFloatsDecode1024(b *testing.B) {
	in := benchmarkVector(b)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		var f Floats
		if err := json.Unmarshal(in, &f); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFloatsOwnPart1024 is the decoder without encoding/json's two passes
// over the text in front of it.
func BenchmarkFloatsOwnPart1024(b *testing.B) {
	in := benchmarkVector(b)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		var f Floats
		if err := f.UnmarshalJSON(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodingJSONDecode1024(b *testing.B) {
	in := benchmarkVector(b)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		var f []float32
		if err := json.Unmarshal(in, &f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFloatsEncode1024(b *testing.B) {
	var f Floats
	if err := json.Unmarshal(benchmarkVector(b), &f); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := json.Marshal(f); err != nil {
			b.Fatal(err)
		}
	}
}
