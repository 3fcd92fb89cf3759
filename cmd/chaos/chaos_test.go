package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
)

// environment is what the run was told from outside. It is taken out of the
// environment, because the nodes inherit that, and refuse to start with a
// setting that they do not know.
var environment = struct{ seed, duration, faults, soak, keep string }{
	take("SNIPDB_CHAOS_SEED"), take("SNIPDB_CHAOS_DURATION"), take("SNIPDB_CHAOS_FAULTS"), take("SNIPDB_CHAOS_SOAK"), take("SNIPDB_CHAOS_KEEP"),
}

func take(name string) string {
	value := os.Getenv(name)
	_ = os.Unsetenv(name)
	return value
}

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

// shortRun is how long the faults go on by default, soakRun in a soak; runs
// counts the runs of one process, as -count makes them: each has a seed of its own.
const shortRun, soakRun = 25 * time.Second, 30 * time.Minute

var runs uint64

func settings(t *testing.T) Options {
	t.Helper()
	o := Options{Seed: uint64(time.Now().UnixNano()) % 1e9, Duration: shortRun}
	if text := environment.seed; text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SNIPDB_CHAOS_SEED: %v", err)
		}
		o.Seed = seed + runs
		runs++
	}
	if environment.soak != "" {
		o.Soak, o.Duration = true, soakRun
	}
	if text := environment.duration; text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("SNIPDB_CHAOS_DURATION: %v", err)
		}
		o.Duration = d
	}
	if text := environment.faults; text != "" {
		o.Faults = strings.Split(text, ",")
	}
	// A short run does without mounts, unless its faults need them.
	o.Disks = o.Duration >= time.Minute || strings.Contains(environment.faults, "disk_")
	keep, err := keepIn(environment.keep, o.Seed, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o.Keep = keep
	return o
}

// keepIn makes the folder for what a failed run leaves, in dir or the temporary
// directory. No two runs have the same one.
func keepIn(dir string, seed uint64, start time.Time) (string, error) {
	if dir == "" {
		dir = os.TempDir()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("SNIPDB_CHAOS_KEEP: %w", err)
	}
	return os.MkdirTemp(dir, fmt.Sprintf("snipdb-chaos-%d-%s-", seed, start.Format("20060102-150405")))
}

func TestEachRunKeepsItsOwn(t *testing.T) {
	dir, start := filepath.Join(t.TempDir(), "kept"), time.Now()
	a, err := keepIn(dir, 7, start)
	if err != nil {
		t.Fatal(err)
	}
	b, err := keepIn(dir, 7, start)
	if err != nil || a == b || filepath.Dir(a) != dir || !strings.Contains(a, "snipdb-chaos-7-"+start.Format("2006")) {
		t.Errorf("two runs leave what they have in %s and %s: %v", a, b, err)
	}
}

func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes, and takes a minute")
	}
	start, o := time.Now(), settings(t)
	t.Logf("seed %d", o.Seed)
	t.Cleanup(func() { _ = os.Remove(o.Keep) }) // if nothing was left in it
	r := Start(t, o)
	// Also of a run that was given up in the middle.
	defer func() {
		var table strings.Builder
		r.Report(&table, time.Since(start))
		t.Logf("\n%s", table.String())
		if err := r.Result(); err != nil {
			t.Errorf("seed %d: %v", o.Seed, err)
		}
	}()
	r.Faults()
	r.Verify()
}
