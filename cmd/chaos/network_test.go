package chaos

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

// hello is the first frame of a node on the peer port.
func hello(from string) []byte {
	body := append([]byte{2, 'c', '1', byte(len(from))}, from...)
	body = append(body, 0)
	return append([]byte{'s', 'n', 'p', 'd', 1, 1, 0, byte(len(body))}, body...)
}

// dial connects to a proxy as a node.
func dial(t *testing.T, addr, from string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write(hello(from)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// say sends a text and returns how long the echo took, or the error.
func say(c net.Conn, text string, wait time.Duration) (time.Duration, error) {
	start := time.Now()
	_ = c.SetDeadline(start.Add(wait))
	if _, err := io.WriteString(c, text); err != nil {
		return 0, err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return 0, err
	}
	if string(got) != text {
		return 0, errors.New("the echo is " + string(got))
	}
	return time.Since(start), nil
}

// pair connects n1 and n3 to n2.
func pair(t *testing.T) (n *Network, addr string, c1, c3 *net.TCPConn) {
	t.Helper()
	n = NewNetwork()
	t.Cleanup(n.Close)
	addr, err := n.PeerProxy("n2", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	connect := func(from string) *net.TCPConn {
		c := dial(t, addr, from)
		// The echo sends the handshake back: it went through unchanged.
		got := make([]byte, len(hello(from)))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, hello(from)) {
			t.Fatalf("the handshake of %s came back as %q: %v", from, got, err)
		}
		return c
	}
	return n, addr, connect("n1"), connect("n3")
}

const (
	soon  = 5 * time.Second
	never = 150 * time.Millisecond
)

func TestABlackholeHoldsOneSenderAndDeliversLater(t *testing.T) {
	for _, direction := range [][2]string{{"n1", "n2"}, {"n2", "n1"}} {
		n, _, c1, c3 := pair(t)
		n.Set(direction[0], direction[1], Mode{Kind: Blackhole})
		if _, err := say(c1, "held", never); err == nil {
			t.Errorf("%v: a blackhole lets bytes pass", direction)
		}
		if _, err := say(c3, "free", soon); err != nil {
			t.Errorf("%v: another sender is held as well: %v", direction, err)
		}
		n.Heal()
		_ = c1.SetDeadline(time.Now().Add(soon))
		got := make([]byte, 4)
		if _, err := io.ReadFull(c1, got); err != nil || string(got) != "held" {
			t.Errorf("%v: after the heal came %q, %v", direction, got, err)
		}
	}
}

func TestABlackholeHoldsNewConnections(t *testing.T) {
	n, addr, _, _ := pair(t)
	n.SetBoth("n1", "n2", Mode{Kind: Blackhole})
	c := dial(t, addr, "n1")
	_ = c.SetReadDeadline(time.Now().Add(never))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.EAGAIN) && !strings.Contains(err.Error(), "timeout") {
		t.Errorf("a new connection in a blackhole: %v", err)
	}
	n.Heal()
	_ = c.SetReadDeadline(time.Now().Add(soon))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("after the heal: %v", err)
	}
}

func TestResetEndsConnectionsAndNewOnes(t *testing.T) {
	n, addr, c1, c3 := pair(t)
	n.Set("n1", "n2", Mode{Kind: Reset})
	for _, c := range []net.Conn{c1, dial(t, addr, "n1")} {
		_ = c.SetReadDeadline(time.Now().Add(soon))
		if _, err := c.Read(make([]byte, 64)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that is to be reset: %v", err)
		}
	}
	if _, err := say(c3, "free", soon); err != nil {
		t.Error(err)
	}
}

func TestDelayAndBandwidthTakeTime(t *testing.T) {
	n, _, c1, c3 := pair(t)
	n.Set("n1", "n2", Mode{Kind: Delay, Delay: 100 * time.Millisecond, Jitter: 20 * time.Millisecond})
	if took, err := say(c1, "slow", soon); err != nil || took < 80*time.Millisecond {
		t.Errorf("a delayed link took %v, %v", took, err)
	}
	n.Set("n1", "n2", Mode{Kind: Bandwidth, BytesPerSecond: 10000})
	if took, err := say(c1, strings.Repeat("x", 1000), soon); err != nil || took < 90*time.Millisecond {
		t.Errorf("1000 bytes at 10000 in a second took %v, %v", took, err)
	}
	if took, err := say(c3, "free", soon); err != nil || took > 80*time.Millisecond {
		t.Errorf("another sender took %v, %v", took, err)
	}
}

func TestTheSenderOfARequestIsReadFromItsHeader(t *testing.T) {
	const request = "POST /v1 HTTP/1.1\r\nHost: x\r\nx-snipdb-hop: n3\r\nContent-Length: 2\r\n\r\n{}"
	from, head, err := identifyHTTP(bufio.NewReader(strings.NewReader(request)))
	if err != nil || from != "n3" || string(head)+"{}" != request {
		t.Errorf("%q %q %v", from, head, err)
	}
	from, _, err = identifyHTTP(bufio.NewReader(strings.NewReader("GET / HTTP/1.1\r\n\r\n")))
	if err != nil || from != "" {
		t.Errorf("a client is taken for %q, %v", from, err)
	}
	if _, _, err := identifyPeer(bufio.NewReader(bytes.NewReader([]byte{'s', 'n', 'p', 'd', 1, 1, 0, 2, 9, 'x'}))); err == nil {
		t.Error("a handshake that is cut off passes")
	}
}

func TestTheSeedDecidesTheSchedule(t *testing.T) {
	all := func(need) bool { return true }
	a, b, other := newSchedule(7, nil, all), newSchedule(7, nil, all), newSchedule(8, nil, all)
	seen, differs := map[string]bool{}, false
	for range len(faultKinds()) {
		_, p := a.next()
		_, q := b.next()
		_, o := other.next()
		if p != q {
			t.Fatalf("one seed, and %+v beside %+v", p, q)
		}
		seen[p.Kind], differs = true, differs || p != o
	}
	if len(seen) != len(faultKinds()) || !differs {
		t.Errorf("a round has %d of %d kinds; another seed differs: %v", len(seen), len(faultKinds()), differs)
	}
}
