package mesherstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
)

// The eight truths of the design, end to end, over every transport.

func TestTruth1MessagesOfSlowClientsAreBufferedAndDrainedByTheTicker(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		v := w.connect("shop")
		before := time.Now()
		if err := w.m.BufferMessage(v.id, []byte("queued")); err != nil {
			w.Fatalf("BufferMessage: %v", err)
		}
		if got := w.client(v).Buffered; got != 1 && w.transport.bubble {
			w.Errorf("Buffered before the tick: got %d, want 1", got)
		}
		if got := v.next(); got != "queued" {
			w.Errorf("after the tick: got %q, want %q", got, "queued")
		}
		if w.transport.bubble {
			now := time.Now()
			if now.Sub(before) > 250*time.Millisecond || now.Sub(w.started)%(250*time.Millisecond) != 0 {
				w.Errorf("it came %v after the start, want at the next multiple of 250ms", now.Sub(w.started))
			}
		}

		// A client that takes nothing has its messages buffered, and gets them when it is back.
		w.broadcast(0, 100)
		w.eventually("the client is slow", func() bool { return w.client(v).Slow })
		if got := w.client(v).Buffered; got == 0 {
			w.Error("Buffered of a slow client: got 0")
		}
		v.collect()
		w.eventually("it has caught up", func() bool { return len(v.collected()) == 100-int(w.client(v).Dropped) })
		if c := w.client(v); c.Slow || c.Buffered != 0 {
			w.Errorf("a client that has caught up: got %+v, want it neither slow nor buffered", c)
		}
	})
}

func TestTruth2TheOldestMessagesAreDroppedBeyondMaxBuffer(t *testing.T) {
	for _, maxBuffer := range []int{1, 10, 100} {
		t.Run(fmt.Sprint("max=", maxBuffer), func(t *testing.T) {
			overTransports(t, func(w *world) {
				const all = 400
				w.start(WithMaxBuffer(maxBuffer), WithUnsentLimit(16<<10))
				w.pace = min(20, maxBuffer)
				slow, healthy := w.connect("shop"), w.connect("shop").collect()
				w.broadcast(0, all, healthy)

				c := w.client(slow)
				if c.Dropped == 0 || !c.Slow {
					w.Errorf("a client that reads nothing: got %+v, want it slow, with drops", c)
				}
				if c.Buffered < maxBuffer || c.Buffered > maxBuffer+chunk/len(filler) {
					w.Errorf("Buffered: got %d, want max_buffer = %d and at most one chunk in flight", c.Buffered, maxBuffer)
				}
				slow.collect()
				w.eventually("the slow client has caught up", func() bool {
					return uint64(len(slow.collected()))+w.client(slow).Dropped == all
				})
				got := slow.numbers()
				missed := 0
				for i, n := range got {
					if i > 0 && n <= got[i-1] {
						w.Errorf("after %d came %d", got[i-1], n)
					}
					missed = n - i
				}
				if uint64(missed) != c.Dropped {
					w.Errorf("missed in between: got %d, want Dropped = %d", missed, c.Dropped)
				}
				for i := 1; i <= maxBuffer; i++ {
					if got[len(got)-i] != all-i {
						w.Fatalf("the newest messages: got %v, want the last %d without a gap", got[len(got)-maxBuffer:], maxBuffer)
					}
				}
				w.eventually("the healthy client has everything", func() bool { return len(healthy.numbers()) == all })
				if !slices.IsSorted(healthy.numbers()) {
					w.Error("the healthy client got its messages in another order")
				}
			})
		})
	}
}

func TestTruth3ADrainSendsInOrderAndClearsTheBuffer(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithDrainInterval(time.Hour))
		v := w.connect("shop")
		for i := range 5 {
			if err := w.m.BufferMessage(v.id, fmt.Append(nil, i)); err != nil {
				w.Fatalf("BufferMessage(%d): %v", i, err)
			}
		}
		if got := w.client(v); got.Buffered != 5 || got.Sent != 0 {
			w.Errorf("before the drain: got %+v, want 5 buffered, 0 sent", got)
		}
		w.m.DrainBuffers()
		for i := range 5 {
			if got := v.next(); got != fmt.Sprint(i) {
				w.Errorf("message %d: got %q", i, got)
			}
		}
		w.eventually("the buffer is empty", func() bool { c := w.client(v); return c.Buffered == 0 && c.Sent == 5 })
		if got := w.client(v); got.BufferedBytes != 0 {
			w.Errorf("BufferedBytes after the drain: got %d, want 0", got.BufferedBytes)
		}
	})
}

func TestTruth4AFailedSendRemovesThatClientAndOnlyThatOne(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		dying, healthy := w.connect("shop"), w.connect("shop").collect()
		w.broadcast(0, 200, healthy) // until there is something to abandon
		w.eventually("something is buffered", func() bool { return w.client(dying).Buffered > 0 })
		_ = dying.ws.Close() // the socket, without a close frame
		w.broadcast(200, 220, healthy)
		w.eventually("the dead client is removed", func() bool { return !w.m.IsStreamClient(dying.id) })
		w.broadcast(220, 240, healthy)

		if s := w.m.Stats(); s.Clients != 1 || s.Disconnects != 1 || s.Abandoned == 0 {
			w.Errorf("Stats(): got %+v, want one client, one gone, its buffer abandoned", s)
		}
		w.eventually("the other one has everything", func() bool { return len(healthy.numbers()) == 240 })
	})
}

func TestTruth4AnEmptyBufferCostsADrainNothing(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithDrainInterval(time.Hour))
		v := w.connect("shop")
		drains := func() (n uint64) { // that had a client to visit
			for _, count := range w.m.Stats().Drains.Counts {
				n += count
			}
			return n
		}
		for range 10 {
			w.m.DrainBuffers()
		}
		if got := drains(); got != 0 {
			w.Errorf("drains that visited a client while nothing was buffered: got %d, want 0", got)
		}
		if err := w.m.BufferMessage(v.id, []byte("x")); err != nil {
			w.Fatal(err)
		}
		w.m.DrainBuffers()
		v.next()
		w.eventually("nothing is buffered", func() bool { return w.client(v).Buffered == 0 })
		before := drains()
		if before == 0 {
			w.Error("drains that visited the client whose buffer was drained: got 0")
		}
		for range 10 {
			w.m.DrainBuffers()
		}
		if got := drains(); got != before {
			w.Errorf("drains that visited a client after its buffer was drained: got %d more, want 0", got-before)
		}
	})
}

func TestTruth5BufferMessageForNoClientChangesNothing(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		v := w.connect("shop")
		before := w.m.Stats()
		for _, id := range []ClientID{0, v.id + 1, 1 << 60} {
			if err := w.m.BufferMessage(id, []byte("x")); !errors.Is(err, ErrUnknownClient) {
				w.Errorf("BufferMessage(%d): got %v, want ErrUnknownClient", id, err)
			}
			if w.m.IsStreamClient(id) {
				w.Errorf("IsStreamClient(%d): got true", id)
			}
		}
		if after := w.m.Stats(); after != before {
			w.Errorf("Stats(): got %+v, want %+v as before", after, before)
		}
		v.close()
		w.eventually("it has left", func() bool { return !w.m.IsStreamClient(v.id) })
		if err := w.m.BufferMessage(v.id, []byte("x")); !errors.Is(err, ErrUnknownClient) {
			w.Errorf("BufferMessage of one that has left: got %v, want ErrUnknownClient", err)
		}
	})
}

func TestTruth6TheTickerStartsWithTheAppAndAgainExactlyOnce(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithDrainInterval(100 * time.Millisecond))
		for listens := 1; listens <= 3; listens++ {
			w.eventually("the start is logged", func() bool { return w.logs.count("drain ticker started") >= listens })
			if got := w.logs.count("drain ticker started"); got != listens {
				w.Errorf("log lines after %d listens: got %d", listens, got)
			}
			if got := w.logs.count("interval=100ms"); got != listens {
				w.Errorf("log lines with the interval after %d listens: got %d", listens, got)
			}
			v := w.connect("shop")
			w.listenToo()
			if err := w.m.BufferMessage(v.id, []byte("tick")); err != nil {
				w.Fatalf("BufferMessage: %v", err)
			}
			if got := v.next(); got != "tick" {
				w.Errorf("got %q, want the ticker to bring %q", got, "tick")
			}
			v.collect() // it answers the close frame
			w.stop()
			if err := w.m.Broadcast(Message{}); !errors.Is(err, ErrClosed) {
				w.Errorf("Broadcast after the shutdown: got %v, want ErrClosed", err)
			}
			if listens < 3 {
				w.listen()
			}
		}
	})
}

func TestTruth7AClientNarrowsWhatItGetsAndMayChangeThat(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		v := w.connect("shop?level=error,fatal&environment=production")
		publish := func(texts ...string) { // "project/level/environment"
			for _, text := range texts {
				f := strings.Split(text, "/")
				if err := w.m.Broadcast(Message{Project: f[0], Level: f[1], Environment: f[2], Data: []byte(text)}); err != nil {
					w.Fatal(err)
				}
			}
		}
		expect := func(texts ...string) {
			w.Helper()
			for _, text := range texts {
				if got := v.next(); got != text {
					w.Errorf("got %q, want %q", got, text)
				}
			}
		}
		publish("shop/error/production", "shop/debug/production", "shop/error/staging", "other/error/production", "shop/fatal/production")
		expect("shop/error/production", "shop/fatal/production")

		v.send(`{"type":"subscribe","filters":{"level":"debug","environment":["staging","test"]}}`)
		expect(`{"type":"filters_updated","filters":{"level":"debug","environment":["staging","test"]},"filtered":0}`)
		publish("shop/error/production", "shop/debug/test", "shop/debug/production", "other/debug/staging", "shop/debug/staging")
		expect("shop/debug/test", "shop/debug/staging")
		if got := w.client(v).Filter; !slices.Equal(got.Levels, []string{"debug"}) || !slices.Equal(got.Environments, []string{"staging", "test"}) {
			w.Errorf("Client().Filter: got %+v", got)
		}

		v.send(`{"type":"subscribe","filters":{"level":"","environment":""}}`)
		expect(`{"type":"filters_updated","filters":{"level":"","environment":""},"filtered":0}`)
		publish("shop/error/production", "shop/x/y", "other/a/b", "shop//")
		expect("shop/error/production", "shop/x/y", "shop//")
	})
}

func TestTruth8NoFilterHoldsBackAProjectNotice(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		v, other := w.connect("shop?level=error&environment=production"), w.connect("other?level=error")
		for _, m := range []Message{
			{Project: "shop", Level: "debug", Environment: "production", Data: []byte("filtered")},
			{Project: "shop", Data: []byte("issue resolved")},
			{Project: "shop", Level: "error", Data: []byte("issue count")},
			{Data: []byte("for everybody")},
		} {
			if err := w.m.Broadcast(m); err != nil {
				w.Fatal(err)
			}
		}
		for _, want := range []string{"issue resolved", "issue count", "for everybody"} {
			if got := v.next(); got != want {
				w.Errorf("got %q, want %q", got, want)
			}
		}
		if got := other.next(); got != "for everybody" {
			w.Errorf("the other project: got %q, want %q", got, "for everybody")
		}
	})
}

func TestClientsThatLeaveAreToldAndCounted(t *testing.T) {
	overTransports(t, func(w *world) {
		type left struct {
			id     ClientID
			code   int
			reason string
		}
		gone := make(chan left, 10)
		w.start(WithHooks(Hooks{Disconnect: func(c Client, code int, reason string) { gone <- left{c.ID, code, reason} }}))

		first, second, third := w.connect("shop"), w.connect("shop"), w.connect("shop")
		if err := w.m.Disconnect(first.id, 4001, "bye"); err != nil {
			w.Fatalf("Disconnect: %v", err)
		}
		if _, err := first.closeError(); !websocket.IsCloseError(err, 4001) || !strings.Contains(err.Error(), "bye") {
			w.Errorf("the disconnected client: got %v, want close 4001 bye", err)
		}
		if got, want := <-gone, (left{first.id, 4001, "bye"}); got != want {
			w.Errorf("Disconnect hook: got %+v, want %+v", got, want)
		}

		message := websocket.FormatCloseMessage(4002, "enough")
		if err := second.ws.WriteControl(websocket.CloseMessage, message, time.Now().Add(time.Second)); err != nil {
			w.Fatal(err)
		}
		if _, err := second.closeError(); !websocket.IsCloseError(err, 4002) {
			w.Errorf("the client that closes: got %v, want its code back", err)
		}
		if got, want := <-gone, (left{second.id, 4002, "enough"}); got != want {
			w.Errorf("Disconnect hook: got %+v, want %+v", got, want)
		}

		third.close()
		if got := <-gone; got.id != third.id || got.code != 1006 {
			w.Errorf("Disconnect hook: got %+v, want 1006 for %d", got, third.id)
		}
	})
}
