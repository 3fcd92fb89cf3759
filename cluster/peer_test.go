package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type echoRequest struct {
	Text string `json:"text"`
	// Extra is what a newer release might add.
	Extra string `json:"extra,omitempty"`
}

type echoResponse struct {
	Text string `json:"text"`
	From string `json:"from"`
}

// peerPair is a server with routes and a client on another node.
func peerPair(t *testing.T, routes func(*http.ServeMux)) (call func(ctx context.Context, node, route string, req, resp any) error) {
	t.Helper()
	b, a := startMux(t, "n2", "c1"), startMux(t, "n1", "c1")
	h := http.NewServeMux()
	routes(h)
	s := newPeerServer(b, h, nil)
	s.start()
	c := newPeerClient(a)
	t.Cleanup(func() {
		c.close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return func(ctx context.Context, node, route string, req, resp any) error {
		return c.call(ctx, b.addr(), node, route, req, resp)
	}
}

func echoRoute(h *http.ServeMux) {
	handlePeer(h, "echo", func(_ context.Context, from string, req *echoRequest) (*echoResponse, error) {
		return &echoResponse{Text: req.Text, From: from}, nil
	})
}

func TestPeerCall(t *testing.T) {
	call := peerPair(t, echoRoute)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			text, resp := fmt.Sprint("call ", i), echoResponse{}
			node := []string{"n2", ""}[i%2]
			if err := call(t.Context(), node, "echo", echoRequest{Text: text}, &resp); err != nil {
				t.Error(err)
			}
			if resp.Text != text || resp.From != "n1" {
				t.Errorf("call %d: answer %+v", i, resp)
			}
		}()
	}
	wg.Wait()
}

func TestPeerCallWantsTheRightNode(t *testing.T) {
	call := peerPair(t, echoRoute)
	// A connection that was made for any node must not serve this call.
	if err := call(t.Context(), "", "echo", echoRequest{}, &echoResponse{}); err != nil {
		t.Fatal(err)
	}
	if err := call(t.Context(), "n3", "echo", echoRequest{}, &echoResponse{}); !errors.Is(err, errWrongNode) {
		t.Errorf("error is %v; want %v", err, errWrongNode)
	}
}

func TestPeerErrorsKeepTheirCode(t *testing.T) {
	call := peerPair(t, func(h *http.ServeMux) {
		handlePeer(h, "coded", func(context.Context, string, *echoRequest) (*echoResponse, error) {
			return nil, fmt.Errorf("wrapped: %w", newPeerError("not_leader", "ask %s", "n3"))
		})
		handlePeer(h, "plain", func(context.Context, string, *echoRequest) (*echoResponse, error) {
			return nil, errors.New("disk on fire")
		})
		handlePeer(h, "panic", func(context.Context, string, *echoRequest) (*echoResponse, error) {
			panic("a bug")
		})
		handlePeer(h, "large", func(context.Context, string, *echoRequest) (*echoResponse, error) {
			return &echoResponse{Text: strings.Repeat("x", maxPeerBody)}, nil
		})
	})
	for _, c := range []struct {
		route, code, text string
		request           any
	}{
		{"coded", "not_leader", "ask n3", echoRequest{}},
		{"plain", peerInternal, "disk on fire", echoRequest{}},
		{"panic", peerInternal, "the handler failed", echoRequest{}},
		{"large", peerInternal, "answer of", echoRequest{}},
		{"absent", peerNoRoute, "older release", echoRequest{}},
		{"coded", peerBadRequest, "cannot unmarshal", []int{1}},
	} {
		err := call(t.Context(), "n2", c.route, c.request, &echoResponse{})
		var remote *peerError
		if !errors.As(err, &remote) || remote.Code != c.code || !strings.Contains(remote.Message, c.text) {
			t.Errorf("%s: error is %v; want code %s and %q", c.route, err, c.code, c.text)
		}
	}
}

func TestPeerCallIgnoresUnknownFields(t *testing.T) {
	call := peerPair(t, func(h *http.ServeMux) {
		handlePeer(h, "echo", func(_ context.Context, _ string, req *struct{ Text string }) (*echoRequest, error) {
			return &echoRequest{Text: req.Text, Extra: "news"}, nil
		})
	})
	var resp echoResponse
	if err := call(t.Context(), "n2", "echo", echoRequest{Text: "a", Extra: "news"}, &resp); err != nil || resp.Text != "a" {
		t.Errorf("answer %+v, %v", resp, err)
	}
}

func TestPeerCallRefusesALargeRequest(t *testing.T) {
	call := peerPair(t, echoRoute)
	err := call(t.Context(), "n2", "echo", echoRequest{Text: strings.Repeat("x", maxPeerBody)}, &echoResponse{})
	if err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("error is %v", err)
	}
}

func TestPeerDeadlineTravels(t *testing.T) {
	left := make(chan time.Duration, 2)
	call := peerPair(t, func(h *http.ServeMux) {
		handlePeer(h, "wait", func(ctx context.Context, _ string, _ *echoRequest) (*echoResponse, error) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			<-ctx.Done()
			return nil, ctx.Err()
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := call(ctx, "n2", "wait", echoRequest{}, &echoResponse{})
	// Both ends time out at the same moment: either may be first.
	var remote *peerError
	if !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &remote) && remote.Code == peerTimeout) {
		t.Errorf("error is %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the call took %v", d)
	}
	if d := <-left; d > 200*time.Millisecond {
		t.Errorf("the handler had %v left of 200ms", d)
	}
}

func TestCancelledPeerCallEndsTheHandler(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	call := peerPair(t, func(h *http.ServeMux) {
		handlePeer(h, "wait", func(ctx context.Context, _ string, _ *echoRequest) (*echoResponse, error) {
			close(started)
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	if err := call(ctx, "n2", "wait", echoRequest{}, &echoResponse{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the handler goes on after the call was cancelled")
	}
}

func TestPeerServerCutsOffAHandlerThatDoesNotEnd(t *testing.T) {
	b, a := startMux(t, "n2", "c1"), startMux(t, "n1", "c1")
	h := http.NewServeMux()
	started := make(chan struct{})
	var cut atomic.Bool
	handlePeer(h, "wait", func(ctx context.Context, _ string, _ *echoRequest) (*echoResponse, error) {
		close(started)
		<-ctx.Done()
		cut.Store(true)
		return nil, ctx.Err()
	})
	s := newPeerServer(b, h, nil)
	s.start()
	c := newPeerClient(a)
	defer c.close()
	result := make(chan error, 1)
	go func() {
		result <- c.call(t.Context(), b.addr(), "", "wait", echoRequest{}, &echoResponse{})
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-result; err == nil {
		t.Error("the call succeeded")
	}
	within(t, "the handler's context ends", cut.Load)
}

// TestStalledPeerAnswerEndsWithTheContext: headers arrive, the body does not.
func TestStalledPeerAnswerEndsWithTheContext(t *testing.T) {
	release := make(chan struct{})
	call := peerPair(t, func(h *http.ServeMux) {
		h.HandleFunc("POST "+peerPrefix+"stall", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := call(ctx, "n2", "stall", echoRequest{}, &echoResponse{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}
