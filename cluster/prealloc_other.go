//go:build !linux

package cluster

func preallocate(string, int64) {}
