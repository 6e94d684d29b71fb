package mesherstream

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
)

// survivor is a log handler that outlives a panic of the application's. What can't be logged goes to standard error.
type survivor struct{ slog.Handler }

func (h survivor) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	defer survive()
	return h.Handler.Enabled(ctx, level)
}

func (h survivor) Handle(ctx context.Context, r slog.Record) error {
	defer survive()
	return h.Handler.Handle(ctx, r)
}

func (h survivor) WithAttrs(attrs []slog.Attr) slog.Handler {
	return survivor{h.Handler.WithAttrs(attrs)}
}

func (h survivor) WithGroup(name string) slog.Handler {
	return survivor{h.Handler.WithGroup(name)}
}

func survive() {
	if p := recover(); p != nil {
		fmt.Fprintf(os.Stderr, "mesherstream: the log handler panicked: %v\n%s", p, debug.Stack())
	}
}
