package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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
	needs       need
}

// need is what a fault can't do without.
type need int

const (
	nothing need = iota
	// ownDisks: each node has a disk of its own.
	ownDisks
	// longRun: it takes too long for a run of half a minute.
	longRun
	// noSoak: it ends processes that a soak spares.
	noSoak
)

// faultKinds are all faults. The names are what the table at the end shows.
func faultKinds() []faultKind {
	const ms = time.Millisecond
	return []faultKind{
		{"kill_one", 200 * ms, 2000 * ms, (*Run).killOne, nothing},
		{"kill_leader", 200 * ms, 2000 * ms, (*Run).killLeader, nothing},
		{"kill_two", 200 * ms, 1500 * ms, (*Run).killTwo, noSoak},
		{"kill_all", 50 * ms, 800 * ms, (*Run).killAll, noSoak},
		{"pause_one", 100 * ms, 5000 * ms, (*Run).pauseOne, nothing},
		{"pause_leader", 100 * ms, 5000 * ms, (*Run).pauseLeader, nothing},
		{"isolate_leader", 1500 * ms, 4000 * ms, (*Run).isolateLeader, nothing},
		{"isolate_one", 1500 * ms, 4000 * ms, (*Run).isolateOne, nothing},
		{"leader_deaf", 1500 * ms, 3500 * ms, (*Run).leaderDeaf, nothing},
		{"leader_mute", 1500 * ms, 3500 * ms, (*Run).leaderMute, nothing},
		{"cut_one_way", 1500 * ms, 4000 * ms, (*Run).cutOneWay, nothing},
		{"ring", 1500 * ms, 3500 * ms, (*Run).ring, nothing},
		{"slow_links", 1500 * ms, 3500 * ms, (*Run).slowLinks, nothing},
		{"narrow_link", 1500 * ms, 3500 * ms, (*Run).narrowLink, nothing},
		{"late_install", 2000 * ms, 4000 * ms, (*Run).lateInstall, nothing},
		{"reset_links", 300 * ms, 1500 * ms, (*Run).resetLinks, nothing},
		{"transfer_leader", 100 * ms, 500 * ms, (*Run).transferLeader, nothing},
		{"sigterm", 100 * ms, 1500 * ms, (*Run).sigterm, nothing},
		{"wipe", 100 * ms, 1000 * ms, (*Run).wipe, nothing},
		{"replace_member", 100 * ms, 1000 * ms, (*Run).replaceMember, nothing},
		{"snapshot_now", 50 * ms, 200 * ms, (*Run).snapshotNow, nothing},
		{"add_member", 200 * ms, 1500 * ms, (*Run).addMember, nothing},
		{"clock_skew", 2000 * ms, 5000 * ms, (*Run).skewClocks, nothing},
		{"clock_jump", 2600 * ms, 4000 * ms, (*Run).jumpClocks, nothing},
		{"fsync_slow", 1500 * ms, 6000 * ms, (*Run).slowFsync, nothing},
		{"fsync_hang", 100 * ms, 1000 * ms, (*Run).hangFsync, longRun},
		{"disk_hang", 500 * ms, 12000 * ms, (*Run).hangDisk, ownDisks},
		{"disk_full_follower", 2000 * ms, 6000 * ms, (*Run).fullDiskOfFollower, ownDisks},
		{"disk_full_leader", 2000 * ms, 6000 * ms, (*Run).fullDiskOfLeader, ownDisks},
	}
}

// schedule draws faults without end: every kind once in each round, in an
// order that the seed decides.
type schedule struct {
	rng   *rand.Rand
	kinds []faultKind
	deck  []faultKind
}

// checkFaults says which of the faults named there are not, or can't be made
// here because no disks can: a run that leaves one out would look like one that
// had it.
func checkFaults(only []string, disks error) error {
	var unknown, need, all []string
	kinds := faultKinds()
	for _, kind := range kinds {
		all = append(all, kind.name)
	}
	for _, name := range only {
		i := slices.Index(all, name)
		switch {
		case i < 0:
			unknown = append(unknown, fmt.Sprintf("%q", name))
		case kinds[i].needs == ownDisks && disks != nil:
			need = append(need, name)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("there is no fault %s; there are %s", strings.Join(unknown, ", "), strings.Join(all, ", "))
	}
	if len(need) > 0 {
		return fmt.Errorf("%s: each node needs a disk of its own, which can't be made here: %w", strings.Join(need, ", "), disks)
	}
	return nil
}

// newSchedule makes a schedule of the faults named, or of all that a run can have.
func newSchedule(seed uint64, only []string, can func(need) bool) *schedule {
	s := &schedule{rng: rand.New(rand.NewPCG(seed, 0xfa417))}
	for _, kind := range faultKinds() {
		if slices.Contains(only, kind.name) || len(only) == 0 && can(kind.needs) {
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
