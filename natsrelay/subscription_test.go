package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// governed is an embedded NATS server whose options change while it runs. They bind the user "app". The user "free" is
// bound only by max_payload.
type governed struct {
	*server.Server
	tb   testing.TB
	opts *server.Options
}

func govern(tb testing.TB, opts *server.Options) *governed {
	tb.Helper()
	opts.NoSigs, opts.NoLog, opts.Host, opts.Port = true, true, "127.0.0.1", -1
	g := &governed{tb: tb, opts: opts}
	g.permit(nil)
	ns, err := server.NewServer(opts.Clone())
	if err != nil {
		tb.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(20 * time.Second) {
		tb.Fatal("the embedded NATS server doesn't start")
	}
	tb.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	g.Server = ns
	return g
}

// permit makes "app" a user with these permissions; nil permits everything.
func (g *governed) permit(p *server.Permissions) {
	g.opts.Users = []*server.User{{Username: "app", Password: "p", Permissions: p}, {Username: "free", Password: "p"}}
}

// reload makes the server run with other options.
func (g *governed) reload(change func()) {
	g.tb.Helper()
	change()
	opts := g.opts.Clone()
	opts.Port = g.Addr().(*net.TCPAddr).Port
	if err := g.ReloadOptions(opts); err != nil {
		g.tb.Fatal(err)
	}
}

func (g *governed) as(user string, opts ...nats.Option) *nats.Conn {
	g.tb.Helper()
	return connect(g.tb, g.ClientURL(), append([]nats.Option{nats.UserInfo(user, "p")}, opts...)...)
}

func denySubscribe(subjects ...string) *server.Permissions {
	return &server.Permissions{Subscribe: &server.SubjectPermission{Deny: subjects}}
}

func denyPublish(subjects ...string) *server.Permissions {
	return &server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}
}

func TestSubscribeReturnsWhatNATSRefuses(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	g.reload(func() { g.permit(denySubscribe("mesherstream.project.secret")) })
	relay := New(g.as("app"))
	for range 3 { // it is an error each time, not only when the last error changes
		_, err := relay.Subscribe(flushContext(t), "secret", func(mesherstream.RelayMessage) {})
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Fatalf("Subscribe: got %v, want a permissions violation", err)
		}
		end, err := relay.Subscribe(flushContext(t), "shop", func(mesherstream.RelayMessage) {})
		if err != nil {
			t.Fatalf("Subscribe to what is permitted: got %v, want no error", err)
		}
		end()
	}
	if relay.inbox != nil {
		t.Error("a goroutine is left")
	}
}

func TestAProjectThatNATSRefusesIsFollowedOncePermitted(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	g.reload(func() { g.permit(denySubscribe("mesherstream.project.shop")) })
	a, b := newNode(t, New(g.as("app"))), newNode(t, New(g.as("free")))
	v, other := a.watch("shop"), a.watch("blog")
	a.eventually("it is told", func() bool {
		return a.m.Stats().RelayAway && a.logs.Count("can't be followed") == 1 && a.logs.Count("Permissions Violation") == 1
	})
	if err := b.m.Broadcast(mesherstream.Message{Project: "blog", Data: []byte("permitted")}); err != nil {
		t.Fatal(err)
	}
	other.wants("permitted")
	g.reload(func() { g.permit(nil) })
	arrive("b", b, v)
	a.eventually("nothing is away", func() bool { return !a.m.Stats().RelayAway })
}

func TestAPermissionThatIsWithdrawnIsToldAndComesBack(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	a, b := newNode(t, New(g.as("app"))), newNode(t, New(g.as("free")))
	v := a.watch("shop")
	arrive("before", b, v)
	for episode := 1; episode <= 2; episode++ {
		g.reload(func() { g.permit(denySubscribe("mesherstream.project.*")) })
		a.eventually("it is told", func() bool { return a.m.Stats().RelayAway && a.logs.Count("the relay refuses projects") == episode })
		g.reload(func() { g.permit(nil) })
		arrive(fmt.Sprint("again, episode ", episode), b, v)
		a.eventually("it is told", func() bool { return !a.m.Stats().RelayAway && a.logs.Count("the relay is back") == episode })
	}
	checkNoneTwice(t, v)
}

func TestASubscriptionWithoutAManagerComesBackToo(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	relay, other := New(g.as("app")), New(g.as("free"))
	var received atomic.Int64
	end, err := relay.Subscribe(flushContext(t), "shop", func(mesherstream.RelayMessage) { received.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	g.reload(func() { g.permit(denySubscribe(">")) })
	eventually(t, "it is told", func() bool {
		s := relay.Status()
		return s.Away && s.Unfollowed == 1 && errors.Is(s.Reason, nats.ErrPermissionViolation)
	}, func() any { return relay.Status() })
	g.reload(func() { g.permit(nil) })
	eventually(t, "it receives", func() bool {
		if err := other.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop"}}); err != nil {
			t.Fatal(err)
		}
		return received.Load() > 0
	}, func() any { return relay.Status() })
	if s := relay.Status(); s.Away || s.Unfollowed != 0 {
		t.Errorf("Status: got %+v, want nothing away", s)
	}
	g.reload(func() { g.permit(denySubscribe(">")) })
	eventually(t, "it is told", func() bool { return relay.Status().Away }, func() any { return relay.Status() })
	end() // while it is retried; TestMain finds remaining goroutines
	if s := relay.Status(); s.Away {
		t.Errorf("Status: got %+v, want nothing away when there are no subscriptions", s)
	}
}

func TestSubscriptionsBeyondALimitAreRefusedUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{MaxSubs: 2})
	relay := New(g.as("app"))
	receive := func(mesherstream.RelayMessage) {}
	var ends []func()
	for i := range 2 {
		end, err := relay.Subscribe(flushContext(t), fmt.Sprint(i), receive)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	for range 2 {
		if _, err := relay.Subscribe(flushContext(t), "third", receive); !errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
			t.Fatalf("Subscribe: got %v, want it to exceed the maximum", err)
		}
	}
	ends[0]()
	end, err := relay.Subscribe(flushContext(t), "third", receive)
	if err != nil {
		t.Fatalf("Subscribe when there is room: got %v, want no error", err)
	}
	if s := relay.Status(); s.Unfollowed != 0 {
		t.Errorf("Status: got %+v, want all followed", s)
	}
	end()
	ends[1]()
}

// The connection subscribes again by itself, and the server doesn't say which subscriptions exceed the limit.
func TestAnotherServerTakesFewerSubscriptions(t *testing.T) {
	t.Parallel()
	large, small := govern(t, &server.Options{}), govern(t, &server.Options{MaxSubs: 3})
	conn := large.as("app")
	if err := conn.SetServerPool([]string{large.ClientURL(), small.ClientURL()}); err != nil {
		t.Fatal(err)
	}
	relay, other := New(conn), New(small.as("free"))
	const projects = 5
	var received [projects]atomic.Int64
	var ends []func()
	for i := range projects {
		end, err := relay.Subscribe(flushContext(t), fmt.Sprint(i), func(mesherstream.RelayMessage) { received[i].Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	large.Shutdown()
	eventually(t, "two of five are refused", func() bool { return relay.Status().Unfollowed == 2 }, func() any { return relay.Status() })
	followed := func() (n int) {
		for i := range projects {
			if err := other.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: fmt.Sprint(i)}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range projects {
			if received[i].Load() > 0 {
				n++
			}
		}
		return n
	}
	eventually(t, "three receive", func() bool { return followed() == 3 }, func() any { return relay.Status() })
	for i, end := range ends {
		if received[i].Load() > 0 {
			end()
		}
	}
	eventually(t, "the other two do, when there is room", func() bool { return followed() == projects && relay.Status().Unfollowed == 0 },
		func() any { return relay.Status() })
	for _, end := range ends {
		end()
	}
}

func TestAUserThatIsRevokedIsAwayUntilItIsBack(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	a, b := newNode(t, New(g.as("app", nats.IgnoreAuthErrorAbort()))), newNode(t, New(g.as("free")))
	v := a.watch("shop")
	arrive("before", b, v)
	g.reload(func() { g.permit(nil); g.opts.Users = g.opts.Users[1:] })
	a.eventually("it is away, and the log tells why", func() bool {
		return a.m.Stats().RelayAway && a.logs.Count("the relay is away") == 1
	})
	g.reload(func() { g.permit(nil) })
	arrive("again", b, v)
	a.eventually("it is back", func() bool { return !a.m.Stats().RelayAway })
}

func TestAConnectionThatNATSClosesForGoodSaysWhy(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	conn := g.as("app")
	a := newNode(t, New(conn))
	a.watch("shop")
	g.reload(func() { g.opts.Users = g.opts.Users[1:] })
	a.eventually("the log tells that it is over", func() bool { return a.m.Stats().RelayAway && conn.IsClosed() })
	if s := New(conn).Status(); !s.Away || !errors.Is(s.Reason, nats.ErrConnectionClosed) || !strings.Contains(strings.ToLower(s.Reason.Error()), "authorization") {
		t.Errorf("Status: got %+v, want a connection that is closed, and why", s)
	}
}

func TestMessagesThatANodeIsTooSlowForAreTold(t *testing.T) {
	t.Parallel()
	ns := embedded(t)
	relay, other := New(inProcess(t, ns), WithPending(1)), New(inProcess(t, ns))
	n := newNode(t, relay)
	n.watch("blog") // starts the manager
	held := make(chan struct{})
	unsubscribe, err := relay.Subscribe(flushContext(t), "shop", func(mesherstream.RelayMessage) { <-held })
	if err != nil {
		t.Fatal(err)
	}
	defer unsubscribe()
	defer close(held)
	n.eventually("the log tells it", func() bool {
		if err := other.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop"}}); err != nil {
			t.Fatal(err)
		}
		return n.logs.Count("this node misses messages") == 1 && n.m.Stats().RelayMissed > 0
	})
}

// A server that finds a client too slow ends the connection without telling the client.
func TestAConnectionThatBreaksForAMomentIsTold(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{MaxPending: 64 << 10, MaxPayload: 32 << 10})
	s := &gated{}
	a, b := newNode(t, New(g.as("app", nats.SetCustomDialer(s)))), newNode(t, New(g.as("free")))
	v := a.watch("shop")
	arrive("before", b, v)
	s.gate.Lock()
	b.eventually("the server finds it too slow", func() bool {
		b.broadcast(strings.Repeat("x", 16<<10))
		return g.NumSlowConsumers() > 0
	})
	s.gate.Unlock()
	a.eventually("the log and the Stats tell it", func() bool {
		s := a.m.Stats()
		return a.logs.Count("the relay is away") == 1 && a.logs.Count("the relay is back") == 1 && s.RelayBreaks == 1 && !s.RelayAway
	})
	arrive("after", b, v)
}

func TestErrorHandlersOfTheApplicationStay(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	g.reload(func() { g.permit(denyPublish("mesherstream.project.shop", "other")) })
	var first, second atomic.Int64
	conn := g.as("app", nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { first.Add(1) }))
	relays := [2]*Relay{New(conn), New(conn)}
	publish := func(want ...uint64) {
		t.Helper()
		for _, r := range relays {
			for range 3 {
				if err := r.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop"}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := conn.Publish("other", nil); err != nil { // the application's own
			t.Fatal(err)
		}
		for i, r := range relays {
			if err := r.Flush(flushContext(t)); err != nil {
				t.Fatal(err)
			}
			if got := r.Status().Lost; got != want[i] {
				t.Errorf("relay %d: got %d lost, want %d", i, got, want[i])
			}
		}
	}
	publish(3, 3)
	if got := first.Load(); got != 7 {
		t.Errorf("the application's handler has heard %d, want 7", got)
	}

	before := conn.ErrorHandler() // the new handler calls it, like an application that wants to keep it
	conn.SetErrorHandler(func(c *nats.Conn, s *nats.Subscription, err error) { second.Add(1); before(c, s, err) })
	publish(6, 6)
	if got, then := first.Load(), second.Load(); got != 14 || then != 7 {
		t.Errorf("the application's handlers have heard %d and %d, want 14 and 7", got, then)
	}

	conn.SetErrorHandler(nil)
	for _, r := range relays {
		r.Status()
	}
	publish(9, 9)
}

func TestManagersThatShareARelayCountTheirOwn(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	g.reload(func() { g.permit(denyPublish("mesherstream.project.shop")) })
	relay := New(g.as("app"))
	a, b := newNode(t, relay), newNode(t, relay)
	for range 3 {
		a.broadcast("refused")
	}
	if err := b.m.Broadcast(mesherstream.Message{Project: "blog", Data: []byte("permitted")}); err != nil {
		t.Fatal(err)
	}
	a.eventually("three are dropped", func() bool { return a.m.Stats().RelayDropped == 3 })
	b.eventually("one is published", func() bool { return b.m.Stats().RelayPublished == 1 })
	if s, o := a.m.Stats(), b.m.Stats(); s.RelayPublished != 0 || o.RelayDropped != 0 {
		t.Errorf("Stats(): got %+v and %+v, want none published by the one and none dropped by the other", s.RelayStats, o.RelayStats)
	}
}

func TestAContextThatIsDoneDoesNotKeepASubscription(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	g.reload(func() { g.permit(denySubscribe("mesherstream.project.shop")) })
	relay := New(g.as("app"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	end, err := relay.Subscribe(ctx, "shop", func(mesherstream.RelayMessage) {})
	if err != nil {
		return // the refusal was heard nevertheless
	}
	eventually(t, "it is told later", func() bool { return relay.Status().Unfollowed == 1 }, func() any { return relay.Status() })
	end()
}

// gated dials connections that read nothing while gate is held.
type gated struct{ gate sync.RWMutex }

func (g *gated) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return &gatedConn{conn, g}, nil
}

func (g *gated) wait() {
	g.gate.RLock()
	defer g.gate.RUnlock()
}

type gatedConn struct {
	net.Conn
	g *gated
}

func (c *gatedConn) Read(p []byte) (int, error) {
	c.g.wait()
	return c.Conn.Read(p)
}
