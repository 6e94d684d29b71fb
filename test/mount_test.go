package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/cors"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
)

// A client that never reads absorbs hundreds of messages in the kernels' buffers before the first write blocks.
// A buffer of the newest messages after that is of little use.
func TestTheUnsentLimitBoundsWhatAStalledClientAbsorbs(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("TCP_NOTSENT_LOWAT, TCP_MAXSEG and SO_RCVBUF are set on Linux only")
	}
	const most = 4000
	message := mesherstream.Message{Project: "shop", Data: bytes.Repeat([]byte("x"), 1<<10)}
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			absorbed := func(limit int) (sent uint64) {
				(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
					w.Start(mesherstream.WithUnsentLimit(limit), mesherstream.WithDrainInterval(time.Hour))
					v := w.Connect("shop")
					for range most {
						if err := w.M.Broadcast(message); err != nil {
							w.Fatalf("Broadcast: %v", err)
						}
						// Held back so that a message that is still buffered after a moment waits for the client.
						for end := time.Now().Add(500 * time.Millisecond); w.Client(v).Buffered > 0; {
							if time.Now().After(end) {
								sent = w.Client(v).Sent
								return
							}
							time.Sleep(100 * time.Microsecond)
						}
					}
					sent = most
				})
				return sent
			}
			const limit = 16 << 10
			bounded, unbounded := absorbed(limit), absorbed(0)
			t.Logf("messages of 1 KiB until the first waits: %d with an unsent limit of 16 KiB, %d without", bounded, unbounded)
			// The data in flight and in the receiver's buffer can't be bounded from here; with that receiver, it is
			// small.
			if bounded > 3*limit>>10 {
				t.Errorf("with WithUnsentLimit(%d): got %d messages of 1 KiB until the first waits, want at most %d", limit, bounded, 3*limit>>10)
			}
			if unbounded < 3*bounded {
				t.Errorf("with WithUnsentLimit(0): got %d messages until the first waits, want many more than %d", unbounded, bounded)
			}
		})
	}
}

// Prefork children never run OnListen, and neither does an app that is served through its Handler.
func TestWhereOnListenNeverRanTheFirstClientStartsTheManager(t *testing.T) {
	var logs streamtest.LogBuffer
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithDrainInterval(5*time.Millisecond), mesherstream.WithLogger(slog.New(slog.NewTextHandler(&logs, nil))))
	app.Use(m.Handler())
	server := &fasthttp.Server{Handler: app.Handler()}
	ln, dial := streamtest.ListenTCP(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = ln.Close()
		<-served
	})
	s := &streamtest.Site{T: t, App: app, M: m, Net: dial}

	if err := m.Broadcast(mesherstream.Message{Project: "shop"}); err != nil {
		t.Errorf("Broadcast before anything runs: got %v, want nil", err)
	}
	if got := logs.Count("drain ticker started"); got != 0 {
		t.Errorf("before the first client: got %d starts in the log, want 0", got)
	}
	first, id := s.Connect("/stream/projects/shop")
	s.Connect("/stream/projects/shop")
	if err := m.BufferMessage(id, []byte("by the ticker")); err != nil {
		t.Fatalf("BufferMessage: %v", err)
	}
	s.Gets(first, "by the ticker")
	s.Eventually("the start is logged", func() bool { return logs.Count("drain ticker started") > 0 })
	if got := logs.Count("drain ticker started"); got != 1 {
		t.Errorf("after two clients: got %d starts in the log, want 1", got)
	}
}

func TestPreforkLogsThatBroadcastsStayWithinOneProcess(t *testing.T) {
	for prefork, want := range map[bool]int{true: 1, false: 0} {
		var logs streamtest.LogBuffer
		app := streamtest.QuietApp(fiber.Config{Prefork: prefork})
		streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithLogger(slog.New(slog.NewTextHandler(&logs, nil))))
		if got := logs.Count("level=WARN msg=\"mesherstream: Prefork is on"); got != want {
			t.Errorf("Prefork %v: got %d warnings, want %d", prefork, got, want)
		}
	}
}

// A handler passed to app.Use has no route parameters, and sees the whole path instead of the part below its
// mount.
func TestAUseHandlerFindsTheProjectWithoutRouteParameters(t *testing.T) {
	var project string
	m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
		if got := c.Params("project_id"); got != "" {
			t.Errorf("Params(project_id) in a Use handler: got %q; the trap is gone", got)
		}
		project = strings.Clone(sub.Project)
		return nil
	}))
	inner, outer, app := fiber.New(), fiber.New(), streamtest.QuietApp()
	inner.Group("/v1").Use("/live", m.Handler())
	outer.Mount("/inner", inner)
	app.Mount("/outer", outer)
	const target = "/outer/inner/v1/live/stream/projects/shop"
	if got, body := streamtest.Ask(t, app, "GET", target, streamtest.Upgrade...); got != 101 || project != "shop" {
		t.Errorf("GET %s: got %d %q and project %q, want 101 and shop", target, got, body, project)
	}
}

// App.Use("/x", h) receives everything below /x, including plain GETs.
func TestOnlyTheStreamPathIsTakenFromWhatIsBelowAMount(t *testing.T) {
	app := streamtest.QuietApp()
	app.Use("/live", streamtest.NewTestManager(t).Handler())
	app.Use(func(c *fiber.Ctx) error { return c.SendString("next") })
	for target, want := range map[string]string{
		"/live": "next", "/live/": "next", "/live/page.html": "next", "/live/stream": "next", "/live/deep/stream/projects/shop": "next",
		"/liveness": "next", "/stream/projects/shop": "next", "/live/stream/projects/shop": "this is a stream of events, which a WebSocket, an EventSource or curl -N can open",
	} {
		if got, body := streamtest.Ask(t, app, "GET", target); body != want {
			t.Errorf("GET %s: got %d %q, want %q", target, got, body, want)
		}
	}
}

// Contrib admits pages of any origin, and answers every handshake that it refuses with 426. Middleware such as
// cors does not protect a WebSocket.
func TestAWrongOriginIs403AndCORSDoesNotLetItIn(t *testing.T) {
	reached := false
	app := streamtest.QuietApp()
	app.Use(cors.New()) // any origin
	app.Use(streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error { reached = true; return nil })).Handler())
	if got, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", append(streamtest.Upgrade, "Origin: https://evil.test")...); got != 403 || reached {
		t.Errorf("a page of another origin: got %d, authorized: %v, want 403 before it comes to that", got, reached)
	}
	// contrib itself refuses only a request that isn't a handshake.
	for _, header := range [][]string{streamtest.Upgrade[:2], streamtest.Upgrade[:3], {streamtest.Upgrade[0], streamtest.Upgrade[1], "Sec-WebSocket-Version: 8", streamtest.Upgrade[3]}} {
		if got, _ := streamtest.Ask(t, app, "GET", "/stream/projects/shop", header...); got != 426 {
			t.Errorf("handshake %v: got %d, want 426", header, got)
		}
	}
}

// Contrib's own RecoverHandler sends the panic's text to the client.
func TestAPanicInAHookClosesWith1011AndNoText(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithHooks(mesherstream.Hooks{Message: func(mesherstream.Client, []byte, bool) { panic("the secret text") }}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	ws, _ := s.Connect("/stream/projects/shop")
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	_, data, err := ws.ReadMessage()
	if !websocket.IsCloseError(err, websocket.CloseInternalServerErr) || strings.Contains(fmt.Sprint(string(data), err), "secret") {
		t.Errorf("the client: got %q, %v, want close 1011 and no text", data, err)
	}
}

// The application's log handler runs on the goroutine that logs, and contrib's deferred RecoverHandler is the last that
// could recover from its panic. A child process runs the test, since a panic would otherwise end all tests.
func TestAPanicInTheLogHandlerIsSurvivedAndItsTextStaysHere(t *testing.T) {
	if os.Getenv("MESHERSTREAM_PANICS") == "" {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=30s")
		child.Env = append(os.Environ(), "MESHERSTREAM_PANICS=1", "GORACE=atexit_sleep_ms=0")
		if out, err := child.CombinedOutput(); err != nil {
			t.Errorf("a log handler that panics: %v\n%.3000s", err, out)
		}
		return
	}
	app := streamtest.QuietApp(fiber.Config{Prefork: true}) // for its warning
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithLogger(slog.New(panickingHandler{})),
		mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
			if sub.Project == "cursed" {
				panic("the secret text")
			}
			return nil
		}),
		mesherstream.WithHooks(mesherstream.Hooks{Message: func(mesherstream.Client, []byte, bool) { panic("the secret text") }}))
	app.Use(m.Handler())
	server := &fasthttp.Server{Handler: app.Handler()}
	ln, dial := streamtest.ListenTCP(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() { _ = ln.Close(); <-served })
	s := &streamtest.Site{T: t, App: app, M: m, Net: dial}

	if _, resp, err := s.Dial("/stream/projects/cursed"); err == nil || resp == nil || resp.StatusCode != 500 {
		t.Errorf("authorize that panics: got %v, %v, want 500", resp, err)
	}
	first, resp, err := s.Dial("/stream/projects/shop") // starts the manager, which logs it
	if err != nil {
		t.Fatalf("dial: %v, %v", err, resp)
	}
	s.Eventually("connected", func() bool { return m.Stats().Clients == 1 })
	second, _ := s.Connect("/stream/projects/shop")
	if err := first.WriteMessage(websocket.TextMessage, []byte(`{"type":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	_, data, err := first.ReadMessage()
	if !websocket.IsCloseError(err, websocket.CloseInternalServerErr) || strings.Contains(fmt.Sprint(string(data), err), "secret") {
		t.Errorf("the client whose hook panics: got %q, %v, want close 1011 and no text", data, err)
	}
	s.Publish(mesherstream.Message{Project: "shop", Data: []byte("for the other")})
	s.Gets(second, "for the other")
}

// panickingHandler is a log handler of the application that is broken.
type panickingHandler struct{}

func (panickingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panickingHandler) Handle(context.Context, slog.Record) error { panic("the secret text") }
func (h panickingHandler) WithAttrs([]slog.Attr) slog.Handler      { return h }
func (h panickingHandler) WithGroup(string) slog.Handler           { return h }

// App.Test answers a handshake with 101 and then ends the connection. This may leave no client behind. The
// thing to test with in memory is a listener of fasthttputil, on which a slow client stalls after a few writes.
func TestAppTestLeavesNoClientBehind(t *testing.T) {
	log, logs := logged()
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, log)
	app.Use(m.Handler())
	for range 5 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/stream/projects/shop", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "app.test"
		for _, line := range streamtest.Upgrade {
			key, value, _ := strings.Cut(line, ": ")
			req.Header.Set(key, value)
		}
		resp, err := app.Test(req, -1)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("app.Test: got %v, %v, want 101", resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	s := &streamtest.Site{T: t, App: app, M: m, Net: nil}
	s.Eventually("all have come and gone", func() bool { return m.Stats().Disconnects == 5 })
	if got := m.Stats().Clients; got != 0 {
		t.Errorf("clients after app.Test: got %d, want 0", got)
	}
	_ = m.Shutdown(t.Context()) // which waits for the log
	if got := logs.Count("hide their sockets"); got != 0 {
		t.Errorf("got a warning of sockets that no wrapper hides:\n%s", &logs.Buf)
	}
}

func TestASlowClientInMemoryIsBufferedFor(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxBuffer(3), mesherstream.WithDrainInterval(5*time.Millisecond))
	app.Use(m.Handler())
	ln := fasthttputil.NewInmemoryListener()
	served := make(chan error, 1)
	go func() { served <- app.Listener(ln) }()
	t.Cleanup(func() {
		_ = app.ShutdownWithTimeout(5 * time.Second)
		_ = ln.Close() // fasthttp forgets a shutdown that is called before it has the listener
		<-served
	})
	d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return ln.Dial() }}
	ws, resp, err := d.Dial("ws://app.test/stream/projects/shop", nil)
	if err != nil {
		t.Fatalf("dial: %v, %v", err, resp)
	}
	t.Cleanup(func() { _ = ws.Close() })
	s := &streamtest.Site{T: t, App: app, M: m, Net: nil}
	s.Eventually("connected", func() bool { return m.Stats().Clients == 1 })
	// How many messages the listener absorbs depends on how many of them share a write.
	published := 0
	for got := m.Stats(); got.Dropped == 0 || got.Slow != 1; got = m.Stats() {
		if published++; published > 10_000 {
			t.Fatalf("Stats(): got %+v, want a slow client that has lost messages", got)
		}
		s.Publish(mesherstream.Message{Project: "shop", Data: fmt.Append(nil, published)})
	}
	last := ""
	for last != fmt.Sprint(published) { // the newest is never the one that is dropped
		_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, data, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("read after %q: %v", last, err)
		}
		last = string(data)
	}
}
