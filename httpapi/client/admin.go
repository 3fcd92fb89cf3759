package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// Status returns the cluster as one node sees it: any, or that of OnEndpoint,
// which is the only option that it takes.
func (c *Client) Status(ctx context.Context, opts ...ReadOption) (*wire.Status, Meta, error) {
	return ask[wire.Status](ctx, c, http.MethodGet, path("cluster", "status"), opts)
}

// Members returns the members of the cluster as one node knows them. The only
// option that it takes is OnEndpoint.
func (c *Client) Members(ctx context.Context, opts ...ReadOption) (*wire.MemberList, Meta, error) {
	list, meta, err := ask[wire.MemberList](ctx, c, http.MethodGet, path("cluster", "members"), opts)
	if err == nil {
		c.core.pool.learnMembers(list.Items)
	}
	return list, meta, err
}

// Identity asks one node who it is.
func (c *Client) Identity(ctx context.Context, endpoint string) (*wire.Identity, Meta, error) {
	return ask[wire.Identity](ctx, c, http.MethodGet, path("cluster", "identity"), []ReadOption{OnEndpoint(endpoint)})
}

// AddMember adds a node. Like all changes of the membership it carries no
// idempotency key, so it is not repeated once it may have been applied. A
// member that is there already at the same address stays as it is; at another
// one it is refused.
func (c *Client) AddMember(ctx context.Context, in wire.MemberInput, opts ...WriteOption) (Meta, error) {
	_, meta, err := change[json.RawMessage](ctx, c, http.MethodPost, path("cluster", "members"), in, opts)
	return meta, err
}

// RemoveMember removes the node with that id. It is refused if no quorum of
// voters would be left that answers, unless Force is given.
func (c *Client) RemoveMember(ctx context.Context, id string, opts ...WriteOption) (Meta, error) {
	cfg := writeConfig(opts)
	cfg.key = ""
	var q url.Values
	if cfg.force {
		q = url.Values{wire.ParamForce: {"true"}}
	}
	_, meta, err := mutate[json.RawMessage](ctx, c, http.MethodDelete, path("cluster", "members", id), q, nil, cfg)
	return meta, err
}

// PromoteMember makes a learner a voter.
func (c *Client) PromoteMember(ctx context.Context, id string, opts ...WriteOption) (Meta, error) {
	_, meta, err := change[json.RawMessage](ctx, c, http.MethodPost, path("cluster", "members", id, "promote"), nil, opts)
	return meta, err
}

// TransferLeader hands the leadership to the member named, or, if to is
// empty, to the one that the leader chooses. It is an error if another one
// becomes the leader instead.
func (c *Client) TransferLeader(ctx context.Context, to string, opts ...WriteOption) (*wire.TransferResult, Meta, error) {
	out, meta, err := change[wire.TransferResult](ctx, c, http.MethodPost, path("cluster", "transfer-leader"), wire.TransferInput{To: to}, opts)
	if err == nil {
		c.core.pool.leaderIs(out.Leader)
	}
	return out, meta, err
}

// Snapshot makes one node take a snapshot; an empty endpoint means any node.
func (c *Client) Snapshot(ctx context.Context, endpoint string) (*wire.SnapshotResult, Meta, error) {
	r := &request{method: http.MethodPost, path: path("cluster", "snapshot"), kind: kindNode, pin: endpoint}
	return call[wire.SnapshotResult](ctx, c, r)
}

// Consistency compares the states of all nodes, where they have marked the
// hash of them already: the node that is asked writes nothing. The only option
// that it takes is OnEndpoint.
func (c *Client) Consistency(ctx context.Context, opts ...ReadOption) (*wire.Consistency, Meta, error) {
	return ask[wire.Consistency](ctx, c, http.MethodGet, path("cluster", "consistency"), opts)
}

// CheckConsistency has all nodes mark their states now, and compares them. An
// empty endpoint means any node.
func (c *Client) CheckConsistency(ctx context.Context, endpoint string) (*wire.Consistency, Meta, error) {
	r := &request{method: http.MethodPost, path: path("cluster", "consistency"), kind: kindNode, pin: endpoint}
	return call[wire.Consistency](ctx, c, r)
}

// StartVerification makes one node read its whole state and compute the hash
// anew, in the background; mibPerSecond bounds the rate, 0: not at all. One that
// runs already goes on and is shown: then Meta.Status is 200, and not 202.
func (c *Client) StartVerification(ctx context.Context, endpoint string, mibPerSecond int) (*wire.Verification, Meta, error) {
	r := &request{method: http.MethodPost, path: path("cluster", "verification"), kind: kindNode, pin: endpoint,
		query: url.Values{wire.ParamRate: {strconv.Itoa(mibPerSecond)}}}
	return call[wire.Verification](ctx, c, r)
}

// Verification shows the newest full scan of one node's state.
func (c *Client) Verification(ctx context.Context, endpoint string) (*wire.Verification, Meta, error) {
	r := &request{method: http.MethodGet, path: path("cluster", "verification"), kind: kindNode, pin: endpoint}
	return call[wire.Verification](ctx, c, r)
}

// StopVerification ends the full scan that runs on one node, if one does.
func (c *Client) StopVerification(ctx context.Context, endpoint string) (*wire.Verification, Meta, error) {
	r := &request{method: http.MethodDelete, path: path("cluster", "verification"), kind: kindNode, pin: endpoint}
	return call[wire.Verification](ctx, c, r)
}

// Limits returns the rate limits of the cluster. It is a read as those of the data
// are, with their freshness: see WithConsistency, and Session.
func (c *Client) Limits(ctx context.Context, opts ...ReadOption) (*wire.Limits, Meta, error) {
	return read[wire.Limits](ctx, c, path("cluster", "limits"), nil, opts)
}

// SetLimits replaces the rate limits of the cluster.
func (c *Client) SetLimits(ctx context.Context, in wire.Limits, opts ...WriteOption) (*wire.Limits, Meta, error) {
	return write[wire.Limits](ctx, c, http.MethodPut, path("cluster", "limits"), in, opts)
}

// Live asks one node whether its process answers; whether it can serve is another
// question, see Ready. The node is asked once.
func (c *Client) Live(ctx context.Context, endpoint string) (*wire.Ready, Meta, error) {
	r := &request{method: http.MethodGet, path: "/livez", kind: kindNode, pin: endpoint, once: true}
	return call[wire.Ready](ctx, c, r)
}

// Ready asks one node whether it can serve. A node that answers "no" is an
// answer, not an error: see Ready.Status and Ready.Reason. The node is asked once.
func (c *Client) Ready(ctx context.Context, endpoint string) (*wire.Ready, Meta, error) {
	r := &request{method: http.MethodGet, path: "/readyz", kind: kindNode, pin: endpoint, once: true, also: http.StatusServiceUnavailable}
	return call[wire.Ready](ctx, c, r)
}

// NodeMetrics returns the metrics of one node in Prometheus' text format.
func (c *Client) NodeMetrics(ctx context.Context, endpoint string) ([]byte, Meta, error) {
	return c.raw(ctx, "/metrics", endpoint)
}

// OpenAPI returns a node's description of the API; an empty endpoint means any node.
func (c *Client) OpenAPI(ctx context.Context, endpoint string) ([]byte, Meta, error) {
	return c.raw(ctx, "/openapi.json", endpoint)
}

func (c *Client) raw(ctx context.Context, path, endpoint string) ([]byte, Meta, error) {
	r := &request{method: http.MethodGet, path: path, kind: kindNode, pin: endpoint}
	a, meta, err := c.core.do(ctx, c.session, r)
	if err != nil {
		return nil, meta, err
	}
	return a.body, meta, nil
}
