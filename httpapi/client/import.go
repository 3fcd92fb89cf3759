package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// The defaults and limits of an import.
const (
	// DefaultImportBytes and DefaultImportLines bound one request of an import
	// and so the memory: what has no answer yet is kept, to be sent again.
	DefaultImportBytes = 4 << 20
	DefaultImportLines = 1_000
	// MaxLineBytes bounds one document of an import, as the node does.
	MaxLineBytes = 4 << 20
)

// ImportOptions are the settings of one import. The zero value works.
type ImportOptions struct {
	// MaxBytes and MaxLines bound what is sent in one request; 0 means the default.
	MaxBytes int
	MaxLines int
	// MaxResumes bounds how often in a row the import resumes without any
	// progress; an election is waited for and not counted. 0 means
	// Options.MaxAttempts.
	MaxResumes int
	// Endpoint pins the import to one node; empty means the leader.
	Endpoint string
	// StopOnError ends the import at the first document that the node refuses;
	// the error is an *Error that says why. Documents behind it that were sent
	// already may have been applied: OnResult gets the answers that are there.
	StopOnError bool
	// OnResult, if set, gets the answer to each document, in order, once. Its
	// error ends the import. Line counts the lines of the whole input from 1.
	OnResult func(wire.ImportResult) error
}

// ImportSummary says what an import did, also when it failed.
type ImportSummary struct {
	// Lines were answered: Applied of them 2xx, Failed not.
	Lines, Applied, Failed int
	// LastLine is the number of the last line up to which every line was
	// applied or refused for a fault of its own; with StopOnError it is at most
	// the line that ended the import. To resume later, skip that many lines
	// of the input, or begin with the refused one when it is mended.
	LastLine int
	// Resumes is how often the import went on behind a failure.
	Resumes int
}

// Import sends documents, one JSON object with an "id" per line, and resumes
// behind the last answer when a connection breaks or a leader falls. Empty lines
// are skipped. A document that the node refuses is counted in Failed, and
// does not end the import, unless StopOnError is set; the error is about the
// import as a whole.
//
// A line whose answer was lost is sent again. That does no harm, because it
// puts the same document again, unless another writer put a newer one in between.
func (c *Client) Import(ctx context.Context, coll string, in io.Reader, o ImportOptions) (ImportSummary, error) {
	r := bufio.NewReaderSize(in, 64<<10)
	number := 0
	return c.importAll(ctx, coll, o, func() ([]byte, int, error) {
		for {
			number++
			line, err := readLine(r)
			if err != nil || len(line) > 0 {
				return line, number, err
			}
		}
	})
}

// ImportDocuments does what Import does, with documents in place of lines.
// Each must have an ID.
func (c *Client) ImportDocuments(ctx context.Context, coll string, docs iter.Seq[wire.DocumentInput], o ImportOptions) (ImportSummary, error) {
	next, stop := iter.Pull(docs)
	defer stop()
	number := 0
	return c.importAll(ctx, coll, o, func() ([]byte, int, error) {
		number++
		doc, ok := next()
		if !ok {
			return nil, number, io.EOF
		}
		line, err := c.encodeLine(doc)
		return line, number, err
	})
}

// encodeLine renders a document as a line.
func (c *Client) encodeLine(doc wire.DocumentInput) ([]byte, error) {
	if doc.ID == "" {
		return nil, errors.New("client: a document of an import needs an id, or it could not be repeated safely")
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(c.compactDocument(doc)); err != nil {
		return nil, fmt.Errorf("client: encode document %q: %w", doc.ID, err)
	}
	if buf.Len() > MaxLineBytes {
		return nil, fmt.Errorf("client: document %q has %d bytes as a line, at most %d are taken", doc.ID, buf.Len(), MaxLineBytes)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// readLine reads one line without white space around it. The error is io.EOF
// only if nothing is left.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > MaxLineBytes+1:
			return nil, fmt.Errorf("client: the line has more than %d bytes", MaxLineBytes)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !(errors.Is(err, io.EOF) && len(line) > 0):
			return nil, err
		}
		return bytes.TrimSpace(line), nil
	}
}

// importRequest is the request of an import; its body is in the lines.
func importRequest(session *sessionState, coll, endpoint string, stopOnError bool) *request {
	r := &request{
		method: http.MethodPost, path: path("collections", coll, "import"), contentType: wire.TypeNDJSON,
		kind: kindWrite, resumes: true, pin: endpoint, stopOnError: stopOnError, session: session,
	}
	if stopOnError {
		r.query = url.Values{wire.ParamStopOnError: {"true"}}
	}
	return r
}

// importAll cuts what next brings into requests, one after the other, so that
// the order of the input holds for documents that come twice.
func (c *Client) importAll(ctx context.Context, coll string, o ImportOptions, next func() (line []byte, number int, err error)) (sum ImportSummary, err error) {
	orInt(&o.MaxBytes, DefaultImportBytes)
	orInt(&o.MaxLines, DefaultImportLines)
	orInt(&o.MaxResumes, c.core.opts.MaxAttempts)
	if o.MaxBytes < 1 || o.MaxLines < 1 || o.MaxResumes < 1 {
		return sum, errors.New("client: ImportOptions must not be negative")
	}
	req := importRequest(c.session, coll, o.Endpoint, o.StopOnError)
	var (
		chunk   lines
		numbers []int
		size    int
		stopped bool // by a refused line, which is LastLine
	)
	flush := func() error {
		resumes, err := c.core.sendLines(ctx, req, o.MaxResumes, chunk, func(i int, res wire.ImportResult) error {
			res.Line = numbers[i]
			if !stopped {
				sum.LastLine, stopped = res.Line, o.StopOnError && !applied(res)
			}
			return sum.add(res, o.OnResult)
		})
		sum.Resumes += resumes
		chunk, numbers, size = chunk[:0], numbers[:0], 0
		var own *callbackError
		if errors.As(err, &own) {
			return own.err
		}
		if stopped && err != nil {
			return fmt.Errorf("line %d: %w", sum.LastLine, err)
		}
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		line, number, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			// What was read before it is sent, so that LastLine is where the
			// input has to be mended.
			return sum, errors.Join(flush(), fmt.Errorf("line %d: %w", number, err))
		}
		if len(chunk) > 0 && (size+len(line) > o.MaxBytes || len(chunk) >= o.MaxLines) {
			if err := flush(); err != nil {
				return sum, err
			}
		}
		chunk, numbers, size = append(chunk, line), append(numbers, number), size+len(line)+1
	}
	return sum, flush()
}

// add counts an answer and shows it to the caller.
func (s *ImportSummary) add(res wire.ImportResult, fn func(wire.ImportResult) error) error {
	s.Lines++
	if applied(res) {
		s.Applied++
	} else {
		s.Failed++
	}
	if fn == nil {
		return nil
	}
	return fn(res)
}

// applied says whether the line of that answer was applied.
func applied(res wire.ImportResult) bool { return res.Status >= 200 && res.Status < 300 }

func orInt(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}
