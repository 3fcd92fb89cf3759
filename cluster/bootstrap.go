package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/storage/failpoint"
)

const (
	// searchEvery is how often a new node looks around, with jitter.
	searchEvery = 300 * time.Millisecond
	// discoverTimeout bounds the question to one address.
	discoverTimeout = time.Second
	// claimTimeout bounds the answer to a claim, for which a node starts Raft:
	// a few fsyncs, on a disk that may be busy. It is far below ClaimTTL.
	claimTimeout = 5 * time.Second
	// searchLogEvery bounds how often a search that finds nothing says so.
	searchLogEvery = 10 * time.Second
)

// promise is this node's word, as a new node, to the one that forms the
// cluster. It lives in memory: if the claimer dies before it wrote the claim
// down, the word ends with its time, and another may claim.
type promise struct {
	mu      sync.Mutex
	claimer string
	cluster string
	until   time.Time
}

// give binds this node to a claim, unless it is bound to another.
func (p *promise) give(claimer, cluster string, ttl time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cluster != "" && p.cluster != cluster && time.Now().Before(p.until) {
		return fmt.Errorf("cluster: this node gave its word to %s until %s", p.claimer, p.until.Format(time.TimeOnly))
	}
	p.claimer, p.cluster, p.until = claimer, cluster, time.Now().Add(ttl)
	return nil
}

// own returns the cluster that this node itself claims, "" if none. It is the
// same in all attempts of one process: the word that others gave to the first
// attempt must not stand in the way of the second.
func (p *promise) own(self string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.claimer != self {
		return ""
	}
	return p.cluster
}

// to returns the cluster of the promise, and whether it is still in force.
func (p *promise) to() (cluster string, valid bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cluster, time.Now().Before(p.until)
}

// bootstrapAlone forms a single-node cluster.
func (n *Node) bootstrapAlone(ctx context.Context) error {
	if id := n.identity.clusterID(); id != "" {
		return fmt.Errorf("cluster: this node belongs to cluster %s, but has no Raft state, or lost its log: give it --join with the addresses of the members, so that they can take it in again; if there are none, `snipdb recover` goes on with what is left, if anything is; else restore a backup", id)
	}
	self := []claimServer{{ID: n.o.NodeID, Addr: n.mux.addr()}}
	if err := n.writeClaim(uuid.NewString(), self); err != nil {
		return err
	}
	return n.bootstrapRaft(ctx, self)
}

// pin makes this node a member of the cluster for ever, and hangs up on all others.
func (n *Node) pin(cluster string, founder bool) error {
	if err := n.identity.pin(cluster, founder); err != nil {
		return err
	}
	n.mux.closeForeign()
	return nil
}

// writeClaim makes the claim durable; from then on this node goes on with it
// through any crash, until the first entry of the cluster is applied.
func (n *Node) writeClaim(cluster string, servers []claimServer) error {
	failpoint.Hit(failpoint.ClaimBefore)
	err := n.identity.update(func(r *identityRecord) { r.ClusterID, r.Founder, r.Pending = cluster, true, servers })
	failpoint.Hit(failpoint.ClaimAfter)
	return err
}

// bootstrapRaft starts Raft with its first configuration. It may be called
// again after a crash: a Raft that has a configuration refuses another.
func (n *Node) bootstrapRaft(ctx context.Context, servers []claimServer) error {
	// Nobody starts Raft meanwhile: who has claimed gives no other its word.
	if n.raft.Load() == nil {
		if err := n.finishBootstrap(servers); err != nil {
			return err
		}
	}
	if err := n.startRaft(); err != nil {
		return err
	}
	if err := wait(ctx, n.raft.Load().BootstrapCluster(founders(servers))); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("cluster: bootstrap raft: %w", err)
	}
	failpoint.Hit(failpoint.BootstrapAfter)
	n.electSelf(ctx)
	return nil
}

// founders is the first configuration.
func founders(servers []claimServer) raft.Configuration {
	var c raft.Configuration
	for _, s := range servers {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Addr)})
	}
	return c
}

// finishBootstrap ends a bootstrap that was cut off in the middle. The
// library's is two writes: the term 1, and then the configuration as the first
// entry. After a crash between them it takes the term for a sign of an older
// life and refuses to bootstrap; the node would stand for election for ever,
// in a configuration of nobody, and the founders that gave it their word would
// wait for it. It is called before Raft runs, with a claim that is on disk.
//
// Why it is safe: with an empty log and no snapshot this node has acknowledged
// nothing, and no other founder has a configuration until this node sends it
// one. The entry is the one that the library would have written, so that to
// write it in a later term, or in a second attempt, makes no difference. A term
// of which nothing else is left is treated alike.
func (n *Node) finishBootstrap(servers []claimServer) error {
	term, err := n.stable.term()
	if err != nil {
		return fmt.Errorf("cluster: finish the bootstrap: %w", err)
	}
	last, err := n.logs.LastIndex()
	if err != nil {
		return fmt.Errorf("cluster: finish the bootstrap: %w", err)
	}
	snap, err := newestSnapshot(n.p.Snapshots)
	if err != nil || term == 0 || last > 0 || snap != nil {
		return err
	}
	n.log.Warn("there is a term, and no first entry: the last start was cut off in the middle of its bootstrap; finishing it", "voters", len(servers))
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(founders(servers))}
	if err := n.logs.StoreLog(entry); err != nil {
		return fmt.Errorf("cluster: finish the bootstrap: %w", err)
	}
	return nil
}

// nudgedTransport lets this node put a request into its own Raft as if it had
// come from another node. All else is the transport's.
type nudgedTransport struct {
	*transport
	rpcs chan raft.RPC
	// takes answers a request that is not for Raft, and returns false then.
	takes func(raft.RPC) bool
}

func newNudgedTransport(tr *transport, takes func(raft.RPC) bool) *nudgedTransport {
	return &nudgedTransport{transport: tr, rpcs: make(chan raft.RPC), takes: takes}
}

// Consumer is where Raft takes its requests from.
func (t *nudgedTransport) Consumer() <-chan raft.RPC { return t.rpcs }

// run passes on what comes from the network. A request that is dropped at the
// end gets its error from the transport, which is closed then.
func (t *nudgedTransport) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case rpc := <-t.transport.Consumer():
			if !t.takes(rpc) {
				continue
			}
			select {
			case t.rpcs <- rpc:
			case <-ctx.Done():
				return
			}
		}
	}
}

// electSelf stands for election now instead of after the election timeout, by
// the library's own "time out now": the only node of a cluster, and the one
// that has just formed a cluster, have no leader to wait for. It must not be
// called in any other case: it skips the pre-vote. A node that leads by now is
// left alone: the request would depose it.
func (n *Node) electSelf(ctx context.Context) {
	if n.raft.Load().State() == raft.Leader {
		return
	}
	answer := make(chan raft.RPCResponse, 1)
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax,
		ID: []byte(n.o.NodeID), Addr: []byte(n.mux.addr())}}
	ctx, cancel := context.WithTimeout(ctx, n.o.ElectionTimeout)
	defer cancel()
	select {
	case n.transport.Load().rpcs <- raft.RPC{Command: request, RespChan: answer}:
	case <-ctx.Done(): // nothing is lost: the election timeout comes by itself
	}
}

// findCluster is the life of a new node until its Raft runs as part of a
// cluster: look at the join addresses; if one belongs to a cluster, join it;
// if all that are expected are there and new, the lowest id forms one.
func (n *Node) findCluster(ctx context.Context) {
	var said time.Time
	for {
		stage, err := n.findOnce(ctx)
		if n.raft.Load() != nil && n.identity.clusterID() != "" {
			return
		}
		n.stage.Store(stage)
		if err != nil {
			n.stage.Store(stage + ": " + err.Error())
		}
		if time.Since(said) >= searchLogEvery {
			said = time.Now()
			n.logSearch(stage, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(searchEvery/2 + rand.N(searchEvery)):
		}
	}
}

// logSearch says what a new node waits for. A refusal is for the operator, who
// must change something; all else may end by itself.
func (n *Node) logSearch(stage string, err error) {
	var refused *contract.MembershipError
	switch {
	case err == nil:
		n.log.Info("looking for the cluster", "state", stage)
	case errors.As(err, &refused):
		n.log.Error("the cluster does not take this node in", "state", stage, "error", err)
	default:
		n.log.Info("looking for the cluster", "state", stage, "error", err)
	}
}

// findOnce makes one step; it returns what this node is waiting for, and which
// join addresses did not answer if that may be why.
func (n *Node) findOnce(ctx context.Context) (stage string, err error) {
	found, silent, err := n.discover(ctx)
	if err != nil {
		return "looking for the cluster", err
	}
	member, clusters := []contract.Identity{}, map[string]struct{}{}
	fresh := []claimServer{{ID: n.o.NodeID, Addr: n.mux.addr()}}
	for _, id := range found {
		switch {
		case id.ClusterID != "":
			member = append(member, id)
			clusters[id.ClusterID] = struct{}{}
		case !id.Learner:
			fresh = append(fresh, claimServer{ID: id.NodeID, Addr: id.RaftAddr})
		}
	}
	pinned := n.identity.clusterID()
	promised, valid := n.promise.to()
	switch {
	case len(clusters) > 1:
		return "looking for the cluster", fmt.Errorf("cluster: the join addresses belong to %d different clusters", len(clusters))
	case len(clusters) == 1:
		cluster := member[0].ClusterID
		switch {
		case pinned != "" && pinned != cluster:
			return "joining", fmt.Errorf("cluster: this node belongs to cluster %s, the join addresses to %s: correct --join, or empty the data directory", pinned, cluster)
		case promised == cluster:
			// The claim that this node agreed to has become a cluster. To ask to
			// be taken in would cost this node the vote that it has already.
			return "forming the cluster", n.pin(cluster, true)
		}
		return "joining cluster " + cluster, n.join(ctx, cluster, member)
	case pinned != "":
		return "waiting for a member of cluster " + pinned, silent
	case n.o.BootstrapExpect == 0 || n.o.Learner:
		return "waiting for a member of a cluster at the join addresses", silent
	case promised != "" && valid:
		return "forming the cluster", nil
	case len(fresh) > n.o.BootstrapExpect:
		return "forming the cluster", fmt.Errorf("cluster: %d new nodes are at the join addresses, --bootstrap-expect is %d: the two must agree on all nodes", len(fresh), n.o.BootstrapExpect)
	case len(fresh) < n.o.BootstrapExpect:
		return fmt.Sprintf("waiting for %d nodes to form the cluster, %d are here", n.o.BootstrapExpect, len(fresh)), silent
	}
	slices.SortFunc(fresh, func(a, b claimServer) int { return strings.Compare(a.ID, b.ID) })
	if fresh[0].ID != n.o.NodeID {
		return "waiting for node " + fresh[0].ID + " to form the cluster", nil
	}
	return "forming the cluster", n.claim(ctx, fresh)
}

// discover asks all join addresses at once who they are. The result holds
// each other node once. Addresses that do not answer are left out, and silent
// says why, except when this node could form a cluster alone: then each must
// have answered.
func (n *Node) discover(ctx context.Context) (found []contract.Identity, silent, err error) {
	type answer struct {
		id  contract.Identity
		err error
	}
	answers := make(chan answer, len(n.o.Join))
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	for _, url := range n.o.Join {
		go func() {
			id, err := n.p.Discover(ctx, url)
			answers <- answer{id, err}
		}()
	}
	var out []contract.Identity
	var texts []string
	for range n.o.Join {
		a := <-answers
		switch {
		case a.err != nil:
			texts = append(texts, a.err.Error())
		case a.id.NodeID == n.o.NodeID && a.id.RaftAddr == n.mux.addr():
		case a.id.NodeID == n.o.NodeID:
			return nil, nil, &contract.MembershipError{Detail: fmt.Sprintf("another node at %s has this node's id %q: give each node an id of its own", a.id.RaftAddr, n.o.NodeID)}
		case !slices.ContainsFunc(out, func(o contract.Identity) bool { return o.NodeID == a.id.NodeID }):
			out = append(out, a.id)
		}
	}
	if len(texts) > 0 {
		slices.Sort(texts) // in one line, and the same at each look
		silent = errors.New(strings.Join(texts, "; "))
	}
	if n.o.BootstrapExpect == 1 && len(out) == 0 && silent != nil {
		return nil, nil, silent
	}
	return out, silent, nil
}

// claim asks every other founder for its word; if all give it, the claim is
// written down and the cluster exists.
func (n *Node) claim(ctx context.Context, servers []claimServer) error {
	cluster := n.promise.own(n.o.NodeID)
	if cluster == "" {
		cluster = uuid.NewString()
	}
	if err := n.promise.give(n.o.NodeID, cluster, n.o.ClaimTTL); err != nil {
		return err
	}
	if err := n.sendClaims(ctx, cluster, servers); err != nil {
		_ = n.promise.give(n.o.NodeID, cluster, 0) // it binds this node no longer than the attempt
		return err
	}
	if err := n.writeClaim(cluster, servers); err != nil {
		return err
	}
	n.log.Info("forming the cluster", "cluster", cluster, "voters", len(servers))
	return n.bootstrapRaft(ctx, servers)
}

// sendClaims returns nil if every other founder gave its word.
func (n *Node) sendClaims(ctx context.Context, cluster string, servers []claimServer) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	req := &claimRequest{ClusterID: cluster, Claimer: n.o.NodeID, Expect: n.o.BootstrapExpect, Servers: servers}
	answers := make(chan error, len(servers))
	for _, s := range servers {
		if s.ID == n.o.NodeID {
			answers <- nil
			continue
		}
		go func() {
			if err := n.peers.call(ctx, s.Addr, s.ID, routeClaim, req, &empty{}); err != nil {
				err = fmt.Errorf("cluster: node %s did not agree to form the cluster: %w", s.ID, err)
				answers <- err
				return
			}
			answers <- nil
		}()
	}
	var errs []error
	for range servers {
		errs = append(errs, <-answers)
	}
	return errors.Join(errs...)
}

// onClaim gives this node's word to the node that forms the cluster, if this
// node is new and sees the same founders.
func (n *Node) onClaim(_ context.Context, from string, req *claimRequest) (*empty, error) {
	rec := n.identity.record()
	if len(req.Servers) == 0 {
		return nil, &contract.MembershipError{Detail: "the claim names no founders"}
	}
	lowest := slices.MinFunc(req.Servers, func(a, b claimServer) int { return strings.Compare(a.ID, b.ID) })
	self := slices.Contains(req.Servers, claimServer{ID: n.o.NodeID, Addr: n.mux.addr()})
	refuse := func(format string, args ...any) (*empty, error) {
		return nil, &contract.MembershipError{Detail: fmt.Sprintf(format, args...)}
	}
	switch {
	case rec.ClusterID == req.ClusterID && rec.Founder:
		return &empty{}, nil
	case rec.ClusterID != "":
		return refuse("node %s belongs to cluster %s already", n.o.NodeID, rec.ClusterID)
	case from != req.Claimer || lowest.ID != req.Claimer:
		return refuse("node %s is not the one to form the cluster, %s is", req.Claimer, lowest.ID)
	case n.o.Learner || n.o.BootstrapExpect != req.Expect:
		return refuse("node %s was started with other flags: --bootstrap-expect %d, learner %t", n.o.NodeID, n.o.BootstrapExpect, n.o.Learner)
	case !self || len(req.Servers) != req.Expect:
		return refuse("node %s at %s is not among the %d founders that the claim names", n.o.NodeID, n.mux.addr(), len(req.Servers))
	}
	if err := n.promise.give(req.Claimer, req.ClusterID, n.o.ClaimTTL); err != nil {
		return nil, &contract.MembershipError{Detail: err.Error()}
	}
	// From here on the claimer's vote request is answered.
	if err := n.startRaft(); err != nil {
		return nil, err
	}
	return &empty{}, nil
}

// acceptCluster decides on a connection of a cluster while this node has
// none: it pins the cluster that this node agreed to found.
func (n *Node) acceptCluster(id string) error {
	if n.raft.Load() == nil {
		return nil // nothing but questions between nodes gets through
	}
	if promised, _ := n.promise.to(); promised != id {
		return fmt.Errorf("cluster: this node did not agree to join cluster %s", id)
	}
	return n.pin(id, true)
}

// acceptUnnamed decides on a connection of a node that has no cluster while
// this one has: it may ask to be taken in, and nothing else.
func acceptUnnamed(kind, fromNode string) error {
	if kind == kindRaftName {
		return fmt.Errorf("cluster: node %s belongs to no cluster", fromNode)
	}
	return nil
}

// kindRaftName is the kind of Raft's own connections, as mux names it.
const kindRaftName = "raft"

// finishFounding ends the founding once the cluster's first entry is applied
// here, and until then keeps reminding the other founders: their word may
// have run out before this node could be elected.
func (n *Node) finishFounding(ctx context.Context) {
	rec := n.identity.record()
	if !rec.Founder {
		return
	}
	if n.p.StateMachine.ClusterID() != "" {
		failpoint.Hit(failpoint.FoundingEnd)
		if err := n.identity.update(func(r *identityRecord) { r.Founder, r.Pending = false, nil }); err != nil {
			n.log.Error("could not write the identity file", "error", err)
		}
		return
	}
	if len(rec.Pending) > 1 {
		if err := n.sendClaims(ctx, rec.ClusterID, rec.Pending); err != nil && ctx.Err() == nil {
			n.log.Debug("reminding the founders", "error", err)
		}
	}
}
