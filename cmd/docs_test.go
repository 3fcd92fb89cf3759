package cmd_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testFunc   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	makeTarget = regexp.MustCompile(`(?m)^([a-z-]+):`)
	// namedTest are the names of tests in a text; see exists.
	namedTest = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
	namedMake = regexp.MustCompile("`make ([a-z-]+)")
	// link is a relative link of Markdown.
	link = regexp.MustCompile(`\]\(([^)#:]+)[^):]*\)`)
)

// Every test, make target and file that a page of the documentation names is
// there: a page that says how something is tested must not outlive the test.
func TestPagesNameWhatExists(t *testing.T) {
	tests, targets := map[string]bool{}, map[string]bool{}
	for _, file := range filesThat(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") }) {
		for _, m := range testFunc.FindAllStringSubmatch(read(t, file), -1) {
			tests[m[1]] = true
		}
	}
	for _, m := range makeTarget.FindAllStringSubmatch(read(t, "../Makefile"), -1) {
		targets[m[1]] = true
	}
	pages := filesThat(t, func(name string) bool { return path.Ext(name) == ".md" })
	if len(tests) == 0 || len(targets) == 0 || len(pages) == 0 {
		t.Fatalf("%d tests, %d targets, %d pages: they were not looked for where they are", len(tests), len(targets), len(pages))
	}
	// A name may be the beginning of one, as in a -run pattern.
	exists := func(name string) bool {
		for known := range tests {
			if strings.HasPrefix(known, name) {
				return true
			}
		}
		return false
	}
	for _, page := range pages {
		text := read(t, page)
		for _, name := range namedTest.FindAllString(text, -1) {
			if !exists(name) {
				t.Errorf("%s names %s, and there is no such test", page, name)
			}
		}
		for _, m := range namedMake.FindAllStringSubmatch(text, -1) {
			if !targets[m[1]] {
				t.Errorf("%s names make %s, and there is no such target", page, m[1])
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
