package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cluster"
	"github.com/snipdb/snipdb/storage"
)

func recoverCommand() *cobra.Command {
	var (
		path, peers string
		dryRun      bool
		accept      bool
	)
	cmd := &cobra.Command{
		Use:   "recover --data-dir DIR --peers FILE",
		Short: "Give a stopped node a new list of voters, when the majority is lost for ever",
		Long: "Give a stopped node a new list of voters, when the majority is lost for ever.\n\n" +
			"FILE is JSON: [{\"id\":\"n1\",\"address\":\"127.0.0.1:7001\"}], all voters of the cluster from now\n" +
			"on, this node among them. Writes that only the lost nodes had are gone, and entries of\n" +
			"this node's log that were never committed become so. Run it on the node whose log goes\n" +
			"furthest (snipdb inspect), start that node, and let the others join with empty directories.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			voters, err := readPeers(peers)
			if err != nil {
				return err
			}
			return recoverNode(path, voters, dryRun, accept, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&path, "data-dir", "data", "the data directory of a node that does not run")
	cmd.Flags().StringVar(&peers, "peers", "peers.json", "the file with the voters")
	cmd.Flags().BoolVar(&accept, "accept-diverged", false, "recover from a node that has diverged, if no other is left: its state becomes the truth")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and change nothing")
	return cmd
}

func recoverNode(path string, voters []cluster.RecoverServer, dryRun, accept bool, output, warnings io.Writer) (err error) {
	logger := quiet(warnings)
	node, err := openStopped(path, storage.DefaultOptions(), logger)
	if err != nil {
		return err
	}
	applied, term := node.fsm.Applied()
	id, err := cluster.Inspect(node.dir.node(), applied, term, node.snapshots, node.log)
	if err != nil {
		return errors.Join(err, node.close())
	}
	if id.ClusterID == "" {
		return errors.Join(fmt.Errorf("the node %s belongs to no cluster: there is nothing to recover", id.NodeID), node.close())
	}
	parts := node.parts()
	node.log = nil // Recover closes it
	err = cluster.Recover(cluster.RecoverOptions{
		NodeID: id.NodeID, DataDir: node.dir.node(), Voters: voters, DryRun: dryRun, AcceptDiverged: accept, Out: output, Logger: logger,
	}, parts)
	return errors.Join(err, node.close())
}
