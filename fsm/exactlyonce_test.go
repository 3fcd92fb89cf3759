package fsm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/snipdb/snipdb/fsm/command"
)

// sameAnswer fails the test unless got is a replay of first.
func sameAnswer(t *testing.T, first, got *command.Result) {
	t.Helper()
	if !got.GetReplayed() {
		t.Errorf("not a replay: %s", show(got))
	}
	plain := proto.CloneOf(got)
	plain.Replayed = false
	if !proto.Equal(plain, first) {
		t.Errorf("the replay says\n%s\nthe first answer was\n%s", show(plain), show(first))
	}
}

func TestReplay(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func() *command.Command
	}{
		{"a document", func() *command.Command { return mutation(ownedDoc("d", "o", embedded("a", 2))) }},
		{"a snippet with its text", func() *command.Command { return mutation(putSnip("base", 0, text("new text"))) }},
		{"a patch without a text", func() *command.Command {
			return mutation(patchSnip(&command.PatchSnippet{Id: "base", Vector: vector(2)}))
		}},
		{"a patch with the empty text", func() *command.Command {
			return mutation(patchSnip(&command.PatchSnippet{Id: "base", Content: proto.String("")}))
		}},
		{"a deletion", func() *command.Command { return mutation(deleteDoc("base")) }},
		{"a deletion by owner", func() *command.Command { return mutation(deleteOwner("o")) }},
		{"a batch", func() *command.Command { return batchOf(putDoc("d"), deleteDoc("base")) }},
		{"a batch that fails", func() *command.Command { return batchOf(putDoc("d"), deleteDoc("nothing")) }},
		{"a refusal", func() *command.Command { return mutation(when(ifAbsent, putDoc("base"))) }},
		{"a collection", func() *command.Command { return mutation(in("n", putColl(&command.PutCollection{}))) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.must(putDoc("base", text("a")))
			first := m.one(keyed("k", "request", tt.make()))
			if first.GetReplayed() || first.GetRequestId() != "id of request" || first.GetIndex() != 2 {
				t.Errorf("the first answer %s", show(first))
			}
			before := m.document2("base")
			again := m.one(keyed("k", "request", tt.make()))
			sameAnswer(t, first, again)
			if m.document2("base") != before {
				t.Error("the replay changed the document")
			}

			// In one entry, and in one slice.
			twice := m.apply(keyed("k2", "r", mutation(putDoc("x"))), keyed("k2", "r", mutation(putDoc("x"))))
			sameAnswer(t, twice[0], twice[1])

			// After a restart and after a snapshot and restore.
			m.restart()
			sameAnswer(t, first, m.one(keyed("k", "request", tt.make())))
			id := m.snapshot()
			if err := m.restoreOwn(id); err != nil {
				t.Fatal(err)
			}
			sameAnswer(t, first, m.one(keyed("k", "request", tt.make())))
			follower := newMachine(t)
			if err := follower.receive(m, m.snapshot()); err != nil {
				t.Fatal(err)
			}
			follower.index = m.index
			sameAnswer(t, first, follower.one(keyed("k", "request", tt.make())))
		})
	}
}

// document2 is a document in one line.
func (m *machine) document2(id string) string {
	d, snippets := m.document("c", id)
	return fmt.Sprint(d, snippets)
}

func TestKeyReused(t *testing.T) {
	m := newMachine(t)
	m.one(keyed("k", "one", mutation(putDoc("d"))))
	before := m.document2("d")
	r := m.one(keyed("k", "two", mutation(putDoc("d", text("other")))))
	if r.GetOutcome() != keyReused || r.GetRequestId() != "id of one" || r.GetReplayed() {
		t.Errorf("%s", show(r))
	}
	if m.document2("d") != before {
		t.Error("a command under a used key was applied")
	}
	if r := m.one(keyed("K", "two", mutation(putDoc("d", text("other"))))); r.GetOutcome() != updated {
		t.Errorf("another key: %s", show(r))
	}
}

func TestBadKeys(t *testing.T) {
	m := newMachine(t)
	for name, idem := range map[string]*command.Idempotency{
		"no key":    {},
		"long key":  {Key: strings.Repeat("k", MaxKeyBytes+1)},
		"long hash": {Key: "k", RequestHash: make([]byte, MaxHashBytes+1)},
	} {
		c := mutation(putDoc("d"))
		c.Idempotency = idem
		if r := m.one(c); r.GetOutcome() != invalidOutcome || m.collection("c") != nil {
			t.Errorf("%s: %s", name, show(r))
		}
	}
}

// TestTransientRefusalsAreNotStored: the client is told to retry, so the retry must run.
func TestTransientRefusalsAreNotStored(t *testing.T) {
	m := newMachine(t)
	rs := m.apply(mutation(putDoc("d")), keyed("k", "r", mutation(putDoc("d"))))
	if rs[1].GetOutcome() != writeConflict {
		t.Fatalf("%s", show(rs[1]))
	}
	if r := m.one(keyed("k", "r", mutation(putDoc("d")))); r.GetOutcome() != updated || r.GetReplayed() {
		t.Errorf("the retry: %s", show(r))
	}
	prepared := func(metric string) *command.Command {
		return keyed("k2", "r", mutation(withMetric(metric, putDoc("d", embedded("a", 2)))))
	}
	if r := m.one(prepared("dot")); r.GetOutcome() != metricConflict {
		t.Fatalf("%s", show(r))
	}
	if r := m.one(prepared("cosine")); r.GetOutcome() != updated {
		t.Errorf("the retry: %s", show(r))
	}
}

// TestStoredRowHasNoText: the text of a snippet is not stored twice.
func TestStoredRowHasNoText(t *testing.T) {
	m := newMachine(t)
	m.must(putDoc("d"))
	long := strings.Repeat("long text ", 1000)
	m.one(keyed("k", "r", mutation(putSnip("d", 0, text(long)))))
	rows := 0
	for line := range strings.Lines(m.dump()) {
		if strings.HasPrefix(line, "idempotency") {
			rows++
		}
	}
	if rows == 0 {
		t.Fatal("no idempotency row")
	}
	row := encodedRow(t, m, "k")
	if len(row) > 500 {
		t.Errorf("the row has %d bytes", len(row))
	}
	r := m.one(keyed("k", "r", mutation(putSnip("d", 0, text(long)))))
	if r.GetSnippet().GetContent() != long {
		t.Error("the replay has another text")
	}
}

func encodedRow(t *testing.T, m *machine, key string) []byte {
	t.Helper()
	db, release := m.store.DB()
	defer release()
	b := db.NewBatch()
	defer b.Destroy()
	row, err := b.Idempotency(keyHash(key))
	if err != nil {
		t.Fatal(err)
	}
	return row
}

func TestExpiryByTheReplicatedClock(t *testing.T) {
	m := newMachine(t)
	m.f.rules.retentionMs = 1000
	put := func(ms int64) *command.Result {
		return m.apply(at(ms, tick()), at(ms, keyed("k", "r", mutation(putDoc("d")))))[1]
	}
	put(t0)
	if r := put(t0 + 999); !r.GetReplayed() {
		t.Errorf("within the retention: %s", show(r))
	}
	if r := put(t0 + 1000); !r.GetReplayed() { // rows go at the end of an entry
		t.Errorf("in the entry that ends it: %s", show(r))
	}
	if r := put(t0 + 1000); r.GetReplayed() || r.GetOutcome() != updated {
		t.Errorf("after the retention: %s", show(r))
	}
}

func TestExpiryByCountIsBounded(t *testing.T) {
	m := newMachine(t)
	const rows = 3 * ExpirePerCommand
	for i := range rows {
		m.one(keyed(fmt.Sprint("k", i), "r", mutation(putDoc("d"))))
	}
	count := func() (n int) {
		for i := range rows + 1 {
			if encodedRow(t, m, fmt.Sprint("k", i)) != nil {
				n++
			}
		}
		return n
	}
	m.f.rules.maxRows = 4
	m.one(tick())
	if n := count(); n != rows-ExpirePerCommand {
		t.Errorf("%d rows after one command, want %d", n, rows-ExpirePerCommand)
	}
	m.apply(tick(), tick())
	if n := count(); n != 4 {
		t.Errorf("%d rows, want the newest 4", n)
	}
	m.one(keyed(fmt.Sprint("k", rows), "r", mutation(putDoc("d"))))
	if n := count(); n != 4 || encodedRow(t, m, fmt.Sprint("k", rows)) == nil {
		t.Errorf("%d rows, want the newest 4", n)
	}
}

// A leader whose clock is days ahead must not make the keys of writes expire
// that clients may still send again: however many commands it proposes, only
// its ticks move the clock, and those not far.
func TestAWrongClockExpiresNoKeyOfNow(t *testing.T) {
	m := newMachine(t)
	const ahead = t0 + 30*IdempotencyRetentionMs
	m.one(at(t0, keyed("k", "r", mutation(putDoc("d")))))
	for range 2 * IdempotencyRetentionMs / MaxClockJumpMs {
		m.one(at(ahead, mutation(deleteDoc("nothing"))))
	}
	for range 30 {
		m.one(at(ahead, tick()))
	}
	if r := m.one(at(ahead, keyed("k", "r", mutation(putDoc("d"))))); !r.GetReplayed() {
		t.Errorf("the write was applied again: %s; the clock is %v ahead", show(r), time.Duration(m.f.ClockMs()-t0)*time.Millisecond)
	}
}

func TestClock(t *testing.T) {
	const jump = int64(MaxClockJumpMs)
	for _, tt := range []struct {
		name                  string
		clock, proposed, want int64
	}{
		{"the first value is taken as it is", 0, t0, t0},
		{"a first value before 1970 is not", 0, -5, 0},
		{"it moves on", t0, t0 + 10, t0 + 10},
		{"it never goes back", t0, t0 - 10, t0},
		{"it jumps as far as allowed", t0, t0 + jump, t0 + jump},
		{"but not further", t0, t0 + jump + 1, t0 + jump},
		{"whatever the leader thinks", t0, 1 << 62, t0 + jump},
	} {
		if got := advance(tt.clock, tt.proposed); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	m := newMachine(t)
	m.apply(at(t0, tick()), at(t0+jump*10, tick()), at(t0, mutation(deleteDoc("nothing"))))
	if got := m.f.ClockMs(); got != t0+jump {
		t.Errorf("clock %d", got)
	}
	m.restart()
	if got := m.f.ClockMs(); got != t0+jump {
		t.Errorf("clock after a restart %d", got)
	}
}

func TestRowForm(t *testing.T) {
	r := &command.Result{Outcome: created, Index: 7}
	row, err := encodeRow([]byte("hash"), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := "\x01\x04hash\x08\x01\x18\x07"; string(row) != want {
		t.Errorf("row %q, want %q", row, want)
	}
	hash, got, err := decodeRow(row)
	if err != nil || string(hash) != "hash" || !proto.Equal(got, r) {
		t.Errorf("%q %s %v", hash, show(got), err)
	}
	for _, bad := range []string{"", "\x01", "\x02\x00", "\x01\x09hash", "\x01\x00\xff"} {
		if _, _, err := decodeRow([]byte(bad)); err == nil || !errors.Is(err, errCorruptRow) {
			t.Errorf("row %q: %v", bad, err)
		}
	}
}
