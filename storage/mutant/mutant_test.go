package mutant

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/storage/tagtest"
)

// A mistake must not be in what people run: the function that asks for two
// has, instruction for instruction, the code of the one that does not, and
// neither the names nor the code behind them are in the program.
func TestMutantsVanishWithoutTheTag(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program twice")
	}
	plain, code := tagtest.Probe(t, "")
	if !slices.Equal(plain["with"], plain["without"]) {
		t.Errorf("a function with mutants is compiled to\n%s\nthe same without them to\n%s",
			strings.Join(plain["with"], "\n"), strings.Join(plain["without"], "\n"))
	}
	if len(plain["mistake"]) != 0 || bytes.Contains(code, []byte(ExpiryByWallClock)) {
		t.Error("a mistake or its name is in the program")
	}
	// The test can fail: with the tag all of it is there.
	tagged, code := tagtest.Probe(t, "mutants")
	if slices.Equal(tagged["with"], tagged["without"]) || len(tagged["mistake"]) == 0 || !bytes.Contains(code, []byte(ExpiryByWallClock)) {
		t.Error("the mutants are not compiled in with the tag either")
	}
}

// Each mutant is a constant that says what it breaks, and is somewhere in the
// code of one package; and On is asked for nothing else.
func TestEveryMutantIsInTheCode(t *testing.T) {
	constants, used := tagtest.Constants(t, "mutants.go"), callSites(t)
	if len(constants) != len(All()) {
		t.Errorf("there are %d constants, and All has %d", len(constants), len(All()))
	}
	for constant, name := range constants {
		if All()[Name(name)] == "" {
			t.Errorf("All does not say what %s breaks", name)
		}
		if len(used[constant]) == 0 {
			t.Errorf("%s is at no place in the code", name)
		}
	}
	for constant, files := range used {
		if _, known := constants[constant]; !known {
			t.Errorf("%v ask for mutant.%s, which is none", files, constant)
		}
	}
	if len(All()) < 12 {
		t.Errorf("there are %d mutants", len(All()))
	}
}

// callSites returns the files that ask for each constant, in the whole module.
func callSites(t *testing.T) map[string][]string {
	t.Helper()
	used := map[string][]string{}
	call := regexp.MustCompile(`\bmutant\.On\(mutant\.(\w+)\)`)
	tagtest.Sources(t, "mutant", func(path string, text []byte) {
		for _, m := range call.FindAllSubmatch(text, -1) {
			used[string(m[1])] = append(used[string(m[1])], path)
		}
	})
	return used
}
