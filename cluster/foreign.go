package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/snipdb/snipdb/cluster/contract"
)

// A node that has Raft state does not look for its cluster, so nothing would
// tell it that its join addresses have become another one: a directory of
// elsewhere, or a node that was started once without --join and made a cluster
// of its own. It would lead that, and acknowledge writes that nobody else has.
//
// So it goes on asking the join addresses who they are. Who gives way:
//
//   - The only voter of its cluster, if others answer and all of them name
//     another cluster. Its writes are acknowledged by nobody but itself. It
//     does not start, and if it finds out later, it refuses writes, and reads
//     that promise more than what this node has.
//   - A node of a larger cluster, if no leader of it is heard and every other
//     join address names another cluster. It ends. With a leader it goes on: a
//     majority stands behind it, and one stranger in the list proves nothing
//     against that.
//
// In all other cases the status says which address is a stranger's.
const (
	// joinLook is how often the join addresses are asked who they are.
	joinLook = 2 * time.Second
	// foreignPatience, in election timeouts, is how long a node of a larger
	// cluster looks for a leader of it before it believes its join addresses.
	foreignPatience = 3
)

// foreignView is what is known of the join addresses of other nodes.
type foreignView struct {
	cluster   string   // the other one, "" if there is none
	strangers []string // who belongs to it
	own       int      // how many are of this node's cluster
	unknown   int      // how many have not answered, or have no cluster
}

// only says that all who answered belong to another cluster.
func (v foreignView) only() bool { return v.cluster != "" && v.own == 0 }

func (v foreignView) text(own string) string {
	return fmt.Sprintf("this node belongs to cluster %s, the join addresses to %s (%s): correct --join; or, if nothing in it is needed, empty the data directory and start it again: then it joins; to read first what is in it, start it without --join",
		own, v.cluster, strings.Join(v.strangers, ", "))
}

// joinWatch remembers the last answer of each join address: who once named
// another cluster and is silent now has not changed over.
type joinWatch struct {
	n       *Node
	answers map[string]contract.Identity // by URL
}

// look asks all join addresses but this node's own, at the same time, and
// waits until each has answered or failed, for discoverTimeout at most; if
// hurry, for a shorter time if one is of this node's own cluster.
func (w *joinWatch) look(ctx context.Context, hurry bool) foreignView {
	type answer struct {
		url string
		id  contract.Identity
		err error
	}
	n, own := w.n, w.n.identity.clusterID()
	var urls []string
	for _, url := range n.o.Join {
		// Its own API may not answer yet, and has nothing new to say.
		if strings.TrimRight(url, "/") != strings.TrimRight(n.o.HTTPAdvertise, "/") {
			urls = append(urls, url)
		}
	}
	answers := make(chan answer, len(urls))
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	for _, url := range urls {
		go func() {
			id, err := n.p.Discover(ctx, url)
			answers <- answer{url, id, err}
		}()
	}
	for range urls {
		a := <-answers
		if a.err == nil {
			w.answers[a.url] = a.id
		}
		if hurry && a.err == nil && a.id.ClusterID == own && a.id.NodeID != n.o.NodeID {
			cancel() // enough; the answers that are missing come next time
		}
	}
	return w.view(urls, own)
}

func (w *joinWatch) view(urls []string, own string) foreignView {
	var v foreignView
	for _, url := range urls {
		id, ok := w.answers[url]
		switch {
		case ok && id.NodeID == w.n.o.NodeID && id.RaftAddr == w.n.mux.addr():
		case !ok || id.ClusterID == "":
			v.unknown++
		case id.ClusterID == own:
			v.own++
		default:
			v.cluster = id.ClusterID
			v.strangers = append(v.strangers, fmt.Sprintf("%s at %s", id.NodeID, url))
		}
	}
	slices.Sort(v.strangers)
	return v
}

// checkJoin is asked before the only voter of a cluster makes itself its
// leader. It waits for nobody who does not answer. One that does not know its
// own cluster can't tell who is a stranger.
func (n *Node) checkJoin(ctx context.Context, w *joinWatch) error {
	if len(n.o.Join) == 0 || n.ClusterID() == "" {
		return nil
	}
	if v := w.look(ctx, true); v.only() {
		return fmt.Errorf("cluster: %s", v.text(n.ClusterID()))
	}
	return nil
}

// watchJoin looks at the join addresses for as long as the node runs.
func (n *Node) watchJoin(ctx context.Context, w *joinWatch) {
	began, said := time.Now(), time.Time{}
	led := false // since the start this node has had a leader
	for {
		r := n.raft.Load()
		if r == nil || n.ClusterID() == "" { // it still looks for its cluster, and judges by itself
			if !pauseFor(ctx, joinLook) {
				return
			}
			continue
		}
		v := w.look(ctx, false)
		if ctx.Err() != nil {
			return
		}
		if _, id := r.LeaderWithID(); id != "" {
			led = true
		}
		n.judgeJoin(r, v)
		if v.cluster != "" && time.Since(said) >= searchLogEvery {
			said = time.Now()
			n.log.Error("join addresses belong to another cluster", "cluster", n.ClusterID(), "other", v.cluster, "nodes", v.strangers)
		}
		if v.only() && v.unknown == 0 && !led && time.Since(began) > foreignPatience*n.o.ElectionTimeout {
			n.o.Fatal(fmt.Errorf("cluster: %s", v.text(n.ClusterID())))
			return
		}
		if !pauseFor(ctx, joinLook) {
			return
		}
	}
}

// judgeJoin keeps what Ready, the status and the gates of reads and writes say.
func (n *Node) judgeJoin(r *raft.Raft, v foreignView) {
	var stops, notes string
	switch {
	case v.cluster == "":
	case v.only() && n.alone():
		stops = v.text(n.ClusterID())
	case v.only() && noLeader(r):
		notes = v.text(n.ClusterID())
	default:
		notes = fmt.Sprintf("the join addresses of %s belong to another cluster, %s: correct --join, or empty the data directories of those nodes", strings.Join(v.strangers, ", "), v.cluster)
	}
	n.foreign.Store(&foreignVerdict{stops: stops, notes: notes})
}

func noLeader(r *raft.Raft) bool {
	_, id := r.LeaderWithID()
	return id == ""
}

// foreignVerdict is what came of the last look. One text is set at most.
type foreignVerdict struct {
	stops string // why this node serves nothing that needs its cluster
	notes string // what an operator should mend
}

// estranged returns an error if this node must not speak for its cluster.
func (n *Node) estranged() error {
	if v := n.foreign.Load(); v != nil && v.stops != "" {
		return fmt.Errorf("%w: %s", contract.ErrForeign, v.stops)
	}
	return nil
}
