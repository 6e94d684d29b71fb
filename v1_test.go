package mesherstream

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
)

func texts(level string, first, end int) (list []Message) {
	for i := first; i < end; i++ {
		list = append(list, Message{Level: level, Data: fmt.Append(nil, level, " ", i)})
	}
	return list
}

func TestHelloComesFirstAndSaysWhatIsInForce(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithMaxBuffer(7), WithWindow(9), WithAuthorize(func(_ *fiber.Ctx, sub *Subscription) error {
			sub.Levels = []string{"error", "fatal"}
			return nil
		}))
		v, other := w.connectV1("shop?level=error&environment=b,a"), w.connectV1("shop")
		h := v.hello
		if h.ID != v.id || h.Project != "shop" || h.MaxBuffer != 7 || h.Window != 9 ||
			!slices.Equal(h.Filters.Level, []string{"error"}) || !slices.Equal(h.Filters.Environment, []string{"a", "b"}) {
			w.Errorf("hello: got %+v", h)
		}
		if other.hello.Stream == h.Stream {
			w.Errorf("two clients have the same stream %q", h.Stream)
		}

		v.send(`{"type":"subscribe","filters":{"level":"fatal"}}`)
		if got, want := v.viewer.next(), `{"type":"filters_updated","stream":"`+h.Stream+`","filters":{"level":"fatal","environment":""},"filtered":0}`; got != want {
			w.Errorf("answer: got %s, want %s", got, want)
		}
		v.send(`{"type":"subscribe","filters":{"level":"debug"}}`)
		if got := v.viewer.next(); !strings.HasPrefix(got, `{"type":"error","stream":"`+h.Stream+`","code":"not_granted"`) {
			w.Errorf("error answer: got %s", got)
		}
	})
}

func TestAClientWithoutTheProtocolSeesTheApplicationsBytesOnly(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithUnsentLimit(16 << 10))
		v := w.connect("shop", "some.other")
		if got := v.ws.Subprotocol(); got != "" {
			w.Errorf("subprotocol: got %q, want none", got)
		}
		w.broadcast(0, 300)
		if c := w.client(v); c.Dropped == 0 || c.Unacknowledged != 0 {
			w.Errorf("a stalled client: got %+v, want drops and no window", c)
		}
		for last := -1; last < 299; {
			var n int
			if text := v.next(); !strings.HasSuffix(text, filler) {
				w.Fatalf("got %.40q, want a message of the application", text)
			} else if _, err := fmt.Sscan(text, &n); err != nil || n <= last {
				w.Fatalf("got message %d behind %d", n, last)
			}
			last = n
		}
		v.send(`{"type":"ack","n":1}`)
		if got := v.next(); !strings.Contains(got, "unknown_type") {
			w.Errorf("an ack without the protocol: got %s, want unknown_type", got)
		}
	})
}

// TestGapsAreExactAndInPosition: between any two messages, what is missing is what the gap there says; also where the link
// and not the window holds the client up.
func TestGapsAreExactAndInPosition(t *testing.T) {
	for name, opts := range map[string][]Option{
		"link":   {WithWindow(0), WithUnsentLimit(16 << 10), WithMaxBuffer(30)},
		"window": {WithWindow(20), WithMaxBuffer(30)},
	} {
		t.Run(name, func(t *testing.T) {
			overTransports(t, func(w *world) {
				w.start(opts...)
				v := w.connectV1("shop")
				begin := time.Now()
				w.broadcast(0, 200)
				w.eventually("something is dropped", func() bool { return w.client(v.viewer).Dropped > 0 })
				stalled := time.Now()

				expected, told := 0, 0
				read := func(end int) {
					for expected < end {
						before := len(v.gaps)
						text := v.next()
						var n int
						if _, err := fmt.Sscan(text, &n); err != nil {
							w.Fatal(err)
						}
						missed := 0
						for _, gap := range v.gaps[before:] {
							missed += gap.Dropped
							if gap.ByLevel["error"] != gap.Dropped || len(gap.ByLevel) != 1 || gap.Since.After(gap.Until) ||
								gap.Since.Before(begin.Truncate(time.Millisecond)) || gap.Until.After(time.Now()) {
								w.Errorf("gap: got %+v, want its messages from between %v and %v", gap, begin, stalled)
							}
						}
						if n != expected+missed {
							w.Fatalf("got message %d behind %d and %+v, want a gap for what is missing", n, expected-1, v.gaps[before:])
						}
						expected, told = n+1, told+missed
						if v.received%10 == 0 {
							v.ack()
						}
					}
				}
				read(200)
				for i := range 20 {
					w.broadcast(200+i, 201+i)
					read(201 + i)
				}
				w.broadcast(220, 400)
				read(400)
				w.eventually("all is told", func() bool { return uint64(told) == w.client(v.viewer).Dropped })
			})
		})
	}
}

func TestNothingIsWrittenBeyondTheWindow(t *testing.T) {
	inBubble(t, func(w *world) {
		const window = 10
		w.start(WithWindow(window), WithMaxBuffer(5))
		v := w.connectV1("shop")
		other := w.connect("shop").collect()
		for _, m := range texts("error", 0, window-1) {
			w.publishAll(m)
			v.expect(string(m.Data))
			time.Sleep(10 * time.Millisecond)
		}
		for _, m := range texts("error", window-1, 100) {
			w.publishAll(m)
			time.Sleep(10 * time.Millisecond)
		}
		c := w.client(v.viewer)
		if c.Sent != window-1 || c.Buffered != 5 || c.Dropped != 86 || c.Unacknowledged != window || !c.Slow {
			w.Errorf("without an ack: got %+v, want a window with the hello sent, 5 buffered, the rest dropped, and the client slow", c)
		}

		// The answer to a request isn't held back, or a client could never ask for anything again.
		v.send(`{"type":"subscribe","filters":{"level":"error"}}`)
		if got := v.viewer.next(); !strings.Contains(got, "filters_updated") {
			w.Fatalf("got %s, want the answer", got)
		}
		v.received++

		v.ack()
		if got := v.next(); got != "error 95" || len(v.gaps) != 1 || v.gaps[0].Dropped != 86 {
			w.Errorf("after the ack: got %q and %+v, want the newest 5 and a gap of 86", got, v.gaps)
		}
		for i := 96; i < 100; i++ {
			v.next()
		}
		w.eventually("it has caught up", func() bool { return !w.client(v.viewer).Slow })
		if got := len(other.collected()); got != 100 {
			w.Errorf("a client without a window: got %d messages, want all", got)
		}

		// More than one window, with an ack at each half.
		for i := range 40 {
			w.publishAll(texts("error", 100+i, 101+i)...)
			if got, want := v.next(), fmt.Sprint("error ", 100+i); got != want {
				w.Fatalf("got %q, want %q", got, want)
			}
			if i%(window/2) == 0 {
				v.ack()
			}
		}
		if got := w.client(v.viewer).Dropped; got != 86 {
			w.Errorf("Dropped of a client that acknowledges: got %d, want 86 as before", got)
		}
	})
}

func TestAShutdownFlushesBeyondTheWindow(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithWindow(5))
		v := w.connectV1("shop")
		w.stall(v, 5)
		w.publishAll(texts("error", 0, 46)...)
		w.eventually("46 wait", func() bool { return w.client(v.viewer).Buffered == 46 })
		v.collect()
		if err := w.m.Shutdown(w.Context()); err != nil {
			w.Errorf("Shutdown: %v", err)
		}
		<-v.done
		if got := len(v.collected()); got != 46 || !websocket.IsCloseError(v.err, websocket.CloseGoingAway) {
			w.Errorf("got %d messages and %v, want 46 and close 1001", got, v.err)
		}
	})
}

func TestWrongAcksAreRefused(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		v := w.connectV1("shop")
		w.publishAll(texts("error", 0, 3)...)
		for range 3 {
			v.next()
		}
		v.send(`{"type":"ack","n":3}`)
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
			v.send(text)
			if got := v.viewer.next(); !strings.Contains(got, `"code":"`+code+`"`) {
				w.Errorf("%s: got %s, want %s", text, got, code)
			}
		}
		var flood sync.WaitGroup // since a pipe takes nothing before the other end reads it
		flood.Go(func() {
			for range maxRequestsSaved + 1 {
				_ = v.ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"ack","n":1}`))
			}
		})
		defer flood.Wait()
		if _, err := v.closeError(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			w.Errorf("a flood of acks that acknowledge nothing: got %v, want close 1008", err)
		}
	})
}

// A level is whatever the application says, as long as it is UTF-8.
func TestTheLevelsOfAGapSumUpWhateverTheyAre(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithWindow(20), WithMaxBuffer(1))
		v := w.connectV1("shop")
		w.stall(v, 20)
		for _, level := range []string{"\uFFFD", "é", "a\tb", "\U0001F600", `"`, "\x00", "\u2028", "<b>", "*", "__proto__", ""} {
			for range 3 {
				w.publishAll(Message{Level: level, Data: []byte("x")})
			}
		}
		w.publishAll(Message{Level: "error", Data: []byte("last")})
		w.eventually("they are dropped", func() bool { return w.client(v.viewer).Dropped == 33 })
		v.ack()
		v.expect("last")
		sum := 0
		for _, n := range v.gaps[0].ByLevel {
			sum += n
		}
		if len(v.gaps) != 1 || v.gaps[0].Dropped != 33 || sum != 33 {
			w.Errorf("got %+v, want one gap of 33, whose levels sum up", v.gaps)
		}
	})
}

// What a client has not been told yet when the server shuts down, it is told then, also where no message follows.
func TestAShutdownTellsTheLastGap(t *testing.T) {
	for name, opts := range map[string][]Option{
		"behind what was kept":     {WithOverflow(DropNewest)},
		"before what was filtered": nil,
	} {
		t.Run(name, func(t *testing.T) {
			overTransports(t, func(w *world) {
				const window = 20
				w.start(append(opts, WithWindow(window), WithMaxBuffer(2))...)
				v := w.connectV1("shop")
				w.stall(v, window)
				w.publishAll(texts("error", 0, 5)...)
				w.eventually("3 are dropped", func() bool { return w.client(v.viewer).Dropped == 3 })
				if opts != nil {
					v.received = 2 // room for those that wait, and for no gap behind them
					v.ack()
					v.expect("error 0", "error 1")
				} else {
					v.send(`{"type":"subscribe","filters":{"level":"fatal"}}`)
					v.viewer.next()
				}
				w.eventually("nothing waits", func() bool { return w.client(v.viewer).Buffered == 0 })
				v.collect()
				if err := w.m.Shutdown(w.Context()); err != nil {
					w.Errorf("Shutdown: %v", err)
				}
				<-v.done
				if got := v.collected(); len(got) != 1 || !strings.Contains(got[0], `"dropped":3,`) {
					w.Errorf("got %q, want a gap of 3", got)
				}
			})
		})
	}
}
