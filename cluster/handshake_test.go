package cluster

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
)

// hexOf is the frame of version 1 with a header for n bytes of body.
func hexOf(what, length, body string) string {
	return hex.EncodeToString([]byte("snpd")) + "01" + what + length + body
}

func TestHelloOfVersion1(t *testing.T) {
	h := hello{Kind: kindPeer, Cluster: "c1", From: "n1", To: "n22"}
	golden := hexOf("02", "000a", "02"+hex.EncodeToString([]byte("c1"))+"02"+hex.EncodeToString([]byte("n1"))+"03"+hex.EncodeToString([]byte("n22")))
	b, err := h.encode()
	if err != nil || hex.EncodeToString(b) != golden {
		t.Fatalf("frame is %x (%v)\nwant     %s", b, err, golden)
	}
	// Not a byte more than the frame may be read: the rest is Raft's.
	r := bytes.NewReader(append(b, "rest"...))
	got, err := readHello(r)
	if err != nil || got != h {
		t.Fatalf("read %+v, %v; want %+v", got, err, h)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("%q is left after the frame", rest)
	}
}

func TestAnswerOfVersion1(t *testing.T) {
	a := answer{Code: refuseCluster, Cluster: "c1", Node: "n1", Text: "no"}
	golden := hexOf("02", "000a", "02"+hex.EncodeToString([]byte("c1"))+"02"+hex.EncodeToString([]byte("n1"))+"0002"+hex.EncodeToString([]byte("no")))
	b, err := a.encode()
	if err != nil || hex.EncodeToString(b) != golden {
		t.Fatalf("frame is %x (%v)\nwant     %s", b, err, golden)
	}
	if got, err := readAnswer(bytes.NewReader(b)); err != nil || got != a {
		t.Fatalf("read %+v, %v; want %+v", got, err, a)
	}
}

func TestBadHellosAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ frame, want string }{
		"HTTP on the peer port":         {hex.EncodeToString([]byte("GET / HTTP/1.1\r\n")), "is this the peer port"},
		"a TLS client hello":            {"1603010200010001fc03", "both sides use TLS or both not"},
		"the next version":              {hex.EncodeToString([]byte("snpd")) + "02" + "01" + "0000", "speaks version 2"},
		"a body longer than the limit":  {hexOf("01", "ffff", ""), "body of 65535 bytes, at most"},
		"a body that ends early":        {hexOf("01", "0005", "0161"), "unexpected EOF"},
		"a header that ends early":      {hex.EncodeToString([]byte("snpd")), "unexpected EOF"},
		"nothing at all":                {"", "EOF"},
		"no fields":                     {hexOf("01", "0000", ""), "longer than the frame"},
		"a field longer than the frame": {hexOf("01", "0002", "0561"), "longer than the frame"},
		"bytes after the last field":    {hexOf("01", "0005", "00016100"+"aa"), "1 bytes after the last field"},
		"no name":                       {hexOf("01", "0003", "000000"), "no name"},
		"a name with a newline":         {hexOf("01", "0004", "00010a00"), "can't be printed"},
		"a name that is no UTF-8":       {hexOf("01", "0004", "0001ff00"), "can't be printed"},
	} {
		raw, err := hex.DecodeString(c.frame)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readHello(bytes.NewReader(raw)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v; want %q in it", name, err, c.want)
		}
	}
}

func TestNamesThatDoNotFitAreNotSent(t *testing.T) {
	for _, name := range []string{strings.Repeat("x", maxHandshakeField+1), "a\x00b", "\xff"} {
		if _, err := (hello{Kind: kindRaft, From: name}).encode(); !errors.Is(err, errBadHandshake) {
			t.Errorf("name %.20q: error is %v", name, err)
		}
	}
}

func TestLongTextIsCutAtARune(t *testing.T) {
	b, err := answer{Code: refuseNode, Node: "n1", Text: "a\nb\x00" + strings.Repeat("é", maxHandshakeText)}.encode()
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(bytes.NewReader(b))
	if err != nil || len(a.Text) > maxHandshakeText || !strings.HasPrefix(a.Text, "a b é") || strings.ContainsRune(a.Text, '�') {
		t.Fatalf("text of %d bytes begins %.10q: %v", len(a.Text), a.Text, err)
	}
}

func FuzzReadHello(f *testing.F) {
	b, _ := hello{Kind: kindRaft, Cluster: "c", From: "n1", To: "n2"}.encode()
	f.Add(b)
	f.Add([]byte("snpd\x01\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := readHello(r)
		if err != nil {
			return
		}
		again, err := h.encode()
		if err != nil || !bytes.Equal(again, b[:len(b)-r.Len()]) {
			t.Fatalf("%x reads as %+v, which is written as %x (%v)", b, h, again, err)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	b, _ := answer{Code: refuseNode, Cluster: "c", Node: "n1", Text: "text"}.encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		if checkName(a.Node) != nil || checkName(a.Cluster) != nil || cleanText(a.Text) != a.Text {
			t.Fatalf("%x reads as %+v, which must not reach a log", b, a)
		}
	})
}
