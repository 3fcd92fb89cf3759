package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cmd/snipctl/importer"
	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func (a *app) docCommand() *cobra.Command {
	cmd := group("doc", "put, get, list, patch and delete documents",
		a.docPut(), a.docGet(), a.docList(), a.docPatch(), a.docDelete(), a.docDeleteOwner())
	cmd.Aliases = []string{"docs"}
	return cmd
}

// docFlags describe a document beside its text.
type docFlags struct {
	file, format, title, owner, metadata string
	target                               int
}

func (a *app) docPut() *cobra.Command {
	var (
		d     docFlags
		write writeFlags
	)
	cmd := &cobra.Command{
		Use:   "put COLLECTION [ID]",
		Short: "create or replace a document from JSON or text",
		Long: `Creates or replaces a document. The input, from --file or standard input, is JSON
as the API takes it, or text, which is split into snippets at paragraphs. Without
an ID the server makes one.`,
		Args: cobra.RangeArgs(1, 2),
	}
	f := cmd.Flags()
	f.StringVarP(&d.file, "file", "f", "", "read from this file (default: standard input)")
	f.StringVar(&d.format, "format", "auto", "json, text, or auto: JSON if the input begins with {")
	f.StringVar(&d.title, "title", "", "the title")
	f.StringVar(&d.owner, "owner", "", "TYPE/ID")
	f.StringVar(&d.metadata, "metadata", "", "a JSON object")
	f.IntVar(&d.target, "target", importer.DefaultTarget, "bytes that snippets of text aim at")
	write.add(cmd, true)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := write.options()
		if err != nil {
			return err
		}
		in, err := a.documentInput(&d)
		if err != nil {
			return err
		}
		if len(args) == 2 {
			in.ID = args[1]
		}
		doc, meta, err := put(ctx, cl, args[0], in, opts)
		if err != nil {
			return err
		}
		return a.print(doc, func() *table { return documentFields(doc, meta) })
	})
	return cmd
}

func put(ctx context.Context, cl *client.Client, collection string, in wire.DocumentInput, opts []client.WriteOption) (*wire.Document, client.Meta, error) {
	if in.ID == "" {
		return cl.CreateDocument(ctx, collection, in, opts...)
	}
	id := in.ID
	in.ID = "" // it is in the path; the body takes none
	return cl.PutDocument(ctx, collection, id, in, opts...)
}

// documentInput reads the input and lets the flags override it.
func (a *app) documentInput(d *docFlags) (wire.DocumentInput, error) {
	var in wire.DocumentInput
	owner, err := parseOwner(d.owner)
	if err != nil {
		return in, err
	}
	text, err := a.input(d.file)
	if err != nil {
		return in, err
	}
	format := d.format
	if format == "auto" {
		format = "text"
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			format = "json"
		}
	}
	switch format {
	case "json":
		if err := strictJSON(text, &in); err != nil {
			return in, fmt.Errorf("the input is not a document in JSON: %w", err)
		}
	case "text":
		if !utf8.Valid(text) {
			return in, fmt.Errorf("the input is not UTF-8 text")
		}
		in.Content = importer.Split(string(text), d.target)
	default:
		return in, usagef("--format must be auto, json or text, not %q", d.format)
	}
	if d.title != "" {
		in.Title = d.title
	}
	if owner != nil {
		in.Owner = owner
	}
	if d.metadata != "" {
		in.Metadata = json.RawMessage(d.metadata)
		if !json.Valid(in.Metadata) {
			return in, usagef("--metadata is not JSON")
		}
	}
	return in, nil
}

func documentFields(d *wire.Document, meta client.Meta) *table {
	owner := "-"
	if d.Owner != nil {
		owner = d.Owner.Type + "/" + d.Owner.ID
	}
	return fields("collection", d.Collection, "id", d.ID, "title", orDash(d.Title), "owner", owner,
		"metadata", orDash(string(d.Metadata)), "snippets", d.SnippetCount, "revision", d.Revision,
		"created", d.CreatedAt.Format(time.RFC3339), "updated", d.UpdatedAt.Format(time.RFC3339),
		"node", orDash(meta.Node), "index", meta.Index)
}

func (a *app) docGet() *cobra.Command {
	var (
		read       readFlags
		embeddings bool
		text       bool
	)
	cmd := &cobra.Command{Use: "get COLLECTION ID", Short: "show a document with its snippets", Args: cobra.ExactArgs(2)}
	read.add(cmd, client.LevelLinearizable)
	cmd.Flags().BoolVar(&embeddings, "embeddings", false, "with the vectors (in JSON)")
	cmd.Flags().BoolVar(&text, "text", false, "print the text of all snippets and nothing else")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := read.options()
		if err != nil {
			return err
		}
		if embeddings {
			opts = append(opts, client.WithEmbeddings("array"))
		}
		doc, meta, err := cl.GetDocument(ctx, args[0], args[1], opts...)
		if err != nil {
			return err
		}
		switch {
		case text:
			for i, s := range doc.Snippets {
				if i > 0 {
					fmt.Fprintln(a.stdout)
				}
				fmt.Fprintln(a.stdout, s.Content)
			}
			return nil
		case a.output == "json":
			return a.printJSON(doc)
		}
		if err := documentFields(doc, meta).render(a.stdout); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
		return snippetTable(doc.Snippets).render(a.stdout)
	})
	return cmd
}

func snippetTable(snippets []wire.Snippet) *table {
	t := newTable(">INDEX", ">BYTES", "EMBEDDED", ">REVISION", "CONTENT")
	for _, s := range snippets {
		embedded := "no"
		if s.Embedded {
			embedded = orDash(s.Model)
		}
		t.add(s.Index, len(s.Content), embedded, s.Revision, clip(s.Content, 80))
	}
	return t
}

func (a *app) docList() *cobra.Command {
	var (
		read     readFlags
		owner    string
		metadata map[string]string
		order    string
		limit    int
		cursor   string
		all      bool
	)
	cmd := &cobra.Command{Use: "list COLLECTION", Short: "list documents", Args: cobra.ExactArgs(1)}
	read.add(cmd, client.LevelLinearizable)
	f := cmd.Flags()
	f.StringVar(&owner, "owner", "", "TYPE/ID: only this owner's")
	f.StringToStringVar(&metadata, "metadata", nil, "KEY=VALUE: only documents with this metadata")
	f.StringVar(&order, "order", "id", "id, -id, created_at or -created_at")
	f.IntVar(&limit, "limit", 100, "documents per page")
	f.StringVar(&cursor, "cursor", "", "next_cursor of the page before")
	f.BoolVar(&all, "all", false, "all pages")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := read.options()
		if err != nil {
			return err
		}
		o, err := parseOwner(owner)
		if err != nil {
			return err
		}
		q := client.ListQuery{Owner: o, Metadata: metadata, Order: order, Limit: limit, Cursor: cursor}
		out := wire.DocumentList{Items: []wire.Document{}}
		for {
			page, _, err := cl.ListDocuments(ctx, args[0], q, opts...)
			if err != nil {
				return err
			}
			out.Items = append(out.Items, page.Items...)
			out.NextCursor, q.Cursor = page.NextCursor, page.NextCursor
			if !all || page.NextCursor == "" {
				break
			}
		}
		if a.output == "json" {
			return a.printJSON(out)
		}
		return a.documentTable(&out)
	})
	return cmd
}

func (a *app) documentTable(list *wire.DocumentList) error {
	t := newTable("ID", "OWNER", "TITLE", ">SNIPPETS", ">REVISION", "UPDATED")
	for _, d := range list.Items {
		owner := "-"
		if d.Owner != nil {
			owner = d.Owner.Type + "/" + d.Owner.ID
		}
		t.add(d.ID, owner, clip(orDash(d.Title), 40), d.SnippetCount, d.Revision, d.UpdatedAt.Format(time.RFC3339))
	}
	if err := t.render(a.stdout); err != nil {
		return err
	}
	if list.NextCursor != "" {
		fmt.Fprintf(a.stderr, "there are more: --cursor %s\n", list.NextCursor)
	}
	return nil
}

func (a *app) docPatch() *cobra.Command {
	var (
		title, metadata string
		write           writeFlags
	)
	cmd := &cobra.Command{Use: "patch COLLECTION ID", Short: "change title or metadata", Args: cobra.ExactArgs(2)}
	f := cmd.Flags()
	f.StringVar(&title, "title", "", "the new title")
	f.StringVar(&metadata, "metadata", "", "a JSON merge patch (RFC 7396); a null removes the key")
	write.add(cmd, false)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := write.options()
		if err != nil {
			return err
		}
		var in wire.DocumentPatch
		if f.Changed("title") {
			in.Title = &title
		}
		if metadata != "" {
			if in.Metadata = json.RawMessage(metadata); !json.Valid(in.Metadata) {
				return usagef("--metadata is not JSON")
			}
		}
		if in.Title == nil && in.Metadata == nil {
			return usagef("nothing to change: give --title or --metadata")
		}
		doc, meta, err := cl.PatchDocument(ctx, args[0], args[1], in, opts...)
		if err != nil {
			return err
		}
		return a.print(doc, func() *table { return documentFields(doc, meta) })
	})
	return cmd
}

func (a *app) docDelete() *cobra.Command {
	var write writeFlags
	cmd := &cobra.Command{Use: "delete COLLECTION ID", Short: "delete a document", Args: cobra.ExactArgs(2)}
	write.add(cmd, false)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := write.options()
		if err != nil {
			return err
		}
		meta, err := cl.DeleteDocument(ctx, args[0], args[1], opts...)
		if err != nil {
			return err
		}
		return a.deleted("document", args[1], meta)
	})
	return cmd
}

func (a *app) docDeleteOwner() *cobra.Command {
	cmd := &cobra.Command{Use: "delete-owner COLLECTION TYPE/ID", Short: "delete all documents of an owner", Args: cobra.ExactArgs(2)}
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		owner, err := parseOwner(args[1])
		if err != nil {
			return err
		}
		total := 0
		for {
			result, meta, err := cl.DeleteOwner(ctx, args[0], *owner)
			if err != nil {
				return fmt.Errorf("after %d documents: %w", total, err)
			}
			total += result.Deleted
			if !result.More {
				return a.print(map[string]any{"deleted": total, "index": meta.Index}, func() *table {
					return fields("deleted", total, "index", meta.Index)
				})
			}
		}
	})
	return cmd
}
