package cluster

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// noopGapLimit bounds the search for entries that the state machine never
// sees between its position and the snapshot's.
const noopGapLimit = 1024

// diskState is what the three stores of a node say before Raft starts.
type diskState struct {
	Applied, AppliedTerm   uint64 // A, T: the state machine's position
	Snapshot, SnapshotTerm uint64 // S: the newest snapshot, 0 = none
	First, Last            uint64 // F, L: the log, 0 = empty
	Term, LastTerm         uint64 // of the vote store, and of the log's last entry
	// TermAtSnapshot and TermAtApplied are the terms of the log's entries
	// there; 0 = the log has no such entry.
	TermAtSnapshot, TermAtApplied uint64
	// GapIsNoops: all entries in (A, S] are in the log, and none is for the
	// state machine.
	GapIsNoops bool
}

// startupPlan is what must be done before Raft starts.
type startupPlan struct {
	DropLog bool   // why is in Reason
	Restore bool   // the newest snapshot into the state machine
	Reason  string // for the log
}

// advice is what an operator can do about a state that can't be repaired here.
const advice = "if other members are alive, empty this node's data directory and start it: it joins again and gets everything from the leader; else restore a backup"

// planStartup decides what must happen before Raft starts with
// NoSnapshotRestoreOnStart, which believes all of I1 to I5:
//
//	I1  A >= S, or only entries that the state machine never sees are between
//	I2  F <= max(A, S) + 1
//	I3  A <= max(L, S)
//	I4  the log's entry at A, if there is one, has A's term
//	I5  the vote store's term is not below that of the log's last entry and of the snapshot
//
// It returns an error if one does not hold and can't be made to hold without
// losing something.
func planStartup(s diskState) (startupPlan, error) {
	var p startupPlan
	switch {
	case s.Snapshot > 0 && s.TermAtSnapshot != 0 && s.TermAtSnapshot != s.SnapshotTerm:
		// hashicorp/raft #697: Raft's rule 7 (figure 13) is not implemented.
		p.DropLog = true
		p.Reason = fmt.Sprintf("the log's entry at the snapshot's index %d has term %d, the snapshot has %d", s.Snapshot, s.TermAtSnapshot, s.SnapshotTerm)
	case s.Last > 0 && s.Last < s.Snapshot:
		// A crash between the install of a snapshot and the end of the log's
		// truncation. All of the log is in the snapshot.
		p.DropLog = true
		p.Reason = fmt.Sprintf("the log ends at %d, before the snapshot at %d", s.Last, s.Snapshot)
	}
	if p.DropLog {
		s.First, s.Last, s.TermAtApplied = 0, 0, 0
	}
	if s.Applied < s.Snapshot && (p.DropLog || !s.GapIsNoops) {
		// The two legal ways here: a crash between a snapshot's becoming
		// visible and its restore, and a state that lost its tail with the power.
		p.Restore = true
		p.Reason += fmt.Sprintf("; the state is at %d, before the snapshot at %d", s.Applied, s.Snapshot)
		s.Applied, s.AppliedTerm, s.TermAtApplied = s.Snapshot, s.SnapshotTerm, 0
	}
	switch end := max(s.Last, s.Snapshot); {
	case s.Applied > end:
		return p, fmt.Errorf("cluster: I3 violated: the state is at index %d, the log and the snapshot end at %d: the log lost entries that were applied (a disk that lied about fsync, or files of another time): %s", s.Applied, end, advice)
	case s.TermAtApplied != 0 && s.TermAtApplied != s.AppliedTerm:
		return p, fmt.Errorf("cluster: I4 violated: the state is at index %d of term %d, the log has term %d there: the state does not come from this log: %s", s.Applied, s.AppliedTerm, s.TermAtApplied, advice)
	case s.First > max(s.Applied, s.Snapshot)+1:
		return p, fmt.Errorf("cluster: I2 violated: the log begins at %d, the state and the snapshot end at %d: entries are missing: %s", s.First, max(s.Applied, s.Snapshot), advice)
	}
	if newest := max(s.LastTerm, s.SnapshotTerm); newest > s.Term {
		// Raft raises its term on disk before it takes anything of that term.
		// Without its votes this node could vote a second time in a term.
		return p, fmt.Errorf("cluster: I5 violated: the vote store is at term %d, the log and the snapshot at %d: the votes are lost (%s was deleted, or is of another time): %s; if no other member is left, `snipdb recover` makes new ones", s.Term, newest, stableFile, advice)
	}
	return p, nil
}

// wiped says whether a node has nothing of a cluster: no entry, no snapshot, no
// state; or whether its log was lost. What it may have acknowledged is gone, even
// if its term is still there, and perhaps its identity is not. A founder may have
// nothing, until the first entry is applied.
func wiped(rec identityRecord, s diskState) bool {
	return rec.LogLost || !rec.Founder && len(rec.Pending) == 0 && s.Last == 0 && s.Snapshot == 0 && s.Applied == 0
}

// readDiskState reads the numbers; term is the vote store's.
func readDiskState(p Parts, logs raft.LogStore, term uint64) (diskState, *raft.SnapshotMeta, error) {
	s := diskState{Term: term}
	var errs [3]error
	s.Applied, s.AppliedTerm = p.StateMachine.Applied()
	snap, err := newestSnapshot(p.Snapshots)
	errs[0] = err
	if snap != nil {
		s.Snapshot, s.SnapshotTerm = snap.Index, snap.Term
	}
	s.First, errs[1] = logs.FirstIndex()
	s.Last, errs[2] = logs.LastIndex()
	if err := errors.Join(errs[:]...); err != nil {
		return s, nil, fmt.Errorf("cluster: start-up check: %w", err)
	}
	if s.TermAtSnapshot, err = termAt(logs, s.Snapshot, s.First, s.Last); err != nil {
		return s, nil, err
	}
	if s.TermAtApplied, err = termAt(logs, s.Applied, s.First, s.Last); err != nil {
		return s, nil, err
	}
	if s.LastTerm, err = termAt(logs, s.Last, s.First, s.Last); err != nil {
		return s, nil, err
	}
	s.GapIsNoops, err = onlyNoops(logs, s)
	return s, snap, err
}

// termAt returns the term of an entry, 0 if it is not in the log.
func termAt(logs raft.LogStore, index, first, last uint64) (uint64, error) {
	if index == 0 || index < first || index > last {
		return 0, nil
	}
	var e raft.Log
	if err := logs.GetLog(index, &e); err != nil {
		if errors.Is(err, raft.ErrLogNotFound) {
			return 0, nil // a hole; I2 looks at the ends
		}
		return 0, fmt.Errorf("cluster: start-up check: read entry %d: %w", index, err)
	}
	return e.Term, nil
}

// onlyNoops says whether all entries in (A, S] are in the log and none of
// them is for the state machine. The library never hands it no-ops and
// barriers, so a snapshot taken right after an election is "ahead" of the
// state it holds; to restore it at each start would be waste.
func onlyNoops(logs raft.LogStore, s diskState) (bool, error) {
	if s.Applied >= s.Snapshot || s.Snapshot-s.Applied > noopGapLimit || s.First == 0 || s.First > s.Applied+1 || s.Last < s.Snapshot {
		return false, nil
	}
	for i := s.Applied + 1; i <= s.Snapshot; i++ {
		var e raft.Log
		err := logs.GetLog(i, &e)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("cluster: start-up check: read entry %d: %w", i, err)
		case e.Type != raft.LogNoop && e.Type != raft.LogBarrier:
			return false, nil
		}
	}
	return true, nil
}

// checkStartup makes I1 to I5 hold, or refuses. It is run before NewRaft,
// and nothing else may use the parts meanwhile. term is the vote store's.
func checkStartup(p Parts, logs raft.LogStore, term uint64, log *slog.Logger) error {
	if mutant.On(mutant.StartupUnchecked) {
		return nil
	}
	s, snap, err := readDiskState(p, logs, term)
	if err != nil {
		return err
	}
	plan, err := planStartup(s)
	if err != nil {
		return err
	}
	// The restore comes first: after a crash between the two, the numbers
	// still say that both are needed, while a state without its log and
	// without the snapshot's content could not be told from a broken one.
	if plan.Restore {
		log.Warn("start-up: restoring the newest snapshot", "reason", plan.Reason, "index", snap.Index)
		if err := restoreSnapshot(p, snap); err != nil {
			return err
		}
		failpoint.Hit(failpoint.StartupRestored)
	}
	if plan.DropLog {
		log.Warn("start-up: dropping the log", "reason", plan.Reason, "first", s.First, "last", s.Last)
		if err := logs.DeleteRange(s.First, s.Last); err != nil {
			return fmt.Errorf("cluster: start-up: drop the log: %w", err)
		}
		failpoint.Hit(failpoint.StartupDropped)
	}
	return nil
}

// restoreSnapshot puts a snapshot into the state machine by the code that
// installs one from a leader.
func restoreSnapshot(p Parts, snap *raft.SnapshotMeta) error {
	_, rc, err := p.Snapshots.Open(snap.ID)
	if err != nil {
		return fmt.Errorf("cluster: start-up: open snapshot %s: %w: %s", snap.ID, err, advice)
	}
	defer rc.Close()
	if err := p.StateMachine.Restore(rc); err != nil {
		return fmt.Errorf("cluster: start-up: restore snapshot %s: %w: %s", snap.ID, err, advice)
	}
	// The state in it may end before the snapshot's index, by entries that it
	// never sees; it may not go beyond.
	if applied, _ := p.StateMachine.Applied(); applied > snap.Index {
		return fmt.Errorf("cluster: start-up: the snapshot at %d holds a state at %d: it is not what it says: %s", snap.Index, applied, advice)
	}
	return nil
}
