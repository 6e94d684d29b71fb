//go:build linux

package main

import (
	"bytes"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

const (
	chatQueue     = 256
	chatWriteWait = 10 * time.Second
	chatPingEvery = 54 * time.Second
	chatPongWait  = 60 * time.Second
)

// gorillaChat follows the pattern of gorilla's chat example: a channel per client, a goroutine that writes, one that reads, whatever waits
// joined into one message, and a client whose channel is full is closed.
type gorillaChat struct {
	*registry[*gorillaClient]
	upgrader websocket.Upgrader // its default buffers are those of net/http, 4 KiB
}

type gorillaClient struct {
	conn  *websocket.Conn
	queue chan []byte
}

func newGorillaChat(harness.Config) (harness.Server, error) {
	return &gorillaChat{registry: newRegistry[*gorillaClient]()}, nil
}

func (g *gorillaChat) Serve(listener net.Listener) error {
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := g.upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		c := &gorillaClient{conn: conn, queue: make(chan []byte, chatQueue)}
		g.add(c, feed.SubscriptionOf(r.RequestURI))
		go c.write()
		go g.read(c)
	}))
}

func (g *gorillaChat) Broadcast(e feed.Event) {
	data := bytes.Clone(e.Data) // queued
	g.each(&e, func(c *gorillaClient) bool {
		select {
		case c.queue <- data:
			return true
		default:
			close(c.queue)
			return false
		}
	})
}

// read sees the client's end. The queue is closed by whoever takes the client out of the registry.
func (g *gorillaChat) read(c *gorillaClient) {
	defer c.conn.Close()
	c.conn.SetReadLimit(512)
	_ = c.conn.SetReadDeadline(time.Now().Add(chatPongWait))
	c.conn.SetPongHandler(func(string) error { return c.conn.SetReadDeadline(time.Now().Add(chatPongWait)) })
	for {
		if _, _, err := c.conn.ReadMessage(); err != nil {
			break
		}
	}
	if g.remove(c) {
		close(c.queue)
	}
}

func (c *gorillaClient) write() {
	defer c.conn.Close()
	ping := time.NewTicker(chatPingEvery)
	defer ping.Stop()
	for {
		select {
		case data, more := <-c.queue:
			_ = c.conn.SetWriteDeadline(time.Now().Add(chatWriteWait))
			if !more {
				_ = c.conn.WriteMessage(websocket.CloseMessage, nil)
				return
			}
			if c.writeAll(data) != nil {
				return
			}
		case <-ping.C:
			_ = c.conn.SetWriteDeadline(time.Now().Add(chatWriteWait))
			if c.conn.WriteMessage(websocket.PingMessage, nil) != nil {
				return
			}
		}
	}
}

// writeAll sends data and what has queued up behind it as one message of several lines.
func (c *gorillaClient) writeAll(data []byte) error {
	w, err := c.conn.NextWriter(websocket.TextMessage)
	if err != nil {
		return err
	}
	_, _ = w.Write(data) // its error comes again from Close
	for range len(c.queue) {
		if data = <-c.queue; data != nil {
			_, _ = w.Write([]byte{'\n'})
			_, _ = w.Write(data)
		}
	}
	return w.Close()
}
