package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/etag"
	"github.com/gofiber/fiber/v2/middleware/timeout"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Streams over plain HTTP after other middlewares. See the table at the end of docs/http.md.

var plainAccepts = []string{streamtest.AcceptEvents, streamtest.AcceptLines}

// An accepted request either becomes a stream, or holds no place, from the very moment that it fails.
func TestAStreamThatOthersSpoilHoldsNoPlace(t *testing.T) {
	for _, b := range behinds {
		t.Run(b.name, func(t *testing.T) {
			app := streamtest.QuietApp(b.config)
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(1), mesherstream.WithMaxClientsPerIP(1))
			app.Use(b.use)
			if strings.HasPrefix(b.name, "panics") {
				app.Use(func(c *fiber.Ctx) error { _ = c.Next(); panic("behind the stream") })
			}
			app.Use(m.Handler())
			s := streamtest.NewSite(t, app, m)
			for _, accept := range append(plainAccepts, plainAccepts...) { // one place would be gone after the first
				if b.status == 0 {
					conn, err := s.Net("tcp", "app.test")
					if err != nil {
						t.Fatal(err)
					}
					_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
					_, _ = io.WriteString(conn, streamtest.PlainRequest("GET", shopStream, accept))
					if got, err := io.ReadAll(conn); len(got) > 0 || streamtest.IsTimeout(err) {
						t.Errorf("got %q, %v, want the end", got, err)
					}
					_ = conn.Close()
					continue
				}
				p := s.Get(shopStream, accept)
				switch {
				case b.name == "hijacks it for nobody": // fasthttp sends what the handlers have seen
					if body, err := io.ReadAll(p.Head.Body); err != nil || !strings.Contains(string(body), "There is no stream here") {
						t.Errorf("got %q, %v, want the response that the handlers have seen", body, err)
					}
				case b.status == 101, b.status == 200:
					s.Streams(p)
				default:
					body, err := io.ReadAll(p.Head.Body)
					if p.Head.StatusCode != b.status || err != nil || !strings.Contains(string(body), b.body) || strings.Contains(string(body), "no stream here") || b.status != 408 && !p.Head.Close {
						t.Errorf("got %+v, %q, %v, want %d with %q, and the end", p.Head, body, err, b.status, b.body)
					}
				}
				_ = p.Conn.Close()
				s.Eventually("no place is held", s.IsEmpty)
			}
		})
	}
}

// The etag of the response that the handlers see is in no stream. A client that knows it all the same receives a stream.
func TestNoStreamIsNotModified(t *testing.T) {
	for name, config := range map[string]fiber.Config{"etag": {}, "Fiber's own": {ETag: true}, "DisableHeaderNormalizing": {ETag: true, DisableHeaderNormalizing: true}} {
		app := streamtest.QuietApp(config)
		m := streamtest.NewTestManager(t)
		if !config.ETag {
			app.Use(etag.New())
		}
		app.Use(m.Handler())
		req := httptest.NewRequest("GET", shopStream, nil)
		req.Header.Set("Accept", eventsType)
		resp, err := app.Test(req)
		if err != nil || resp.Header.Get("ETag") == "" {
			t.Fatalf("%s: app.Test: got %+v, %v, want an ETag", name, resp, err)
		}
		s := streamtest.NewSite(t, app, m)
		for _, tag := range []string{resp.Header.Get("ETag"), "W/" + resp.Header.Get("ETag")} {
			p := s.Get(shopStream, streamtest.AcceptEvents, "If-None-Match: "+tag)
			s.Streams(p)
			_ = p.Conn.Close()
			s.Eventually("it has left", s.IsEmpty)
		}
	}
}

// A timeout is about the handlers, and not about the stream.
func TestATimeoutDoesNotEndAStream(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t)
	app.Use(timeout.NewWithContext(m.Handler(), 50*time.Millisecond))
	s := streamtest.NewSite(t, app, m)
	p := s.Get(shopStream, streamtest.AcceptEvents)
	s.Streams(p)
	time.Sleep(150 * time.Millisecond)
	s.Publish(mesherstream.Message{Project: "shop", Data: []byte("later")})
	p.Expect("later")
}

// A WithAuthorize that takes too long today may be in time tomorrow: an EventSource comes back.
func TestATimeoutOfWithAuthorizeWillPass(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(c *fiber.Ctx, _ *mesherstream.Subscription) error {
		<-c.UserContext().Done()
		return c.UserContext().Err()
	}))
	app.Use(timeout.NewWithContext(m.Handler(), 20*time.Millisecond))
	s := streamtest.NewSite(t, app, m)
	if r := refused(t, s, shopStream, streamtest.AcceptLines); r.status != 408 {
		t.Errorf("got %+v, want 408", r)
	}
	refused(t, s, shopStream, streamtest.AcceptEvents).softened(t, "Request Timeout")
}

// Handlers and mounted apps: the stream is where the handler is.
func TestPlainHTTPWhereverTheHandlerIsMounted(t *testing.T) {
	for _, mount := range streamtest.Mounts {
		t.Run(mount.Name, func(t *testing.T) {
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t)
			mount.Use(app, m.Handler())
			s := streamtest.NewSite(t, app, m)
			for _, accept := range plainAccepts {
				p := s.Get(mount.Before+"shop"+mount.After+"?level=error", accept)
				s.Eventually("it is in", func() bool { return m.Stats().Clients == 1 })
				s.Publish(mesherstream.Message{Project: "shop", Level: "info", Data: []byte("no")})
				s.Publish(mesherstream.Message{Project: "shop", Level: "error", Data: []byte("yes")})
				p.Expect("yes")
				_ = p.Conn.Close()
				s.Eventually("it has left", s.IsEmpty)
			}
		})
	}
}

func TestUnderNetHTTPAStreamIs501(t *testing.T) {
	var logs streamtest.LogBuffer
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithLogger(slog.New(slog.NewTextHandler(&logs, nil))), mesherstream.WithOrigins("https://other.test"))
	app.Use(m.Handler())
	server := httptest.NewServer(adaptor.FiberApp(app))
	defer server.Close()
	for _, accept := range []string{eventsType, linesType, "*/*", eventsType + ", application/vnd.mesherstream.v1"} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+shopStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("Origin", "https://other.test")
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 501 || err != nil || !strings.Contains(string(body), "net/http") || resp.Header.Get("Access-Control-Allow-Origin") != "https://other.test" {
			t.Errorf("%s: got %d %q, %v, %v, want 501 that a page can read", accept, resp.StatusCode, body, err, resp.Header)
		}
	}
	if got := logs.Count("level=ERROR"); got != 1 || m.Stats().Connects != 0 {
		t.Errorf("got %d errors in the log, want 1: %s", got, &logs)
	}
}

// In app.Test, there is no connection that could be a stream: the response says so.
func TestAppTestReceivesTheHeadOfAStream(t *testing.T) {
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithMaxClients(1))
	app.Use(m.Handler())
	for range 2 {
		req := httptest.NewRequest("GET", shopStream, nil)
		req.Header.Set("Accept", eventsType)
		resp, err := app.Test(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != eventsType || err != nil || !strings.HasPrefix(string(body), ": There is no stream here.") || m.Stats().Connects != 0 {
			t.Errorf("got %d, %v, %q, %v", resp.StatusCode, resp.Header, body, err)
		}
	}
}

// fasthttp counts a connection that was taken over as it counts that of a WebSocket.
func TestFasthttpCountsAStreamLikeAWebSocket(t *testing.T) {
	for name, config := range map[string]struct {
		set  func(app *fiber.App)
		most uint32 // how many connections an address may have
	}{
		"normal":             {func(*fiber.App) {}, 0},
		"KeepHijackedConns":  {func(app *fiber.App) { app.Server().KeepHijackedConns = true }, 0},
		"both, less memory":  {func(app *fiber.App) { app.Server().KeepHijackedConns, app.Server().ReduceMemoryUsage = true, true }, 0},
		"MaxConnsPerIP":      {func(app *fiber.App) { app.Server().MaxConnsPerIP = 2 }, 2},
		"MaxRequestsPerConn": {func(app *fiber.App) { app.Server().MaxRequestsPerConn = 1 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			app := streamtest.QuietApp()
			config.set(app)
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
			app.Use(m.Handler())
			s := streamtest.NewSite(t, app, m)
			counts := func(open func() net.Conn) (list []string) {
				count := func() string {
					return fmt.Sprint(app.Server().GetOpenConnectionsCount(), app.Server().GetCurrentConcurrency())
				}
				var conns []net.Conn
				for range 2 {
					conns = append(conns, open())
					s.Eventually("it is in", func() bool { return m.Stats().Clients == len(conns) })
					var last string
					s.Eventually("fasthttp has counted", func() bool { // until its goroutine has returned
						before := last
						last = count()
						time.Sleep(5 * time.Millisecond)
						return last == before
					})
					list = append(list, last)
				}
				if config.most > 0 { // a third one is refused
					if conn, err := s.Net("tcp", "app.test"); err == nil {
						_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
						got, _ := io.ReadAll(conn)
						list = append(list, fmt.Sprintf("%.12s", got))
						_ = conn.Close()
					}
				}
				for _, conn := range conns {
					_ = conn.Close()
				}
				s.Eventually("all have left", s.IsEmpty)
				s.Eventually("fasthttp counts nothing", func() bool { return count() == "0 0" || count() == "0 1" })
				return list
			}
			want := counts(func() net.Conn { ws, _ := s.Connect(shopStream); return ws.NetConn() })
			for _, accept := range plainAccepts {
				if got := counts(func() net.Conn { return s.Follow(shopStream, accept).Conn }); !slices.Equal(got, want) {
					t.Errorf("%s: got %q, want as for WebSockets %q", accept, got, want)
				}
			}
		})
	}
}

// An ErrorHandler may answer in its own way, and knows errors that others don't.
func TestTheErrorHandlerOfTheAppAnswersForStreams(t *testing.T) {
	errSession := fmt.Errorf("the session is over")
	app := streamtest.QuietApp(fiber.Config{ErrorHandler: func(c *fiber.Ctx, err error) error {
		status := 500
		switch e := (*fiber.Error)(nil); {
		case err == errSession:
			status = 401
		case asFiber(err, &e):
			status = e.Code
		}
		return c.Status(status).JSON(fiber.Map{"error": err.Error(), "path": c.Path()})
	}})
	m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		switch sub.Project {
		case "session":
			return errSession
		case "secret":
			return fiber.ErrForbidden
		case "broken":
			return io.ErrUnexpectedEOF
		}
		return nil
	}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for project, want := range map[string]int{"session": 401, "secret": 403, "broken": 200} {
		p := s.Get("/stream/projects/"+project, streamtest.AcceptEvents)
		body, err := io.ReadAll(p.Head.Body)
		if p.Head.StatusCode != want || err != nil {
			t.Errorf("%s: got %d %q, %v, want %d", project, p.Head.StatusCode, body, err, want)
		}
		var told struct{ Error, Path string }
		if want != 200 && (json.Unmarshal(body, &told) != nil || told.Error == "" || told.Path != "/stream/projects/"+project || p.Head.Header.Get("Content-Type") != "application/json") {
			t.Errorf("%s: got %v, %q, want the JSON of the ErrorHandler", project, p.Head.Header, body)
		}
		if want == 200 && (len(p.Parser.Read(body)) > 0 || p.Parser.Retry < 1000 || !p.Parser.IsWhole() || strings.Contains(string(body), "EOF")) {
			t.Errorf("%s: got %q, want a comment and the time to wait", project, body)
		}
	}
}

func asFiber(err error, target **fiber.Error) (ok bool) {
	*target, ok = err.(*fiber.Error)
	return ok
}

// A middleware may answer an error itself, and know better than the ErrorHandler which status it has. An EventSource that
// must not come back is then not told to.
func TestAMiddlewareAnswersForTheErrorHandler(t *testing.T) {
	errSession, errBusy := errors.New("the session is over"), errors.New("busy")
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		return map[string]error{"session": errSession, "busy": errBusy, "gone": fiber.ErrServiceUnavailable}[sub.Project]
	}))
	app.Use(func(c *fiber.Ctx) error {
		switch err := c.Next(); {
		case errors.Is(err, errSession):
			return c.Status(401).JSON(fiber.Map{"error": err.Error()})
		case errors.Is(err, errBusy):
			return fiber.ErrTooManyRequests
		case errors.Is(err, fiber.ErrServiceUnavailable):
			return fiber.NewError(404, "no such project")
		default:
			return err
		}
	})
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for project, want := range map[string]int{"session": 401, "busy": 429, "gone": 404} {
		for _, accept := range []string{acceptV1, streamtest.AcceptLines} {
			if r := refused(t, s, "/stream/projects/"+project, accept); r.status != want {
				t.Errorf("%s with %q: got %+v, want %d", project, accept, r, want)
			}
		}
		r := refused(t, s, "/stream/projects/"+project, streamtest.AcceptEvents)
		if want == 429 {
			r.softened(t, "Too Many Requests")
		} else if r.status != want {
			t.Errorf("%s: got %+v, want %d", project, r, want)
		}
	}
}

// An error behind a stream may be answered with 200, as in APIs whose body has the status.
func TestAnErrorThatIsAnsweredWith200BeginsNoStream(t *testing.T) {
	app := streamtest.QuietApp(fiber.Config{ErrorHandler: func(c *fiber.Ctx, err error) error {
		return c.JSON(fiber.Map{"status": "error", "message": err.Error()})
	}})
	m := streamtest.NewTestManager(t)
	app.Use(func(c *fiber.Ctx) error {
		_ = c.Next()
		return errors.New("behind the stream")
	})
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	for _, accept := range plainAccepts {
		r := refused(t, s, shopStream, accept)
		if r.status != 200 || r.body != `{"message":"behind the stream","status":"error"}` || r.head.Get("Content-Type") != "application/json" {
			t.Errorf("%q: got %+v, want the answer of the ErrorHandler", accept, r)
		}
	}
	if m.Stats().Connects > 0 {
		t.Errorf("got %d clients, want none", m.Stats().Connects)
	}
}

// A stream has its type, whatever the handlers say that every response is. An EventSource gives up for good at another one.
func TestAStreamKeepsItsType(t *testing.T) {
	for label, want := range map[string]string{
		"application/json":                 "",
		"text/html; charset=utf-8":         "",
		"text/event-streams":               "",
		"":                                 "",
		"Text/Event-Stream ;charset=utf-8": "Text/Event-Stream ;charset=utf-8",
	} {
		app := streamtest.QuietApp()
		m := streamtest.NewTestManager(t)
		app.Use(func(c *fiber.Ctx) error {
			err := c.Next()
			c.Response().Header.SetContentType(label)
			return err
		})
		app.Use(m.Handler())
		s := streamtest.NewSite(t, app, m)
		p := s.Get(shopStream, streamtest.AcceptEvents)
		if want == "" {
			want = eventsType
		}
		if got := p.Head.Header.Get("Content-Type"); got != want {
			t.Errorf("%q: got %q, want %q", label, got, want)
		}
		_ = p.Conn.Close()
	}
}
