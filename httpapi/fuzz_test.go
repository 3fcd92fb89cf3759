package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// FuzzBodies sends any body to any route that takes one. The server must
// answer with a documented code, never 500, and what it accepts it must be
// able to show again.
func FuzzBodies(f *testing.F) {
	targets := bodyRoutes()
	for i, r := range targets {
		f.Add(uint8(i), []byte(operationDocs[key(r)].example))
		f.Add(uint8(0), []byte(operationDocs[key(r)].example))
	}
	f.Add(uint8(3), []byte(`{"snippets":[{"content":"x","vector":[1e39]}]}`))
	f.Add(uint8(3), []byte("{\"metadata\":{\"\xff\":1}}"))
	f.Add(uint8(3), []byte(`{"vector":{"vector":[`))
	m := newMemory()
	m.leader.HTTPAddr = "http://127.0.0.1:1"
	self, members := m.leader, m.Members()
	lead := func(l contract.LeaderInfo) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.leader = l
	}
	m.transfer = func(to string) error {
		lead(contract.LeaderInfo{ID: cmp.Or(to, "n2"), Term: self.Term + 1})
		return nil
	}
	s, err := New(m, m, Options{})
	if err != nil {
		f.Fatal(err)
	}
	names := strings.NewReplacer(":collection", "c", ":id", "d", ":index", "0")
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		// What another body has done to the cluster is undone.
		lead(self)
		m.members = slices.Clone(members)
		r := targets[int(which)%len(targets)]
		req := httptest.NewRequest(r.Method, names.Replace(r.Path), bytes.NewReader(body))
		req.Header.Set("Content-Type", r.Types[0])
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", r.Method, r.Path, w.Code, w.Body)
		}
		if w.Code >= 400 {
			var p wire.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code.Info().Code != p.Code || p.Outcome != "not_applied" {
				t.Fatalf("%s %s: %d %s: %v", r.Method, r.Path, w.Code, w.Body, err)
			}
		}
		for _, member := range m.Members() {
			if member.ID == "" || member.RaftAddr == "" {
				t.Fatalf("after %s %s %q there is the member %+v", r.Method, r.Path, body, member)
			}
		}
		get := httptest.NewRecorder()
		s.Handler().ServeHTTP(get, httptest.NewRequest("GET", "/v1/collections/c/docs/d?with_embeddings=true", nil))
		if get.Code != 200 && get.Code != 404 || get.Code == 200 && !json.Valid(get.Body.Bytes()) {
			t.Fatalf("after %s %s %q the document reads as %d %s", r.Method, r.Path, body, get.Code, get.Body)
		}
	})
}

// bodyRoutes are the routes whose body is read whole and decoded; the import's
// is a stream, and has FuzzImportLines.
func bodyRoutes() []*route {
	var found []*route
	for i := range routes {
		if r := &routes[i]; r.MaxBody > 0 && r.Stream == nil {
			found = append(found, r)
		}
	}
	return found
}

// Each route that takes a body is fuzzed, those of the membership too.
func TestEveryBodyIsFuzzed(t *testing.T) {
	targets := bodyRoutes()
	for i := range routes {
		if r := &routes[i]; len(r.Types) > 0 && r.Stream == nil && !slices.Contains(targets, r) {
			t.Errorf("no fuzz test sends bodies to %s %s", r.Method, r.Path)
		}
	}
	for _, want := range []string{"POST /v1/cluster/members", "POST /v1/cluster/transfer-leader", "PUT /v1/cluster/limits"} {
		if !slices.ContainsFunc(targets, func(r *route) bool { return r.Method+" "+r.Path == want }) {
			t.Errorf("%s is not among those that are fuzzed", want)
		}
	}
}

// FuzzTokenID sends any Authorization: a bearer token has one id, however a
// client spells the rest, and nothing else has one.
func FuzzTokenID(f *testing.F) {
	for _, seed := range []string{"Bearer id.secret", "bearer  id.secret ", "Bearer id", "Bearer .", "Bearer ", "Bearer", "Basic eA==", "Bearer\tid.x", "Bearer " + strings.Repeat("i", 300)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		id := tokenOf(t, header)
		scheme, token, _ := strings.Cut(header, " ")
		token = strings.Trim(token, " \t")
		if bearer := strings.EqualFold(scheme, "Bearer") && token != ""; (id != "") != bearer {
			t.Fatalf("%q has the id %q", header, id)
		}
		if id == "" {
			return
		}
		if len(id) > maxKeyBytes+1 || id != "." && (strings.Contains(id, ".") || !strings.HasPrefix(token, id)) {
			t.Errorf("%q has the id %q", header, id)
		}
		for _, same := range []string{"Bearer " + token, "bEARER   " + token + " \t"} {
			if other := tokenOf(t, same); other != id {
				t.Errorf("%q has the id %q, and %q has %q", header, id, same, other)
			}
		}
	})
}

func tokenOf(t *testing.T, authorization string) string {
	t.Helper()
	req := httptest.NewRequest("GET", "/", nil)
	req.Header["Authorization"] = []string{authorization}
	return (&call{g: &gin.Context{Request: req}}).tokenID()
}

// FuzzQueries sends any query and header to the reads: never 500.
func FuzzQueries(f *testing.F) {
	f.Add("consistency=session&min_index=1", `"1"`, "c")
	f.Add("cursor=YzE6YQ&limit=1", "*", "%2F")
	f.Add("metadata.a=b&metadata.c=d&order=-id", `W/"1", x`, "..")
	f.Add("cursor="+cursorOf(snippetCursor, "-1"), "", "d")
	m := newMemory()
	s, err := New(m, m, Options{})
	if err != nil {
		f.Fatal(err)
	}
	w := httptest.NewRecorder()
	req := httptest.NewRequest("PUT", "/v1/collections/c/docs/d", strings.NewReader(`{"content":["x","y"]}`))
	req.Header.Set("Content-Type", wire.TypeJSON)
	if s.Handler().ServeHTTP(w, req); w.Code != 201 {
		f.Fatal(w.Body)
	}
	f.Fuzz(func(t *testing.T, query, header, id string) {
		for _, path := range []string{"/v1/collections", "/v1/collections/c/docs", "/v1/collections/c/docs/" + url.PathEscape(id), "/v1/collections/c/docs/d/snippets", "/v1/collections/c/docs/d/snippets/" + url.PathEscape(id)} {
			u, err := url.Parse(path)
			if err != nil {
				continue
			}
			u.RawQuery = query
			req := (&http.Request{Method: "GET", URL: u, Header: http.Header{"If-None-Match": {header}}, Body: http.NoBody}).WithContext(t.Context())
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, req)
			if w.Code >= 500 && w.Code != 503 {
				t.Fatalf("%s?%s: %d %s", path, query, w.Code, w.Body)
			}
		}
	})
}

// FuzzVectors compares the fast codec of vectors with encoding/json's, and
// checks that what is valid can be scaled.
func FuzzVectors(f *testing.F) {
	for _, seed := range []string{`[1,2.5,-3e-2]`, `[]`, ` [ 1 , 2 ] `, `[1e39]`, `[1e-60]`, `[1,]`, `[,1]`, `["1"]`, `[[1]]`, `null`, `{}`, `[0x1]`, `[1_0]`, `[-Inf]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var plain []float32
		var fast wire.Floats
		plainErr, fastErr := json.Unmarshal(text, &plain), json.Unmarshal(text, &fast)
		// encoding/json takes null for a number, which is no vector.
		if plainErr == nil && !bytes.Contains(text, []byte("null")) && (fastErr != nil || !reflect.DeepEqual(plain, []float32(fast)) && len(plain)+len(fast) > 0) {
			t.Fatalf("%s: %v %v, fast %v %v", text, plain, plainErr, fast, fastErr)
		}
		if plainErr != nil && fastErr == nil {
			t.Fatalf("%s: the fast codec takes what encoding/json refuses: %v", text, plainErr)
		}
		v := snippet.VectorOf(fast)
		if v.Validate() == nil {
			if err := v.Normalize().Validate(); err != nil {
				t.Fatalf("%s: scaled to unit length: %v", text, err)
			}
		}
	})
}

// FuzzImportLines sends any stream: the answer is lines, the last of them done.
func FuzzImportLines(f *testing.F) {
	f.Add([]byte("{\"id\":\"a\"}\n\n{\"id\":\"a\",\"content\":\"x\"}\r\nx"))
	m := newMemory()
	s, err := New(m, m, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req := httptest.NewRequest("POST", "/v1/collections/c/import", io.NopCloser(bytes.NewReader(body)))
		req.Header.Set("Content-Type", wire.TypeNDJSON)
		req.ProtoMajor = 2 // the recorder has no full duplex to enable
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		results := parseLines(t, w.Body.Bytes())
		if last := results[len(results)-1]; w.Code != 200 || !last.Done || last.Applied+last.Failed != len(results)-1 || last.Code != "" {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

// FuzzWriteHeaders sends a write with any headers and query: a documented
// answer, and never one that ignores what it was asked. A key or a condition
// that is not understood must refuse the write.
func FuzzWriteHeaders(f *testing.F) {
	f.Add("key-1", `"1"`, "", "application/json", "", "timeout=1s")
	f.Add("", "", "*", "application/json; charset=UTF-8", "Bearer id.secret", "redirect=true")
	f.Add("k\x00", "*", "*", "text/plain", "Bearer .", "timeout=-1s&timeout=2s")
	f.Add(strings.Repeat("k", 300), `W/"1"`, `"2"`, "application/json;;", "bearer x", "redirect=maybe&x=y")
	f.Add("é", `"18446744073709551616"`, "", "", "Basic eA==", "%zz")
	m := newMemory()
	s, err := New(m, m, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, match, noneMatch, media, authorization, query string) {
		header := http.Header{}
		for name, value := range map[string]string{
			wire.HeaderIdempotencyKey: key, "If-Match": match, "If-None-Match": noneMatch, "Content-Type": media, "Authorization": authorization,
		} {
			if value != "" {
				header.Set(name, value)
			}
		}
		before := m.dump()
		u := &url.URL{Path: "/v1/collections/c/docs/d", RawQuery: query}
		body := `{"content":"x"}`
		req := (&http.Request{Method: "PUT", URL: u, Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(t.Context())
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		if w.Code < 300 {
			if key != "" && (len(key) > maxKeyBytes || !visible(key)) || match != "" && noneMatch != "" || noneMatch != "" && noneMatch != "*" {
				t.Errorf("%q is answered %d", header, w.Code)
			}
			return
		}
		var p wire.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code >= 500 && w.Code != http.StatusGatewayTimeout || p.Code.Info().Code != p.Code || p.Outcome != "not_applied" {
			t.Errorf("%q ?%s: %d %s: %v", header, query, w.Code, w.Body, err)
		}
		if !bytes.Equal(before, m.dump()) {
			t.Errorf("%q ?%s: refused with %d, and applied", header, query, w.Code)
		}
	})
}

// FuzzListCursors: a cursor is refused, or is the one that the same place has.
func FuzzListCursors(f *testing.F) {
	f.Add(cursorOf(snippetCursor, "7"))
	f.Add(cursorOf(snippetCursor, "007"))
	f.Add(cursorOf("x", "7"))
	f.Add("czE600") // bits behind the last byte
	f.Add("")
	f.Fuzz(func(t *testing.T, cursor string) {
		if place, err := parseCursor(snippetCursor, cursor); err == nil && cursorOf(snippetCursor, place) != cursor {
			t.Errorf("%q is taken for the place %q, whose cursor is %q", cursor, place, cursorOf(snippetCursor, place))
		}
		if n, err := parseSnippetCursor(cursor); err == nil && (n < 0 || n > snippet.MaxSnippets) {
			t.Errorf("%q is snippet %d", cursor, n)
		}
	})
}

// FuzzRawVectors sends any bytes as a vector: it is kept bit for bit as it
// reads, or refused.
func FuzzRawVectors(f *testing.F) {
	f.Add([]byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0x3f})
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{1, 0, 0, 0, 1, 0, 0, 0})
	m := newMemory()
	s, err := New(m, m, Options{})
	if err != nil {
		f.Fatal(err)
	}
	send := func(method, path, media, accept string, body []byte) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, path, bytes.NewReader(body))
		req.Header.Set("Content-Type", media)
		if accept != "" {
			req.Header.Set("Accept", accept)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		return w
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		send("DELETE", "/v1/collections/c", wire.TypeJSON, "", nil)
		if w := send("PUT", "/v1/collections/c/docs/d", wire.TypeJSON, "", []byte(`{"content":"x"}`)); w.Code != 201 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		const path = "/v1/collections/c/docs/d/snippets/0"
		w := send("PUT", path+"?model=m", wire.TypeVector, "", raw)
		v := snippet.Vector(raw)
		valid := len(raw) > 0 && len(raw)%4 == 0 && v.Validate() == nil
		if (w.Code == 200) != valid || w.Code >= 500 {
			t.Fatalf("%x (valid: %v) is answered %d %s", raw, valid, w.Code, w.Body)
		}
		if got := send("GET", path, "", wire.TypeVector, nil); valid && (got.Code != 200 || got.Body.Len() != len(raw)) {
			t.Fatalf("%x reads as %d %x", raw, got.Code, got.Body)
		}
	})
}
