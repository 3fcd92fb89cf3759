package proctest

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// recorder is a test that may fail without failing this one.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Failed() bool        { return len(r.errors) > 0 }
func (r *recorder) Logf(string, ...any) {}

const oneRace = "==================\nWARNING: DATA RACE\nWrite at 0x00c000 by goroutine 7:\n  main.f()\n      f.go:%d\n==================\n"

// A node that had a race fails its test, though nothing looked for it.
func TestADataRaceFailsTheTest(t *testing.T) {
	rows := []struct {
		log  string
		want []string
	}{
		{"level=info msg=started\n", nil},
		{"level=info\n" + fmt.Sprintf(oneRace, 1) + "level=info\n" + fmt.Sprintf(oneRace, 2), []string{"n1 had 2 data races", "f.go:1"}},
		{"WARNING: DATA RACE\nRead at 0x1 by goroutine 3:\n  cut", []string{"n1 had 1 data races", "goroutine 3"}},
	}
	for _, r := range rows {
		test := &recorder{TB: t}
		n := &Node{ID: "n1", tb: test}
		_, _ = n.Write([]byte(r.log))
		n.cleanup()
		if len(test.errors) != min(1, len(r.want)) {
			t.Errorf("%q: %q", r.log, test.errors)
			continue
		}
		for _, part := range r.want {
			if !strings.Contains(test.errors[0], part) || strings.Contains(test.errors[0], "f.go:2") {
				t.Errorf("%q: %q, want %q in it", r.log, test.errors[0], part)
			}
		}
	}
}

// The variable builds the server with the detector, and nothing else.
func TestTheServerIsBuiltWithTheRaceDetector(t *testing.T) {
	if os.Getenv(raceVariable) != "1" {
		t.Skip("builds the server a second time: make race")
	}
	for name, want := range map[string]string{"snipdb": "true", "snipctl": ""} {
		info, err := buildinfo.ReadFile(Binary(t, name))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, s := range info.Settings {
			if s.Key == "-race" {
				got = s.Value
			}
		}
		if got != want {
			t.Errorf("%s is built with -race=%s", name, got)
		}
	}
}
