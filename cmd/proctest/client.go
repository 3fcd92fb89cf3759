package proctest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// requestWait bounds one request of a test.
const requestWait = 20 * time.Second

// http1 is the tests' own pool. It follows no redirect, so that a test sees
// the 307, and repeats nothing, so that a test counts what it sends.
var http1 = &http.Client{
	Timeout:       requestWait,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 128, IdleConnTimeout: 10 * time.Second},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Answer is what a node answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Index is the position in X-Snipdb-Index, 0 without one.
func (a *Answer) Index() uint64 {
	index, _ := strconv.ParseUint(a.Header.Get(wire.HeaderIndex), 10, 64)
	return index
}

// JSON decodes the body.
func (a *Answer) JSON(into any) error {
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("%w in %.300s", err, a.Body)
	}
	return nil
}

// Problem decodes the body of an error.
func (a *Answer) Problem() wire.Problem {
	var p wire.Problem
	_ = json.Unmarshal(a.Body, &p)
	return p
}

// Do sends one request; body may be nil, bytes, or something to encode as
// JSON. header holds names and values in turn. The error is one of the
// connection: any status is an answer.
func (n *Node) Do(ctx context.Context, method, path string, body any, header ...string) (*Answer, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, n.URL+path, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", wire.TypeJSON)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http1.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return &Answer{response.StatusCode, response.Header, content}, nil
}

// Must sends a request that has to be answered with the status, and decodes
// the answer into into, if that is not nil.
func (n *Node) Must(status int, method, path string, body, into any, header ...string) *Answer {
	n.tb.Helper()
	answer, err := n.Do(context.Background(), method, path, body, header...)
	if err != nil {
		n.tb.Fatalf("%s %s at %s: %v", method, path, n.ID, err)
	}
	if answer.Status != status {
		n.tb.Fatalf("%s %s at %s: status %d, want %d: %.500s", method, path, n.ID, answer.Status, status, answer.Body)
	}
	if into != nil {
		if err := answer.JSON(into); err != nil {
			n.tb.Fatalf("%s %s at %s: %v", method, path, n.ID, err)
		}
	}
	return answer
}

// ready returns nil if the node says that it can serve.
func (n *Node) ready() error {
	if !n.Running() {
		return errors.New(n.ID + " does not run")
	}
	answer, err := n.Do(context.Background(), http.MethodGet, "/readyz", nil)
	if err != nil {
		return err
	}
	if answer.Status != http.StatusOK {
		return fmt.Errorf("%s: status %d: %.300s", n.ID, answer.Status, answer.Body)
	}
	return nil
}

// roleWait bounds the question for a role; a node that is alive answers at once.
const roleWait = 300 * time.Millisecond

// Role is what the node says it is now, "" if it does not answer. It asks the
// node alone, so that a dead one elsewhere delays nothing.
func (n *Node) Role() string {
	ctx, cancel := context.WithTimeout(context.Background(), roleWait)
	defer cancel()
	answer, err := n.Do(ctx, http.MethodGet, "/readyz", nil)
	if err != nil {
		return ""
	}
	var ready wire.Ready
	_ = answer.JSON(&ready)
	return ready.Role
}

// WaitReady waits until the node can serve, and fails at once if it has ended.
func (n *Node) WaitReady() {
	n.tb.Helper()
	Eventually(n.tb, readyWait, n.ID+" is ready", func() error {
		err := n.ready()
		if err != nil && !n.Running() {
			n.tb.Fatalf("proctest: %s ended before it was ready: %v", n.ID, n.Wait())
		}
		return err
	})
}

// Status is the cluster as this node sees it.
func (n *Node) Status() (*wire.Status, error) {
	answer, err := n.Do(context.Background(), http.MethodGet, "/v1/cluster/status", nil)
	if err != nil {
		return nil, err
	}
	if answer.Status != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %.300s", n.ID, answer.Status, answer.Body)
	}
	status := new(wire.Status)
	return status, answer.JSON(status)
}

// Self is the node's own line of its status.
func (n *Node) Self() (wire.NodeStatus, error) {
	status, err := n.Status()
	if err != nil {
		return wire.NodeStatus{}, err
	}
	for _, node := range status.Nodes {
		if node.ID == n.ID {
			return node, nil
		}
	}
	return wire.NodeStatus{}, fmt.Errorf("%s is not in its own status", n.ID)
}

// WaitReady waits until every running node can serve.
func (c *Cluster) WaitReady() {
	c.tb.Helper()
	for _, n := range c.Nodes {
		if n.Running() {
			n.WaitReady()
		}
	}
}

// Leader waits for a running node that says it is the leader, and returns it.
func (c *Cluster) Leader() *Node {
	c.tb.Helper()
	var leader *Node
	Eventually(c.tb, readyWait, "there is a leader", func() error {
		leader = c.leaderNow()
		if leader == nil {
			return errors.New("no running node says that it leads")
		}
		return nil
	})
	return leader
}

// leaderNow asks each running node for its role. After an election two may say
// that they lead; of these the one of the higher term does.
func (c *Cluster) leaderNow() *Node {
	var leaders []*Node
	for _, n := range c.Nodes {
		if n.Running() && n.Role() == "leader" {
			leaders = append(leaders, n)
		}
	}
	if len(leaders) < 2 {
		return append(leaders, nil)[0]
	}
	var (
		leader *Node
		term   uint64
	)
	for _, n := range leaders {
		if self, err := n.Self(); err == nil && self.Term >= term {
			leader, term = n, self.Term
		}
	}
	return leader
}

// Followers are the running nodes that are not the leader.
func (c *Cluster) Followers() []*Node {
	c.tb.Helper()
	leader := c.Leader()
	var followers []*Node
	for _, n := range c.Nodes {
		if n != leader && n.Running() {
			followers = append(followers, n)
		}
	}
	return followers
}

// WaitApplied waits until the node has applied the index.
func (n *Node) WaitApplied(index uint64, wait time.Duration) {
	n.tb.Helper()
	Eventually(n.tb, wait, fmt.Sprintf("%s has applied %d", n.ID, index), func() error {
		self, err := n.Self()
		if err == nil && self.AppliedIndex < index {
			err = fmt.Errorf("applied %d", self.AppliedIndex)
		}
		return err
	})
}
