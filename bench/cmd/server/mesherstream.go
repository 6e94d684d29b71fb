//go:build linux

package main

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// mesherstreamServer is this repository's library.
type mesherstreamServer struct {
	app     *fiber.App
	manager *mesherstream.Manager
}

// newMesherstream has the library's defaults.
func newMesherstream(harness.Config) (harness.Server, error) { return mesherstreamWith() }

// newMesherstreamHooks has every hook.
func newMesherstreamHooks(harness.Config) (harness.Server, error) {
	var calls atomic.Int64
	return mesherstreamWith(mesherstream.WithHooks(mesherstream.Hooks{
		Connect:    func(mesherstream.Client) { calls.Add(1) },
		Disconnect: func(mesherstream.Client, int, string) { calls.Add(1) },
		Message:    func(mesherstream.Client, []byte, bool) { calls.Add(1) },
		Slow:       func(mesherstream.Client) { calls.Add(1) },
		Drop:       func(mesherstream.Client, uint64) { calls.Add(1) },
	}))
}

// newMesherstreamHistory has a history, so that clients with the protocol have positions in it.
func newMesherstreamHistory(harness.Config) (harness.Server, error) {
	return mesherstreamWith(mesherstream.WithHistory(100))
}

// newMesherstreamCoalescing collects messages for so long.
func newMesherstreamCoalescing(d time.Duration) harness.New {
	return func(harness.Config) (harness.Server, error) { return mesherstreamWith(mesherstream.WithCoalescing(d)) }
}

func mesherstreamWith(options ...mesherstream.Option) (harness.Server, error) {
	app := newFiberApp()
	manager, err := mesherstream.NewManager(append(options, mesherstream.WithApp(app))...)
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
