package main

import (
	"sync"
	"sync/atomic"

	"github.com/mesher/mesherstream/bench/internal/feed"
)

// registry is the set of clients that a program keeps by hand where its library keeps none.
type registry[C comparable] struct {
	count atomic.Int64 // of clients, so that it can be read while a broadcast hangs

	mu      sync.Mutex
	clients map[C]feed.Subscription
}

func newRegistry[C comparable]() *registry[C] {
	return &registry[C]{clients: make(map[C]feed.Subscription)}
}

func (r *registry[C]) add(c C, s feed.Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[c] = s
	r.count.Store(int64(len(r.clients)))
}

// remove reports whether c was there.
func (r *registry[C]) remove(c C) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, there := r.clients[c]
	delete(r.clients, c)
	r.count.Store(int64(len(r.clients)))
	return there
}

// each calls do for every client that wants the event, under the registry's lock, and removes those for which it returns false.
func (r *registry[C]) each(e *feed.Event, do func(C) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, s := range r.clients {
		if s.Wants(e) && !do(c) {
			delete(r.clients, c)
		}
	}
	r.count.Store(int64(len(r.clients)))
}

// Clients makes a registry half of a harness.Server.
func (r *registry[C]) Clients() int { return int(r.count.Load()) }
