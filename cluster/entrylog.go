package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

// EntryLog is an ordered log of records, durable when Append returns. It knows
// nothing of Raft; NewEntryLogStore makes a LogStore of it.
type EntryLog interface {
	// Append writes the records in one durable write: all of them or none.
	Append(indexes []uint64, records [][]byte) error
	// Get returns a record that the caller may keep; ok is false if there is none.
	Get(index uint64) (record []byte, ok bool, err error)
	// Bounds returns the lowest and the highest index; 0, 0 if it is empty.
	Bounds() (first, last uint64, err error)
	// DeleteRange removes min to max, both included.
	DeleteRange(min, max uint64) error
	// Bytes is what the log takes on disk, roughly.
	Bytes() uint64
	Close() error
}

// LogStore is what holds the Raft log. A write is durable when it returns.
type LogStore interface {
	raft.LogStore
	io.Closer
}

// The record of an entry; its bytes are in DESIGN.md, "Log record".
const (
	recordVersion = 1
	// recordHeader is version, type, term, time of append, length of the data.
	recordHeader = 1 + 1 + 8 + 8 + 4
	// recordTrailer is the checksum.
	recordTrailer = 4
	// noTime stands for the zero time, which has no Unix nanoseconds.
	noTime = math.MinInt64
)

// errCorruptRecord says that a record is not what was written.
var errCorruptRecord = errors.New("cluster: corrupt log record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordSum is over the index too, so that a record under another's key is found.
func recordSum(index uint64, record []byte) uint32 {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], index)
	return crc32.Update(crc32.Checksum(key[:], castagnoli), castagnoli, record)
}

// encodeRecord returns the record of an entry.
func encodeRecord(l *raft.Log) ([]byte, error) {
	if uint64(len(l.Data)) > math.MaxUint32 || uint64(len(l.Extensions)) > math.MaxUint32 {
		return nil, fmt.Errorf("cluster: encode entry %d: %d bytes of data", l.Index, len(l.Data))
	}
	appended := int64(noTime)
	if !l.AppendedAt.IsZero() {
		appended = l.AppendedAt.UnixNano()
	}
	b := make([]byte, 0, recordHeader+len(l.Data)+4+len(l.Extensions)+recordTrailer)
	b = append(b, recordVersion, byte(l.Type))
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = binary.BigEndian.AppendUint64(b, uint64(appended))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Data)))
	b = append(b, l.Data...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	b = append(b, l.Extensions...)
	return binary.BigEndian.AppendUint32(b, recordSum(l.Index, b)), nil
}

// decodeRecord fills l. Its byte slices are parts of b, which must not change.
func decodeRecord(index uint64, b []byte, l *raft.Log) error {
	if len(b) < recordHeader+4+recordTrailer {
		return fmt.Errorf("%w: entry %d has %d bytes", errCorruptRecord, index, len(b))
	}
	body, sum := b[:len(b)-recordTrailer], binary.BigEndian.Uint32(b[len(b)-recordTrailer:])
	if recordSum(index, body) != sum {
		return fmt.Errorf("%w: entry %d has a wrong checksum", errCorruptRecord, index)
	}
	if body[0] != recordVersion {
		return fmt.Errorf("%w: entry %d has record version %d, this release knows %d", errCorruptRecord, index, body[0], recordVersion)
	}
	rest := body[recordHeader:]
	n := uint64(binary.BigEndian.Uint32(body[recordHeader-4:]))
	if uint64(len(rest)) < n+4 {
		return fmt.Errorf("%w: entry %d is cut off", errCorruptRecord, index)
	}
	data, rest := rest[:n:n], rest[n:]
	if m := uint64(binary.BigEndian.Uint32(rest)); uint64(len(rest)-4) != m {
		return fmt.Errorf("%w: entry %d has extensions of a wrong length", errCorruptRecord, index)
	}
	*l = raft.Log{Index: index, Type: raft.LogType(body[1]), Term: binary.BigEndian.Uint64(body[2:]), Data: data}
	if len(rest) > 4 {
		l.Extensions = rest[4:]
	}
	if at := int64(binary.BigEndian.Uint64(body[10:])); at != noTime {
		l.AppendedAt = time.Unix(0, at)
	}
	return nil
}

// entryLogStore is a LogStore over an EntryLog.
type entryLogStore struct{ log EntryLog }

// NewEntryLogStore returns a LogStore over the log, and owns it.
func NewEntryLogStore(l EntryLog) LogStore { return &entryLogStore{log: l} }

// FirstIndex returns the lowest index, 0 if the log is empty.
func (s *entryLogStore) FirstIndex() (uint64, error) {
	first, _, err := s.log.Bounds()
	return first, err
}

// LastIndex returns the highest index, 0 if the log is empty.
func (s *entryLogStore) LastIndex() (uint64, error) {
	_, last, err := s.log.Bounds()
	return last, err
}

// GetLog reads an entry; raft.ErrLogNotFound if there is none.
func (s *entryLogStore) GetLog(index uint64, l *raft.Log) error {
	record, ok, err := s.log.Get(index)
	if err != nil {
		return fmt.Errorf("cluster: read entry %d: %w", index, err)
	}
	if !ok {
		return raft.ErrLogNotFound
	}
	return decodeRecord(index, record, l)
}

// StoreLog writes one entry.
func (s *entryLogStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes the entries in one durable write.
func (s *entryLogStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	indexes, records := make([]uint64, len(logs)), make([][]byte, len(logs))
	for i, l := range logs {
		var err error
		if records[i], err = encodeRecord(l); err != nil {
			return err
		}
		indexes[i] = l.Index
	}
	if err := s.log.Append(indexes, records); err != nil {
		return fmt.Errorf("cluster: write entries %d to %d: %w", indexes[0], indexes[len(indexes)-1], err)
	}
	return nil
}

// DeleteRange removes min to max, both included.
func (s *entryLogStore) DeleteRange(min, max uint64) error {
	if err := s.log.DeleteRange(min, max); err != nil {
		return fmt.Errorf("cluster: delete entries %d to %d: %w", min, max, err)
	}
	return nil
}

// unflushed is a log that knows what it still writes to files by itself.
type unflushed interface{ Unflushed() uint64 }

// Unflushed asks the log below; 0 if it does not know.
func (s *entryLogStore) Unflushed() uint64 {
	if log, ok := s.log.(unflushed); ok {
		return log.Unflushed()
	}
	return 0
}

// Close closes the log.
func (s *entryLogStore) Close() error { return s.log.Close() }
