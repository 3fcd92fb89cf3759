package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"regexp"
	"slices"
)

// The stream format, version 1. All integers are little-endian.
//
//	offset  size  field
//	0       8     magic "SNIPSNAP"
//	8       4     format version, 1
//	12      4     H: length of the header, from offset 0 to the checksum
//	16      8     index of the last entry that the snapshot covers
//	24      8     term of that entry
//	32      4     N: number of files
//	36      2     C: length of the cluster id
//	38      C     cluster id
//	38+C          N times:
//	        1       L: length of the file's name
//	        L       name
//	        8       S: length of the file
//	H       4     CRC-32C of the bytes 0 to H
//	H+4           N times, in the order of the header:
//	        S       the file's bytes
//	        4       CRC-32C of them
//
// The length of the stream follows from the header alone, which is what
// raft.SnapshotMeta.Size must announce before the first byte is read. The
// checksums stand behind the files, not in the header, so that taking a
// snapshot need not read the database.
const (
	magic         = "SNIPSNAP"
	formatVersion = 1
	fixedHeader   = 38
	checksumBytes = 4
)

// The limits of a stream. A stream comes from the network: whatever it
// announces is bounded before memory or disk is spent on it.
const (
	// MaxFiles bounds the files of one snapshot. A file of the default profile
	// has 64 MiB: 65,536 of them are 4 TiB.
	MaxFiles = 1 << 16
	// MaxNameBytes bounds a file's name; the longest that RocksDB makes are
	// "OPTIONS-" and "MANIFEST-" with a number of up to 20 digits.
	MaxNameBytes = 64
	// MaxClusterIDBytes bounds the cluster id.
	MaxClusterIDBytes = 256
	// maxHeaderBytes follows from the three above.
	maxHeaderBytes = fixedHeader + MaxClusterIDBytes + MaxFiles*(1+MaxNameBytes+8)
)

// The errors of this package, all wrapped with what was being done.
var (
	// ErrCorrupt: the stream or the directory is not a whole snapshot.
	ErrCorrupt = errors.New("the snapshot is damaged or incomplete")
	// ErrCluster: the snapshot is another cluster's.
	ErrCluster = errors.New("the snapshot belongs to another cluster")
	// ErrOutdated: a newer snapshot was received while this one was taken.
	ErrOutdated = errors.New("a newer snapshot has been received meanwhile")
	// ErrSpace: the disk has no room for the files that the stream announces.
	ErrSpace = errors.New("not enough free disk space for the snapshot")
	// ErrNotFound: no snapshot has that id.
	ErrNotFound = errors.New("no such snapshot")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// namePattern is what a checkpoint's files are called. Nothing else is ever
// created on behalf of a stream: no separator, no dot alone, no link, no
// directory can pass it.
var namePattern = regexp.MustCompile(`^(\d{6,20}\.(sst|blob|log)|MANIFEST-\d{6,20}|OPTIONS-\d{6,20}|CURRENT|IDENTITY)$`)

// shareable names the files that RocksDB never writes again, which may
// therefore be hard links into several directories. The others (MANIFEST,
// CURRENT, the write-ahead log) are appended to or replaced by the database
// that opens them, and must be copies.
var shareable = regexp.MustCompile(`\.(sst|blob)$`)

// File is one file of a snapshot.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// header is the decoded header of a stream.
type header struct {
	clusterID   string
	index, term uint64
	files       []File
}

// encode returns the header's bytes with their checksum.
func (h *header) encode() ([]byte, error) {
	if err := h.validate(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, fixedHeader+len(h.clusterID)+len(h.files)*(1+MaxNameBytes+8)+checksumBytes)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, 0) // the length: below
	b = binary.LittleEndian.AppendUint64(b, h.index)
	b = binary.LittleEndian.AppendUint64(b, h.term)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.files)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(h.clusterID)))
	b = append(b, h.clusterID...)
	for _, f := range h.files {
		b = append(b, byte(len(f.Name)))
		b = append(b, f.Name...)
		b = binary.LittleEndian.AppendUint64(b, uint64(f.Size))
	}
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// headerLength checks the first 16 bytes of a stream and returns how long the
// header is, checksum included.
func headerLength(b []byte) (int, error) {
	if string(b[:8]) != magic {
		return 0, fmt.Errorf("not a snipdb snapshot: %w", ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return 0, fmt.Errorf("format version %d, this release reads %d: %w", v, formatVersion, ErrCorrupt)
	}
	n := binary.LittleEndian.Uint32(b[12:])
	if n < fixedHeader || n > maxHeaderBytes {
		return 0, fmt.Errorf("header of %d bytes: %w", n, ErrCorrupt)
	}
	return int(n) + checksumBytes, nil
}

// decodeHeader decodes a header with its checksum and checks every part of it.
func decodeHeader(b []byte) (*header, error) {
	body, sum := b[:len(b)-checksumBytes], b[len(b)-checksumBytes:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil, fmt.Errorf("checksum of the header: %w", ErrCorrupt)
	}
	h := &header{index: binary.LittleEndian.Uint64(b[16:]), term: binary.LittleEndian.Uint64(b[24:])}
	files := binary.LittleEndian.Uint32(b[32:])
	idLength := int(binary.LittleEndian.Uint16(b[36:]))
	rest := body[fixedHeader:]
	if files > MaxFiles || len(rest) < idLength {
		return nil, fmt.Errorf("header announces %d files: %w", files, ErrCorrupt)
	}
	h.clusterID, rest = string(rest[:idLength]), rest[idLength:]
	for range files {
		if len(rest) < 1 || len(rest) < 1+int(rest[0])+8 {
			return nil, fmt.Errorf("the file list is cut off: %w", ErrCorrupt)
		}
		name := string(rest[1 : 1+rest[0]])
		rest = rest[1+len(name):]
		size := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		if size > math.MaxInt64 {
			return nil, fmt.Errorf("file %q of %d bytes: %w", name, size, ErrCorrupt)
		}
		h.files = append(h.files, File{Name: name, Size: int64(size)})
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes behind the file list: %w", len(rest), ErrCorrupt)
	}
	return h, h.validate()
}

// validate checks names, limits and that the sizes add up.
func (h *header) validate() error {
	if len(h.clusterID) > MaxClusterIDBytes {
		return fmt.Errorf("cluster id of %d bytes: %w", len(h.clusterID), ErrCorrupt)
	}
	if len(h.files) == 0 || len(h.files) > MaxFiles {
		return fmt.Errorf("%d files: %w", len(h.files), ErrCorrupt)
	}
	seen := make(map[string]struct{}, len(h.files))
	for _, f := range h.files {
		if len(f.Name) > MaxNameBytes || !namePattern.MatchString(f.Name) {
			return fmt.Errorf("file name %q: %w", f.Name, ErrCorrupt)
		}
		if _, twice := seen[f.Name]; twice {
			return fmt.Errorf("file %q twice: %w", f.Name, ErrCorrupt)
		}
		seen[f.Name] = struct{}{}
	}
	_, err := h.total()
	return err
}

// total is the sum of the files' sizes, without the stream's own bytes.
func (h *header) total() (int64, error) {
	var sum int64
	for _, f := range h.files {
		if f.Size < 0 || f.Size > math.MaxInt64-maxHeaderBytes-MaxFiles*checksumBytes-sum {
			return 0, fmt.Errorf("the sizes of the files overflow: %w", ErrCorrupt)
		}
		sum += f.Size
	}
	return sum, nil
}

// streamSize is the exact length of the stream of these files.
func (h *header) streamSize() (int64, error) {
	head, err := h.encode()
	if err != nil {
		return 0, err
	}
	sum, err := h.total()
	return int64(len(head)) + sum + int64(len(h.files))*checksumBytes, err
}

// sortFiles puts CURRENT last: a directory that is cut off while it is being
// built has no CURRENT, and RocksDB would not take it for a database.
func sortFiles(files []File) {
	slices.SortFunc(files, func(a, b File) int {
		switch {
		case a.Name == b.Name:
			return 0
		case b.Name == "CURRENT" || a.Name != "CURRENT" && a.Name < b.Name:
			return -1
		}
		return 1
	})
}
