package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// settle applies settings to a command of the given path, without running it.
func settle(t *testing.T, args []string, env map[string]string, file string) (*app, *cobra.Command, error) {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "snipctl.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	a := &app{stdin: strings.NewReader(""), stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	a.lookupEnv = func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	root := a.rootCommand()
	var chosen *cobra.Command
	for _, cmd := range everyCommand(root) {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { chosen = cmd; return nil }
	}
	root.SetArgs(args)
	err := root.Execute()
	return a, chosen, err
}

func everyCommand(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		all = append(all, everyCommand(sub)...)
	}
	return all
}

func TestAFlagBeatsTheEnvironmentBeatsTheFile(t *testing.T) {
	const file = "endpoints: [http://file:1, http://file:2]\ntimeout: 7s\noutput: json\nbench:\n  kv:\n    clients: [3, 4]\n    keys: 5\n    op: get\n"
	env := map[string]string{"SNIPCTL_TIMEOUT": "8s", "SNIPCTL_BENCH_KV_KEYS": "6", "SNIPCTL_BENCH_KV_OP": "mixed"}
	a, cmd, err := settle(t, []string{"bench", "kv", "--op", "put"}, env, file)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(a.endpoints, " "); got != "http://file:1 http://file:2" || a.timeout.String() != "8s" || a.output != "json" {
		t.Errorf("endpoints %s, timeout %s, output %s", got, a.timeout, a.output)
	}
	for flag, want := range map[string]string{"op": "put", "keys": "6", "clients": "[3,4]", "value-bytes": "1024"} {
		if got := cmd.Flags().Lookup(flag).Value.String(); got != want {
			t.Errorf("%s is %s, want %s", flag, got, want)
		}
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		file string
		want string
	}{
		"an unknown key":                 {file: "endpoint: x", want: `"endpoint"`},
		"an unknown key of a command":    {file: "bench: {kv: {client: 3}}", want: `"bench.kv.client"`},
		"a command that is no map":       {file: "bench: 3", want: `"bench"`},
		"no YAML":                        {file: "a: [", want: "YAML"},
		"a bad value in the file":        {file: "timeout: soon", want: "soon"},
		"a bad value in the environment": {env: map[string]string{"SNIPCTL_TIMEOUT": "soon"}, want: "SNIPCTL_TIMEOUT"},
		"config inside of the file":      {file: "config: x", want: `"config"`},
	} {
		if _, _, err := settle(t, []string{"version"}, c.env, c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want something about %s", name, err, c.want)
		}
	}
}

func TestTheFileCanBeGivenByTheEnvironment(t *testing.T) {
	name := filepath.Join(t.TempDir(), "snipctl.yaml")
	if err := os.WriteFile(name, []byte("token: secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, _, err := settle(t, []string{"version"}, map[string]string{"SNIPCTL_CONFIG": name}, "")
	if err != nil || a.token != "secret" {
		t.Errorf("token %q, %v", a.token, err)
	}
}

// Two flags must not share a variable of the environment.
func TestEnvironmentNamesAreUnique(t *testing.T) {
	a := &app{stdin: strings.NewReader(""), stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	owner := map[string]string{}
	for _, cmd := range everyCommand(a.rootCommand()) {
		flags := cmd.LocalNonPersistentFlags()
		flags.VisitAll(func(f *pflag.Flag) {
			name := envName(commandPath(cmd), f.Name)
			if other, taken := owner[name]; taken {
				t.Errorf("%s is of %s and of %s --%s", name, other, cmd.CommandPath(), f.Name)
			}
			owner[name] = cmd.CommandPath() + " --" + f.Name
		})
	}
	if len(owner) < 50 {
		t.Fatalf("saw %d flags: this test looks in the wrong place", len(owner))
	}
}
