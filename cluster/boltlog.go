package cluster

import (
	"fmt"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// boltLockTimeout is how long an open waits for another process to let go of
// the file: long enough for one that is just ending.
const boltLockTimeout = 5 * time.Second

// OpenBoltLog opens a Raft log in a bolt file.
// One append is two fsyncs, against one of the log on RocksDB.
func OpenBoltLog(path string) (LogStore, error) {
	store, err := openBolt(path)
	if err != nil {
		return nil, fmt.Errorf("cluster: open log %s: %w", path, err)
	}
	return store, nil
}

// openBolt opens a raft-boltdb file. The freelist is not written with each
// commit: after a burst and a truncation it has megabytes, and commits that
// write it have made leaders flap (consul #15890, bbolt #401). The price is a
// scan of the file at the open.
func openBolt(path string) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
			Timeout:        boltLockTimeout,
		},
		MsgpackUseNewTimeFormat: true,
	})
}
