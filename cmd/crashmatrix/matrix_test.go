// Package crashmatrix kills a node at each place where a crash hurts (package
// storage/failpoint), under load, and looks at what is left: the node's
// directory, the node after its restart, and all nodes at the end.
//
// A short version runs with all other tests. The whole matrix takes a quarter
// of an hour:
//
//	make crash-matrix                    every row; SEED=7 for the same moments again
//	make crash-matrix POINT=pointer      the rows whose names match the pattern
//	make crash-matrix PART=2/5           the second fifth of the rows
package crashmatrix

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/storage/failpoint"
)

func TestMain(m *testing.M) { os.Exit(proctest.Main(m)) }

// row is one line of the matrix.
type row struct {
	// point is where the node is killed: at hit number at, or, by the seed, at
	// one from 1 to within. Both 0 is the first hit.
	point      failpoint.Name
	at, within int
	// before is the point at which it is killed first, in drives whose second
	// crash is in the middle of the recovery from the first.
	before failpoint.Name
	drive  drive
	quick  bool // in the short version as well
}

func (r row) name() string {
	parts := []string{r.drive.name}
	if r.point != "" {
		parts = []string{string(r.point), r.drive.name}
	}
	if r.before != "" {
		parts = append(parts, "after", string(r.before))
	}
	return strings.Join(parts, "-")
}

// matrix is every row, in the order of a node's life.
var matrix = []row{
	// A new cluster is formed; the first node forms it, the second agrees.
	{point: failpoint.CreateFormat, drive: formFirst},
	{point: failpoint.PointerBeforeRename, drive: formFirst},
	{point: failpoint.PointerAfterRename, drive: formFirst},
	{point: failpoint.IdentityBeforeRename, within: 2, drive: formFirst},
	{point: failpoint.IdentityAfterRename, within: 2, drive: formFirst},
	{point: failpoint.IdentityBeforeRename, within: 2, drive: formSecond},
	{point: failpoint.IdentityAfterRename, within: 2, drive: formSecond},
	{point: failpoint.ClaimBefore, drive: formFirst},
	{point: failpoint.ClaimAfter, drive: formFirst},
	{point: failpoint.LogStoreBefore, drive: formFirst},
	{point: failpoint.LogStoreAfter, drive: formFirst},
	{point: failpoint.TermAfter, drive: formFirst},
	{point: failpoint.BootstrapAfter, drive: formFirst},
	{point: failpoint.VoteBetween, drive: formFirst},
	{point: failpoint.FoundingEnd, drive: formFirst},
	{point: failpoint.FoundingEnd, drive: formSecond},
	{point: failpoint.ClaimAfter, drive: formAlone},
	{point: failpoint.LogStoreBefore, drive: formAlone},
	{point: failpoint.LogStoreAfter, drive: formAlone},

	// Writes.
	{point: failpoint.ProposeBefore, within: 60, drive: leaderUnderLoad},
	{point: failpoint.ProposeAnswer, within: 60, drive: leaderUnderLoad},
	{point: failpoint.LogStoreBefore, within: 60, drive: leaderUnderLoad},
	{point: failpoint.LogStoreAfter, within: 60, drive: leaderUnderLoad},
	{point: failpoint.LogStoreBefore, within: 60, drive: followerUnderLoad},
	{point: failpoint.LogStoreAfter, within: 60, drive: followerUnderLoad},
	{point: failpoint.CommitBefore, within: 60, drive: leaderUnderLoad},
	{point: failpoint.CommitAfter, within: 60, drive: leaderUnderLoad, quick: true},
	{point: failpoint.CommitBefore, within: 60, drive: followerUnderLoad},
	{point: failpoint.CommitAfter, within: 60, drive: followerUnderLoad},
	{point: failpoint.LogStoreAfter, within: 60, drive: aloneUnderLoad},
	{point: failpoint.CommitBefore, within: 60, drive: aloneUnderLoad},
	{point: failpoint.CommitAfter, within: 60, drive: aloneUnderLoad},
	{point: failpoint.CommitAfter, within: 60, drive: aloneTrims},
	{point: failpoint.ExpireRows, within: 60, drive: expiring},
	{point: failpoint.ApplyTick, within: 3, drive: leaderUnderLoad},
	{point: failpoint.ApplyTick, within: 3, drive: followerUnderLoad},
	{point: failpoint.TickBefore, within: 3, drive: leaderUnderLoad},
	{point: failpoint.TickAfter, within: 3, drive: leaderUnderLoad},

	// Elections.
	{point: failpoint.TermBefore, drive: election},
	{point: failpoint.TermAfter, drive: election},
	{point: failpoint.VoteBetween, drive: election},
	{point: failpoint.VoteBefore, drive: election},
	{point: failpoint.VoteAfter, drive: election},

	// Snapshots of the node's own, and the truncation of the log.
	{point: failpoint.CheckpointBefore, within: 2, drive: leaderSnapshots},
	{point: failpoint.CheckpointAfter, within: 2, drive: leaderSnapshots},
	{point: failpoint.PersistBeforeRename, within: 2, drive: followerSnapshots},
	{point: failpoint.PersistAfterRename, within: 2, drive: followerSnapshots},
	{point: failpoint.PublishBeforeRename, within: 2, drive: leaderSnapshots},
	{point: failpoint.PublishAfterRename, within: 2, drive: leaderSnapshots},
	{point: failpoint.PublishAfterRename, within: 2, drive: aloneSnapshots},
	{point: failpoint.ReapMiddle, within: 2, drive: followerSnapshots},
	{point: failpoint.LogDeleteBefore, within: 2, drive: leaderSnapshots},
	{point: failpoint.LogDeleteAfter, within: 2, drive: leaderSnapshots},
	{point: failpoint.LogDeleteAfter, within: 2, drive: followerSnapshots},
	{point: failpoint.LogFileBefore, within: 3, drive: leaderLogFiles},
	{point: failpoint.LogFileBefore, within: 3, drive: followerLogFiles},
	{point: failpoint.LogFileAfter, within: 3, drive: leaderLogFiles},
	{point: failpoint.LogFileAfter, within: 3, drive: followerLogFiles},

	// A snapshot of the leader's is installed.
	{point: failpoint.ReceiveMiddle, within: 3, drive: install},
	{point: failpoint.ReceiveFileEnd, within: 3, drive: install},
	{point: failpoint.ReceiveMiddle, within: 3, drive: installIntoWiped},
	{point: failpoint.PublishBeforeRename, drive: install},
	{point: failpoint.PublishAfterRename, drive: install},
	{point: failpoint.PublishAfterRename, drive: installIntoWiped},
	{point: failpoint.RestoreBefore, drive: install},
	{point: failpoint.RestoreMiddle, within: 3, drive: install},
	{point: failpoint.RestoreCopied, drive: install},
	{point: failpoint.InstallVerified, drive: install},
	{point: failpoint.InstallAfterRename, drive: install},
	{point: failpoint.PointerBeforeRename, drive: install},
	{point: failpoint.PointerAfterRename, drive: install},
	// Its first hit is the birth of the empty database.
	{point: failpoint.PointerAfterRename, at: 2, drive: installIntoWiped},
	{point: failpoint.SwapBefore, drive: install},
	{point: failpoint.SwapAfter, drive: install},
	{point: failpoint.RetireBefore, drive: install},
	{point: failpoint.RetireAfter, drive: install},
	{point: failpoint.RestoreInstalled, drive: install},
	{point: failpoint.RestoreAfter, drive: install},
	{point: failpoint.LogDeleteBefore, drive: install},
	{point: failpoint.LogDeleteAfter, drive: install},

	// The same, and the next leader knows nothing of that snapshot.
	{point: failpoint.PublishAfterRename, drive: installThenMoved, quick: true},
	{point: failpoint.RestoreBefore, drive: installThenMoved},
	{point: failpoint.RestoreMiddle, within: 3, drive: installThenMoved},
	{point: failpoint.RestoreCopied, drive: installThenMoved},
	{point: failpoint.InstallAfterRename, drive: installThenMoved},
	{point: failpoint.PointerBeforeRename, drive: installThenMoved},
	{point: failpoint.PointerAfterRename, drive: installThenMoved, quick: true},
	{point: failpoint.SwapAfter, drive: installThenMoved},
	{point: failpoint.RestoreInstalled, drive: installThenMoved},
	{point: failpoint.RestoreAfter, drive: installThenMoved},
	{point: failpoint.LogDeleteBefore, drive: installThenMoved},

	// A second crash, in the recovery from the first.
	{point: failpoint.RestoreMiddle, drive: installTwice, before: failpoint.PublishAfterRename},
	{point: failpoint.PointerAfterRename, drive: installTwice, before: failpoint.RestoreBefore},
	{point: failpoint.StartupRestored, drive: installTwice, before: failpoint.PublishAfterRename},
	{point: failpoint.StartupDropped, drive: installTwice, before: failpoint.PublishAfterRename},
	{point: failpoint.SweepBefore, drive: installTwice, before: failpoint.RestoreCopied},
	{point: failpoint.SweepBefore, drive: installTwice, before: failpoint.SwapBefore},

	// Members come and processes go.
	{point: failpoint.JoinTakenIn, drive: joining},
	// Its first hit is the birth of the node.
	{point: failpoint.IdentityAfterRename, at: 2, drive: joining},
	{point: failpoint.MemberChange, drive: takingIn},
	{point: failpoint.HandOverBefore, drive: stopping},
	{point: failpoint.HandOverAfter, drive: stopping},
	{point: failpoint.CloseRaftBefore, drive: stopping},
	{point: failpoint.CloseRaftAfter, drive: stopping},
	{point: failpoint.CloseStoreBefore, drive: stopping},
	{point: failpoint.CloseStoreAfter, drive: stopping},
}

// Every point has a row: a new one that nobody kills at would prove nothing.
func TestEveryPointIsInTheMatrix(t *testing.T) {
	names := map[string]bool{}
	for _, r := range matrix {
		if names[r.name()] {
			t.Errorf("there are two rows %s", r.name())
		}
		names[r.name()] = true
	}
	for _, name := range failpoint.Names() {
		if !slices.ContainsFunc(matrix, func(r row) bool { return r.point == name }) {
			t.Errorf("no row kills at %s", name)
		}
	}
}

// A misspelt point would be a row that tests nothing.
func TestUnknownPointRefusesTheStart(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the server")
	}
	cmd := exec.Command(proctest.Binary(t, "snipdb", "failpoints"), "serve", "--data-dir", t.TempDir(), "--http-addr", "127.0.0.1:0", "--raft-addr", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "SNIPDB_FAILPOINTS=log.stoer.before=kill@1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), `"log.stoer.before=kill@1": there is no such point`) {
		t.Errorf("the server ended with %v and said %s", err, out)
	}
}

func TestCrashMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	matrixTable.runAll(t, readSettings(t, "SNIPDB_CRASH_MATRIX", "crash"), run)
}
