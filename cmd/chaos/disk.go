package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// diskBytes is the size of a node's disk: more than an hour of chaos writes.
	// The file behind it has holes.
	// lowBytes is its low-water mark: above it a full disk is no disk that is
	// full, but one on which writes are refused.
	diskBytes = 1 << 30
	lowBytes  = 48 << 20
	// The ioctls of fsfreeze(8), which package unix does not have.
	fiFreeze, fiThaw = 0xc0045877, 0xc0045878
	// diskRoot is where the disks of a run are; the process's id follows.
	diskRoot = "snipdb-chaos-disks-"
)

// Disk is a file system of one node: a file that is mounted as one. It can be
// filled, and it can be frozen: then every write and fsync in it hangs, as on a
// disk that does not answer any more. Only root can make one.
type Disk struct {
	Dir   string
	image string

	mu     sync.Mutex // guards frozen
	frozen bool
}

// disksWork says why disks can't be made here, nil if they can.
func disksWork() error {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount a file system")
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return err
	}
	return nil
}

// diskFolder is where the files behind the disks are: in memory, if there is
// enough, so that an fsync takes as long as a fault says and not as long as
// another program lets it.
func diskFolder() string {
	const memory = "/dev/shm"
	var stat unix.Statfs_t
	if err := unix.Statfs(memory, &stat); err != nil || int64(stat.Bavail)*stat.Bsize < 6*diskBytes {
		return os.TempDir()
	}
	return memory
}

// NewDisk makes and mounts a disk, and takes it away with the test.
func NewDisk(tb testing.TB, name string) (*Disk, error) {
	root := filepath.Join(diskFolder(), diskRoot+strconv.Itoa(os.Getpid()))
	d := &Disk{Dir: filepath.Join(root, name), image: filepath.Join(root, name+".img")}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	tb.Cleanup(func() {
		if err := d.remove(); err != nil {
			tb.Errorf("chaos: the disk of %s: %v", name, err)
		}
	})
	file, err := os.Create(d.image)
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	err = errors.Join(file.Truncate(diskBytes), file.Close())
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	// No blocks are kept for root, because the nodes run as root here.
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", "-N", "32768", d.image}, {"mount", "-o", "loop", d.image, d.Dir},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("chaos: %s: %w: %s", strings.Join(command, " "), err, out)
		}
	}
	return d, nil
}

// remove unmounts the disk. Who wrote to it has ended.
func (d *Disk) remove() error {
	d.Thaw()
	var errs []error
	if mounted(d.Dir) {
		if out, err := exec.Command("umount", d.Dir).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("umount: %w: %s", err, out))
		}
	}
	errs = append(errs, os.RemoveAll(d.image))
	if len(errs) == 1 {
		errs = append(errs, os.Remove(d.Dir))
	}
	_ = os.Remove(filepath.Dir(d.Dir)) // the last disk takes the folder with it
	return errors.Join(errs...)
}

func mounted(dir string) bool {
	text, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(text), " "+dir+" ")
}

// removeStale takes away the disks of runs that were killed: their processes
// may hang in a frozen disk for ever otherwise.
func removeStale(tb testing.TB) {
	folders, _ := filepath.Glob(filepath.Join(diskFolder(), diskRoot+"*"))
	for _, folder := range folders {
		pid := strings.TrimPrefix(filepath.Base(folder), diskRoot)
		if _, err := os.Stat(filepath.Join("/proc", pid)); err == nil {
			continue
		}
		images, _ := filepath.Glob(filepath.Join(folder, "*.img"))
		for _, image := range images {
			d := &Disk{Dir: strings.TrimSuffix(image, ".img"), image: image, frozen: true}
			if err := d.remove(); err != nil {
				tb.Logf("what an earlier run left in %s can't be removed: %v", folder, err)
			}
		}
		_ = os.Remove(folder)
	}
}

// Freeze makes all writes to the disk hang until Thaw.
func (d *Disk) Freeze() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Without its mount the folder belongs to the machine's own file system.
	if !mounted(d.Dir) {
		return fmt.Errorf("chaos: freeze %s: it is not mounted", d.Dir)
	}
	if err := d.ioctl(fiFreeze); err != nil {
		return fmt.Errorf("chaos: freeze %s: %w", d.Dir, err)
	}
	d.frozen = true
	return nil
}

// Thaw lets the writes go on; on a disk that is not frozen it does nothing.
func (d *Disk) Thaw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.frozen && mounted(d.Dir) {
		_ = d.ioctl(fiThaw)
	}
	d.frozen = false
}

func (d *Disk) ioctl(request uint) error {
	fd, err := unix.Open(d.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetInt(fd, request, 0)
}

// Free is what is left on the disk.
func (d *Disk) Free() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(d.Dir, &stat); err != nil {
		return 0, fmt.Errorf("chaos: %w", err)
	}
	return int64(stat.Bavail) * stat.Bsize, nil
}

// ballast is the file that takes the space, as another program's would.
func (d *Disk) ballast() string { return filepath.Join(d.Dir, "ballast") }

// Fill takes all of what is free but so many bytes. The node goes on writing
// meanwhile, so it takes what it gets.
func (d *Disk) Fill(leave int64) error {
	file, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("chaos: fill: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("chaos: fill: %w", err)
	}
	const block = 4096
	size := info.Size()
	free, err := d.Free()
	for n := (free - leave) / block * block; err == nil && n >= block; {
		switch e := unix.Fallocate(int(file.Fd()), 0, size, n); {
		case e == nil:
			size += n
			free, err = d.Free()
			n = (free - leave) / block * block
		case errors.Is(e, unix.ENOSPC):
			n = n / 2 / block * block
		case !errors.Is(e, unix.EINTR):
			return fmt.Errorf("chaos: fill: %w", e)
		}
	}
	return err
}

// Release gives the space back.
func (d *Disk) Release() error {
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("chaos: %w", err)
	}
	return nil
}
