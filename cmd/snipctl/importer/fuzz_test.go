package importer

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzSplit: nothing is lost but white space, no piece is larger than is said,
// and no rune is cut.
func FuzzSplit(f *testing.F) {
	f.Add("# Title\n\ntext. more text! and more?\n\n```\ncode\n\ncode\n```\n", 10)
	f.Add("one long line without any end that must be cut in the middle of a wordwordwordwordword", 8)
	f.Add("日本語。日本語。日本語。", 4)
	f.Add("## A\n### B\n\n#### C\n", 1)
	f.Add("\r\n\r\n\u00a0x\u2029y", 3)
	f.Add("\u6002\xe6   \xaa\x9e00", 4)
	f.Fuzz(func(t *testing.T, text string, target int) {
		target %= 1 << 12
		pieces := Split(text, target)
		if target <= 0 {
			target = DefaultTarget
		}
		got := ""
		for _, p := range pieces {
			got += visible(p) // each alone: joined, halves of two broken runes could make a whole one
			if strings.TrimSpace(p) == "" || len(p) > max(maxFactor*target, utf8.UTFMax) || utf8.ValidString(text) && !utf8.ValidString(p) {
				t.Errorf("with a target of %d, a piece is %q", target, p)
			}
		}
		if got != visible(text) {
			t.Errorf("%q becomes %q", text, pieces)
		}
	})
}

// visible is s without white space.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

// FuzzNDJSON: every line is a document or an error with its number, in order,
// and the end is reached.
func FuzzNDJSON(f *testing.F) {
	f.Add([]byte("{\"id\":\"a\",\"content\":\"x\"}\n\n{\"id\":\"b\"}\r\nx\n{}"))
	f.Add([]byte(`{"id":"a","snippets":[{"vector":[1,2],"content":null}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		last, lines := 0, bytes.Count(raw, []byte("\n"))+1
		for item := range NDJSON(bytes.NewReader(raw)).Items {
			if item.Number <= last || item.Number > lines {
				t.Errorf("line %d after line %d of %d", item.Number, last, lines)
			}
			last = item.Number
			if item.Err == nil && item.Doc.ID == "" {
				t.Errorf("line %d has no id", item.Number)
			}
		}
	})
}
