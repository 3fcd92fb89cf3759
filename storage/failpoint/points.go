package failpoint

// Name is the name of a point. A spelling that is not below does not compile
// as a constant, is refused by Arm, and is found by a test in a source file.
type Name string

// The Raft log (package cluster). "delete" is a truncation: of what a snapshot
// made unnecessary, or of a tail that conflicts with the leader.
const (
	LogStoreBefore  Name = "log.store.before"
	LogStoreAfter   Name = "log.store.after"
	LogDeleteBefore Name = "log.delete.before"
	LogDeleteAfter  Name = "log.delete.after"
)

// Term and vote (package cluster). "between" is after raft gave the term of
// the vote and before it gave the candidate (hashicorp/raft #661).
const (
	TermBefore  Name = "term.before"
	TermAfter   Name = "term.after"
	VoteBetween Name = "vote.between"
	VoteBefore  Name = "vote.before"
	VoteAfter   Name = "vote.after"
)

// The identity file and the birth of a cluster (package cluster).
const (
	IdentityBeforeRename Name = "identity.rename.before"
	IdentityAfterRename  Name = "identity.rename.after"
	ClaimBefore          Name = "claim.before"
	ClaimAfter           Name = "claim.after"
	BootstrapAfter       Name = "bootstrap.after"
	FoundingEnd          Name = "founding.end"
	JoinTakenIn          Name = "join.taken_in"
)

// Leadership and writes on their way (package cluster).
const (
	ProposeBefore  Name = "propose.before"
	ProposeAnswer  Name = "propose.answer"
	TickBefore     Name = "tick.before"
	TickAfter      Name = "tick.after"
	MemberChange   Name = "member.change"
	HandOverBefore Name = "handover.before"
	HandOverAfter  Name = "handover.after"
)

// The start-up check (package cluster).
const (
	StartupRestored Name = "startup.restored"
	StartupDropped  Name = "startup.dropped"
)

// The state machine (package fsm). "commit" is the write batch of a slice of
// entries with its position.
const (
	CommitBefore     Name = "fsm.commit.before"
	CommitAfter      Name = "fsm.commit.after"
	ApplyTick        Name = "fsm.tick"
	ExpireRows       Name = "fsm.expire"
	CheckpointBefore Name = "fsm.checkpoint.before"
	CheckpointAfter  Name = "fsm.checkpoint.after"
	RestoreBefore    Name = "fsm.restore.before"
	RestoreCopied    Name = "fsm.restore.copied"
	RestoreInstalled Name = "fsm.restore.installed"
	RestoreAfter     Name = "fsm.restore.after"
)

// The snapshot store (package fsm/snapshot). "publish" is the rename that
// makes a snapshot visible, the node's own or a received one.
const (
	PersistBeforeRename Name = "persist.rename.before"
	PersistAfterRename  Name = "persist.rename.after"
	PublishBeforeRename Name = "publish.rename.before"
	PublishAfterRename  Name = "publish.rename.after"
	ReapMiddle          Name = "reap.middle"
	ReceiveMiddle       Name = "receive.middle"
	ReceiveFileEnd      Name = "receive.file_end"
	RestoreMiddle       Name = "restore.copy.middle"
)

// The files of the Raft log (package storage), which go one by one once a
// truncation has passed all that is in them.
const (
	LogFileBefore Name = "log.file.before"
	LogFileAfter  Name = "log.file.after"
)

// The live database (package storage). "pointer" is the file that names it.
const (
	CreateFormat        Name = "db.create.format"
	InstallVerified     Name = "install.verified"
	InstallAfterRename  Name = "install.rename.after"
	PointerBeforeRename Name = "pointer.rename.before"
	PointerAfterRename  Name = "pointer.rename.after"
	SwapBefore          Name = "swap.before"
	SwapAfter           Name = "swap.after"
	RetireBefore        Name = "retire.delete.before"
	RetireAfter         Name = "retire.delete.after"
	SweepBefore         Name = "sweep.before"
)

// The stop of a process (packages cluster and cmd/snipdb).
const (
	CloseRaftBefore  Name = "close.raft.before"
	CloseRaftAfter   Name = "close.raft.after"
	CloseStoreBefore Name = "close.store.before"
	CloseStoreAfter  Name = "close.store.after"
)

// Values, which a test makes smaller, because no test can wait a day or write
// a million rows. They are set, not armed: "fsm.expire.max_rows=set(1500)".
const (
	ExpireMaxRows Name = "fsm.expire.max_rows"
	LogMemtable   Name = "log.memtable_bytes"
)

// The wall clock of a node (package cmd/snipdb): milliseconds that it is ahead,
// and parts in a million that it runs too fast; below zero behind, too slow.
const (
	ClockOffset Name = "clock.offset_ms"
	ClockDrift  Name = "clock.drift_ppm"
)

// What a point can do, beside being killed or delayed at.
type kind int

const (
	// plain points are Hit: kill and sleep.
	plain kind = iota
	// fallible points are Error: also error.
	fallible
	// value points are Value: set, and nothing else.
	value
)

// points is the registry: every name, and its kind.
var points = map[Name]kind{
	LogStoreBefore: fallible, LogStoreAfter: plain, LogDeleteBefore: plain, LogDeleteAfter: plain,
	TermBefore: plain, TermAfter: plain, VoteBetween: plain, VoteBefore: fallible, VoteAfter: plain,
	IdentityBeforeRename: plain, IdentityAfterRename: plain, ClaimBefore: plain, ClaimAfter: plain,
	BootstrapAfter: plain, FoundingEnd: plain, JoinTakenIn: plain,
	ProposeBefore: plain, ProposeAnswer: plain, TickBefore: plain, TickAfter: plain,
	MemberChange: plain, HandOverBefore: plain, HandOverAfter: plain,
	StartupRestored: plain, StartupDropped: plain,
	CommitBefore: fallible, CommitAfter: plain, ApplyTick: plain, ExpireRows: plain,
	CheckpointBefore: fallible, CheckpointAfter: plain,
	RestoreBefore: plain, RestoreCopied: plain, RestoreInstalled: plain, RestoreAfter: plain,
	PersistBeforeRename: plain, PersistAfterRename: plain,
	PublishBeforeRename: fallible, PublishAfterRename: plain,
	ReapMiddle: plain, ReceiveMiddle: plain, ReceiveFileEnd: plain, RestoreMiddle: fallible,
	CreateFormat: plain, InstallVerified: plain, InstallAfterRename: plain,
	PointerBeforeRename: fallible, PointerAfterRename: plain, SwapBefore: plain, SwapAfter: plain,
	RetireBefore: plain, RetireAfter: plain, SweepBefore: plain,
	LogFileBefore: plain, LogFileAfter: plain,
	CloseRaftBefore: plain, CloseRaftAfter: plain, CloseStoreBefore: plain, CloseStoreAfter: plain,
	ExpireMaxRows: value, LogMemtable: value, ClockOffset: value, ClockDrift: value,
}

// Names returns the names of all points, in no order; the values are not
// among them, because nothing happens at them.
func Names() []Name {
	var names []Name
	for name, k := range points {
		if k != value {
			names = append(names, name)
		}
	}
	return names
}
