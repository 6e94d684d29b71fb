//go:build linux

package main

import (
	"net"
	"net/http"

	"github.com/alexandrevicenzi/go-sse"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// vicenziServer is alexandrevicenzi/go-sse with its default: a channel for each path.
type vicenziServer struct {
	hub *sse.Server
}

func newVicenzi(harness.Config) (harness.Server, error) {
	return &vicenziServer{hub: sse.NewServer(&sse.Options{})}, nil // options without a logger, as the default one prints each message
}

func (s *vicenziServer) Serve(listener net.Listener) error { return http.Serve(listener, s.hub) }

func (s *vicenziServer) Broadcast(e feed.Event) {
	s.hub.SendMessage(feed.PathPrefix+e.Project, sse.SimpleMessage(string(e.Data)))
}

func (s *vicenziServer) Clients() int { return s.hub.ClientCount() }
