package main

import (
	"math"
	"runtime/debug"
	"testing"
)

func TestHeldMemoryLeavesFilesOut(t *testing.T) {
	for text, want := range map[string]uint64{
		"9000 300 100 5 0 80 0\n": 200 * 4096,
		"9000 300 400 5 0 80 0\n": 0, // no process: more shared than resident
		"9000 300":                0,
		"":                        0,
		"a b c":                   0,
	} {
		if got := heldOf([]byte(text), 4096); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if held := heldBytes(); held < 1<<20 {
		t.Errorf("this process holds %d bytes", held)
	}
}

func TestTheMemoryGateClosesAtItsShare(t *testing.T) {
	if memoryGate(0) != nil {
		t.Error("there is a gate without a limit")
	}
	held := heldBytes()
	for _, row := range []struct {
		limit uint64
		low   bool
	}{{held / 2, true}, {held * 16, false}} {
		if low, detail := memoryGate(row.limit)(); low != row.low || detail == "" {
			t.Errorf("%d held, limit %d: %v %q", held, row.limit, low, detail)
		}
	}
}

func TestGoGetsWhatRocksDBLeaves(t *testing.T) {
	const gib = 1 << 30
	for _, row := range []struct {
		limit  uint64
		native int64
		want   int64
	}{
		{0, gib, 0},                // nobody says what the process may hold
		{4 * gib, gib, 3006477107}, // 95 % of 4 GiB less 1 GiB
		{gib, gib, gib / 4},        // RocksDB alone would fill it
	} {
		if got := goMemoryLimit(row.limit, row.native); got != row.want {
			t.Errorf("%d, %d: %d, want %d", row.limit, row.native, got, row.want)
		}
	}
	before := debug.SetMemoryLimit(-1)
	undo := limitGoMemory(4*gib, gib)
	if now := debug.SetMemoryLimit(-1); now != 3006477107 {
		t.Errorf("the limit is %d", now)
	}
	undo()
	if now := debug.SetMemoryLimit(-1); now != before {
		t.Errorf("the limit is %d, and was %d", now, before)
	}
	t.Setenv("GOMEMLIMIT", "off")
	limitGoMemory(4*gib, gib)
	if now := debug.SetMemoryLimit(-1); now != before && now != math.MaxInt64 {
		t.Errorf("the limit is %d in spite of GOMEMLIMIT", now)
	}
}
