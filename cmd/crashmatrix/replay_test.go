package crashmatrix

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// inspection is what `snipdb inspect -o json` says.
type inspection struct {
	Restore   bool   `json:"restore_snapshot"`
	DropLog   bool   `json:"drop_log"`
	Reason    string `json:"reason"`
	Violation string `json:"violation"`
	Applied   uint64 `json:"applied_index"`
	Snapshot  uint64 `json:"snapshot_index"`
	FirstLog  uint64 `json:"first_log_index"`
	LastLog   uint64 `json:"last_log_index"`
	Replay    struct {
		Index       uint64   `json:"index"`
		Snapshot    uint64   `json:"snapshot_index"`
		Entries     uint64   `json:"entries"`
		Rows        uint64   `json:"rows"`
		Digest      string   `json:"digest"`
		Compared    bool     `json:"compared"`
		Different   uint64   `json:"different_rows"`
		Differences []string `json:"differences"`
		Impossible  string   `json:"impossible"`
		Problems    []string `json:"problems"`
	} `json:"replay"`
}

// examine asks inspect for its verdict on I1 to I4 and on the state, on a copy
// of the dead node's directory: to open the stores cleans up, and that is the
// restart's to do.
func (c *crash) examine(n *proctest.Node) {
	c.t.Helper()
	copied := filepath.Join(c.dir, n.ID+"-at-the-crash")
	if err := os.RemoveAll(copied); err != nil {
		c.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", n.Dir, copied).CombinedOutput(); err != nil {
		c.t.Fatalf("copy the directory of %s: %v: %s", n.ID, err, out)
	}
	i, text, err := c.inspect(copied)
	switch {
	case err != nil && strings.Contains(text, "never run"):
		c.result.plan = "new"
	case err != nil:
		c.violate(byInspect, "inspect says of the directory that %s left: %v: %s", n.ID, err, text)
	case i.Restore:
		// What is older than its snapshot can't be made of it.
		c.result.plan = i.plan()
		c.result.notRebuilt++
	default:
		c.result.plan = i.plan()
		c.checkReplay(n.ID+", as it died", i)
	}
}

// inspect runs `snipdb inspect --replay` on a directory that no node uses, with
// the values that the nodes had.
func (c *crash) inspect(dir string, more ...string) (inspection, string, error) {
	arguments := append([]string{"inspect", "-o", "json", "--replay", "--data-dir", dir}, more...)
	cmd := exec.Command(proctest.Binary(c.t, "snipdb", "failpoints"), arguments...)
	cmd.Env = append(os.Environ(), "SNIPDB_FAILPOINTS="+c.result.drive.values)
	var warnings strings.Builder
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	var i inspection
	// A refusal is an answer too, and comes with an error.
	if bad := json.Unmarshal(out, &i); err == nil {
		err = bad
	}
	return i, fmt.Sprint(warnings.String(), i.Violation, i.Replay.Differences, i.Replay.Problems), err
}

func (i inspection) plan() string {
	switch {
	case i.Restore && i.DropLog:
		return "restore, drop log"
	case i.Restore:
		return "restore"
	case i.DropLog:
		return "drop log"
	}
	return "start"
}

// checkReplay wants the state that a node has reached to be, in every row, the
// one that its snapshot and its log make.
func (c *crash) checkReplay(who string, i inspection) {
	c.t.Helper()
	r := i.Replay
	if !r.Compared || r.Different > 0 || r.Rows == 0 && i.Applied > 0 {
		c.violate(byReplay, "%s: the state at %d against a replay: compared %v, %d of %d rows differ: %q %s", who, i.Applied, r.Compared, r.Different, r.Rows, r.Differences, r.Impossible)
		return
	}
	c.result.rebuilt++
	if r.Snapshot == 0 {
		c.result.fromNothing++
	}
}

// checkDigests replays every node's log to one index, and wants the same bytes
// of each: nodes that applied the same entries in the same order.
func (c *crash) checkDigests(at map[*proctest.Node]inspection) {
	c.t.Helper()
	var to uint64
	for _, i := range at {
		if reached := max(i.Applied, i.Snapshot); to == 0 || reached < to {
			to = reached
		}
	}
	digests := map[string][]string{}
	for n, i := range at {
		if i.Snapshot > to {
			// The nodes are stopped one after the other, and meanwhile the others
			// go on with their Ticks: this one took a snapshot beyond what the
			// first to go had applied, and has no log from before it.
			c.t.Logf("the snapshot of %s is of index %d, another node had applied %d only: no digest", n.ID, i.Snapshot, to)
			continue
		}
		at, text, err := c.inspect(n.Dir, "--replay-to", fmt.Sprint(to))
		if err != nil || at.Replay.Digest == "" {
			c.violate(byReplay, "replay %s to %d: %v %s %s", n.ID, to, err, text, at.Replay.Impossible)
			continue
		}
		c.result.digests++
		digests[at.Replay.Digest] = append(digests[at.Replay.Digest], n.ID)
	}
	if len(digests) > 1 {
		c.violate(byDigest, "replays to index %d differ: %v", to, digests)
	}
}
