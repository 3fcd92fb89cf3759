package snapshot

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzReceive: whatever arrives, in whatever pieces, either is a whole
// snapshot or leaves nothing, and nothing is ever made outside the directory.
func FuzzReceive(f *testing.F) {
	small := content{"000009.sst": "abc", "000010.blob": strings.Repeat("b", 300), "MANIFEST-000008": "", "CURRENT": "MANIFEST-000008\n"}
	s := newStore(f, f.TempDir(), Options{})
	good := streamOf(f, s, take(f, s, 7, 2, small))
	f.Add(good, uint64(1), true)
	f.Add(good[:len(good)-1], uint64(2), true)
	f.Add(bytes.Replace(good, []byte("000009.sst"), []byte("../009.sst"), 1), uint64(3), true)
	f.Add(bytes.Replace(good, []byte("000009.sst"), []byte("/tmp/x.sst"), 1), uint64(3), true)
	f.Add(append(slices.Clone(good), good...), uint64(4), false)
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, repair bool) {
		if n := 16; repair && len(data) > n { // reach what is behind the checksum
			if h := int(binary.LittleEndian.Uint32(data[12:])); h >= n && h+4 <= len(data) {
				data = fixSum(slices.Clone(data))
			}
		}
		parent := t.TempDir()
		s := newStore(t, filepath.Join(parent, "store"), Options{FreeBytes: func(string) (uint64, error) { return 1 << 20, nil }, ReserveBytes: -1})
		random := rand.New(rand.NewPCG(seed, 1))
		sink := create(t, s, 7, 2)
		var err error
		for rest := data; len(rest) > 0 && err == nil; {
			n := 1 + random.IntN(min(len(rest), 200))
			_, err = sink.Write(rest[:n])
			rest = rest[n:]
		}
		if err != nil {
			_ = sink.Cancel()
		} else {
			err = sink.Close()
		}
		inside, around := names(t, s.Dir()), names(t, parent)
		if !slices.Equal(around, []string{"store"}) {
			t.Fatalf("made outside the store: %v", around)
		}
		if err != nil {
			if len(inside) != 0 {
				t.Fatalf("refused (%v), but left %v", err, inside)
			}
			return
		}
		for name := range readDir(t, filepath.Join(s.Dir(), sink.ID(), "db")) {
			if !namePattern.MatchString(name) {
				t.Fatalf("made %q", name)
			}
		}
		if again := streamOf(t, s, sink.ID()); !bytes.Equal(again, data) {
			t.Fatal("what was accepted is not what is sent on")
		}
	})
}

// FuzzHeader is the part of FuzzReceive that needs no disk, and so is tried
// far more often: what is decoded is valid and gives the same bytes again.
func FuzzHeader(f *testing.F) {
	h := &header{clusterID: "cluster-1", index: 7, term: 2, files: []File{{"000009.sst", 3}, {"CURRENT", 16}}}
	b, err := h.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 16 {
			return
		}
		n, err := headerLength(data)
		if err != nil || n > len(data) {
			return
		}
		h, err := decodeHeader(fixSum(slices.Clone(data[:n])))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if again, err := h.encode(); err != nil || !bytes.Equal(again[:n-4], data[:n-4]) {
			t.Errorf("%x is decoded to %+v, which is encoded as %x, %v", data[:n], h, again, err)
		}
	})
}

// FuzzMeta writes any meta.json beside the files of a snapshot. It is refused,
// or the snapshot can be listed, sent and restored; and whatever it names,
// nothing is made or read outside the two directories.
func FuzzMeta(f *testing.F) {
	small := content{"000009.sst": "abc", "CURRENT": "MANIFEST-000008\n", "MANIFEST-000008": "m"}
	home := newStore(f, f.TempDir(), Options{})
	id := take(f, home, 7, 2, small)
	good, err := os.ReadFile(filepath.Join(home.Dir(), id, metaName))
	if err != nil {
		f.Fatal(err)
	}
	var e envelope
	if err := json.Unmarshal(good, &e); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(e.Meta))
	for _, change := range [][2]string{
		{`000009.sst`, `../../secret`}, {`000009.sst`, `/etc/passwd`}, {`000009.sst`, ``}, {`"Index":7`, `"Index":0`}, {`"format":1`, `"format":2`},
		{`:3`, `:-3`}, {`:3`, `:9223372036854775807`}, {`"files":[`, `"files":[{"name":"CURRENT","size":16},`}, {id, "2-7-1"},
	} {
		f.Add(bytes.ReplaceAll(e.Meta, []byte(change[0]), []byte(change[1])))
	}
	parent := f.TempDir()
	root := filepath.Join(parent, "store")
	writeDir(f, root, nil)
	writeDir(f, filepath.Join(root, id), nil)
	writeDir(f, filepath.Join(root, id, dbName), small)
	if err := os.WriteFile(filepath.Join(root, "secret"), []byte("abc"), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, meta []byte) {
		raw := fmt.Appendf(nil, `{"crc32c":%d,"meta":%s}`, crc32.Checksum(meta, castagnoli), meta)
		if err := os.WriteFile(filepath.Join(root, id, metaName), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := NewStore(root, Options{})
		if err != nil {
			return
		}
		if _, err := s.List(); err != nil {
			return
		}
		out := filepath.Join(parent, "out")
		if err := os.Mkdir(out, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(out)
		_, source, err := s.Open(id)
		if err != nil {
			return
		}
		defer source.Close()
		if _, err := Materialize(source, out, ""); err != nil {
			return
		}
		for name, text := range readDir(t, out) {
			if text != small[name] {
				t.Errorf("%q was made, with %q", name, text)
			}
		}
		if around := names(t, parent); !slices.Equal(around, []string{"out", "store"}) {
			t.Errorf("made outside the store: %v", around)
		}
	})
}
