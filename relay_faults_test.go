package mesherstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Relays that are slow, hang or fail, and a log that blocks.

func TestTheFirstClientOfANodeWaitsForASlowRelayOnce(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		x.set(func() {
			x.subscribing = func(ctx context.Context, _ string) error { <-ctx.Done(); return nil } // for "" and for "shop"
		})
		begin := time.Now()
		nodes[0].connect("shop")
		if waited := time.Since(begin); waited > relayPatience+relayTick/2 {
			t.Errorf("the client has waited %v, want %v", waited, relayPatience)
		}
	})
}

func TestASubscribeThatHangsKeepsNobodyFromAnything(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		held := make(chan struct{})
		x.set(func() { x.subscribing = func(context.Context, string) error { <-held; return nil } })
		v := w.connect("shop")
		w.publish("local")
		if got := v.next(); got != "local" {
			t.Errorf("got %q, want local", got)
		}
		w.eventually("it is published all the same", func() bool { return w.m.Stats().RelayPublished == 1 })
		v.close()
		time.Sleep(2 * relayLinger)

		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if err := w.m.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: got %v, want the deadline", err)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("Shutdown took %v, want its 3 s", took)
		}
		close(held)
		synctest.Wait()
		if got := x.subscribed("") + x.subscribed("shop"); got != 0 {
			t.Errorf("when it is over: got %d subscriptions, want none", got)
		}
	})
}

// The one whose Flush hangs has its subscriptions still when the manager has started again, with others.
func TestASubscriptionOfARunThatIsOverDeliversNothing(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		w.connect("shop")
		held := make(chan struct{})
		x.set(func() { x.flushing = func(context.Context) error { <-held; return nil } })
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		if err := w.m.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: got %v, want the deadline", err)
		}
		w.stop()
		w.listen()
		v := w.connect("shop")
		if got := x.subscribed("shop"); got != 2 {
			t.Errorf("subscriptions: got %d, want that of the run before too: this test is about it", got)
		}
		for i, text := range []string{"once", "end"} {
			x.deliver(RelayMessage{Node: "other", Seq: uint64(i + 1), Message: Message{Project: "shop", Data: []byte(text)}})
			if got := v.next(); got != text {
				t.Errorf("got %q, want %q", got, text)
			}
		}
		close(held)
	})
}

func TestALogHandlerThatBlocksDelaysNothingBetweenNodes(t *testing.T) {
	inBubble(t, func(w *world) {
		x := newExchange()
		h := &stuckHandler{level: slog.LevelWarn, until: make(chan struct{})}
		defer close(h.until)
		w.start(WithRelay(x), WithLogger(slog.New(h)))
		x.set(func() {
			x.status.Away = true
			x.subscribing = func(_ context.Context, project string) error {
				if project == "secret" {
					return errors.New("no permission")
				}
				return nil
			}
			x.publishing = func() error { return errors.New("away") }
		})
		w.connect("shop")
		w.publish("refused")
		w.eventually("the log is stuck", func() bool { return h.stuck.Load() > 0 })
		time.Sleep(3 * relayTick) // in which it would tell more
		w.connect("secret")
		x.set(func() { x.publishing = nil })
		w.publish("go on")
		w.eventually("it is published", func() bool { return w.m.Stats().RelayPublished == 1 })
	})
}

func TestWhatOverflowsTheRelaysQueueIsOfAKeptLevelLast(t *testing.T) {
	inBubble(t, func(w *world) {
		x := newExchange()
		w.start(WithRelay(x), WithKeepLevels("error"))
		held := make(chan struct{})
		x.set(func() { x.publishing = func() error { <-held; return nil } })
		w.publish("first")
		synctest.Wait() // the relay holds it
		w.publish("kept")
		for i := range relayQueueMessages {
			if err := w.m.Broadcast(Message{Project: "shop", Level: "info", Data: fmt.Append(nil, i)}); err != nil {
				t.Fatal(err)
			}
		}
		close(held)
		w.eventually("all is published", func() bool { return w.m.Stats().RelayPublished == relayQueueMessages+1 })
		if got := string(x.published[1].Data); got != "kept" {
			t.Errorf("behind the first: got %q, want kept", got)
		}
		if got := w.m.Stats().RelayDropped; got != 1 {
			t.Errorf("RelayDropped: got %d, want 1", got)
		}
	})
}

// panicking is a relay that does so where its tests say.
type panicking struct {
	*exchange
	flushed, asked atomic.Bool
}

func (x *panicking) Flush(context.Context) error { x.flushed.Store(true); panic("Flush") }
func (x *panicking) Status() RelayStatus         { x.asked.Store(true); panic("Status") }

func TestAPanicOfTheRelayIsSurvived(t *testing.T) {
	inBubble(t, func(w *world) {
		x := &panicking{exchange: newExchange()}
		x.publishing = func() error { panic("Publish") }
		x.subscribing = func(_ context.Context, project string) error {
			if project == "secret" {
				panic("Subscribe")
			}
			return nil
		}
		w.start(WithRelay(x), WithMaxClients(2))
		for range 5 { // whose places are given back
			v := w.connect("secret")
			w.publish("lost")
			v.close()
			w.eventually("the client has left", func() bool { s := w.m.Stats(); return s.Connects == s.Disconnects })
		}
		time.Sleep(2 * relayTick)
		if s := w.m.Stats(); s.RelayDropped != 5 || s.RelayPublished != 0 || !s.RelayAway {
			t.Errorf("Stats(): got %+v, want 5 dropped and the relay away", s.RelayStats)
		}
		if err := w.m.Shutdown(w.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if !x.flushed.Load() || !x.asked.Load() || w.logs.count("the relay panicked: Publish") != 1 || w.logs.count("the relay panicked: Subscribe") != 1 {
			t.Error("not everything has panicked, or been logged")
		}
	})
}

// tellsLater is a relay that refuses what it has taken, when its tests say so.
type tellsLater struct {
	*exchange
	outcomes chan func(error)
}

func (x *tellsLater) PublishConfirmed(m RelayMessage, outcome func(error)) error {
	if err := x.Publish(m); err != nil {
		return err
	}
	x.outcomes <- outcome
	return nil
}

func TestAMessageThatTheRelayRefusesLaterIsNotPublished(t *testing.T) {
	inBubble(t, func(w *world) {
		x := &tellsLater{newExchange(), make(chan func(error), 10)}
		w.start(WithRelay(x))
		for range 3 {
			w.publish("taken")
		}
		time.Sleep(2 * relayTick)
		if s := w.m.Stats(); s.RelayPublished != 0 || s.RelayDropped != 0 {
			t.Errorf("Stats() before there is an outcome: got %+v, want none published and none dropped", s.RelayStats)
		}
		refused := errors.New("not permitted")
		(<-x.outcomes)(nil)
		(<-x.outcomes)(refused)
		(<-x.outcomes)(refused)
		synctest.Wait()
		if s := w.m.Stats(); s.RelayPublished != 1 || s.RelayDropped != 2 || w.logs.count("not permitted") != 1 {
			t.Errorf("Stats(): got %+v, want 1 published, 2 dropped, and the log tell why once", s.RelayStats)
		}
	})
}

func TestWhatARelayTellsOfItselfIsShownAndLogged(t *testing.T) {
	nodesInBubble(t, 1, func(x *exchange, nodes []*world) {
		w := nodes[0]
		w.connect("shop")
		time.Sleep(2 * relayTick)
		x.set(func() { x.status = RelayStatus{Breaks: 1} })
		time.Sleep(2 * relayTick)
		if away, back := w.logs.count("the relay is away"), w.logs.count("the relay is back"); away != 1 || back != 1 {
			t.Errorf("after a break between two ticks: the log tells %d times that it is away and %d times that it is back, want once each", away, back)
		}
		x.set(func() {
			x.status = RelayStatus{Breaks: 1, Away: true, Unfollowed: 2, Reason: errors.New("not permitted"), Missed: 3, Lost: 4}
		})
		time.Sleep(2 * relayTick)
		s := w.m.Stats()
		if !s.RelayAway || s.RelayUnfollowed != 2 || s.RelayBreaks != 1 || s.RelayMissed != 3 || s.RelayDropped != 4 {
			t.Errorf("Stats(): got %+v, want what the relay says", s.RelayStats)
		}
		for _, text := range []string{"the relay refuses projects", "this node misses messages", "other nodes miss messages"} {
			if got := w.logs.count(text); got != 1 {
				t.Errorf("the log tells %q %d times, want once", text, got)
			}
		}
		x.set(func() { x.subscribing = func(context.Context, string) error { return errors.New("not permitted") } })
		w.connect("secret")
		if s := w.m.Stats(); s.RelayUnfollowed != 3 {
			t.Errorf("RelayUnfollowed with a project that can't be followed: got %d, want 3", s.RelayUnfollowed)
		}
	})
}
