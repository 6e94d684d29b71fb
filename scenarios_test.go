package mesherstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fasthttp/websocket"
)

// chunk is how many bytes a link may have in flight that are buffered no longer, and not sent.
const chunk = 16 << 10

func TestBroadcastNeverWaitsForAHundredStalledClients(t *testing.T) {
	overTransports(t, func(w *world) {
		const stalled, all = 100, 300
		w.start(WithUnsentLimit(16 << 10))
		for range stalled {
			w.connect("shop")
		}
		healthy := w.connect("shop").collect()

		// Nobody reads on the stalled ones until the test is over. A Broadcast that waited for one of them would never
		// return, so that these return is the proof; how long they take is the scheduler's affair.
		w.broadcast(0, all, healthy)
		w.eventually("the healthy client has everything", func() bool { return len(healthy.collected()) == all })
		if got := healthy.numbers(); !slices.IsSorted(got) {
			w.Errorf("the healthy client got its messages in another order: %v", got)
		}
		w.eventually("the stalled ones are slow", func() bool { return w.m.Stats().Slow == stalled })
		s := w.m.Stats()
		if s.Clients != stalled+1 || s.Dropped == 0 {
			w.Errorf("Stats(): got %+v, want %d clients, and drops", s, stalled+1)
		}
		if most := int64(stalled) * (1<<20 + chunk); s.BufferedBytes > most {
			w.Errorf("BufferedBytes: got %d, want at most %d", s.BufferedBytes, most)
		}
	})
}

func TestTheByteBoundDropsTheOldestToo(t *testing.T) {
	overTransports(t, func(w *world) {
		const bound = 64 << 10
		w.start(WithMaxBufferBytes(bound), WithUnsentLimit(16<<10))
		v := w.connect("shop")
		w.broadcast(0, 300)
		c := w.client(v)
		if c.Dropped == 0 || c.BufferedBytes > bound+chunk || c.Buffered > (bound+chunk)/len(filler) {
			w.Errorf("a stalled client: got %+v, want drops, and at most %d bytes and a chunk buffered", c, bound)
		}
		if err := w.m.Broadcast(Message{Data: make([]byte, bound)}); err != nil {
			w.Errorf("Broadcast of exactly the bound: got %v", err)
		}
		if err := w.m.Broadcast(Message{Data: make([]byte, bound+1)}); !errors.Is(err, ErrTooLarge) {
			w.Errorf("Broadcast over the bound: got %v, want ErrTooLarge", err)
		}
		if err := w.m.BufferMessage(v.id, make([]byte, bound+1)); !errors.Is(err, ErrTooLarge) {
			w.Errorf("BufferMessage over the bound: got %v, want ErrTooLarge", err)
		}
	})
}

// TestAFilterBitesAtOnce: what waits and doesn't pass the new filter is taken out and counted, and everything behind the
// answer passes it.
func TestAFilterBitesAtOnce(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithUnsentLimit(16<<10), WithMaxBuffer(200))
		v := w.connect("shop")
		w.broadcast(0, 150) // "error"; more than the kernel takes
		w.eventually("something is buffered", func() bool { return w.client(v).Buffered > 0 })
		for i := range 10 {
			if err := w.m.Broadcast(Message{Project: "shop", Level: "fatal", Data: fmt.Append(nil, "fatal ", i)}); err != nil {
				w.Fatal(err)
			}
		}
		if err := w.m.BufferMessage(v.id, []byte("for you alone")); err != nil {
			w.Fatal(err)
		}
		v.send(`{"type":"subscribe","filters":{"level":["fatal"]}}`)
		w.eventually("the filter is changed", func() bool { return w.m.Stats().FilterSets == 1 })
		c := w.client(v)
		if c.Filtered == 0 || c.Buffered > int(c.Offered-c.Sent-c.Filtered) {
			w.Errorf("after the change: got %+v, want what doesn't match taken out", c)
		}
		w.broadcast(150, 200) // which the new filter holds back
		for i := range 10 {
			if err := w.m.Broadcast(Message{Project: "shop", Level: "fatal", Data: fmt.Append(nil, "fatal ", 10+i)}); err != nil {
				w.Fatal(err)
			}
		}

		answer := fmt.Sprintf(`{"type":"filters_updated","filters":{"level":["fatal"],"environment":""},"filtered":%d}`, c.Filtered)
		text, errors := v.next(), 0
		for ; text != answer; text = v.next() {
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
			if got, want := v.next(), fmt.Sprint("fatal ", i); got != want {
				w.Errorf("behind the answer: got %.20q, want %q", got, want)
			}
		}
		if got := v.next(); got != "for you alone" {
			w.Errorf("what is for one client has no level: got %.20q, want it through every filter", got)
		}
		for i := range 10 {
			if got, want := v.next(), fmt.Sprint("fatal ", 10+i); got != want {
				w.Errorf("behind the answer: got %.20q, want %q", got, want)
			}
		}
	})
}

func TestSetFilterTakesOutWhatWaits(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithUnsentLimit(16<<10), WithMaxBuffer(200))
		v := w.connect("shop")
		w.broadcast(0, 150)
		w.eventually("it is slow", func() bool { return w.client(v).Slow })
		if err := w.m.SetFilter(v.id, Filter{Levels: []string{"fatal"}}); err != nil {
			w.Fatal(err)
		}
		if c := w.client(v); c.Filtered == 0 || c.Offered != c.Sent+c.Filtered+uint64(c.Buffered) {
			w.Errorf("after SetFilter: got %+v, want nothing buffered but what is in flight", c)
		}
		v.collect()
		w.eventually("it is slow no more", func() bool { return !w.client(v).Slow })
	})
}

func TestShutdownFlushesBuffersBeforeClosing(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithDrainInterval(time.Hour))
		var viewers []*viewer
		for range 10 {
			v := w.connect("shop")
			for i := range 20 {
				if err := w.m.BufferMessage(v.id, fmt.Append(nil, i)); err != nil {
					w.Fatal(err)
				}
			}
			viewers = append(viewers, v)
		}
		stalled := w.connect("shop")
		w.broadcast(0, 0)

		for _, v := range viewers {
			v.collect()
		}
		stalled.collect()
		if err := w.m.Shutdown(w.Context()); err != nil {
			w.Errorf("Shutdown: %v", err)
		}
		for _, v := range viewers {
			<-v.done
			if !websocket.IsCloseError(v.err, websocket.CloseGoingAway) || len(v.messages) != 20 {
				w.Errorf("viewer %d: got %d messages and %v, want 20 and close 1001", v.id, len(v.messages), v.err)
			}
		}
		for name, err := range map[string]error{
			"Broadcast":     w.m.Broadcast(Message{Project: "shop"}),
			"BufferMessage": w.m.BufferMessage(viewers[0].id, nil),
			"SetFilter":     w.m.SetFilter(viewers[0].id, Filter{}),
			"Disconnect":    w.m.Disconnect(viewers[0].id, 1000, ""),
		} {
			if !errors.Is(err, ErrClosed) {
				w.Errorf("%s after Shutdown: got %v, want ErrClosed", name, err)
			}
		}
		d := websocket.Dialer{NetDial: w.dial}
		if _, resp, err := d.Dial("ws://app.test/stream/projects/shop", nil); err == nil || resp == nil || resp.StatusCode != 503 {
			w.Errorf("a client after Shutdown: got %v %v, want status 503", resp, err)
		}
	})
}

func TestShutdownIsBoundedByItsDeadlineWhenClientsStall(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithUnsentLimit(16 << 10))
		stalled, healthy := w.connect("shop"), w.connect("shop").collect()
		w.broadcast(0, 200, healthy)
		w.eventually("it is slow", func() bool { return w.client(stalled).Slow })

		begin := time.Now()
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if err := w.m.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("Shutdown with a stalled client: got %v, want DeadlineExceeded", err)
		}
		if took := time.Since(begin); w.transport.bubble && took != time.Second {
			w.Errorf("Shutdown took %v, want exactly 1s", took)
		}
		<-healthy.done
		if !websocket.IsCloseError(healthy.err, websocket.CloseGoingAway) {
			w.Errorf("the healthy client: got %v, want close 1001", healthy.err)
		}
		if s := w.m.Stats(); s.Abandoned == 0 || s.Buffered != 0 {
			w.Errorf("Stats(): got %+v, want what was buffered abandoned", s)
		}
	})
}

func TestHooksTellInOrderWhatHappensToAClient(t *testing.T) {
	overTransports(t, func(w *world) {
		var mu sync.Mutex
		happened := map[ClientID][]string{}
		dropped := map[ClientID]uint64{}
		note := func(id ClientID, what string) {
			mu.Lock()
			defer mu.Unlock()
			happened[id] = append(happened[id], what)
		}
		w.start(WithUnsentLimit(16<<10), WithHooks(Hooks{
			Connect:    func(c Client) { note(c.ID, "connect "+c.Project) },
			Disconnect: func(c Client, code int, _ string) { note(c.ID, fmt.Sprint("disconnect ", code)) },
			Slow:       func(c Client) { note(c.ID, "slow") },
			Message: func(c Client, data []byte, binary bool) {
				note(c.ID, fmt.Sprintf("message %s %v", data, binary))
				if err := w.m.BufferMessage(c.ID, append([]byte("echo "), data...)); err != nil { // a hook may call the manager
					w.Errorf("BufferMessage in a hook: %v", err)
				}
			},
			Drop: func(c Client, n uint64) {
				mu.Lock()
				defer mu.Unlock()
				dropped[c.ID] += n
			},
		}))
		v := w.connect("shop")
		v.send("hello")
		if got := v.next(); got != "echo hello" {
			w.Errorf("got %q, want the hook's echo", got)
		}
		w.broadcast(0, 300)
		w.eventually("drops are told", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return dropped[v.id] > 0 && dropped[v.id] == w.client(v).Dropped
		})
		v.collect()
		w.eventually("it has caught up", func() bool { return w.client(v).Buffered == 0 })
		if err := w.m.Disconnect(v.id, 1000, ""); err != nil {
			w.Fatal(err)
		}
		<-v.done
		want := []string{"connect shop", "message hello false", "slow", "disconnect 1000"}
		w.eventually("the hooks have run", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(happened[v.id]) >= len(want)
		})
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(happened[v.id], want) {
			w.Errorf("hooks: got %q, want %q", happened[v.id], want)
		}
	})
}

func TestAPanicInAHookClosesThatClientWithoutTellingItMore(t *testing.T) {
	boom := func() { panic("the secret text") }
	cursed := func(c Client) { // and not a bystander that a busy machine makes slow
		if c.Project == "cursed" {
			boom()
		}
	}
	for name, hooks := range map[string]Hooks{
		"Connect":    {Connect: cursed},
		"Message":    {Message: func(Client, []byte, bool) { boom() }},
		"Slow":       {Slow: cursed},
		"Drop":       {Drop: func(c Client, _ uint64) { cursed(c) }},
		"Disconnect": {Disconnect: func(Client, int, string) { boom() }},
	} {
		t.Run(name, func(t *testing.T) {
			overTransports(t, func(w *world) {
				w.start(WithHooks(hooks), WithUnsentLimit(16<<10))
				bystander := w.connect("shop").collect()
				v := w.connect("cursed")
				switch name {
				case "Message":
					v.send("not for us")
				case "Slow", "Drop":
					for i := range 300 {
						if err := w.m.Broadcast(Message{Project: "cursed", Data: fmt.Append(nil, i, filler)}); err != nil {
							w.Fatal(err)
						}
					}
				case "Disconnect":
					_ = v.ws.Close()
				}
				w.eventually("the panic is logged", func() bool { return w.logs.count("the secret text") > 0 })
				if w.logs.count("scenarios_test.go") == 0 {
					w.Error("the log has no stack")
				}
				if name != "Disconnect" { // who has left can't be told
					if _, err := v.closeError(); !websocket.IsCloseError(err, websocket.CloseInternalServerErr) || strings.Contains(err.Error(), "secret") {
						w.Errorf("the client: got %v, want close 1011 without the text", err)
					}
				}
				w.broadcast(0, 20, bystander)
				w.eventually("the other client gets everything", func() bool { return len(bystander.numbers()) == 20 })
				if got := w.m.Stats().HookPanics; got == 0 {
					w.Error("HookPanics: got 0")
				}
			})
		})
	}
}

// TestAccountsBalanceInAStorm lets everything happen at once: publishers, viewers that come, stall, change their filter
// and go with and without a word, disconnects, drains, and questions.
func TestAccountsBalanceInAStorm(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithMaxBuffer(20), WithDrainInterval(5*time.Millisecond), WithPingInterval(20*time.Millisecond), WithIdleTimeout(2*time.Second))
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
		anyClient := func() ClientID { return ClientID(rand.IntN(60) + 1) }

		for range 3 {
			storm.Go(func() {
				for running() {
					for range rand.IntN(30) {
						data := fmt.Append(nil, filler[:rand.IntN(len(filler))])
						if err := w.m.Broadcast(Message{Project: pick(projects), Level: pick(levels), Data: data}); err != nil {
							w.Errorf("Broadcast: %v", err)
						}
					}
					_ = w.m.BufferMessage(anyClient(), []byte("for you"))
					_ = w.m.SetFilter(anyClient(), Filter{Levels: []string{pick(levels)}})
				}
			})
		}
		storm.Go(func() {
			for running() {
				w.m.DrainBuffers()
				w.checkAccounts()
				if rand.IntN(10) == 0 {
					_ = w.m.Disconnect(anyClient(), 4000, "out")
				}
			}
		})
		for range 6 {
			storm.Go(func() {
				for running() {
					d := websocket.Dialer{NetDial: w.dial}
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
		w.eventually("something is sent and something abandoned", func() bool { s := w.m.Stats(); return s.Sent > 0 && s.Abandoned > 0 })
		close(stop)
		storm.Wait()
		w.eventually("all have left", func() bool { return w.m.Stats().Clients == 0 })
	})
}

// angryHandler is a log handler that panics.
type angryHandler struct{ slog.Handler }

func (angryHandler) Handle(context.Context, slog.Record) error { panic("the log is full") }

func TestAPanicOfTheLogHandlerIsSurvived(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(
			WithLogger(slog.New(angryHandler{slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})})),
			WithHooks(Hooks{Message: func(Client, []byte, bool) { panic("and so am I") }}),
		)
		bystander, v := w.connect("shop").collect(), w.connect("shop")
		v.send("hello")
		if _, err := v.closeError(); !websocket.IsCloseError(err, websocket.CloseInternalServerErr) {
			w.Errorf("the client whose hook panics: got %v, want close 1011", err)
		}
		w.broadcast(0, 20, bystander)
		w.eventually("the other client gets everything", func() bool { return len(bystander.numbers()) == 20 })
	})
}

func TestDrainsAndOneRunInSixtyFourAreTimed(t *testing.T) {
	inBubble(t, func(w *world) {
		w.start()
		v := w.connect("shop").collect()
		for range 2*64 + 1 {
			w.publish("x")
			synctest.Wait() // a run each
		}
		if err := w.m.BufferMessage(v.id, []byte("buffered")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s := w.m.Stats()
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
	overTransports(t, func(w *world) {
		w.start(WithWindow(20), WithMaxBuffer(3), WithOverflow(DropNewest))
		v := w.connectV1("shop")
		w.stall(v, 20)
		w.publishAll(texts("error", 0, 10)...)
		w.eventually("7 are dropped", func() bool { return w.client(v.viewer).Dropped == 7 })
		v.ack()
		v.expect("error 0", "error 1", "error 2")
		if len(v.gaps) != 0 {
			w.Errorf("got %+v in front of what was kept", v.gaps)
		}
		w.publishAll(texts("error", 10, 11)...)
		v.expect("error 10")
		if len(v.gaps) != 1 || v.gaps[0].Dropped != 7 {
			w.Errorf("gaps: got %+v, want one of 7 behind what was kept", v.gaps)
		}
	})
}

func TestOverflowDisconnects(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithWindow(20), WithMaxBuffer(3), WithOverflow(Disconnect))
		v, other := w.connectV1("shop"), w.connect("shop").collect()
		w.stall(v, 20)
		w.eventually("the other client has it", func() bool { return len(other.collected()) == 19 })
		for i := range 4 {
			w.publishAll(texts("error", i, i+1)...)
			w.eventually("the other client has it", func() bool { return len(other.collected()) == 20+i })
			if c, ok := w.m.Client(v.id); i < 3 && (!ok || c.Buffered != 1+i) {
				w.Errorf("within its bound: got %+v, want %d buffered", c, 1+i)
			}
		}
		if _, err := v.closeError(); !websocket.IsCloseError(err, websocket.CloseTryAgainLater) || !strings.Contains(err.Error(), "retry_after_ms=") {
			w.Errorf("beyond it: got %v, want close 1013 that says when to retry", err)
		}
		w.eventually("what waited is abandoned", func() bool { s := w.m.Stats(); return s.Abandoned == 4 && s.Dropped == 0 })
	})
}

func TestAKeyKeepsTheNewestValueOnly(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithWindow(20))
		v := w.connectV1("shop")
		w.stall(v, 20)
		for i := range 50 {
			w.publishAll(
				Message{Key: "a", Data: fmt.Append(nil, "a ", i)},
				Message{Level: "error", Data: fmt.Append(nil, "event ", i)},
				Message{Key: "b", Data: fmt.Append(nil, "b ", i)},
			)
		}
		w.eventually("values are replaced", func() bool { return w.client(v.viewer).Conflated == 98 })
		v.ack()
		v.expect("a 49", "event 0", "b 49", "event 1")
		v.ack()
		for i := 2; i < 50; i++ {
			v.expect(fmt.Sprint("event ", i))
			v.ack()
		}
		if c := w.client(v.viewer); c.Dropped != 0 || len(v.gaps) != 0 {
			w.Errorf("got %+v and gaps %+v, want none", c, v.gaps)
		}
		for _, text := range []string{"a 50", "a 51"} { // nothing waits, so nothing is replaced
			w.eventually("nothing waits", func() bool { return w.client(v.viewer).Buffered == 0 })
			w.publishAll(Message{Key: "a", Data: []byte(text)})
			v.expect(text)
		}
	})
}

func TestKeptLevelsAreDroppedLast(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithWindow(20), WithMaxBuffer(4), WithKeepLevels("fatal", "error"))
		v := w.connectV1("shop")
		w.stall(v, 20)
		w.publishAll(texts("fatal", 0, 2)...)
		w.publishAll(texts("debug", 0, 10)...)
		w.publishAll(texts("error", 0, 1)...)
		w.publishAll(texts("debug", 10, 12)...)
		w.eventually("11 are dropped", func() bool { return w.client(v.viewer).Dropped == 11 })
		v.ack()
		v.expect("fatal 0", "fatal 1")
		if len(v.gaps) != 0 {
			w.Errorf("in front of what was kept: got %+v", v.gaps)
		}
		v.expect("error 0")
		v.expect("debug 11")
		if len(v.gaps) != 2 || v.gaps[0].ByLevel["debug"] != 10 || v.gaps[1].ByLevel["debug"] != 1 {
			w.Errorf("gaps: got %+v, want 10 in front of the error and 1 behind it", v.gaps)
		}
	})
}
