package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// surveyTimeout bounds one node's answer. A node that is dead costs this
// much and no more, because all are asked at the same time.
const surveyTimeout = 900 * time.Millisecond

// view is the cluster as one endpoint sees it.
type view struct {
	endpoint string
	status   *wire.Status
	node     string // who answered
	err      error
	sent     time.Time
	rtt      time.Duration
}

// survey asks every endpoint for the cluster's status at the same time, each
// for itself, so that the answer does not hang on one node's view.
func (a *app) survey(ctx context.Context) []view { return a.surveyOf(ctx, a.endpoints) }

func (a *app) surveyOf(ctx context.Context, endpoints []string) []view {
	views := make([]view, len(endpoints))
	var wait sync.WaitGroup
	for i, endpoint := range endpoints {
		wait.Go(func() { views[i] = a.ask(ctx, endpoint) })
	}
	wait.Wait()
	return views
}

func (a *app) ask(ctx context.Context, endpoint string) view {
	v := view{endpoint: endpoint}
	ctx, cancel := context.WithTimeout(ctx, min(a.timeout, surveyTimeout))
	defer cancel()
	o := a.clientOptions()
	// The first failure is the answer: a refused connection is known at once,
	// and waiting for a better one would delay the whole table.
	var first error
	o.OnRetry = func(e client.RetryEvent) {
		first = e.Err
		cancel()
	}
	cl, err := client.New([]string{endpoint}, o)
	if err != nil {
		v.err = err
		return v
	}
	defer cl.Close()
	v.sent = time.Now()
	status, meta, err := cl.Status(ctx)
	v.rtt = time.Since(v.sent)
	v.status, v.node, v.err = status, meta.Node, err
	if err != nil && first != nil {
		v.err = first
	}
	return v
}

// merge makes one status of several views. A node's own word about itself
// counts most, then any node's word that it is reachable. Of the leaders that
// are named, the one of the highest term counts: an old leader behind a
// partition believes in itself for a while. An endpoint that did not answer
// and that no view knows becomes a node without an id. The view of a node of
// another cluster counts for nothing: its own line says so among its errors.
func merge(views []view) (*wire.Status, error) {
	out := &wire.Status{Nodes: []wire.NodeStatus{}}
	known := map[string]int{}
	own := map[string]bool{}
	var lastErr error
	home := homeCluster(views)
	for _, v := range views {
		if v.err != nil {
			lastErr = v.err
			continue
		}
		if v.foreign(home) {
			continue
		}
		if out.ClusterID == "" || v.status.Term > out.Term || v.status.Term == out.Term && out.Leader == "" {
			out.ClusterID, out.Leader, out.Term = v.status.ClusterID, v.status.Leader, v.status.Term
		}
		for _, node := range v.status.Nodes {
			at, ok := known[node.ID]
			if !ok {
				at = len(out.Nodes)
				known[node.ID] = at
				out.Nodes = append(out.Nodes, wire.NodeStatus{ID: node.ID})
			}
			self := node.ID == v.node
			if self || !own[node.ID] && (!ok || !out.Nodes[at].Reachable) {
				out.Nodes[at] = node
				own[node.ID] = own[node.ID] || self
			}
		}
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("no endpoint gave the cluster's status: %w", lastErr)
	}
	for _, v := range views {
		if v.err != nil && !knownEndpoint(out.Nodes, v.endpoint) {
			out.Nodes = append(out.Nodes, wire.NodeStatus{ID: "?", HTTPAddr: v.endpoint, Role: "unknown", Errors: []string{short(v.err)}})
		}
	}
	setLag(out)
	for _, v := range views {
		if v.foreign(home) {
			addForeign(out, v, home)
		}
	}
	slices.SortStableFunc(out.Nodes, func(x, y wire.NodeStatus) int { return strings.Compare(x.ID, y.ID) })
	return out, nil
}

// homeCluster is the cluster that most endpoints belong to; of two with the same
// number it is the one that is named first. "" if none has one.
func homeCluster(views []view) string {
	count, home := map[string]int{}, ""
	for _, v := range views {
		if v.err == nil && v.status.ClusterID != "" {
			count[v.status.ClusterID]++
		}
	}
	for _, v := range views {
		if v.err == nil && count[v.status.ClusterID] > count[home] {
			home = v.status.ClusterID
		}
	}
	return home
}

// foreign says whether a node of another cluster answered. One without a
// cluster is new, and no stranger.
func (v view) foreign(home string) bool {
	return v.err == nil && v.status.ClusterID != "" && v.status.ClusterID != home
}

// addForeign shows a node of another cluster, in place of a member whose id it has.
func addForeign(out *wire.Status, v view, home string) {
	line := wire.NodeStatus{ID: v.node, HTTPAddr: v.endpoint, Role: "unknown"}
	for _, n := range v.status.Nodes {
		if n.ID == v.node {
			line = n
		}
	}
	line.Lag = 0 // behind another leader
	line.Errors = append([]string{fmt.Sprintf("it belongs to cluster %s, not to %s", v.status.ClusterID, home)}, line.Errors...)
	if at := slices.IndexFunc(out.Nodes, func(n wire.NodeStatus) bool { return n.ID == line.ID }); at >= 0 {
		out.Nodes[at] = line
		return
	}
	out.Nodes = append(out.Nodes, line)
}

// oneCluster returns an error if endpoints belong to different clusters: what
// is asked of "the cluster" has no answer then.
func oneCluster(views []view) error {
	home := homeCluster(views)
	var strangers []string
	for _, v := range views {
		if v.foreign(home) {
			strangers = append(strangers, fmt.Sprintf("%s at %s belongs to %s", v.node, v.endpoint, v.status.ClusterID))
		}
	}
	if len(strangers) == 0 {
		return nil
	}
	return fmt.Errorf("the endpoints belong to different clusters: most to %s, but %s", home, strings.Join(strangers, ", "))
}

// setLag counts from the highest commit index that any node reports: a
// follower's own idea of it may be old.
func setLag(s *wire.Status) {
	var commit uint64
	for _, n := range s.Nodes {
		if n.Reachable && n.Term == s.Term {
			commit = max(commit, n.CommitIndex)
		}
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Reachable && commit > n.AppliedIndex {
			n.Lag = commit - n.AppliedIndex
		}
	}
}

func knownEndpoint(nodes []wire.NodeStatus, endpoint string) bool {
	return slices.ContainsFunc(nodes, func(n wire.NodeStatus) bool { return sameAddress(n.HTTPAddr, endpoint) })
}

// unasked returns the addresses of the nodes that the status knows and that none
// of the views asked, neither under that address nor under another one.
func unasked(s *wire.Status, views []view) []string {
	var out []string
	for _, n := range s.Nodes {
		asked := slices.ContainsFunc(views, func(v view) bool {
			return sameAddress(v.endpoint, n.HTTPAddr) || v.err == nil && v.node == n.ID
		})
		if n.HTTPAddr != "" && !asked {
			out = append(out, n.HTTPAddr)
		}
	}
	return out
}

func sameAddress(a, b string) bool {
	plain := func(s string) string {
		s = strings.TrimRight(s, "/")
		if _, rest, ok := strings.Cut(s, "://"); ok {
			return rest
		}
		return s
	}
	return plain(a) == plain(b)
}

// short is the cause of an error, without who asked whom.
func short(err error) string {
	var e *client.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	switch {
	case errors.Is(e.Cause, context.DeadlineExceeded):
		return "no answer in time"
	case e.Cause != nil:
		return e.Cause.Error()
	case e.Problem.Code != "":
		return fmt.Sprintf("%d %s: %s", e.Status, e.Problem.Code, e.Problem.Detail)
	default:
		return fmt.Sprintf("%d %s; is it a snipdb node?", e.Status, http.StatusText(e.Status))
	}
}
