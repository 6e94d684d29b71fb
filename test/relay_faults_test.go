package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Relays that are slow, hang or fail, and a log that blocks.

func TestTheFirstClientOfANodeWaitsForASlowRelayOnce(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		x.Set(func() {
			x.Subscribing = func(ctx context.Context, _ string) error { <-ctx.Done(); return nil } // for "" and for "shop"
		})
		begin := time.Now()
		nodes[0].Connect("shop")
		if waited := time.Since(begin); waited > relayPatience+relayTick/2 {
			t.Errorf("the client has waited %v, want %v", waited, relayPatience)
		}
	})
}

// While a relay is away, nothing more may be lost because nothing more is published.
func TestAnEpisodeOfLossesLastsUntilTheRelayIsBack(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		const told, over = "other nodes miss messages of this one", "other nodes receive all messages of this one again"
		x.Set(func() {
			x.State.Away = true
			x.Publishing = func() error { return errors.New("away") }
		})
		for range 12 {
			w.Publish("lost")
		}
		time.Sleep(time.Minute)
		if got := w.Logs.Count(over); got != 0 {
			t.Errorf("while the relay is away: the log tells the end %d times, want never", got)
		}
		w.Publish("lost too")
		synctest.Wait()
		x.Set(func() { x.State.Away, x.Publishing = false, nil })
		time.Sleep(3 * relayTick)
		if w.Logs.Count(told) != 1 || w.Logs.Count(over) != 1 || w.Logs.Count("dropped=13") != 1 {
			t.Errorf("when it is back: got the log\n%s\nwant that losses are told once, and their end, with 13 dropped", &w.Logs.Buf)
		}
	})
}

// What a client may ask for, and when it is pinged, counts from its 101, after which the relay may take its time.
func TestAClientAtItsPaceStaysBehindASlowRelay(t *testing.T) {
	for name, opts := range map[string][]mesherstream.Option{
		"with pings":      {mesherstream.WithPingInterval(time.Second), mesherstream.WithIdleTimeout(1500 * time.Millisecond)},
		"without pings":   {mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(time.Second)},
		"by the defaults": nil,
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				x := streamtest.NewExchange()
				x.Subscribing = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
				w.Start(append(opts, mesherstream.WithRelay(x))...)
				const pace, requests = 18, 3 * 18
				v, err := streamtest.Dial(w, "shop")
				if err != nil {
					t.Fatal(err)
				}
				v.Collect()
				defer v.Close()
				network := make(chan string, requests) // which holds what nobody reads yet, as a pipe doesn't
				var sending sync.WaitGroup
				sending.Go(func() {
					for text := range network {
						_ = v.WS.WriteMessage(websocket.TextMessage, []byte(text))
					}
				})
				defer sending.Wait()
				defer close(network)
				for range requests {
					network <- `{"type":"subscribe","filters":{}}`
					time.Sleep(time.Second / pace)
				}
				w.Eventually("all are answered, and nobody was closed", func() bool {
					return len(v.Collected()) == requests || w.M.Stats().Disconnects > 0
				})
				if s := w.M.Stats(); s.Disconnects > 0 {
					t.Errorf("closed after %d answers of %d: %v", len(v.Collected()), requests, v.Err)
				}
			})
		})
	}
}

func TestASubscribeThatHangsKeepsNobodyFromAnything(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		held := make(chan struct{})
		x.Set(func() { x.Subscribing = func(context.Context, string) error { <-held; return nil } })
		v := w.Connect("shop")
		w.Publish("local")
		if got := v.Next(); got != "local" {
			t.Errorf("got %q, want local", got)
		}
		w.Eventually("it is published all the same", func() bool { return w.M.Stats().RelayPublished == 1 })
		v.Close()
		time.Sleep(2 * relayLinger)

		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if err := w.M.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: got %v, want the deadline", err)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("Shutdown took %v, want its 3 s", took)
		}
		close(held)
		synctest.Wait()
		if got := x.Subscribed("") + x.Subscribed("shop"); got != 0 {
			t.Errorf("when it is over: got %d subscriptions, want none", got)
		}
	})
}

// The relay whose Flush hangs still has its subscriptions when the manager has started again, with others.
func TestASubscriptionOfARunThatIsOverDeliversNothing(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		w.Connect("shop")
		held := make(chan struct{})
		x.Set(func() { x.Flushing = func(context.Context) error { <-held; return nil } })
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		if err := w.M.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: got %v, want the deadline", err)
		}
		w.Stop()
		w.Listen()
		v := w.Connect("shop")
		if got := x.Subscribed("shop"); got != 2 {
			t.Errorf("subscriptions: got %d, want that of the run before too: this test is about it", got)
		}
		for i, text := range []string{"once", "end"} {
			x.Deliver(mesherstream.RelayMessage{Node: "other", Seq: uint64(i + 1), Message: mesherstream.Message{Project: "shop", Data: []byte(text)}})
			if got := v.Next(); got != text {
				t.Errorf("got %q, want %q", got, text)
			}
		}
		close(held)
	})
}

func TestALogHandlerThatBlocksDelaysNothingBetweenNodes(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		x := streamtest.NewExchange()
		h := &stuckHandler{level: slog.LevelWarn, until: make(chan struct{})}
		defer close(h.until)
		w.Start(mesherstream.WithRelay(x), mesherstream.WithLogger(slog.New(h)))
		x.Set(func() {
			x.State.Away = true
			x.Subscribing = func(_ context.Context, project string) error {
				if project == "secret" {
					return errors.New("no permission")
				}
				return nil
			}
			x.Publishing = func() error { return errors.New("away") }
		})
		w.Connect("shop")
		w.Publish("refused")
		w.Eventually("the log is stuck", func() bool { return h.stuck.Load() > 0 })
		time.Sleep(3 * relayTick) // in this time it would report more
		w.Connect("secret")
		x.Set(func() { x.Publishing = nil })
		w.Publish("go on")
		w.Eventually("it is published", func() bool { return w.M.Stats().RelayPublished == 1 })
	})
}

func TestWhatOverflowsTheRelaysQueueIsOfAKeptLevelLast(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		x := streamtest.NewExchange()
		w.Start(mesherstream.WithRelay(x), mesherstream.WithKeepLevels("error"))
		held := make(chan struct{})
		x.Set(func() { x.Publishing = func() error { <-held; return nil } })
		w.Publish("first")
		synctest.Wait() // the relay blocks it
		w.Publish("kept")
		for i := range relayQueueMessages {
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Level: "info", Data: fmt.Append(nil, i)}); err != nil {
				t.Fatal(err)
			}
		}
		close(held)
		w.Eventually("all is published", func() bool { return w.M.Stats().RelayPublished == relayQueueMessages+1 })
		if got := string(x.Published[1].Data); got != "kept" {
			t.Errorf("behind the first: got %q, want kept", got)
		}
		if got := w.M.Stats().RelayDropped; got != 1 {
			t.Errorf("RelayDropped: got %d, want 1", got)
		}
	})
}

// panicking is a relay that panics where its tests say so.
type panicking struct {
	*streamtest.Exchange
	flushed, asked atomic.Bool
}

func (x *panicking) Flush(context.Context) error      { x.flushed.Store(true); panic("Flush") }
func (x *panicking) Status() mesherstream.RelayStatus { x.asked.Store(true); panic("Status") }

func TestAPanicOfTheRelayIsSurvived(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		x := &panicking{Exchange: streamtest.NewExchange()}
		x.Publishing = func() error { panic("Publish") }
		x.Subscribing = func(_ context.Context, project string) error {
			if project == "secret" {
				panic("Subscribe")
			}
			return nil
		}
		w.Start(mesherstream.WithRelay(x), mesherstream.WithMaxClients(2))
		for range 5 { // the places of these are given back
			v := w.Connect("secret")
			w.Publish("lost")
			v.Close()
			w.Eventually("the client has left", func() bool { s := w.M.Stats(); return s.Connects == s.Disconnects })
		}
		time.Sleep(2 * relayTick)
		if s := w.M.Stats(); s.RelayDropped != 5 || s.RelayPublished != 0 || !s.RelayAway {
			t.Errorf("Stats(): got %+v, want 5 dropped and the relay away", s.RelayStats)
		}
		if err := w.M.Shutdown(w.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if !x.flushed.Load() || !x.asked.Load() || w.Logs.Count("the relay panicked: Publish") != 1 || w.Logs.Count("the relay panicked: Subscribe") != 1 {
			t.Error("not everything has panicked, or been logged")
		}
	})
}

// tellsLater is a relay that refuses messages that it has accepted, when its tests say so.
type tellsLater struct {
	*streamtest.Exchange
	outcomes chan func(error)
}

func (x *tellsLater) PublishConfirmed(m mesherstream.RelayMessage, outcome func(error)) error {
	if err := x.Publish(m); err != nil {
		return err
	}
	x.outcomes <- outcome
	return nil
}

func TestAMessageThatTheRelayRefusesLaterIsNotPublished(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		x := &tellsLater{streamtest.NewExchange(), make(chan func(error), 10)}
		w.Start(mesherstream.WithRelay(x))
		for range 3 {
			w.Publish("taken")
		}
		time.Sleep(2 * relayTick)
		if s := w.M.Stats(); s.RelayPublished != 0 || s.RelayDropped != 0 {
			t.Errorf("Stats() before there is an outcome: got %+v, want none published and none dropped", s.RelayStats)
		}
		refused := errors.New("not permitted")
		(<-x.outcomes)(nil)
		(<-x.outcomes)(refused)
		(<-x.outcomes)(refused)
		synctest.Wait()
		if s := w.M.Stats(); s.RelayPublished != 1 || s.RelayDropped != 2 || w.Logs.Count("not permitted") != 1 {
			t.Errorf("Stats(): got %+v, want 1 published, 2 dropped, and the log tell why once", s.RelayStats)
		}
	})
}

func TestWhatARelayTellsOfItselfIsShownAndLogged(t *testing.T) {
	streamtest.NodesInBubble(t, 1, func(x *streamtest.Exchange, nodes []*streamtest.World) {
		w := nodes[0]
		w.Connect("shop")
		time.Sleep(2 * relayTick)
		x.Set(func() { x.State = mesherstream.RelayStatus{Breaks: 1} })
		time.Sleep(2 * relayTick)
		if away, back := w.Logs.Count("the relay is away"), w.Logs.Count("the relay is back"); away != 1 || back != 1 {
			t.Errorf("after a break between two ticks: the log tells %d times that it is away and %d times that it is back, want once each", away, back)
		}
		x.Set(func() {
			x.State = mesherstream.RelayStatus{Breaks: 1, Away: true, Unfollowed: 2, Reason: errors.New("not permitted"), Missed: 3, Lost: 4}
		})
		time.Sleep(2 * relayTick)
		s := w.M.Stats()
		if !s.RelayAway || s.RelayUnfollowed != 2 || s.RelayBreaks != 1 || s.RelayMissed != 3 || s.RelayDropped != 4 {
			t.Errorf("Stats(): got %+v, want what the relay says", s.RelayStats)
		}
		for _, text := range []string{"the relay refuses projects", "this node misses messages", "other nodes miss messages"} {
			if got := w.Logs.Count(text); got != 1 {
				t.Errorf("the log tells %q %d times, want once", text, got)
			}
		}
		x.Set(func() { x.Subscribing = func(context.Context, string) error { return errors.New("not permitted") } })
		w.Connect("secret")
		if s := w.M.Stats(); s.RelayUnfollowed != 3 {
			t.Errorf("RelayUnfollowed with a project that can't be followed: got %d, want 3", s.RelayUnfollowed)
		}
	})
}
