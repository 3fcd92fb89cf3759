package main

import (
	"context"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func (a *app) snippetCommand() *cobra.Command {
	cmd := group("snippet", "get, list, put and delete single snippets",
		a.snippetGet(), a.snippetList(), a.snippetPut(), a.snippetDelete())
	cmd.Aliases = []string{"snippets"}
	return cmd
}

// parseIndex reads a snippet's index.
func parseIndex(s string) (int, error) {
	index, err := strconv.Atoi(s)
	if err != nil || index < 0 {
		return 0, usagef("a snippet's index is a number from 0, not %q", s)
	}
	return index, nil
}

func (a *app) snippetGet() *cobra.Command {
	var (
		read       readFlags
		embeddings bool
		text       bool
	)
	cmd := &cobra.Command{Use: "get COLLECTION ID INDEX", Short: "show one snippet", Args: cobra.ExactArgs(3)}
	read.add(cmd, client.LevelLinearizable)
	cmd.Flags().BoolVar(&embeddings, "embeddings", false, "with its vector (in JSON)")
	cmd.Flags().BoolVar(&text, "text", false, "print the text and nothing else")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		index, err := parseIndex(args[2])
		if err != nil {
			return err
		}
		opts, err := read.options()
		if err != nil {
			return err
		}
		if embeddings {
			opts = append(opts, client.WithEmbeddings("array"))
		}
		s, _, err := cl.GetSnippet(ctx, args[0], args[1], index, opts...)
		if err != nil {
			return err
		}
		if text {
			fmt.Fprintln(a.stdout, s.Content)
			return nil
		}
		return a.print(s, func() *table { return snippetFields(s) })
	})
	return cmd
}

func snippetFields(s *wire.Snippet) *table {
	return fields("index", s.Index, "content", clip(s.Content, 200), "bytes", len(s.Content), "content_hash", s.ContentHash,
		"embedded", s.Embedded, "model", orDash(s.Model), "revision", s.Revision)
}

func (a *app) snippetList() *cobra.Command {
	var read readFlags
	cmd := &cobra.Command{Use: "list COLLECTION ID", Short: "list a document's snippets", Args: cobra.ExactArgs(2)}
	read.add(cmd, client.LevelLinearizable)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := read.options()
		if err != nil {
			return err
		}
		doc, _, err := cl.GetDocument(ctx, args[0], args[1], opts...)
		if err != nil {
			return err
		}
		return a.print(doc.Snippets, func() *table { return snippetTable(doc.Snippets) })
	})
	return cmd
}

func (a *app) snippetPut() *cobra.Command {
	var (
		file, model string
		write       writeFlags
	)
	cmd := &cobra.Command{
		Use:   "put COLLECTION ID INDEX",
		Short: "replace a snippet, or append one at the index snippet_count",
		Long: `Replaces one snippet, or appends one at the index snippet_count. The input, from
--file or standard input, is its text. Its embedding is lost when the text
changes.`,
		Args: cobra.ExactArgs(3),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "read from this file (default: standard input)")
	cmd.Flags().StringVar(&model, "model", "", "name of the embedding model")
	write.add(cmd, false)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		index, err := parseIndex(args[2])
		if err != nil {
			return err
		}
		opts, err := write.options()
		if err != nil {
			return err
		}
		text, err := a.input(file)
		if err != nil {
			return err
		}
		if !utf8.Valid(text) {
			return fmt.Errorf("the input is not UTF-8 text")
		}
		s, _, err := cl.PutSnippet(ctx, args[0], args[1], index, wire.SnippetInput{Content: string(text), Model: model}, opts...)
		if err != nil {
			return err
		}
		return a.print(s, func() *table { return snippetFields(s) })
	})
	return cmd
}

func (a *app) snippetDelete() *cobra.Command {
	var write writeFlags
	cmd := &cobra.Command{Use: "delete COLLECTION ID INDEX", Short: "delete a snippet; those behind it move up", Args: cobra.ExactArgs(3)}
	write.add(cmd, false)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		index, err := parseIndex(args[2])
		if err != nil {
			return err
		}
		opts, err := write.options()
		if err != nil {
			return err
		}
		meta, err := cl.DeleteSnippet(ctx, args[0], args[1], index, opts...)
		if err != nil {
			return err
		}
		return a.deleted("snippet", args[1]+"/"+args[2], meta)
	})
	return cmd
}

func (a *app) embeddingsCommand() *cobra.Command {
	var (
		file  string
		write writeFlags
	)
	put := &cobra.Command{
		Use:   "put COLLECTION ID",
		Short: "set the embeddings of many snippets of a document at once",
		Long: `Sets the embeddings of many snippets of one document, all or none. The input, from
--file or standard input, is the JSON of PUT .../embeddings:
  {"model":"m","embeddings":[{"index":0,"vector":[0.1,...]},{"index":1,"vector_base64":"..."}]}`,
		Args: cobra.ExactArgs(2),
	}
	put.Flags().StringVarP(&file, "file", "f", "", "read from this file (default: standard input)")
	write.add(put, false)
	put.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := write.options()
		if err != nil {
			return err
		}
		text, err := a.input(file)
		if err != nil {
			return err
		}
		var in wire.EmbeddingsInput
		if err := strictJSON(text, &in); err != nil {
			return fmt.Errorf("the input is not a list of embeddings in JSON: %w", err)
		}
		result, _, err := cl.PutEmbeddings(ctx, args[0], args[1], in, opts...)
		if err != nil {
			return err
		}
		return a.print(result, func() *table {
			return fields("id", result.ID, "updated", result.Updated, "revision", result.Revision)
		})
	})
	cmd := group("embeddings", "set embeddings", put)
	cmd.Aliases = []string{"embedding"}
	return cmd
}
