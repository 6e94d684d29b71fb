package mesherstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// This is the book of the promises. Each test states one, end to end, over every transport: TCP, a wrapped connection,
// TLS, and a pipe in a bubble of fake time. The eight truths that the library was built from come first. Then come the
// other things that users rely on: broadcasts that never wait, bounds, filters, shutdowns, hooks, accounts, and the
// ways of dropping.

func TestMain(m *testing.M) { streamtest.Main(m, nil) }

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

		// If a client accepts nothing, its messages are buffered, and it receives them when it reads again.
		w.Broadcast(0, 100)
		w.Eventually("the client is slow", func() bool { return w.Client(v).Slow })
		if got := w.Client(v).Buffered; got == 0 {
			w.Error("Buffered of a slow client: got 0")
		}
		v.Collect()
		w.Eventually("it has caught up", func() bool { return len(v.Collected()) == 100-int(w.Client(v).Dropped) })
		w.Eventually("it is neither slow nor buffered", func() bool { c := w.Client(v); return !c.Slow && c.Buffered == 0 })
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
		w.Broadcast(0, 200, healthy) // until messages are buffered that can be abandoned
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
		v := w.Connect("shop").Collect()
		drains := func() (n uint64) { // which had a client to visit
			for _, count := range w.M.Stats().Drains.Counts {
				n += count
			}
			return n
		}
		idle := func() bool { // once the link has finished, with a ping perhaps
			before := drains()
			w.M.DrainBuffers()
			return drains() == before
		}
		w.Eventually("the link is idle", idle)
		before := drains()
		for range 10 {
			w.M.DrainBuffers()
		}
		if got := drains(); got != before {
			w.Errorf("drains that visited a client while nothing was buffered: got %d, want 0", got-before)
		}
		if err := w.M.BufferMessage(v.ID, []byte("x")); err != nil {
			w.Fatal(err)
		}
		w.M.DrainBuffers()
		w.Eventually("the drain that visited the client is counted", func() bool { return drains() > before })
		w.Eventually("it is there", func() bool { return len(v.Collected()) == 1 })
		w.Eventually("the link is idle", idle)
		before = drains()
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

// chunk is how many bytes a link may have in flight, no longer buffered and not yet sent.
const chunk = 16 << 10

func TestBroadcastNeverWaitsForAHundredStalledClients(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		const stalled, all = 100, 300
		w.Start(mesherstream.WithUnsentLimit(16 << 10))
		for range stalled {
			w.Connect("shop")
		}
		healthy := w.Connect("shop").Collect()

		// The stalled clients read nothing until the test is over. If a Broadcast waited for one of them, it would
		// never return. So the proof is that the broadcasts return; how long they take depends on the scheduler.
		w.Broadcast(0, all, healthy)
		w.Eventually("the healthy client has everything", func() bool { return len(healthy.Collected()) == all })
		if got := healthy.Numbers(); !slices.IsSorted(got) {
			w.Errorf("the healthy client got its messages in another order: %v", got)
		}
		w.Eventually("the stalled ones are slow", func() bool { return w.M.Stats().Slow == stalled })
		s := w.M.Stats()
		if s.Clients != stalled+1 || s.Dropped == 0 {
			w.Errorf("Stats(): got %+v, want %d clients, and drops", s, stalled+1)
		}
		if most := int64(stalled) * (1<<20 + chunk); s.BufferedBytes > most {
			w.Errorf("BufferedBytes: got %d, want at most %d", s.BufferedBytes, most)
		}
	})
}

func TestTheByteBoundDropsTheOldestToo(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		const bound = 64 << 10
		w.Start(mesherstream.WithMaxBufferBytes(bound), mesherstream.WithUnsentLimit(16<<10))
		v := w.Connect("shop")
		w.Broadcast(0, 300)
		c := w.Client(v)
		if c.Dropped == 0 || c.BufferedBytes > bound+chunk || c.Buffered > (bound+chunk)/len(streamtest.Filler) {
			w.Errorf("a stalled client: got %+v, want drops, and at most %d bytes and a chunk buffered", c, bound)
		}
		if err := w.M.Broadcast(mesherstream.Message{Data: make([]byte, bound)}); err != nil {
			w.Errorf("Broadcast of exactly the bound: got %v", err)
		}
		if err := w.M.Broadcast(mesherstream.Message{Data: make([]byte, bound+1)}); !errors.Is(err, mesherstream.ErrTooLarge) {
			w.Errorf("Broadcast over the bound: got %v, want ErrTooLarge", err)
		}
		if err := w.M.BufferMessage(v.ID, make([]byte, bound+1)); !errors.Is(err, mesherstream.ErrTooLarge) {
			w.Errorf("BufferMessage over the bound: got %v, want ErrTooLarge", err)
		}
	})
}

// TestAFilterBitesAtOnce: buffered messages that do not match the new filter are removed and counted, and every message
// after the reply matches it.
func TestAFilterBitesAtOnce(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithUnsentLimit(16<<10), mesherstream.WithMaxBuffer(200))
		v := w.Connect("shop")
		w.Broadcast(0, 150) // "error"; more than the kernel accepts
		w.Eventually("something is buffered", func() bool { return w.Client(v).Buffered > 0 })
		for i := range 10 {
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Level: "fatal", Data: fmt.Append(nil, "fatal ", i)}); err != nil {
				w.Fatal(err)
			}
		}
		if err := w.M.BufferMessage(v.ID, []byte("for you alone")); err != nil {
			w.Fatal(err)
		}
		v.Send(`{"type":"subscribe","filters":{"level":["fatal"]}}`)
		w.Eventually("the filter is changed", func() bool { return w.M.Stats().FilterSets == 1 })
		c := w.Client(v)
		if c.Filtered == 0 || c.Buffered > int(c.Offered-c.Sent-c.Filtered) {
			w.Errorf("after the change: got %+v, want what doesn't match taken out", c)
		}
		w.Broadcast(150, 200) // which does not match the new filter
		for i := range 10 {
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Level: "fatal", Data: fmt.Append(nil, "fatal ", 10+i)}); err != nil {
				w.Fatal(err)
			}
		}

		answer := fmt.Sprintf(`{"type":"filters_updated","filters":{"level":["fatal"],"environment":""},"filtered":%d}`, c.Filtered)
		text, errors := v.Next(), 0
		for ; text != answer; text = v.Next() {
			var n int
			if _, err := fmt.Sscan(text, &n); err != nil || n != errors {
				w.Fatalf("in front of the answer: got %.30q, want message %d, or %s", text, errors, answer)
			}
			errors++
		}
		if uint64(errors)+c.Filtered != 150 {
			w.Errorf("got %d errors and %d filtered, want 150 in all", errors, c.Filtered)
		}
		for i := range 10 {
			if got, want := v.Next(), fmt.Sprint("fatal ", i); got != want {
				w.Errorf("behind the answer: got %.20q, want %q", got, want)
			}
		}
		if got := v.Next(); got != "for you alone" {
			w.Errorf("what is for one client has no level: got %.20q, want it through every filter", got)
		}
		for i := range 10 {
			if got, want := v.Next(), fmt.Sprint("fatal ", 10+i); got != want {
				w.Errorf("behind the answer: got %.20q, want %q", got, want)
			}
		}
	})
}

func TestSetFilterTakesOutWhatWaits(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithUnsentLimit(16<<10), mesherstream.WithMaxBuffer(200))
		v := w.Connect("shop")
		w.Broadcast(0, 150)
		w.Eventually("it is slow", func() bool { return w.Client(v).Slow })
		if err := w.M.SetFilter(v.ID, mesherstream.Filter{Levels: []string{"fatal"}}); err != nil {
			w.Fatal(err)
		}
		if c := w.Client(v); c.Filtered == 0 || c.Offered != c.Sent+c.Filtered+uint64(c.Buffered) {
			w.Errorf("after SetFilter: got %+v, want nothing buffered but what is in flight", c)
		}
		v.Collect()
		w.Eventually("it is slow no more", func() bool { return !w.Client(v).Slow })
	})
}

func TestShutdownFlushesBuffersBeforeClosing(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithDrainInterval(time.Hour))
		var viewers []*streamtest.Viewer
		for range 10 {
			v := w.Connect("shop")
			for i := range 20 {
				if err := w.M.BufferMessage(v.ID, fmt.Append(nil, i)); err != nil {
					w.Fatal(err)
				}
			}
			viewers = append(viewers, v)
		}
		stalled := w.Connect("shop")
		w.Broadcast(0, 0)

		for _, v := range viewers {
			v.Collect()
		}
		stalled.Collect()
		if err := w.M.Shutdown(w.Context()); err != nil {
			w.Errorf("Shutdown: %v", err)
		}
		for _, v := range viewers {
			<-v.Done
			if !websocket.IsCloseError(v.Err, websocket.CloseGoingAway) || len(v.Messages) != 20 {
				w.Errorf("viewer %d: got %d messages and %v, want 20 and close 1001", v.ID, len(v.Messages), v.Err)
			}
		}
		for name, err := range map[string]error{
			"Broadcast":     w.M.Broadcast(mesherstream.Message{Project: "shop"}),
			"BufferMessage": w.M.BufferMessage(viewers[0].ID, nil),
			"SetFilter":     w.M.SetFilter(viewers[0].ID, mesherstream.Filter{}),
			"Disconnect":    w.M.Disconnect(viewers[0].ID, 1000, ""),
		} {
			if !errors.Is(err, mesherstream.ErrClosed) {
				w.Errorf("%s after Shutdown: got %v, want ErrClosed", name, err)
			}
		}
		d := websocket.Dialer{NetDial: w.Dial}
		if _, resp, err := d.Dial("ws://app.test/stream/projects/shop", nil); err == nil || resp == nil || resp.StatusCode != 503 {
			w.Errorf("a client after Shutdown: got %v %v, want status 503", resp, err)
		}
	})
}

func TestShutdownIsBoundedByItsDeadlineWhenClientsStall(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithUnsentLimit(16 << 10))
		stalled, healthy := w.Connect("shop"), w.Connect("shop").Collect()
		w.Broadcast(0, 200, healthy)
		w.Eventually("it is slow", func() bool { return w.Client(stalled).Slow })

		begin := time.Now()
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if err := w.M.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("Shutdown with a stalled client: got %v, want DeadlineExceeded", err)
		}
		if took := time.Since(begin); w.Transport.Bubble && took != time.Second {
			w.Errorf("Shutdown took %v, want exactly 1s", took)
		}
		<-healthy.Done
		if !websocket.IsCloseError(healthy.Err, websocket.CloseGoingAway) {
			w.Errorf("the healthy client: got %v, want close 1001", healthy.Err)
		}
		if s := w.M.Stats(); s.Abandoned == 0 || s.Buffered != 0 {
			w.Errorf("Stats(): got %+v, want what was buffered abandoned", s)
		}
	})
}

func TestHooksTellInOrderWhatHappensToAClient(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		var mu sync.Mutex
		happened := map[mesherstream.ClientID][]string{}
		dropped := map[mesherstream.ClientID]uint64{}
		note := func(id mesherstream.ClientID, what string) {
			mu.Lock()
			defer mu.Unlock()
			happened[id] = append(happened[id], what)
		}
		w.Start(mesherstream.WithUnsentLimit(16<<10), mesherstream.WithHooks(mesherstream.Hooks{
			Connect:    func(c mesherstream.Client) { note(c.ID, "connect "+c.Project) },
			Disconnect: func(c mesherstream.Client, code int, _ string) { note(c.ID, fmt.Sprint("disconnect ", code)) },
			Slow:       func(c mesherstream.Client) { note(c.ID, "slow") },
			Message: func(c mesherstream.Client, data []byte, binary bool) {
				note(c.ID, fmt.Sprintf("message %s %v", data, binary))
				if err := w.M.BufferMessage(c.ID, append([]byte("echo "), data...)); err != nil { // a hook may call the manager
					w.Errorf("BufferMessage in a hook: %v", err)
				}
			},
			Drop: func(c mesherstream.Client, n uint64) {
				mu.Lock()
				defer mu.Unlock()
				dropped[c.ID] += n
			},
		}))
		v := w.Connect("shop")
		v.Send("hello")
		if got := v.Next(); got != "echo hello" {
			w.Errorf("got %q, want the hook's echo", got)
		}
		w.Broadcast(0, 300)
		w.Eventually("drops are told", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return dropped[v.ID] > 0 && dropped[v.ID] == w.Client(v).Dropped
		})
		v.Collect()
		w.Eventually("it has caught up", func() bool { return w.Client(v).Buffered == 0 })
		if err := w.M.Disconnect(v.ID, 1000, ""); err != nil {
			w.Fatal(err)
		}
		<-v.Done
		want := []string{"connect shop", "message hello false", "slow", "disconnect 1000"}
		w.Eventually("the hooks have run", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(happened[v.ID]) >= len(want)
		})
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(happened[v.ID], want) {
			w.Errorf("hooks: got %q, want %q", happened[v.ID], want)
		}
	})
}

func TestAPanicInAHookClosesThatClientWithoutTellingItMore(t *testing.T) {
	boom := func() { panic("the secret text") }
	cursed := func(c mesherstream.Client) { // and not another client that a busy machine makes slow
		if c.Project == "cursed" {
			boom()
		}
	}
	for name, hooks := range map[string]mesherstream.Hooks{
		"Connect":    {Connect: cursed},
		"Message":    {Message: func(mesherstream.Client, []byte, bool) { boom() }},
		"Slow":       {Slow: cursed},
		"Drop":       {Drop: func(c mesherstream.Client, _ uint64) { cursed(c) }},
		"Disconnect": {Disconnect: func(mesherstream.Client, int, string) { boom() }},
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.OverTransports(t, func(w *streamtest.World) {
				w.Start(mesherstream.WithHooks(hooks), mesherstream.WithUnsentLimit(16<<10))
				bystander := w.Connect("shop").Collect()
				v := w.Connect("cursed")
				switch name {
				case "Message":
					v.Send("not for us")
				case "Slow", "Drop":
					for i := range 300 {
						if err := w.M.Broadcast(mesherstream.Message{Project: "cursed", Data: fmt.Append(nil, i, streamtest.Filler)}); err != nil {
							w.Fatal(err)
						}
					}
				case "Disconnect":
					_ = v.WS.Close()
				}
				w.Eventually("the panic is logged", func() bool { return w.Logs.Count("the secret text") > 0 })
				if w.Logs.Count("manager_test.go") == 0 {
					w.Error("the log has no stack")
				}
				if name != "Disconnect" { // a client that has left can't be told
					if _, err := v.CloseError(); !websocket.IsCloseError(err, websocket.CloseInternalServerErr) || strings.Contains(err.Error(), "secret") {
						w.Errorf("the client: got %v, want close 1011 without the text", err)
					}
				}
				w.Broadcast(0, 20, bystander)
				w.Eventually("the other client gets everything", func() bool { return len(bystander.Numbers()) == 20 })
				if got := w.M.Stats().HookPanics; got == 0 {
					w.Error("HookPanics: got 0")
				}
			})
		})
	}
}

// TestAccountsBalanceInAStorm lets everything happen at once: publishers, viewers that connect, stall, change their
// filter and leave with and without a close frame, disconnects, drains, and queries.
func TestAccountsBalanceInAStorm(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(20), mesherstream.WithDrainInterval(5*time.Millisecond), mesherstream.WithPingInterval(20*time.Millisecond), mesherstream.WithIdleTimeout(2*time.Second))
		var storm sync.WaitGroup
		stop := make(chan struct{})
		running := func() bool {
			select {
			case <-stop:
				return false
			case <-time.After(time.Millisecond):
				return true
			}
		}
		projects, levels := []string{"a", "b", ""}, []string{"error", "debug", ""}
		pick := func(list []string) string { return list[rand.IntN(len(list))] }
		anyClient := func() mesherstream.ClientID { return mesherstream.ClientID(rand.IntN(60) + 1) }

		for range 3 {
			storm.Go(func() {
				for running() {
					for range rand.IntN(30) {
						data := fmt.Append(nil, streamtest.Filler[:rand.IntN(len(streamtest.Filler))])
						if err := w.M.Broadcast(mesherstream.Message{Project: pick(projects), Level: pick(levels), Data: data}); err != nil {
							w.Errorf("Broadcast: %v", err)
						}
					}
					_ = w.M.BufferMessage(anyClient(), []byte("for you"))
					_ = w.M.SetFilter(anyClient(), mesherstream.Filter{Levels: []string{pick(levels)}})
				}
			})
		}
		storm.Go(func() {
			for running() {
				w.M.DrainBuffers()
				w.CheckAccounts()
				if rand.IntN(10) == 0 {
					_ = w.M.Disconnect(anyClient(), 4000, "out")
				}
			}
		})
		for range 6 {
			storm.Go(func() {
				for running() {
					d := websocket.Dialer{NetDial: w.Dial}
					ws, _, err := d.Dial("ws://app.test/stream/projects/"+pick(projects[:2])+"?level="+pick(levels), nil)
					if err != nil {
						w.Errorf("dial: %v", err)
						return
					}
					_ = ws.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
					_ = ws.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
					for range rand.IntN(200) {
						if rand.IntN(20) == 0 {
							text := fmt.Sprintf(`{"type":"subscribe","filters":{"level":%q}}`, pick(levels))
							_ = ws.WriteMessage(websocket.TextMessage, []byte(text))
						}
						if _, _, err := ws.ReadMessage(); err != nil {
							break
						}
					}
					if rand.IntN(2) == 0 {
						_ = ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(50*time.Millisecond))
					}
					_ = ws.Close()
				}
			})
		}
		time.Sleep(700 * time.Millisecond)
		w.Eventually("something is sent and something abandoned", func() bool { s := w.M.Stats(); return s.Sent > 0 && s.Abandoned > 0 })
		close(stop)
		storm.Wait()
		w.Eventually("all have left", func() bool { return w.M.Stats().Clients == 0 })
	})
}

// angryHandler is a log handler that panics.
type angryHandler struct{ slog.Handler }

func (angryHandler) Handle(context.Context, slog.Record) error { panic("the log is full") }

func TestAPanicOfTheLogHandlerIsSurvived(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(
			mesherstream.WithLogger(slog.New(angryHandler{slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})})),
			mesherstream.WithHooks(mesherstream.Hooks{Message: func(mesherstream.Client, []byte, bool) { panic("and so am I") }}),
		)
		bystander, v := w.Connect("shop").Collect(), w.Connect("shop")
		v.Send("hello")
		if _, err := v.CloseError(); !websocket.IsCloseError(err, websocket.CloseInternalServerErr) {
			w.Errorf("the client whose hook panics: got %v, want close 1011", err)
		}
		w.Broadcast(0, 20, bystander)
		w.Eventually("the other client gets everything", func() bool { return len(bystander.Numbers()) == 20 })
	})
}

func TestDrainsAndOneRunInSixtyFourAreTimed(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop").Collect()
		for range 2*64 + 1 {
			w.Publish("x")
			synctest.Wait() // a run each
		}
		if err := w.M.BufferMessage(v.ID, []byte("buffered")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s := w.M.Stats()
		var runs, drains uint64
		for i := range s.Deliveries.Counts {
			runs += s.Deliveries.Counts[i]
			drains += s.Drains.Counts[i]
		}
		if runs != 2 || drains != 1 {
			t.Errorf("Stats(): got %d runs and %d drains timed, want 2 and 1: a drain with nothing to do is none", runs, drains)
		}
	})
}

func TestDropNewestKeepsTheOldest(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(20), mesherstream.WithMaxBuffer(3), mesherstream.WithOverflow(mesherstream.DropNewest))
		v := w.ConnectCounting("shop")
		w.Stall(v, 20)
		w.PublishAll(streamtest.Texts("error", 0, 10)...)
		w.Eventually("7 are dropped", func() bool { return w.Client(v.Viewer).Dropped == 7 })
		v.Ack()
		v.Expect("error 0", "error 1", "error 2")
		if len(v.Gaps) != 0 {
			w.Errorf("got %+v in front of what was kept", v.Gaps)
		}
		w.PublishAll(streamtest.Texts("error", 10, 11)...)
		v.Expect("error 10")
		if len(v.Gaps) != 1 || v.Gaps[0].Dropped != 7 {
			w.Errorf("gaps: got %+v, want one of 7 behind what was kept", v.Gaps)
		}
	})
}

func TestOverflowDisconnects(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(20), mesherstream.WithMaxBuffer(3), mesherstream.WithOverflow(mesherstream.Disconnect))
		v, other := w.ConnectCounting("shop"), w.Connect("shop").Collect()
		w.Stall(v, 20)
		w.Eventually("the other client has it", func() bool { return len(other.Collected()) == 19 })
		for i := range 4 {
			w.PublishAll(streamtest.Texts("error", i, i+1)...)
			w.Eventually("the other client has it", func() bool { return len(other.Collected()) == 20+i })
			if c, ok := w.M.Client(v.ID); i < 3 && (!ok || c.Buffered != 1+i) {
				w.Errorf("within its bound: got %+v, want %d buffered", c, 1+i)
			}
		}
		if _, err := v.CloseError(); !websocket.IsCloseError(err, websocket.CloseTryAgainLater) || !strings.Contains(err.Error(), "retry_after_ms=") {
			w.Errorf("beyond it: got %v, want close 1013 that says when to retry", err)
		}
		w.Eventually("what waited is abandoned", func() bool { s := w.M.Stats(); return s.Abandoned == 4 && s.Dropped == 0 })
	})
}

func TestAKeyKeepsTheNewestValueOnly(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(20))
		v := w.ConnectCounting("shop")
		w.Stall(v, 20)
		for i := range 50 {
			w.PublishAll(
				mesherstream.Message{Key: "a", Data: fmt.Append(nil, "a ", i)},
				mesherstream.Message{Level: "error", Data: fmt.Append(nil, "event ", i)},
				mesherstream.Message{Key: "b", Data: fmt.Append(nil, "b ", i)},
			)
		}
		w.Eventually("values are replaced", func() bool { return w.Client(v.Viewer).Conflated == 98 })
		v.Ack()
		v.Expect("a 49", "event 0", "b 49", "event 1")
		v.Ack()
		for i := 2; i < 50; i++ {
			v.Expect(fmt.Sprint("event ", i))
			v.Ack()
		}
		if c := w.Client(v.Viewer); c.Dropped != 0 || len(v.Gaps) != 0 {
			w.Errorf("got %+v and gaps %+v, want none", c, v.Gaps)
		}
		for _, text := range []string{"a 50", "a 51"} { // nothing is buffered, so nothing is replaced
			w.Eventually("nothing waits", func() bool { return w.Client(v.Viewer).Buffered == 0 })
			w.PublishAll(mesherstream.Message{Key: "a", Data: []byte(text)})
			v.Expect(text)
		}
	})
}

func TestKeptLevelsAreDroppedLast(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(20), mesherstream.WithMaxBuffer(4), mesherstream.WithKeepLevels("fatal", "error"))
		v := w.ConnectCounting("shop")
		w.Stall(v, 20)
		w.PublishAll(streamtest.Texts("fatal", 0, 2)...)
		w.PublishAll(streamtest.Texts("debug", 0, 10)...)
		w.PublishAll(streamtest.Texts("error", 0, 1)...)
		w.PublishAll(streamtest.Texts("debug", 10, 12)...)
		w.Eventually("11 are dropped", func() bool { return w.Client(v.Viewer).Dropped == 11 })
		v.Ack()
		v.Expect("fatal 0", "fatal 1")
		if len(v.Gaps) != 0 {
			w.Errorf("in front of what was kept: got %+v", v.Gaps)
		}
		v.Expect("error 0")
		v.Expect("debug 11")
		if len(v.Gaps) != 2 || v.Gaps[0].ByLevel["debug"] != 10 || v.Gaps[1].ByLevel["debug"] != 1 {
			w.Errorf("gaps: got %+v, want 10 in front of the error and 1 behind it", v.Gaps)
		}
	})
}

// A page that opens with old messages, or asks for them, is not late.
func TestAgeOfOldMessagesCountsFromWhenTheyWereAskedFor(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(10)) // so that marks follow the messages of a replay
		for i := range 50 {
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: fmt.Append(nil, i)}); err != nil {
				w.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		joined, asks := w.ConnectWithProtocol("shop?last=50"), w.ConnectWithProtocol("shop")
		joined.Collect()
		asks.Collect()
		asks.Send(`{"type":"subscribe","filters":{},"last":50}`)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, v := range []*streamtest.Viewer{joined.Viewer, asks.Viewer} {
			if c := w.Client(v); c.Replayed != 50 || c.Age <= 0 || c.Age > time.Second {
				w.Errorf("got %+v, want 50 messages replayed, and no age of a minute", c)
			}
		}
		ages := w.M.Stats().Ages
		if n := ages.Counts[0]; n < 4 || ages.Sum > time.Second {
			w.Errorf("got ages %+v, want many, and none of a minute", ages)
		}
	})
}

func TestAgeIncludesTheTimeInTheBuffer(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithDrainInterval(10 * time.Second))
		v := w.ConnectWithProtocol("shop")
		v.Collect()
		time.Sleep(2 * time.Second)
		if err := w.M.BufferMessage(v.ID, []byte("hello")); err != nil {
			w.Fatal(err)
		}
		published := time.Now()
		w.Eventually("it is sent", func() bool { return w.Client(v.Viewer).Sent == 1 })
		synctest.Wait()
		waited := time.Since(published)
		if c := w.Client(v.Viewer); waited < time.Second || (c.Age-waited).Abs() > 10*time.Millisecond {
			w.Errorf("got age %v of a message that has waited for %v", c.Age, waited)
		}
	})
}

func TestAgeIsOfClientsThatAcknowledgeMarks(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		plain, counting := w.Connect("shop"), w.ConnectCounting("shop")
		plain.Collect()
		counting.Collect()
		for range 10 {
			w.PublishAll(mesherstream.Message{Project: "shop", Data: []byte("x")})
			time.Sleep(2 * time.Second)
			counting.Ack()
		}
		synctest.Wait()
		for _, v := range []*streamtest.Viewer{plain, counting.Viewer} {
			if c := w.Client(v); c.Age != 0 || c.Unacknowledged > 1 {
				w.Errorf("got age %v and %d unacknowledged, want 0 and none", c.Age, c.Unacknowledged)
			}
		}
		if got := w.M.Stats().Ages; got != (mesherstream.AgeHistogram{}) {
			w.Errorf("Stats: got ages %+v, want none", got)
		}
	})
}

func TestAgesAreCountedByTheirSize(t *testing.T) {
	var h mesherstream.AgeHistogram
	for i := range h.Counts[1:] {
		if h.Bound(i+1) <= h.Bound(i) {
			t.Errorf("Bound(%d): got %v after %v", i+1, h.Bound(i+1), h.Bound(i))
		}
	}
	if first, last := h.Bound(0), h.Bound(len(h.Counts)-2); first != 10*time.Millisecond || last != 5*time.Minute || h.Bound(len(h.Counts)-1) != math.MaxInt64 {
		t.Errorf("got bounds from %v to %v, want 10ms to 5m, and no end", first, last)
	}
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		v := w.ConnectCounting("shop")
		v.Ack() // of hello
		for i, age := range []time.Duration{10 * time.Millisecond, 10*time.Millisecond + 1, 700 * time.Millisecond, 50 * time.Second} {
			synctest.Wait()
			before := w.M.Stats().Ages
			w.PublishAll(mesherstream.Message{Project: "shop", Data: []byte("x")})
			v.Expect("x")
			if _, _, err := v.WS.ReadMessage(); err != nil { // the mark
				w.Fatal(err)
			}
			time.Sleep(age)
			v.AckTo(uint64(1 + 2*(i+1)))
			synctest.Wait()
			got := w.M.Stats().Ages
			for j := range got.Counts {
				want := before.Counts[j]
				if age <= h.Bound(j) && (j == 0 || age > h.Bound(j-1)) {
					want++
				}
				if got.Counts[j] != want {
					w.Errorf("after an age of %v: got counts %v after %v", age, got.Counts, before.Counts)
				}
			}
			if got.Sum != before.Sum+age || w.Client(v.Viewer).Age != age {
				w.Errorf("got sum %v after %v, and age %v, want %v more", got.Sum, before.Sum, w.Client(v.Viewer).Age, age)
			}
			time.Sleep(2 * time.Second)
		}
	})
}
