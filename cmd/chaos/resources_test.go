package chaos

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestLogsThatDifferAreFound(t *testing.T) {
	entry := func(index, term uint64, digest string) Entry {
		return Entry{Index: index, Term: term, Type: "LogCommand", Bytes: 3, Digest: digest}
	}
	good := []Entry{entry(5, 1, "a"), entry(6, 2, "b"), entry(7, 2, "c")}
	for _, c := range []struct {
		name  string
		other []Entry
		want  int
	}{
		{"the same", good, 0},
		{"a part of it", good[1:], 0},
		{"longer, and different where nothing is committed", append(good[:2:2], entry(7, 3, "x"), entry(8, 3, "y")), 0},
		{"another term", []Entry{entry(5, 1, "a"), entry(6, 1, "b")}, 1},
		{"other bytes", []Entry{entry(5, 1, "x")}, 1},
		{"an index twice", []Entry{entry(5, 1, "a"), entry(5, 1, "a")}, 1},
		{"a term that falls", []Entry{entry(5, 1, "a"), entry(6, 2, "b"), entry(7, 1, "x")}, 1},
	} {
		var book LogBook
		if found := book.Add("n1", good, 6); len(found) != 0 {
			t.Fatalf("one log alone: %v", found)
		}
		if found := book.Add("n2", c.other, 6); len(found) != c.want {
			t.Errorf("%s: %v; want %d", c.name, found, c.want)
		}
		if c.name == "the same" && (book.Logs != 2 || book.Entries != 4 || book.Compared != 2) {
			t.Errorf("the book has counted %d, %d, %d", book.Logs, book.Entries, book.Compared)
		}
	}
}

func TestHashesThatDifferAreFound(t *testing.T) {
	point := func(index, term uint64, hash string) wire.HashPoint {
		return wire.HashPoint{Index: index, Term: term, Hash: hash}
	}
	for _, c := range []struct {
		name string
		node string
		p    wire.HashPoint
		want int
	}{
		{"the same on another node", "n2", point(5, 1, "a"), 0},
		{"another one on another node", "n2", point(5, 1, "b"), 1},
		{"another one on the same node, later", "n1", point(5, 1, "b"), 1},
		{"another term", "n2", point(5, 2, "a"), 1},
		{"another entry", "n2", point(6, 1, "b"), 0},
		{"none yet", "n2", point(0, 0, ""), 0},
	} {
		var book HashBook
		if found := book.Add("n1", point(5, 1, "a")); len(found) != 0 {
			t.Fatal(found)
		}
		if found := book.Add(c.node, c.p); len(found) != c.want {
			t.Errorf("%s: %v; want %d", c.name, found, c.want)
		}
		if c.name == "the same on another node" && (book.Hashes != 2 || book.Compared != 1) {
			t.Errorf("the book has counted %d, %d", book.Hashes, book.Compared)
		}
	}
}

func TestTooMuchHeldAtRestIsFound(t *testing.T) {
	fresh := Held{Goroutines: 80, Sockets: 20, Files: 40}
	for _, c := range []struct {
		name string
		now  Held
		want int
	}{
		{"as a fresh one", fresh, 0},
		{"a little more", Held{Goroutines: 90, Sockets: 30, Files: 80}, 0},
		{"goroutines", Held{Goroutines: 200, Sockets: 20, Files: 40}, 1},
		{"no metrics", Held{Sockets: 20, Files: 40}, 1},
		{"sockets", Held{Goroutines: 80, Sockets: 190, Files: 40}, 1},
		{"files", Held{Goroutines: 80, Sockets: 20, Files: 400}, 1},
		{"a deleted file", Held{Goroutines: 80, Sockets: 20, Files: 40, Deleted: 1}, 1},
	} {
		if found := CheckHeld("n1", fresh, c.now); len(found) != c.want {
			t.Errorf("%s: %v; want %d", c.name, found, c.want)
		}
	}
}

// The descriptors are those of a child that does nothing: this process has
// connections that tests before this one are still closing.
func TestOpenFilesAreCounted(t *testing.T) {
	dir := t.TempDir()
	var held []*os.File
	for _, name := range []string{"a", "b"} {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		held = append(held, file)
	}
	if err := os.Remove(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	child := exec.Command("sleep", "60")
	child.ExtraFiles = append(held, socket)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait() // killed: says so
	}()
	sockets, files, deleted, err := openFiles(child.Process.Pid, dir)
	if err != nil || sockets != 1 || files != 2 || deleted != 1 {
		t.Errorf("%d sockets, %d files, %d deleted: %v; want 1, 2, 1", sockets, files, deleted, err)
	}
	if memory, err := ownMemory(os.Getpid()); err != nil || memory < 1<<20 {
		t.Errorf("%d bytes of memory: %v", memory, err)
	}
}

func TestGrowthIsFound(t *testing.T) {
	run := func(each func(i int) Held) (samples []Held) {
		for i := range 12 {
			samples = append(samples, each(i))
		}
		return samples
	}
	flat := Held{Goroutines: 80, Sockets: 20, Files: 40, Memory: 100 << 20}
	for _, c := range []struct {
		name string
		each func(i int) Held
		want int
	}{
		{"flat", func(int) Held { return flat }, 0},
		{"one bad moment", func(i int) Held {
			h := flat
			if i == 10 {
				h.Goroutines, h.Memory = 5000, 9<<30
			}
			return h
		}, 0},
		{"memory", func(i int) Held { h := flat; h.Memory += int64(i) * 20 << 20; return h }, 1},
		{"goroutines", func(i int) Held { h := flat; h.Goroutines += 20 * i; return h }, 1},
		{"sockets", func(i int) Held { h := flat; h.Sockets += 20 * i; return h }, 1},
		{"files", func(i int) Held { h := flat; h.Files += 30 * i; return h }, 1},
	} {
		if found := CheckFlat("n1", run(c.each)); len(found) != c.want {
			t.Errorf("%s: %v; want %d", c.name, found, c.want)
		}
	}
}

func TestARunThatKnowsTooLittleFails(t *testing.T) {
	if found := CheckUnknown(60, 1000); len(found) != 0 {
		t.Error(found)
	}
	if found := CheckUnknown(200, 1000); len(found) != 1 {
		t.Error(found)
	}
}
