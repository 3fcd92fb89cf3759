package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/snipdb/snipdb/storage"
)

var updateReadme = flag.Bool("update-readme", false, "write the tables of README.md anew")

// The tables of settings and of RocksDB's options in README.md are the ones of
// the program. `go test ./cmd/snipdb -run Readme -update-readme` writes them.
func TestReadmeTables(t *testing.T) {
	path := filepath.Join("..", "..", "README.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := between(t, between(t, string(text), "flags", flagTable()), "options", optionTable())
	if want == string(text) {
		return
	}
	if !*updateReadme {
		t.Fatal("the tables of README.md are not the program's: go test ./cmd/snipdb -run Readme -update-readme")
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// between puts content between the two marks of a table.
func between(t *testing.T, text, name, content string) string {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	i, j := strings.Index(text, begin), strings.Index(text, end)
	if i < 0 || j < i {
		t.Fatalf("README.md has no marks for the table of %s", name)
	}
	return text[:i+len(begin)] + content + text[j:]
}

func flagTable() string {
	var b strings.Builder
	b.WriteString("| flag | default | meaning |\n| --- | --- | --- |\n")
	serveFlags().VisitAll(func(f *pflag.Flag) {
		value := f.DefValue
		switch {
		case f.Name == "node-id":
			value = "the host's name"
		case value == "" || value == "[]" || f.Value.Type() == "bytes" && value == "0":
			value = ""
		default:
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | %s | %s |\n", f.Name, value, f.Usage)
	})
	return b.String()
}

func serveFlags() *pflag.FlagSet {
	for _, c := range rootCommand().Commands() {
		if c.Name() == "serve" {
			return c.Flags()
		}
	}
	return pflag.NewFlagSet("none", pflag.ContinueOnError)
}

func optionTable() string {
	var b strings.Builder
	b.WriteString("| option | small | default | large | what it is for | what shows that it is wrong |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, d := range storage.OptionDocs() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", d.Name, d.Small, d.Default, d.Large, d.Help, d.Wrong)
	}
	return b.String()
}

// Every command of snipdb that README.md names is there. Targets of make, files
// and tests are looked for in all pages: TestPagesNameWhatExists in package cmd.
func TestReadmeNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, c := range rootCommand().Commands() {
		known = append(known, c.Name())
	}
	for _, m := range regexp.MustCompile("(?m)(?:bin/|`)snipdb ([a-z][a-z-]*)").FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains(known, m[1]) {
			t.Errorf("README.md names snipdb %s, and there is no such command", m[1])
		}
	}
}
