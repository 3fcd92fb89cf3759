package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// The bounds of the fsync measurement: enough for a 99th percentile, and short.
const (
	fsyncRounds = 300
	fsyncTime   = 5 * time.Second
	fsyncBytes  = 4 << 10
)

// Disk measures the disk under a data directory: what a log write costs there,
// and how much room is left.
func Disk(ctx context.Context, dir string) []Check {
	return []Check{fsync(ctx, dir), space(dir)}
}

// fsync appends to a file and waits for the disk after each write, as the Raft
// log does.
func fsync(ctx context.Context, dir string) Check {
	check := Check{Name: "fsync", Where: dir, Verdict: Fail}
	times, err := fsyncTimes(ctx, dir)
	if err != nil {
		check.Found = err.Error()
		return check.advise("Give a directory on the disk of the node in which files can be made.")
	}
	slices.Sort(times)
	median, p99 := times[len(times)/2], times[len(times)*99/100]
	check.Found = fmt.Sprintf("p50 %s, p99 %s, max %s of %d", median.Round(time.Microsecond), p99.Round(time.Microsecond),
		times[len(times)-1].Round(time.Microsecond), len(times))
	switch kind := filesystem(dir); {
	case kind == "tmpfs":
		check.Verdict = Warn
		check.Found += ", tmpfs"
		return check.advise("This is memory: a power loss takes everything. Use a directory on a disk.")
	case median < fsyncTooFast:
		check.Verdict = Warn
		return check.advise("Too fast for a disk that keeps its word: it, or the virtual machine, may answer before the data is safe.")
	}
	check.Verdict = judge(p99 > fsyncFail, p99 > fsyncWarn)
	return check.advise("Every write waits for this on a majority of nodes: use a local SSD or NVMe disk, and nothing else that writes much to it.")
}

func fsyncTimes(ctx context.Context, dir string) ([]time.Duration, error) {
	file, err := os.CreateTemp(dir, ".snipctl-doctor-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	block := make([]byte, fsyncBytes)
	var times []time.Duration
	for begin := time.Now(); len(times) < fsyncRounds && time.Since(begin) < fsyncTime && ctx.Err() == nil; {
		block[0]++
		start := time.Now()
		if _, err := file.Write(block); err != nil {
			return nil, err
		}
		if err := datasync(file); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start))
	}
	if len(times) == 0 {
		return nil, ctx.Err()
	}
	return times, nil
}

func space(dir string) Check {
	free, total, err := diskSpace(dir)
	if err != nil {
		return Check{Name: "disk space", Where: dir, Verdict: Skip, Found: err.Error()}
	}
	return Check{Name: "disk space", Where: dir, Verdict: judge(free < diskFail, free < diskWarn),
		Found: fmt.Sprintf("%s of %s free", bytesText(free), bytesText(total))}.
		advise("Free space, or move the data directory.")
}

// Machine judges the limits of this machine and of this shell, for a node that
// is to be started here with the given memory budget in bytes.
func Machine(budget uint64) []Check {
	var out []Check
	if soft, hard, err := fileLimit(); err != nil {
		out = append(out, Check{Name: "open files", Where: "here", Verdict: Skip, Found: err.Error()})
	} else {
		out = append(out, Check{Name: "open files", Where: "here", Verdict: judge(soft < filesFail, soft < filesWarn), Found: fmt.Sprintf("limit %d, at most %d", soft, hard)}.
			advise("Raise it before a node is started here: ulimit -n 65536."))
	}
	available, limit, err := memory()
	if err != nil {
		return append(out, Check{Name: "memory", Where: "here", Verdict: Skip, Found: err.Error()})
	}
	room := available
	if limit > 0 {
		room = min(room, limit)
	}
	found := fmt.Sprintf("%s available for a budget of %s", bytesText(room), bytesText(budget))
	// The process needs about half a gibibyte beside RocksDB's budget.
	return append(out, Check{Name: "memory", Where: "here", Verdict: judge(room < budget, room < budget+512<<20), Found: found}.
		advise("Lower --memory, or use --profile small."))
}
