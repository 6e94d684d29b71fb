//go:build linux

package main

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/tmaxmax/go-sse"

	"github.com/mesher/mesherstream/bench/internal/feed"
	"github.com/mesher/mesherstream/bench/internal/harness"
)

// tmaxmaxServer is tmaxmax/go-sse with its default provider, and a topic for each project.
type tmaxmaxServer struct {
	hub *sse.Server
}

// countingProvider is the default provider, and the number of its subscriptions.
type countingProvider struct {
	sse.Joe
	count atomic.Int64
}

func (p *countingProvider) Subscribe(ctx context.Context, s sse.Subscription) error {
	p.count.Add(1)
	defer p.count.Add(-1)
	return p.Joe.Subscribe(ctx, s)
}

func newTmaxmax(harness.Config) (harness.Server, error) {
	return &tmaxmaxServer{hub: &sse.Server{
		Provider: &countingProvider{},
		OnSession: func(w http.ResponseWriter, r *http.Request) (topics []string, allowed bool) {
			// Otherwise the head is sent with the first event.
			w.Header().Set("Content-Type", "text/event-stream")
			if http.NewResponseController(w).Flush() != nil {
				return nil, false
			}
			sub := feed.SubscriptionOf(r.RequestURI)
			return []string{sub.Project}, true
		},
	}}, nil
}

func (s *tmaxmaxServer) Serve(listener net.Listener) error { return http.Serve(listener, s.hub) }

func (s *tmaxmaxServer) Broadcast(e feed.Event) {
	message := &sse.Message{}
	message.AppendData(string(e.Data))
	_ = s.hub.Publish(message, e.Project) // it fails after Shutdown
}

func (s *tmaxmaxServer) Clients() int { return int(s.hub.Provider.(*countingProvider).count.Load()) }
