package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

func (a *app) membersCommand() *cobra.Command {
	cmd := group("members", "list, add, remove and promote nodes",
		a.membersList(), a.membersAdd(),
		a.membersRemove(),
		a.memberChange("promote", "let a learner vote; it must have caught up", (*client.Client).PromoteMember, "promoted"))
	cmd.Aliases = []string{"member"}
	return cmd
}

func (a *app) membersList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "list the members", Args: cobra.NoArgs}
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, _ []string) error {
		list, _, err := cl.Members(ctx)
		if err != nil {
			return err
		}
		return a.print(list, func() *table {
			t := newTable("ID", "HTTP", "RAFT", "VOTER", "LEADER", "VERSION")
			for _, m := range list.Items {
				voter := "yes"
				switch {
				case m.Voter:
				case m.Learner:
					voter = "never"
				default:
					voter = "not yet"
				}
				leader := ""
				if m.Leader {
					leader = "*"
				}
				t.add(m.ID, orDash(m.HTTPAddr), m.RaftAddr, voter, orDash(leader), orDash(m.Version))
			}
			return t
		})
	})
	return cmd
}

func (a *app) membersAdd() *cobra.Command {
	var in wire.MemberInput
	cmd := &cobra.Command{
		Use:   "add ID RAFT-ADDRESS",
		Short: "add a node; it votes when it has caught up",
		Long: `Adds a node to the cluster. A node that is started with --join adds itself, so this
is needed only for a node that is not to decide that on its own.`,
		Args: cobra.ExactArgs(2),
	}
	cmd.Flags().StringVar(&in.HTTPAddr, "http", "", "base URL of the node's API")
	cmd.Flags().BoolVar(&in.Learner, "learner", false, "the node never votes")
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		in.ID, in.RaftAddr = args[0], args[1]
		if _, err := cl.AddMember(ctx, in); err != nil {
			return err
		}
		return a.changed("added", in.ID)
	})
	return cmd
}

func (a *app) membersRemove() *cobra.Command {
	var force bool
	cmd := a.memberChange("remove", "remove a node; its data stays on its disk",
		func(cl *client.Client, ctx context.Context, id string, opts ...client.WriteOption) (client.Meta, error) {
			if force {
				opts = append(opts, client.Force())
			}
			return cl.RemoveMember(ctx, id, opts...)
		}, "removed")
	cmd.Long = `Removes a node from the cluster. It is refused if the voters that would be left, and
answer now, were no quorum. --force removes it all the same: for nodes that are gone
for ever. Nothing can be written then until enough of the others are back.`
	cmd.Flags().BoolVar(&force, "force", false, "remove it though no quorum of voters answers")
	return cmd
}

type memberChange func(*client.Client, context.Context, string, ...client.WriteOption) (client.Meta, error)

func (a *app) memberChange(use, short string, change memberChange, done string) *cobra.Command {
	cmd := &cobra.Command{Use: use + " ID", Short: short, Args: cobra.ExactArgs(1)}
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		if _, err := change(cl, ctx, args[0]); err != nil {
			return err
		}
		return a.changed(done, args[0])
	})
	return cmd
}

func (a *app) changed(what, id string) error {
	return a.print(map[string]string{what: id}, func() *table { return fields(what, id) })
}

func (a *app) transferCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "transfer-leader [ID]",
		Short: "hand the leadership to a node, or to the best one",
		Args:  cobra.MaximumNArgs(1),
	}
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, args []string) error {
		to := strings.Join(args, "")
		result, _, err := cl.TransferLeader(ctx, to)
		if err != nil {
			return err
		}
		return a.print(result, func() *table { return fields("leader", result.Leader) })
	})
	return cmd
}

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "make every given endpoint take a snapshot now",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = a.run(func(ctx context.Context, cl *client.Client, _ []string) error {
		results := []wire.SnapshotResult{}
		for _, endpoint := range a.endpoints {
			result, _, err := cl.Snapshot(ctx, endpoint)
			if err != nil {
				return fmt.Errorf("%s: %w", endpoint, err)
			}
			results = append(results, *result)
		}
		return a.print(results, func() *table {
			t := newTable("NODE", ">INDEX")
			for _, r := range results {
				t.add(r.Node, r.Index)
			}
			return t
		})
	})
	return cmd
}

func (a *app) limitsCommand() *cobra.Command {
	get := &cobra.Command{Use: "get", Short: "show the rate limits", Args: cobra.NoArgs}
	get.RunE = a.run(func(ctx context.Context, cl *client.Client, _ []string) error {
		limits, _, err := cl.Limits(ctx, client.WithConsistency(client.Linearizable()))
		if err != nil {
			return err
		}
		return a.printLimits(limits)
	})
	var (
		collections, tokens []string
		file                string
		none                bool
	)
	set := &cobra.Command{
		Use:   "set",
		Short: "replace all rate limits of the cluster",
		Long: `Replaces all rate limits of the cluster, at once and on every node. A limit is
NAME=WRITES_PER_SECOND[:BURST]; the name * means each one for itself. A batch
counts for each of its operations: it passes when one write would, and later ones
wait. An import waits for its turn and leaves half of the burst to other writes; a
burst of 1 leaves nothing. --file takes the JSON that "limits get -o json" prints.
--none removes all limits.`,
		Args: cobra.NoArgs,
	}
	set.Flags().StringArrayVar(&collections, "collection", nil, "limit of a collection; may be repeated")
	set.Flags().StringArrayVar(&tokens, "for-token", nil, "limit of a token, by its id; may be repeated")
	set.Flags().StringVarP(&file, "file", "f", "", "JSON file, - for standard input")
	set.Flags().BoolVar(&none, "none", false, "no limits")
	set.RunE = a.run(func(ctx context.Context, cl *client.Client, _ []string) error {
		in := wire.Limits{RateLimits: []wire.RateLimit{}}
		if file != "" {
			text, err := a.input(file)
			if err != nil {
				return err
			}
			if err := strictJSON(text, &in); err != nil {
				return fmt.Errorf("%s is not a list of limits: %w", file, err)
			}
		}
		for i, text := range append(slices.Clone(collections), tokens...) {
			scope := "collection"
			if i >= len(collections) {
				scope = "token"
			}
			limit, err := parseLimit(scope, text)
			if err != nil {
				return err
			}
			in.RateLimits = append(in.RateLimits, limit)
		}
		if (len(in.RateLimits) == 0) != none {
			return usagef("give limits, or --none to remove all")
		}
		limits, _, err := cl.SetLimits(ctx, in)
		if err != nil {
			return err
		}
		return a.printLimits(limits)
	})
	return group("limits", "show and set rate limits", get, set)
}

// parseLimit reads NAME=WRITES_PER_SECOND[:BURST].
func parseLimit(scope, text string) (wire.RateLimit, error) {
	limit := wire.RateLimit{Scope: scope}
	at := strings.LastIndexByte(text, '=')
	if at <= 0 {
		return limit, usagef("a limit is NAME=WRITES_PER_SECOND[:BURST], not %q", text)
	}
	limit.Name = text[:at]
	rate, burst, hasBurst := strings.Cut(text[at+1:], ":")
	if _, err := fmt.Sscanf(rate, "%g", &limit.WritesPerSecond); err != nil || limit.WritesPerSecond <= 0 {
		return limit, usagef("%q: the writes per second must be a number above 0", text)
	}
	limit.Burst = max(1, int(limit.WritesPerSecond))
	if hasBurst {
		if _, err := fmt.Sscanf(burst, "%d", &limit.Burst); err != nil || limit.Burst < 1 {
			return limit, usagef("%q: the burst must be a number from 1", text)
		}
	}
	return limit, nil
}

func (a *app) printLimits(limits *wire.Limits) error {
	return a.print(limits, func() *table {
		t := newTable("SCOPE", "NAME", ">WRITES/S", ">BURST")
		for _, l := range limits.RateLimits {
			t.add(l.Scope, l.Name, l.WritesPerSecond, l.Burst)
		}
		return t
	})
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print snipctl's version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.print(map[string]string{"version": version, "go": goVersion()}, func() *table {
				return fields("snipctl", version, "go", goVersion())
			})
		},
	}
}
