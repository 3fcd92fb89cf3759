package chaos

import (
	"fmt"
	"sort"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// provoked says whether the workload asks for a refusal: it writes what may be
// absent, and on conditions that may fail. Two writes of one thing in one log
// entry are told to come again.
func provoked(o *Op) bool {
	switch wire.Code(o.Code) {
	case wire.CodeNotFound:
		return o.IsRead() || !o.creates() && o.Kind != KindLimits && o.Kind != KindAppend && o.Kind != KindPop
	case wire.CodeRevisionMismatch:
		return o.IfMatch > 0
	case wire.CodeAlreadyExists:
		return o.IfAbsent
	case wire.CodeWriteConflict:
		return !o.IsRead()
	}
	return false
}

// CheckAnswers checks that no node calls a request wrong that is right. No
// fault excuses that: what a fault brings about is a 5xx.
func CheckAnswers(ops []*Op) (found []Violation) {
	const most = 10 // of one kind and code; more say no more
	times := map[string]int{}
	for _, o := range ops {
		if o.Status < 400 || o.Status >= 500 || provoked(o) {
			continue
		}
		name := o.Kind + " " + o.Code
		if times[name]++; times[name] <= most {
			found = append(found, violation("answers", o.Key, "%s #%d was right, and was answered %d %s: %s", o.Kind, o.ID, o.Status, o.Code, o.Error))
		}
	}
	return found
}

// class is a kind of calls that must go on. floor is how many must succeed in
// each second of calm: a fiftieth of what a machine with nothing else to do does.
type class struct {
	name  string
	floor float64
	has   func(o *Op) bool
}

var classes = []class{
	{"writes", 3, func(o *Op) bool { return !o.IsRead() }},
	{client.LevelLinearizable + " reads", 1.5, levelled(client.LevelLinearizable)},
	{client.LevelBounded + " reads", 0.5, levelled(client.LevelBounded)},
	{client.LevelSession + " reads", 0.5, levelled(client.LevelSession)},
	{client.LevelLocal + " reads", 0.5, levelled(client.LevelLocal)},
}

func levelled(level string) func(o *Op) bool {
	return func(o *Op) bool { return o.IsRead() && o.Level == level }
}

const (
	// Of the calls that begin in calm maxFailed of a class may fail, besides a
	// few: some are still open when the next fault comes.
	maxFailed, fewFailed = 0.25, 20
	// leastCalm is the calm that a run needs so that it can be judged.
	leastCalm = 2 * time.Second
)

// Calm is what a class of calls did in the calms of a run.
type Calm struct {
	Class          string
	OK, Failed     int
	Least          int
	Length         time.Duration
	maxFailedCount int
}

func (c Calm) String() string {
	return fmt.Sprintf("%s: %d ok (%d are the least), %d failed (%d are the most)", c.Class, c.OK, c.Least, c.Failed, c.maxFailedCount)
}

// CheckCalm checks that in the calms, when all nodes are up and have caught up,
// each class of calls goes on, and few of them fail.
func CheckCalm(ops []*Op, calms []Span) (done []Calm, found []Violation) {
	var length time.Duration
	for _, s := range calms {
		length += s.Length()
	}
	in := func(at int64) bool { // they are in order
		i := sort.Search(len(calms), func(i int) bool { return calms[i].To > at })
		return i < len(calms) && at >= calms[i].From
	}
	for _, k := range classes {
		c := Calm{Class: k.name, Length: length, Least: int(k.floor * length.Seconds())}
		begun := 0
		for _, o := range ops {
			if !k.has(o) {
				continue
			}
			if in(o.Return) && (o.Outcome == OK || o.Outcome == Refused) {
				c.OK++
			}
			if in(o.Call) {
				begun++
				// Failed without an answer of its own is a part of a batch.
				if o.Outcome == Failed && o.Error != "" {
					c.Failed++
				}
			}
		}
		c.maxFailedCount = int(maxFailed*float64(begun)) + fewFailed
		done = append(done, c)
		if length >= leastCalm && c.OK < c.Least || c.Failed > c.maxFailedCount {
			found = append(found, violation("progress", "", "in %v of calm: %v", length.Round(time.Millisecond), c))
		}
	}
	return done, found
}

// proof is what a checker has looked at, and what is the least for a run.
type proof struct {
	what string
	n    int
	rate float64 // of the least in a second; below one in a run, one is needed
}

// CheckProved checks that each checker had something to look at: one that had
// nothing proves nothing.
func CheckProved(proofs []proof, duration time.Duration) (found []Violation) {
	for _, p := range proofs {
		if least := max(1, int(p.rate*duration.Seconds())); p.n < least {
			found = append(found, violation("proved", "", "nothing was proved: %s: %d, at least %d are needed in %v", p.what, p.n, least, duration))
		}
	}
	return found
}
