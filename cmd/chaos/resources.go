package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
)

const (
	// A process at rest may hold so much more than a fresh one: RocksDB's
	// files, idle connections of clients, goroutines of those.
	moreGoroutines, moreSockets, moreFiles = 80, 80, 150
	// restWait is how long a process may take to come to rest: the files of an
	// old state go away by and by, and so do idle connections, those of a node
	// that has passed calls on after 45 s and those of a client after 60.
	restWait = 90 * time.Second
	// In a soak the memory of a process that lives from the beginning to the
	// end may grow by a factor and a sum: its caches fill.
	moreMemory, moreMemoryBytes = 1.5, 64 << 20
)

// Held is what a process holds.
type Held struct {
	Goroutines int
	// Sockets and Files are open; Deleted are open files that are in no
	// directory any more.
	Sockets, Files, Deleted int
	// Memory is what is resident of its own, without mapped files.
	Memory int64
	// Disk is the size of its data directory.
	Disk int64
}

func (h Held) String() string {
	return fmt.Sprintf("%d goroutines, %d sockets, %d files (%d deleted), %d MiB memory, %d MiB disk",
		h.Goroutines, h.Sockets, h.Files, h.Deleted, h.Memory>>20, h.Disk>>20)
}

// CheckHeld compares what a process holds at rest with what a fresh one does.
func CheckHeld(node string, fresh, now Held) (found []Violation) {
	const checker = "leaks"
	for _, row := range []struct {
		what             string
		fresh, now, more int
	}{
		{"goroutines", fresh.Goroutines, now.Goroutines, moreGoroutines}, {"sockets", fresh.Sockets, now.Sockets, moreSockets},
		{"open files", fresh.Files, now.Files, moreFiles}, {"open files that are deleted", 0, now.Deleted, 0},
	} {
		if row.now > row.fresh+row.more || row.what == "goroutines" && row.now <= 0 {
			found = append(found, violation(checker, "", "%s has %d %s at rest; a fresh one has %d", node, row.now, row.what, row.fresh))
		}
	}
	return found
}

// held looks at a process.
func (r *Run) held(n *proctest.Node) (Held, error) {
	ctx, cancel := context.WithTimeout(context.Background(), adminWait)
	defer cancel()
	text, _, err := r.admin.NodeMetrics(ctx, n.URL)
	if err != nil {
		return Held{}, err
	}
	h := Held{Goroutines: int(gauge(text, "go_goroutines")), Disk: sizeOf(n.Dir)}
	h.Sockets, h.Files, h.Deleted, err = openFiles(n.Pid(), n.Dir)
	if err != nil {
		return h, err
	}
	h.Memory, err = ownMemory(n.Pid())
	return h, err
}

// openFiles counts the descriptors of a process: sockets, and files under dir.
func openFiles(pid int, dir string) (sockets, files, deleted int, err error) {
	folder := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(folder, e.Name()))
		switch {
		case err != nil: // closed meanwhile
		case strings.HasPrefix(target, "socket:"):
			sockets++
		case strings.HasPrefix(target, dir) && strings.HasSuffix(target, " (deleted)"):
			deleted++
			files++
		case strings.HasPrefix(target, dir):
			files++
		}
	}
	return sockets, files, deleted, err
}

// ownMemory is what is resident of a process and no file's.
func ownMemory(pid int) (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("chaos: %w", err)
	}
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("chaos: process %d has no RssAnon", pid)
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10, err
}

func sizeOf(dir string) (size int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size
}

// checkLeaks waits until each process is at rest, and compares what it holds
// with what the first ones held before there was any load.
func (r *Run) checkLeaks() {
	deadline := time.Now().Add(restWait)
	for _, n := range r.nodes {
		var (
			now   Held
			found []Violation
		)
		for {
			var err error
			if now, err = r.held(n); err != nil {
				found = []Violation{violation("leaks", "", "%s: %v", n.ID, err)}
			} else {
				found = CheckHeld(n.ID, r.fresh, now)
			}
			if len(found) == 0 || time.Now().After(deadline) {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		r.found(found...)
		r.note("%s at rest: %v", n.ID, now)
		r.figures.rest = append(r.figures.rest, n.ID+": "+now.String())
	}
}

// soakSample looks at the processes that are spared, in a quiet phase.
func (r *Run) soakSample() {
	for _, n := range r.spared {
		h, err := r.held(n)
		if err != nil {
			r.violate("leaks", "", "%s: %v", n.ID, err)
			continue
		}
		r.samples[n.ID] = append(r.samples[n.ID], h)
	}
}

// CheckFlat compares the first third of the samples of one process with the
// last: medians, so that one bad moment does not decide.
func CheckFlat(node string, samples []Held) (found []Violation) {
	const checker, least = "flat", 6
	if len(samples) < least {
		return nil // too short to say anything
	}
	third := len(samples) / 3
	median := func(part []Held, of func(Held) int64) int64 {
		var all []int64
		for _, h := range part {
			all = append(all, of(h))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	for _, row := range []struct {
		what   string
		of     func(Held) int64
		factor float64
		more   int64
	}{
		{"bytes of memory", func(h Held) int64 { return h.Memory }, moreMemory, moreMemoryBytes},
		{"goroutines", func(h Held) int64 { return int64(h.Goroutines) }, 1, moreGoroutines},
		{"sockets", func(h Held) int64 { return int64(h.Sockets) }, 1, moreSockets},
		{"open files", func(h Held) int64 { return int64(h.Files) }, 1, moreFiles},
	} {
		early, late := median(samples[:third], row.of), median(samples[len(samples)-third:], row.of)
		if float64(late) > row.factor*float64(early)+float64(row.more) {
			found = append(found, violation(checker, "", "%s had %d %s in the first third of the run, and %d in the last", node, early, row.what, late))
		}
	}
	return found
}
