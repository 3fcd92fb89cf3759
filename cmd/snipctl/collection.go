package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func (a *app) collectionCommand() *cobra.Command {
	cmd := group("collection", "create, show, list, change and delete collections",
		a.collectionPut("create", "create a collection"),
		a.collectionPut("update", "change a collection; what is not given stays as it is"),
		a.collectionGet(), a.collectionList(), a.collectionDelete())
	cmd.Aliases = []string{"collections"}
	return cmd
}

// collectionPut is create and update: the same request, but for the condition.
func (a *app) collectionPut(use, short string) *cobra.Command {
	var (
		dimension        int
		metric, analyzer string
	)
	cmd := &cobra.Command{Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1)}
	f := cmd.Flags()
	f.IntVar(&dimension, "dimension", 0, "length of every vector; 0: the first vector fixes it")
	f.StringVar(&metric, "metric", "", "cosine, dot or euclidean (default cosine)")
	f.StringVar(&analyzer, "analyzer", "", "standard, english or simple (default standard)")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		var in wire.CollectionInput
		if f.Changed("dimension") {
			in.Dimension = &dimension
		}
		if metric != "" {
			in.Metric = &metric
		}
		if analyzer != "" {
			in.Analyzer = &analyzer
		}
		condition := client.IfAbsent()
		if use == "update" {
			condition = client.IfPresent()
		}
		c, _, err := cl.PutCollection(ctx, args[0], in, condition)
		if err != nil {
			return err
		}
		return a.print(c, func() *table { return collectionFields(c) })
	})
	return cmd
}

func collectionFields(c *wire.Collection) *table {
	return fields("name", c.Name, "dimension", c.Dimension, "metric", c.Metric, "analyzer", c.Analyzer,
		"documents", c.Documents, "snippets", c.Snippets, "embedded", c.Embedded,
		"created", c.CreatedAt.Format(time.RFC3339), "updated", c.UpdatedAt.Format(time.RFC3339), "revision", c.Revision)
}

func (a *app) collectionGet() *cobra.Command {
	var read readFlags
	cmd := &cobra.Command{Use: "get NAME", Short: "show a collection", Args: cobra.ExactArgs(1)}
	read.add(cmd, client.LevelLinearizable)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		opts, err := read.options()
		if err != nil {
			return err
		}
		c, _, err := cl.GetCollection(ctx, args[0], opts...)
		if err != nil {
			return err
		}
		return a.print(c, func() *table { return collectionFields(c) })
	})
	return cmd
}

func (a *app) collectionList() *cobra.Command {
	var read readFlags
	cmd := &cobra.Command{Use: "list", Short: "list all collections", Args: cobra.NoArgs}
	read.add(cmd, client.LevelLinearizable)
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, _ []string) error {
		opts, err := read.options()
		if err != nil {
			return err
		}
		all := wire.CollectionList{Items: []wire.Collection{}}
		for cursor := ""; ; {
			page, _, err := cl.ListCollections(ctx, 0, cursor, opts...)
			if err != nil {
				return err
			}
			all.Items = append(all.Items, page.Items...)
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		return a.print(all, func() *table {
			t := newTable("NAME", ">DIMENSION", "METRIC", "ANALYZER", ">DOCUMENTS", ">SNIPPETS", ">EMBEDDED")
			for _, c := range all.Items {
				t.add(c.Name, c.Dimension, c.Metric, c.Analyzer, c.Documents, c.Snippets, c.Embedded)
			}
			return t
		})
	})
	return cmd
}

func (a *app) collectionDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "delete NAME", Short: "delete a collection with all its documents", Args: cobra.ExactArgs(1)}
	cmd.Flags().BoolVar(&yes, "yes", false, "really; without it nothing is deleted")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		if !yes {
			// What is shown here decides: a node that is behind would show less.
			c, _, err := cl.GetCollection(ctx, args[0], client.WithConsistency(client.Linearizable()))
			if err != nil {
				return err
			}
			return usagef("%q has %d documents; repeat with --yes to delete them", c.Name, c.Documents)
		}
		meta, err := cl.DeleteCollection(ctx, args[0])
		if err != nil {
			return err
		}
		return a.deleted("collection", args[0], meta)
	})
	return cmd
}

// deleted reports a deletion.
func (a *app) deleted(what, name string, meta client.Meta) error {
	return a.print(map[string]any{"deleted": name, "index": meta.Index}, func() *table {
		return fields("deleted", fmt.Sprintf("%s %s", what, name), "index", meta.Index)
	})
}
