package mesherstream

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesher/mesherstream/internal/link"
)

// hearing is a link to a client that keeps every short message. The test reads it on the shard's goroutine.
type hearing struct {
	sink
	heard []string
}

func (h *hearing) Write(p []byte, _ []int, then []byte) (sent, held int, err error) {
	for rest := p; len(rest) > 0; {
		n := 2 + int(rest[1])
		h.heard = append(h.heard, string(rest[2:n]))
		rest = rest[n:]
	}
	return len(p) + len(then), 0, nil
}

// of returns what was heard of one publisher or project: the messages that begin with that.
func (h *hearing) of(c *client, prefix string) (heard []string) {
	c.shard.ask(func() { heard = slices.Clone(h.heard) })
	return slices.DeleteFunc(heard, func(text string) bool { return !strings.HasPrefix(text, prefix) })
}

// withShards runs a test as on a machine with that many CPUs, so that a manager has as many shards.
func withShards(t *testing.T, n int) {
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// within fails if fn hangs.
func within(t *testing.T, d time.Duration, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(d):
		buf := make([]byte, 1<<20)
		t.Fatalf("hangs after %v\n%s", d, buf[:runtime.Stack(buf, true)])
	}
}

func TestAllClientsReceiveTheMessagesOfAProjectInOneOrder(t *testing.T) {
	withShards(t, 4)
	const publishers, each = 6, 300
	x := newBus()
	m := startManager(t, WithMaxBuffer(50), WithRelay(x))
	var links []*hearing
	var clients []*client
	join := func() {
		h := &hearing{}
		links, clients = append(links, h), append(clients, connect(t, m, Subscription{Project: "p"}, func(*client) link.Link { return h }))
	}
	for range 8 {
		join()
	}
	var all sync.WaitGroup
	for n := range publishers {
		all.Go(func() {
			for i := range each {
				// From this node and from another one, to the project and to all projects.
				msg := Message{Project: "p", Data: fmt.Appendf(nil, "p %d/%d", n, i)}
				if n%3 == 1 {
					msg = Message{Data: fmt.Appendf(nil, "all %d/%d", n, i)}
				}
				if n%3 == 2 {
					x.deliver(RelayMessage{Node: fmt.Sprint("node ", n), Seq: uint64(i + 1), Message: msg})
				} else if err := m.Broadcast(msg); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 40 { // newcomers hear the rest of the same order
		join()
	}
	all.Wait()
	for _, prefix := range []string{"p", "all"} {
		want := links[0].of(clients[0], prefix)
		if len(want) != publishers*each*map[string]int{"p": 2, "all": 1}[prefix]/3 {
			t.Fatalf("%s: the first client has heard %d messages", prefix, len(want))
		}
		for i, h := range links[1:] {
			got := h.of(clients[i+1], prefix)
			if i+1 < 8 && len(got) != len(want) {
				t.Fatalf("%s: client %d has heard %d messages, want %d", prefix, i+1, len(got), len(want))
			}
			if first := len(want) - len(got); !slices.Equal(got, want[max(first, 0):]) {
				t.Fatalf("%s: client %d, which has heard %d messages, has heard them in another order than the first one", prefix, i+1, len(got))
			}
		}
	}
}

// A registration has its place in the order, too: no message is numbered, or cast, while it goes on.
func TestAClientIsRegisteredInTheOrderOfItsMessages(t *testing.T) {
	for _, project := range []string{"p", ""} {
		m := startManager(t)
		s := m.shards[0]
		locked := func(project string) bool {
			f := m.history.lookUp(project)
			if f != nil && f.order.TryLock() {
				f.order.Unlock()
				return false
			}
			return f != nil
		}
		s.mu.Lock() // the registration has got as far as the shard
		p, _ := m.reserve("")
		c := &client{id: ClientID(len(m.shards)), shard: s, place: p, link: sink{}, sub: Subscription{Project: project}}
		done := make(chan error)
		go func() { done <- s.register(c) }()
		deadline := time.Now().Add(10 * time.Second)
		for !locked(project) || !locked("") {
			if time.Now().After(deadline) {
				s.mu.Unlock()
				t.Fatalf("%q: a client is registered without the lock on the order of the project and of all projects", project)
			}
			runtime.Gosched()
		}
		s.mu.Unlock()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if locked(project) || locked("") {
			t.Errorf("%q: the order is still locked after the registration", project)
		}
	}
}

// lookUp returns the feed of a project, or nil.
func (h *history) lookUp(project string) *feed {
	p := h.part(project)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.feeds[project]
}

// Everything that may publish does so at once, with inboxes that are full all the time: publishers hold the order locks
// while they wait for the shards, and no shard may ever wait for them.
func TestNothingThatPublishesWaitsForItself(t *testing.T) {
	withShards(t, 3)
	x := newBus()
	var nodes [2]*Manager
	var published atomic.Int64
	publish := func(n int, project, text string) {
		_ = nodes[n].Broadcast(Message{Project: project, Level: text, Data: []byte(text)}) // ErrClosed between two runs
		published.Add(1)
	}
	for n := range nodes {
		say := func(text string) func(c Client) {
			return func(c Client) {
				publish(n, c.Project, text)
				publish(n, "", text)
				_ = nodes[n].SetFilter(c.ID, Filter{Levels: []string{text}})
			}
		}
		m, err := NewManager(WithLogger(slog.New(slog.DiscardHandler)), WithRelay(x), WithMaxBuffer(1), WithDrainInterval(time.Millisecond), WithHooks(Hooks{
			Connect: say("connect"), Slow: say("slow"),
			Drop:       func(c Client, _ uint64) { publish(n, c.Project, "drop"); _ = nodes[n].Disconnect(c.ID, 1000, "") },
			Disconnect: func(c Client, _ int, _ string) { publish(n, c.Project, "disconnect") },
		}))
		if err != nil {
			t.Fatal(err)
		}
		nodes[n] = m
	}
	within(t, 5*time.Minute, func() {
		for round := range 20 {
			for _, m := range nodes {
				if err := m.start(true); err != nil {
					t.Fatal(err)
				}
			}
			var all sync.WaitGroup
			for n, m := range nodes {
				for i := range 3 {
					all.Go(func() {
						for j := range 100 {
							publish(n, []string{"a", "b", ""}[(i+j)%3], "message")
						}
					})
					all.Go(func() {
						random := rand.New(rand.NewPCG(uint64(round), uint64(i)))
						for range 10 {
							p, err := m.reserve("")
							if err != nil {
								return // the shutdown has begun
							}
							id := ClientID(m.lastID.Add(1))
							c := &client{id: id, shard: m.shardOf(id), place: p, connectedAt: time.Now(), sub: Subscription{Project: []string{"a", "b", ""}[random.IntN(3)]}}
							c.link = []link.Link{sink{}, wall{}}[random.IntN(2)]
							registered := m.relaying.follow(c.sub.Project)
							err = c.shard.register(c)
							registered()
							if err != nil {
								p.release()
								return
							}
							_ = m.BufferMessage(id, []byte("for one"))
							publish(n, c.sub.Project, "joined")
						}
					})
				}
			}
			if round%2 == 0 {
				all.Wait()
			}
			for _, m := range nodes {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond) // no client here answers a close frame
				_ = m.Shutdown(ctx)
				cancel()
			}
			all.Wait()
		}
	})
	if published.Load() < 20*2*300 {
		t.Errorf("got %d calls of Broadcast, want more", published.Load())
	}
}
