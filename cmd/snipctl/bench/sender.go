package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// sender sends writes that were made before the load began, over one
// connection for each worker. httpapi/client makes a request anew each time
// and knows about retries, sessions and leaders; on a machine that the load
// generator shares with the nodes, all that would be taken from what the
// nodes can do, most of all while they only refuse.
type sender struct {
	conns []*senderConn
	kinds []*writeKind
	keys  int64
	// run is part of every idempotency key.
	run     string
	timeout time.Duration
	// find returns the nodes to send to, the leader alone or all of them.
	find func(ctx context.Context) []string

	// numbers counts the writes of all phases, see next.
	numbers atomic.Int64

	mu sync.Mutex // guards what follows
	// hosts are what find returned last, if it found any; it was asked at looked.
	hosts  []string
	looked time.Time
}

// writeKind is one route with its bodies. The kinds take turns: write number n
// is number m = n / len(kinds) of its kind, and goes to document
// (m + shift) % keys.
type writeKind struct {
	path   string // in front of the document's number
	suffix string // behind it
	bodies [][]byte
	shift  int64
}

// sent is what became of a write.
type sent struct {
	status     int
	retryAfter bool
	reason     string // of a refusal: status, code and reason
	err        error  // of the connection
}

func (s *sent) ok() bool { return s.err == nil && s.status >= 200 && s.status < 300 }

// senderConn is one worker's connection. Only its worker uses it.
type senderConn struct {
	host string
	conn net.Conn
	in   *bufio.Reader
	head []byte
}

// The sizes of a sender: answers are small, so are their headers.
const (
	senderBuffer   = 4 << 10
	senderVariants = 64 // different bodies of each kind
	// findEvery bounds how often the workers look for the leader.
	findEvery = 200 * time.Millisecond
	// keyFormat names a document.
	keyFormat = "key-%08d"
)

func newSender(workers int, keys int64, timeout time.Duration, kinds []*writeKind, find func(context.Context) []string) *sender {
	s := &sender{kinds: kinds, keys: keys, run: runName(), timeout: timeout, find: find}
	for range workers {
		s.conns = append(s.conns, &senderConn{})
	}
	return s
}

// close ends all connections. No worker may be sending.
func (s *sender) close() {
	for _, c := range s.conns {
		c.close()
	}
}

// next is the number of a write that no other phase has sent: it is in the
// idempotency key, and a second write under one key is only answered, not done.
func (s *sender) next() int64 { return s.numbers.Add(1) - 1 }

// where returns the worker's node. force looks again who the leader is. All
// workers wait while one looks, so nobody looks again at once if nothing was
// found, and the nodes that were known are kept.
func (s *sender) where(ctx context.Context, worker int, force bool) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (force || len(s.hosts) == 0) && time.Since(s.looked) > findEvery {
		if found := s.find(ctx); len(found) > 0 {
			s.hosts = found
		}
		s.looked = time.Now()
	}
	if len(s.hosts) == 0 {
		return "", fmt.Errorf("bench: no node with an address is known")
	}
	return s.hosts[worker%len(s.hosts)], nil
}

// put sends write number n and reads the answer.
func (s *sender) put(ctx context.Context, worker int, n int64) (out sent) {
	c := s.conns[worker]
	defer func() {
		if out.err != nil {
			c.close()
		}
	}()
	deadline := time.Now().Add(s.timeout)
	if c.conn == nil {
		if out.err = c.dial(ctx, s, worker, deadline); out.err != nil {
			return out
		}
	}
	if out.err = c.conn.SetDeadline(deadline); out.err != nil {
		return out
	}
	kind, m := s.kinds[n%int64(len(s.kinds))], n/int64(len(s.kinds))
	body := kind.bodies[m%int64(len(kind.bodies))]
	h := append(c.head[:0], "PUT "...)
	h = append(h, kind.path...)
	h = fmt.Appendf(h, keyFormat, (m+kind.shift)%s.keys)
	h = append(h, kind.suffix...)
	h = append(h, " HTTP/1.1\r\nHost: "...)
	h = append(h, c.host...)
	h = append(h, "\r\nContent-Type: application/json\r\nIdempotency-Key: "...)
	h = append(h, s.run...)
	h = append(h, '-')
	h = strconv.AppendInt(h, n, 36)
	h = append(h, "\r\nX-Snipdb-Timeout: "...)
	h = strconv.AppendInt(h, (s.timeout - s.timeout/20).Milliseconds(), 10)
	h = append(h, "ms\r\nContent-Length: "...)
	h = strconv.AppendInt(h, int64(len(body)), 10)
	h = append(h, "\r\n\r\n"...)
	c.head = h
	if len(body) <= senderBuffer {
		c.head = append(c.head, body...)
		_, out.err = c.conn.Write(c.head)
	} else {
		parts := net.Buffers{c.head, body}
		_, out.err = parts.WriteTo(c.conn)
	}
	if out.err != nil {
		return out
	}
	out = c.answer()
	if out.err == nil && out.status == 503 && !strings.Contains(out.reason, string(wire.CodeOverloaded)) {
		c.close() // not_leader, no_leader, not_ready: another node may know better
	}
	return out
}

func (c *senderConn) dial(ctx context.Context, s *sender, worker int, deadline time.Time) (err error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	again := c.host != "" // it had a connection, and lost it
	if c.host, err = s.where(ctx, worker, again); err != nil {
		return err
	}
	var d net.Dialer
	if c.conn, err = d.DialContext(ctx, "tcp", c.host); err != nil {
		return err
	}
	if c.in == nil {
		c.in = bufio.NewReaderSize(c.conn, senderBuffer)
	} else {
		c.in.Reset(c.conn)
	}
	return nil
}

func (c *senderConn) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// answer reads an HTTP/1.1 answer with a Content-Length, which is what the
// routes of writes send.
func (c *senderConn) answer() (out sent) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return sent{err: err}
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return sent{err: fmt.Errorf("bench: the answer begins with %.40q", line)}
	}
	if out.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return sent{err: fmt.Errorf("bench: the answer begins with %.40q", line)}
	}
	length, closes := -1, false
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return sent{err: err}
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return sent{err: err}
			}
		case bytes.EqualFold(name, []byte("Retry-After")):
			out.retryAfter = len(value) > 0 && string(value) != "0"
		case bytes.EqualFold(name, []byte("Connection")):
			closes = bytes.EqualFold(value, []byte("close"))
		}
	}
	if length < 0 || length > 1<<20 {
		return sent{err: fmt.Errorf("bench: an answer with status %d has Content-Length %d", out.status, length)}
	}
	if out.status < 300 {
		_, err = c.in.Discard(length)
	} else {
		out.reason, err = c.refusal(out.status, length)
	}
	if err != nil {
		return sent{err: err}
	}
	if closes {
		c.close()
	}
	return out
}

// refusal reads the problem and names it as reason does.
func (c *senderConn) refusal(status, length int) (string, error) {
	// Within the buffer, so that nothing is copied and nothing is decoded:
	// there are thousands of these in a second.
	body, err := c.in.Peek(min(length, senderBuffer))
	if err != nil {
		return "", err
	}
	name := refusalName(status, textField(body, `"code":"`), textField(body, `"reason":"`))
	_, err = c.in.Discard(length)
	return name, err
}

// textField returns the text behind the name of a field, without escapes.
func textField(body []byte, name string) string {
	_, rest, found := bytes.Cut(body, []byte(name))
	if !found {
		return ""
	}
	text, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(text)
}

func refusalName(status int, code, reason string) string {
	if reason != "" && reason != code {
		return strconv.Itoa(status) + " " + code + " " + reason
	}
	return strconv.Itoa(status) + " " + code
}

// hostsOf finds where writes go: to the leader, or to all nodes in turn.
func hostsOf(cl *client.Client, spread bool) func(context.Context) []string {
	return func(ctx context.Context) []string {
		list, _, err := cl.Members(ctx)
		if err != nil {
			return nil
		}
		var out []string
		for _, m := range list.Items {
			if u, err := url.Parse(m.HTTPAddr); err == nil && u.Host != "" && (spread || m.Leader) {
				out = append(out, u.Host)
			}
		}
		return out
	}
}

// smallWrites are documents of one snippet.
func smallWrites(collection string, seed uint64, bytes int) ([]*writeKind, error) {
	kind := &writeKind{path: "/v1/collections/" + url.PathEscape(collection) + "/docs/"}
	for i := range senderVariants {
		body, err := json.Marshal(wire.DocumentInput{Content: wire.Content{Text(seed, int64(i), 0, bytes)}})
		if err != nil {
			return nil, err
		}
		kind.bodies = append(kind.bodies, body)
	}
	return []*writeKind{kind}, nil
}

// documentWrites are the two calls of the embedding workflow in turn: a
// document with its snippets, and all embeddings of another one, which is half
// of the keys away so that the two are never on their way together.
func documentWrites(collection string, seed uint64, snippets, bytes, dimension int, keys int64) ([]*writeKind, error) {
	path := "/v1/collections/" + url.PathEscape(collection) + "/docs/"
	document, embed := &writeKind{path: path}, &writeKind{path: path, suffix: "/embeddings", shift: keys / 2}
	for i := range int64(senderVariants) {
		doc, vectors := wire.DocumentInput{}, wire.EmbeddingsInput{Model: model}
		for at := range snippets {
			doc.Snippets = append(doc.Snippets, wire.SnippetInput{Content: Text(seed, i, at, bytes)})
			vectors.Embeddings = append(vectors.Embeddings, wire.EmbeddingInput{
				Index: at, VectorBase64: wire.EncodeBase64(Vector(seed, i, at, dimension)),
			})
		}
		body, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		document.bodies = append(document.bodies, body)
		if body, err = json.Marshal(vectors); err != nil {
			return nil, err
		}
		embed.bodies = append(embed.bodies, body)
	}
	return []*writeKind{document, embed}, nil
}
