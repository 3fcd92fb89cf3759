package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// readFlags are the flags of every command that reads.
type readFlags struct {
	consistency  string
	maxStaleness time.Duration
	minIndex     uint64
}

// add declares them. The default of the commands is linearizable, unlike the
// API's: a person who has just written something expects to read it.
func (r *readFlags) add(cmd *cobra.Command, level string) {
	f := cmd.Flags()
	f.StringVar(&r.consistency, "consistency", level, "local, bounded, session or linearizable")
	f.DurationVar(&r.maxStaleness, "max-staleness", time.Second, "how old a bounded read may be")
	f.Uint64Var(&r.minIndex, "min-index", 0, "the index that a session read must see")
}

func (r *readFlags) options() ([]client.ReadOption, error) {
	c, err := r.level()
	if err != nil {
		return nil, err
	}
	return []client.ReadOption{client.WithConsistency(c)}, nil
}

func (r *readFlags) level() (client.Consistency, error) {
	switch r.consistency {
	case "local":
		return client.Local(), nil
	case "bounded":
		return client.Bounded(r.maxStaleness), nil
	case "session":
		return client.AtIndex(r.minIndex), nil
	case "linearizable":
		return client.Linearizable(), nil
	default:
		return client.Consistency{}, usagef("--consistency must be local, bounded, session or linearizable, not %q", r.consistency)
	}
}

// writeFlags are the flags of every command that writes one thing.
type writeFlags struct {
	ifRevision uint64
	ifAbsent   bool
	key        string
}

func (w *writeFlags) add(cmd *cobra.Command, absent bool) {
	f := cmd.Flags()
	f.Uint64Var(&w.ifRevision, "if-revision", 0, "only if the document has this revision")
	f.StringVar(&w.key, "idempotency-key", "", "repeat an earlier command safely by giving it the same key")
	if absent {
		f.BoolVar(&w.ifAbsent, "if-absent", false, "only if it does not exist yet")
	}
}

func (w *writeFlags) options() ([]client.WriteOption, error) {
	if w.ifAbsent && w.ifRevision > 0 {
		return nil, usagef("--if-absent and --if-revision exclude each other")
	}
	var opts []client.WriteOption
	if w.ifRevision > 0 {
		opts = append(opts, client.IfMatch(w.ifRevision))
	}
	if w.ifAbsent {
		opts = append(opts, client.IfAbsent())
	}
	if w.key != "" {
		opts = append(opts, client.IdempotencyKey(w.key))
	}
	return opts, nil
}

// maxInput bounds what is read from a file or from standard input for one
// request; no request may be larger.
const maxInput = 64 << 20

// input reads a file, or standard input if name is "" or "-".
func (a *app) input(name string) ([]byte, error) {
	in := a.stdin
	if name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read the input: %w", err)
	}
	if len(text) > maxInput {
		return nil, fmt.Errorf("the input has more than %d bytes", maxInput)
	}
	return text, nil
}

// strictJSON decodes like the server does: unknown fields are errors.
func strictJSON(text []byte, into any) error {
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the first JSON value")
	}
	return nil
}

// parseOwner reads "type/id".
func parseOwner(s string) (*wire.Owner, error) {
	if s == "" {
		return nil, nil
	}
	kind, id, ok := strings.Cut(s, "/")
	if !ok || kind == "" || id == "" {
		return nil, usagef("--owner must be TYPE/ID, for example agent/a1, not %q", s)
	}
	return &wire.Owner{Type: kind, ID: id}, nil
}
