//go:build unix

package bench

import "syscall"

// ownCPU is the processor time of this process in seconds.
func ownCPU() float64 {
	var now syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &now) != nil {
		return 0
	}
	return float64(now.Utime.Nano()+now.Stime.Nano()) / 1e9
}
