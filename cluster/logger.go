package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"
)

// levelTrace is hclog's Trace, which slog has no name for.
const levelTrace = slog.LevelDebug - 4

// raftLogger is an hclog.Logger over slog, the only place where the one is
// translated into the other.
type raftLogger struct {
	slog    *slog.Logger
	name    string
	implied []any
	// level is shared by all loggers made from one; what is below it costs
	// nothing, whatever the slog handler would take.
	level *atomic.Int32
}

// newRaftLogger returns a logger for hashicorp/raft. Its level is what l
// takes: raft's own default is DEBUG, which is not an operator's. nil discards.
func newRaftLogger(l *slog.Logger) hclog.Logger {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	level := hclog.Off
	for _, candidate := range []hclog.Level{hclog.Error, hclog.Warn, hclog.Info, hclog.Debug, hclog.Trace} {
		if l.Enabled(context.Background(), slogLevel(candidate)) {
			level = candidate
		}
	}
	r := &raftLogger{slog: l, name: "raft", level: &atomic.Int32{}}
	r.level.Store(int32(level))
	return r
}

// slogLevel maps the levels; NoLevel is Info, as hclog treats it.
func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return levelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// Log writes at a level.
func (r *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	if level == hclog.Error && connectionEnded(args) {
		level = hclog.Debug
	}
	if level == hclog.Off || level < r.GetLevel() {
		return
	}
	ctx, to := context.Background(), slogLevel(level)
	if !r.slog.Enabled(ctx, to) {
		return
	}
	attrs := make([]any, 0, len(args)+len(r.implied)+2)
	attrs = append(attrs, slog.String("component", r.name))
	attrs = appendAttrs(attrs, r.implied)
	attrs = appendAttrs(attrs, args)
	r.slog.Log(ctx, to, strings.TrimSpace(msg), attrs...)
}

// connectionEnded says whether an error is only that a connection was closed, by
// this node or by the other. raft's transport logs as an error whatever is not
// io.EOF ("failed to decode incoming command"), so each stop of a node and each
// death of a neighbour would fill the log with errors that need no one.
func connectionEnded(args []any) bool {
	for _, a := range args {
		if err, ok := a.(error); ok && (errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET)) {
			return true
		}
	}
	return false
}

// appendAttrs turns hclog's pairs into attributes: a value may be a format, a
// key may be missing.
func appendAttrs(attrs, args []any) []any {
	for i := 0; i < len(args); i += 2 {
		if i+1 == len(args) {
			return append(attrs, slog.Any(hclog.MissingKey, attrValue(args[i])))
		}
		key, ok := args[i].(string)
		if !ok {
			key = fmt.Sprint(args[i])
		}
		attrs = append(attrs, slog.Any(key, attrValue(args[i+1])))
	}
	return attrs
}

func attrValue(v any) any {
	switch v := v.(type) {
	case hclog.Format:
		if len(v) == 0 {
			return ""
		}
		return fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...)
	case hclog.Quote:
		return string(v)
	case hclog.Hex:
		return fmt.Sprintf("%#x", int(v))
	case fmt.Stringer:
		return v.String()
	}
	return v
}

// Trace and the others are Log at their level.
func (r *raftLogger) Trace(msg string, args ...any) { r.Log(hclog.Trace, msg, args...) }

// Debug logs at DEBUG.
func (r *raftLogger) Debug(msg string, args ...any) { r.Log(hclog.Debug, msg, args...) }

// Info logs at INFO.
func (r *raftLogger) Info(msg string, args ...any) { r.Log(hclog.Info, msg, args...) }

// Warn logs at WARN.
func (r *raftLogger) Warn(msg string, args ...any) { r.Log(hclog.Warn, msg, args...) }

// Error logs at ERROR.
func (r *raftLogger) Error(msg string, args ...any) { r.Log(hclog.Error, msg, args...) }

// IsTrace and the others say whether a level is logged.
func (r *raftLogger) IsTrace() bool { return r.GetLevel() <= hclog.Trace }

// IsDebug says whether DEBUG is logged.
func (r *raftLogger) IsDebug() bool { return r.GetLevel() <= hclog.Debug }

// IsInfo says whether INFO is logged.
func (r *raftLogger) IsInfo() bool { return r.GetLevel() <= hclog.Info }

// IsWarn says whether WARN is logged.
func (r *raftLogger) IsWarn() bool { return r.GetLevel() <= hclog.Warn }

// IsError says whether ERROR is logged.
func (r *raftLogger) IsError() bool { return r.GetLevel() <= hclog.Error }

// ImpliedArgs are those of With.
func (r *raftLogger) ImpliedArgs() []any { return r.implied }

// With returns a logger that adds the pairs to each line.
func (r *raftLogger) With(args ...any) hclog.Logger {
	c := *r
	c.implied = append(append([]any{}, r.implied...), args...)
	return &c
}

// Name is the component.
func (r *raftLogger) Name() string { return r.name }

// Named returns a logger for a part of this component.
func (r *raftLogger) Named(name string) hclog.Logger {
	if r.name != "" {
		name = r.name + "." + name
	}
	return r.ResetNamed(name)
}

// ResetNamed returns a logger of another name.
func (r *raftLogger) ResetNamed(name string) hclog.Logger {
	c := *r
	c.name = name
	return &c
}

// SetLevel changes the level of this logger and of all made from the same one.
func (r *raftLogger) SetLevel(level hclog.Level) { r.level.Store(int32(level)) }

// GetLevel returns the level.
func (r *raftLogger) GetLevel() hclog.Level { return hclog.Level(r.level.Load()) }

// StandardLogger returns a log.Logger that writes here, at INFO or ForceLevel.
func (r *raftLogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(r.StandardWriter(o), "", 0)
}

// StandardWriter returns the writer of StandardLogger.
func (r *raftLogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	level := hclog.Info
	if o != nil && o.ForceLevel != hclog.NoLevel {
		level = o.ForceLevel
	}
	return lineWriter{logger: r, level: level}
}

// lineWriter makes a log line of each write.
type lineWriter struct {
	logger *raftLogger
	level  hclog.Level
}

func (w lineWriter) Write(p []byte) (int, error) {
	w.logger.Log(w.level, string(p))
	return len(p), nil
}
