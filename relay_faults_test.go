package mesherstream

import (
	"context"
	"errors"
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
