// Command probe is compiled by a test, which compares the machine code of
// with and without.
package main

import (
	"fmt"
	"os"

	"github.com/snipdb/snipdb/storage/failpoint"
)

//go:noinline
func with(n int64) (int64, error) {
	failpoint.Hit(failpoint.LogStoreBefore)
	if err := failpoint.Error(failpoint.CommitBefore); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	return n * failpoint.Value(failpoint.ExpireMaxRows, 7), nil
}

//go:noinline
func without(n int64) (int64, error) {
	return n * 7, nil
}

func main() {
	a, _ := with(int64(len(os.Args)))
	b, _ := without(int64(len(os.Args)))
	fmt.Println(a == b)
}
