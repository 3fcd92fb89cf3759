package contention

import (
	"context"
	"testing"
	"time"
)

func options(t *testing.T, workers int) Options {
	return Options{
		Dir: t.TempDir(), Workers: workers, Duration: 700 * time.Millisecond,
		Snippets: 10, Dimension: 64, ContentBytes: 256, Neighbours: 16, Existing: 2000, Seed: 1,
	}
}

func TestALoneWorkerNeverConflicts(t *testing.T) {
	r, err := Run(context.Background(), options(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	if r.Committed == 0 || r.Committed != r.Attempted {
		t.Fatalf("one worker: %+v", r)
	}
}

func TestManyWorkersGetResourceBusy(t *testing.T) {
	r, err := Run(context.Background(), options(t, 32))
	if err != nil {
		t.Fatal(err)
	}
	if r.Busy == 0 || r.Committed == 0 {
		t.Fatalf("32 workers with shared neighbours: %+v; the failure this shows did not happen", r)
	}
	if r.Attempted != r.Committed+r.Busy+r.TryAgain {
		t.Fatalf("the counts do not add up: %+v", r)
	}
	t.Logf("%+v busy %.1f %%", r, 100*r.BusyShare())
}

// Without the index the documents have no row in common: what conflicts is the
// index, and not the workers as such.
func TestWithoutTheIndexNothingConflicts(t *testing.T) {
	o := options(t, 32)
	o.Neighbours, o.Existing = 0, 0
	r, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Committed == 0 || r.Busy != 0 {
		t.Fatalf("32 workers without an index: %+v", r)
	}
}

func TestOptionsOutOfRangeAreNamed(t *testing.T) {
	if _, err := Run(context.Background(), Options{}); err == nil {
		t.Fatal("empty options were accepted")
	}
}
