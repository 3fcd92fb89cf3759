package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

func openTestStable(t *testing.T, path string) *stableStore {
	t.Helper()
	s, err := openStableStore(path, stableStoreOptions{Fatal: failNow(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// readVote is what raft reads to decide whether it has voted.
func readVote(t *testing.T, s *stableStore) (term uint64, candidate string) {
	t.Helper()
	term, err := s.GetUint64(keyLastVoteTerm)
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	cand, err := s.Get(keyLastVoteCand)
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	return term, string(cand)
}

// crashCopy opens a copy of the file as it is now: what a node finds after kill -9.
func crashCopy(t *testing.T, path string) *stableStore {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(copied, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openTestStable(t, copied)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestVoteIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vote.db")
	s := openTestStable(t, path)
	defer s.Close()
	check := func(where string, s *stableStore, term uint64, candidate string) {
		t.Helper()
		if gotTerm, got := readVote(t, s); gotTerm != term || got != candidate {
			t.Fatalf("%s: vote is for %q in term %d; want %q in term %d", where, got, gotTerm, candidate, term)
		}
	}
	check("new file", s, 0, "")
	previousTerm, previous := uint64(0), ""
	for i, candidate := range []string{"n1", "n2"} {
		term := uint64(5 + i)
		if err := s.SetUint64(keyLastVoteTerm, term); err != nil {
			t.Fatal(err)
		}
		check("between the two writes", s, previousTerm, previous)
		check("crash between the two writes", crashCopy(t, path), previousTerm, previous)
		if err := s.Set(keyLastVoteCand, []byte(candidate)); err != nil {
			t.Fatal(err)
		}
		check("after both", s, term, candidate)
		check("crash after both", crashCopy(t, path), term, candidate)
		previousTerm, previous = term, candidate
	}
}

// TestPlainBoltStoreTearsTheVote shows that the test above can fail: it is what
// the library's own store does.
func TestPlainBoltStoreTearsTheVote(t *testing.T) {
	s, err := raftboltdb.NewBoltStore(filepath.Join(t.TempDir(), "plain.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, err := range []error{s.SetUint64(keyLastVoteTerm, 5), s.Set(keyLastVoteCand, []byte("n1")), s.SetUint64(keyLastVoteTerm, 6)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	term, _ := s.GetUint64(keyLastVoteTerm)
	cand, _ := s.Get(keyLastVoteCand)
	if term != 6 || string(cand) != "n1" {
		t.Fatalf("vote for %q in term %d: the library has changed, the wrapper may not be needed any more", cand, term)
	}
}

func TestStableStoreKeepsTheTerm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vote.db")
	s := openTestStable(t, path)
	if _, err := s.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("missing key: %v; raft looks for the text \"not found\"", err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 42); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTestStable(t, path)
	defer s.Close()
	if term, err := s.GetUint64([]byte("CurrentTerm")); term != 42 || err != nil {
		t.Errorf("term %d, %v", term, err)
	}
}

func TestStableStoreRefusesACandidateWithoutATerm(t *testing.T) {
	s := openTestStable(t, filepath.Join(t.TempDir(), "vote.db"))
	defer s.Close()
	if err := s.Set(keyLastVoteCand, []byte("n1")); err == nil {
		t.Error("no error")
	}
}

func TestStableStoreFailsStop(t *testing.T) {
	fatal := make(chan error, 1)
	s, err := openStableStore(filepath.Join(t.TempDir(), "vote.db"), stableStoreOptions{Limit: time.Minute, Fatal: func(err error) { fatal <- err }})
	if err != nil {
		t.Fatal(err)
	}
	// The file is closed under the store: every write fails from here on.
	if err := s.bolt.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 1); err == nil {
		t.Error("no error")
	}
	if len(fatal) != 1 {
		t.Error("Fatal was not called")
	}
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vote.db")
	s := openTestStable(t, path)
	defer s.Close()
	if testing.Short() {
		t.Skip("waits for the lock's timeout")
	}
	if _, err := openStableStore(path, stableStoreOptions{}); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}
