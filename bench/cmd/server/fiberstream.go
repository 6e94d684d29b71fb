//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"

	"github.com/gofiber/fiber/v2"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// fiberStream is the way of Fiber's recipe for Server-Sent Events, SetBodyStreamWriter and a Flush for each event, with the
// channel for each client that the recipe leaves out. A client whose channel is full is closed, as in gorillaChat.
type fiberStream struct {
	*registry[chan []byte]
	app *fiber.App
}

func newFiberStream(harness.Config) (harness.Server, error) {
	s := &fiberStream{registry: newRegistry[chan []byte](), app: newFiberApp()}
	s.app.Get(feed.PathPrefix+":project", func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentType, "text/event-stream")
		c.Set(fiber.HeaderCacheControl, "no-cache")
		c.Set(fiber.HeaderConnection, "keep-alive")
		c.Set(fiber.HeaderTransferEncoding, "chunked")
		sub := feed.SubscriptionOf(c.OriginalURL())
		c.Context().SetBodyStreamWriter(func(w *bufio.Writer) { s.write(w, sub) })
		return nil
	})
	return s, nil
}

func (s *fiberStream) write(w *bufio.Writer, sub feed.Subscription) {
	// The head of the response is sent with the first bytes of the body.
	if _, _ = w.WriteString(":\n\n"); w.Flush() != nil {
		return
	}
	queue := make(chan []byte, chatQueue)
	s.add(queue, sub)
	defer s.remove(queue)
	for data := range queue {
		fmt.Fprintf(w, "data: %s\n\n", data) // its error comes again from Flush
		if w.Flush() != nil {
			return
		}
	}
}

func (s *fiberStream) Serve(listener net.Listener) error { return s.app.Listener(listener) }

func (s *fiberStream) Broadcast(e feed.Event) {
	data := bytes.Clone(e.Data) // queued
	s.each(&e, func(queue chan []byte) bool {
		select {
		case queue <- data:
			return true
		default:
			close(queue)
			return false
		}
	})
}
