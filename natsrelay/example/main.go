// Command example is two nodes of one app in one process, with a NATS server between them: an event that is posted to
// one of them arrives in the browsers of both. It needs nothing installed.
//
//	go run ./natsrelay/example
//
// Open http://127.0.0.1:3001 and http://127.0.0.1:3002 side by side, and send something in either. With -nats, it uses a
// server that runs elsewhere, and more of these can be started beside it with other -ports.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/natsrelay"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

//go:embed index.html
var page []byte

func main() {
	ports := flag.String("ports", "3001,3002", "`ports` on 127.0.0.1, one for each node")
	url := flag.String("nats", "", "`URL` of a NATS server (default: one inside this process)")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, strings.Split(*ports, ","), *url); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, ports []string, url string) error {
	var options []nats.Option
	if url == "" {
		ns, err := embeddedServer()
		if err != nil {
			return err
		}
		defer ns.Shutdown()
		options = append(options, nats.InProcessServer(ns))
	}

	failed := make(chan error, len(ports))
	for _, port := range ports {
		// A connection for each, as if they were on different machines.
		conn, err := nats.Connect(url, append(options, nats.NoEcho(), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true))...)
		if err != nil {
			return err
		}
		defer conn.Close()
		app := newNode(port, natsrelay.New(conn))
		go func() { failed <- app.Listen(net.JoinHostPort("127.0.0.1", port)) }()
		defer func() { _ = app.ShutdownWithTimeout(10 * time.Second) }()
		slog.Info("listening, open http://" + net.JoinHostPort("127.0.0.1", port))
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func embeddedServer() (*server.Server, error) {
	ns, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true})
	if err != nil {
		return nil, err
	}
	ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the embedded NATS server doesn't start")
	}
	return ns, nil
}

// newNode is what an app looks like that runs on many nodes: the relay is the only difference.
func newNode(name string, relay mesherstream.Relay) *fiber.App {
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Use(mesherstream.New(mesherstream.WithApp(app), mesherstream.WithRelay(relay)))
	app.Get("/", func(c *fiber.Ctx) error {
		return c.Type("html", "utf-8").Send(page)
	})
	app.Get("/stats", func(c *fiber.Ctx) error {
		return c.JSON(mesherstream.From(c).Stats())
	})
	app.Post("/events/:level", func(c *fiber.Ctx) error {
		return mesherstream.From(c).Broadcast(mesherstream.Message{
			Project: "demo", Level: c.Params("level"), Data: fmt.Appendf(nil, "node %s, %s: %s", name, c.Params("level"), c.Body()),
		})
	})
	return app
}
