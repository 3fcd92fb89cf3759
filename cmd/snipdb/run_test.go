package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/snipdb/snipdb/storage"
)

// running starts run, as serve does, on free ports, and returns its base URL
// and the function that stops it and returns what run returned.
func running(t *testing.T, dir string) (string, func() error) {
	t.Helper()
	config, _, err := loadConfig(t, "", nil, "--node-id", "n1", "--data-dir", dir,
		"--http-addr", "127.0.0.1:0", "--raft-addr", "127.0.0.1:0", "--profile", "small", "--log-level", "error")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan *server, 1), make(chan error, 1)
	go func() { ended <- run(ctx, config, testWriter{t}, func(s *server) { ready <- s }) }()
	stop := func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(30 * time.Second):
			t.Fatal("run has not ended")
			return nil
		}
	}
	select {
	case s := <-ready:
		if err := s.waitReady(ctx); err != nil {
			t.Fatal(err)
		}
		return s.config.HTTPAdvertise, stop
	case err := <-ended:
		t.Fatalf("run ended before it was ready: %v", err)
	}
	return "", nil
}

// testWriter gives log lines to the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// The same run, in this process: it starts on free ports, serves, stops, frees
// all that RocksDB holds, and starts again from its data.
func TestRunStartsServesAndStopsTwice(t *testing.T) {
	dir, before := t.TempDir(), storage.LiveObjects()
	for _, method := range []string{http.MethodPut, http.MethodGet} {
		base, stop := running(t, dir)
		var body io.Reader
		if method == http.MethodPut {
			body = strings.NewReader(`{"content":"kept"}`)
		}
		request, err := http.NewRequest(method, base+docs+"/kept", body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode/100 != 2 || method == http.MethodGet && !strings.Contains(string(text), "kept") {
			t.Errorf("%s: status %d, %v: %s", method, response.StatusCode, err, text)
		}
		http.DefaultClient.CloseIdleConnections()
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if left := storage.LiveObjects() - before; left != 0 {
			t.Errorf("%d C objects are left", left)
		}
	}
}

// A start that fails half-way gives back what it has taken.
func TestRunThatCanNotStartLeavesNothingBehind(t *testing.T) {
	dir, before := t.TempDir(), storage.LiveObjects()
	_, stop := running(t, dir)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	config, _, err := loadConfig(t, "", nil, "--node-id", "another", "--data-dir", dir, "--http-addr", "127.0.0.1:0", "--raft-addr", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	err = run(context.Background(), config, testWriter{t}, nil)
	if err == nil || !strings.Contains(err.Error(), "belongs to node") {
		t.Fatalf("run returned %v", err)
	}
	if left := storage.LiveObjects() - before; left != 0 {
		t.Errorf("%d C objects are left", left)
	}
	// The directory is free again.
	_, stop = running(t, dir)
	if err := stop(); err != nil {
		t.Error(err)
	}
}
