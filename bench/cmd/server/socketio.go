//go:build linux

package main

import (
	"bytes"
	"net"

	"github.com/gofiber/contrib/socketio"
	"github.com/gofiber/fiber/v2"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// socketIO is gofiber's own hub. It has no filters, so with filters the program keeps its own list and emits to each.
type socketIO struct {
	*registry[*socketio.Websocket]
	app      *fiber.App
	filtered bool
}

func newSocketIO(c harness.Config) (harness.Server, error) {
	s := &socketIO{registry: newRegistry[*socketio.Websocket](), app: newFiberApp(), filtered: c.Filtered}
	socketio.On(socketio.EventDisconnect, func(p *socketio.EventPayload) { s.remove(p.Kws) })
	s.app.Get(feed.PathPrefix+":project", socketio.New(func(kws *socketio.Websocket) {
		s.add(kws, feed.Subscription{
			Project:     kws.Params("project"),
			Level:       kws.Query("level"),
			Environment: kws.Query("environment"),
		})
	}))
	return s, nil
}

func (s *socketIO) Serve(listener net.Listener) error { return s.app.Listener(listener) }

func (s *socketIO) Broadcast(e feed.Event) {
	data := bytes.Clone(e.Data) // queued
	if !s.filtered {
		socketio.Broadcast(data, socketio.TextMessage)
		return
	}
	// Emit may block until a client reads, and its disconnect needs the registry's lock: it is called outside.
	var wanting []*socketio.Websocket
	s.each(&e, func(kws *socketio.Websocket) bool {
		wanting = append(wanting, kws)
		return true
	})
	for _, kws := range wanting {
		kws.Emit(data, socketio.TextMessage)
	}
}
