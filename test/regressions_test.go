package test

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
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestAClientThatGivesNoSignOfLifeIsRemovedWhateverTheKernelTakes(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithPingInterval(50*time.Millisecond), mesherstream.WithIdleTimeout(200*time.Millisecond))
		v := w.Connect("shop") // it never reads, so it answers no ping, which the kernel accepts all the same
		w.Eventually("it is removed", func() bool { return !w.M.IsStreamClient(v.ID) })
	})
}

func TestAClientThatReadsButAnswersNoPingIsRemoved(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		w.Mute = true
		v := w.Connect("shop").Collect()
		time.Sleep(2 * time.Minute)
		if w.M.IsStreamClient(v.ID) {
			w.Error("two minutes without a pong, and still a client")
		}
	})
}

func TestAClientIsNotIdleWhileItsMessageIsWithAHook(t *testing.T) {
	for _, tr := range streamtest.Transports {
		if tr.Bubble {
			continue // nothing between the two ends holds a ping meanwhile
		}
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				hooked := make(chan struct{})
				w.Start(mesherstream.WithPingInterval(20*time.Millisecond), mesherstream.WithIdleTimeout(100*time.Millisecond), mesherstream.WithHooks(mesherstream.Hooks{
					Message: func(mesherstream.Client, []byte, bool) { <-hooked },
				}))
				v := w.Connect("shop").Collect()
				v.Send("work for a while")
				other := w.Connect("shop") // a clock: it answers nothing
				w.Eventually("others have gone idle", func() bool { return !w.M.IsStreamClient(other.ID) })
				if !w.M.IsStreamClient(v.ID) {
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
			streamtest.OverTransports(t, func(w *streamtest.World) {
				gone := make(chan int, 1)
				w.Start(mesherstream.WithHooks(mesherstream.Hooks{Disconnect: func(_ mesherstream.Client, code int, _ string) { gone <- code }}))
				v := w.Connect("shop").Collect()
				switch kind {
				case "binary":
					_ = v.WS.WriteMessage(websocket.BinaryMessage, []byte("x"))
				case "rate":
					for range 25 {
						_ = v.WS.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":{}}`))
					}
				case "disconnect":
					_ = w.M.Disconnect(v.ID, 1000, "")
				}
				<-v.Done // it has received the close frame, and its library has answered
				begin := time.Now()
				if code, took := <-gone, time.Since(begin); took > time.Second {
					w.Errorf("code %d: the server let go %v after the answer, want at once", code, took)
				}
			})
		})
	}
}

// TestNothingHangsInAStormOfRestarts adds hooks that call back, and shutdowns from many goroutines.
func TestNothingHangsInAStormOfRestarts(t *testing.T) {
	for _, tr := range streamtest.Transports {
		if tr.Bubble {
			continue
		}
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			w := &streamtest.World{T: t, Transport: tr}
			w.Start(mesherstream.WithMaxBuffer(1), mesherstream.WithDrainInterval(time.Millisecond), mesherstream.WithPingInterval(10*time.Millisecond),
				mesherstream.WithIdleTimeout(300*time.Millisecond), mesherstream.WithShutdownTimeout(150*time.Millisecond),
				mesherstream.WithHooks(mesherstream.Hooks{
					Connect: func(c mesherstream.Client) {
						_ = w.M.SetFilter(c.ID, mesherstream.Filter{})
						_ = w.M.BufferMessage(c.ID, []byte("hi"))
					},
					Message: func(c mesherstream.Client, data []byte, _ bool) {
						_ = w.M.Broadcast(mesherstream.Message{Data: data, Binary: true})
						w.M.Stats()
						w.M.Client(c.ID)
					},
					Disconnect: func(c mesherstream.Client, _ int, _ string) { _ = w.M.Disconnect(c.ID, 1000, "") },
					Slow:       func(c mesherstream.Client) { _ = w.M.Disconnect(c.ID, 1000, "") },
					Drop:       func(mesherstream.Client, uint64) { w.M.Stats() },
				}))
			for round := range 3 {
				if round > 0 {
					w.Listen()
				}
				stormUntilStopped(w)
			}
		})
	}
}

func stormUntilStopped(w *streamtest.World) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 200*time.Millisecond)
	defer cancel()
	var storm sync.WaitGroup
	for range 3 {
		storm.Go(func() {
			for ctx.Err() == nil {
				if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: []byte(streamtest.Filler)}); err != nil && !errors.Is(err, mesherstream.ErrClosed) {
					w.Errorf("Broadcast: %v", err)
				}
			}
		})
	}
	dial := w.Dial
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
		storm.Go(func() { _ = w.M.Shutdown(context.Background()) })
	}
	w.Stop()
	storm.Wait()
	w.CheckAccounts()
	w.Eventually("all is given back", func() bool {
		s := w.M.Stats()
		return s.Connects == s.Disconnects && s.Clients == 0 && s.Slow == 0 && s.Buffered == 0
	})
}

// TestACapHoldsBeforeTheUpgradeWhenAuthorizeTakesItsTime lets many clients ask while none has been admitted yet.
func TestACapHoldsBeforeTheUpgradeWhenAuthorizeTakesItsTime(t *testing.T) {
	t.Parallel()
	streamtest.OverTransports(t, func(w *streamtest.World) {
		const most, asking = 3, 20
		w.Start(mesherstream.WithMaxClients(most), mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error {
			time.Sleep(50 * time.Millisecond)
			return nil
		}))
		var all sync.WaitGroup
		statuses := make(chan int, asking)
		for range asking {
			all.Go(func() {
				d := websocket.Dialer{NetDial: w.Dial}
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
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxClients(1))
		for range 20 {
			v := w.Connect("shop")
			if err := v.WS.WriteControl(websocket.CloseMessage, nil, time.Now().Add(time.Second)); err != nil {
				w.Fatal(err)
			}
			if _, err := v.CloseError(); err == nil {
				w.Fatal("no close frame")
			}
			_, _ = io.Copy(io.Discard, v.WS.NetConn()) // to the very end
			v.Close()
		}
	})
}

// TestASlowClientThatReadsAFewBytesAtATimeStays is about a client so slow that the kernel has no room for it within the
// idle timeout. The client's pongs come after all of that data.
func TestASlowClientThatReadsAFewBytesAtATimeStays(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells what the other end has acknowledged")
	}
	t.Parallel()
	for _, tr := range streamtest.Transports {
		if tr.Bubble {
			continue
		}
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start(mesherstream.WithIdleTimeout(3*time.Second), mesherstream.WithPingInterval(100*time.Millisecond))
				v := w.Connect("shop")
				w.Broadcast(0, 200)
				w.Eventually("it is slow", func() bool { return w.Client(v).Slow })
				conn := v.WS.NetConn()
				if secure, ok := conn.(*tls.Conn); ok {
					conn = secure.NetConn() // it would read a record of 16 KiB at a time
				}
				buf := make([]byte, 400)
				for range 60 { // 6 s at 4 KB/s
					time.Sleep(100 * time.Millisecond)
					if _, err := conn.Read(buf); err != nil {
						w.Fatalf("read: %v", err)
					}
				}
				if !w.M.IsStreamClient(v.ID) {
					w.Error("a client that reads all the time was removed")
				}
			})
		})
	}
}
