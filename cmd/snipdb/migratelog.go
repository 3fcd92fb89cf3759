package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/snipdb/snipdb/cluster"
)

func migrateLogCommand() *cobra.Command {
	var path, to string
	cmd := &cobra.Command{
		Use:   "migrate-log --data-dir DIR --to bolt|rocksdb",
		Short: "Move a stopped node's Raft log into another kind of store",
		Long: "Move a stopped node's Raft log into another kind of store.\n\n" +
			"Every entry is copied and compared before the old log is removed. If it is cut off,\n" +
			"run it again. Afterwards start the node with the same --log-store.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if to != logStoreBolt && to != logStoreRocksDB {
				return fmt.Errorf("--to is %q; it must be %s or %s", to, logStoreBolt, logStoreRocksDB)
			}
			dir, err := openExisting(path)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, dir.close()) }()
			return migrateLog(dir, to, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&path, "data-dir", "data", "the data directory of a node that does not run")
	cmd.Flags().StringVar(&to, "to", "", "the kind of store: bolt or rocksdb")
	return cmd
}

// migrateLog goes through these states on disk, each durable before the next:
// the old log and a half new one under another name; the old and the whole new
// one; the new one. A node refuses to start in the second, so that the two
// stay equal until this command, run again, removes the old one.
func migrateLog(dir *dataDir, to string, output io.Writer) error {
	from, target := logStoreBolt, dir.logPath(to)
	if to == logStoreBolt {
		from = logStoreRocksDB
	}
	source := dir.logPath(from)
	haveSource, haveTarget := exists(source), exists(target)
	switch {
	case !haveSource && !haveTarget:
		return fmt.Errorf("there is no Raft log in %s", dir.log())
	case !haveSource:
		fmt.Fprintf(output, "the Raft log is of the kind %s already\n", to)
		return nil
	case !haveTarget:
		if err := copyLog(dir, from, to, output); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(source); err != nil {
		return fmt.Errorf("remove the old log: %w", err)
	}
	if err := syncDir(dir.log()); err != nil {
		return err
	}
	fmt.Fprintf(output, "done; start the node with --log-store %s\n", to)
	return nil
}

// copyLog makes the new log under another name, and gives it its own when it
// is whole.
func copyLog(dir *dataDir, from, to string, output io.Writer) (err error) {
	half := filepath.Join(dir.log(), "migrating-"+to)
	if err := os.RemoveAll(half); err != nil {
		return fmt.Errorf("remove the rest of an earlier migration: %w", err)
	}
	start := time.Now()
	source, err := openLogStore(from, dir.logPath(from))
	if err != nil {
		return err
	}
	target, err := openLogStore(to, half)
	if err != nil {
		return errors.Join(err, source.Close())
	}
	entries, err := cluster.MigrateLog(source, target)
	if err := errors.Join(err, target.Close(), source.Close()); err != nil {
		return err
	}
	// What Close has written must be there before the name is.
	if err := syncTree(half); err != nil {
		return err
	}
	if err := os.Rename(half, dir.logPath(to)); err != nil {
		return fmt.Errorf("name the new log: %w", err)
	}
	if err := syncDir(dir.log()); err != nil {
		return err
	}
	fmt.Fprintf(output, "%d entries copied from %s to %s and compared, in %v\n", entries, from, to, time.Since(start).Round(time.Millisecond))
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// syncTree makes a file durable, or a directory with all files in it.
func syncTree(path string) error {
	return filepath.WalkDir(path, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncDir(name)
	})
}
