package snippet

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// refused checks that err is a FieldError about the field.
func refused(t *testing.T, what, field string, err error) {
	t.Helper()
	var fe *FieldError
	if !errors.As(err, &fe) {
		t.Errorf("%s was taken (%v)", what, err)
		return
	}
	if fe.Field != field || fe.Reason == "" || !errors.Is(fmt.Errorf("outer: %w", err), ErrInvalid) || fe.Error() != fe.Field+" "+fe.Reason {
		t.Errorf("%s: the error is %#v", what, err)
	}
}

// table checks a validation of texts.
func table(t *testing.T, name string, check func(field, s string) error, good, bad []string) {
	t.Helper()
	for _, s := range good {
		if err := check("f", s); err != nil {
			t.Errorf("%s refuses %.40q: %v", name, s, err)
		}
	}
	for _, s := range bad {
		refused(t, fmt.Sprintf("%s %.40q", name, s), "f", check("f", s))
	}
}

func TestTexts(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	control := []string{"a\x00b", "\x00", "a\nb", "\t", "\x1f", "\x7f", "\u0080", "\u009f", "a\u0085"}
	noUTF8 := []string{"\xff", "a\xc3", "\xed\xa0\x80"}
	table(t, "ValidateID", ValidateID,
		[]string{"a", " ", "a/b", "..", "ä\u00a0", "日本語", "\U0001f600", `"quotes"`, long(MaxIDBytes), strings.Repeat("é", MaxIDBytes/2)},
		append(append([]string{"", long(MaxIDBytes + 1), strings.Repeat("é", MaxIDBytes/2) + "x"}, control...), noUTF8...))
	table(t, "ValidateName", ValidateName,
		[]string{"a", "A9", "_x", "0", "a-b.c_d", "a..b", long(MaxNameBytes)},
		[]string{"", long(MaxNameBytes + 1), "-a", ".a", ".", "a b", "a/b", "ä", "a\x00", "a:b", "a%"})
	table(t, "ValidateTitle", ValidateTitle, []string{"", "a\nb", "\x00", long(MaxTitleBytes)}, append(noUTF8, long(MaxTitleBytes+1)))
	table(t, "ValidateContent", ValidateContent, []string{"", "a\nb\x00", long(MaxContentBytes)}, append(noUTF8, long(MaxContentBytes+1)))
	table(t, "ValidateModel", ValidateModel, []string{"", "text-embedding-3", "a/b:c", long(MaxModelBytes)},
		append(append([]string{long(MaxModelBytes + 1)}, control...), noUTF8...))
	table(t, "ValidateMetric", func(f, s string) error { return ValidateMetric(f, Metric(s)) },
		[]string{"cosine", "dot", "euclidean"}, []string{"", "Cosine", "l2"})
	table(t, "ValidateAnalyzer", func(f, s string) error { return ValidateAnalyzer(f, Analyzer(s)) },
		[]string{"standard", "english", "simple"}, []string{"", "German"})
	table(t, "ValidateOrder", func(f, s string) error { return ValidateOrder(f, Order(s)) },
		[]string{"id", "-id", "created_at", "-created_at"}, []string{"", "ID", "+id", "updated_at"})
}

func TestOwners(t *testing.T) {
	for _, o := range []Owner{{}, {"user", "u1"}, {strings.Repeat("t", MaxOwnerBytes), strings.Repeat("i", MaxOwnerBytes)}} {
		if err := ValidateOwner("owner", o); err != nil {
			t.Errorf("%.60v: %v", o, err)
		}
	}
	for _, tc := range []struct {
		owner Owner
		field string
	}{
		{Owner{Type: "user"}, "owner"}, {Owner{ID: "u1"}, "owner"},
		{Owner{"a\x00", "u"}, "owner.type"}, {Owner{"user", "\n"}, "owner.id"},
		{Owner{strings.Repeat("t", MaxOwnerBytes+1), "u"}, "owner.type"}, {Owner{"user", strings.Repeat("i", MaxOwnerBytes+1)}, "owner.id"},
	} {
		refused(t, fmt.Sprintf("%.60v", tc.owner), tc.field, ValidateOwner("owner", tc.owner))
	}
	if (Owner{}).IsZero() != true || (Owner{Type: "x"}).IsZero() || (Owner{ID: "x"}).IsZero() {
		t.Error("IsZero")
	}
}

func TestDimensions(t *testing.T) {
	for _, d := range []int{0, 1, MaxDimension} {
		if err := ValidateDimension("dimension", d); err != nil {
			t.Errorf("%d: %v", d, err)
		}
	}
	for _, d := range []int{-1, MaxDimension + 1, math.MaxInt} {
		refused(t, fmt.Sprint(d), "dimension", ValidateDimension("dimension", d))
	}
}

// The limits derive from one another: whatever passes them alone must fit into
// one log entry, so that a valid document can be stored at all.
func TestTheLimitsFitIntoOneEntry(t *testing.T) {
	const entry = 512 << 10 // hashicorp/raft api.go, SuggestedMaxDataSize
	const overhead = 4 << 10
	if MaxCommandBytes >= entry {
		t.Errorf("MaxCommandBytes is %d, an entry holds %d with its header", MaxCommandBytes, entry)
	}
	for name, n := range map[string]int{
		"the largest snippet with the largest vector": MaxContentBytes + 4*MaxDimension + MaxModelBytes + MaxIDBytes,
		"the largest document without snippets":       MaxTitleBytes + MaxMetadataBytes + 2*MaxOwnerBytes + MaxIDBytes,
	} {
		if n+overhead > MaxCommandBytes {
			t.Errorf("%s has %d bytes, a command may have %d", name, n, MaxCommandBytes)
		}
	}
	if DefaultPage > MaxPage || MaxPage > MaxScan {
		t.Error("a page is longer than what one listing reads")
	}
}

func TestHashContent(t *testing.T) {
	if got := fmt.Sprintf("%x", HashContent("abc")); got != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("the hash of abc is %s (FIPS 180-4, example)", got)
	}
}
