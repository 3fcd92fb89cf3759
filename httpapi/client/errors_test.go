package client

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/snipdb/snipdb/httpapi/wire"
)

func TestAnIDThatExistsIsAConflict(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.setHook(func(_ *fakeNode, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		status := http.StatusConflict // of a POST, which has no condition
		if r.Header.Get("If-None-Match") != "" {
			status = http.StatusPreconditionFailed
		}
		w.Header().Set("Content-Type", wire.TypeProblem)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(wire.Problem{Status: status, Code: wire.CodeAlreadyExists, Detail: "it exists", Outcome: OutcomeNotApplied})
		return true
	})
	cl := c.client(nil)
	in := content("x")
	in.ID = "d"
	_, _, posted := cl.CreateDocument(t.Context(), "c", in)
	_, _, put := cl.PutDocument(t.Context(), "c", "d", content("x"), IfAbsent())
	for _, err := range []error{posted, put} {
		if !IsAlreadyExists(err) || !IsConflict(err) || IsNotFound(err) || OutcomeUnknown(err) {
			t.Errorf("classified wrongly: %v", err)
		}
	}
	if n := len(c.requests()); n != 2 {
		t.Errorf("%d requests were sent for two calls", n)
	}
	if IsAlreadyExists(nil) {
		t.Error("no error is one")
	}
}
