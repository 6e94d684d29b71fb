//go:build linux

package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// coderChat follows the pattern of coder's chat example: the handler's goroutine writes what its channel brings, reading is left to
// CloseRead, and a client whose channel is full is closed. The example's channel holds 16 messages, which a burst
// of 100 would turn into a closed connection for everybody; 256 makes it comparable.
type coderChat struct {
	*registry[*coderClient]
}

type coderClient struct {
	conn  *websocket.Conn
	queue chan []byte
}

func newCoderChat(harness.Config) (harness.Server, error) {
	return &coderChat{registry: newRegistry[*coderClient]()}, nil
}

func (s *coderChat) Serve(listener net.Listener) error {
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		c := &coderClient{conn: conn, queue: make(chan []byte, chatQueue)}
		ctx := conn.CloseRead(context.Background())
		s.add(c, feed.SubscriptionOf(r.RequestURI))
		defer s.remove(c)
		for {
			select {
			case data := <-c.queue:
				if c.write(ctx, data) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}))
}

func (c *coderClient) write(ctx context.Context, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.conn.Write(ctx, websocket.MessageText, data)
}

func (s *coderChat) Broadcast(e feed.Event) {
	data := bytes.Clone(e.Data) // queued
	s.each(&e, func(c *coderClient) bool {
		select {
		case c.queue <- data:
			return true
		default:
			go c.conn.Close(websocket.StatusPolicyViolation, "too slow")
			return false
		}
	})
}
