package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/compress"
	"github.com/gofiber/fiber/v2/middleware/cors"
	"github.com/gofiber/fiber/v2/middleware/etag"
	"github.com/gofiber/fiber/v2/middleware/helmet"
	"github.com/gofiber/fiber/v2/middleware/logger"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/gofiber/fiber/v2/middleware/requestid"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// A behind is a middleware that does something after the stream's handler has returned.
type behind struct {
	name   string
	config fiber.Config
	use    fiber.Handler
	status int    // of the response; 0 if there is none
	body   string // of a refusal
}

var behinds = []behind{
	{name: "closes the connection", use: func(c *fiber.Ctx) error {
		err := c.Next()
		c.Set("Connection", "close")
		return err
	}, status: 101},
	{name: "closes it by fasthttp's method", use: func(c *fiber.Ctx) error {
		err := c.Next()
		c.Context().SetConnectionClose()
		return err
	}, status: 101},
	{name: "closes it, and tells the address of the client", use: func(c *fiber.Ctx) error {
		c.Context().SetRemoteAddr(&net.TCPAddr{IP: net.IPv4(203, 0, 113, 7)})
		err := c.Next()
		c.Set("Connection", "close")
		return err
	}, status: 101},
	{name: "closes it before", use: func(c *fiber.Ctx) error {
		c.Set("Connection", "close")
		return c.Next()
	}, status: 101},
	{name: "wants it kept", use: func(c *fiber.Ctx) error {
		err := c.Next()
		c.Set("Connection", "keep-alive")
		return err
	}, status: 101},
	{name: "offers an extension", use: func(c *fiber.Ctx) error {
		c.Set("Sec-WebSocket-Extensions", "permessage-deflate")
		return c.Next()
	}, status: 101},
	{name: "DisableKeepalive", config: fiber.Config{DisableKeepalive: true}, use: (*fiber.Ctx).Next, status: 101},
	{name: "ReduceMemoryUsage", config: fiber.Config{ReduceMemoryUsage: true}, use: (*fiber.Ctx).Next, status: 101},
	{name: "adds a body", use: func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		return c.SendString("good day")
	}, status: 101},
	{name: "returns an error", use: func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		return fiber.NewError(fiber.StatusTeapot, "no coffee")
	}, status: 418, body: "no coffee"},
	{name: "replaces the response", use: func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		c.Context().Response.Reset()
		return c.Status(fiber.StatusForbidden).SendString("not you")
	}, status: 403, body: "not you"},
	{name: "sets another status", use: func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		return c.SendStatus(fiber.StatusServiceUnavailable)
	}, status: 503, body: "Service Unavailable"},
	{name: "redirects", use: func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		return c.Redirect("/login")
	}, status: 302},
	{name: "streams a body", use: func(c *fiber.Ctx) error {
		if err := c.Next(); err != nil {
			return err
		}
		c.Status(fiber.StatusOK).Context().SetBodyStreamWriter(func(w *bufio.Writer) { _, _ = w.WriteString("a stream of its own") })
		return nil
	}, status: 200, body: "a stream of its own"},
	{name: "panics in front of recover", use: func(c *fiber.Ctx) (err error) {
		return recover.New()(c)
	}, status: 500},
	{name: "closes the socket", use: func(c *fiber.Ctx) error {
		err := c.Next()
		_ = c.Context().Conn().Close()
		return err
	}},
	{name: "hijacks the connection itself", use: func(c *fiber.Ctx) error {
		err := c.Next()
		c.Context().Hijack(func(net.Conn) {})
		return err
	}},
	{name: "hijacks it for nobody", use: func(c *fiber.Ctx) error {
		err := c.Next()
		c.Context().Hijack(nil)
		return err
	}, status: 101},
	{name: "answers with a time-out", use: func(c *fiber.Ctx) error {
		err := c.Next()
		c.Context().TimeoutErrorWithCode("too late", fiber.StatusRequestTimeout)
		return err
	}, status: 408, body: "too late"},
}

// An accepted handshake either becomes a stream, or holds no place, from the very moment that it fails.
func TestAHandshakeThatOthersSpoilHoldsNoPlace(t *testing.T) {
	for _, b := range behinds {
		t.Run(b.name, func(t *testing.T) {
			app := streamtest.QuietApp(b.config)
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(1), mesherstream.WithMaxClientsPerIP(1))
			app.Use(b.use)
			if strings.HasPrefix(b.name, "panics") {
				app.Use(func(c *fiber.Ctx) error { _ = c.Next(); panic("behind the stream") })
			}
			app.Use(m.Handler())
			s := &rawSite{Site: streamtest.NewSite(t, app, m)}
			for range 3 { // one place would be gone after the first
				conn, err := s.Net("tcp", "app.test")
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err := conn.Write([]byte(streamtest.Handshake("/stream/projects/shop"))); err != nil {
					t.Fatal(err)
				}
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				switch {
				case b.status == 0:
					if err == nil || streamtest.IsTimeout(err) {
						t.Errorf("got %v, %v, want the end", resp, err)
					}
				case err != nil || resp.StatusCode != b.status:
					t.Fatalf("got %v, %v, want %d", resp, err, b.status)
				case b.status == 101 && b.name != "hijacks it for nobody":
					if resp.Header.Get("Connection") != "Upgrade" || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-Websocket-Accept") == "" || resp.Header.Get("Sec-Websocket-Extensions") != "" {
						t.Errorf("got %v, want an upgrade", resp.Header)
					}
					s.Eventually("it is in", func() bool { return m.Stats().Clients == 1 })
					s.Publish(mesherstream.Message{Project: "shop", Data: []byte("hello")})
					if frame, err := streamtest.ReadFrame(r); err != nil || string(frame) != "\x81\x05hello" {
						t.Errorf("got %q, %v, want the message", frame, err)
					}
				case b.status != 101:
					body, err := io.ReadAll(resp.Body)
					if err != nil || !strings.Contains(string(body), b.body) || b.status != 408 && !resp.Close ||
						resp.Header.Get("Upgrade")+resp.Header.Get("Sec-Websocket-Accept") != "" {
						t.Errorf("got %v, %q, %v, want %q, and nothing that looks like an upgrade", resp.Header, body, err, b.body)
					}
				}
				_ = conn.Close()
				s.Eventually("no place is held", s.IsEmpty)
			}
			if clients := m.Stats().Connects; (b.status == 101 && b.name != "hijacks it for nobody") != (clients > 0) {
				t.Errorf("got %d clients of answers with status %d", clients, b.status)
			}
		})
	}
}

// Headers that other middleware sets in the response are in the 101, whether they are set before or after the handler.
func TestThe101HasTheHeadersOfOtherMiddleware(t *testing.T) {
	for _, config := range []fiber.Config{{}, {ServerHeader: "shop"}, {DisableHeaderNormalizing: true}} {
		app := streamtest.QuietApp(config)
		m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
		app.Use(logger.New(logger.Config{Output: io.Discard}), recover.New(), compress.New(), etag.New(), helmet.New(), requestid.New(),
			cors.New(cors.Config{AllowOrigins: "http://app.test", AllowCredentials: true}))
		app.Use(func(c *fiber.Ctx) error {
			c.Cookie(&fiber.Cookie{Name: "before", Value: "1"})
			err := c.Next()
			c.Cookie(&fiber.Cookie{Name: "after", Value: "2"})
			c.Append("X-After", "a", "b")
			return err
		})
		app.Use(m.Handler())
		s := streamtest.NewSite(t, app, m)
		ws, resp, err := s.Dial("/stream/projects/shop", "Origin: http://app.test", "X-Request-ID: of-the-client", "Accept-Encoding: gzip, br")
		if err != nil {
			t.Fatalf("dial: %v, %v", err, resp)
		}
		for name, want := range map[string]string{
			"X-Request-Id": "of-the-client", "Access-Control-Allow-Origin": "http://app.test", "Access-Control-Allow-Credentials": "true",
			"X-Content-Type-Options": "nosniff", "X-After": "a, b", "Server": config.ServerHeader, "Content-Encoding": "", "Transfer-Encoding": "", "Content-Length": "",
		} {
			if got := resp.Header.Get(name); got != want && (got == "" || name != "X-Request-Id" || !config.DisableHeaderNormalizing) { // it doesn't find the client's header
				t.Errorf("%+v: header %s: got %q, want %q", config, name, got, want)
			}
		}
		var cookies []string
		for _, c := range resp.Cookies() {
			cookies = append(cookies, c.Name+"="+c.Value)
		}
		if slices.Sort(cookies); !slices.Equal(cookies, []string{"after=2", "before=1"}) || resp.Header.Get("Date") == "" {
			t.Errorf("got %v, want both cookies and a date", resp.Header)
		}
		s.Eventually("connected", func() bool { return m.Stats().Clients == 1 })
		s.Publish(mesherstream.Message{Project: "shop", Data: []byte("hello")})
		s.Gets(ws, "hello")
	}
}

// A place is given back when the connection has ended, and not after a timer: otherwise that many resets would keep all
// other clients out for that long.
func TestHandshakesThatAreResetKeepNobodyOut(t *testing.T) {
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			const places = 20
			app := streamtest.QuietApp()
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(places))
			app.Use(m.Handler())
			s := streamtest.NewSiteOver(t, app, m, tr)
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					for range 10 * places {
						resetHandshake(s, streamtest.Handshake("/stream/projects/shop"))
					}
				})
			}
			all.Wait()
			begin := time.Now()
			s.Eventually("no place is held", func() bool { return s.IsEmpty() && s.HasRoom("/stream/projects/shop", places) })
			if took := time.Since(begin); took > 7500*time.Millisecond {
				t.Errorf("the places of %d clients that are gone were free after %v", 40*places, took)
			}
			s.Connect("/stream/projects/shop")
		})
	}
}

// A handshake may be broken off before, during and after the call of WithAuthorize, and may arrive in pieces.
func TestAHandshakeThatBreaksAtAnyPointHoldsNoPlace(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	app := streamtest.QuietApp()
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClients(1), mesherstream.WithMaxClientsPerIP(1), mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
		if sub.Project == "slow" {
			asked <- struct{}{}
			<-goOn
		}
		return nil
	}))
	app.Use(m.Handler())
	s := &rawSite{Site: streamtest.NewSite(t, app, m)}
	reset := func(conn net.Conn) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
	free := func() {
		t.Helper()
		s.Eventually("no place is held and nothing asked", func() bool {
			return s.IsEmpty() && s.HasRoom("/stream/projects/shop", 1)
		})
	}
	open := func(raw string) net.Conn {
		conn, err := s.Net("tcp", "app.test")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Write([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	full := streamtest.Handshake("/stream/projects/shop")
	for _, at := range []int{0, 1, len(full) / 2, len(full) - 1} {
		reset(open(full[:at]))
	}
	free()
	for range 3 {
		conn := open(streamtest.Handshake("/stream/projects/slow"))
		<-asked
		reset(conn)
		goOn <- struct{}{}
		free()
	}
	for range 3 {
		conn := open(full)
		if _, err := conn.Read(make([]byte, 1)); err != nil { // of the 101
			t.Fatal(err)
		}
		reset(conn)
		free()
	}
	conn := open(full + string(streamtest.Masked(wsframe.FinBit|wsframe.OpText, `{"type":"subscribe","filters":{}}`))[:5]) // a piece of a frame
	reset(conn)
	free()
	s.Connect("/stream/projects/shop")
}

// Requests that arrive in one piece are answered in order, and the last of them may be a handshake.
func TestAHandshakeBehindPipelinedRequestsIsAStream(t *testing.T) {
	s := newRawSite(t)
	conn, err := s.Net("tcp", "app.test")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	pipelined := secretRequest + secretRequest + streamtest.Handshake("/stream/projects/shop") + string(streamtest.Masked(wsframe.FinBit|wsframe.OpText, `{"type":"x"}`))
	if _, err := conn.Write([]byte(pipelined)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for _, want := range []int{200, 200, 101} {
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("got %v, %v, want %d", resp, err, want)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	if frame, err := streamtest.ReadFrame(r); err != nil || !strings.Contains(string(frame), "unknown_type") {
		t.Errorf("got %q, %v, want the answer to the frame that came with the handshake", frame, err)
	}
}

// takePlace admits another client.
func (s *rawSite) takePlace() error {
	_, _, err := s.Dial("/stream/projects/shop", "X-First: yes")
	return err
}

// The last place may be reserved, and the manager shut down, after the last handler has returned. The app's
// ErrorHandler answers then, too.
func TestWhatIsRefusedAfterTheHandlersIsAnsweredByTheErrorHandler(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil  func(s *rawSite) error
		status int
		broken bool
	}{
		"cap":              {(*rawSite).takePlace, 503, false},
		"cap of addresses": {(*rawSite).takePlace, 429, false},
		"shutdown":         {func(s *rawSite) error { return s.M.Shutdown(t.Context()) }, 503, false},
		"it panics":        {(*rawSite).takePlace, 500, true},
	} {
		t.Run(name, func(t *testing.T) {
			app := streamtest.QuietApp(fiber.Config{ErrorHandler: func(c *fiber.Ctx, err error) error {
				if tt.broken {
					panic("the secret text")
				}
				var fe *fiber.Error
				if !errors.As(err, &fe) {
					return err
				}
				return c.Status(fe.Code).JSON(fiber.Map{"path": c.Path(), "error": fe.Message, "user": c.Locals("user")})
			}})
			opts := []mesherstream.Option{mesherstream.WithMaxClients(1)}
			if tt.status == 429 {
				opts = []mesherstream.Option{mesherstream.WithMaxClientsPerIP(1)}
			}
			m := streamtest.NewTestManager(t, opts...)
			s := &rawSite{}
			app.Use(func(c *fiber.Ctx) error {
				c.Locals("user", "ann")
				c.Set("X-Other", "kept")
				if err := c.Next(); err != nil || c.Get("X-First") != "" {
					return err
				}
				return tt.spoil(s)
			})
			app.Use(m.Handler())
			s.Site = streamtest.NewSite(t, app, m)
			answer := s.exchange(streamtest.Handshake("/stream/projects/shop") + secretRequest)
			head, body, _ := strings.Cut(answer, "\r\n\r\n")
			if !strings.HasPrefix(head, fmt.Sprint("HTTP/1.1 ", tt.status)) || !strings.Contains(head, "Connection: close") || !strings.Contains(head, "X-Other: kept") ||
				strings.Contains(head, "Upgrade") || strings.Contains(head, "Accept") || strings.Contains(body, "secret") {
				t.Errorf("got %q, want %d that closes, and nothing that looks like an upgrade", answer, tt.status)
			}
			if !tt.broken && (!strings.Contains(body, `"path":"/stream/projects/shop"`) || !strings.Contains(body, `"user":"ann"`)) {
				t.Errorf("got %q, want what the ErrorHandler writes", body)
			}
		})
	}
}

// Under net/http, the function to which a connection is handed over is never called.
func TestUnderNetHTTPAHandshakeIs501AndTheLogSaysWhyOnce(t *testing.T) {
	var logs streamtest.LogBuffer
	app := streamtest.QuietApp()
	asked := false
	m := streamtest.NewTestManager(t, mesherstream.WithLogger(slog.New(slog.NewTextHandler(&logs, nil))), mesherstream.WithMaxClients(1), mesherstream.WithAuthorize(func(*fiber.Ctx, *mesherstream.Subscription) error { asked = true; return nil }))
	app.Use(m.Handler())
	server := httptest.NewServer(adaptor.FiberApp(app))
	defer server.Close()
	for range 3 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/stream/projects/shop", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range streamtest.Upgrade {
			key, value, _ := strings.Cut(line, ": ")
			req.Header.Set(key, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 501 || !strings.Contains(string(body), "net/http") || asked {
			t.Errorf("got %d %q, authorize asked: %v, want 501 that says why", resp.StatusCode, body, asked)
		}
	}
	if got := logs.Count("net/http"); got != 1 {
		t.Errorf("the log says so %d times, want once", got)
	}
	resp, err := http.Get(server.URL + "/stream/projects/mesherstream.js")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("the module: got %v, %v, want 200", resp, err)
	} else {
		_ = resp.Body.Close()
	}
}

// A request that isn't authorised yet takes no place from one that is.
func TestKnockersKeepNobodyOut(t *testing.T) {
	for name, tt := range map[string]struct {
		opts   []mesherstream.Option
		refuse func(*mesherstream.Subscription) error
		want   int
		from   func(i int) string
	}{
		"by an error":       {refuse: func(*mesherstream.Subscription) error { return fiber.ErrUnauthorized }, want: 401},
		"by a panic":        {refuse: func(*mesherstream.Subscription) error { panic("no") }, want: 500},
		"by what is broken": {refuse: func(sub *mesherstream.Subscription) error { sub.Levels = slices.Repeat([]string{"x"}, 17); return nil }, want: 500},
		"by a grant of nothing that was asked for": {refuse: func(sub *mesherstream.Subscription) error { sub.Levels = []string{"none"}; return nil }, want: 403},
		"of many addresses": {
			refuse: func(*mesherstream.Subscription) error { return fiber.ErrUnauthorized }, want: 401, opts: []mesherstream.Option{mesherstream.WithMaxClientsPerIP(2)},
			from: func(i int) string { return fmt.Sprintf("2001:db8:%x::1", i) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			const places, knockers = 10, 30
			var under atomic.Int64
			release := make(chan struct{})
			let := sync.OnceFunc(func() { close(release) })
			defer let()
			app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Real-Ip"})
			m := streamtest.NewTestManager(t, append(tt.opts, mesherstream.WithApp(app), mesherstream.WithMaxClients(places), mesherstream.WithAuthorize(func(c *fiber.Ctx, sub *mesherstream.Subscription) error {
				if c.Get("X-User") == "ann" {
					return nil
				}
				under.Add(1)
				<-release
				return tt.refuse(sub)
			}))...)
			app.Use(m.Handler())
			s := streamtest.NewSite(t, app, m)
			var all sync.WaitGroup
			for i := range knockers {
				all.Go(func() {
					ip := "192.0.2.1"
					if tt.from != nil {
						ip = tt.from(i)
					}
					if _, resp, _ := s.Dial("/stream/projects/shop?level=error", "X-Real-Ip: "+ip); resp == nil || resp.StatusCode != tt.want {
						t.Errorf("a knocker: got %v, want %d", resp, tt.want)
					}
				})
			}
			s.Eventually("all are asked about", func() bool { return under.Load() == knockers })
			for i := range places {
				s.Connect("/stream/projects/shop", "X-User: ann", fmt.Sprint("X-Real-Ip: 198.51.100.", i))
			}
			if _, resp, _ := s.Dial("/stream/projects/shop", "X-User: ann", "X-Real-Ip: 198.51.100.99"); resp == nil || resp.StatusCode != 503 {
				t.Errorf("one more than there are places: got %v, want 503", resp)
			}
			let()
			all.Wait()
			if got := m.Stats().Clients; got != places {
				t.Errorf("after the knockers have been refused: got %d clients, want %d", got, places)
			}
		})
	}
}

// With WithMaxClientsPerIP, an address may have as many calls of WithAuthorize in progress as it may have clients. An
// IPv6 network of 64 bits is one address. The address's clients don't count for that.
func TestAnAddressHasABoundedNumberOfQuestionsUnderWay(t *testing.T) {
	const most = 3
	var under atomic.Int64
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	defer let()
	app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Real-Ip"})
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithMaxClientsPerIP(most), mesherstream.WithAuthorize(func(c *fiber.Ctx, _ *mesherstream.Subscription) error {
		if c.Get("X-User") == "ann" {
			return nil
		}
		under.Add(1)
		<-release
		return fiber.ErrUnauthorized
	}))
	app.Use(m.Handler())
	s := streamtest.NewSite(t, app, m)
	s.Connect("/stream/projects/shop", "X-User: ann", "X-Real-Ip: 2001:db8::ffff") // it takes no call from the others
	var all sync.WaitGroup
	for i := range most {
		all.Go(func() { _, _, _ = s.Dial("/stream/projects/shop", fmt.Sprintf("X-Real-Ip: 2001:db8::%x", i)) })
	}
	s.Eventually("all are asked about", func() bool { return under.Load() == most })
	if _, resp, _ := s.Dial("/stream/projects/shop", "X-Real-Ip: 2001:db8::aaaa"); resp == nil || resp.StatusCode != 429 {
		t.Errorf("one question more of the network: got %v, want 429", resp)
	}
	s.Connect("/stream/projects/shop", "X-User: ann", "X-Real-Ip: 2001:db8:0:1::1")
	let()
	all.Wait()
	s.Connect("/stream/projects/shop", "X-User: ann", "X-Real-Ip: 2001:db8::bbbb")
}

// A client that never reads its 101 keeps its place no longer than sending the 101 may take.
func TestAClientThatNeverReadsIts101IsGivenUp(t *testing.T) {
	pipe := streamtest.Transports[slices.IndexFunc(streamtest.Transports, func(tr streamtest.Transport) bool { return tr.Bubble })]
	synctest.Test(t, func(t *testing.T) {
		(&streamtest.World{T: t, Transport: pipe}).Play(func(w *streamtest.World) {
			w.Start(mesherstream.WithMaxClients(1))
			conn, err := w.Dial("tcp", "app.test")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(streamtest.Handshake("/stream/projects/shop"))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(9 * time.Second)
			if _, err := streamtest.Dial(w, "shop"); err == nil {
				t.Error("another client while the 101 goes out: got in, want the place to be taken")
			}
			time.Sleep(2 * time.Second)
			if got := w.M.Stats().Connects; got != 0 {
				t.Errorf("after it had its time: got %d clients, want none", got)
			}
			w.Connect("shop") // its place is free
		})
	})
}

// A server that leaves the closing of hijacked connections to their handlers keeps none that failed.
func TestAServerThatKeepsHijackedConnectionsEndsThoseThatOthersSpoil(t *testing.T) {
	app := streamtest.QuietApp()
	app.Server().KeepHijackedConns = true
	m := streamtest.NewTestManager(t, mesherstream.WithApp(app))
	app.Use(func(c *fiber.Ctx) error {
		_ = c.Next()
		return fiber.ErrTeapot
	}, m.Handler())
	s := &rawSite{Site: streamtest.NewSite(t, app, m)}
	conn, err := s.Net("tcp", "app.test")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte(streamtest.Handshake("/stream/projects/shop"))); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) || !bytes.HasPrefix(answer, []byte("HTTP/1.1 418")) {
		t.Errorf("got %q, %v, want 418 and the end", answer, err)
	}
}
