package crashmatrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snipdb/snipdb/cmd/proctest"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// historyFile is in the folder of each row: a line of JSON for each request of
// the load, in the order in which they ended.
const historyFile = "history.jsonl"

// Call is one request of the load, with what the client knows of it.
type Call struct {
	Client string   `json:"client"`
	Try    int      `json:"try"` // of the operation, from 1
	Node   string   `json:"node"`
	Method string   `json:"method"`
	Path   string   `json:"path"`
	Header []string `json:"header,omitempty"` // names and values in turn
	Body   any      `json:"body,omitempty"`
	// Call and Return are nanoseconds since the history began.
	Call   int64 `json:"call"`
	Return int64 `json:"return"`
	// Outcome is ok, failed (it was not applied and never will be) or unknown.
	Outcome string `json:"outcome"`
	Status  int    `json:"status,omitempty"`
	Index   uint64 `json:"index,omitempty"`
	Answer  string `json:"answer,omitempty"` // its beginning
	Error   string `json:"error,omitempty"`
}

// history is what the load has done. Each call is written when it ends, so that
// a run which is ended from outside leaves it too.
type history struct {
	start time.Time

	mu   sync.Mutex // guards what follows
	file *os.File
	err  error // the first of a write
}

func newHistory(path string) (*history, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("the history: %w", err)
	}
	return &history{start: time.Now(), file: file}, nil
}

func (h *history) begin(c *Call) { c.Call = int64(time.Since(h.start)) }

// end notes how a call ended.
func (h *history) end(c *Call, answer *proctest.Answer, err error) {
	c.Return = int64(time.Since(h.start))
	c.Outcome = outcome(answer, err)
	if err != nil {
		c.Error = err.Error()
	} else {
		c.Status, c.Index, c.Answer = answer.Status, answer.Index(), string(answer.Body[:min(400, len(answer.Body))])
	}
	line, bad := json.Marshal(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		_, h.err = h.file.Write(append(line, '\n'))
		h.err = errors.Join(h.err, bad)
	}
}

// outcome is what the client may conclude.
func outcome(answer *proctest.Answer, err error) string {
	switch {
	case err == nil && answer.Status < 300:
		return "ok"
	case err == nil && answer.Problem().Outcome == "not_applied", errors.Is(err, syscall.ECONNREFUSED):
		return "failed"
	}
	return "unknown"
}

// close returns the first error of the history: it may be short then.
func (h *history) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.err, h.file.Close())
}

func TestHistoryHasEachCallWithItsOutcome(t *testing.T) {
	path := filepath.Join(t.TempDir(), historyFile)
	h, err := newHistory(path)
	if err != nil {
		t.Fatal(err)
	}
	refusal, _ := json.Marshal(wire.Problem{Outcome: "not_applied"})
	rows := []struct {
		answer *proctest.Answer
		err    error
		want   string
	}{
		{&proctest.Answer{Status: 201, Body: []byte(`{"id":"d1"}`)}, nil, "ok"},
		{&proctest.Answer{Status: 503, Body: refusal}, nil, "failed"},
		{&proctest.Answer{Status: 503, Body: []byte(strings.Repeat("x", 1000))}, nil, "unknown"},
		{nil, fmt.Errorf("dial: %w", syscall.ECONNREFUSED), "failed"},
		{nil, syscall.ECONNRESET, "unknown"},
	}
	for _, r := range rows {
		c := &Call{Client: "c0", Try: 1, Method: "PUT", Path: "/x", Body: map[string]any{"title": "t"}}
		h.begin(c)
		h.end(c, r.answer, r.err)
	}
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != len(rows) {
		t.Fatalf("%d lines for %d calls", len(lines), len(rows))
	}
	for i, r := range rows {
		var c Call
		if err := json.Unmarshal([]byte(lines[i]), &c); err != nil || c.Outcome != r.want || c.Method != "PUT" || len(c.Answer) > 400 || c.Return < c.Call {
			t.Errorf("call %d: %v, %s, want %s", i, err, lines[i], r.want)
		}
	}
}
