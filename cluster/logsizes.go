package cluster

import "sort"

// logSizes answers "how many bytes above this index" and "how many entries in
// this many bytes" from sums that are kept for each entry: 8 bytes each, which
// is a megabyte for 128 MiB of log with entries of 1 KiB. It has no lock.
type logSizes struct {
	// runs are the contiguous stretches, ascending. There is one, unless a
	// snapshot from the leader left a gap.
	runs []sizeRun
}

// sizeRun is a stretch without a gap.
type sizeRun struct {
	first uint64 // index of sums[0]
	base  uint64 // the sum before first
	// sums[i] is base plus the sizes of first to first+i. Not empty.
	sums []uint64
}

func (r *sizeRun) last() uint64  { return r.first + uint64(len(r.sums)) - 1 }
func (r *sizeRun) bytes() uint64 { return r.sums[len(r.sums)-1] - r.base }

// through is the sum of all up to index, which may be outside the run.
func (r *sizeRun) through(index uint64) uint64 {
	switch {
	case index < r.first:
		return 0
	case index >= r.last():
		return r.bytes()
	}
	return r.sums[index-r.first] - r.base
}

// last is the highest index, 0 if there is none.
func (s *logSizes) last() uint64 {
	if len(s.runs) == 0 {
		return 0
	}
	return s.runs[len(s.runs)-1].last()
}

// add appends an entry; the index must be above the last.
func (s *logSizes) add(index, size uint64) {
	if n := len(s.runs); n > 0 && s.runs[n-1].last()+1 == index {
		r := &s.runs[n-1]
		r.sums = append(r.sums, r.sums[len(r.sums)-1]+size)
		return
	}
	s.runs = append(s.runs, sizeRun{first: index, sums: []uint64{size}})
}

// remove takes out min to max, both included.
func (s *logSizes) remove(min, max uint64) {
	var runs []sizeRun
	for _, r := range s.runs {
		if max < r.first || min > r.last() {
			runs = append(runs, r)
			continue
		}
		if min > r.first {
			n := min - r.first
			// The tail is cut off with its capacity: the next append must not
			// write over what another run still shows.
			runs = append(runs, sizeRun{first: r.first, base: r.base, sums: r.sums[:n:n]})
		}
		if max < r.last() {
			runs = append(runs, r.after(max))
		}
	}
	s.runs = runs
}

// after is the part of the run above index.
func (r *sizeRun) after(index uint64) sizeRun {
	n := index - r.first + 1
	// A copy gives the memory of the deleted entries back.
	return sizeRun{first: index + 1, base: r.sums[n-1], sums: append([]uint64{}, r.sums[n:]...)}
}

// since is the size of what is above index.
func (s *logSizes) since(index uint64) uint64 {
	var total uint64
	for i := range s.runs {
		total += s.runs[i].bytes() - s.runs[i].through(index)
	}
	return total
}

// trailing is how many of the newest entries fit into so many bytes. It does
// not reach over a gap: what is below one is of no use to a follower.
func (s *logSizes) trailing(bytes uint64) uint64 {
	if len(s.runs) == 0 {
		return 0
	}
	r := &s.runs[len(s.runs)-1]
	n := len(r.sums)
	// drop is the lowest number of entries to drop such that the rest fits.
	drop := sort.Search(n, func(drop int) bool {
		if drop == 0 {
			return r.bytes() <= bytes
		}
		return r.bytes()-(r.sums[drop-1]-r.base) <= bytes
	})
	return uint64(n - drop)
}
