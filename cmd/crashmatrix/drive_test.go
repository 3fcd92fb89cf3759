package crashmatrix

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/failpoint"
)

// drive is how a node is brought to a point: what cluster, and what happens.
type drive struct {
	name  string
	nodes int
	args  []string
	// values are set on every node, from the start.
	values string
	// former is the node that is armed before the cluster is there, from 1.
	former int
	// wipe empties the directory of a node that is away.
	wipe bool
	// still lets no client write from the moment a node that was away starts
	// until it is ready again. If they go on, the leader's log is cut again
	// meanwhile, and another snapshot heals whatever the crash did.
	still bool
	// moved gives the leadership to another node before the dead one starts: a
	// leader that was sending a snapshot sends it again, and heals as well; a
	// new one believes the node that it has what its snapshot has.
	moved bool
	// trimmers is how many clients trim, if more than usual: with nothing else
	// in the log, an entry that is applied twice shows, whichever it is.
	trimmers int
	// kill brings a node to the point and returns it, dead. The load runs.
	kill func(c *crash) *proctest.Node
}

// The flags of the drives. A log that is not cut lets a new node replay all of
// it; one that is cut soon makes snapshots, and needs them.
var (
	wholeLog = []string{"--tick-interval", "400ms"}
	smallLog = []string{
		"--tick-interval", "400ms",
		"--snapshot-log-bytes", "64KiB", "--trailing-log-bytes", "16KiB", "--snapshot-check-interval", "100ms",
	}
)

var (
	formFirst         = drive{name: "first-node-forms-cluster", nodes: 3, args: wholeLog, former: 1}
	formAlone         = drive{name: "single-node-forms-cluster", nodes: 1, args: wholeLog, former: 1}
	formSecond        = drive{name: "second-node-forms-cluster", nodes: 3, args: wholeLog, former: 2}
	leaderUnderLoad   = drive{name: "leader", nodes: 3, args: wholeLog, kill: killLeader}
	followerUnderLoad = drive{name: "follower", nodes: 3, args: wholeLog, kill: killFollower}
	aloneUnderLoad    = drive{name: "single-node", nodes: 1, args: wholeLog, kill: killLeader}
	aloneTrims        = drive{name: "single-node-that-trims", nodes: 1, args: wholeLog, trimmers: clients, kill: killAgain}
	leaderSnapshots   = drive{name: "leader-with-snapshots", nodes: 3, args: smallLog, kill: killLeader}
	followerSnapshots = drive{name: "follower-with-snapshots", nodes: 3, args: smallLog, kill: killFollower}
	aloneSnapshots    = drive{name: "single-node-with-snapshots", nodes: 1, args: smallLog, kill: killLeader}
	expiring          = drive{name: "follower-with-full-idempotency", nodes: 3, args: wholeLog,
		values: string(failpoint.ExpireMaxRows) + "=set(600)", kill: killExpiring}
	// A log of many small files, which the truncations make useless one by one.
	leaderLogFiles   = drive{name: "leader-with-log-files", nodes: 3, args: smallLog, values: string(failpoint.LogMemtable) + "=set(65536)", kill: killLeader}
	followerLogFiles = drive{name: "follower-with-log-files", nodes: 3, args: smallLog, values: string(failpoint.LogMemtable) + "=set(65536)", kill: killFollower}
	election         = drive{name: "election", nodes: 3, args: wholeLog, kill: killInElection}
	install          = drive{name: "install", nodes: 3, args: smallLog, still: true, kill: killInInstall}
	installIntoWiped = drive{name: "install-into-empty", nodes: 3, args: smallLog, wipe: true, kill: killInInstall}
	installThenMoved = drive{name: "install-then-another-leads", nodes: 3, args: smallLog, still: true, moved: true, kill: killInInstall}
	installTwice     = drive{name: "recovery", nodes: 3, args: smallLog, still: true, moved: true, kill: killInRecovery}
	joining          = drive{name: "join", nodes: 3, args: wholeLog, kill: killJoiner}
	takingIn         = drive{name: "leader-takes-in", nodes: 3, args: wholeLog, kill: killTakingIn}
	stopping         = drive{name: "leader-stops", nodes: 3, args: wholeLog, kill: killStopping}
)

// fallWait is how long a node may take to come to its point.
const fallWait = 45 * time.Second

// fall waits until the node has killed itself at the point, and notes the line
// with which it said so.
func (c *crash) fall(n *proctest.Node, point failpoint.Name) *proctest.Node {
	c.t.Helper()
	proctest.Eventually(c.t, fallWait, fmt.Sprintf("%s dies at %s", n.ID, point), func() error {
		if n.Running() {
			return errors.New("it lives")
		}
		return nil
	})
	c.disarm(n)
	c.noteFall(n, point)
	return n
}

// killLeader arms the leader, under load.
func killLeader(c *crash) *proctest.Node {
	n := c.Leader()
	c.arm(n, c.result.point, c.result.hit)
	return c.fall(n, c.result.point)
}

// kills is how often killAgain kills.
const kills = 3

// killAgain kills the leader several times, each at a moment of its own: not
// every entry is one that shows when it is applied twice. About one in fifteen
// is a Tick or a creation with a key.
func killAgain(c *crash) *proctest.Node {
	random := rand.New(rand.NewPCG(c.result.seed, mixer+1))
	for range kills - 1 {
		n := killLeader(c)
		c.examine(n)
		n.Start()
		n.WaitReady()
		c.load.waitFor(c.t, 60)
		c.result.hit = 1 + random.IntN(max(c.result.within, 1))
	}
	return killLeader(c)
}

func killFollower(c *crash) *proctest.Node {
	n := c.Followers()[0]
	c.arm(n, c.result.point, c.result.hit)
	return c.fall(n, c.result.point)
}

// killExpiring waits until the rows are more than are kept.
func killExpiring(c *crash) *proctest.Node {
	c.load.waitFor(c.t, 900)
	return killFollower(c)
}

// killInElection kills the leader, so that the others must vote, and one of
// them dies of it. The old leader comes back for the quorum.
func killInElection(c *crash) *proctest.Node {
	leader := c.Leader()
	var armed []*proctest.Node
	for _, n := range c.Nodes {
		if n != leader {
			armed = append(armed, n)
			c.arm(n, c.result.point, c.result.hit)
		}
	}
	leader.Kill()
	var dead *proctest.Node
	proctest.Eventually(c.t, fallWait, "a voter dies", func() error {
		for _, n := range armed {
			if !n.Running() {
				dead = n
				return nil
			}
		}
		return errors.New("both live")
	})
	// The other one may come to its point too, or not.
	for _, n := range armed {
		c.disarm(n)
	}
	c.noteFall(dead, c.result.point)
	leader.Start()
	for _, n := range armed {
		if n != dead && !n.Running() {
			n.Start()
		}
	}
	return dead
}

// away takes a follower down and lets the others' logs be cut beyond what it has.
func (c *crash) away() *proctest.Node {
	n := c.Followers()[0]
	self, err := n.Self()
	if err != nil {
		c.t.Fatal(err)
	}
	n.Kill()
	proctest.Eventually(c.t, opWait, "the logs are cut", func() error {
		for _, other := range c.Nodes {
			if other == n {
				continue
			}
			now, err := other.Self()
			if err != nil {
				return err
			}
			if now.FirstLogIndex <= self.LastLogIndex+50 {
				return fmt.Errorf("the log of %s begins at %d, %s had up to %d", other.ID, now.FirstLogIndex, n.ID, self.LastLogIndex)
			}
		}
		return nil
	})
	if c.result.drive.wipe {
		n.Wipe()
	}
	if c.result.drive.still {
		c.resume = c.load.pause()
	}
	return n
}

func killInInstall(c *crash) *proctest.Node {
	n := c.away()
	c.arm(n, c.result.point, c.result.hit)
	n.Start()
	return c.fall(n, c.result.point)
}

// killInRecovery kills the node in an install, and again while it starts.
func killInRecovery(c *crash) *proctest.Node {
	n := c.away()
	c.arm(n, c.result.before, 1)
	n.Start()
	c.fall(n, c.result.before)
	c.examine(n)
	c.arm(n, c.result.point, 1)
	n.Start()
	return c.fall(n, c.result.point)
}

// move gives the leadership to the other node that lives.
func (c *crash) move(dead *proctest.Node) {
	c.t.Helper()
	old := c.Leader()
	for _, n := range c.Nodes {
		if n != dead && n != old {
			old.Must(http.StatusOK, http.MethodPost, "/v1/cluster/transfer-leader", wire.TransferInput{To: n.ID}, nil)
			proctest.Eventually(c.t, fallWait, n.ID+" leads", func() error {
				if role := n.Role(); role != "leader" {
					return errors.New(role)
				}
				return nil
			})
			return
		}
	}
}

// killJoiner adds a fourth node, which dies while it joins.
func killJoiner(c *crash) *proctest.Node {
	n := c.AddNode("n4")
	c.arm(n, c.result.point, c.result.hit)
	n.Start()
	return c.fall(n, c.result.point)
}

// killTakingIn adds a fourth node; the leader dies between the change of the
// configuration and that of the node's row.
func killTakingIn(c *crash) *proctest.Node {
	leader := c.Leader()
	c.arm(leader, c.result.point, c.result.hit)
	c.AddNode("n4").Start()
	return c.fall(leader, c.result.point)
}

func killStopping(c *crash) *proctest.Node {
	n := c.Leader()
	c.arm(n, c.result.point, 1)
	n.Signal(syscall.SIGTERM)
	return c.fall(n, c.result.point)
}

// form starts a cluster of which one node dies before it is there.
func (c *crash) form(t *testing.T, o proctest.Options) *proctest.Node {
	o.NoWait = true
	c.Cluster = proctest.Start(t, o)
	return c.fall(c.Nodes[c.result.drive.former-1], c.result.point)
}
