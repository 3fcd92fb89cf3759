package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// dirMode and fileMode keep the data from other users of the machine.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// listFiles returns the files of a checkpoint directory, in stream order. A
// file with another name than a checkpoint has is an error: it would not
// survive the way to a follower, and nobody would notice.
func listFiles(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("snapshot: list %s: %w", dir, err)
	}
	var files []File
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("snapshot: list %s: %w", dir, err)
		}
		if !info.Mode().IsRegular() || !namePattern.MatchString(e.Name()) {
			return nil, fmt.Errorf("snapshot: list %s: unexpected file %q: %w", dir, e.Name(), ErrCorrupt)
		}
		files = append(files, File{Name: e.Name(), Size: info.Size()})
	}
	sortFiles(files)
	return files, nil
}

// syncFiles makes the files of a directory, and the directory, durable.
func syncFiles(dir string, files []File) error {
	for _, f := range files {
		if err := syncPath(filepath.Join(dir, f.Name)); err != nil {
			return err
		}
	}
	return syncPath(dir)
}

// syncPath fsyncs a file or a directory.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("snapshot: sync %s: %w", path, err)
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("snapshot: sync %s: %w", path, err)
	}
	return nil
}

// linkOrCopy puts one file of a snapshot into another directory: as a hard
// link if its bytes never change again, else as a copy.
func linkOrCopy(from, to string, f File) error {
	src, dst := filepath.Join(from, f.Name), filepath.Join(to, f.Name)
	if shareable.MatchString(f.Name) {
		err := os.Link(src, dst)
		// Other file systems, and those without links, get a copy.
		if err == nil || !errors.Is(err, syscall.EXDEV) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EMLINK) {
			return wrap(err, "link", f.Name)
		}
	}
	return wrap(copyFile(src, dst, f.Size), "copy", f.Name)
}

// copyFile copies exactly size bytes and syncs them.
func copyFile(src, dst string, size int64) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(out, in, size); err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// freeBytes is how much an unprivileged process may still write to dir's
// file system.
func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("snapshot: free space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

func wrap(err error, verb, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("snapshot: %s %s: %w", verb, what, err)
}
