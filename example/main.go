// Command example is a live dashboard of the events of an application: what is posted to /api/v1/events, or read from
// standard input, arrives in every browser that has the page open, and a browser that is slow misses some without
// delaying the others.
//
//	go run ./example                           # then post events, see http://127.0.0.1:3000
//	go run ./example -demo 200                 # 200 invented events a second
//	journalctl -f | go run ./example -stdin    # each line is an event, a stack trace is one
//	cat app.log | go run ./example -stdin      # the last lines, for whoever opens the page
//
// The same events in a terminal:
//
//	curl -N 'localhost:3000/stream/projects/demo?level=error&last=20'
//
// It asks nobody for a login, and therefore answers only to requests for localhost, for the host in -addr, and for the
// names in -host:
//
//	go run ./example -addr :3000 -host dash.example.com,192.0.2.7
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:3000", "`address` to listen on")
	project := flag.String("project", defaultProject, "`project` that the events of -stdin and -demo belong to")
	environment := flag.String("environment", "local", "`environment` that the events of -stdin belong to")
	stdin := flag.Bool("stdin", false, "read log lines from standard input and stream each as an event, a stack trace as one")
	demo := flag.Float64("demo", 0, "publish `n` made-up events per second, up to 5000")
	var given hosts
	flag.Var(&given, "host", "also answer requests for this host `name`; may be repeated, or take a comma-separated list; localhost, 127.0.0.1, [::1] and the host in -addr are always answered")
	flag.Parse()

	if err := run(*addr, given, *project, *environment, *stdin, *demo); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

func run(addr string, given hosts, project, environment string, stdin bool, demo float64) error {
	if !isName(project) || !isName(environment) {
		return errors.New("-project and -environment must be " + nameRule)
	}
	if !(demo >= 0 && demo <= maxDemoRate) {
		return fmt.Errorf("-demo must be from 0 to %d events per second", maxDemoRate)
	}
	names, link, advice, err := hostsFor(addr, given)
	if err != nil {
		return err
	}
	app, m, feed, err := newApp(names)
	if err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go streamClients(ctx, m, time.Second)
	if stdin {
		go streamLines(ctx, os.Stdin, feed, fields{Project: project, Environment: environment})
	}
	if demo > 0 {
		go streamDemo(ctx, feed, project, demo)
	}
	app.Hooks().OnListen(func(l fiber.ListenData) error {
		slog.Info("listening on " + addr + ", open http://" + net.JoinHostPort(link, l.Port) + "/?project=" + project)
		if advice != "" {
			slog.Warn(advice)
		}
		return nil
	})

	failed := make(chan error, 1)
	go func() { failed <- app.Listen(addr) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		stop() // a second signal ends the process at once
		return app.ShutdownWithTimeout(10 * time.Second)
	}
}

// newApp mounts the stream, the API and the pages, for requests that ask for one of names. The feed publishes from outside
// of handlers.
func newApp(names hosts, more ...mesherstream.Option) (*fiber.App, *mesherstream.Manager, *feed, error) {
	app := fiber.New(fiber.Config{
		BodyLimit:             maxBodyBytes,
		ReadTimeout:           10 * time.Second,
		DisableStartupMessage: true,
		ErrorHandler:          jsonError,
	})
	// A small window shows earlier that a page is slow, which is what this example is for. A log that was read at breakfast
	// is still there for a page that is opened in the evening. What a page that reads half as fast as events come is missing
	// can be loaded for as long as the gap is in its list of 5,000 items.
	options := []mesherstream.Option{
		mesherstream.WithApp(app), mesherstream.WithWindow(128),
		mesherstream.WithHistory(20_000), mesherstream.WithHistoryAge(24 * time.Hour),
	}
	m, err := mesherstream.NewManager(append(options, more...)...)
	if err != nil {
		return nil, nil, nil, err
	}
	feed := newFeed(m)

	app.Use(names.check)
	app.Use(m.Handler())
	app.Get("/", serveFile("index.html"))
	app.Get("/clients", serveFile("clients.html"))
	app.Get("/assets/:file", serveAsset)
	app.Get("/stats", serveStats)

	api := app.Group("/api/v1", sameOrigin)
	api.Post("/events", feed.postEvent)
	api.Get("/issues", feed.getIssues)
	api.Post("/issues/:id/:action", feed.postIssue)
	api.Post("/clients/:id/disconnect", postDisconnect)
	return app, m, feed, nil
}

func serveStats(c *fiber.Ctx) error {
	return c.JSON(mesherstream.From(c).Stats())
}

// jsonError answers every error with its status and a reason.
func jsonError(c *fiber.Ctx, err error) error {
	status := fiber.StatusInternalServerError
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		status = e.Code
	}
	switch {
	case errors.Is(err, mesherstream.ErrClosed):
		status = fiber.StatusServiceUnavailable
	case errors.Is(err, mesherstream.ErrUnknownClient):
		status = fiber.StatusNotFound
	}
	return c.Status(status).JSON(fiber.Map{"error": err.Error()})
}
