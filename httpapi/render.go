package httpapi

import (
	"encoding/hex"
	"encoding/json"
	"net/url"
	"time"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// emptyMetadata is how a document without metadata shows it.
var emptyMetadata = json.RawMessage("{}")

func timeOf(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func metadataOf(canonical []byte) json.RawMessage {
	if len(canonical) == 0 {
		return emptyMetadata
	}
	return canonical
}

// renderDocument renders a stored document without its snippets.
func renderDocument(collection string, d *snippet.Document) wire.Document {
	out := wire.Document{
		Collection: collection, ID: d.ID, Title: d.Title, Metadata: metadataOf(d.Metadata),
		CreatedAt: timeOf(d.CreatedMs), UpdatedAt: timeOf(d.UpdatedMs), Revision: d.Revision, SnippetCount: d.SnippetCount,
	}
	if !d.Owner.IsZero() {
		out.Owner = &wire.Owner{Type: d.Owner.Type, ID: d.Owner.ID}
	}
	return out
}

// renderResultDocument renders the document of a write's result.
func renderResultDocument(d *command.ResultDocument) wire.Document {
	out := wire.Document{
		Collection: d.GetCollection(), ID: d.GetId(), Title: d.GetTitle(), Metadata: metadataOf(d.GetMetadata()),
		CreatedAt: timeOf(d.GetCreatedMs()), UpdatedAt: timeOf(d.GetUpdatedMs()), Revision: d.GetRevision(),
		SnippetCount: int(d.GetSnippetCount()),
	}
	if o := d.GetOwner(); o.GetType() != "" {
		out.Owner = &wire.Owner{Type: o.GetType(), ID: o.GetId()}
	}
	return out
}

func renderSnippet(s *snippet.Snippet, form vectorForm) wire.Snippet {
	out := wire.Snippet{
		Index: s.Index, Content: s.Content, ContentHash: hex.EncodeToString(s.ContentHash[:]),
		Embedded: s.Embedded, Model: s.Model, Revision: s.Revision,
	}
	switch {
	case len(s.Vector) == 0:
	case form == vectorsAsNumbers:
		out.Vector = s.Vector.Floats()
	case form == vectorsAsBase64:
		out.VectorBase64 = wire.EncodeBase64(s.Vector)
	}
	return out
}

func renderResultSnippet(s *command.ResultSnippet) wire.Snippet {
	return wire.Snippet{
		Index: int(s.GetIndex()), Content: s.GetContent(), ContentHash: hex.EncodeToString(s.GetContentHash()),
		Embedded: s.GetEmbedded(), Model: s.GetModel(), Revision: s.GetRevision(),
	}
}

func renderCollection(c *snippet.Collection) wire.Collection {
	return wire.Collection{
		Name: c.Name, Dimension: c.Dimension, Metric: string(c.Metric), Analyzer: string(c.Analyzer),
		CreatedAt: timeOf(c.CreatedMs), UpdatedAt: timeOf(c.UpdatedMs), Revision: c.Revision,
		Documents: c.Documents, Snippets: c.Snippets, Embedded: c.Embedded,
	}
}

func renderResultCollection(c *command.ResultCollection) wire.Collection {
	return wire.Collection{
		Name: c.GetName(), Dimension: int(c.GetDimension()), Metric: c.GetMetric(), Analyzer: c.GetAnalyzer(),
		CreatedAt: timeOf(c.GetCreatedMs()), UpdatedAt: timeOf(c.GetUpdatedMs()), Revision: c.GetRevision(),
		Documents: c.GetDocuments(), Snippets: c.GetSnippets(), Embedded: c.GetEmbedded(),
	}
}

// documentPath is where a document is found.
func documentPath(collection, id string) string {
	return "/v1/collections/" + url.PathEscape(collection) + "/docs/" + url.PathEscape(id)
}
