package test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestHelloComesFirstAndSaysWhatIsInForce(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(7), mesherstream.WithWindow(9), mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
			sub.Levels = []string{"error", "fatal"}
			return nil
		}))
		v, other := w.ConnectWithProtocol("shop?level=error&environment=b,a"), w.ConnectWithProtocol("shop")
		h := v.Hello
		if h.ID != v.ID || h.Project != "shop" || h.MaxBuffer != 7 || h.Window != 9 ||
			!slices.Equal(h.Filters.Level, []string{"error"}) || !slices.Equal(h.Filters.Environment, []string{"a", "b"}) {
			w.Errorf("hello: got %+v", h)
		}
		if other.Hello.Stream == h.Stream {
			w.Errorf("two clients have the same stream %q", h.Stream)
		}

		v.Send(`{"type":"subscribe","filters":{"level":"fatal"}}`)
		if got, want := v.Viewer.Next(), `{"type":"filters_updated","stream":"`+h.Stream+`","filters":{"level":"fatal","environment":""},"filtered":0}`; got != want {
			w.Errorf("answer: got %s, want %s", got, want)
		}
		v.Send(`{"type":"subscribe","filters":{"level":"debug"}}`)
		if got := v.Viewer.Next(); !strings.HasPrefix(got, `{"type":"error","stream":"`+h.Stream+`","code":"not_granted"`) {
			w.Errorf("error answer: got %s", got)
		}
	})
}

func TestAClientWithoutTheProtocolSeesTheApplicationsBytesOnly(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithUnsentLimit(16 << 10))
		v := w.Connect("shop", "some.other")
		if got := v.WS.Subprotocol(); got != "" {
			w.Errorf("subprotocol: got %q, want none", got)
		}
		w.Broadcast(0, 300)
		if c := w.Client(v); c.Dropped == 0 || c.Unacknowledged != 0 {
			w.Errorf("a stalled client: got %+v, want drops and no window", c)
		}
		for last := -1; last < 299; {
			var n int
			if text := v.Next(); !strings.HasSuffix(text, streamtest.Filler) {
				w.Fatalf("got %.40q, want a message of the application", text)
			} else if _, err := fmt.Sscan(text, &n); err != nil || n <= last {
				w.Fatalf("got message %d behind %d", n, last)
			}
			last = n
		}
		v.Send(`{"type":"ack","n":1}`)
		if got := v.Next(); !strings.Contains(got, "unknown_type") {
			w.Errorf("an ack without the protocol: got %s, want unknown_type", got)
		}
	})
}

// TestGapsAreExactAndInPosition: between any two messages, the gap there reports exactly the missing ones, even if the
// link and not the window limits the client.
func TestGapsAreExactAndInPosition(t *testing.T) {
	for name, opts := range map[string][]mesherstream.Option{
		"link":   {mesherstream.WithWindow(0), mesherstream.WithUnsentLimit(16 << 10), mesherstream.WithMaxBuffer(30)},
		"window": {mesherstream.WithWindow(20), mesherstream.WithMaxBuffer(30)},
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.OverTransports(t, func(w *streamtest.World) {
				w.Start(opts...)
				v := w.ConnectWithProtocol("shop")
				begin := time.Now()
				w.Broadcast(0, 200)
				w.Eventually("something is dropped", func() bool { return w.Client(v.Viewer).Dropped > 0 })
				stalled := time.Now()

				expected, told := 0, 0
				read := func(end int) {
					for expected < end {
						before := len(v.Gaps)
						text := v.Next()
						var n int
						if _, err := fmt.Sscan(text, &n); err != nil {
							w.Fatal(err)
						}
						missed := 0
						for _, gap := range v.Gaps[before:] {
							missed += gap.Dropped
							if gap.ByLevel["error"] != gap.Dropped || len(gap.ByLevel) != 1 || gap.Since.After(gap.Until) ||
								gap.Since.Before(begin.Truncate(time.Millisecond)) || gap.Until.After(time.Now()) {
								w.Errorf("gap: got %+v, want its messages from between %v and %v", gap, begin, stalled)
							}
						}
						if n != expected+missed {
							w.Fatalf("got message %d behind %d and %+v, want a gap for what is missing", n, expected-1, v.Gaps[before:])
						}
						expected, told = n+1, told+missed
						if v.Received%10 == 0 {
							v.Ack()
						}
					}
				}
				read(200)
				for i := range 20 {
					w.Broadcast(200+i, 201+i)
					read(201 + i)
				}
				w.Broadcast(220, 400)
				read(400)
				w.Eventually("all is told", func() bool { return uint64(told) == w.Client(v.Viewer).Dropped })
			})
		})
	}
}

func TestNothingIsWrittenBeyondTheWindow(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		const window = 10
		w.Start(mesherstream.WithWindow(window), mesherstream.WithMaxBuffer(5))
		v := w.ConnectWithProtocol("shop")
		other := w.Connect("shop").Collect()
		for _, m := range streamtest.Texts("error", 0, window-1) {
			w.PublishAll(m)
			v.Expect(string(m.Data))
			time.Sleep(10 * time.Millisecond)
		}
		for _, m := range streamtest.Texts("error", window-1, 100) {
			w.PublishAll(m)
			time.Sleep(10 * time.Millisecond)
		}
		c := w.Client(v.Viewer)
		if c.Sent != window-1 || c.Buffered != 5 || c.Dropped != 86 || c.Unacknowledged != window || !c.Slow {
			w.Errorf("without an ack: got %+v, want a window with the hello sent, 5 buffered, the rest dropped, and the client slow", c)
		}

		// The reply to a request isn't held back, or a client could never request anything again.
		v.Send(`{"type":"subscribe","filters":{"level":"error"}}`)
		if got := v.Viewer.Next(); !strings.Contains(got, "filters_updated") {
			w.Fatalf("got %s, want the answer", got)
		}
		v.Received++

		v.Ack()
		if got := v.Next(); got != "error 95" || len(v.Gaps) != 1 || v.Gaps[0].Dropped != 86 {
			w.Errorf("after the ack: got %q and %+v, want the newest 5 and a gap of 86", got, v.Gaps)
		}
		for i := 96; i < 100; i++ {
			v.Next()
		}
		w.Eventually("it has caught up", func() bool { return !w.Client(v.Viewer).Slow })
		if got := len(other.Collected()); got != 100 {
			w.Errorf("a client without a window: got %d messages, want all", got)
		}

		// More than one window, with an ack at each half.
		for i := range 40 {
			w.PublishAll(streamtest.Texts("error", 100+i, 101+i)...)
			if got, want := v.Next(), fmt.Sprint("error ", 100+i); got != want {
				w.Fatalf("got %q, want %q", got, want)
			}
			if i%(window/2) == 0 {
				v.Ack()
			}
		}
		if got := w.Client(v.Viewer).Dropped; got != 86 {
			w.Errorf("Dropped of a client that acknowledges: got %d, want 86 as before", got)
		}
	})
}

func TestAShutdownFlushesBeyondTheWindow(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(5))
		v := w.ConnectWithProtocol("shop")
		w.Stall(v, 5)
		w.PublishAll(streamtest.Texts("error", 0, 46)...)
		w.Eventually("46 wait", func() bool { return w.Client(v.Viewer).Buffered == 46 })
		v.Collect()
		if err := w.M.Shutdown(w.Context()); err != nil {
			w.Errorf("Shutdown: %v", err)
		}
		<-v.Done
		if got := len(v.Collected()); got != 46 || !websocket.IsCloseError(v.Err, websocket.CloseGoingAway) {
			w.Errorf("got %d messages and %v, want 46 and close 1001", got, v.Err)
		}
	})
}

func TestWrongAcksAreRefused(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.ConnectWithProtocol("shop")
		w.PublishAll(streamtest.Texts("error", 0, 3)...)
		for range 3 {
			v.Next()
		}
		v.Send(`{"type":"ack","n":3}`)
		for text, code := range map[string]string{
			`{"type":"ack","n":50}`:                   "invalid_ack", // not sent yet
			`{"type":"ack","n":3}`:                    "invalid_ack", // acknowledged before
			`{"type":"ack","n":18446744073709551615}`: "invalid_ack",
			`{"type":"ack","n":-1}`:                   "malformed",
			`{"type":"ack","n":1.5}`:                  "malformed",
			`{"type":"ack","n":"4"}`:                  "malformed",
			`{"type":"ack"}`:                          "malformed",
			`{"type":"ack","n":4,"m":4}`:              "malformed",
		} {
			v.Send(text)
			if got := v.Viewer.Next(); !strings.Contains(got, `"code":"`+code+`"`) {
				w.Errorf("%s: got %s, want %s", text, got, code)
			}
		}
		var flood sync.WaitGroup // since a pipe accepts nothing before the other end reads it
		flood.Go(func() {
			for range maxRequestsSaved + 1 {
				_ = v.WS.WriteMessage(websocket.TextMessage, []byte(`{"type":"ack","n":1}`))
			}
		})
		defer flood.Wait()
		if _, err := v.CloseError(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			w.Errorf("a flood of acks that acknowledge nothing: got %v, want close 1008", err)
		}
	})
}

// The application chooses the levels, as long as they are UTF-8.
func TestTheLevelsOfAGapSumUpWhateverTheyAre(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithWindow(20), mesherstream.WithMaxBuffer(1))
		v := w.ConnectWithProtocol("shop")
		w.Stall(v, 20)
		for _, level := range []string{"\uFFFD", "é", "a\tb", "\U0001F600", `"`, "\x00", "\u2028", "<b>", "*", "__proto__", ""} {
			for range 3 {
				w.PublishAll(mesherstream.Message{Level: level, Data: []byte("x")})
			}
		}
		w.PublishAll(mesherstream.Message{Level: "error", Data: []byte("last")})
		w.Eventually("they are dropped", func() bool { return w.Client(v.Viewer).Dropped == 33 })
		v.Ack()
		v.Expect("last")
		sum := 0
		for _, n := range v.Gaps[0].ByLevel {
			sum += n
		}
		if len(v.Gaps) != 1 || v.Gaps[0].Dropped != 33 || sum != 33 {
			w.Errorf("got %+v, want one gap of 33, whose levels sum up", v.Gaps)
		}
	})
}

// When the server shuts down, a client is told of the gaps that it has not been told of yet, even if no message
// follows.
func TestAShutdownTellsTheLastGap(t *testing.T) {
	for name, opts := range map[string][]mesherstream.Option{
		"behind what was kept":     {mesherstream.WithOverflow(mesherstream.DropNewest)},
		"before what was filtered": nil,
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.OverTransports(t, func(w *streamtest.World) {
				const window = 20
				w.Start(append(opts, mesherstream.WithWindow(window), mesherstream.WithMaxBuffer(2))...)
				v := w.ConnectWithProtocol("shop")
				w.Stall(v, window)
				w.PublishAll(streamtest.Texts("error", 0, 5)...)
				w.Eventually("3 are dropped", func() bool { return w.Client(v.Viewer).Dropped == 3 })
				if opts != nil {
					v.Received = 2 // room for the waiting messages, and not for a gap after them
					v.Ack()
					v.Expect("error 0", "error 1")
				} else {
					v.Send(`{"type":"subscribe","filters":{"level":"fatal"}}`)
					v.Viewer.Next()
				}
				w.Eventually("nothing waits", func() bool { return w.Client(v.Viewer).Buffered == 0 })
				v.Collect()
				if err := w.M.Shutdown(w.Context()); err != nil {
					w.Errorf("Shutdown: %v", err)
				}
				<-v.Done
				if got := v.Collected(); len(got) != 1 || !strings.Contains(got[0], `"dropped":3,`) {
					w.Errorf("got %q, want a gap of 3", got)
				}
			})
		})
	}
}
