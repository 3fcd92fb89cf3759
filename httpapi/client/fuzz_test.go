package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/snipdb/snipdb/httpapi/wire"
)

// FuzzAnswers answers a write with anything: the client must end, and must not
// say "not applied" of a write that a node may have applied.
func FuzzAnswers(f *testing.F) {
	f.Add(503, "application/problem+json", "1", []byte(`{"code":"overloaded","status":503,"outcome":"not_applied"}`))
	f.Add(504, "application/problem+json", "", []byte(`{"code":"timeout","outcome":"unknown"}`))
	f.Add(502, "text/html", "Wed, 21 Oct 2015 07:28:00 GMT", []byte(`<html>`))
	f.Add(200, "application/json", "", []byte(`{"id":1}`))
	f.Add(200, "application/json", "", []byte{}) // done, and nothing to say; net/http finds an answer that is cut off
	f.Add(307, "application/problem+json", "99999999999", []byte(`{"code":"not_leader","leader":"http://127.0.0.1:1"}`))
	f.Add(412, "application/problem+json; charset=utf-8", "-1", []byte(`{"code":"precondition_failed","outcome":"maybe"}`))
	var answer struct {
		status      int
		media, wait string
		body        []byte
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", answer.media)
		w.Header().Set("Retry-After", answer.wait)
		w.WriteHeader(answer.status)
		_, _ = w.Write(answer.body)
	}))
	f.Cleanup(server.Close)
	c, err := New([]string{server.URL}, Options{MaxAttempts: 1, Timeout: 200 * time.Millisecond})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	f.Fuzz(func(t *testing.T, status int, media, wait string, body []byte) {
		if status < 200 || status > 599 {
			return // net/http writes no other
		}
		answer.status, answer.media, answer.wait, answer.body = status, media, wait, body
		_, meta, err := c.PutDocument(t.Context(), "c", "d", wire.DocumentInput{})
		if err == nil {
			var document wire.Document
			if status >= 300 || len(body) > 0 && json.Unmarshal(body, &document) != nil {
				t.Errorf("%d %q is a success: %+v", status, body, meta)
			}
			return
		}
		_ = err.Error()
		_, _, _ = IsNotFound(err), IsConflict(err), IsOverloaded(err)
		var p wire.Problem
		var e *Error
		if !errors.As(err, &e) || e.Status == 0 {
			return // no answer in time
		}
		known := json.Unmarshal(body, &p) == nil && p.Code != ""
		if status >= 500 && !known && !OutcomeUnknown(err) {
			t.Errorf("%d %q: the outcome is known: %v", status, body, err)
		}
	})
}

// FuzzResultLines reads any stream as the answer to an import: lines, and an
// error at the end of what is none.
func FuzzResultLines(f *testing.F) {
	f.Add([]byte("{\"line\":1,\"id\":\"a\",\"status\":201}\n{\"done\":true}\n"))
	f.Add([]byte("{\"line\":1"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := bufio.NewReader(bytes.NewReader(stream))
		for lines := 0; ; lines++ {
			if _, err := readResult(in); err != nil {
				return
			}
			if lines > bytes.Count(stream, []byte("\n")) {
				t.Fatalf("%q has no end", stream)
			}
		}
	})
}
