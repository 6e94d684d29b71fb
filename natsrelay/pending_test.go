package natsrelay

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mesher/mesherstream"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func TestWhatNATSDoesNotPermitIsNotPublished(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	g.reload(func() { g.permit(denyPublish("mesherstream.project.shop")) })
	n := newNode(t, New(g.as("app")))
	blog := func() {
		t.Helper()
		if err := n.m.Broadcast(mesherstream.Message{Project: "blog", Data: []byte("permitted")}); err != nil {
			t.Fatal(err)
		}
	}
	const refused, permitted = 500, 3
	for range permitted {
		for range refused {
			n.broadcast("refused")
		}
		blog()
	}
	n.eventually("all have an outcome", func() bool {
		s := n.m.Stats()
		return s.RelayDropped == permitted*refused && s.RelayPublished == permitted
	})
	n.eventually("the log tells it once, and why", func() bool {
		return n.logs.Count("other nodes miss messages of this one") == 1 && n.logs.Count(`Permissions Violation for Publish`) == 1
	})

	g.reload(func() { g.permit(nil) })
	n.broadcast("permitted now")
	n.eventually("it is published", func() bool { return n.m.Stats().RelayPublished == permitted+1 })
	g.reload(func() { g.permit(denyPublish(">")) })
	n.broadcast("refused again")
	blog()
	n.eventually("two more are dropped", func() bool { return n.m.Stats().RelayDropped == permitted*refused+2 })
	if s := n.m.Stats(); s.RelayPublished != permitted+1 || s.RelayAway {
		t.Errorf("Stats(): got %+v, want %d published, and nothing away", s.RelayStats, permitted+1)
	}
}

func TestWhatIsRefusedAtTheEndIsCountedToo(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	g.reload(func() { g.permit(denyPublish("mesherstream.project.shop")) })
	n := newNode(t, New(g.as("app")))
	n.watch("blog") // otherwise the app might be shut down before it serves
	const refused = 1000
	for range refused {
		n.broadcast("refused")
	}
	n.stop()
	if s := n.m.Stats(); s.RelayDropped != refused || s.RelayPublished != 0 {
		t.Errorf("Stats(): got %+v, want %d dropped and none published", s.RelayStats, refused)
	}
	if got := n.logs.Count("other nodes miss messages of this one"); got != 1 {
		t.Errorf("the log tells it %d times, want once", got)
	}
}

// A server doesn't tell its clients when its max_payload becomes smaller, and ends the connection of a client that
// exceeds it. The NATS client doesn't reconnect after that.
func TestAMessageThatHasBecomeTooLongIsDroppedWithAllBehindIt(t *testing.T) {
	t.Parallel()
	g := govern(t, &server.Options{})
	a, b := newNode(t, New(g.as("app"))), newNode(t, New(g.as("free")))
	v := b.watch("shop")
	arrive("before", a, v)
	before := a.m.Stats().RelayPublished
	g.reload(func() { g.opts.MaxPayload = 1 << 10 })
	const short = 5
	for i := range short {
		a.broadcast(fmt.Sprint("short ", i))
	}
	a.broadcast(strings.Repeat("x", 2<<10))
	a.eventually("the long one is dropped, and the log tells why", func() bool {
		s := a.m.Stats()
		return s.RelayDropped == 1 && s.RelayPublished == before+short && s.RelayAway &&
			a.logs.Count("the relay is away") == 1 && a.logs.Count("Maximum Payload Violation") >= 1
	})
	b.eventually("what was before it has arrived", func() bool { return v.has(fmt.Sprint("short ", short-1)) })
	a.broadcast("after")
	a.eventually("what comes later is dropped too", func() bool { return a.m.Stats().RelayDropped == 2 })
}

func TestWhatWaitedForAServerWithASmallerMaxPayloadIsDropped(t *testing.T) {
	t.Parallel()
	large, small := govern(t, &server.Options{}), govern(t, &server.Options{MaxPayload: 1 << 10})
	conn := large.as("app")
	relay := New(conn)
	publish := func(size int) {
		t.Helper()
		if err := relay.Publish(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop", Data: make([]byte, size)}}); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	if err := relay.Flush(flushContext(t)); err != nil {
		t.Fatal(err)
	}
	large.Shutdown()
	eventually(t, "it is away", func() bool { return !conn.IsConnected() }, func() any { return conn.Status() })
	publish(10)
	publish(2 << 10)
	publish(20)
	if err := conn.SetServerPool([]string{small.ClientURL()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the long one and what is behind it are lost", func() bool {
		s := relay.Status()
		return s.Lost == 2 && s.Away && errors.Is(s.Reason, nats.ErrConnectionClosed)
	}, func() any { return relay.Status() })
}

func TestWhatIsOnItsWayWhenTheConnectionBreaksCountsAsDropped(t *testing.T) {
	t.Parallel()
	s := &stalling{Server: embedded(t)}
	conn := inProcess(t, s.Server, nats.InProcessServer(s))
	relay := New(conn)
	if err := relay.Flush(flushContext(t)); err != nil {
		t.Fatal(err)
	}
	outcomes := make(chan error, 2)
	s.stalled.Lock()
	if err := relay.PublishConfirmed(mesherstream.RelayMessage{}, func(err error) { outcomes <- err }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its write hangs", func() bool { return s.waiting.Load() > 0 }, func() any { return nil })
	s.broken.Store(true)
	s.stalled.Unlock()
	eventually(t, "the connection has broken and is back", func() bool { return conn.Stats().Reconnects > 0 && conn.IsConnected() }, func() any { return conn.Status() })
	if err := relay.PublishConfirmed(mesherstream.RelayMessage{}, func(err error) { outcomes <- err }); err != nil {
		t.Fatal(err)
	}
	if err := relay.Flush(flushContext(t)); err != nil {
		t.Fatal(err)
	}
	if first, second := <-outcomes, <-outcomes; !errors.Is(first, errBroken) || second != nil {
		t.Errorf("outcomes: got %v and %v, want the first to be unknown and the second nil", first, second)
	}
}
