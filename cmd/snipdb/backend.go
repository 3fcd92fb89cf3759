package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/snipdb/snipdb/cluster"
	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage"
)

// backend joins the gate (package cluster) and the view (package fsm) into
// what the API needs. It is the only place that knows both, and View is the
// only way from a request to the data: no read gets past the gate.
type backend struct {
	*cluster.Node
	fsm             *fsm.FSM
	bootstrapExpect int
}

var (
	_ httpapi.Backend = (*backend)(nil)
	_ httpapi.Admin   = (*backend)(nil)
)

// View waits until this node may answer a read of that freshness, and pins the
// state that it may answer from.
func (b *backend) View(ctx context.Context, c contract.Consistency) (httpapi.View, contract.ReadStamp, error) {
	stamp, err := b.Node.ReadIndex(ctx, c)
	if err != nil {
		return nil, stamp, err
	}
	pinned, err := b.fsm.View(ctx, stamp.Index)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil, stamp, fmt.Errorf("%w: index %d", contract.ErrBehind, stamp.Index)
	case err != nil:
		return nil, stamp, err
	}
	return view{pinned}, stamp, nil
}

// AppliedPosition is the newest position that a local read would see.
func (b *backend) AppliedPosition() (index, term uint64) { return b.fsm.Applied() }

// Limits are the replicated rate limits.
func (b *backend) Limits() []*command.RateLimit { return b.fsm.Limits() }

// Identity says who this node is, to nodes that look for each other.
func (b *backend) Identity() wire.Identity {
	id := b.Node.Identity()
	return wire.Identity{
		NodeID: id.NodeID, ClusterID: id.ClusterID, RaftAddr: id.RaftAddr, HTTPAddr: id.HTTPAddr,
		BootstrapExpect: b.bootstrapExpect, Learner: id.Learner, Version: id.Version,
	}
}

// view is a storage view with its position in the API's words.
type view struct{ *storage.View }

// AppliedPosition is the position of the pinned state.
func (v view) AppliedPosition() (index, term uint64) {
	at := v.Position()
	return at.Index, at.Term
}

// The bounds of asking another node who it is.
const (
	discoverWait  = 2 * time.Second
	discoverBytes = 64 << 10
)

// discoverer returns the function that asks the node at a base URL who it is.
func discoverer() func(ctx context.Context, base string) (contract.Identity, error) {
	client := &http.Client{Timeout: discoverWait}
	return func(ctx context.Context, base string) (contract.Identity, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+"/v1/cluster/identity", nil)
		if err != nil {
			return contract.Identity{}, fmt.Errorf("ask %s who it is: %w", base, err)
		}
		response, err := client.Do(request)
		if err != nil {
			return contract.Identity{}, fmt.Errorf("ask %s who it is: %w", base, err)
		}
		defer response.Body.Close()
		var id wire.Identity
		if response.StatusCode != http.StatusOK {
			return contract.Identity{}, fmt.Errorf("ask %s who it is: status %d", base, response.StatusCode)
		}
		if err := json.NewDecoder(io.LimitReader(response.Body, discoverBytes)).Decode(&id); err != nil {
			return contract.Identity{}, fmt.Errorf("ask %s who it is: %w", base, err)
		}
		return contract.Identity{
			NodeID: id.NodeID, ClusterID: id.ClusterID, RaftAddr: id.RaftAddr, HTTPAddr: id.HTTPAddr, Learner: id.Learner, Version: id.Version,
		}, nil
	}
}
