package mesherstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
)

func TestAClientThatGivesNoSignOfLifeIsRemovedWhateverTheKernelTakes(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithPingInterval(50*time.Millisecond), WithIdleTimeout(200*time.Millisecond))
		v := w.connect("shop") // never reads, so it answers no ping, which the kernel takes all the same
		w.eventually("it is removed", func() bool { return !w.m.IsStreamClient(v.id) })
	})
}

func TestAClientThatReadsButAnswersNoPingIsRemoved(t *testing.T) {
	inBubble(t, func(w *world) {
		w.start()
		v := w.connect("shop")
		v.ws.SetPingHandler(func(string) error { return nil })
		v.collect()
		time.Sleep(2 * time.Minute)
		if w.m.IsStreamClient(v.id) {
			w.Error("two minutes without a pong, and still a client")
		}
	})
}

func TestAClientIsNotIdleWhileItsMessageIsWithAHook(t *testing.T) {
	for _, tr := range transports {
		if tr.bubble {
			continue // nothing between the two ends holds a ping meanwhile
		}
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			(&world{T: t, transport: tr}).play(func(w *world) {
				hooked := make(chan struct{})
				w.start(WithPingInterval(20*time.Millisecond), WithIdleTimeout(100*time.Millisecond), WithHooks(Hooks{
					Message: func(Client, []byte, bool) { <-hooked },
				}))
				v := w.connect("shop").collect()
				v.send("work for a while")
				other := w.connect("shop") // a clock: it answers nothing
				w.eventually("others have gone idle", func() bool { return !w.m.IsStreamClient(other.id) })
				if !w.m.IsStreamClient(v.id) {
					w.Error("a client that waits for us was removed")
				}
				close(hooked)
			})
		})
	}
}

func TestTheAnswerToACloseFrameIsReadWhateverCameBefore(t *testing.T) {
	for _, kind := range []string{"binary", "rate", "disconnect"} {
		t.Run(kind, func(t *testing.T) {
			overTransports(t, func(w *world) {
				gone := make(chan int, 1)
				w.start(WithHooks(Hooks{Disconnect: func(_ Client, code int, _ string) { gone <- code }}))
				v := w.connect("shop").collect()
				switch kind {
				case "binary":
					_ = v.ws.WriteMessage(websocket.BinaryMessage, []byte("x"))
				case "rate":
					for range 25 {
						_ = v.ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":{}}`))
					}
				case "disconnect":
					_ = w.m.Disconnect(v.id, 1000, "")
				}
				<-v.done // it has got the close frame, and its library has answered
				begin := time.Now()
				if code, took := <-gone, time.Since(begin); took > time.Second {
					w.Errorf("code %d: the server let go %v after the answer, want at once", code, took)
				}
			})
		})
	}
}

// TestNothingHangsInAStormOfRestarts adds hooks that call back, and shutdowns from all sides.
func TestNothingHangsInAStormOfRestarts(t *testing.T) {
	for _, tr := range transports {
		if tr.bubble {
			continue
		}
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			w := &world{T: t, transport: tr}
			w.start(WithMaxBuffer(1), WithDrainInterval(time.Millisecond), WithPingInterval(10*time.Millisecond),
				WithIdleTimeout(300*time.Millisecond), WithShutdownTimeout(150*time.Millisecond),
				WithHooks(Hooks{
					Connect: func(c Client) {
						_ = w.m.SetFilter(c.ID, Filter{})
						_ = w.m.BufferMessage(c.ID, []byte("hi"))
					},
					Message: func(c Client, data []byte, _ bool) {
						_ = w.m.Broadcast(Message{Data: data, Binary: true})
						w.m.Stats()
						w.m.Client(c.ID)
					},
					Disconnect: func(c Client, _ int, _ string) { _ = w.m.Disconnect(c.ID, 1000, "") },
					Slow:       func(c Client) { _ = w.m.Disconnect(c.ID, 1000, "") },
					Drop:       func(Client, uint64) { w.m.Stats() },
				}))
			for round := range 3 {
				if round > 0 {
					w.listen()
				}
				w.stormUntilStopped()
			}
		})
	}
}

func (w *world) stormUntilStopped() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 200*time.Millisecond)
	defer cancel()
	var storm sync.WaitGroup
	for range 3 {
		storm.Go(func() {
			for ctx.Err() == nil {
				if err := w.m.Broadcast(Message{Project: "shop", Data: []byte(filler)}); err != nil && !errors.Is(err, ErrClosed) {
					w.Errorf("Broadcast: %v", err)
				}
			}
		})
	}
	dial := w.dial
	for i := range 5 {
		storm.Go(func() {
			for ctx.Err() == nil {
				d := websocket.Dialer{NetDial: dial, HandshakeTimeout: time.Second}
				ws, _, err := d.DialContext(ctx, "ws://app.test/stream/projects/shop", nil)
				if err != nil {
					continue
				}
				_ = ws.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				_ = ws.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
				_ = ws.WriteMessage(websocket.BinaryMessage, []byte("hello"))
				_ = ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":{"level":"x"}}`))
				_ = ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
				for i%2 == 0 && err == nil {
					_, _, err = ws.ReadMessage()
				}
				_ = ws.Close()
			}
		})
	}
	<-ctx.Done()
	for range 3 {
		storm.Go(func() { _ = w.m.Shutdown(context.Background()) })
	}
	w.stop()
	storm.Wait()
	w.checkAccounts()
	w.eventually("all is given back", func() bool {
		s := w.m.Stats()
		return s.Connects == s.Disconnects && s.Clients == 0 && s.Slow == 0 && s.Buffered == 0
	})
}

// TestACapHoldsBeforeTheUpgradeWhenAuthorizeTakesItsTime lets many ask while none has arrived yet.
func TestACapHoldsBeforeTheUpgradeWhenAuthorizeTakesItsTime(t *testing.T) {
	overTransports(t, func(w *world) {
		const most, asking = 3, 20
		w.start(WithMaxClients(most), WithAuthorize(func(*fiber.Ctx, *Subscription) error {
			time.Sleep(50 * time.Millisecond)
			return nil
		}))
		var all sync.WaitGroup
		statuses := make(chan int, asking)
		for range asking {
			all.Go(func() {
				d := websocket.Dialer{NetDial: w.dial}
				ws, resp, err := d.Dial("ws://app.test/stream/projects/shop", nil)
				if err == nil {
					w.Cleanup(func() { _ = ws.Close() })
				}
				if resp != nil {
					statuses <- resp.StatusCode
				}
			})
		}
		all.Wait()
		got := map[int]int{}
		for range len(statuses) {
			got[<-statuses]++
		}
		if got[101] != most || got[503] != asking-most {
			w.Errorf("statuses: got %v, want %d times 101 and %d times 503", got, most, asking-most)
		}
	})
}

func TestAPlaceIsFreeWhenItsClientSeesTheEnd(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithMaxClients(1))
		for range 20 {
			v := w.connect("shop")
			if err := v.ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second)); err != nil {
				w.Fatal(err)
			}
			if _, err := v.closeError(); err == nil {
				w.Fatal("no close frame")
			}
			_, _ = io.Copy(io.Discard, v.ws.NetConn()) // to the very end
			v.close()
		}
	})
}

// TestASlowClientThatReadsAFewBytesAtATimeStays is about a client so slow that the kernel has no room for it within the
// idle timeout, and whose pongs are behind all that.
func TestASlowClientThatReadsAFewBytesAtATimeStays(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells what the other end has acknowledged")
	}
	for _, tr := range transports {
		if tr.bubble {
			continue
		}
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			(&world{T: t, transport: tr}).play(func(w *world) {
				w.start(WithIdleTimeout(2*time.Second), WithPingInterval(100*time.Millisecond))
				v := w.connect("shop")
				w.broadcast(0, 200)
				w.eventually("it is slow", func() bool { return w.client(v).Slow })
				conn := v.ws.NetConn()
				if secure, ok := conn.(*tls.Conn); ok {
					conn = secure.NetConn() // which would read a record of 16 KiB at a time
				}
				buf := make([]byte, 400)
				for range 300 { // 6 s at 20 KB/s
					time.Sleep(20 * time.Millisecond)
					if _, err := conn.Read(buf); err != nil {
						w.Fatalf("read: %v", err)
					}
				}
				if !w.m.IsStreamClient(v.id) {
					w.Error("a client that reads all the time was removed")
				}
			})
		})
	}
}
