package main

import (
	"testing"
	"time"

	"github.com/snipdb/snipdb/storage/failpoint"
)

func TestWallClockIsTheSystemsClock(t *testing.T) {
	if failpoint.Enabled {
		t.Skip("this binary's clock can be set wrong")
	}
	var clock wallClock
	before := time.Now()
	if now := clock.now(); now.Before(before) || time.Since(now) < 0 {
		t.Errorf("the clock shows %v at %v", now, before)
	}
}

func TestDrift(t *testing.T) {
	for _, row := range []struct {
		elapsed time.Duration
		ppm     int64
		want    time.Duration
	}{
		{time.Hour, 0, 0},
		{time.Second, 500, 500 * time.Microsecond},
		{10 * time.Second, 1e6, 10 * time.Second},
		{10 * time.Second, -5e5, -5 * time.Second},
	} {
		if got := driftOf(row.elapsed, row.ppm); got != row.want {
			t.Errorf("%v at %d ppm: %v, want %v", row.elapsed, row.ppm, got, row.want)
		}
	}
}
