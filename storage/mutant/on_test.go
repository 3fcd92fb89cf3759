//go:build mutants

package mutant

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// In a child process, On is asked for two names.
func TestOnlyTheChosenOneIsOn(t *testing.T) {
	if os.Getenv("MUTANT_TEST_CHILD") != "" {
		if On(SkipOffByOne) || !On(SkipOff) || !On(SkipOff) {
			t.Error("the wrong one is on")
		}
		return
	}
	file := filepath.Join(t.TempDir(), "reached")
	out, err := child("skip.off", file)
	if err != nil || strings.Count(out, "mutant skip.off: reached") != 1 {
		t.Errorf("%v: %s", err, out)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "skip.off" {
		t.Errorf("the mark is %q, %v", text, err)
	}
}

func TestAnUnknownNameEndsTheProcess(t *testing.T) {
	if out, err := child("skip.of", ""); err == nil || !strings.Contains(out, `there is none called "skip.of"`) {
		t.Errorf("%v: %s", err, out)
	}
}

func child(name, mark string) (string, error) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestOnlyTheChosenOneIsOn$")
	cmd.Env = append(os.Environ(), "MUTANT_TEST_CHILD=1", variable+"="+name, markVariable+"="+mark)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
