//go:build linux

package main

import (
	"bytes"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/r3labs/sse/v2"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// r3labsServer is r3labs/sse with a stream for each project. It doesn't keep its log of all events, which is never cut.
type r3labsServer struct {
	hub   *sse.Server
	count atomic.Int64
}

func newR3labs(harness.Config) (harness.Server, error) {
	s := &r3labsServer{}
	s.hub = sse.NewWithCallback(
		func(string, *sse.Subscriber) { s.count.Add(1) },
		func(string, *sse.Subscriber) { s.count.Add(-1) },
	)
	s.hub.AutoReplay = false
	return s, nil
}

func (s *r3labsServer) Serve(listener net.Listener) error {
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sub := feed.SubscriptionOf(r.RequestURI)
		s.hub.CreateStream(sub.Project) // or nothing, if it is there
		r.URL.RawQuery = "stream=" + sub.Project
		s.hub.ServeHTTP(w, r)
	}))
}

func (s *r3labsServer) Broadcast(e feed.Event) {
	s.hub.Publish(e.Project, &sse.Event{Data: bytes.Clone(e.Data)}) // queued
}

func (s *r3labsServer) Clients() int { return int(s.count.Load()) }
