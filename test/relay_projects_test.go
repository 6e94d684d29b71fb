package test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestAProjectIsFollowedFromItsFirstClientUntilAWhileAfterItsLast(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		if got := x.Subscribed("") + x.Subscribed("shop"); got != 0 {
			t.Errorf("without clients: got %d subscriptions, want none", got)
		}
		first, second := w.Connect("shop"), w.Connect("shop")
		if got := w.M.Stats().RelayProjects; got != 2 {
			t.Errorf(`RelayProjects: got %d, want 2: "shop" and ""`, got)
		}
		first.Close()
		time.Sleep(3 * relayLinger)
		if got := x.Subscribed("shop"); got != 1 {
			t.Errorf("with one client left: got %d subscriptions, want 1", got)
		}
		second.Close()
		time.Sleep(relayLinger - relayTick)
		if got := x.Subscribed("shop"); got != 1 {
			t.Errorf("just after the last client: got %d subscriptions, want 1", got)
		}
		third := w.Connect("shop")
		if x.Made != 2 {
			t.Errorf("a client that comes back in time: got %d subscriptions made, want 2", x.Made)
		}
		third.Close()
		time.Sleep(relayLinger + 3*relayTick)
		if got := x.Subscribed("") + x.Subscribed("shop"); got != 0 {
			t.Errorf("a while after the last client: got %d subscriptions, want none", got)
		}
		if got := w.M.Stats().RelayProjects; got != 0 {
			t.Errorf("RelayProjects: got %d, want 0", got)
		}
	})
}

// NATS, for one, may still have messages in flight when a subscription has ended.
func TestASubscriptionThatHasBeenLetGoDeliversNothing(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		nodes[0].Connect("shop").Close()
		var old *streamtest.Subscription
		x.Set(func() { old = x.Subs["shop"][0] })
		time.Sleep(relayLinger + 3*relayTick)
		v := nodes[0].Connect("shop")
		m := mesherstream.RelayMessage{Node: "other", Seq: 1, Message: mesherstream.Message{Project: "shop", Data: []byte("once")}}
		old.Receive(m)
		x.Deliver(m)
		if got := v.Next(); got != "once" {
			t.Errorf("got %q, want once", got)
		}
		if s := nodes[0].M.Stats(); s.RelayReceived != 1 || s.RelayRefused != 0 {
			t.Errorf("Stats(): got %+v, want it received by the new subscription only", s.RelayStats)
		}
	})
}

// Whenever the next client connects while a project is being unsubscribed from, it receives each message published from
// then on, once.
func TestAClientThatComesWhileItsProjectIsLetGoMissesNothing(t *testing.T) {
	streamtest.NodesInBubble(t, 2, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		const step = 50 * time.Millisecond
		var again, kept int
		for after := relayLinger - relayTick; after < relayLinger+3*relayTick; after += step {
			v := nodes[1].Connect("shop")
			v.Close()
			made := x.Made
			time.Sleep(after)
			v = nodes[1].Connect("shop")
			if x.Made == made {
				kept++
			} else {
				again++
			}
			before := nodes[1].M.Stats().RelayReceived
			nodes[0].Publish(after.String())
			if got := v.Next(); got != after.String() {
				t.Errorf("after %v: got %q", after, got)
			}
			synctest.Wait()
			if got := nodes[1].M.Stats().RelayReceived - before; got != 1 {
				t.Errorf("after %v: got it %d times, want once", after, got)
			}
			v.Close()
			time.Sleep(2 * relayLinger)
		}
		if again < 10 || kept < 10 {
			t.Errorf("the project was kept %d times and let go %d times: this test is about both", kept, again)
		}
	})
}

func TestAClientIsKnownWhenItsProjectIsFollowed(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		held := make(chan struct{})
		x.Set(func() {
			x.Subscribing = func(ctx context.Context, project string) error {
				if project == "shop" {
					select {
					case <-held:
					case <-ctx.Done():
					}
				}
				return nil
			}
		})
		var viewers []*streamtest.Viewer
		for range 3 { // the first one subscribes, and the others wait for it
			v, err := streamtest.Dial(w, "shop")
			if err != nil {
				t.Fatal(err)
			}
			viewers = append(viewers, v)
		}
		time.Sleep(relayPatience / 2)
		if got := w.M.Stats().Connects; got != 0 {
			t.Errorf("while the subscription is being made: got %d clients, want none yet", got)
		}
		close(held)
		synctest.Wait()
		if got := w.M.Stats().Connects; got != 3 {
			t.Errorf("when it is made: got %d clients, want 3", got)
		}
		x.Deliver(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop", Data: []byte("news")}})
		for _, v := range viewers {
			if got := v.Next(); got != "news" {
				t.Errorf("got %q, want news", got)
			}
		}
	})
}

func TestAClientDoesNotWaitLongForARelayThatIsSlow(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		x.Set(func() {
			x.Subscribing = func(ctx context.Context, project string) error {
				if project == "shop" {
					<-ctx.Done()
				}
				return nil // it will become active
			}
		})
		begin := time.Now()
		w.Connect("shop")
		if waited := time.Since(begin); waited < relayPatience || waited > relayPatience+relayTick/2 {
			t.Errorf("the client has waited %v, want %v", waited, relayPatience)
		}
		begin = time.Now()
		w.Connect("shop")
		if waited := time.Since(begin); waited > relayTick/2 {
			t.Errorf("the second client has waited %v", waited)
		}
	})
}

func TestASubscriptionThatFailsIsTriedAgainAndToldOnce(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		var attempts atomic.Int64
		x.Set(func() {
			x.Subscribing = func(context.Context, string) error { attempts.Add(1); return errors.New("no permission") }
		})
		v := w.Connect("shop")
		w.Publish("local")
		if got := v.Next(); got != "local" {
			t.Errorf("got %q, want local", got)
		}
		time.Sleep(10 * relayTick)
		if got := attempts.Load(); got < 10 || got > 25 {
			t.Errorf("got %d attempts in ten ticks, want about one a tick", got)
		}
		if got := w.Logs.Count("can't be followed"); got != 1 {
			t.Errorf("the log tells it %d times, want once", got)
		}
		x.Set(func() { x.Subscribing = nil })
		time.Sleep(2 * relayTick)
		x.Deliver(mesherstream.RelayMessage{Message: mesherstream.Message{Project: "shop", Data: []byte("remote")}})
		if got := v.Next(); got != "remote" {
			t.Errorf("got %q, want remote", got)
		}
	})
}

func TestShutdownFlushesWhatTheRelayHasQueued(t *testing.T) {
	streamtest.NodesInBubble(t, 2, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		v := nodes[1].Connect("shop").Collect()
		nodes[0].Connect("shop").Collect()
		x.Set(func() { x.Publishing = func() error { time.Sleep(time.Millisecond); return nil } })
		flushed := false
		x.Set(func() { x.Flushing = func(context.Context) error { flushed = true; return nil } })
		const n = 1000
		for i := range n {
			nodes[0].Publish(fmt.Sprint(i))
		}
		// Not through the app, whose server would first take its time.
		if err := nodes[0].M.Shutdown(nodes[0].Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		nodes[0].Stop()
		if s := nodes[0].M.Stats(); s.RelayPublished != n || s.RelayQueued != 0 || s.RelayDropped != 0 || !flushed {
			t.Errorf("Stats() after shutdown: got %+v, flushed %v, want all published", s.RelayStats, flushed)
		}
		synctest.Wait()
		if got := len(v.Collected()); got != n {
			t.Errorf("the other node's client got %d messages, want %d", got, n)
		}
		if got := x.Subscribed("shop"); got != 1 {
			t.Errorf("subscriptions: got %d, want that of the other node only", got)
		}
		nodes[0].Listen() // again
		back := nodes[0].Connect("shop")
		x.Set(func() { x.Publishing = nil })
		nodes[1].Publish("welcome")
		if got := back.Next(); got != "welcome" {
			t.Errorf("after a restart: got %q, want welcome", got)
		}
		nodes[0].Publish("thanks")
		v.W.Eventually("the numbers go on after a restart", func() bool { return len(v.Collected()) == n+2 })
	})
}

func TestShutdownDoesNotWaitForARelayBeyondItsDeadline(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		held := make(chan struct{})
		x.Set(func() { x.Publishing = func() error { <-held; return nil } })
		for range 300 {
			w.Publish("late")
		}
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if err := w.M.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: got %v, want the deadline", err)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("Shutdown took %v, want its 3 s", took)
		}
		synctest.Wait() // until the run has given up
		close(held)
		synctest.Wait()
		if s := w.M.Stats(); s.RelayPublished != 1 || s.RelayDropped != 299 || s.RelayQueued != 0 {
			t.Errorf("Stats(): got %+v, want the one that the relay held published and the rest dropped", s.RelayStats)
		}
	})
}
