//go:build linux

package main

import (
	"bytes"
	"net"
	"net/http"

	"github.com/lxzan/gws"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// gwsServer uses gws with its Broadcaster, which frames a message once and queues it to each client's writer.
type gwsServer struct {
	*registry[*gws.Conn]
	gws.BuiltinEventHandler
}

const gwsKey = "subscription"

func newGWS(harness.Config) (harness.Server, error) {
	return &gwsServer{registry: newRegistry[*gws.Conn]()}, nil
}

func (s *gwsServer) Serve(listener net.Listener) error {
	upgrader := gws.NewUpgrader(s, &gws.ServerOption{
		Authorize: func(r *http.Request, session gws.SessionStorage) bool {
			session.Store(gwsKey, feed.SubscriptionOf(r.RequestURI))
			return true
		},
	})
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		go conn.ReadLoop() // so that the request can be collected, as its README asks
	}))
}

// OnOpen and OnClose are gws's callbacks.
func (s *gwsServer) OnOpen(conn *gws.Conn) {
	sub, _ := conn.Session().Load(gwsKey)
	s.add(conn, sub.(feed.Subscription))
}

func (s *gwsServer) OnClose(conn *gws.Conn, _ error) { s.remove(conn) }

func (s *gwsServer) Broadcast(e feed.Event) {
	broadcaster := gws.NewBroadcaster(gws.OpcodeText, bytes.Clone(e.Data)) // written later, by each client's writer
	defer broadcaster.Close()
	s.each(&e, func(conn *gws.Conn) bool { return broadcaster.Broadcast(conn) == nil })
}
