package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/mesher/mesherstream/example/internal/logline"
)

// streamLines publishes what the lines of r say, as events with the project and the environment of base, until r ends.
func streamLines(ctx context.Context, r io.Reader, f *feed, base fields) {
	events := 0
	err := logline.Stream(ctx, r, func(logged logline.Event) error {
		e := base
		e.Level, e.Service, e.Message, e.Data = logged.Level, logged.Service, logged.Message, logged.Data
		events++
		_, err := f.publishEventAt(e, logged.Time)
		return err
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		slog.Error("reading standard input failed, the page stays up", "error", err, "events", events)
	default:
		slog.Info("reached the end of standard input, the page stays up", "events", events)
	}
}
