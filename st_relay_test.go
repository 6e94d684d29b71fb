package mesherstream

import (
	"context"
	"slices"
	"sync"
	"testing"
)

// exchange is a relay in memory. It delivers within Publish, to the publisher too.
type exchange struct {
	mu        sync.Mutex
	subs      map[string][]*subscription
	published []RelayMessage
	made      int // subscriptions that ever were
	status    RelayStatus

	// What tests set, guarded by mu too.
	copies      int          // each message is delivered so many times
	forget      bool         // published stays empty
	publishing  func() error // called first by Publish
	subscribing func(ctx context.Context, project string) error
	flushing    func(context.Context) error
}

type subscription struct{ receive func(RelayMessage) }

func newExchange() *exchange {
	return &exchange{subs: make(map[string][]*subscription), copies: 1}
}

func (x *exchange) Publish(m RelayMessage) error {
	x.mu.Lock()
	publishing := x.publishing
	x.mu.Unlock()
	if publishing != nil {
		if err := publishing(); err != nil {
			return err
		}
	}
	x.mu.Lock()
	if !x.forget {
		x.published = append(x.published, m)
	}
	copies := x.copies
	x.mu.Unlock()
	for range copies {
		x.deliver(m)
	}
	return nil
}

// deliver hands m to whoever has subscribed to its project.
func (x *exchange) deliver(m RelayMessage) {
	x.mu.Lock()
	subs := slices.Clone(x.subs[m.Project])
	x.mu.Unlock()
	for _, s := range subs {
		s.receive(m)
	}
}

func (x *exchange) Subscribe(ctx context.Context, project string, receive func(RelayMessage)) (func(), error) {
	x.mu.Lock()
	subscribing := x.subscribing
	x.mu.Unlock()
	if subscribing != nil {
		if err := subscribing(ctx, project); err != nil {
			return nil, err
		}
	}
	s := &subscription{receive}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.made++
	x.subs[project] = append(x.subs[project], s)
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.subs[project] = slices.DeleteFunc(x.subs[project], func(o *subscription) bool { return o == s })
	}, nil
}

func (x *exchange) Flush(ctx context.Context) error {
	x.mu.Lock()
	flushing := x.flushing
	x.mu.Unlock()
	if flushing != nil {
		return flushing(ctx)
	}
	return nil
}

func (x *exchange) Status() RelayStatus {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.status
}

func (x *exchange) set(change func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change()
}

// subscribed counts the subscriptions to a project.
func (x *exchange) subscribed(project string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.subs[project])
}

// overNodes runs a scenario with n nodes that share an exchange, over every transport.
func overNodes(t *testing.T, n int, scenario func(x *exchange, nodes []*world)) {
	overTransports(t, func(first *world) { first.withNodes(n, scenario) })
}

// nodesInBubble does that in a bubble only, where time is exact.
func nodesInBubble(t *testing.T, n int, scenario func(x *exchange, nodes []*world)) {
	inBubble(t, func(first *world) { first.withNodes(n, scenario) })
}

func (w *world) withNodes(n int, scenario func(x *exchange, nodes []*world)) {
	x := newExchange()
	nodes := []*world{w}
	w.start(WithRelay(x), WithMaxBuffer(10_000))
	var next func()
	next = func() {
		if len(nodes) == n {
			scenario(x, nodes)
			return
		}
		node := &world{T: w.T, transport: w.transport}
		nodes = append(nodes, node)
		node.play(func(node *world) {
			node.start(WithRelay(x), WithMaxBuffer(10_000))
			next()
		})
	}
	next()
}
