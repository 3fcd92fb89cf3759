package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The handshake opens every connection of the peer port: it says which
// cluster and which node the two ends believe to be, before a byte of Raft or
// of a peer RPC is read. Its bytes are in DESIGN.md, "Handshake". The first
// eight bytes of both frames keep their meaning in all versions of the
// protocol, so that a node can always tell another version that it is one.
const (
	handshakeMagic   = "snpd"
	handshakeVersion = 1
	// handshakeHeader is the size of magic, version, kind or code, and length.
	handshakeHeader = 8
	// maxHandshakeField bounds a name in bytes: its length is one byte.
	maxHandshakeField = 255
	// maxHandshakeText bounds the text of a refusal in bytes: enough for a
	// sentence that tells what to do.
	maxHandshakeText = 512
	// maxHandshakeBody is the largest body of either frame. A longer length is
	// refused before anything is allocated for it.
	maxHandshakeBody = 3*(1+maxHandshakeField) + 2 + maxHandshakeText
)

// connKind is what a connection carries after the handshake.
type connKind byte

const (
	kindRaft connKind = 1
	kindPeer connKind = 2
)

func (k connKind) String() string {
	switch k {
	case kindRaft:
		return "raft"
	case kindPeer:
		return "peer"
	}
	return fmt.Sprintf("unknown(%d)", byte(k))
}

// hello is the first frame, from the node that dials.
type hello struct {
	Kind connKind
	// Cluster is "" while the node that dials is no member.
	Cluster string
	From    string
	// To is the node that the caller wants; "" if it knows only an address.
	To string
}

// refusal is the code of the answer; 0 is a welcome.
type refusal byte

const (
	welcome        refusal = 0
	refuseVersion  refusal = 1
	refuseCluster  refusal = 2
	refuseNode     refusal = 3
	refuseNotReady refusal = 4
	refuseKind     refusal = 5
	refuseFrame    refusal = 6
)

// label is the refusal as a metric label: a closed set.
func (r refusal) label() string {
	switch r {
	case refuseVersion:
		return "version"
	case refuseCluster:
		return "cluster"
	case refuseNode:
		return "node"
	case refuseNotReady:
		return "not_ready"
	case refuseKind:
		return "kind"
	case refuseFrame:
		return "frame"
	}
	return "unknown"
}

// answer is the second frame, from the node that accepts.
type answer struct {
	Code refusal
	// Cluster and Node are who answers, even when it refuses.
	Cluster string
	Node    string
	// Text is why it refuses, for people.
	Text string
}

// What callers branch on; see refusedError.Is.
var (
	errForeignCluster = errors.New("cluster: the other node belongs to another cluster")
	errWrongNode      = errors.New("cluster: another node than the one wanted is at this address")
	errPeerNotReady   = errors.New("cluster: the other node is not ready for this")
	errBadHandshake   = errors.New("cluster: bad handshake")
)

// refusedError says that the handshake did not end in a welcome. Nothing was
// sent but the handshake.
type refusedError struct {
	Addr string
	answer
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("cluster: node %q at %s refuses the connection: %s", e.Node, e.Addr, e.Text)
}

// Is maps the code to the sentinels above.
func (e *refusedError) Is(target error) bool {
	switch target {
	case errForeignCluster:
		return e.Code == refuseCluster
	case errWrongNode:
		return e.Code == refuseNode
	case errPeerNotReady:
		return e.Code == refuseNotReady
	}
	return false
}

// encode returns the frame, or an error if a name is not one.
func (h hello) encode() ([]byte, error) {
	body := make([]byte, 0, 3+len(h.Cluster)+len(h.From)+len(h.To))
	for _, s := range []string{h.Cluster, h.From, h.To} {
		if err := checkName(s); err != nil {
			return nil, err
		}
		body = append(body, byte(len(s)))
		body = append(body, s...)
	}
	return frame(byte(h.Kind), body), nil
}

// encode returns the frame; a text that is too long is cut at a rune.
func (a answer) encode() ([]byte, error) {
	body := make([]byte, 0, 4+len(a.Cluster)+len(a.Node)+len(a.Text))
	for _, s := range []string{a.Cluster, a.Node} {
		if err := checkName(s); err != nil {
			return nil, err
		}
		body = append(body, byte(len(s)))
		body = append(body, s...)
	}
	text := cleanText(a.Text)
	body = binary.BigEndian.AppendUint16(body, uint16(len(text)))
	return frame(byte(a.Code), append(body, text...)), nil
}

func frame(what byte, body []byte) []byte {
	out := make([]byte, 0, handshakeHeader+len(body))
	out = append(out, handshakeMagic...)
	out = append(out, handshakeVersion, what)
	out = binary.BigEndian.AppendUint16(out, uint16(len(body)))
	return append(out, body...)
}

// versionError is a frame of a protocol version that this node does not speak.
type versionError struct{ version byte }

func (e *versionError) Error() string {
	return fmt.Sprintf("cluster: the other node speaks version %d of the peer protocol, this one speaks %d: run releases that are at most one apart", e.version, handshakeVersion)
}

// readFrame reads exactly one frame and not a byte more: what follows belongs
// to Raft or HTTP. It allocates at most maxHandshakeBody. The body of another
// version is not read, because only the header is known to mean the same.
func readFrame(r io.Reader) (what byte, body []byte, err error) {
	var head [handshakeHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("cluster: read handshake: %w", err)
	}
	if string(head[:4]) != handshakeMagic {
		return 0, nil, fmt.Errorf("%w: it begins with %q; is this the peer port of a snipdb node, and do both sides use TLS or both not?", errBadHandshake, head[:4])
	}
	if head[4] != handshakeVersion {
		return 0, nil, &versionError{version: head[4]}
	}
	n := int(binary.BigEndian.Uint16(head[6:]))
	if n > maxHandshakeBody {
		return 0, nil, fmt.Errorf("%w: body of %d bytes, at most %d", errBadHandshake, n, maxHandshakeBody)
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("cluster: read handshake: %w", err)
	}
	return head[5], body, nil
}

func readHello(r io.Reader) (hello, error) {
	what, body, err := readFrame(r)
	if err != nil {
		return hello{}, err
	}
	h := hello{Kind: connKind(what)}
	for _, field := range []*string{&h.Cluster, &h.From, &h.To} {
		if *field, body, err = cutName(body); err != nil {
			return hello{}, err
		}
	}
	if len(body) != 0 {
		return hello{}, fmt.Errorf("%w: %d bytes after the last field", errBadHandshake, len(body))
	}
	if h.From == "" {
		return hello{}, fmt.Errorf("%w: no name of the node that dials", errBadHandshake)
	}
	return h, nil
}

func readAnswer(r io.Reader) (answer, error) {
	what, body, err := readFrame(r)
	if err != nil {
		return answer{}, err
	}
	a := answer{Code: refusal(what)}
	for _, field := range []*string{&a.Cluster, &a.Node} {
		if *field, body, err = cutName(body); err != nil {
			return answer{}, err
		}
	}
	if len(body) < 2 || int(binary.BigEndian.Uint16(body)) != len(body)-2 {
		return answer{}, fmt.Errorf("%w: the text does not fill the frame", errBadHandshake)
	}
	if len(body)-2 > maxHandshakeText {
		return answer{}, fmt.Errorf("%w: text of %d bytes, at most %d", errBadHandshake, len(body)-2, maxHandshakeText)
	}
	// The text goes to a log: what the other side put in is cleaned here too.
	a.Text = cleanText(string(body[2:]))
	return a, nil
}

func cutName(body []byte) (name string, rest []byte, err error) {
	if len(body) == 0 || len(body)-1 < int(body[0]) {
		return "", nil, fmt.Errorf("%w: a field is longer than the frame", errBadHandshake)
	}
	n := int(body[0])
	name = string(body[1 : 1+n])
	if err := checkName(name); err != nil {
		return "", nil, err
	}
	return name, body[1+n:], nil
}

// checkName refuses what must not reach a log line or a header.
func checkName(s string) error {
	if len(s) > maxHandshakeField {
		return fmt.Errorf("%w: a name of %d bytes, at most %d", errBadHandshake, len(s), maxHandshakeField)
	}
	if !utf8.ValidString(s) || strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		return fmt.Errorf("%w: name %q has characters that can't be printed", errBadHandshake, s)
	}
	return nil
}

// cleanText makes a text printable and short enough for a frame.
func cleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	for len(s) > maxHandshakeText {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}
