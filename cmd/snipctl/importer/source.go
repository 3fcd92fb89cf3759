package importer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// Item is one document of a source.
type Item struct {
	// Number counts from 1: the line of a file, or the place in the list.
	Number int
	// Doc is the document, if Err is nil.
	Doc wire.DocumentInput
	// Err says why this document could not be read. The source goes on.
	Err error
}

// Source yields the documents of an input in a fixed order. It may be ranged
// over once. An error that ends the input is the Err of the last Item with
// Fatal set.
type Source struct {
	// Total is how many items there will be, 0 if that is not known.
	Total int
	Items iter.Seq[Item]
}

// FatalError ends an import: the input itself can't be read further.
type FatalError struct{ Err error }

func (e *FatalError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *FatalError) Unwrap() error { return e.Err }

// maxLine bounds one line of NDJSON. A document of the largest size that the
// database takes, with vectors as JSON numbers, is below it.
const maxLine = 64 << 20

// NDJSON yields a document per line of r. Blank lines count as lines and are
// skipped. A line that is no document is an item with an error.
func NDJSON(r io.Reader) Source {
	return Source{Items: func(yield func(Item) bool) {
		in := bufio.NewReaderSize(r, 1<<20)
		for number := 1; ; number++ {
			line, err := readLine(in)
			if err != nil && !errors.Is(err, io.EOF) {
				yield(Item{Number: number, Err: &FatalError{fmt.Errorf("importer: read line %d: %w", number, err)}})
				return
			}
			if text := bytes.TrimSpace(line); len(text) > 0 {
				item := Item{Number: number}
				item.Doc, item.Err = decodeLine(text)
				if !yield(item) {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}}
}

// readLine returns the next line; io.EOF may come with the last one.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("it has more than %d bytes", maxLine)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// decodeLine decodes strictly, as the server does, so that a misspelt field
// is found before anything is sent.
func decodeLine(text []byte) (wire.DocumentInput, error) {
	var doc wire.DocumentInput
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return doc, fmt.Errorf("not a document: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return doc, errors.New("more than one JSON value in the line")
	}
	if doc.ID == "" {
		return doc, errors.New(`the document has no "id"; without one a retry would make a second document`)
	}
	return doc, nil
}

// maxTextFile bounds one text file: beyond it the document would have more
// snippets than one may have.
const maxTextFile = 8 << 20

// textExtensions are the files that Folder takes.
var textExtensions = map[string]string{".txt": "text", ".text": "text", ".md": "markdown", ".markdown": "markdown", ".rst": "text", ".adoc": "text"}

// Folder yields a document per text or Markdown file below dir, sorted by
// path. The id is the path below dir with slashes, after prefix. Hidden files
// and folders are left out. target is the size of snippets (see Split).
func Folder(dir, prefix string, target int) (Source, error) {
	var files []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != dir && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return filepath.SkipDir
			}
		case entry.Type().IsRegular() && textExtensions[strings.ToLower(filepath.Ext(name))] != "":
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		return Source{}, fmt.Errorf("importer: walk %s: %w", dir, err)
	}
	slices.Sort(files)
	return Source{Total: len(files), Items: func(yield func(Item) bool) {
		for i, name := range files {
			item := Item{Number: i + 1}
			item.Doc, item.Err = textDocument(dir, name, prefix, target)
			if !yield(item) {
				return
			}
		}
	}}, nil
}

func textDocument(dir, name, prefix string, target int) (wire.DocumentInput, error) {
	rel, err := filepath.Rel(dir, name)
	if err != nil {
		return wire.DocumentInput{}, err
	}
	rel = filepath.ToSlash(rel)
	doc := wire.DocumentInput{ID: prefix + rel, Title: path.Base(rel)}
	info, err := os.Stat(name)
	if err != nil {
		return doc, err
	}
	if info.Size() > maxTextFile {
		return doc, fmt.Errorf("the file has %d bytes; at most %d", info.Size(), maxTextFile)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return doc, err
	}
	if !utf8.Valid(text) {
		return doc, errors.New("the file is not UTF-8 text")
	}
	format := textExtensions[strings.ToLower(filepath.Ext(name))]
	pieces := Split(strings.TrimPrefix(string(text), "\uFEFF"), target)
	if len(pieces) > 0 && format == "markdown" {
		if title, _, _ := strings.Cut(pieces[0], "\n"); isHeading(title) {
			doc.Title = strings.TrimSpace(strings.TrimLeft(title, "#"))
		}
	}
	doc.Metadata, err = json.Marshal(map[string]string{"path": rel, "format": format})
	for _, piece := range pieces {
		doc.Snippets = append(doc.Snippets, wire.SnippetInput{Content: piece})
	}
	return doc, err
}

// errSkip marks an item that has nothing to import; it counts as done.
var errSkip = errors.New("nothing to import")
