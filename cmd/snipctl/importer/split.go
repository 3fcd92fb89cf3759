package importer

import (
	"strings"
	"unicode/utf8"
)

// DefaultTarget is the size in bytes that snippets aim at: about 250 tokens,
// which every embedding model takes whole.
const DefaultTarget = 1000

// maxFactor times the target is the largest snippet. A paragraph below that
// is kept in one piece: half a paragraph is a worse search result than a long
// snippet is.
const maxFactor = 2

// Split cuts text into snippets of about target bytes at paragraphs. A
// paragraph is never joined with the next if that makes the snippet larger
// than target; one larger than twice the target is cut at the end of a line,
// a sentence or a word, in that order. A Markdown heading begins a snippet and
// stays with the text below it; a fenced code block counts as one paragraph.
// No byte is lost but white space between snippets.
func Split(text string, target int) []string {
	if target <= 0 {
		target = DefaultTarget
	}
	var (
		out     []string
		current strings.Builder
		lonely  bool // current holds headings only, so far
	)
	flush := func() {
		if current.Len() > 0 {
			out = append(out, current.String())
			current.Reset()
		}
	}
	add := func(p string) {
		if current.Len() > 0 {
			current.WriteString("\n\n")
		}
		current.WriteString(p)
	}
	for _, p := range paragraphs(text) {
		heading := isHeading(p)
		full := current.Len()+2+len(p) > target
		switch {
		case current.Len() > 0 && lonely && current.Len()+2+len(p) <= maxFactor*target:
			// A heading never stands alone at the end of a snippet.
		case heading && !lonely, full:
			flush()
		}
		if current.Len() == 0 {
			lonely = true
		}
		lonely = lonely && heading
		if len(p) <= maxFactor*target {
			add(p)
			continue
		}
		for _, piece := range cut(p, target) {
			add(piece)
			flush()
		}
	}
	flush()
	return out
}

// paragraphs splits at blank lines, outside of fenced code.
func paragraphs(text string) []string {
	var (
		out   []string
		lines []string
		fence string
	)
	flush := func() {
		if p := strings.Trim(strings.Join(lines, "\n"), "\n"); strings.TrimSpace(p) != "" {
			out = append(out, p)
		}
		lines = lines[:0]
	}
	for line := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
		line = strings.TrimRight(line, " \t\n")
		trimmed := strings.TrimLeft(line, " ")
		switch {
		case fence != "":
			if strings.HasPrefix(trimmed, fence) {
				fence = ""
			}
		case strings.HasPrefix(trimmed, "```"), strings.HasPrefix(trimmed, "~~~"):
			fence = trimmed[:3]
		case line == "":
			flush()
			continue
		case isHeading(line):
			flush()
			lines = append(lines, line)
			flush()
			continue
		}
		lines = append(lines, line)
	}
	flush()
	return out
}

// isHeading says whether p is one ATX heading of Markdown: "## Title".
func isHeading(p string) bool {
	level := len(p) - len(strings.TrimLeft(p, "#"))
	return level >= 1 && level <= 6 && strings.HasPrefix(p[level:], " ") && !strings.Contains(p, "\n")
}

// cut divides a paragraph that is too large into pieces of at most target
// bytes, each at the best place in its second half.
func cut(p string, target int) []string {
	var out []string
	for len(p) > target {
		at := cutPoint(p, target)
		// A piece of nothing but white space, of whatever kind, says nothing.
		if piece := strings.TrimRight(p[:at], " \t\n"); strings.TrimSpace(piece) != "" {
			out = append(out, piece)
		}
		p = strings.TrimLeft(p[at:], " \t\n")
	}
	if strings.TrimSpace(p) != "" {
		out = append(out, p)
	}
	return out
}

// cutPoint finds where to cut p so that the first part has at most limit
// bytes: behind a line, a sentence, a word, or between two runes.
func cutPoint(p string, limit int) int {
	window := p[:limit]
	low := limit / 2
	if at := strings.LastIndexByte(window, '\n'); at >= low {
		return at + 1
	}
	for _, end := range []string{". ", "! ", "? ", "。"} {
		if at := strings.LastIndex(window, end); at >= low {
			return at + len(end)
		}
	}
	if at := strings.LastIndexByte(window, ' '); at >= low {
		return at + 1
	}
	at := limit
	for at > 0 && !utf8.RuneStart(p[at]) {
		at--
	}
	if at == 0 { // limit is smaller than one rune; go forward so that the loop ends
		_, at = utf8.DecodeRuneInString(p)
	}
	return at
}
