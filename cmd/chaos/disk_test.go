package chaos

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testDisk(t *testing.T) *Disk {
	t.Helper()
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	if err := disksWork(); err != nil {
		t.Skip(err)
	}
	d, err := NewDisk(t, t.Name())
	if err != nil {
		t.Skip(err)
	}
	return d
}

// write writes and syncs a file on the disk.
func write(d *Disk, name string, size int) error {
	file, err := os.Create(filepath.Join(d.Dir, name))
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, size))
	return errors.Join(err, file.Sync(), file.Close())
}

func TestAFullDiskTakesNothing(t *testing.T) {
	d := testDisk(t)
	if err := d.Fill(0); err != nil {
		t.Fatal(err)
	}
	if err := write(d, "a", 1<<20); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a write to a full disk: %v", err)
	}
	if err := d.Release(); err != nil {
		t.Fatal(err)
	}
	if err := write(d, "a", 1<<20); err != nil {
		t.Errorf("a write after the space was given back: %v", err)
	}
}

// A write to a frozen disk hangs until it is thawed, and is whole then.
func TestAFrozenDiskHangs(t *testing.T) {
	d := testDisk(t)
	if err := d.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer d.Thaw()
	done := make(chan error, 1)
	go func() { done <- write(d, "a", 4096) }()
	select {
	case err := <-done:
		t.Fatalf("a write to a frozen disk has ended: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	d.Thaw()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("after the thaw: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the write hangs after the thaw")
	}
}

// Where nothing is mounted, the machine's own file system would be frozen.
func TestOnlyAMountedDiskIsFrozen(t *testing.T) {
	d := &Disk{Dir: t.TempDir()}
	if err := d.Freeze(); err == nil {
		d.Thaw()
		t.Error("a folder that is no disk was frozen")
	}
}
