package chaos

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Reign says that somebody saw a node lead in a term.
type Reign struct {
	Term   uint64
	Node   string
	Source string
}

// CheckTerms checks that no term has two leaders. It returns the number of
// terms that had one.
func CheckTerms(seen []Reign) (terms int, found []Violation) {
	leaders := map[uint64]Reign{}
	for _, r := range seen {
		first, known := leaders[r.Term]
		switch {
		case !known:
			leaders[r.Term] = r
		case first.Node != r.Node:
			found = append(found, violation("one_leader", "", "in term %d %s led (%s), and so did %s (%s)", r.Term, first.Node, first.Source, r.Node, r.Source))
		}
	}
	return len(leaders), found
}

// reignsOfWrites are the leaders that acknowledged writes. A replayed answer is
// of an older term.
func reignsOfWrites(ops []*Op) []Reign {
	seen := map[Reign]bool{}
	for _, o := range ops {
		if o.Outcome == OK && !o.IsRead() && !o.Replayed && o.Node != "" && o.Term > 0 {
			seen[Reign{o.Term, o.Node, "answer of a write"}] = true
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// LogFigures are what a node's log says of a run.
type LogFigures struct {
	Elections, Snapshots, Installs, StartupRestores int
	Reigns                                          []Reign
	// Alarms are lines that must not be there; Errors those of level error,
	// but for Raft's own, which are about peers that a fault has cut off.
	Alarms, Errors []string
}

var (
	termInLog, indexInLog = regexp.MustCompile(`\bterm=(\d+)`), regexp.MustCompile(`\bindex=(\d+)`)
	// alarms are what a process says when something is broken that no fault of
	// the network, and no kill, may break.
	alarms = []string{"panic:", "fatal error:", "SIGSEGV", "violated", "corrupt", "DATA RACE"}
)

// number reads a number from a line of a log; 0 without one.
func number(pattern *regexp.Regexp, line string) uint64 {
	m := pattern.FindStringSubmatch(line)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseUint(m[1], 10, 64)
	return n
}

// ReadLog counts the events in the log of a node, over all its starts.
func ReadLog(node, log string) LogFigures {
	var f LogFigures
	highest := uint64(0) // that a snapshot of this process had
	for line := range strings.Lines(log) {
		switch {
		case strings.Contains(line, `"election won"`):
			f.Elections++
			if term := number(termInLog, line); term > 0 {
				f.Reigns = append(f.Reigns, Reign{term, node, "log"})
			}
		case strings.Contains(line, `"the API answers"`):
			highest = 0 // another process, perhaps on an empty directory
		case strings.Contains(line, `"snapshot taken"`):
			f.Snapshots++
			highest = max(highest, number(indexInLog, line))
		case strings.Contains(line, `"snapshot installed"`):
			f.Installs++
			index := number(indexInLog, line)
			if index < highest {
				f.Alarms = append(f.Alarms, "the state went back: "+strings.TrimSpace(line))
			}
			highest = max(highest, index)
		case strings.Contains(line, `start-up: restoring`):
			f.StartupRestores++
		}
		if strings.Contains(line, "level=ERROR") && !strings.Contains(line, "component=raft") {
			f.Errors = append(f.Errors, strings.TrimSpace(line))
		}
		for _, alarm := range alarms {
			if strings.Contains(line, alarm) {
				f.Alarms = append(f.Alarms, strings.TrimSpace(line))
				break
			}
		}
	}
	return f
}
