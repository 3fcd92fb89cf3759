package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cmd/snipctl/importer"
	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// importFlags are the flags of import.
type importFlags struct {
	collection   string
	godoc        string
	prefix       string
	target       int
	internal     bool
	continueFrom int
	owner        string
	quiet        bool
}

func (a *app) importCommand() *cobra.Command {
	var fl importFlags
	cmd := &cobra.Command{
		Use:   "import COLLECTION FILE|FOLDER|-",
		Short: "import documents from NDJSON, a folder of text, or Go packages",
		Long: `Imports documents. The source is one of:
  FILE or -     NDJSON: a document per line, each with an "id"
  FOLDER        text and Markdown files, split into snippets at paragraphs;
                the id is the path below the folder
  --godoc DIR   Go packages below DIR: a document per package, its id the import
                path; a snippet per comment of an exported declaration

Every document is put whole, so importing again changes nothing but revisions. An
interrupted import says how to continue. Documents larger than one log entry are
put in several steps. The exit code is not 0 if any document failed.

If no node answers at the start, the command ends within 10 seconds, or --timeout if
that is less, with exit code 5. Once it has begun it rides through restarts and
elections: --timeout bounds one wait for an answer, and the import gives up after 48
times as long and a minute without any (25 minutes with the default of 30s). While
it waits it says so on standard error.`,
		Args: cobra.MaximumNArgs(2),
	}
	f := cmd.Flags()
	f.StringVar(&fl.collection, "collection", "", "the collection, instead of the first argument")
	f.StringVar(&fl.godoc, "godoc", "", "import the documentation of the Go packages below this folder")
	f.StringVar(&fl.prefix, "prefix", "", "put this in front of every id (folders and Go packages)")
	f.IntVar(&fl.target, "target", importer.DefaultTarget, "bytes that snippets of text aim at")
	f.BoolVar(&fl.internal, "internal", true, "with --godoc, internal packages too")
	f.IntVar(&fl.continueFrom, "continue-from", 1, "skip everything before this line or document number")
	f.StringVar(&fl.owner, "owner", "", "TYPE/ID: owner of documents that have none")
	f.BoolVarP(&fl.quiet, "quiet", "q", false, "no progress")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		if fl.collection == "" {
			if len(args) == 0 {
				return usagef("import into which collection?")
			}
			fl.collection, args = args[0], args[1:]
		}
		if len(args) > 1 {
			return usagef("one source at a time, not %d", len(args))
		}
		return a.importDocuments(ctx, cl, &fl, args)
	})
	return cmd
}

func (a *app) importDocuments(ctx context.Context, cl *client.Client, fl *importFlags, args []string) error {
	owner, err := parseOwner(fl.owner)
	if err != nil {
		return err
	}
	var progress importer.Progress
	source, closeSource, err := a.importSource(fl, args, &progress)
	if err != nil {
		return err
	}
	defer closeSource()
	source = withOwner(source, owner)
	if err := a.reach(ctx, cl); err != nil {
		return err
	}
	stderr := &lockedWriter{w: a.stderr}
	failures := 0
	opts := importer.Options{ContinueFrom: fl.continueFrom, Progress: &progress, OnFailure: func(f importer.Failure) {
		if failures++; failures <= 20 {
			fmt.Fprintf(stderr, "failed: %d %s: %s\n", f.Number, clean(f.ID), clean(f.Detail))
		} else if failures == 21 {
			fmt.Fprintln(stderr, "failed: more; the JSON output lists up to 1000")
		}
	}}
	stop := func() {}
	if !fl.quiet {
		stop = progress.Show(stderr, terminal(a.stderr))
	}
	p := &patience{w: stderr}
	unwatch := p.watch()
	report, err := importer.Run(ctx, importTarget{cl, fl.collection, p}, source, opts)
	unwatch()
	stop()
	return a.importResult(report, err)
}

func (a *app) importResult(report *importer.Report, err error) error {
	if perr := a.print(report, func() *table {
		t := fields("documents", report.Documents, "snippets", report.Snippets, "bytes", size(uint64(report.Bytes)),
			"skipped", report.Skipped, "failed", report.Failed, "seconds", fmt.Sprintf("%.1f", report.Seconds))
		if report.ContinueFrom > 0 {
			t.add("continue with", fmt.Sprintf("--continue-from %d", report.ContinueFrom))
		}
		return t
	}); perr != nil {
		return perr
	}
	if err != nil {
		return err
	}
	if report.Failed > 0 {
		return fmt.Errorf("%d documents failed", report.Failed)
	}
	return nil
}

// importSource opens what the arguments name.
func (a *app) importSource(fl *importFlags, args []string, progress *importer.Progress) (importer.Source, func(), error) {
	none := func() {}
	switch {
	case fl.godoc != "" && len(args) > 0:
		return importer.Source{}, none, usagef("give a file, a folder or --godoc, not two of them")
	case fl.godoc != "":
		s, err := importer.Godoc(fl.godoc, fl.prefix, fl.target, fl.internal)
		return s, none, err
	case len(args) == 0:
		return importer.Source{}, none, usagef("import what? a file, a folder, - or --godoc DIR")
	case args[0] == "-":
		return importer.NDJSON(a.stdin), none, nil
	}
	info, err := os.Stat(args[0])
	if err != nil {
		return importer.Source{}, none, err
	}
	if info.IsDir() {
		s, err := importer.Folder(args[0], fl.prefix, fl.target)
		return s, none, err
	}
	file, err := os.Open(args[0])
	if err != nil {
		return importer.Source{}, none, err
	}
	counted := &countingReader{r: file}
	progress.Read = func() (int64, int64) { return counted.n.Load(), info.Size() }
	return importer.NDJSON(counted), func() { file.Close() }, nil
}

// countingReader counts for the progress.
type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// withOwner gives every document without an owner this one.
func withOwner(source importer.Source, owner *wire.Owner) importer.Source {
	if owner == nil {
		return source
	}
	items := source.Items
	source.Items = func(yield func(importer.Item) bool) {
		for item := range items {
			if item.Doc.Owner == nil {
				item.Doc.Owner = owner
			}
			if !yield(item) {
				return
			}
		}
	}
	return source
}

// importTarget is a collection of a cluster, as the importer wants it.
type importTarget struct {
	cl         *client.Client
	collection string
	patience   *patience
}

func (t importTarget) Import(ctx context.Context, docs iter.Seq[wire.DocumentInput], fn func(wire.ImportResult) error) error {
	_, err := t.cl.ImportDocuments(ctx, t.collection, t.patience.source(docs), client.ImportOptions{
		OnResult: func(r wire.ImportResult) error {
			t.patience.answer(time.Now())
			return fn(r)
		},
	})
	return permanence(err)
}

func (t importTarget) Append(ctx context.Context, ops []wire.Operation) error {
	_, _, err := t.cl.Batch(ctx, t.collection, ops)
	if err == nil {
		t.patience.answer(time.Now())
	}
	return permanence(err)
}

// permanentError tells the importer that another attempt is in vain.
type permanentError struct{ error }

func (e permanentError) Unwrap() error   { return e.error }
func (e permanentError) Permanent() bool { return true }

func permanence(err error) error {
	var answer *client.Error
	if errors.As(err, &answer) && exitCode(err) != exitUnavailable && answer.Status < 500 {
		return permanentError{err}
	}
	return err
}
