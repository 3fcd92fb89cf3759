package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/snipdb/snipdb/storage/snippet"
)

// A cursor says where the page before ended, and of which query. Its bytes,
// in base64url without padding:
//
//	1 byte   version
//	8 bytes  binding: hash of collection, owner, filter and order
//	n bytes  place: the last document's id, or its ordinal (8 bytes, big-endian)
//	4 bytes  CRC-32C of all before, big-endian
const (
	cursorVersion = 1
	cursorBinding = 8
	cursorCRC     = 4
	// maxCursorText bounds what is decoded at all.
	maxCursorText = 2 * (1 + cursorBinding + snippet.MaxIDBytes + cursorCRC)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// byOrdinal says whether an order follows the ordinals.
func byOrdinal(o snippet.Order) bool { return o == snippet.ByCreated || o == snippet.ByCreatedDesc }

// descending says whether an order goes down.
func descending(o snippet.Order) bool { return o == snippet.ByIDDesc || o == snippet.ByCreatedDesc }

// binding names the query that a cursor belongs to.
func binding(coll uint32, q *snippet.ListQuery) []byte {
	h := sha256.New()
	var n [8]byte
	field := func(s string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	binary.BigEndian.PutUint32(n[:], coll)
	h.Write(n[:4])
	field(string(q.Order))
	field(q.Owner.Type)
	field(q.Owner.ID)
	for _, k := range slices.Sorted(maps.Keys(q.Metadata)) {
		field(k)
		field(q.Metadata[k])
	}
	return h.Sum(nil)[:cursorBinding]
}

func encodeCursor(coll uint32, q *snippet.ListQuery, place []byte) string {
	b := append([]byte{cursorVersion}, binding(coll, q)...)
	b = append(b, place...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeCursor returns the place, or a *snippet.FieldError on "cursor".
func decodeCursor(coll uint32, q *snippet.ListQuery) ([]byte, error) {
	bad := func(reason string) ([]byte, error) {
		return nil, &snippet.FieldError{Field: "cursor", Reason: reason}
	}
	if len(q.Cursor) > maxCursorText {
		return bad("is not a cursor of this server: it is too long")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
	if err != nil || len(b) < 1+cursorBinding+cursorCRC {
		return bad("is not a cursor of this server")
	}
	if b[0] != cursorVersion {
		return bad("is of another version of snipdb: begin again without it")
	}
	body := b[:len(b)-cursorCRC]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[len(body):]) {
		return bad("is damaged")
	}
	if !bytes.Equal(body[1:1+cursorBinding], binding(coll, q)) {
		return bad("belongs to another listing: collection, owner, filter and order must stay the same")
	}
	place := body[1+cursorBinding:]
	if byOrdinal(q.Order) && len(place) != 8 || !byOrdinal(q.Order) && snippet.ValidateID("cursor", string(place)) != nil {
		return bad("is not a cursor of this server")
	}
	return place, nil
}
