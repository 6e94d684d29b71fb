//go:build linux

package main

import (
	"net"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// fiberHub is what most Fiber programs do: a mutex, a map, and WriteMessage in a loop.
type fiberHub struct {
	*registry[*websocket.Conn]
	app *fiber.App
}

func newFiberHub(harness.Config) (harness.Server, error) {
	h := &fiberHub{registry: newRegistry[*websocket.Conn](), app: newFiberApp()}
	h.app.Get(feed.PathPrefix+":project", websocket.New(func(conn *websocket.Conn) {
		h.add(conn, feed.Subscription{
			Project:     conn.Params("project"),
			Level:       conn.Query("level"),
			Environment: conn.Query("environment"),
		})
		defer h.remove(conn)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}))
	return h, nil
}

func newFiberApp() *fiber.App {
	return fiber.New(fiber.Config{DisableStartupMessage: true})
}

func (h *fiberHub) Serve(listener net.Listener) error { return h.app.Listener(listener) }

func (h *fiberHub) Broadcast(e feed.Event) {
	h.each(&e, func(conn *websocket.Conn) bool {
		return conn.WriteMessage(websocket.TextMessage, e.Data) == nil
	})
}
