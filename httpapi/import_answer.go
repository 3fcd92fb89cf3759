package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// write sends the results in the order of the lines, and the last line, which
// says why the import ended and up to where it is answered.
func (im *importer) write(ctx context.Context, control *http.ResponseController) error {
	out := bufio.NewWriterSize(im.c.g.Writer, importBuffer)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	send := func(v *wire.ImportResult) error { return enc.Encode(v) }
	flush := func() error {
		_ = control.SetWriteDeadline(time.Now().Add(im.c.s.opts.ImportIdle))
		if err := out.Flush(); err != nil {
			return err
		}
		return control.Flush()
	}
	sum := importSum{stopOnError: im.stopOnError}
	last := &sum.last
	for {
		line, ok := im.next(out, flush)
		if !ok {
			break
		}
		if err := im.await(ctx, line, out, flush); err != nil {
			return fmt.Errorf("httpapi: import: write results: %w", err)
		}
		sum.add(&line.result)
		if line.stops && last.Code == "" {
			last.Status, last.Code, last.Detail = line.result.Status, line.result.Code, fmt.Sprintf("the import ended at line %d: %s", line.number, line.result.Detail)
		}
		_ = control.SetWriteDeadline(time.Now().Add(im.c.s.opts.ImportIdle))
		if err := send(&line.result); err != nil {
			return fmt.Errorf("httpapi: import: write results: %w", err)
		}
	}
	last.Done = true
	im.explainEnd(last)
	if err := send(last); err != nil {
		return fmt.Errorf("httpapi: import: write results: %w", err)
	}
	if err := flush(); err != nil {
		return fmt.Errorf("httpapi: import: write results: %w", err)
	}
	return nil
}

// next returns the next line of the window. Before it waits for the client, it
// sends what is in the buffer.
func (im *importer) next(out *bufio.Writer, flush func() error) (*importLine, bool) {
	select {
	case line, ok := <-im.queue:
		return im.taken(line, ok)
	default:
	}
	if out.Buffered() > 0 {
		_ = flush() // the error comes again with the next line
	}
	line, ok := <-im.queue
	return im.taken(line, ok)
}

// taken gives the line's place in the window to another one.
func (im *importer) taken(line *importLine, ok bool) (*importLine, bool) {
	if ok {
		<-im.slots
	}
	return line, ok
}

// await waits until the line has its result. Before it waits, it sends what is
// in the buffer: the client may wait for these answers before it goes on.
func (im *importer) await(ctx context.Context, line *importLine, out *bufio.Writer, flush func() error) error {
	select {
	case <-line.done:
		return nil
	default:
	}
	if out.Buffered() > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	select {
	case <-line.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// explainEnd says in the last line why the import ended before its body did.
// Nothing is read any more when it is called.
func (im *importer) explainEnd(last *wire.ImportResult) {
	im.mu.Lock()
	readErr := im.readErr
	im.mu.Unlock()
	if last.Code != "" || errors.Is(readErr, io.EOF) {
		return
	}
	var e *requestError
	switch {
	case readErr == nil || errors.Is(readErr, contract.ErrShutdown):
		e = translate(contract.ErrShutdown) // a line that ends the import has explained itself
	case errors.Is(readErr, errLineTooLong):
		e = &requestError{code: wire.CodeBodyTooLarge, detail: fmt.Sprintf("the line after %d is longer than %d bytes; nothing behind it was read", last.LastLine, maxImportLine)}
	default:
		e = &requestError{code: wire.CodeTimeout, detail: fmt.Sprintf("the body broke off, or nothing came for %v", im.c.s.opts.ImportIdle)}
	}
	last.Status, last.Code, last.Detail = e.code.Info().Status, string(e.code), e.detail
}

// importSum counts the results of an import for its last line.
type importSum struct {
	stopOnError bool
	last        wire.ImportResult
	// stands is set when LastLine moves no more.
	stands bool
}

// add counts the next result. LastLine goes up to the first line that is to be
// sent again, or that ends the import by a fault of its own: what lies behind
// may be answered as well, because it was under way, but who resumes there
// loses nothing.
func (s *importSum) add(r *wire.ImportResult) {
	refused := r.Code != ""
	if refused {
		s.last.Failed++
	} else {
		s.last.Applied++
	}
	if s.stands || nodesTrouble(r) {
		s.stands = true
		return
	}
	s.last.LastLine, s.stands = r.Line, refused && s.stopOnError
}

// nodesTrouble says whether a line failed for no fault of its own, so that it
// is to be sent again. The Go client resumes at the same lines.
func nodesTrouble(r *wire.ImportResult) bool {
	return r.Status >= http.StatusInternalServerError || r.Status == http.StatusTooManyRequests || r.Code == string(wire.CodeWriteConflict)
}
