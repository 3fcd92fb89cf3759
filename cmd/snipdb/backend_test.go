package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestDiscoverTakesASlashAtTheEnd(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/cluster/identity" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"node_id":"n1","cluster_id":"c"}`)
	}))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for _, base := range []string{server.URL, server.URL + "/"} {
		id, err := discoverer()(t.Context(), base)
		if err != nil || id.NodeID != "n1" || id.ClusterID != "c" {
			t.Errorf("%s: %+v, %v", base, id, err)
		}
	}
}
