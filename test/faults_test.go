package test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Faults inside the process, and extreme option values.

// stuckHandler is a log handler that blocks.
type stuckHandler struct {
	level slog.Level
	until chan struct{}
	stuck atomic.Int64
}

func (h *stuckHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }
func (h *stuckHandler) WithAttrs([]slog.Attr) slog.Handler           { return h }
func (h *stuckHandler) WithGroup(string) slog.Handler                { return h }
func (h *stuckHandler) Handle(context.Context, slog.Record) error {
	h.stuck.Add(1)
	<-h.until
	return nil
}

// TestALogHandlerThatBlocksKeepsNobodyFromAnything has the handler block at the first line, while the first client
// waits for its upgrade, and then at each line about a client.
func TestALogHandlerThatBlocksKeepsNobodyFromAnything(t *testing.T) {
	t.Parallel()
	streamtest.OverTransports(t, func(w *streamtest.World) {
		h := &stuckHandler{level: slog.LevelDebug, until: make(chan struct{})}
		defer close(h.until)
		w.Start(mesherstream.WithLogger(slog.New(h)), mesherstream.WithUnsentLimit(16<<10), mesherstream.WithHooks(mesherstream.Hooks{Message: func(mesherstream.Client, []byte, bool) { panic("logged") }}))
		first := w.Connect("shop").Collect()
		stalled, leaving, cursed := w.Connect("shop"), w.Connect("shop"), w.Connect("shop").Collect()
		cursed.Send("a panic is logged")
		leaving.Close() // a line of its own at the level of Debug
		w.Eventually("the log is stuck", func() bool { return h.stuck.Load() > 0 })
		w.Eventually("two have left", func() bool { return w.M.Stats().Disconnects == 2 })
		w.Broadcast(0, 200, first)
		w.Eventually("messages arrive", func() bool { return len(first.Numbers()) == 200 })
		w.Eventually("the stalled one is slow", func() bool { return w.Client(stalled).Slow })
		late := w.Connect("shop").Collect()
		w.Broadcast(200, 210, first, late)
		w.Eventually("a late client gets them too", func() bool { return len(late.Numbers()) == 10 })

		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if err := w.M.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("Shutdown with a log that is stuck: got %v, want DeadlineExceeded", err)
		}
		<-first.Done
		if !websocket.IsCloseError(first.Err, websocket.CloseGoingAway) {
			w.Errorf("a healthy client at the shutdown: got %v, want close 1001", first.Err)
		}
	})
}

func TestAPreforkWarningThatIsStuckHoldsUpOneClientAtMost(t *testing.T) {
	h := &stuckHandler{level: slog.LevelWarn, until: make(chan struct{})}
	app := streamtest.QuietApp(fiber.Config{Prefork: true})
	m := streamtest.NewTestManager(t, mesherstream.WithLogger(slog.New(h)))
	app.Use(m.Handler())
	var first sync.WaitGroup
	first.Go(func() { streamtest.Ask(t, app, "GET", "/stream/projects/shop", streamtest.Upgrade...) })
	defer first.Wait()
	defer close(h.until)
	streamtest.Eventually(t, m, "the log is stuck", func() bool { return h.stuck.Load() > 0 })
	answered := make(chan int, 1)
	go func() {
		status, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", streamtest.Upgrade...)
		answered <- status
	}()
	streamtest.Eventually(t, m, "the second client is answered", func() bool { return len(answered) == 1 })
	if status := <-answered; status != 101 {
		t.Errorf("the second client: got %d, want 101", status)
	}
}

func TestABroadcastOf64MiBArrivesWhole(t *testing.T) {
	size := 64 << 20
	if streamtest.RaceDetector {
		size = 8 << 20 // every byte is looked at there
	}
	for _, tr := range streamtest.Transports[:3] {
		t.Run(tr.Name, func(t *testing.T) {
			narrow := tr.Listen
			tr.Listen = func(t *testing.T) (net.Listener, func(network, addr string) (net.Conn, error)) {
				ln, _ := narrow(t)
				dial := func(network, _ string) (net.Conn, error) { return net.Dial(network, ln.Addr().String()) }
				if tr.Name == "tls" {
					dial = func(network, _ string) (net.Conn, error) {
						return tls.Dial(network, ln.Addr().String(), &tls.Config{InsecureSkipVerify: true})
					}
				}
				return ln, dial
			}
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start(mesherstream.WithMaxBufferBytes(size + 10))
				v, stalled := w.Connect("shop"), w.Connect("shop")
				data := []byte(strings.Repeat("0123456789abcdef", size/16))
				for range 2 {
					if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
						w.Fatal(err)
					}
				}
				if got := v.Next(); got != string(data) {
					w.Errorf("got %d bytes that are not the message's", len(got))
				}
				if got := v.Next(); got != string(data) {
					w.Errorf("got %d bytes that are not the second message's", len(got))
				}
				if c := w.Client(stalled); c.BufferedBytes > 2*(size+10+len("shop")) || c.Buffered == 0 {
					w.Errorf("the stalled client: got %+v, want one message in flight and one that waits at most", c)
				}
			})
		})
	}
}

func TestMessagesWithoutAByteArriveAndAreCounted(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(10))
		v := w.Connect("shop")
		for i := range 50 {
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Binary: i%2 == 0}); err != nil {
				w.Fatal(err)
			}
			if got := v.Next(); got != "" {
				w.Errorf("got %q, want nothing", got)
			}
			if err := w.M.BufferMessage(v.ID, nil); err != nil {
				w.Fatal(err)
			}
			w.M.DrainBuffers()
			if got := v.Next(); got != "" {
				w.Errorf("got %q, want nothing", got)
			}
		}
		w.Eventually("all are sent", func() bool { return w.Client(v).Sent == 100 })
	})
}

func TestTheShortestAndTheLongestDrainIntervalDeliverTheSame(t *testing.T) {
	for _, interval := range []time.Duration{time.Millisecond, time.Hour} {
		for _, maxBuffer := range []int{1, 1_000_000} {
			t.Run(fmt.Sprintf("%v/max=%d", interval, maxBuffer), func(t *testing.T) {
				streamtest.OverTransports(t, func(w *streamtest.World) {
					w.Start(mesherstream.WithDrainInterval(interval), mesherstream.WithMaxBuffer(maxBuffer), mesherstream.WithUnsentLimit(16<<10), mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(0))
					w.Pace = min(20, maxBuffer)
					healthy, slow := w.Connect("shop").Collect(), w.Connect("shop")
					w.Broadcast(0, 100, healthy)
					w.Eventually("the healthy one has everything", func() bool { return len(healthy.Numbers()) == 100 })
					slow.Collect() // it has room again, and no tick is needed
					w.Eventually("the slow one has caught up", func() bool {
						c := w.Client(slow)
						return c.Buffered == 0 && len(slow.Numbers()) == 100-int(c.Dropped)
					})
					if c := w.Client(slow); maxBuffer > 100 && c.Dropped > 0 {
						w.Errorf("got %+v, want no drops from a buffer that holds all", c)
					}
				})
			})
		}
	}
}

func TestShutdownWithAContextThatIsOverCutsEverybodyAndBalances(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithUnsentLimit(16 << 10))
		healthy, stalled := w.Connect("shop").Collect(), w.Connect("shop")
		w.Broadcast(0, 150, healthy)
		w.Eventually("it is slow", func() bool { return w.Client(stalled).Slow })
		ctx, cancel := context.WithCancel(w.Context())
		cancel()
		if err := w.M.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			w.Errorf("Shutdown: got %v, want Canceled", err)
		}
		if s := w.M.Stats(); s.Clients != 0 || s.Buffered != 0 || s.Abandoned == 0 {
			w.Errorf("Stats(): got %+v, want nobody, and what was buffered abandoned", s)
		}
		<-healthy.Done
		if err := w.M.Shutdown(w.Context()); err != nil {
			w.Errorf("another Shutdown: got %v", err)
		}
		w.Stop()
		w.Listen() // and the manager starts again
		again := w.Connect("shop").Collect()
		w.Broadcast(0, 20, again)
		w.Eventually("a new client gets everything", func() bool { return len(again.Numbers()) == 20 })
	})
}

// TestShutdownWhileAThousandClientsConnectLeavesNoneHanging: each client receives an answer, and each one that is
// upgraded sees the end of its stream.
func TestShutdownWhileAThousandClientsConnectLeavesNoneHanging(t *testing.T) {
	const all = 1000
	for _, tr := range streamtest.Transports[:2] {
		t.Run(tr.Name, func(t *testing.T) {
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start()
				var refused, closed, cut, came atomic.Int64
				var dialing sync.WaitGroup
				tokens := make(chan struct{}, 50)
				for range all {
					dialing.Go(func() {
						tokens <- struct{}{}
						d := websocket.Dialer{NetDial: w.Dial, HandshakeTimeout: 20 * time.Second}
						ws, resp, err := d.Dial("ws://app.test/stream/projects/shop", nil)
						came.Add(1)
						<-tokens
						if err != nil {
							if resp == nil || resp.StatusCode != 503 {
								w.Errorf("dial: %v, %v", err, resp)
							}
							refused.Add(1)
							return
						}
						defer func() { _ = ws.Close() }()
						_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
						for err == nil {
							_, _, err = ws.ReadMessage()
						}
						if websocket.IsCloseError(err, websocket.CloseGoingAway) {
							closed.Add(1)
						} else {
							cut.Add(1)
							w.Errorf("a client that was upgraded: got %v, want close 1001", err)
						}
					})
				}
				w.Eventually("a third has come", func() bool { return came.Load() > all/3 })
				ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
				defer cancel()
				if err := w.M.Shutdown(ctx); err != nil {
					w.Errorf("Shutdown: %v", err)
				}
				dialing.Wait()
				w.Logf("%d closed with 1001, %d refused with 503, %d cut", closed.Load(), refused.Load(), cut.Load())
				if s := w.M.Stats(); s.Connects != s.Disconnects || closed.Load()+refused.Load() != all {
					w.Errorf("Stats(): got %+v, want as many gone as came", s)
				}
			})
		})
	}
}

// TestOneProcessorAndSixteenKeepTheSamePromises makes as many shards as there are processors.
func TestOneProcessorAndSixteenKeepTheSamePromises(t *testing.T) {
	for _, procs := range []int{1, 16} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			for _, tr := range streamtest.Transports[:2] {
				t.Run(tr.Name, func(t *testing.T) {
					(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
						w.Start(mesherstream.WithUnsentLimit(16 << 10))
						if got := runtime.GOMAXPROCS(0); got != procs {
							w.Fatalf("got %d processors, and as many shards, want %d", got, procs)
						}
						var healthy []*streamtest.Viewer
						for range 20 {
							healthy = append(healthy, w.Connect("shop").Collect())
							w.Connect("shop") // this client stalls
						}
						w.Broadcast(0, 200, healthy...)
						for _, v := range healthy {
							w.Eventually("a healthy one has everything", func() bool { return len(v.Numbers()) == 200 })
						}
						w.Eventually("the stalled ones are slow", func() bool { return w.M.Stats().Slow == 20 })
					})
				})
			}
		})
	}
}
