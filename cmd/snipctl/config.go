package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const envPrefix = "SNIPCTL"

// notConfigurable are the flags that make sense on the command line only.
var notConfigurable = []string{"help", "config"}

// applySettings gives every flag of cmd that is not on the command line its
// value from the environment or from the file.
func (a *app) applySettings(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("config") {
		if file, ok := a.lookupEnv(envPrefix + "_CONFIG"); ok {
			a.configFile = file
		}
	}
	file := map[string]any{}
	if a.configFile != "" {
		var err error
		if file, err = readSettings(a.configFile); err != nil {
			return err
		}
		if err := checkSettings(cmd.Root(), file, ""); err != nil {
			return fmt.Errorf("%s: %w", a.configFile, err)
		}
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || slices.Contains(notConfigurable, f.Name) {
			return
		}
		path := commandPath(cmd)
		if cmd.Root().PersistentFlags().Lookup(f.Name) == f {
			path = nil
		}
		name := envName(path, f.Name)
		value, source, ok := "", "", false
		if value, ok = a.lookupEnv(name); ok {
			source = name
		} else if value, ok = lookupSetting(file, path, f.Name); ok {
			source = a.configFile
		}
		if !ok {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", source, err))
		}
	})
	return errors.Join(errs...)
}

// commandPath is the command's name below snipctl: ["bench", "kv"].
func commandPath(cmd *cobra.Command) []string {
	return strings.Fields(cmd.CommandPath())[1:]
}

// envName is the environment variable of a flag.
func envName(path []string, flag string) string {
	name := strings.Join(append(append([]string{envPrefix}, path...), flag), "_")
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func readSettings(name string) (map[string]any, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	settings := map[string]any{}
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("%s is not the YAML that is expected: %w", name, err)
	}
	return settings, nil
}

// checkSettings finds keys that no command and no flag has; a misspelt key
// that does nothing is worse than an error.
func checkSettings(cmd *cobra.Command, settings map[string]any, at string) error {
	var errs []error
	for key, value := range settings {
		flag := cmd.LocalNonPersistentFlags().Lookup(key)
		if cmd == cmd.Root() {
			flag = cmd.PersistentFlags().Lookup(key)
		}
		if flag != nil && !slices.Contains(notConfigurable, key) {
			continue
		}
		sub := childOf(cmd, key)
		below, isMap := value.(map[string]any)
		switch {
		case sub == nil:
			errs = append(errs, fmt.Errorf("the key %q is no flag and no command", at+key))
		case !isMap:
			errs = append(errs, fmt.Errorf("the key %q is a command; it takes the command's flags", at+key))
		default:
			errs = append(errs, checkSettings(sub, below, at+key+"."))
		}
	}
	slices.SortFunc(errs, func(x, y error) int { return strings.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
	return errors.Join(errs...)
}

func childOf(cmd *cobra.Command, name string) *cobra.Command {
	for _, sub := range cmd.Commands() {
		if sub.Name() == name {
			return sub
		}
	}
	return nil
}

// lookupSetting finds a flag's value in the file, as the text that the flag
// takes. A list is joined with commas.
func lookupSetting(settings map[string]any, path []string, flag string) (string, bool) {
	for _, part := range path {
		below, ok := settings[part].(map[string]any)
		if !ok {
			return "", false
		}
		settings = below
	}
	value, ok := settings[flag]
	if !ok || value == nil {
		return "", false
	}
	if list, ok := value.([]any); ok {
		parts := make([]string, len(list))
		for i, v := range list {
			parts[i] = fmt.Sprint(v)
		}
		return strings.Join(parts, ","), true
	}
	return fmt.Sprint(value), true
}
