//go:build linux

package main

import (
	"io"
	"net"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// gobwasServer upgrades without copies, compiles a frame once, and writes it to each connection in turn.
type gobwasServer struct {
	*registry[net.Conn]
}

func newGobwas(harness.Config) (harness.Server, error) {
	return &gobwasServer{registry: newRegistry[net.Conn]()}, nil
}

func (s *gobwasServer) Serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go s.read(conn)
	}
}

func (s *gobwasServer) read(conn net.Conn) {
	defer conn.Close()
	var sub feed.Subscription
	upgrader := ws.Upgrader{OnRequest: func(uri []byte) error {
		sub = feed.SubscriptionOf(string(uri))
		return nil
	}}
	if _, err := upgrader.Upgrade(conn); err != nil {
		return
	}
	s.add(conn, sub)
	defer s.remove(conn)
	for {
		// Answers pings, and returns an error for a close frame.
		if _, _, err := wsutil.ReadClientData(conn); err != nil {
			return
		}
	}
}

func (s *gobwasServer) Broadcast(e feed.Event) {
	frame := ws.MustCompileFrame(ws.NewTextFrame(e.Data))
	s.each(&e, func(conn net.Conn) bool {
		n, err := conn.Write(frame)
		return err == nil || (err == io.ErrShortWrite && n > 0)
	})
}
