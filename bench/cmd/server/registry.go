//go:build linux

package main

import (
	"sync"
	"sync/atomic"

	"github.com/mesher/mesherstream/bench/internal/feed"
)

// registry is the set of clients that a program keeps by hand where its library keeps none. It is kept by project, as anybody
// would who has many of them: a broadcast looks at the clients of its own project only.
type registry[C comparable] struct {
	count atomic.Int64 // of clients, so that it can be read while a broadcast hangs

	mu       sync.Mutex
	clients  map[C]string // and the project of each
	projects map[string]map[C]feed.Subscription
}

func newRegistry[C comparable]() *registry[C] {
	return &registry[C]{clients: make(map[C]string), projects: make(map[string]map[C]feed.Subscription)}
}

func (r *registry[C]) add(c C, s feed.Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[c] = s.Project
	if r.projects[s.Project] == nil {
		r.projects[s.Project] = make(map[C]feed.Subscription)
	}
	r.projects[s.Project][c] = s
	r.count.Store(int64(len(r.clients)))
}

// remove reports whether c was there.
func (r *registry[C]) remove(c C) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	project, there := r.clients[c]
	delete(r.clients, c)
	delete(r.projects[project], c)
	r.count.Store(int64(len(r.clients)))
	return there
}

// each calls do for every client that wants the event, under the registry's lock, and removes those for which it returns false.
func (r *registry[C]) each(e *feed.Event, do func(C) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ofProject := r.projects[e.Project]
	for c, s := range ofProject {
		if s.Wants(e) && !do(c) {
			delete(r.clients, c)
			delete(ofProject, c)
		}
	}
	r.count.Store(int64(len(r.clients)))
}

// Clients makes a registry half of a harness.Server.
func (r *registry[C]) Clients() int { return int(r.count.Load()) }
