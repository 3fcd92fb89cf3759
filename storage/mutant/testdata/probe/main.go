// Command probe is compiled by a test, which compares the machine code of
// with and without.
package main

import (
	"fmt"
	"os"

	"github.com/snipdb/snipdb/storage/mutant"
)

//go:noinline
func with(n, applied int64) int64 {
	if n <= applied && !mutant.On(mutant.SkipOff) {
		return 0
	}
	if mutant.On(mutant.ExpiryByWallClock) {
		return mistake(n)
	}
	return n * 7
}

//go:noinline
func without(n, applied int64) int64 {
	if n <= applied {
		return 0
	}
	return n * 7
}

//go:noinline
func mistake(n int64) int64 { return n * 8 }

func main() {
	n := int64(len(os.Args))
	fmt.Println(with(n, 3) == without(n, 3))
}
