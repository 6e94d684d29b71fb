package mesherstream_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// The eight truths of the design, end to end, over every transport.

func TestTruth1MessagesOfSlowClientsAreBufferedAndDrainedByTheTicker(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop")
		before := time.Now()
		if err := w.M.BufferMessage(v.ID, []byte("queued")); err != nil {
			w.Fatalf("BufferMessage: %v", err)
		}
		if got := w.Client(v).Buffered; got != 1 && w.Transport.Bubble {
			w.Errorf("Buffered before the tick: got %d, want 1", got)
		}
		if got := v.Next(); got != "queued" {
			w.Errorf("after the tick: got %q, want %q", got, "queued")
		}
		if w.Transport.Bubble {
			now := time.Now()
			if now.Sub(before) > 250*time.Millisecond || now.Sub(w.Started)%(250*time.Millisecond) != 0 {
				w.Errorf("it came %v after the start, want at the next multiple of 250ms", now.Sub(w.Started))
			}
		}

		// A client that takes nothing has its messages buffered, and gets them when it is back.
		w.Broadcast(0, 100)
		w.Eventually("the client is slow", func() bool { return w.Client(v).Slow })
		if got := w.Client(v).Buffered; got == 0 {
			w.Error("Buffered of a slow client: got 0")
		}
		v.Collect()
		w.Eventually("it has caught up", func() bool { return len(v.Collected()) == 100-int(w.Client(v).Dropped) })
		if c := w.Client(v); c.Slow || c.Buffered != 0 {
			w.Errorf("a client that has caught up: got %+v, want it neither slow nor buffered", c)
		}
	})
}

func TestTruth2TheOldestMessagesAreDroppedBeyondMaxBuffer(t *testing.T) {
	for _, maxBuffer := range []int{1, 10, 100} {
		t.Run(fmt.Sprint("max=", maxBuffer), func(t *testing.T) {
			streamtest.OverTransports(t, func(w *streamtest.World) {
				const all = 400
				w.Start(mesherstream.WithMaxBuffer(maxBuffer), mesherstream.WithUnsentLimit(16<<10))
				w.Pace = min(20, maxBuffer)
				slow, healthy := w.Connect("shop"), w.Connect("shop").Collect()
				w.Broadcast(0, all, healthy)

				c := w.Client(slow)
				if c.Dropped == 0 || !c.Slow {
					w.Errorf("a client that reads nothing: got %+v, want it slow, with drops", c)
				}
				if c.Buffered < maxBuffer || c.Buffered > maxBuffer+chunk/len(streamtest.Filler) {
					w.Errorf("Buffered: got %d, want max_buffer = %d and at most one chunk in flight", c.Buffered, maxBuffer)
				}
				slow.Collect()
				w.Eventually("the slow client has caught up", func() bool {
					return uint64(len(slow.Collected()))+w.Client(slow).Dropped == all
				})
				got := slow.Numbers()
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
				w.Eventually("the healthy client has everything", func() bool { return len(healthy.Numbers()) == all })
				if !slices.IsSorted(healthy.Numbers()) {
					w.Error("the healthy client got its messages in another order")
				}
			})
		})
	}
}

func TestTruth3ADrainSendsInOrderAndClearsTheBuffer(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithDrainInterval(time.Hour))
		v := w.Connect("shop")
		for i := range 5 {
			if err := w.M.BufferMessage(v.ID, fmt.Append(nil, i)); err != nil {
				w.Fatalf("BufferMessage(%d): %v", i, err)
			}
		}
		if got := w.Client(v); got.Buffered != 5 || got.Sent != 0 {
			w.Errorf("before the drain: got %+v, want 5 buffered, 0 sent", got)
		}
		w.M.DrainBuffers()
		for i := range 5 {
			if got := v.Next(); got != fmt.Sprint(i) {
				w.Errorf("message %d: got %q", i, got)
			}
		}
		w.Eventually("the buffer is empty", func() bool { c := w.Client(v); return c.Buffered == 0 && c.Sent == 5 })
		if got := w.Client(v); got.BufferedBytes != 0 {
			w.Errorf("BufferedBytes after the drain: got %d, want 0", got.BufferedBytes)
		}
	})
}

func TestTruth4AFailedSendRemovesThatClientAndOnlyThatOne(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		dying, healthy := w.Connect("shop"), w.Connect("shop").Collect()
		w.Broadcast(0, 200, healthy) // until there is something to abandon
		w.Eventually("something is buffered", func() bool { return w.Client(dying).Buffered > 0 })
		_ = dying.WS.Close() // the socket, without a close frame
		w.Broadcast(200, 220, healthy)
		w.Eventually("the dead client is removed", func() bool { return !w.M.IsStreamClient(dying.ID) })
		w.Broadcast(220, 240, healthy)

		if s := w.M.Stats(); s.Clients != 1 || s.Disconnects != 1 || s.Abandoned == 0 {
			w.Errorf("Stats(): got %+v, want one client, one gone, its buffer abandoned", s)
		}
		w.Eventually("the other one has everything", func() bool { return len(healthy.Numbers()) == 240 })
	})
}

func TestTruth4AnEmptyBufferCostsADrainNothing(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithDrainInterval(time.Hour))
		v := w.Connect("shop")
		drains := func() (n uint64) { // that had a client to visit
			for _, count := range w.M.Stats().Drains.Counts {
				n += count
			}
			return n
		}
		for range 10 {
			w.M.DrainBuffers()
		}
		if got := drains(); got != 0 {
			w.Errorf("drains that visited a client while nothing was buffered: got %d, want 0", got)
		}
		if err := w.M.BufferMessage(v.ID, []byte("x")); err != nil {
			w.Fatal(err)
		}
		w.M.DrainBuffers()
		v.Next()
		w.Eventually("nothing is buffered", func() bool { return w.Client(v).Buffered == 0 })
		before := drains()
		if before == 0 {
			w.Error("drains that visited the client whose buffer was drained: got 0")
		}
		for range 10 {
			w.M.DrainBuffers()
		}
		if got := drains(); got != before {
			w.Errorf("drains that visited a client after its buffer was drained: got %d more, want 0", got-before)
		}
	})
}

func TestTruth5BufferMessageForNoClientChangesNothing(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop")
		before := w.M.Stats()
		for _, id := range []mesherstream.ClientID{0, v.ID + 1, 1 << 60} {
			if err := w.M.BufferMessage(id, []byte("x")); !errors.Is(err, mesherstream.ErrUnknownClient) {
				w.Errorf("BufferMessage(%d): got %v, want ErrUnknownClient", id, err)
			}
			if w.M.IsStreamClient(id) {
				w.Errorf("IsStreamClient(%d): got true", id)
			}
		}
		if after := w.M.Stats(); after != before {
			w.Errorf("Stats(): got %+v, want %+v as before", after, before)
		}
		v.Close()
		w.Eventually("it has left", func() bool { return !w.M.IsStreamClient(v.ID) })
		if err := w.M.BufferMessage(v.ID, []byte("x")); !errors.Is(err, mesherstream.ErrUnknownClient) {
			w.Errorf("BufferMessage of one that has left: got %v, want ErrUnknownClient", err)
		}
	})
}

func TestTruth6TheTickerStartsWithTheAppAndAgainExactlyOnce(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithDrainInterval(100 * time.Millisecond))
		for listens := 1; listens <= 3; listens++ {
			w.Eventually("the start is logged", func() bool { return w.Logs.Count("drain ticker started") >= listens })
			if got := w.Logs.Count("drain ticker started"); got != listens {
				w.Errorf("log lines after %d listens: got %d", listens, got)
			}
			if got := w.Logs.Count("interval=100ms"); got != listens {
				w.Errorf("log lines with the interval after %d listens: got %d", listens, got)
			}
			v := w.Connect("shop")
			w.ListenToo()
			if err := w.M.BufferMessage(v.ID, []byte("tick")); err != nil {
				w.Fatalf("BufferMessage: %v", err)
			}
			if got := v.Next(); got != "tick" {
				w.Errorf("got %q, want the ticker to bring %q", got, "tick")
			}
			v.Collect() // it answers the close frame
			w.Stop()
			if err := w.M.Broadcast(mesherstream.Message{}); !errors.Is(err, mesherstream.ErrClosed) {
				w.Errorf("Broadcast after the shutdown: got %v, want ErrClosed", err)
			}
			if listens < 3 {
				w.Listen()
			}
		}
	})
}

func TestTruth7AClientNarrowsWhatItGetsAndMayChangeThat(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop?level=error,fatal&environment=production")
		publish := func(texts ...string) { // "project/level/environment"
			for _, text := range texts {
				f := strings.Split(text, "/")
				if err := w.M.Broadcast(mesherstream.Message{Project: f[0], Level: f[1], Environment: f[2], Data: []byte(text)}); err != nil {
					w.Fatal(err)
				}
			}
		}
		expect := func(texts ...string) {
			w.Helper()
			for _, text := range texts {
				if got := v.Next(); got != text {
					w.Errorf("got %q, want %q", got, text)
				}
			}
		}
		publish("shop/error/production", "shop/debug/production", "shop/error/staging", "other/error/production", "shop/fatal/production")
		expect("shop/error/production", "shop/fatal/production")

		v.Send(`{"type":"subscribe","filters":{"level":"debug","environment":["staging","test"]}}`)
		expect(`{"type":"filters_updated","filters":{"level":"debug","environment":["staging","test"]},"filtered":0}`)
		publish("shop/error/production", "shop/debug/test", "shop/debug/production", "other/debug/staging", "shop/debug/staging")
		expect("shop/debug/test", "shop/debug/staging")
		if got := w.Client(v).Filter; !slices.Equal(got.Levels, []string{"debug"}) || !slices.Equal(got.Environments, []string{"staging", "test"}) {
			w.Errorf("Client().Filter: got %+v", got)
		}

		v.Send(`{"type":"subscribe","filters":{"level":"","environment":""}}`)
		expect(`{"type":"filters_updated","filters":{"level":"","environment":""},"filtered":0}`)
		publish("shop/error/production", "shop/x/y", "other/a/b", "shop//")
		expect("shop/error/production", "shop/x/y", "shop//")
	})
}

func TestTruth8NoFilterHoldsBackAProjectNotice(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v, other := w.Connect("shop?level=error&environment=production"), w.Connect("other?level=error")
		for _, m := range []mesherstream.Message{
			{Project: "shop", Level: "debug", Environment: "production", Data: []byte("filtered")},
			{Project: "shop", Data: []byte("issue resolved")},
			{Project: "shop", Level: "error", Data: []byte("issue count")},
			{Data: []byte("for everybody")},
		} {
			if err := w.M.Broadcast(m); err != nil {
				w.Fatal(err)
			}
		}
		for _, want := range []string{"issue resolved", "issue count", "for everybody"} {
			if got := v.Next(); got != want {
				w.Errorf("got %q, want %q", got, want)
			}
		}
		if got := other.Next(); got != "for everybody" {
			w.Errorf("the other project: got %q, want %q", got, "for everybody")
		}
	})
}

func TestClientsThatLeaveAreToldAndCounted(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		type left struct {
			id     mesherstream.ClientID
			code   int
			reason string
		}
		gone := make(chan left, 10)
		w.Start(mesherstream.WithHooks(mesherstream.Hooks{Disconnect: func(c mesherstream.Client, code int, reason string) { gone <- left{c.ID, code, reason} }}))

		first, second, third := w.Connect("shop"), w.Connect("shop"), w.Connect("shop")
		if err := w.M.Disconnect(first.ID, 4001, "bye"); err != nil {
			w.Fatalf("Disconnect: %v", err)
		}
		if _, err := first.CloseError(); !websocket.IsCloseError(err, 4001) || !strings.Contains(err.Error(), "bye") {
			w.Errorf("the disconnected client: got %v, want close 4001 bye", err)
		}
		if got, want := <-gone, (left{first.ID, 4001, "bye"}); got != want {
			w.Errorf("Disconnect hook: got %+v, want %+v", got, want)
		}

		message := websocket.FormatCloseMessage(4002, "enough")
		if err := second.WS.WriteControl(websocket.CloseMessage, message, time.Now().Add(time.Second)); err != nil {
			w.Fatal(err)
		}
		if _, err := second.CloseError(); !websocket.IsCloseError(err, 4002) {
			w.Errorf("the client that closes: got %v, want its code back", err)
		}
		if got, want := <-gone, (left{second.ID, 4002, "enough"}); got != want {
			w.Errorf("Disconnect hook: got %+v, want %+v", got, want)
		}

		third.Close()
		if got := <-gone; got.id != third.ID || got.code != 1006 {
			w.Errorf("Disconnect hook: got %+v, want 1006 for %d", got, third.ID)
		}
	})
}
