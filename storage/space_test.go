package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of that many bytes in memory.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("snipdb-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) {
			t.Skipf("a small file system can't be mounted here (%v): run as root, with CAP_SYS_ADMIN", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

// fillDisk takes all that is free, as another program would, and returns the
// file to remove.
func fillDisk(t *testing.T, disk string) string {
	t.Helper()
	path := filepath.Join(disk, "ballast")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		n, err := f.Write(make([]byte, size))
		if n < size && err != nil {
			size /= 2
		}
	}
	return path
}

// waitForSpace switches the waiting on for one test.
func waitForSpace(t *testing.T) {
	setSpaceWait(true)
	t.Cleanup(func() { setSpaceWait(false) })
}

// TestLogOnAFullDisk: an append on a full disk waits, in the middle of a record
// of which a part may be written, and goes on when there is space; what it says
// then is true after the next open as well.
func TestLogOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 16<<20)
	waitForSpace(t)
	dir := filepath.Join(disk, "log")
	l, err := OpenLog(dir, LogOptions{MemtableBytes: 1 << 20})
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	record := func(i uint64) []byte {
		return bytes.Repeat([]byte{byte(i)}, int(i*7919%50_000)+1)
	}
	index := uint64(0)
	for range 5 {
		for range random.IntN(50) { // an end of a file somewhere in a page
			index++
			must(t, l.Append([]uint64{index}, [][]byte{record(index)}))
		}
		ballast := fillDisk(t, disk)
		before := SpaceNow().Waits
		done := make(chan error, 1)
		from := index + 1
		index += 40
		go func() {
			for i := from; i < from+40; i++ {
				if err := l.Append([]uint64{i}, [][]byte{record(i)}); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		eventually(t, "the append waits for space", func() bool { return SpaceNow().Waiting > 0 })
		if SpaceNow().Waits == before || SpaceNow().File == "" {
			t.Errorf("%+v", SpaceNow())
		}
		if got, ok, err := l.Get(1); err != nil || !ok || !bytes.Equal(got, record(1)) {
			t.Errorf("a read beside it: %v %v", ok, err)
		}
		must(t, os.Remove(ballast))
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(30 * time.Second):
			t.Fatal("the append does not go on with space")
		}
		must(t, l.DeleteRange(2, max(index, 60)-50)) // or the small disk is full of log
	}
	eventually(t, "nobody waits", func() bool { return SpaceNow().Waiting == 0 })
	must(t, l.Close())
	setSpaceWait(false)
	l = openLog(t, dir, LogOptions{})
	for i := index - 40; i <= index; i++ {
		if got, ok, err := l.Get(i); err != nil || !ok || !bytes.Equal(got, record(i)) {
			t.Fatalf("record %d after the open: %v %v, %d bytes", i, ok, err, len(got))
		}
	}
	must(t, l.Close()) // before the file system goes
}

// TestStateOnAFullDisk: a commit and a flush on a full disk wait; views are
// given and read.
func TestStateOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 48<<20)
	waitForSpace(t)
	dir := filepath.Join(disk, "db")
	o := small()
	s, err := NewShared(o)
	must(t, err)
	defer s.Close()
	db, err := Open(dir, o, s)
	must(t, err)
	value := func(i int) string { return string(bytes.Repeat([]byte(fmt.Sprint(i)), 3000)) }
	n := 0
	put := func() { putSystem(t, db, fmt.Sprint("k", n), value(n)); n++ }
	for range 100 {
		put()
	}
	ballast := fillDisk(t, disk)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			put()
		}
		must(t, db.Flush())
	}()
	eventually(t, "the commit waits for space", func() bool { return SpaceNow().Waiting > 0 })
	v, err := db.View()
	must(t, err)
	if got, err := v.System("k7"); err != nil || string(got) != value(7) {
		t.Errorf("a read beside it: %d bytes, %v", len(got), err)
	}
	v.Close()
	if db.Unflushed() == 0 {
		t.Error("nothing is unflushed")
	}
	must(t, os.Remove(ballast))
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the commits do not go on with space")
	}
	must(t, db.Close())
	_, _, err = VerifyCheckpoint(dir, o)
	must(t, err)
	db, err = Open(dir, o, s)
	must(t, err)
	defer func() { must(t, db.Close()) }()
	v, err = db.View()
	must(t, err)
	defer v.Close()
	for i := range n {
		if got, err := v.System(fmt.Sprint("k", i)); err != nil || string(got) != value(i) {
			t.Fatalf("row %d after the open: %d bytes, %v", i, len(got), err)
		}
	}
}

// TestCompactionRoom: a compaction for which there is no room is put off, and
// done when there is.
func TestCompactionRoom(t *testing.T) {
	o := small()
	o.Overrides = map[string]string{"level0_file_num_compaction_trigger": "2"}
	db := openDB(t, t.TempDir(), o)
	db.shared.SetRoom(0)
	t.Cleanup(func() { setPreallocate(false) })
	files := func() uint64 {
		st, err := db.Stats()
		must(t, err)
		return st.L0Files
	}
	write := func() {
		for i := range 100 {
			putSystem(t, db, fmt.Sprint("k", i), string(bytes.Repeat([]byte("x"), 1000)))
		}
		must(t, db.Flush())
	}
	for range 5 {
		write()
	}
	// There is nothing to wait for: a compaction would have been started with
	// the second file, and takes milliseconds.
	time.Sleep(300 * time.Millisecond)
	if n := files(); n < 5 {
		t.Errorf("%d files in level 0: a compaction was done without room", n)
	}
	db.shared.SetRoom(1 << 30)
	eventually(t, "the compaction is done", func() bool { return files() < 2 })
}
