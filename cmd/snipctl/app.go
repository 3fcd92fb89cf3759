package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/client"
)

// defaultEndpoint is the only place snipctl talks to unless it is told
// another: the address on which snipdb serve listens by default.
const defaultEndpoint = "http://127.0.0.1:8001"

// app is one run of snipctl: its streams and what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)

	endpoints  []string
	token      string
	output     string
	timeout    time.Duration
	configFile string

	// started is true once the command line is understood: errors before it
	// are the user's.
	started bool
	cl      *client.Client
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "snipctl",
		Short: "use and operate a snipdb cluster",
		Long: `snipctl talks to a snipdb cluster over HTTP.

Every flag is also an environment variable and a key of the YAML file given by
--config; a flag beats the environment, which beats the file. --endpoints is
SNIPCTL_ENDPOINTS and the key "endpoints"; "bench kv --clients" is
SNIPCTL_BENCH_KV_CLIENTS and the key "clients" under "bench", "kv".

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict,
5 unavailable (no node answered, or none can at present).`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Name() != cobra.ShellCompRequestCmd && cmd.Name() != cobra.ShellCompNoDescRequestCmd {
				if err := a.applySettings(cmd); err != nil {
					return err
				}
				if err := a.check(); err != nil {
					return err
				}
			}
			a.started = true
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.started = false
			_ = cmd.Help()
			return errors.New("which command?")
		},
		Args: cobra.NoArgs,
	}
	f := root.PersistentFlags()
	f.StringSliceVar(&a.endpoints, "endpoints", []string{defaultEndpoint}, "base URLs of the nodes, separated by commas")
	f.StringVar(&a.token, "token", "", "bearer token (better given as SNIPCTL_TOKEN)")
	f.StringVarP(&a.output, "output", "o", "table", "table or json")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long one request may take, with its retries")
	f.StringVar(&a.configFile, "config", "", "YAML file with settings")
	root.AddCommand(
		a.statusCommand(), a.membersCommand(), a.docCommand(), a.snippetCommand(), a.embeddingsCommand(),
		a.collectionCommand(), a.importCommand(), a.transferCommand(), a.snapshotCommand(), a.limitsCommand(),
		a.waitCommand(), a.checkCommand(), a.doctorCommand(), a.benchCommand(), a.versionCommand(),
	)
	return root
}

// check looks at the flags that all commands share.
func (a *app) check() error {
	if a.output != "table" && a.output != "json" {
		return fmt.Errorf("--output must be table or json, not %q", a.output)
	}
	if a.timeout <= 0 {
		return fmt.Errorf("--timeout must be above 0, not %s", a.timeout)
	}
	if len(a.endpoints) == 0 {
		return errors.New("--endpoints is empty")
	}
	for i, endpoint := range a.endpoints {
		endpoint = strings.TrimRight(strings.TrimSpace(endpoint), "/")
		if !strings.Contains(endpoint, "://") {
			endpoint = "http://" + endpoint
		}
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("--endpoints: %q is no base URL such as %s", a.endpoints[i], defaultEndpoint)
		}
		a.endpoints[i] = endpoint
	}
	return nil
}

// client returns the client for all endpoints; it is made once.
func (a *app) client() (*client.Client, error) {
	if a.cl == nil {
		cl, err := client.New(a.endpoints, a.clientOptions())
		if err != nil {
			return nil, fmt.Errorf("set up the client: %w", err)
		}
		a.cl = cl
	}
	return a.cl, nil
}

func (a *app) clientOptions() client.Options {
	return client.Options{Token: a.token, Timeout: a.timeout, UserAgent: "snipctl/" + version}
}

func (a *app) close() {
	if a.cl != nil {
		a.cl.Close()
	}
}

// terminal says whether w is one. Pipes and files get plain lines.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && f.Name() != os.DevNull
}

// run wraps a command's body: it gives it the client, and nothing else.
func (a *app) run(body func(ctx context.Context, cl *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		return body(cmd.Context(), cl, args)
	}
}

// group makes a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		_ = cmd.Help()
		return usagef("which command of %s?", cmd.Name())
	}}
	cmd.AddCommand(subs...)
	return cmd
}
