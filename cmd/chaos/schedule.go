package chaos

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Planned is one fault of a schedule.
type Planned struct {
	Kind string
	// Hold is how long it lasts, Gap the calm after it.
	Hold, Gap time.Duration
	// Pick decides everything else: which node, which direction.
	Pick uint64
}

// faultKind is a fault and the bounds of its duration.
type faultKind struct {
	name        string
	least, most time.Duration
	run         func(r *Run, p Planned)
}

// faultKinds are all faults. The names are what the table at the end shows.
func faultKinds() []faultKind {
	const ms = time.Millisecond
	return []faultKind{
		{"kill_one", 200 * ms, 2000 * ms, (*Run).killOne},
		{"kill_leader", 200 * ms, 2000 * ms, (*Run).killLeader},
		{"kill_two", 200 * ms, 1500 * ms, (*Run).killTwo},
		{"kill_all", 50 * ms, 800 * ms, (*Run).killAll},
		{"pause_one", 100 * ms, 5000 * ms, (*Run).pauseOne},
		{"pause_leader", 100 * ms, 5000 * ms, (*Run).pauseLeader},
		{"isolate_leader", 1500 * ms, 4000 * ms, (*Run).isolateLeader},
		{"isolate_one", 1500 * ms, 4000 * ms, (*Run).isolateOne},
		{"leader_deaf", 1500 * ms, 3500 * ms, (*Run).leaderDeaf},
		{"leader_mute", 1500 * ms, 3500 * ms, (*Run).leaderMute},
		{"cut_one_way", 1500 * ms, 4000 * ms, (*Run).cutOneWay},
		{"ring", 1500 * ms, 3500 * ms, (*Run).ring},
		{"slow_links", 1500 * ms, 3500 * ms, (*Run).slowLinks},
		{"narrow_link", 1500 * ms, 3500 * ms, (*Run).narrowLink},
		{"late_install", 2000 * ms, 4000 * ms, (*Run).lateInstall},
		{"reset_links", 300 * ms, 1500 * ms, (*Run).resetLinks},
		{"transfer_leader", 100 * ms, 500 * ms, (*Run).transferLeader},
		{"sigterm", 100 * ms, 1500 * ms, (*Run).sigterm},
		{"wipe", 100 * ms, 1000 * ms, (*Run).wipe},
		{"replace_member", 100 * ms, 1000 * ms, (*Run).replaceMember},
		{"snapshot_now", 50 * ms, 200 * ms, (*Run).snapshotNow},
	}
}

// schedule draws faults without end: every kind once in each round, in an
// order that the seed decides.
type schedule struct {
	rng   *rand.Rand
	kinds []faultKind
	deck  []faultKind
}

// newSchedule makes a schedule of the faults named, or of all.
func newSchedule(seed uint64, only []string) *schedule {
	s := &schedule{rng: rand.New(rand.NewPCG(seed, 0xfa417))}
	for _, kind := range faultKinds() {
		if len(only) == 0 || slices.Contains(only, kind.name) {
			s.kinds = append(s.kinds, kind)
		}
	}
	return s
}

func (s *schedule) next() (faultKind, Planned) {
	if len(s.deck) == 0 {
		s.deck = slices.Clone(s.kinds)
		s.rng.Shuffle(len(s.deck), func(i, j int) { s.deck[i], s.deck[j] = s.deck[j], s.deck[i] })
	}
	kind := s.deck[0]
	s.deck = s.deck[1:]
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(s.rng.Int64N(int64(most-least)+1))
	}
	return kind, Planned{
		Kind: kind.name, Hold: between(kind.least, kind.most), Gap: between(400*time.Millisecond, 1500*time.Millisecond), Pick: s.rng.Uint64(),
	}
}
