package chaos

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

const (
	// MaxUnknowns is how many writes of unknown outcome one document may have
	// that nobody ever saw. Each may take effect at any time, so with many of
	// them nearly any history passes: then the run has not shown anything.
	MaxUnknowns = 24
	// keyBudget bounds porcupine's search for one document.
	keyBudget = 30 * time.Second
)

// register is a document in the model. It is comparable.
type register struct {
	present                     bool
	title, content, model, rest string
	// rev is the revision, or that of the deletion; 0: the last write's
	// outcome was unknown, and nothing has shown its revision yet. floor is
	// what it must be above then.
	rev, floor uint64
}

// revision says whether the register may have this revision, and takes it.
func (r register) revision(rev uint64) (register, bool) {
	if r.rev == 0 && rev > r.floor {
		r.rev = rev
	}
	return r, r.rev == rev
}

// step is the sequential specification of one document.
func step(state, input, _ any) (bool, any) {
	r, o := state.(register), input.(*Op)
	switch {
	case o.Outcome == Refused:
		next, ok := r.refuse(o)
		return ok, next
	case o.IsRead():
		next, ok := r.read(o.Seen)
		return ok, next
	case o.Outcome == Unknown:
		// That it was not applied needs no case of its own: it may be put
		// behind all others, where nobody looks.
		if next, ok := r.meets(o); ok {
			next.apply(o)
			next.rev, next.floor = 0, max(r.rev, r.floor)
			return true, next
		}
		return true, r
	}
	if o.changesNothing() {
		return !r.present, r
	}
	next, ok := r.meets(o)
	if !ok || o.Index <= max(r.rev, r.floor) || o.creates() && o.Created == r.present {
		return false, r
	}
	next.apply(o)
	next.rev, next.floor = o.Index, 0
	return true, next
}

func (r register) read(seen *Seen) (register, bool) {
	if seen == nil {
		return r, !r.present
	}
	if !r.present || seen.Damage != "" || seen.Title != r.title || seen.Content != r.content || seen.Model != r.model || seen.Rest != r.rest {
		return r, false
	}
	return r.revision(seen.Revision)
}

// refuse is a write that the state machine said no to.
func (r register) refuse(o *Op) (register, bool) {
	switch wire.Code(o.Code) {
	case wire.CodeNotFound:
		return r, !r.present
	case wire.CodeAlreadyExists:
		return r, r.present && o.IfAbsent
	}
	if o.Current > 0 {
		if !r.present || o.Current == o.IfMatch {
			return r, false
		}
		return r.revision(o.Current)
	}
	return r, !r.present || r.rev != o.IfMatch
}

// meets says whether a write may be applied here, by its condition and its kind.
func (r register) meets(o *Op) (register, bool) {
	if o.IfAbsent && r.present || o.IfMatch > 0 && !r.present || !o.creates() && !r.present {
		return r, false
	}
	if o.IfMatch > 0 {
		return r.revision(o.IfMatch)
	}
	return r, true
}

// apply does what the write does to the document.
func (r *register) apply(o *Op) {
	for f, at := range [fields]*string{fieldTitle: &r.title, fieldContent: &r.content, fieldModel: &r.model, fieldRest: &r.rest} {
		if value, sets := o.sets(field(f)); sets {
			*at = value
		}
	}
	r.present = !o.deletes()
}

// registerModel is the specification for porcupine.
var registerModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: step,
	DescribeOperation: func(input, _ any) string {
		o := input.(*Op)
		return fmt.Sprintf("#%d %s %s %s@%d", o.ID, o.Kind, o.Token, o.Outcome, o.Index)
	},
}

// isRegisterKind says that the call is one of a single document in the model, or
// of a collection: its life is that of a document with a title only.
func isRegisterKind(kind string) bool {
	switch kind {
	case KindRead, KindPut, KindPatch, KindPutSnippet, KindPatchSnippet, KindEmbed, KindVector, KindDelete, KindDeleteOwner,
		KindCollRead, KindCollPut, KindCollDelete:
		return true
	}
	return false
}

// byRegister sorts the calls by document or collection.
func byRegister(ops []*Op) map[string][]*Op {
	keys := map[string][]*Op{}
	for _, o := range ops {
		if isRegisterKind(o.Kind) {
			keys[o.Key] = append(keys[o.Key], o)
		}
	}
	return keys
}

// forPorcupine are the calls of one document that say something of its
// linearizable history.
func forPorcupine(ops []*Op) (history []porcupine.Operation, unknowns int) {
	for _, o := range ops {
		if o.Outcome == Failed || o.IsRead() && o.Level != client.LevelLinearizable {
			continue
		}
		end := o.Return
		if o.Outcome == Unknown {
			end = math.MaxInt64
			unknowns++
		}
		history = append(history, porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call, Return: end})
	}
	return history, unknowns
}

// Linearized is what CheckLinearizable has done.
type Linearized struct {
	Keys, Ops, MostOps, MostUnknowns int
	Took                             time.Duration
}

// CheckLinearizable checks each document by itself. dir, if it is not "", gets
// a picture of each that fails.
func CheckLinearizable(ops []*Op, workers int, dir string) (Linearized, []Violation) {
	start, keys := time.Now(), byRegister(ops)
	var (
		mu    sync.Mutex // guards found and done
		found []Violation
		done  Linearized
		wg    sync.WaitGroup
		next  = make(chan string)
	)
	for range workers {
		wg.Go(func() {
			for key := range next {
				history, unknowns := forPorcupine(keys[key])
				v := checkKey(key, history, unknowns, dir)
				mu.Lock()
				done.Keys++
				done.Ops += len(history)
				done.MostOps, done.MostUnknowns = max(done.MostOps, len(history)), max(done.MostUnknowns, unknowns)
				found = append(found, v...)
				mu.Unlock()
			}
		})
	}
	for key := range keys {
		next <- key
	}
	close(next)
	wg.Wait()
	slices.SortFunc(found, func(a, b Violation) int { return slices.Compare([]byte(a.Key), []byte(b.Key)) })
	done.Took = time.Since(start)
	return done, found
}

func checkKey(key string, history []porcupine.Operation, unknowns int, dir string) []Violation {
	const checker = "linearizable"
	if unknowns > MaxUnknowns {
		return []Violation{violation(checker, key, "%d writes of unknown outcome among %d calls: too many to say anything", unknowns, len(history))}
	}
	if len(history) == 0 {
		return nil
	}
	result, info := porcupine.CheckOperationsVerbose(registerModel, history, keyBudget)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return []Violation{violation(checker, key, "no answer after %v for %d calls, %d of unknown outcome", keyBudget, len(history), unknowns)}
	}
	detail := fmt.Sprintf("%d calls are not linearizable", len(history))
	if dir != "" {
		path := filepath.Join(dir, "linearizable-"+key+".html")
		if file, err := os.Create(path); err == nil {
			if err := porcupine.Visualize(registerModel, info, file); err == nil {
				detail += "; see " + path
			}
			_ = file.Close()
		}
	}
	return []Violation{violation(checker, key, "%s", detail)}
}
