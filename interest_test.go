package mesherstream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAProjectIsFollowedFromItsFirstClientUntilAWhileAfterItsLast(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		if got := x.subscribed("") + x.subscribed("shop"); got != 0 {
			t.Errorf("without clients: got %d subscriptions, want none", got)
		}
		first, second := w.connect("shop"), w.connect("shop")
		if got := w.m.Stats().RelayProjects; got != 2 {
			t.Errorf(`RelayProjects: got %d, want 2: "shop" and ""`, got)
		}
		first.close()
		time.Sleep(3 * relayLinger)
		if got := x.subscribed("shop"); got != 1 {
			t.Errorf("with one client left: got %d subscriptions, want 1", got)
		}
		second.close()
		time.Sleep(relayLinger - relayTick)
		if got := x.subscribed("shop"); got != 1 {
			t.Errorf("just after the last client: got %d subscriptions, want 1", got)
		}
		third := w.connect("shop")
		if x.made != 2 {
			t.Errorf("a client that comes back in time: got %d subscriptions made, want 2", x.made)
		}
		third.close()
		time.Sleep(relayLinger + 3*relayTick)
		if got := x.subscribed("") + x.subscribed("shop"); got != 0 {
			t.Errorf("a while after the last client: got %d subscriptions, want none", got)
		}
		if got := w.m.Stats().RelayProjects; got != 0 {
			t.Errorf("RelayProjects: got %d, want 0", got)
		}
	})
}

// NATS, for one, may still have messages under way when a subscription has ended.
func TestASubscriptionThatHasBeenLetGoDeliversNothing(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		nodes[0].connect("shop").close()
		var old *subscription
		x.set(func() { old = x.subs["shop"][0] })
		time.Sleep(relayLinger + 3*relayTick)
		v := nodes[0].connect("shop")
		m := RelayMessage{Node: "other", Seq: 1, Message: Message{Project: "shop", Data: []byte("once")}}
		old.receive(m)
		x.deliver(m)
		if got := v.next(); got != "once" {
			t.Errorf("got %q, want once", got)
		}
		if s := nodes[0].m.Stats(); s.RelayReceived != 1 || s.RelayRefused != 0 {
			t.Errorf("Stats(): got %+v, want it received by the new subscription only", s.RelayStats)
		}
	})
}

// Whenever the next client comes while a project is being let go, it gets what is published from then on, once.
func TestAClientThatComesWhileItsProjectIsLetGoMissesNothing(t *testing.T) {
	nodesInBubble(t, 2, func(x *exchange, nodes []*world) {
		const step = 50 * time.Millisecond
		var again, kept int
		for after := relayLinger - relayTick; after < relayLinger+3*relayTick; after += step {
			v := nodes[1].connect("shop")
			v.close()
			made := x.made
			time.Sleep(after)
			v = nodes[1].connect("shop")
			if x.made == made {
				kept++
			} else {
				again++
			}
			before := nodes[1].m.Stats().RelayReceived
			nodes[0].publish(after.String())
			if got := v.next(); got != after.String() {
				t.Errorf("after %v: got %q", after, got)
			}
			synctest.Wait()
			if got := nodes[1].m.Stats().RelayReceived - before; got != 1 {
				t.Errorf("after %v: got it %d times, want once", after, got)
			}
			v.close()
			time.Sleep(2 * relayLinger)
		}
		if again < 10 || kept < 10 {
			t.Errorf("the project was kept %d times and let go %d times: this test is about both", kept, again)
		}
	})
}

func TestAClientIsKnownWhenItsProjectIsFollowed(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		held := make(chan struct{})
		x.set(func() {
			x.subscribing = func(ctx context.Context, project string) error {
				if project == "shop" {
					select {
					case <-held:
					case <-ctx.Done():
					}
				}
				return nil
			}
		})
		var viewers []*viewer
		for range 3 { // the first one subscribes, and the others wait for it
			v, err := dial(w, "shop")
			if err != nil {
				t.Fatal(err)
			}
			viewers = append(viewers, v)
		}
		time.Sleep(relayPatience / 2)
		if got := w.m.Stats().Connects; got != 0 {
			t.Errorf("while the subscription is being made: got %d clients, want none yet", got)
		}
		close(held)
		synctest.Wait()
		if got := w.m.Stats().Connects; got != 3 {
			t.Errorf("when it is made: got %d clients, want 3", got)
		}
		x.deliver(RelayMessage{Message: Message{Project: "shop", Data: []byte("news")}})
		for _, v := range viewers {
			if got := v.next(); got != "news" {
				t.Errorf("got %q, want news", got)
			}
		}
	})
}

func TestAClientDoesNotWaitLongForARelayThatIsSlow(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		x.set(func() {
			x.subscribing = func(ctx context.Context, project string) error {
				if project == "shop" {
					<-ctx.Done()
				}
				return nil // it will come into force
			}
		})
		begin := time.Now()
		w.connect("shop")
		if waited := time.Since(begin); waited < relayPatience || waited > relayPatience+relayTick/2 {
			t.Errorf("the client has waited %v, want %v", waited, relayPatience)
		}
		begin = time.Now()
		w.connect("shop")
		if waited := time.Since(begin); waited > relayTick/2 {
			t.Errorf("the second client has waited %v", waited)
		}
	})
}

func TestASubscriptionThatFailsIsTriedAgainAndToldOnce(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		var attempts atomic.Int64
		x.set(func() {
			x.subscribing = func(context.Context, string) error { attempts.Add(1); return errors.New("no permission") }
		})
		v := w.connect("shop")
		w.publish("local")
		if got := v.next(); got != "local" {
			t.Errorf("got %q, want local", got)
		}
		time.Sleep(10 * relayTick)
		if got := attempts.Load(); got < 10 || got > 25 {
			t.Errorf("got %d attempts in ten ticks, want about one a tick", got)
		}
		if got := w.logs.count("can't be followed"); got != 1 {
			t.Errorf("the log tells it %d times, want once", got)
		}
		x.set(func() { x.subscribing = nil })
		time.Sleep(2 * relayTick)
		x.deliver(RelayMessage{Message: Message{Project: "shop", Data: []byte("remote")}})
		if got := v.next(); got != "remote" {
			t.Errorf("got %q, want remote", got)
		}
	})
}

func TestShutdownFlushesWhatTheRelayHasQueued(t *testing.T) {
	nodesInBubble(t, 2, func(x *exchange, nodes []*world) {
		v := nodes[1].connect("shop").collect()
		nodes[0].connect("shop").collect()
		x.set(func() { x.publishing = func() error { time.Sleep(time.Millisecond); return nil } })
		flushed := false
		x.set(func() { x.flushing = func(context.Context) error { flushed = true; return nil } })
		const n = 1000
		for i := range n {
			nodes[0].publish(fmt.Sprint(i))
		}
		// Not by the app, whose server takes its time before.
		if err := nodes[0].m.Shutdown(nodes[0].Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		nodes[0].stop()
		if s := nodes[0].m.Stats(); s.RelayPublished != n || s.RelayQueued != 0 || s.RelayDropped != 0 || !flushed {
			t.Errorf("Stats() after shutdown: got %+v, flushed %v, want all published", s.RelayStats, flushed)
		}
		synctest.Wait()
		if got := len(v.collected()); got != n {
			t.Errorf("the other node's client got %d messages, want %d", got, n)
		}
		if got := x.subscribed("shop"); got != 1 {
			t.Errorf("subscriptions: got %d, want that of the other node only", got)
		}
		nodes[0].listen() // again
		back := nodes[0].connect("shop")
		x.set(func() { x.publishing = nil })
		nodes[1].publish("welcome")
		if got := back.next(); got != "welcome" {
			t.Errorf("after a restart: got %q, want welcome", got)
		}
		nodes[0].publish("thanks")
		v.w.eventually("the numbers go on after a restart", func() bool { return len(v.collected()) == n+2 })
	})
}

func TestShutdownDoesNotWaitForARelayBeyondItsDeadline(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		held := make(chan struct{})
		x.set(func() { x.publishing = func() error { <-held; return nil } })
		for range 300 {
			w.publish("late")
		}
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if err := w.m.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: got %v, want the deadline", err)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("Shutdown took %v, want its 3 s", took)
		}
		synctest.Wait() // until the run has given up
		close(held)
		synctest.Wait()
		if s := w.m.Stats(); s.RelayPublished != 1 || s.RelayDropped != 299 || s.RelayQueued != 0 {
			t.Errorf("Stats(): got %+v, want the one that the relay held published and the rest dropped", s.RelayStats)
		}
	})
}
