package mutant

// Name is the name of a mutant.
type Name string

// What is applied, and how it is remembered (packages fsm and storage).
const (
	PositionApart     Name = "position.apart"
	SkipOff           Name = "skip.off"
	SkipOffByOne      Name = "skip.off_by_one"
	IdempotencyApart  Name = "idempotency.apart"
	ExpiryByWallClock Name = "expiry.wall_clock"
	ApplyByNode       Name = "apply.by_node"
	ConditionEarly    Name = "condition.on_handler"
	KeyShared         Name = "batch.key_shared"
)

// Disks, snapshots and the start (packages storage and cluster).
const (
	PointerUnsynced  Name = "pointer.unsynced"
	LogUnsynced      Name = "log.unsynced"
	StartupUnchecked Name = "startup.unchecked"
	TruncateEarly    Name = "truncate.early"
	LateInstall      Name = "install.late"
)

// Acknowledgements (package cluster).
const (
	AckBeforeCommit Name = "ack.before_commit"
	UnknownDenied   Name = "ack.unknown_denied"
	ResultsMixed    Name = "ack.results_mixed"
)

// Reads and leadership (package cluster).
const (
	QuorumOff       Name = "read.no_quorum"
	QuorumAnyTerm   Name = "read.any_term"
	QuorumByLibrary Name = "read.verify_leader"
	ReadBeforeTick  Name = "read.before_tick"
	RoleUnchecked   Name = "read.role_unchecked"
	RoundJoinedLate Name = "read.round_joined_late"
	SessionUnwaited Name = "read.session_unwaited"
	FastHeartbeats  Name = "heartbeat.fast_path"
)

// All says of each mutant what it breaks. It is a function, because a variable
// would be in every server.
func All() map[Name]string {
	return map[Name]string{
		PositionApart:     "the applied position is written in a batch of its own, after the data",
		SkipOff:           "an entry that the state holds already is applied again",
		SkipOffByOne:      "the entry at the applied index itself is applied again",
		IdempotencyApart:  "the rows of idempotency keys are written in a batch of their own, after the data",
		ExpiryByWallClock: "idempotency rows expire by the clock of the node that applies, not by the replicated one",
		ApplyByNode:       "the dates of a document are those of the node that applies, not of the command",
		ConditionEarly:    "If-Match and If-None-Match are checked by the HTTP handler, before the log",
		KeyShared:         "a batch keeps a key that the next one is built in",

		PointerUnsynced:  "CURRENT_DB is renamed into its place before its content is on the disk",
		LogUnsynced:      "the Raft log is not synced before an append is answered",
		StartupUnchecked: "state, snapshot and log are not compared at the start",
		TruncateEarly:    "the log is cut before the snapshot that replaces it is there",
		LateInstall:      "a snapshot of the leader that is older than the state is installed",

		AckBeforeCommit: "an append counts as a follower's before the follower has it",
		UnknownDenied:   "a write whose outcome is unknown is answered as not applied",
		ResultsMixed:    "the commands of one entry get each other's results",

		QuorumOff:       "a linearizable read is answered without asking the voters",
		QuorumAnyTerm:   "a voter's answer counts in whatever term it is",
		QuorumByLibrary: "the library's VerifyLeader takes the place of the round of questions",
		ReadBeforeTick:  "a new leader reads before an entry of its term is applied",
		RoleUnchecked:   "a round does not look whether this node leads at its end",
		RoundJoinedLate: "a reader takes the answer of a round that began before it",
		SessionUnwaited: "a session read does not wait for the session's index",
		FastHeartbeats:  "heartbeats are handled beside Raft's main loop (hashicorp/raft #695)",
	}
}
