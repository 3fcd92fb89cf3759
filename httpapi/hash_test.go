package httpapi

import (
	"context"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
)

// TestTheRequestHashStaysTheSame: it is stored beside the key. If it changed, a
// write that was applied and is repeated at a node of the next release would be
// refused as another request under its key. So a line here must never change.
func TestTheRequestHashStaysTheSame(t *testing.T) {
	n := startNode(t, nil)
	var hash string
	n.onPropose = func(_ context.Context, c *command.Command) error {
		hash = hex.EncodeToString(c.GetIdempotency().GetRequestHash()[:8])
		return nil
	}
	const coll, doc = "/v1/collections/c", "/v1/collections/c/docs/d"
	for i, r := range []struct{ method, path, contentType, body, want string }{
		{"PUT", coll, wire.TypeJSON, `{"dimension":2}`, "28fd21b01ebb4c80"},
		{"POST", coll + "/docs", wire.TypeJSON, `{"id":"e"}`, "5f05d8185abfd2ff"},
		{"PUT", doc, wire.TypeJSON, `{"content":["a","b"]}`, "68b5060edaade323"},
		{"PATCH", doc, wire.TypeJSON, `{"title":"t"}`, "078d9bdd6823b36d"},
		{"PUT", doc + "/snippets/0", wire.TypeJSON, `{"content":"x"}`, "1188d98e494bb12c"},
		{"PUT", doc + "/snippets/0", wire.TypeVector, rawBody(1, 2), "7abda50e8a558239"},
		{"PUT", doc + "/snippets/0?model=m", wire.TypeVector, rawBody(1, 2), "61d2c56a118c1b9f"},
		{"PATCH", doc + "/snippets/0", wire.TypeJSON, `{"content":"y"}`, "9b4b8e4dd99fe338"},
		{"PUT", doc + "/embeddings", wire.TypeJSON, `{"embeddings":[{"index":0,"vector":[1,2]}]}`, "55f30dc7bfc20e4f"},
		{"PUT", doc + "/embeddings", wire.TypeVector, rawBody(1, 2, 3, 4), "6a17f5127e50f8ed"},
		{"PUT", doc + "/embeddings?model=m", wire.TypeVector, rawBody(1, 2, 3, 4), "91db571b2be3f1c4"},
		{"POST", coll + "/batch", wire.TypeJSON, `{"operations":[{"op":"delete_doc","id":"e"}]}`, "9be356576eebb384"},
		{"DELETE", doc + "/snippets/0", "", "", "e235a80b25232bd2"},
		{"DELETE", coll + "/docs?owner_type=t&owner_id=i", "", "", "d45f5b9ad2abf3a5"},
		{"DELETE", doc, "", "", "281db6ceee5ed02e"},
		{"DELETE", coll, "", "", "2662102089f3bd9f"},
	} {
		headers := []string{wire.HeaderIdempotencyKey, fmt.Sprint("k", i)}
		if r.contentType != "" {
			headers = append(headers, "Content-Type", r.contentType)
		}
		hash = "none"
		if a := n.do(t, r.method, r.path, r.body, headers...); a.status >= 300 {
			t.Errorf("%s %s: %d %s", r.method, r.path, a.status, a.body)
		}
		if hash != r.want {
			t.Errorf("%s %s as %q: the hash is %s, want %s", r.method, r.path, r.contentType, hash, r.want)
		}
	}
}
