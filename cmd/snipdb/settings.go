package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/spf13/pflag"

	"github.com/snipdb/snipdb/storage/failpoint"
	"github.com/snipdb/snipdb/storage/mutant"
)

// Where a setting came from. The first that has it wins.
const (
	sourceFlag        = "flag"
	sourceEnvironment = "environment"
	sourceFile        = "file"
	sourceDefault     = "default"
)

// notSettings are flags that say what to do now, and not how to be.
var notSettings = []string{"config", "print-config", "help"}

// load completes the flags that were parsed with the environment and the
// file: flag beats environment beats file beats default. It returns all
// problems at once.
func (c *Config) load(f *pflag.FlagSet, file string, environment []string) error {
	c.sources = map[string]string{}
	fromFile, err := readFile(file)
	if err != nil {
		return err
	}
	fromEnvironment, errs := readEnvironment(f, environment)
	f.VisitAll(func(flag *pflag.Flag) {
		if slices.Contains(notSettings, flag.Name) {
			return
		}
		values, inFile := fromFile[flag.Name]
		delete(fromFile, flag.Name)
		value, inEnvironment := fromEnvironment[flag.Name]
		switch {
		case flag.Changed:
			c.sources[flag.Name] = sourceFlag
		case inEnvironment:
			c.sources[flag.Name] = sourceEnvironment
			if err := f.Set(flag.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", environmentName(flag.Name), err))
			}
		case inFile:
			c.sources[flag.Name] = sourceFile
			for _, value := range values {
				if err := f.Set(flag.Name, value); err != nil {
					errs = append(errs, fmt.Errorf("%s: %s: %w", file, flag.Name, err))
				}
			}
		default:
			c.sources[flag.Name] = sourceDefault
		}
	})
	for key := range fromFile {
		errs = append(errs, fmt.Errorf("%s: there is no setting %q", file, key))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	c.complete()
	return c.Validate()
}

func environmentName(flag string) string {
	return "SNIPDB_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readEnvironment returns the settings in the environment by flag name. A
// variable with our prefix that is no setting is a mistake in spelling, which
// would otherwise be found out in production.
func readEnvironment(f *pflag.FlagSet, environment []string) (map[string]string, []error) {
	names := map[string]string{}
	f.VisitAll(func(flag *pflag.Flag) { names[environmentName(flag.Name)] = flag.Name })
	values := map[string]string{}
	var errs []error
	for _, entry := range environment {
		variable, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(variable, "SNIPDB_") || failpoint.IsVariable(variable) || mutant.IsVariable(variable) {
			continue
		}
		name, known := names[variable]
		if !known || name == "help" || name == "print-config" {
			errs = append(errs, fmt.Errorf("the environment has %s, and there is no such setting", variable))
			continue
		}
		values[name] = value
	}
	return values, errs
}

// readFile returns the settings of a YAML file by flag name, each as the words
// that a flag would get. No name, no settings.
func readFile(file string) (map[string][]string, error) {
	settings := map[string][]string{}
	if file == "" {
		return settings, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	// The nodes and not Go values: `node-id: 01` is the name "01" and no number.
	var nodes map[string]ast.Node
	if err := yaml.UnmarshalWithOptions(text, &nodes, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("read the configuration %s: %w", file, err)
	}
	for key, node := range nodes {
		if settings[key], err = words(node); err != nil {
			return nil, fmt.Errorf("read the configuration %s: %s: %w", file, key, err)
		}
	}
	return settings, nil
}

// words turns a YAML value into what a flag is set to: a list into one word
// for each item, a mapping into key=value.
func words(node ast.Node) ([]string, error) {
	switch n := node.(type) {
	case *ast.SequenceNode:
		var all []string
		for _, item := range n.Values {
			word, err := scalar(item)
			if err != nil {
				return nil, err
			}
			all = append(all, word)
		}
		return all, nil
	case *ast.MappingNode:
		var all []string
		for _, pair := range n.Values {
			word, err := scalar(pair.Value)
			if err != nil {
				return nil, err
			}
			all = append(all, pair.Key.String()+"="+word)
		}
		return all, nil
	case *ast.MappingValueNode:
		word, err := scalar(n.Value)
		return []string{n.Key.String() + "=" + word}, err
	default:
		word, err := scalar(node)
		return []string{word}, err
	}
}

func scalar(node ast.Node) (string, error) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	case nil: // "key:" and nothing behind it
		return "", errors.New("it has no value; leave the line out for the default")
	default:
		return "", fmt.Errorf("a %s is no value of a setting", node.Type())
	}
}

// print writes the effective settings as a file that --config would read, each
// with its source.
func (c *Config) print(w io.Writer, f *pflag.FlagSet) error {
	var err error
	f.VisitAll(func(flag *pflag.Flag) {
		if err != nil || slices.Contains(notSettings, flag.Name) {
			return
		}
		source := c.sources[flag.Name]
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			quoted := make([]string, len(list.GetSlice()))
			for i, item := range list.GetSlice() {
				quoted[i] = strconv.Quote(item)
			}
			_, err = fmt.Fprintf(w, "%s: [%s] # %s\n", flag.Name, strings.Join(quoted, ", "), source)
			return
		}
		_, err = fmt.Fprintf(w, "%s: %s # %s\n", flag.Name, strconv.Quote(flag.Value.String()), source)
	})
	return err
}

// bytesValue is a number of bytes with a unit: 1GiB, 512MiB, 64KiB, 100MB, 7.
type bytesValue int64

// byteUnits are the units from the longest name, so that MiB is not read as B.
var byteUnits = []struct {
	name string
	size int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// Type is the word in the help text.
func (b *bytesValue) Type() string { return "bytes" }

// String writes the largest binary unit that divides the number.
func (b *bytesValue) String() string {
	n, unit := int64(*b), ""
	for _, u := range byteUnits[:4] {
		if n != 0 && int64(*b)%u.size == 0 {
			n, unit = int64(*b)/u.size, u.name
		}
	}
	return strconv.FormatInt(n, 10) + unit
}

// Set reads a number with or without a unit.
func (b *bytesValue) Set(text string) error {
	number, size := text, int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, size = rest, u.size
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > (1<<62)/size {
		return fmt.Errorf("%q is no number of bytes; write 1GiB, 512MiB, 64KiB or a plain number", text)
	}
	*b = bytesValue(n * size)
	return nil
}
