package snippet

import (
	"encoding/binary"
	"errors"
	"math"
)

// Vector is an embedding: float32 values, little-endian, four bytes each. It
// is the one form that the log, the storage and the base64 of the API share.
type Vector []byte

// The errors of a vector.
var (
	ErrVectorEmpty  = errors.New("the vector is empty")
	ErrVectorLength = errors.New("the vector's length in bytes is not a multiple of 4")
	ErrVectorNaN    = errors.New("the vector holds NaN or an infinite value")
	ErrVectorZero   = errors.New("all values of the vector are zero")
	ErrVectorLarge  = errors.New("the vector is longer than the largest dimension")
)

// VectorOf encodes the values.
func VectorOf(values []float32) Vector {
	v := make(Vector, 4*len(values))
	for i, x := range values {
		binary.LittleEndian.PutUint32(v[4*i:], math.Float32bits(x))
	}
	return v
}

// Dimension is the number of values.
func (v Vector) Dimension() int { return len(v) / 4 }

// At returns value i.
func (v Vector) At(i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(v[4*i:]))
}

// Floats decodes the values.
func (v Vector) Floats() []float32 {
	out := make([]float32, v.Dimension())
	for i := range out {
		out[i] = v.At(i)
	}
	return out
}

// Validate returns ErrVectorEmpty, ErrVectorLength, ErrVectorLarge,
// ErrVectorNaN or ErrVectorZero, or nil for a vector that may be stored.
func (v Vector) Validate() error {
	switch {
	case len(v) == 0:
		return ErrVectorEmpty
	case len(v)%4 != 0:
		return ErrVectorLength
	case v.Dimension() > MaxDimension:
		return ErrVectorLarge
	}
	zero := true
	for i := range v.Dimension() {
		x := float64(v.At(i))
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return ErrVectorNaN
		}
		if x != 0 {
			zero = false
		}
	}
	if zero {
		return ErrVectorZero
	}
	return nil
}

// Normalize returns the vector scaled to unit length. It is called once, by
// the node that proposes: the result differs in the last bit between
// processors, so it must never be computed while a log entry is applied.
// The vector must be valid.
func (v Vector) Normalize() Vector {
	var sum float64
	for i := range v.Dimension() {
		x := float64(v.At(i))
		sum += x * x
	}
	norm := math.Sqrt(sum)
	out := make(Vector, len(v))
	for i := range v.Dimension() {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(float32(float64(v.At(i))/norm)))
	}
	return out
}
