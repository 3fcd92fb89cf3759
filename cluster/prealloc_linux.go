package cluster

import (
	"os"

	"golang.org/x/sys/unix"
)

// preallocate takes space for a file, without making it longer. A file system
// that can't do it has no need to: the write tells.
func preallocate(path string, bytes int64) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	_ = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, bytes)
	_ = file.Close()
}
