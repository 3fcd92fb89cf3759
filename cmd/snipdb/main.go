// Command snipdb is the server, and the tools that open a data directory while
// no server uses it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/storage"
)

// version is what `make build` writes into the binary.
var version = "unknown"

func main() {
	ctx, cancel := untilSignal()
	defer cancel()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "snipdb:", err)
		os.Exit(1)
	}
}

// untilSignal returns a context that ends with the first SIGTERM or SIGINT, so
// that the node stops in good order; the second ends the process at once.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		cancel()
		<-signals
		fmt.Fprintln(os.Stderr, "snipdb: a second signal: not waiting any more")
		os.Exit(130)
	}()
	return ctx, cancel
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "snipdb",
		Short:         "A replicated store for snippets: pieces of documents with their embeddings",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), recoverCommand(), inspectCommand(), inspectLogCommand(), migrateLogCommand(), benchCommand(), versionCommand())
	return root
}

func serveCommand() *cobra.Command {
	var (
		config      Config
		file        string
		printConfig bool
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node until SIGTERM",
		Long: "Run a node until SIGTERM.\n\n" +
			"Every flag is also a key of the YAML file given with --config, and, in capitals with\n" +
			"SNIPDB_ in front, an environment variable; a flag beats the environment beats the file.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.load(cmd.Flags(), file, os.Environ()); err != nil {
				return err
			}
			if printConfig {
				return config.print(cmd.OutOrStdout(), cmd.Flags())
			}
			return run(cmd.Context(), &config, cmd.ErrOrStderr(), nil)
		},
	}
	config.register(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", os.Getenv("SNIPDB_CONFIG"), "a YAML file with settings")
	cmd.Flags().BoolVar(&printConfig, "print-config", false, "print the settings and where each came from, and end")
	return cmd
}

func versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary and of the RocksDB it runs with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			switch output {
			case "table":
				fmt.Fprintf(out, "snipdb %s\nRocksDB %s\n", version, storage.LinkedVersion())
			case "json":
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				if err := enc.Encode(map[string]string{"version": version, "rocksdb": storage.LinkedVersion(), "go": runtime.Version()}); err != nil {
					return err
				}
			default:
				return fmt.Errorf("--output is %q; it must be table or json", output)
			}
			return storage.CheckLinkedVersion()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}
