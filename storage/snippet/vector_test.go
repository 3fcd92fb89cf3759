package snippet

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestVectorsAreLittleEndian(t *testing.T) {
	v := VectorOf([]float32{1, -2.5})
	if string(v) != "\x00\x00\x80\x3f\x00\x00\x20\xc0" || v.Dimension() != 2 || v.At(0) != 1 || v.At(1) != -2.5 {
		t.Fatalf("%x", []byte(v))
	}
}

func TestWhichVectorsMayBeStored(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	negativeZero := float32(math.Copysign(0, -1))
	large := make([]float32, MaxDimension+1)
	large[0] = 1
	for name, tc := range map[string]struct {
		v    Vector
		want error
	}{
		"nil":              {nil, ErrVectorEmpty},
		"empty":            {Vector{}, ErrVectorEmpty},
		"three bytes":      {Vector{1, 2, 3}, ErrVectorLength},
		"five bytes":       {Vector{0, 0, 128, 63, 1}, ErrVectorLength},
		"NaN":              {VectorOf([]float32{1, nan}), ErrVectorNaN},
		"infinity":         {VectorOf([]float32{inf}), ErrVectorNaN},
		"minus infinity":   {VectorOf([]float32{0, -inf}), ErrVectorNaN},
		"NaN among zeros":  {VectorOf([]float32{0, 0, nan}), ErrVectorNaN},
		"zero":             {VectorOf(make([]float32, 8)), ErrVectorZero},
		"minus zero":       {VectorOf([]float32{0, negativeZero}), ErrVectorZero},
		"too long":         {VectorOf(large), ErrVectorLarge},
		"the longest":      {VectorOf(large[:MaxDimension]), nil},
		"one value":        {VectorOf([]float32{-1}), nil},
		"the least value":  {VectorOf([]float32{0, math.SmallestNonzeroFloat32}), nil},
		"the largest":      {VectorOf([]float32{math.MaxFloat32, -math.MaxFloat32}), nil},
		"the last nonzero": {VectorOf(append(make([]float32, 100), 1)), nil},
	} {
		if err := tc.v.Validate(); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if err := ValidateVector("vector", tc.v); (err != nil) != (tc.want != nil) {
			t.Errorf("%s: ValidateVector has %v", name, err)
		} else if err != nil {
			refused(t, name, "vector", err)
		}
	}
}

func TestFloatsAndVectorAreInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOf(rapid.Float32()).Draw(t, "values")
		back := VectorOf(values).Floats()
		if len(back) != len(values) {
			t.Fatalf("%d values came back as %d", len(values), len(back))
		}
		for i := range values {
			if math.Float32bits(values[i]) != math.Float32bits(back[i]) {
				t.Fatalf("value %d: %v came back as %v", i, values[i], back[i])
			}
		}
	})
}

func TestNormalizeGivesUnitLength(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// All magnitudes, the denormal ones and those whose squares no
		// float32 holds included.
		bits := rapid.SliceOfN(rapid.Uint32(), 1, 64).Draw(t, "bits")
		values := make([]float32, len(bits))
		for i, b := range bits {
			values[i] = math.Float32frombits(b)
		}
		v := VectorOf(values)
		if v.Validate() != nil {
			return
		}
		before := string(v)
		unit := v.Normalize()
		if string(v) != before {
			t.Fatal("the vector itself was changed")
		}
		if err := unit.Validate(); err != nil {
			t.Fatalf("%v becomes %v: %v", values, unit.Floats(), err)
		}
		var sum float64
		for i := range unit.Dimension() {
			sum += float64(unit.At(i)) * float64(unit.At(i))
			if a, b := v.At(i), unit.At(i); a > 0 && b < 0 || a < 0 && b > 0 {
				t.Fatalf("value %d changes its sign: %v becomes %v", i, a, b)
			}
		}
		if math.Abs(sum-1) > 1e-5 {
			t.Fatalf("the length of %v is %v", unit.Floats(), math.Sqrt(sum))
		}
	})
}
