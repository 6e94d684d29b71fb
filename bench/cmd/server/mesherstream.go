//go:build linux

package main

import (
	"net"

	"github.com/gofiber/fiber/v2"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// mesherstreamServer is this repository's library with its defaults.
type mesherstreamServer struct {
	app     *fiber.App
	manager *mesherstream.Manager
}

func newMesherstream(harness.Config) (harness.Server, error) {
	app := newFiberApp()
	manager, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		return nil, err
	}
	app.Use(manager.Handler())
	return &mesherstreamServer{app: app, manager: manager}, nil
}

func (s *mesherstreamServer) Serve(listener net.Listener) error { return s.app.Listener(listener) }

func (s *mesherstreamServer) Broadcast(e feed.Event) {
	// It fails after Shutdown and for what is too large to be buffered, and here is neither.
	_ = s.manager.Broadcast(mesherstream.Message{
		Project: e.Project, Level: e.Level, Environment: e.Environment, Data: e.Data,
	})
}

func (s *mesherstreamServer) Clients() int { return s.manager.Stats().Clients }
