package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestRaftLoggerTakesTheLevelOfTheHandler(t *testing.T) {
	for _, c := range []struct {
		handler slog.Level
		want    hclog.Level
	}{
		{levelTrace, hclog.Trace}, {slog.LevelDebug, hclog.Debug}, {slog.LevelInfo, hclog.Info},
		{slog.LevelWarn, hclog.Warn}, {slog.LevelError, hclog.Error}, {slog.LevelError + 4, hclog.Off},
	} {
		l := newRaftLogger(slog.New(slog.NewTextHandler(&bytes.Buffer{}, &slog.HandlerOptions{Level: c.handler})))
		if l.GetLevel() != c.want {
			t.Errorf("slog level %v gives hclog level %v; want %v", c.handler, l.GetLevel(), c.want)
		}
		if l.IsDebug() != (c.want <= hclog.Debug) || l.IsError() != (c.want <= hclog.Error) || l.IsTrace() != (c.want == hclog.Trace) {
			t.Errorf("slog level %v: IsTrace %v, IsDebug %v, IsError %v", c.handler, l.IsTrace(), l.IsDebug(), l.IsError())
		}
	}
	if l := newRaftLogger(nil); l.GetLevel() != hclog.Off || l.IsError() {
		t.Error("a logger without a handler logs")
	}
}

func TestRaftLoggerTranslates(t *testing.T) {
	var out bytes.Buffer
	h := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: levelTrace, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	l := newRaftLogger(slog.New(h))
	for _, c := range []struct {
		log  func()
		want string
	}{
		{func() { l.Info("entering follower state", "follower", l.Name()) }, `level=INFO msg="entering follower state" component=raft follower=raft`},
		{func() { l.Warn("x", "error", errors.New("no route")) }, `level=WARN msg=x component=raft error="no route"`},
		{func() { l.Error("x", "received", hclog.Fmt("%d / %d", 1, 2)) }, `level=ERROR msg=x component=raft received="1 / 2"`},
		{func() { l.Debug("x") }, `level=DEBUG msg=x component=raft`},
		{func() { l.Trace("x") }, `level=DEBUG-4 msg=x component=raft`},
		{func() { l.Log(hclog.NoLevel, "x") }, `level=INFO msg=x component=raft`},
		{func() { l.Info("x", "odd") }, `level=INFO msg=x component=raft EXTRA_VALUE_AT_END=odd`},
		{func() { l.Info("x", 1, 2) }, `level=INFO msg=x component=raft 1=2`},
		{func() { l.Named("transport").With("a", 1).Info("x", "b", 2) }, `level=INFO msg=x component=raft.transport a=1 b=2`},
		{func() { l.StandardLogger(nil).Print("from log") }, `level=INFO msg="from log" component=raft`},
		{func() { l.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Error}).Print("x") }, `level=ERROR msg=x component=raft`},
	} {
		out.Reset()
		c.log()
		if got := strings.TrimSpace(out.String()); got != c.want {
			t.Errorf("logged %s\nwant   %s", got, c.want)
		}
	}
}

func TestRaftLoggerLevelIsSharedByItsParts(t *testing.T) {
	var out bytes.Buffer
	l := newRaftLogger(slog.New(slog.NewTextHandler(&out, nil)))
	part := l.Named("part")
	l.SetLevel(hclog.Error)
	part.Warn("too low")
	if out.Len() != 0 || part.GetLevel() != hclog.Error {
		t.Errorf("logged %q at level %v", out.String(), part.GetLevel())
	}
	part.Error("high enough")
	if out.Len() == 0 {
		t.Error("an error was not logged")
	}
}

func TestRaftLoggerDoesNotCallTheEndOfAConnectionAnError(t *testing.T) {
	var out bytes.Buffer
	l := newRaftLogger(slog.New(slog.NewTextHandler(&out, nil)))
	for _, ended := range []error{net.ErrClosed, syscall.ECONNRESET} {
		l.Error("failed to decode incoming command", "error", &net.OpError{Op: "read", Net: "tcp", Err: ended})
	}
	if out.Len() > 0 {
		t.Errorf("at INFO it is logged: %s", &out)
	}
	l.Error("failed to decode incoming command", "error", errors.New("unknown rpc type 77"))
	if !strings.Contains(out.String(), "level=ERROR") {
		t.Errorf("another error is no ERROR: %q", &out)
	}
}
