package streamtest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/mesher/mesherstream"
)

// Exchange is a relay in memory. It delivers within Publish, including to the publisher.
type Exchange struct {
	Mu        sync.Mutex
	Subs      map[string][]*Subscription
	Published []mesherstream.RelayMessage
	Made      int // all subscriptions ever made
	State     mesherstream.RelayStatus

	// Set by tests; also guarded by mu.
	Copies      int          // each message is delivered that many times
	forget      bool         // published stays empty
	Publishing  func() error // called first by Publish
	Subscribing func(ctx context.Context, project string) error
	Flushing    func(context.Context) error
}

type Subscription struct {
	Receive func(mesherstream.RelayMessage)
}

func NewExchange() *Exchange {
	return &Exchange{Subs: make(map[string][]*Subscription), Copies: 1}
}

func (x *Exchange) Publish(m mesherstream.RelayMessage) error {
	x.Mu.Lock()
	publishing := x.Publishing
	x.Mu.Unlock()
	if publishing != nil {
		if err := publishing(); err != nil {
			return err
		}
	}
	x.Mu.Lock()
	if !x.forget {
		x.Published = append(x.Published, m)
	}
	copies := x.Copies
	x.Mu.Unlock()
	for range copies {
		x.Deliver(m)
	}
	return nil
}

// Deliver delivers m to all subscribers of its project.
func (x *Exchange) Deliver(m mesherstream.RelayMessage) {
	x.Mu.Lock()
	subs := slices.Clone(x.Subs[m.Project])
	x.Mu.Unlock()
	for _, s := range subs {
		s.Receive(m)
	}
}

func (x *Exchange) Subscribe(ctx context.Context, project string, receive func(mesherstream.RelayMessage)) (func(), error) {
	x.Mu.Lock()
	subscribing := x.Subscribing
	x.Mu.Unlock()
	if subscribing != nil {
		if err := subscribing(ctx, project); err != nil {
			return nil, err
		}
	}
	s := &Subscription{receive}
	x.Mu.Lock()
	defer x.Mu.Unlock()
	x.Made++
	x.Subs[project] = append(x.Subs[project], s)
	return func() {
		x.Mu.Lock()
		defer x.Mu.Unlock()
		x.Subs[project] = slices.DeleteFunc(x.Subs[project], func(o *Subscription) bool { return o == s })
	}, nil
}

func (x *Exchange) Flush(ctx context.Context) error {
	x.Mu.Lock()
	flushing := x.Flushing
	x.Mu.Unlock()
	if flushing != nil {
		return flushing(ctx)
	}
	return nil
}

func (x *Exchange) Status() mesherstream.RelayStatus {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	return x.State
}

func (x *Exchange) Set(change func()) {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	change()
}

// Subscribed counts the subscriptions to a project.
func (x *Exchange) Subscribed(project string) int {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	return len(x.Subs[project])
}

// OverNodes runs a scenario with n nodes that share an exchange, over every transport.
func OverNodes(t *testing.T, n int, scenario func(x *Exchange, nodes []*World)) {
	OverTransports(t, func(first *World) { first.withNodes(n, scenario) })
}

// NodesInBubble does the same, but only in a bubble, where time is exact.
func NodesInBubble(t *testing.T, n int, scenario func(x *Exchange, nodes []*World)) {
	InBubble(t, func(first *World) { first.withNodes(n, scenario) })
}

func (w *World) withNodes(n int, scenario func(x *Exchange, nodes []*World)) {
	x := NewExchange()
	nodes := []*World{w}
	w.Start(mesherstream.WithRelay(x), mesherstream.WithMaxBuffer(10_000))
	var next func()
	next = func() {
		if len(nodes) == n {
			scenario(x, nodes)
			return
		}
		node := &World{T: w.T, Transport: w.Transport}
		nodes = append(nodes, node)
		node.Play(func(node *World) {
			node.Start(mesherstream.WithRelay(x), mesherstream.WithMaxBuffer(10_000))
			next()
		})
	}
	next()
}
