package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// Entry is an entry of a node's Raft log: what `snipdb inspect-log` says.
type Entry struct {
	Index  uint64 `json:"index"`
	Term   uint64 `json:"term"`
	Type   string `json:"type"`
	Bytes  int    `json:"bytes"`
	Digest string `json:"digest"`
}

// LogBook is what the logs of all nodes had at each index, over the whole run.
// Two nodes must never have different entries at an index that is committed
// (hashicorp/raft #695 breaks that, and the state may hide it for long).
type LogBook struct {
	entries map[uint64]bookEntry
	// Logs is how many were read, Entries how many committed entries, Compared
	// how many of them another node had been seen with before.
	Logs, Entries, Compared int
}

type bookEntry struct {
	Entry
	node string
}

// Add takes the log of a node. Entries above committed may still be
// overwritten, and are left out.
func (b *LogBook) Add(node string, entries []Entry, committed uint64) (found []Violation) {
	const checker = "equal_logs"
	if b.entries == nil {
		b.entries = map[uint64]bookEntry{}
	}
	b.Logs++
	for i, e := range entries {
		if i > 0 && (e.Index <= entries[i-1].Index || e.Term < entries[i-1].Term) {
			found = append(found, violation(checker, "", "%s has entry %d of term %d behind entry %d of term %d",
				node, e.Index, e.Term, entries[i-1].Index, entries[i-1].Term))
		}
		if e.Index > committed {
			continue
		}
		b.Entries++
		first, known := b.entries[e.Index]
		if !known {
			b.entries[e.Index] = bookEntry{e, node}
			continue
		}
		if first.node != node {
			b.Compared++
		}
		if first.Entry != e {
			found = append(found, violation(checker, "", "at index %d %s had term %d, %d bytes, digest %s, and %s has term %d, %d bytes, digest %s",
				e.Index, first.node, first.Term, first.Bytes, first.Digest, node, e.Term, e.Bytes, e.Digest))
		}
	}
	return found
}

// compareLog reads the log of a node that does not run. It reads a copy,
// because reading repairs what a crash has left, which is the next start's
// business. What clients have seen is committed.
func (r *Run) compareLog(n *proctest.Node) {
	r.tb.Helper()
	committed := r.history.Highest()
	dir, err := os.MkdirTemp("", "snipdb-chaos-log-")
	if err != nil {
		r.tb.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if _, err := os.Stat(filepath.Join(n.Dir, "log")); err != nil {
		return // it was killed before it had a log
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(n.Dir, "log"), filepath.Join(n.Dir, "node"), dir).CombinedOutput(); err != nil {
		r.violate("equal_logs", "", "copy the log of %s: %v: %s", n.ID, err, out)
		return
	}
	log, err := readEntries(proctest.Binary(r.tb, "snipdb", r.tags...), dir)
	if err != nil {
		r.violate("equal_logs", "", "the log of %s can't be read: %v", n.ID, err)
		return
	}
	r.mu.Lock()
	found := r.book.Add(n.ID, log.Entries, max(committed, log.Applied))
	r.mu.Unlock()
	r.found(found...)
}

type entriesOf struct {
	Applied uint64  `json:"applied_index"`
	Entries []Entry `json:"entries"`
}

// readEntries lists the log in the data directory of a node that does not run.
func readEntries(binary, dir string) (*entriesOf, error) {
	cmd := exec.Command(binary, "inspect-log", "--data-dir", dir, "-o", "json")
	out, err := cmd.Output()
	if err != nil {
		text := ""
		if exit, ok := err.(*exec.ExitError); ok {
			text = string(exit.Stderr)
		}
		return nil, fmt.Errorf("inspect-log: %w: %s", err, text)
	}
	log := new(entriesOf)
	if err := json.Unmarshal(out, log); err != nil {
		return nil, fmt.Errorf("inspect-log: %w", err)
	}
	return log, nil
}
