//go:build linux

package main

import (
	"bytes"
	"net"
	"net/http"

	"github.com/olahol/melody"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// melodyServer uses melody as its README does, and BroadcastFilter where clients have filters.
type melodyServer struct {
	hub      *melody.Melody
	filtered bool
}

const melodyKey = "subscription"

func newMelody(c harness.Config) (harness.Server, error) {
	return &melodyServer{hub: melody.New(), filtered: c.Filtered}, nil
}

func (s *melodyServer) Serve(listener net.Listener) error {
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sub := feed.SubscriptionOf(r.RequestURI)
		_ = s.hub.HandleRequestWithKeys(w, r, map[string]any{melodyKey: &sub})
	}))
}

func (s *melodyServer) Broadcast(e feed.Event) {
	e.Data = bytes.Clone(e.Data) // queued
	if !s.filtered {
		_ = s.hub.Broadcast(e.Data)
		return
	}
	// The hub calls the filter on its own goroutine, later.
	_ = s.hub.BroadcastFilter(e.Data, func(session *melody.Session) bool {
		return session.Keys[melodyKey].(*feed.Subscription).Wants(&e)
	})
}

func (s *melodyServer) Clients() int { return s.hub.Len() }
