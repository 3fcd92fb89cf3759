package snippet

// The limits of one record. They derive from MaxCommandBytes: whatever passes
// them fits into one Raft entry, which the library wants at or below 512 KiB
// (hashicorp/raft api.go, SuggestedMaxDataSize), because every larger entry
// delays heartbeats.
const (
	// MaxCommandBytes bounds one encoded mutation.
	MaxCommandBytes = 512<<10 - 1<<10 // 1 KiB is left for the entry's header
	// MaxIDBytes bounds a document id.
	MaxIDBytes = 256
	// MaxOwnerBytes bounds an owner's type and its id, each.
	MaxOwnerBytes = 256
	// MaxNameBytes bounds a collection's name.
	MaxNameBytes = 128
	// MaxTitleBytes bounds a title.
	MaxTitleBytes = 4 << 10
	// MaxMetadataBytes bounds a document's metadata in canonical form.
	MaxMetadataBytes = 64 << 10
	// MaxMetadataDepth bounds the nesting of metadata.
	MaxMetadataDepth = 16
	// MaxContentBytes bounds the text of one snippet.
	MaxContentBytes = 256 << 10
	// MaxSnippets bounds the snippets of one document; a deletion in the
	// middle moves all that follow, in one batch.
	MaxSnippets = 10_000
	// MaxDimension bounds the length of a vector.
	MaxDimension = 16_384
	// MaxModelBytes bounds the name of an embedding model.
	MaxModelBytes = 128
	// MaxBatch bounds the operations of one atomic batch.
	MaxBatch = 1_000
	// MaxCollections bounds the collections of a cluster.
	MaxCollections = 10_000
	// DefaultPage and MaxPage bound a listing's limit.
	DefaultPage = 100
	MaxPage     = 1_000
	// MaxScan is how many records a filtered listing reads for one page.
	MaxScan = 10_000
	// MaxOwnerDelete is how many documents one "delete by owner" removes; the
	// result says whether there are more.
	MaxOwnerDelete = 1_000
)
