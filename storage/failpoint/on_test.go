//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child is set in the process that is to be killed.
const child = "FAILPOINT_TEST_CHILD"

func TestArmedByEnvironmentAndFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "points")
	if err := Arm([]string{"SNIPDB_FAILPOINTS=fsm.commit.before=error@2", "SNIPDB_FAILPOINTS_FILE=" + file}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Arm(nil) })
	for hit, want := range []bool{false, true, false} {
		if err := Error(CommitBefore); (err != nil) != want || want && !errors.Is(err, syscall.EIO) {
			t.Errorf("hit %d: %v", hit+1, err)
		}
	}
	if n := Value(ExpireMaxRows, 7); n != 7 {
		t.Errorf("a value that is not set is %d", n)
	}
	// The file arms a process that runs.
	if err := os.WriteFile(file, []byte("fsm.commit.before=error@2+\nfsm.expire.max_rows=set(9)"), 0o600); err != nil {
		t.Fatal(err)
	}
	for hit, want := range []bool{false, true, true} {
		if err := Error(CommitBefore); (err != nil) != want {
			t.Errorf("hit %d by the file: %v", hit+1, err)
		}
	}
	if n := Value(ExpireMaxRows, 7); n != 9 {
		t.Errorf("a value that is set to 9 is %d", n)
	}
}

func TestArmRefusesUnknownNames(t *testing.T) {
	if err := Arm([]string{"SNIPDB_FAILPOINTS=no.such.point=kill"}); err == nil || !strings.Contains(err.Error(), "no.such.point") {
		t.Errorf("got %v", err)
	}
}

func TestKill(t *testing.T) {
	if os.Getenv(child) != "" {
		if err := Arm(os.Environ()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			Hit(LogStoreAfter)
		}
		time.Sleep(time.Minute)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), child+"=1", "SNIPDB_FAILPOINTS=log.store.after=kill@3")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the child ended with %v", err)
	}
	if !strings.Contains(string(out), "failpoint log.store.after: kill at hit 3") {
		t.Errorf("the child said %q", out)
	}
}
