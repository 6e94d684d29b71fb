package streamtest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	fws "github.com/fasthttp/websocket"
	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/valyala/fasthttp"
)

// Upgrade is the header of a handshake.
var Upgrade = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}

// Ask has app answer one request without a socket. An accepted handshake is answered with 101, but no client is
// registered.
func Ask(t *testing.T, app *fiber.App, method, target string, header ...string) (status int, body string) {
	t.Helper()
	if !slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Host:") }) {
		header = append([]string{"Host: app.test"}, header...)
	}
	raw := method + " " + target + " HTTP/1.1\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n"
	status, body = AskRaw(app, raw)
	if status == 0 {
		t.Fatalf("%q has not reached the app", raw)
	}
	return status, body
}

// AskRaw has app answer the bytes of a request. It returns 0 if they are not a request.
func AskRaw(app *fiber.App, raw string) (status int, body string) {
	handler := app.Handler()
	server := fasthttp.Server{
		DisableHeaderNamesNormalizing: app.Config().DisableHeaderNormalizing,
		NoDefaultServerHeader:         true,
		ReadBufferSize:                64 << 10,
		Handler: func(ctx *fasthttp.RequestCtx) {
			handler(ctx)
			status, body = ctx.Response.StatusCode(), string(ctx.Response.Body())
			ctx.Hijack(nil)
		},
	}
	_ = server.ServeConn(&requestConn{Reader: strings.NewReader(raw)})
	return status, body
}

// requestConn is a connection with bytes to read.
type requestConn struct {
	net.Conn
	io.Reader
}

func (c *requestConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c *requestConn) Write(p []byte) (int, error) { return len(p), nil }

func (c *requestConn) Close() error { return nil }

func (c *requestConn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 80} }

func (c *requestConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

func (c *requestConn) SetDeadline(time.Time) error { return nil }

func (c *requestConn) SetReadDeadline(time.Time) error { return nil }

func (c *requestConn) SetWriteDeadline(time.Time) error { return nil }

// Site is an app of the test's own making that listens.
type Site struct {
	*testing.T
	App *fiber.App
	M   *mesherstream.Manager
	Net func(network, addr string) (net.Conn, error)
}

// Sockets are the transports whose bytes pass through a kernel.
func Sockets() []Transport {
	return slices.DeleteFunc(slices.Clone(Transports), func(tr Transport) bool { return tr.Bubble })
}

func QuietApp(config ...fiber.Config) *fiber.App {
	var c fiber.Config
	if len(config) > 0 {
		c = config[0]
	}
	c.DisableStartupMessage = true
	return fiber.New(c)
}

// NewTestManager makes a manager that ends with the test.
func NewTestManager(t testing.TB, opts ...mesherstream.Option) *mesherstream.Manager {
	t.Helper()
	m, err := mesherstream.NewManager(append([]mesherstream.Option{mesherstream.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatalf("NewManager: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return m
}

// NewSite makes app listen until the end of the test.
func NewSite(t *testing.T, app *fiber.App, m *mesherstream.Manager) *Site {
	t.Helper()
	return NewSiteOver(t, app, m, Sockets()[0])
}

func NewSiteOver(t *testing.T, app *fiber.App, m *mesherstream.Manager, tr Transport) *Site {
	t.Helper()
	ln, dial := tr.Listen(t)
	t.Cleanup(Serve(t, app, ln))
	return &Site{t, app, m, dial}
}

// Dial asks for a stream. header holds lines such as "Origin: null".
func (s *Site) Dial(target string, header ...string) (*fws.Conn, *http.Response, error) {
	s.Helper()
	h := http.Header{}
	for _, line := range header {
		key, value, _ := strings.Cut(line, ": ")
		h.Add(key, value)
	}
	d := fws.Dialer{HandshakeTimeout: 10 * time.Second, NetDial: s.Net}
	ws, resp, err := d.Dial("ws://app.test"+target, h)
	if err == nil {
		s.Cleanup(func() { _ = ws.Close() })
	}
	return ws, resp, err
}

// Connect adds a client, and returns it once the manager knows it.
func (s *Site) Connect(target string, header ...string) (*fws.Conn, mesherstream.ClientID) {
	s.Helper()
	before := s.M.Stats().Connects
	ws, resp, err := s.Dial(target, header...)
	if err != nil {
		s.Fatalf("dial %s: %v, response %v", target, err, resp)
	}
	s.Eventually("connected", func() bool { return s.M.Stats().Connects > before })
	return ws, newest(s.M)
}

// HasRoom reports whether there are places for n more clients, by letting them in for a moment.
func (s *Site) HasRoom(target string, n int, header ...string) bool {
	s.Helper()
	before := s.M.Stats()
	var in []*fws.Conn
	for range n {
		if ws, _, err := s.Dial(target, header...); err == nil {
			in = append(in, ws)
		}
	}
	for _, ws := range in {
		_ = ws.Close()
	}
	// Another client may leave too, and a stream may begin after its client has gone.
	s.Eventually("those have come and left", func() bool {
		st, n := s.M.Stats(), uint64(len(in))
		return st.Connects >= before.Connects+n && st.Disconnects >= before.Disconnects+n
	})
	return len(in) == n
}

// IsEmpty reports whether every client that has ever connected has left.
func (s *Site) IsEmpty() bool {
	st := s.M.Stats()
	return st.Clients == 0 && st.Connects == st.Disconnects
}

func (s *Site) Eventually(what string, cond func() bool) {
	s.Helper()
	Eventually(s.T, s.M, what, cond)
}

func (s *Site) Publish(msg mesherstream.Message) {
	s.Helper()
	if err := s.M.Broadcast(msg); err != nil {
		s.Fatalf("Broadcast(%+v): %v", msg, err)
	}
}

// Gets checks the next message of a client.
func (s *Site) Gets(ws *fws.Conn, want string) {
	s.Helper()
	_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, data, err := ws.ReadMessage(); err != nil || string(data) != want {
		s.Fatalf("next message: got %q, %v, want %q", data, err, want)
	}
}

// Handshake returns the bytes of a handshake. header may replace the Host.
func Handshake(target string, header ...string) string {
	if len(header) == 0 || !strings.HasPrefix(header[0], "Host:") {
		header = append([]string{"Host: app.test"}, header...)
	}
	return "GET " + target + " HTTP/1.1\r\n" + strings.Join(append(header, Upgrade...), "\r\n") + "\r\n\r\n"
}

// OwnRoute mounts a route that upgrades by itself and passes the connection to Serve. It reports what Serve returned
// for tenant "shop".
func OwnRoute(app *fiber.App, m *mesherstream.Manager, filter mesherstream.Filter) <-chan error {
	served := make(chan error, 100)
	app.Get("/own/:tenant", websocket.New(func(conn *websocket.Conn) {
		tenant := conn.Params("tenant")
		if err := m.Serve(conn, mesherstream.Subscription{Project: tenant, Filter: filter}); tenant == "shop" {
			served <- err
		}
	}))
	return served
}

// A Mount is one way to put the handler into an app.
type Mount struct {
	Name   string
	Use    func(app *fiber.App, h fiber.Handler)
	Before string // the path before the project
	After  string // and after it
}

// Mounts are the ways that the handler allows.
var Mounts = []Mount{
	{"app.Use", func(app *fiber.App, h fiber.Handler) { app.Use(h) }, "/stream/projects/", ""},
	{"app.Use with a prefix", func(app *fiber.App, h fiber.Handler) { app.Use("/live", h) }, "/live/stream/projects/", ""},
	{"app.Use with a long prefix", func(app *fiber.App, h fiber.Handler) { app.Use("/a/b/c/", h) }, "/a/b/c/stream/projects/", ""},
	{"group.Use", func(app *fiber.App, h fiber.Handler) { app.Group("/api/v1").Use(h) }, "/api/v1/stream/projects/", ""},
	{"app.Group", func(app *fiber.App, h fiber.Handler) { app.Group("/api", h) }, "/api/stream/projects/", ""},
	{"nested groups", func(app *fiber.App, h fiber.Handler) {
		app.Group("/api").Group("/v1").Use("/live", h)
	}, "/api/v1/live/stream/projects/", ""},
	{"group with a parameter", func(app *fiber.App, h fiber.Handler) {
		app.Group("/tenants/:tenant").Use(h)
	}, "/tenants/a-much-longer-name/stream/projects/", ""},
	{"mounted app", func(app *fiber.App, h fiber.Handler) {
		sub := fiber.New()
		sub.Use(h)
		app.Mount("/sub", sub)
	}, "/sub/stream/projects/", ""},
	{"prefix on a mounted app", func(app *fiber.App, h fiber.Handler) {
		sub := fiber.New()
		sub.Use("/live", h)
		app.Mount("/sub", sub)
	}, "/sub/live/stream/projects/", ""},
	{"route", func(app *fiber.App, h fiber.Handler) { app.Get("/events/:project_id", h) }, "/events/", ""},
	{"route with a tail", func(app *fiber.App, h fiber.Handler) {
		app.Get("/projects/:project_id/events", h)
	}, "/projects/", "/events"},
	{"route in a group", func(app *fiber.App, h fiber.Handler) {
		app.Group("/tenants/:tenant").Get("/events/:project_id", h)
	}, "/tenants/acme/events/", ""},
	{"route on a mounted app", func(app *fiber.App, h fiber.Handler) {
		sub := fiber.New()
		sub.Get("/events/:project_id", h)
		app.Mount("/sub", sub)
	}, "/sub/events/", ""},
}
