package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/snipdb/snipdb/storage/snippet"
)

// The column families. The numbers are positions in familyNames, not RocksDB's
// own numbers.
const (
	cfMeta = iota
	cfDocs
	cfListing
	cfIdempotency
	cfSnippetMeta
	cfText
	cfVectors
	familyCount
)

// familyNames are the names within RocksDB. Every RocksDB database has a
// family "default"; it is meta here, rather than an eighth one that is always
// empty and holds memtables and files all the same.
var familyNames = [familyCount]string{"default", "docs", "listing", "idempotency", "snippet_meta", "snippet_text", "embeddings"}

// Families are the names of the column families, in the order of View.Dump.
func Families() []string {
	names := make([]string, familyCount)
	for cf := range names {
		names[cf] = familyName(cf)
	}
	return names
}

// familyName is how this package's users see a family.
func familyName(cf int) string {
	if cf == cfMeta {
		return "meta"
	}
	return familyNames[cf]
}

// The first byte of a key in meta and in idempotency.
const (
	metaFormat     = 'f'
	metaPosition   = 'p'
	metaNextID     = 'n'
	metaCount      = 'k'
	metaCollection = 'c'
	metaOrdinal    = 'o'
	metaSystem     = 's'
	metaHash       = 'h' // alone: the state hash; with a collection's id: its sum
	metaPoints     = 't' // the newest points of the state hash

	idemRow   = 'k'
	idemQueue = 'q'
	idemCount = 'n'
)

// The byte behind the collection's id in listing.
const (
	listOwnerID      = 'i' // an owner's documents by id
	listOwnerOrdinal = 'o' // an owner's documents by ordinal
	listOrdinal      = 't' // all documents by ordinal
)

// Keys of the rows that exist once. Nobody may append to them or change them.
var (
	keyFormat           = []byte{metaFormat}
	keyPosition         = []byte{metaPosition}
	keyNextID           = []byte{metaNextID}
	keyCollectionCount  = []byte{metaCount}
	keyHash             = []byte{metaHash}
	keyPoints           = []byte{metaPoints}
	keyIdempotencyCount = []byte{idemCount}
)

func appendCollectionKey(dst []byte, name string) []byte {
	return append(append(dst, metaCollection), name...)
}

func appendNextOrdinalKey(dst []byte, coll uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, metaOrdinal), coll)
}

// appendHashKey appends the key of the sum of a collection's rows.
func appendHashKey(dst []byte, coll uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, metaHash), coll)
}

func appendSystemKey(dst []byte, key string) []byte {
	return append(append(dst, metaSystem), key...)
}

// appendCollectionPrefix appends what every key of a collection's data begins
// with.
func appendCollectionPrefix(dst []byte, coll uint32) []byte {
	return binary.BigEndian.AppendUint32(dst, coll)
}

func appendDocumentKey(dst []byte, coll uint32, id string) []byte {
	return append(appendCollectionPrefix(dst, coll), id...)
}

// appendOwner appends an owner so that no owner is a prefix of another one:
// type and id hold no control characters, so a zero byte ends each.
func appendOwner(dst []byte, o snippet.Owner) []byte {
	dst = append(append(dst, o.Type...), 0)
	return append(append(dst, o.ID...), 0)
}

func appendListingPrefix(dst []byte, coll uint32, kind byte) []byte {
	return append(appendCollectionPrefix(dst, coll), kind)
}

func appendOwnerIDKey(dst []byte, coll uint32, o snippet.Owner, id string) []byte {
	return append(appendOwner(appendListingPrefix(dst, coll, listOwnerID), o), id...)
}

func appendOwnerOrdinalKey(dst []byte, coll uint32, o snippet.Owner, ordinal uint64) []byte {
	return binary.BigEndian.AppendUint64(appendOwner(appendListingPrefix(dst, coll, listOwnerOrdinal), o), ordinal)
}

func appendOrdinalKey(dst []byte, coll uint32, ordinal uint64) []byte {
	return binary.BigEndian.AppendUint64(appendListingPrefix(dst, coll, listOrdinal), ordinal)
}

// appendSnippetKey appends the key of a snippet's rows, the same in
// snippet_meta, snippet_text and embeddings. The owner is in front of the
// document, so that a search among one owner's snippets is one range.
func appendSnippetKey(dst []byte, coll uint32, d *snippet.Document, index int) []byte {
	dst = appendOwner(appendCollectionPrefix(dst, coll), d.Owner)
	dst = binary.BigEndian.AppendUint64(dst, d.Ordinal)
	return binary.BigEndian.AppendUint32(dst, uint32(index))
}

func appendIdempotencyKey(dst []byte, hash [32]byte) []byte {
	return append(append(dst, idemRow), hash[:]...)
}

// appendQueueKey appends the key of the expiry queue: the oldest comes first.
// The sign bit is flipped so that negative times sort before positive ones.
func appendQueueKey(dst []byte, expiresMs int64, index uint64, seq uint32) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, idemQueue), uint64(expiresMs)^(1<<63))
	dst = binary.BigEndian.AppendUint64(dst, index)
	return binary.BigEndian.AppendUint32(dst, seq)
}

// prefixEnd returns the first key behind all keys with the prefix, or nil if
// there is none.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != math.MaxUint8 {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

// DescribeKey returns a key in words, for tools that show rows. It returns
// ErrCorrupt, wrapped, for a key that this package can't have written.
func DescribeKey(cf string, key []byte) (string, error) {
	text, ok := "", false
	switch cf {
	case familyName(cfMeta):
		text, ok = describeMeta(key)
	case familyName(cfIdempotency):
		text, ok = describeIdempotency(key)
	case familyName(cfDocs):
		if len(key) > 4 {
			text, ok = fmt.Sprintf("collection %d document %q", binary.BigEndian.Uint32(key), key[4:]), true
		}
	case familyName(cfListing):
		text, ok = describeListing(key)
	case familyName(cfSnippetMeta), familyName(cfText), familyName(cfVectors):
		text, ok = describeSnippet(key)
	}
	if !ok {
		return "", fmt.Errorf("storage: describe key %x of %s: %w", key, cf, ErrCorrupt)
	}
	return text, nil
}

func describeMeta(key []byte) (string, bool) {
	if len(key) == 0 {
		return "", false
	}
	rest := key[1:]
	switch key[0] {
	case metaFormat:
		return "format version", len(rest) == 0
	case metaPosition:
		return "position", len(rest) == 0
	case metaNextID:
		return "next collection id", len(rest) == 0
	case metaCount:
		return "number of collections", len(rest) == 0
	case metaPoints:
		return "points of the state hash", len(rest) == 0
	case metaHash:
		if len(rest) == 4 {
			return fmt.Sprintf("collection %d sum", binary.BigEndian.Uint32(rest)), true
		}
		return "state hash", len(rest) == 0
	case metaCollection:
		return fmt.Sprintf("collection %q", rest), len(rest) > 0
	case metaSystem:
		return fmt.Sprintf("system %q", rest), true
	case metaOrdinal:
		if len(rest) == 4 {
			return fmt.Sprintf("collection %d next ordinal", binary.BigEndian.Uint32(rest)), true
		}
	}
	return "", false
}

func describeIdempotency(key []byte) (string, bool) {
	switch {
	case bytes.Equal(key, keyIdempotencyCount):
		return "number of idempotency rows", true
	case len(key) == 33 && key[0] == idemRow:
		return fmt.Sprintf("idempotency %x", key[1:]), true
	case len(key) == 21 && key[0] == idemQueue:
		expires, index, seq := parseQueueKey(key)
		return fmt.Sprintf("idempotency expires %d index %d seq %d", expires, index, seq), true
	}
	return "", false
}

// parseQueueKey takes a queue key of the right length apart.
func parseQueueKey(key []byte) (expiresMs int64, index uint64, seq uint32) {
	return int64(binary.BigEndian.Uint64(key[1:]) ^ (1 << 63)), binary.BigEndian.Uint64(key[9:]), binary.BigEndian.Uint32(key[17:])
}

// cutOwner splits an owner from the front of b.
func cutOwner(b []byte) (o snippet.Owner, rest []byte, ok bool) {
	typ, b, ok1 := bytes.Cut(b, []byte{0})
	id, b, ok2 := bytes.Cut(b, []byte{0})
	return snippet.Owner{Type: string(typ), ID: string(id)}, b, ok1 && ok2
}

func describeListing(key []byte) (string, bool) {
	if len(key) < 5 {
		return "", false
	}
	var text strings.Builder
	fmt.Fprintf(&text, "collection %d", binary.BigEndian.Uint32(key))
	kind, rest := key[4], key[5:]
	if kind == listOwnerID || kind == listOwnerOrdinal {
		o, tail, ok := cutOwner(rest)
		if !ok {
			return "", false
		}
		fmt.Fprintf(&text, " owner %q %q", o.Type, o.ID)
		rest = tail
	}
	switch {
	case kind == listOwnerID && len(rest) > 0:
		fmt.Fprintf(&text, " document %q", rest)
	case (kind == listOwnerOrdinal || kind == listOrdinal) && len(rest) == 8:
		fmt.Fprintf(&text, " ordinal %d", binary.BigEndian.Uint64(rest))
	default:
		return "", false
	}
	return text.String(), true
}

func describeSnippet(key []byte) (string, bool) {
	if len(key) < 4 {
		return "", false
	}
	o, rest, ok := cutOwner(key[4:])
	if !ok || len(rest) != 12 {
		return "", false
	}
	return fmt.Sprintf("collection %d owner %q %q ordinal %d snippet %d", binary.BigEndian.Uint32(key), o.Type, o.ID,
		binary.BigEndian.Uint64(rest), binary.BigEndian.Uint32(rest[8:])), true
}
