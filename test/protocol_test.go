package test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
		if got, want := streamtest.WithoutPosition(v.Viewer.Next()), `{"type":"filters_updated","stream":"`+h.Stream+`","filters":{"level":"fatal","environment":""},"filtered":0}`; got != want {
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
		if c := w.Client(v); c.Dropped == 0 {
			w.Errorf("a stalled client: got %+v, want drops", c)
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
						if v.Received()%10 == 0 {
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
		v := w.ConnectCounting("shop")
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
		if c.Sent != window-1 || c.Buffered != 5 || c.Dropped != 86 || c.Unacknowledged != window+1 || !c.Slow {
			w.Errorf("without an ack: got %+v, want a window with the hello and a mark beyond it sent, 5 buffered, the rest dropped, and the client slow", c)
		}

		// The reply to a request isn't held back, or a client could never request anything again.
		v.Send(`{"type":"subscribe","filters":{"level":"error"}}`)
		if got := v.Viewer.Next(); !strings.Contains(got, "filters_updated") {
			w.Fatalf("got %s, want the answer", got)
		}

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
		v := w.ConnectCounting("shop")
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
		v := w.ConnectCounting("shop")
		w.PublishAll(streamtest.Texts("error", 0, 3)...)
		for range 3 {
			v.Next()
		}
		v.AckTo(3)
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
		v := w.ConnectCounting("shop")
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
				v := w.ConnectCounting("shop")
				w.Stall(v, window)
				w.PublishAll(streamtest.Texts("error", 0, 5)...)
				w.Eventually("3 are dropped", func() bool { return w.Client(v.Viewer).Dropped == 3 })
				if opts != nil {
					n := w.Client(v.Viewer).Unacknowledged - window + 2 // room for the waiting messages, and not for a gap after them
					v.AckTo(uint64(n))
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

// The stream of a client without the protocol begins with a ping, whatever is published meanwhile.
func TestThePingAtJoinIsBeforeAllMessages(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithHooks(mesherstream.Hooks{Connect: func(c mesherstream.Client) {
			_ = w.M.BufferMessage(c.ID, []byte("hello"))
		}}))
		w.Mute = true
		var publishing sync.WaitGroup
		stop := make(chan struct{})
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = w.M.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("hello")})
					time.Sleep(time.Millisecond)
				}
			}
		})
		for range 10 {
			v := w.Connect("shop")
			var pings []string
			v.WS.SetPingHandler(func(payload string) error { pings = append(pings, payload); return nil })
			if got := v.Next(); got != "hello" || len(pings) != 1 || len(pings[0]) != 28 {
				w.Errorf("the stream begins with the pings %q and the message %q, want one ping of 28 bytes", pings, got)
			}
		}
		close(stop)
		publishing.Wait()
	})
}

// pinged is a client that keeps the payloads of its pings, and answers those that it is told to.
type pinged struct {
	*streamtest.Viewer
	mu    sync.Mutex
	pings []string
}

func connectPinged(w *streamtest.World) *pinged {
	w.Helper()
	w.Mute = true
	p := &pinged{Viewer: w.Connect("shop")}
	p.WS.SetPingHandler(func(payload string) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.pings = append(p.pings, payload)
		return nil
	})
	p.Collect()
	synctest.Wait()
	return p
}

func (p *pinged) got() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pings)
}

func (p *pinged) newest() string { list := p.got(); return list[len(list)-1] }

func (p *pinged) pong(payload string) {
	p.W.Helper()
	if err := p.WS.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(time.Second)); err != nil {
		p.W.Fatal(err)
	}
	synctest.Wait()
}

// wrong returns pongs that answer none of the pings that are open.
func (p *pinged) wrong(answered, ofOthers []string) []string {
	newest := p.newest()
	list := slices.Concat([]string{"", "p", newest[:27], newest + "x", strings.Repeat("\x00", 28), strings.Repeat("\xFF", 28)}, answered, ofOthers)
	for i := range newest {
		forged := []byte(newest)
		forged[i] ^= 1
		list = append(list, string(forged))
	}
	return list
}

// publishOne publishes messages so that each is written before the next one.
func publishOne(w *streamtest.World, first, end int) {
	w.Helper()
	for _, m := range streamtest.Texts("error", first, end) {
		w.PublishAll(m)
		synctest.Wait()
	}
}

// Only an answer to a client's own open pings says how far it has got. Any other pong changes nothing: neither while
// the number of messages shuts the window, nor while the time does.
func TestOnlyAnAnswerToTheOpenPingsOfAClientOpensItsWindow(t *testing.T) {
	for name, tt := range map[string]struct {
		opts []mesherstream.Option
		open int // messages that are written without an answer
		wait time.Duration
	}{
		"in messages": {[]mesherstream.Option{mesherstream.WithWindow(4)}, 4, 0},
		"in time":     {nil, 1, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				w.Start(append(tt.opts, mesherstream.WithMaxBuffer(100))...)
				v, other := connectPinged(w), connectPinged(w)
				if len(v.got()) != 1 || len(other.got()) != 1 {
					w.Fatalf("got the pings %q and %q, want one at join", v.got(), other.got())
				}
				v.pong(v.newest())
				other.pong(other.newest())
				if len(v.got()) != 1 || len(v.Collected()) != 0 {
					w.Errorf("after the first pong: got the pings %q and the messages %q, want nothing new", v.got(), v.Collected())
				}
				publishOne(w, 0, 1)
				v.pong(v.newest())
				answered := v.got()
				other.pong(other.newest())
				time.Sleep(2 * time.Second)

				publishOne(w, 1, 2)
				if got := v.got(); len(got) != len(answered)+1 {
					w.Fatalf("got %d pings more, want 1", len(got)-len(answered))
				}
				time.Sleep(tt.wait)
				publishOne(w, 2, 10)
				shut := func(what string) {
					w.Helper()
					if c := w.Client(v.Viewer); c.Unacknowledged != tt.open || len(v.Collected()) != 1+tt.open || c.Buffered != 9-tt.open {
						w.Fatalf("%s: got %d messages and %+v, want a window that is shut after %d", what, len(v.Collected()), c, tt.open)
					}
				}
				shut("without a pong")
				for range 5 {
					for _, payload := range v.wrong(answered, other.got()) {
						v.pong(payload)
						shut(fmt.Sprintf("after the pong %q", payload))
					}
					time.Sleep(700 * time.Millisecond) // in which the ping is repeated
					shut("after a while")
				}
				v.pong(v.newest())
				w.Eventually("everything arrives", func() bool {
					v.pong(v.newest())
					return len(v.Collected()) == 10
				})
				if c := w.Client(v.Viewer); c.Dropped != 0 || c.Buffered != 0 {
					w.Errorf("got %+v, want nothing dropped", c)
				}
			})
		})
	}
}

// Pongs that answer nothing don't make the window smaller either, or longer in time.
func TestPongsThatAnswerNothingHurtNobody(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithMaxBuffer(100))
		v, other := connectPinged(w), connectPinged(w)
		v.pong(v.newest())
		other.pong(other.newest())
		for range 3 {
			time.Sleep(20 * time.Second)
			v.pong(v.newest()) // the periodic one
			for _, payload := range v.wrong(v.got(), other.got()) {
				v.pong(payload)
			}
			publishOne(w, 0, 1)
			v.pong(v.newest())
			for _, payload := range v.wrong(v.got(), other.got()) {
				v.pong(payload)
			}
		}
		time.Sleep(2 * time.Second)
		publishOne(w, 0, 1000)
		if c := w.Client(v.Viewer); c.Dropped != 0 || c.Sent != 1003 {
			w.Errorf("a burst after pongs that answer nothing: got %+v, want all of it sent", c)
		}
		time.Sleep(1100 * time.Millisecond) // and not the time since the pings that were answered again
		publishOne(w, 0, 1)
		if c := w.Client(v.Viewer); c.Buffered != 1 {
			w.Errorf("after more than a second without an answer: got %+v, want the window shut", c)
		}
	})
}
