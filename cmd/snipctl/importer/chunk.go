package importer

import (
	"fmt"

	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// The sizes of one request. A mutation must fit into one log entry
// (snippet.MaxCommandBytes); a quarter is left for what the estimate below
// does not see.
const (
	maxChunkBytes = snippet.MaxCommandBytes * 3 / 4
	maxChunkCount = snippet.MaxBatch
	// snippetOverhead is what a snippet costs beside its text and vector.
	snippetOverhead = 64
)

// chunk divides a document: what is put first, and the snippets that follow,
// in groups that fit into one log entry each. It turns the shorthand Content
// into Snippets.
func chunk(doc wire.DocumentInput) (first wire.DocumentInput, rest [][]wire.SnippetInput) {
	for _, text := range doc.Content {
		doc.Snippets = append(doc.Snippets, wire.SnippetInput{Content: text})
	}
	doc.Content = nil
	size := len(doc.ID) + len(doc.Title) + len(doc.Metadata)
	if doc.Owner != nil {
		size += len(doc.Owner.Type) + len(doc.Owner.ID)
	}
	var groups [][]wire.SnippetInput
	begin, count := 0, 0
	for i, s := range doc.Snippets {
		n := snippetBytes(s)
		if count > 0 && (size+n > maxChunkBytes || count == maxChunkCount) {
			groups = append(groups, doc.Snippets[begin:i:i])
			begin, count, size = i, 0, len(doc.ID)
		}
		size += n
		count++
	}
	groups = append(groups, doc.Snippets[begin:])
	first = doc
	first.Snippets = groups[0]
	return first, groups[1:]
}

// snippetBytes estimates what a snippet takes in a log entry.
func snippetBytes(s wire.SnippetInput) int {
	return snippetOverhead + len(s.Content) + len(s.Model) + 4*len(s.Vector) + len(s.VectorBase64)*3/4
}

// documentBytes estimates what a document takes in memory and in requests.
func documentBytes(doc *wire.DocumentInput) int64 {
	n := len(doc.ID) + len(doc.Title) + len(doc.Metadata)
	for _, s := range doc.Snippets {
		n += snippetBytes(s)
	}
	for _, text := range doc.Content {
		n += snippetOverhead + len(text)
	}
	return int64(n)
}

// checkSizes finds what no node will take, before it is sent.
func checkSizes(doc *wire.DocumentInput) error {
	if n := len(doc.Snippets) + len(doc.Content); n > snippet.MaxSnippets {
		return fmt.Errorf("the document has %d snippets; at most %d", n, snippet.MaxSnippets)
	}
	if n := len(doc.Metadata); n > snippet.MaxMetadataBytes {
		return fmt.Errorf("the metadata has %d bytes; at most %d", n, snippet.MaxMetadataBytes)
	}
	check := func(i int, text string) error {
		if len(text) > snippet.MaxContentBytes {
			return fmt.Errorf("snippet %d has %d bytes; at most %d", i, len(text), snippet.MaxContentBytes)
		}
		return nil
	}
	for i, s := range doc.Snippets {
		if err := check(i, s.Content); err != nil {
			return err
		}
	}
	for i, text := range doc.Content {
		if err := check(i, text); err != nil {
			return err
		}
	}
	return nil
}
