package importer

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSplit(t *testing.T) {
	long := strings.Repeat("word ", 10) // 50 bytes
	for _, c := range []struct {
		name   string
		text   string
		target int
		want   []string
	}{
		{"nothing", "", 40, nil},
		{"white space only", " \n\n\t\n", 40, nil},
		{"short paragraphs are joined", "one\n\ntwo\n\nthree", 40, []string{"one\n\ntwo\n\nthree"}},
		{"a paragraph that does not fit begins a snippet", "one two three\n\nfour five six", 20, []string{"one two three", "four five six"}},
		{"one paragraph below twice the target stays whole", strings.TrimSpace(long), 30, []string{strings.TrimSpace(long)}},
		{"a heading begins a snippet", "text\n\n# Title\n\nmore", 100, []string{"text", "# Title\n\nmore"}},
		{"a heading stays with its text", "# Title\n\n" + strings.Repeat("x", 25), 30, []string{"# Title\n\n" + strings.Repeat("x", 25)}},
		{"headings in a row stay together", "# A\n## B\ntext", 100, []string{"# A\n\n## B\n\ntext"}},
		{"a fence is one paragraph", "a\n\n```go\nx\n\ny\n```\n\nb", 8, []string{"a", "```go\nx\n\ny\n```", "b"}},
		{"a huge paragraph is cut at sentences", "First one here. Second one here. Third", 18, []string{"First one here.", "Second one here.", "Third"}},
		{"and at words", "aaaa bbbb cccc dddd", 9, []string{"aaaa", "bbbb", "cccc dddd"}},
		{"and between runes", "ääääääää", 5, []string{"ää", "ää", "ää", "ää"}},
		{"carriage returns count as line ends", "a\r\n\r\nb", 2, []string{"a", "b"}},
	} {
		if got := Split(c.text, c.target); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

// Whatever the text is: no word is lost, the order is kept, no snippet is too
// large, and none is empty.
func TestSplitLosesNothing(t *testing.T) {
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.SampledFrom([]string{
			"word", "äöü", "\n\n", "\n", "# ", "## Heading\n", "```\n", ". ", "漢字漢字。", "   ", strings.Repeat("x", 90),
		}), 0, 60).Draw(t, "words")
		target := rapid.IntRange(8, 120).Draw(t, "target")
		text := strings.Join(words, rapid.SampledFrom([]string{"", " "}).Draw(t, "glue"))
		got := Split(text, target)
		for _, s := range got {
			// A heading may be in front of a piece that is as large as the target.
			if len(s) > maxFactor*target+len("## Heading\n\n")*60 || strings.TrimSpace(s) == "" || !utf8.ValidString(s) {
				t.Fatalf("bad snippet %q at target %d", s, target)
			}
		}
		if a, b := squeeze(text), squeeze(strings.Join(got, "\n")); a != b {
			t.Fatalf("text changed:\n got %q\nwant %q", b, a)
		}
	})
}
