package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Streams over plain HTTP: heartbeats, idle clients, and the end.

// Within each ping interval, something arrives, and an EventSource learns its position.
func TestAQuietStreamHasAHeartbeatInEachPingInterval(t *testing.T) {
	const interval = 20 * time.Second
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithPingInterval(interval), mesherstream.WithIdleTimeout(time.Minute))
		p := w.Follow("shop", streamtest.AcceptEvents)
		if p.Hello.MarkMS != interval.Milliseconds() || p.Hello.Window != 0 || p.Hello.Stream != "" || p.Hello.Position == "" {
			w.Errorf("got hello %+v, want mark_ms of the ping interval, and no window", p.Hello)
		}
		last, ids := time.Now(), []string{p.Hello.Position}
		for i := range 20 {
			e := p.Event()
			if since := time.Since(last); e.Name != "mark" || e.Data != "{}" || !e.Own || slices.Contains(ids, e.ID) || since > interval || since < interval/2 {
				w.Errorf("heartbeat %d after %v: got %+v, want a mark with a new position within the interval", i, since, e)
			}
			if len(p.Parser.Comments) != i+1 {
				w.Errorf("heartbeat %d: got the comments %q, want one for each", i, p.Parser.Comments)
			}
			last, ids = time.Now(), append(ids, e.ID)
		}
		w.Publish("x")
		p.Expect("x")
		for i, id := range ids { // each of them is before the message, however old
			again := w.Follow("shop", streamtest.AcceptEvents, "Last-Event-ID: "+id)
			if again.Expect("x"); len(again.Gaps) > 0 || again.Hello.Returned == nil || !again.Hello.Returned.Complete {
				w.Errorf("from mark %d: got gaps %+v and %+v, want nothing missing", i, again.Gaps, again.Hello)
			}
			again.Leave()
		}
		// Messages take no heartbeat away.
		last = time.Now()
		for i := range 60 {
			time.Sleep(time.Second)
			w.Publish(fmt.Sprint(i))
			for text := ""; text != fmt.Sprint(i); {
				if e := p.Event(); e.Name == "mark" {
					if since := time.Since(last); since > interval {
						w.Errorf("beside messages: got a heartbeat after %v, want one in each %v", since, interval)
					}
					last = time.Now()
				} else {
					text = e.Data
				}
			}
		}
		if since := time.Since(last); since > interval {
			w.Errorf("beside messages: got no heartbeat for %v", since)
		}
	})
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithPingInterval(interval), mesherstream.WithIdleTimeout(time.Minute))
		p := w.Follow("shop", streamtest.AcceptLines)
		for i := range 20 {
			last := time.Now()
			if line := p.Line(); line != "" || time.Since(last) > interval {
				w.Errorf("heartbeat %d: got %q after %v, want an empty line within %v", i, line, time.Since(last), interval)
			}
		}
	})
}

func TestWithoutPingsNothingDisturbsAStream(t *testing.T) {
	for _, accept := range plainAccepts {
		streamtest.InBubble(t, func(w *streamtest.World) {
			w.Start(mesherstream.WithPingInterval(0), mesherstream.WithIdleTimeout(time.Minute))
			p := w.Follow("shop", accept)
			if p.Hello.MarkMS != 0 {
				w.Errorf("got hello %+v, want no mark_ms", p.Hello)
			}
			p.Collect()
			time.Sleep(time.Hour)
			w.Publish("x")
			w.Eventually("it has arrived", func() bool { return slices.Equal(p.Collected(), []string{"x"}) })
			if len(p.Parser.Comments) > 0 {
				w.Errorf("got the comments %q, want none", p.Parser.Comments)
			}
		})
	}
}

// A client that has nothing to say stays, however long.
func TestAnIdleClientStays(t *testing.T) {
	for _, accept := range plainAccepts {
		streamtest.InBubble(t, func(w *streamtest.World) {
			w.Start()
			p := w.Follow("shop", accept).Collect()
			time.Sleep(time.Hour) // sixty idle timeouts
			w.Publish("x")
			w.Eventually("it has arrived", func() bool { return slices.Equal(p.Collected(), []string{"x"}) })
		})
	}
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start(mesherstream.WithPingInterval(40*time.Millisecond), mesherstream.WithIdleTimeout(400*time.Millisecond))
				p, q := w.Follow("shop", streamtest.AcceptEvents), w.Follow("shop", streamtest.AcceptLines)
				for range 60 { // a few idle timeouts; kernels may take a while to acknowledge what nobody answers
					if e := p.Event(); e.Name != "mark" {
						w.Fatalf("got %+v, want a mark", e)
					}
					if line := q.Line(); line != "" {
						w.Fatalf("got %q, want a heartbeat", line)
					}
				}
				w.Publish("x")
				p.Expect("x")
				q.Expect("x")
			})
		})
	}
}

// A client that takes nothing of what waits for it is removed after the idle timeout, and one that takes a little is not.
func TestAClientOfPlainHTTPThatTakesNothingIsRemoved(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		idle := 500 * time.Millisecond
		if w.Transport.Bubble {
			idle = time.Minute
		}
		ended := make(chan int, 1)
		w.Start(mesherstream.WithPingInterval(idle/4), mesherstream.WithIdleTimeout(idle), mesherstream.WithUnsentLimit(4<<10),
			mesherstream.WithHooks(mesherstream.Hooks{Disconnect: func(_ mesherstream.Client, code int, _ string) { ended <- code }}))
		p := w.Follow("shop", accept)
		begin := time.Now()
		for i := 0; w.M.Stats().Buffered < 50; i++ {
			w.Broadcast(i, i+1)
		}
		if code := <-ended; code != 1006 {
			w.Errorf("got code %d, want 1006", code)
		}
		took := time.Since(begin)
		if w.Transport.Bubble && (took < idle || took > 2*idle) || took < idle/2 {
			w.Errorf("removed after %v, want about the idle timeout of %v", took, idle)
		}
		_, _ = p.Rest()
	})
}

func TestAClientThatTakesALittleStays(t *testing.T) {
	for _, accept := range plainAccepts {
		streamtest.InBubble(t, func(w *streamtest.World) {
			w.Start(mesherstream.WithPingInterval(15*time.Second), mesherstream.WithIdleTimeout(time.Minute))
			p := w.Follow("shop", accept)
			_ = p.Conn.SetReadDeadline(time.Time{})
			for i := range 50 {
				w.Broadcast(i, i+1)
			}
			for range 60 { // half an hour
				time.Sleep(30 * time.Second)
				if _, err := p.Conn.Read(make([]byte, 100)); err != nil {
					w.Fatalf("after a little: %v", err)
				}
			}
			if w.M.Stats().Clients != 1 {
				w.Error("it was removed")
			}
		})
	}
}

// A shutdown sends what was published before, says why, and ends the response: no client sees a reset.
func TestAShutdownFlushesAndEndsTheResponse(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start(mesherstream.WithMaxBuffer(1000), mesherstream.WithMaxBufferBytes(64<<20), mesherstream.WithUnsentLimit(4<<10))
		fast, slow, idle := w.Follow("shop", accept).Collect(), w.Follow("shop", accept), w.Follow("other", accept)
		const n = 100
		w.Broadcast(0, n)
		w.Eventually("the fast one has it", func() bool { return len(fast.Collected()) == n })
		ended := make(chan error)
		go func() { ended <- w.M.Shutdown(context.WithoutCancel(w.Context())) }()
		messages, err := slow.Rest()
		if err != nil || len(messages) != n || len(slow.Gaps) > 0 || slow.Close == nil || *slow.Close != (streamtest.PlainClose{Type: "close", Code: 1001, Reason: "the server is shutting down"}) {
			w.Errorf("the slow one got %d messages, gaps %+v, %v and %+v, want all of them, then the close event and the end", len(messages), slow.Gaps, err, slow.Close)
		}
		for i, text := range messages {
			if !strings.HasPrefix(text, fmt.Sprint(i, " ")) {
				w.Fatalf("message %d: got %.10q", i, text)
			}
		}
		if messages, err := idle.Rest(); err != nil || len(messages) > 0 || idle.Close == nil || idle.Close.Code != 1001 {
			w.Errorf("the idle one got %q, %v and %+v", messages, err, idle.Close)
		}
		if accept == streamtest.AcceptEvents && (idle.Parser.Retry < 1000 || !slices.Equal(idle.Parser.Comments, nil)) {
			w.Errorf("the idle one: got retry %d, want a time to wait", idle.Parser.Retry)
		}
		if <-fast.Done; fast.Close == nil || fast.Close.Code != 1001 || len(fast.Collected()) != n {
			w.Errorf("the fast one got %d messages and %+v", len(fast.Collected()), fast.Close)
		}
		if err := <-ended; err != nil {
			w.Errorf("Shutdown: got %v, want nil", err)
		}
	})
}

// The shutdown of the app waits for no client that has nothing to say.
func TestFibersShutdownEndsStreamsThatNobodyReads(t *testing.T) {
	overPlainHTTP(t, func(w *streamtest.World, accept string) {
		w.Start()
		var all []*streamtest.Plain
		for range 10 {
			all = append(all, w.Follow("shop", accept))
		}
		if w.Transport.Bubble { // a pipe holds nothing
			for _, p := range all {
				p.Collect()
			}
		}
		w.Stop() // it reports what is not over in ten seconds
		for _, p := range all {
			if p.Done != nil {
				<-p.Done
			} else if _, err := p.Rest(); err != nil {
				w.Errorf("got %v, want the end", err)
			}
			if p.Close == nil || p.Close.Code != 1001 {
				w.Errorf("got %+v, want the close event", p.Close)
			}
		}
	})
}

// A client on a plain socket has no goroutine.
func TestAClientOfPlainHTTPHasNoGoroutine(t *testing.T) {
	for _, accept := range plainAccepts {
		(&streamtest.World{T: t, Transport: streamtest.Sockets()[0]}).Play(func(w *streamtest.World) {
			w.Start()
			w.Follow("shop", accept)
			before := runtime.NumGoroutine()
			const clients = 100
			for range clients {
				w.Follow("shop", accept)
			}
			w.Broadcast(0, 3)
			w.Eventually("fasthttp's goroutines have returned", func() bool { return runtime.NumGoroutine() < before+clients/4 })
			if got := runtime.NumGoroutine(); got >= before+clients/4 {
				w.Errorf("got %d goroutines with %d clients, want about %d", got, clients+1, before)
			}
		})
	}
}

// Over a Unix socket, a stream is what it is over TCP.
func TestPlainHTTPOverAUnixSocket(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxBuffer(1000), mesherstream.WithMaxBufferBytes(64<<20))
	app.Use(m.Handler())
	s := streamtest.NewSiteOver(t, app, m, streamtest.Transport{Name: "unix", Listen: func(t *testing.T) (net.Listener, func(string, string) (net.Conn, error)) {
		path := t.TempDir() + "/socket"
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return ln, func(string, string) (net.Conn, error) { return net.Dial("unix", path) }
	}})
	for _, accept := range plainAccepts {
		p := s.Follow(shopStream, accept)
		var want []string
		for i := range 300 {
			want = append(want, fmt.Sprintf("%d %s", i, streamtest.Filler))
			s.Publish(mesherstream.Message{Project: "shop", Data: []byte(want[i])})
		}
		p.Expect(want...)
		if err := m.Disconnect(p.ID, 4000, "bye"); err != nil {
			t.Fatal(err)
		}
		if rest, err := p.Rest(); len(rest) > 0 || err != nil || p.Close == nil {
			t.Errorf("got %q, %v, %+v, want the close event and the end", rest, err, p.Close)
		}
		p = s.Follow(shopStream, accept)
		_ = p.Conn.Close()
		s.Eventually("it has left", s.IsEmpty)
	}
}

// Whatever a client sends while it streams, it costs nobody else anything, and it is not answered.
func TestAClientThatTalksIsHeardByNobody(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithHooks(mesherstream.Hooks{Message: func(_ mesherstream.Client, data []byte, _ bool) { w.Errorf("the Message hook got %q", data) }}))
		p := w.Follow("shop", streamtest.AcceptEvents)
		for _, text := range []string{`{"type":"subscribe","filters":{"level":"none"}}`, "\x81\x05hello", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("x", 60_000)} {
			if _, err := io.WriteString(p.Conn, text); err != nil {
				w.Fatalf("%.20q: %v", text, err)
			}
			w.Publish("still there")
			p.Expect("still there")
		}
		_, _ = io.WriteString(p.Conn, strings.Repeat("x", 10_000)) // more than 64 KiB in all
		w.Eventually("it is gone", func() bool { return w.M.Stats().Clients == 0 })
	})
}

// Before the end, an EventSource is told when to come back: as the reason says if the code is one for that, and otherwise
// soon.
func TestAnEventSourceIsToldWhenToComeBack(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		for _, tt := range []struct {
			code        int
			reason      string
			least, most int
		}{
			{1000, "", 1000, 3000},
			{4000, "bye", 1000, 3000},
			{4000, "retry_after_ms=60000", 1000, 3000},
			{1013, "busy; retry_after_ms=60000", 60_000, 90_000},
			{1012, "retry_after_ms=60000, please", 60_000, 90_000},
			{1013, "retry_after_ms=1", 1, 2},
			{1013, "retry_after_ms=0", 1000, 3000},
			{1013, "retry_after_ms=-5", 1000, 3000},
			{1013, "retry_after_ms=soon", 1000, 3000},
			{1013, "retry_after_ms=", 1000, 3000},
			{1013, "retry_after_ms=99999999999999999999", 86_400_000, 129_600_000},
		} {
			p := w.Follow("shop", streamtest.AcceptEvents)
			p.Parser.Retry = 0
			if err := w.M.Disconnect(p.ID, tt.code, tt.reason); err != nil {
				w.Fatal(err)
			}
			if rest, err := p.Rest(); err != nil || len(rest) > 0 || p.Close == nil || p.Close.Code != tt.code || p.Parser.Retry < tt.least || p.Parser.Retry > tt.most {
				w.Errorf("%d %q: got %+v and retry %d, %v, want %d to %d ms", tt.code, tt.reason, p.Close, p.Parser.Retry, err, tt.least, tt.most)
			}
		}
	})
}

// A client that closes only its own side of the connection has left, as over a WebSocket.
func TestAClientThatClosesItsSideHasLeft(t *testing.T) {
	for _, tr := range streamtest.Sockets() {
		if tr.Name == "wrapped" {
			continue
		}
		for _, accept := range plainAccepts {
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start()
				p := w.Follow("shop", accept)
				if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					w.Fatal(err)
				}
				w.Eventually("it has left", func() bool { return w.M.Stats().Clients == 0 })
				if rest, err := p.Rest(); err != nil || len(rest) > 0 {
					w.Errorf("got %q, %v, want the end", rest, err)
				}
			})
		}
	}
}
