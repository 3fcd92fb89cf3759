package wire

// The query parameters of the API.
const (
	// Of every read.
	ParamConsistency  = "consistency"   // local, bounded, session, linearizable
	ParamMaxStaleness = "max_staleness" // a Go duration; with bounded
	ParamMinIndex     = "min_index"     // with session
	ParamClusterID    = "cluster_id"    // refuse (409 wrong_cluster) if the node is of another cluster
	// Of every request.
	ParamTimeout = "timeout" // a Go duration; the same as X-Snipdb-Timeout
	// Of every write.
	ParamRedirect = "redirect" // true: 307 to the leader in place of forwarding
	// Of single routes.
	ParamWithEmbeddings = "with_embeddings" // true or array: numbers; base64
	ParamOwnerType      = "owner_type"
	ParamOwnerID        = "owner_id"
	ParamLimit          = "limit"
	ParamCursor         = "cursor"
	ParamOrder          = "order"
	ParamModel          = "model"          // of a raw vector
	ParamStopOnError    = "stop_on_error"  // import: begin no line behind one that is refused
	ParamForce          = "force"          // removal of a member: though no quorum is left
	ParamRate           = "mib_per_second" // of a verification
	// ParamMetadataPrefix begins a filter on a top-level field of the metadata.
	ParamMetadataPrefix = "metadata."
)
