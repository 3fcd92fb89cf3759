package snippet

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Sum is a hash of a multiset of rows: the sum, modulo 2^128, of a hash of
// each. The order in which rows come and go does not matter, and taking one
// out is one subtraction (Bellare and Micciancio, "A new paradigm for
// collision-free hashing: incrementality at reduced cost", 1997, section 5,
// AdHash; Clarke et al., "Incremental multiset hash functions", 2003). The zero
// value is the sum of no rows.
type Sum struct{ Hi, Lo uint64 }

// SumBytes is the length of an encoded sum.
const SumBytes = 16

// Add returns s + o.
func (s Sum) Add(o Sum) Sum {
	lo, carry := bits.Add64(s.Lo, o.Lo, 0)
	hi, _ := bits.Add64(s.Hi, o.Hi, carry)
	return Sum{Hi: hi, Lo: lo}
}

// Sub returns s - o.
func (s Sum) Sub(o Sum) Sum {
	lo, borrow := bits.Sub64(s.Lo, o.Lo, 0)
	hi, _ := bits.Sub64(s.Hi, o.Hi, borrow)
	return Sum{Hi: hi, Lo: lo}
}

// IsZero says whether s is the sum of no rows.
func (s Sum) IsZero() bool { return s == Sum{} }

// Append appends the 16 bytes of the sum, big-endian.
func (s Sum) Append(dst []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, s.Hi), s.Lo)
}

// String is the sum in hexadecimal, 32 digits.
func (s Sum) String() string { return hex.EncodeToString(s.Append(nil)) }

// ParseSum is the inverse of Append; no bytes are the zero sum.
func ParseSum(b []byte) (Sum, error) {
	switch len(b) {
	case 0:
		return Sum{}, nil
	case SumBytes:
		return Sum{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}, nil
	}
	return Sum{}, fmt.Errorf("a sum has %d bytes, not %d", SumBytes, len(b))
}
