// Package failpoint names the places where a crash hurts, so that a test can
// kill the process at exactly one of them.
//
//	failpoint.Hit(failpoint.LogStoreBefore)
//
// costs nothing in a build without the tag `failpoints`: the call is inlined
// to no instruction, which a test proves on the machine code. With the tag, a
// point does what it is armed with, and nothing while it is not armed:
//
//	SNIPDB_FAILPOINTS="log.store.before=kill@3,fsm.commit.after=sleep(50)@1+"
//	SNIPDB_FAILPOINTS_FILE=/path   the same text, read again whenever the file
//	                               changes: arms a process that runs
//
// DESIGN.md has the language, the list of all points, and what a crash at each
// of them must not do.
package failpoint
