package httpapi

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snipdb/snipdb/cluster/contract"
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/httpapi/wire"
	"github.com/snipdb/snipdb/storage/snippet"
)

// The parameters that all routes of one way of serving take.
var (
	anyParams   = []string{wire.ParamTimeout}
	readParams  = []string{wire.ParamConsistency, wire.ParamMaxStaleness, wire.ParamMinIndex, wire.ParamClusterID}
	writeParams = []string{wire.ParamRedirect}
)

// maxMaxStaleness bounds max_staleness; an older state is local's business.
const maxMaxStaleness = time.Hour

// maxMetadataFilters bounds the filters of one listing.
const maxMetadataFilters = 16

// param returns a query parameter, and whether it is there.
func (c *call) param(name string) (string, bool) { return c.g.GetQuery(name) }

// checkParams refuses parameters that the route does not know, ones that come
// twice, and a query that is no query. A misspelt parameter must not be a
// silent default.
func (c *call) checkParams() error {
	values, err := url.ParseQuery(c.g.Request.URL.RawQuery)
	if err != nil {
		return badRequest(wire.CodeInvalidParameter, "", "the query can't be parsed; use '&' between parameters, and %%XX for special characters")
	}
	for name, list := range values {
		if !c.takesParam(name) {
			return badRequest(wire.CodeInvalidParameter, name, "this route has no parameter %.100q", name)
		}
		if len(list) > 1 && !strings.HasSuffix(name, "[]") {
			return badRequest(wire.CodeInvalidParameter, name, "the parameter %.100q is given %d times", name, len(list))
		}
	}
	return nil
}

func (c *call) takesParam(name string) bool {
	r := c.route
	switch {
	case slices.Contains(anyParams, name), r.Read != nil && slices.Contains(readParams, name), r.mutates() && slices.Contains(writeParams, name):
		return true
	}
	return slices.ContainsFunc(r.Params, func(p string) bool {
		return p == name || strings.HasSuffix(p, ".") && strings.HasPrefix(name, p)
	})
}

// parseTimeout reads the client's deadline: the parameter, or else the header.
func (c *call) parseTimeout() error {
	c.timeout = c.s.opts.DefaultTimeout
	name, text := wire.ParamTimeout, ""
	if value, ok := c.param(name); ok {
		text = value
	} else if text = c.g.GetHeader(wire.HeaderTimeout); text == "" {
		return nil
	} else {
		name = wire.HeaderTimeout
	}
	d, err := parsePositiveDuration(name, text)
	if err != nil {
		return err
	}
	c.timeout = min(d, c.s.opts.MaxTimeout)
	return nil
}

func parsePositiveDuration(name, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, badRequest(wire.CodeInvalidParameter, name, "%s must be a duration above zero, for example 500ms or 2s", name)
	}
	return d, nil
}

// checkRedirect looks at redirect on every node, so that a wrong value is an
// error at the leader too.
func (c *call) checkRedirect() error {
	if !c.route.mutates() {
		return nil
	}
	_, err := c.flag(wire.ParamRedirect)
	return err
}

// checkContentType compares the body's media type with what the route takes.
func (c *call) checkContentType() error {
	if len(c.route.Types) == 0 || c.route.OptionalBody && c.g.Request.ContentLength == 0 {
		return nil
	}
	text := c.g.GetHeader("Content-Type")
	media, params, err := mime.ParseMediaType(text)
	charset := strings.ToLower(params["charset"])
	if err != nil || !slices.Contains(c.route.Types, media) || charset != "" && charset != "utf-8" {
		return badRequest(wire.CodeUnsupportedType, "Content-Type", "the Content-Type is %.100q; this route takes %s", text, strings.Join(c.route.Types, " or "))
	}
	return nil
}

// mediaType returns the body's media type, without parameters.
func (c *call) mediaType() string {
	media, _, _ := strings.Cut(c.g.GetHeader("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(media))
}

// checkConditionHeaders refuses a condition where none can be checked: to
// ignore it would be to write what the client wanted protected.
func (c *call) checkConditionHeaders() error {
	if !c.route.mutates() || c.route.Conditional {
		return nil
	}
	for _, name := range []string{"If-Match", "If-None-Match"} {
		if c.g.GetHeader(name) != "" {
			return badRequest(wire.CodeInvalidParameter, name, "this route can't check %s", name)
		}
	}
	return nil
}

// condition parses If-Match and If-None-Match of a write.
func (c *call) condition() (*command.Condition, error) {
	match, noneMatch := c.g.GetHeader("If-Match"), c.g.GetHeader("If-None-Match")
	switch {
	case match == "" && noneMatch == "":
		return nil, nil
	case match != "" && noneMatch != "":
		return nil, badRequest(wire.CodeInvalidParameter, "If-Match", "send If-Match or If-None-Match, not both")
	case noneMatch == "*":
		return &command.Condition{IfAbsent: true}, nil
	case noneMatch != "":
		return nil, badRequest(wire.CodeInvalidParameter, "If-None-Match", "on a write, If-None-Match must be *")
	case match == "*":
		return &command.Condition{IfPresent: true}, nil
	}
	revision, ok := parseETag(match)
	if !ok {
		return nil, badRequest(wire.CodeInvalidParameter, "If-Match", `If-Match must be * or one revision in quotes, for example "42"`)
	}
	return &command.Condition{IfRevision: revision}, nil
}

// parseETag parses a strong entity tag that this API made.
func parseETag(text string) (revision uint64, ok bool) {
	digits, ok := strings.CutPrefix(text, `"`)
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, `"`); !ok {
		return 0, false
	}
	revision, err := strconv.ParseUint(digits, 10, 64)
	return revision, err == nil && revision > 0 && etag(revision) == text
}

// notModified says whether If-None-Match of a read names the revision. The
// comparison is weak, as RFC 9110 has it for reads; what is no tag of this API
// matches nothing.
func (c *call) notModified(revision uint64) bool {
	text := c.g.GetHeader("If-None-Match")
	if text == "*" {
		return true
	}
	for tag := range strings.SplitSeq(text, ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag(revision) {
			return true
		}
	}
	return false
}

// consistency parses what a read asks for. Each level takes its own parameter
// and no other.
func (c *call) consistency() (contract.Consistency, error) {
	out := contract.Consistency{Level: contract.Local}
	if text, ok := c.param(wire.ParamConsistency); ok {
		out.Level = contract.Level(text)
	}
	staleness, hasStaleness := c.param(wire.ParamMaxStaleness)
	minIndex, hasIndex := c.param(wire.ParamMinIndex)
	switch out.Level {
	case contract.Local, contract.Bounded, contract.Session, contract.Linearizable:
	default:
		return out, badRequest(wire.CodeInvalidParameter, wire.ParamConsistency, "consistency must be one of local, bounded, session, linearizable, it is %.40q", out.Level)
	}
	if hasStaleness != (out.Level == contract.Bounded) {
		return out, badRequest(wire.CodeInvalidParameter, wire.ParamMaxStaleness, "max_staleness goes with consistency=bounded, which needs it")
	}
	if hasIndex != (out.Level == contract.Session) {
		return out, badRequest(wire.CodeInvalidParameter, wire.ParamMinIndex, "min_index goes with consistency=session, which needs it")
	}
	var err error
	if hasStaleness {
		if out.MaxStaleness, err = parsePositiveDuration(wire.ParamMaxStaleness, staleness); err != nil {
			return out, err
		}
		if out.MaxStaleness > maxMaxStaleness {
			return out, badRequest(wire.CodeInvalidParameter, wire.ParamMaxStaleness, "max_staleness may be at most %v", maxMaxStaleness)
		}
	}
	if hasIndex {
		if out.MinIndex, err = strconv.ParseUint(minIndex, 10, 64); err != nil {
			return out, badRequest(wire.CodeInvalidParameter, wire.ParamMinIndex, "min_index must be an index from X-Snipdb-Index")
		}
	}
	return out, c.checkCluster()
}

// checkCluster compares the cluster that the client's index is of.
func (c *call) checkCluster() error {
	want, ok := c.param(wire.ParamClusterID)
	own := c.s.backend.ClusterID()
	switch {
	case ok && own == "":
		return contract.ErrNotReady // it is of no cluster yet, so not of another one
	case ok && want != own:
		return badRequest(wire.CodeWrongCluster, wire.ParamClusterID, "the request is for cluster %.80q, this node is of %q", want, own)
	}
	return nil
}

// pathValue returns a path parameter, unescaped.
func (c *call) pathValue(name string) (string, error) {
	value, err := url.PathUnescape(c.g.Param(name))
	if err != nil {
		return "", badRequest(wire.CodeInvalidParameter, name, "the %s in the path is not well escaped", name)
	}
	return value, nil
}

// collectionName returns the collection of the path, checked.
func (c *call) collectionName() (string, error) {
	name, err := c.pathValue("collection")
	if err != nil {
		return "", err
	}
	if err := snippet.ValidateName("collection", name); err != nil {
		return "", badParameter("collection", err)
	}
	return name, nil
}

// documentID returns the document id of the path, checked.
func (c *call) documentID() (string, error) {
	id, err := c.pathValue("id")
	if err != nil {
		return "", err
	}
	if err := snippet.ValidateID("id", id); err != nil {
		return "", badParameter("id", err)
	}
	return id, nil
}

// snippetIndex returns the snippet index of the path, checked.
func (c *call) snippetIndex() (int, error) {
	n, err := strconv.ParseUint(c.g.Param("index"), 10, 32)
	if err != nil || n >= snippet.MaxSnippets {
		return 0, badRequest(wire.CodeInvalidParameter, "index", "the snippet's index must be a number from 0 to %d", snippet.MaxSnippets-1)
	}
	return int(n), nil
}

// limit parses the size of a page.
func (c *call) limit() (int, error) {
	text, ok := c.param(wire.ParamLimit)
	if !ok {
		return snippet.DefaultPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > snippet.MaxPage {
		return 0, badRequest(wire.CodeInvalidParameter, wire.ParamLimit, "limit must be a number from 1 to %d", snippet.MaxPage)
	}
	return n, nil
}

// owner parses owner_type and owner_id: both or none.
func (c *call) owner() (snippet.Owner, error) {
	kind, hasKind := c.param(wire.ParamOwnerType)
	id, hasID := c.param(wire.ParamOwnerID)
	o := snippet.Owner{Type: kind, ID: id}
	if hasKind != hasID || hasKind && o.IsZero() {
		return o, badRequest(wire.CodeInvalidParameter, wire.ParamOwnerType, "owner_type and owner_id go together")
	}
	if err := snippet.ValidateOwner("owner", o); err != nil {
		return o, badParameter(wire.ParamOwnerType, err)
	}
	return o, nil
}

// flag parses a parameter that is true or false.
func (c *call) flag(name string) (bool, error) {
	text, ok := c.param(name)
	if !ok || text == "false" {
		return false, nil
	}
	if text != "true" {
		return false, badRequest(wire.CodeInvalidParameter, name, "%s must be true or false", name)
	}
	return true, nil
}

// vectorForm is how an answer shows vectors.
type vectorForm int

const (
	noVectors vectorForm = iota
	vectorsAsNumbers
	vectorsAsBase64
)

func (c *call) withEmbeddings() (vectorForm, error) {
	switch text, _ := c.param(wire.ParamWithEmbeddings); text {
	case "", "false":
		return noVectors, nil
	case "true", "array":
		return vectorsAsNumbers, nil
	case "base64":
		return vectorsAsBase64, nil
	}
	return noVectors, badRequest(wire.CodeInvalidParameter, wire.ParamWithEmbeddings, "with_embeddings must be true, array, base64 or false")
}

// listQuery parses the parameters of a listing of documents.
func (c *call) listQuery() (q snippet.ListQuery, err error) {
	if q.Owner, err = c.owner(); err != nil {
		return q, err
	}
	if q.Limit, err = c.limit(); err != nil {
		return q, err
	}
	q.Order = snippet.ByID
	if text, ok := c.param(wire.ParamOrder); ok {
		q.Order = snippet.Order(text)
	}
	if err := snippet.ValidateOrder(wire.ParamOrder, q.Order); err != nil {
		return q, badParameter(wire.ParamOrder, err)
	}
	q.Cursor, _ = c.param(wire.ParamCursor)
	for name, list := range c.g.Request.URL.Query() {
		field, ok := strings.CutPrefix(name, wire.ParamMetadataPrefix)
		if !ok {
			continue
		}
		if field == "" || len(q.Metadata) == maxMetadataFilters {
			return q, badRequest(wire.CodeInvalidParameter, name, "a filter needs the name of a field, as in metadata.lang=en, and there may be %d of them", maxMetadataFilters)
		}
		if q.Metadata == nil {
			q.Metadata = map[string]string{}
		}
		q.Metadata[field] = list[0]
	}
	return q, nil
}

// idempotencyKey returns the key of the write, checked, or "".
func (c *call) idempotencyKey() (string, error) {
	values := c.g.Request.Header[http.CanonicalHeaderKey(wire.HeaderIdempotencyKey)]
	if len(values) == 0 {
		return "", nil
	}
	if key := values[0]; len(values) == 1 && key != "" && len(key) <= maxKeyBytes && visible(key) {
		return key, nil
	}
	return "", badRequest(wire.CodeInvalidParameter, wire.HeaderIdempotencyKey, "an Idempotency-Key has 1 to %d visible ASCII characters", maxKeyBytes)
}

// tokenID returns the id of the bearer token `id.secret` for the rate limits, or
// "" if there is no token. It is not proof of anything. However a client spells
// its token, it must be the same one: the scheme's name has no case and any
// number of blanks behind it (RFC 9110 section 11), and a token without a secret
// is one that is not valid, but not none.
func (c *call) tokenID() string {
	scheme, token, _ := strings.Cut(c.g.GetHeader("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	token = strings.Trim(token, " \t")
	if token == "" {
		return ""
	}
	id, _, _ := strings.Cut(token, ".")
	if id == "" {
		return "." // no rule has that name, so the one for each is its rule
	}
	// Longer than any rule's name, so it is not taken for another id either.
	return id[:min(len(id), maxKeyBytes+1)]
}

// visible says whether s is visible ASCII only.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
