//go:build !linux

package doctor

import (
	"errors"
	"os"
)

// snipdb's server runs on Linux; snipctl runs anywhere, and says what it
// can't measure here.
var errNotLinux = errors.New("measured on Linux only")

func datasync(f *os.File) error { return f.Sync() }

func filesystem(string) string { return "" }

func diskSpace(string) (free, total uint64, err error) { return 0, 0, errNotLinux }

func fileLimit() (soft, hard uint64, err error) { return 0, 0, errNotLinux }

func memory() (available, limit uint64, err error) { return 0, 0, errNotLinux }
