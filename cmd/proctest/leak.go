package proctest

import (
	"fmt"
	"net/http"
	"os"

	"go.uber.org/goleak"
)

// leaked is the exit code of a package whose tests have all passed: 1 if a
// goroutine of theirs is still there. The nodes are processes of their own and
// leave with them; this finds clients, checkers and proxies that were forgotten.
func leaked() int {
	http1.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
