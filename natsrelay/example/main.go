// Command example runs two nodes of one app in one process, with a NATS server between them. An event posted to one
// node arrives in the browsers of both. Nothing has to be installed.
//
//	go run ./natsrelay/example
//
// Open http://127.0.0.1:3001 and http://127.0.0.1:3002 side by side, and send an event in either. With -nats, the
// command uses a server that runs elsewhere. Further processes with other -ports can then join.
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
		// Each node has its own connection, as if they were on different machines.
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
		return nil, errors.New("the embedded NATS server did not start")
	}
	return ns, nil
}

// newNode returns an app that runs on many nodes. The relay is the only difference from an app on one node.
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
