package mesherstream

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// upgrade is the header of a handshake.
var upgrade = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}

// ask has app answer one request without a socket: a handshake that is accepted answers 101, and no client comes of it.
func ask(t *testing.T, app *fiber.App, method, target string, header ...string) (status int, body string) {
	t.Helper()
	if !slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Host:") }) {
		header = append([]string{"Host: app.test"}, header...)
	}
	raw := method + " " + target + " HTTP/1.1\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n"
	status, body = askRaw(app, raw)
	if status == 0 {
		t.Fatalf("%q has not reached the app", raw)
	}
	return status, body
}

// askRaw has app answer the bytes of a request, and returns 0 if it is none.
func askRaw(app *fiber.App, raw string) (status int, body string) {
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

// requestConn is a connection from which there is something to read.
type requestConn struct {
	net.Conn
	io.Reader
}

func (c *requestConn) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c *requestConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *requestConn) Close() error                { return nil }
func (c *requestConn) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 80} }

func (c *requestConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }
func (c *requestConn) SetDeadline(time.Time) error      { return nil }
func (c *requestConn) SetReadDeadline(time.Time) error  { return nil }
func (c *requestConn) SetWriteDeadline(time.Time) error { return nil }

// site is an app of the test's own making that listens.
type site struct {
	*testing.T
	app *fiber.App
	m   *Manager
	net func(network, addr string) (net.Conn, error)
}

// sockets are the transports whose bytes pass through a kernel.
func sockets() []transport {
	return slices.DeleteFunc(slices.Clone(transports), func(tr transport) bool { return tr.bubble })
}

func quietApp(config ...fiber.Config) *fiber.App {
	var c fiber.Config
	if len(config) > 0 {
		c = config[0]
	}
	c.DisableStartupMessage = true
	return fiber.New(c)
}

// newTestManager makes a manager that ends with the test.
func newTestManager(t *testing.T, opts ...Option) *Manager {
	t.Helper()
	m, err := NewManager(append([]Option{WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
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

// newSite has app listen until the end of the test.
func newSite(t *testing.T, app *fiber.App, m *Manager) *site {
	t.Helper()
	return newSiteOver(t, app, m, sockets()[0])
}

func newSiteOver(t *testing.T, app *fiber.App, m *Manager, tr transport) *site {
	t.Helper()
	ln, dial := tr.listen(t)
	listening := make(chan struct{})
	app.Hooks().OnListen(func(fiber.ListenData) error { close(listening); return nil })
	served := make(chan error, 1)
	go func() { served <- app.Listener(ln) }()
	<-listening
	t.Cleanup(func() {
		if err := app.ShutdownWithTimeout(5 * time.Second); err != nil {
			t.Errorf("app.Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("app.Listener: %v", err)
		}
	})
	return &site{t, app, m, dial}
}

// dial asks for a stream. header holds lines such as "Origin: null".
func (s *site) dial(target string, header ...string) (*websocket.Conn, *http.Response, error) {
	s.Helper()
	h := http.Header{}
	for _, line := range header {
		key, value, _ := strings.Cut(line, ": ")
		h.Add(key, value)
	}
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second, NetDial: s.net}
	ws, resp, err := d.Dial("ws://app.test"+target, h)
	if err == nil {
		s.Cleanup(func() { _ = ws.Close() })
	}
	return ws, resp, err
}

// connect adds a client, and returns it when the manager knows it.
func (s *site) connect(target string, header ...string) (*websocket.Conn, ClientID) {
	s.Helper()
	before := s.m.Stats().Connects
	ws, resp, err := s.dial(target, header...)
	if err != nil {
		s.Fatalf("dial %s: %v, response %v", target, err, resp)
	}
	s.eventually("connected", func() bool { return s.m.Stats().Connects > before })
	return ws, ClientID(s.m.lastID.Load())
}

func (s *site) eventually(what string, cond func() bool) {
	s.Helper()
	eventually(s.T, s.m, what, cond)
}

func (s *site) publish(msg Message) {
	s.Helper()
	if err := s.m.Broadcast(msg); err != nil {
		s.Fatalf("Broadcast(%+v): %v", msg, err)
	}
}

// gets checks the next message of a client.
func (s *site) gets(ws *websocket.Conn, want string) {
	s.Helper()
	_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, data, err := ws.ReadMessage(); err != nil || string(data) != want {
		s.Fatalf("next message: got %q, %v, want %q", data, err, want)
	}
}

// A mount is one way to put the handler into an app.
type mount struct {
	name   string
	mount  func(app *fiber.App, h fiber.Handler)
	before string // the path in front of the project
	after  string // and behind it
}

var mounts = []mount{
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

func TestEveryMountStreamsToItsClients(t *testing.T) {
	for _, mt := range mounts {
		t.Run(mt.name, func(t *testing.T) {
			t.Parallel()
			app := quietApp()
			m := newTestManager(t, WithApp(app))
			mt.mount(app, m.Handler())
			s := newSite(t, app, m)
			ws, id := s.connect(mt.before + "shop%201" + mt.after + "?level=error")
			if c, ok := m.Client(id); !ok || c.Project != "shop 1" || !slices.Equal(c.Levels, []string{"error"}) {
				t.Errorf("Client(%d): got %+v, %v, want project %q, level error", id, c, ok, "shop 1")
			}
			s.publish(Message{Project: "shop", Data: []byte("not for it")})
			s.publish(Message{Project: "shop 1", Level: "info", Data: []byte("nor this")})
			s.publish(Message{Project: "shop 1", Level: "error", Data: []byte("hello")})
			s.gets(ws, "hello")
		})
	}
}

func TestEveryMountFindsTheProjectUnderEveryRouterConfig(t *testing.T) {
	configs := map[string]fiber.Config{
		"default":       {},
		"CaseSensitive": {CaseSensitive: true},
		"UnescapePath":  {UnescapePath: true},
		"StrictRouting": {StrictRouting: true},
		"Immutable":     {Immutable: true},
	}
	for name, config := range configs {
		for _, mt := range mounts {
			t.Run(name+"/"+mt.name, func(t *testing.T) {
				app := quietApp(config)
				var project string
				m := newTestManager(t, WithAuthorize(func(_ *fiber.Ctx, sub *Subscription) error {
					project = strings.Clone(sub.Project)
					return nil
				}))
				mt.mount(app, m.Handler())
				for _, want := range []string{"shop", "Shop 1", "süß", "a.b~c-d_e", "..", "100%", "a:b*c", strings.Repeat("x", 128)} {
					target := mt.before + url.PathEscape(want) + mt.after
					if status, body := ask(t, app, "GET", target, upgrade...); status != 101 || project != want {
						t.Errorf("GET %s: got %d %q and project %q, want 101 and %q", target, status, body, project, want)
					}
					if status, _ := ask(t, app, "GET", target); status != 426 {
						t.Errorf("GET %s without upgrade: got %d, want 426", target, status)
					}
				}
			})
		}
	}
}

func TestWithPathMovesTheStream(t *testing.T) {
	app := quietApp()
	app.Use("/live", newTestManager(t, WithPath("/ws")).Handler())
	for target, want := range map[string]int{"/live/ws/shop": 101, "/live/stream/projects/shop": 404, "/ws/shop": 404, "/live/wsx": 404} {
		if got, _ := ask(t, app, "GET", target, upgrade...); got != want {
			t.Errorf("GET %s: got %d, want %d", target, got, want)
		}
	}
}

func TestTheStreamPathAnswersWhatIsWrongWithARequest(t *testing.T) {
	const is = "/stream/projects/"
	for _, tt := range []struct {
		name, target string
		upgrade      bool
		want         int
	}{
		{"no upgrade", is + "shop", false, 426},
		{"upgrade", is + "shop", true, 101},
		{"no project", "/stream/projects", true, 400},
		{"empty project", is, true, 400},
		{"empty project without upgrade", is, false, 400},
		{"128 bytes", is + strings.Repeat("x", 128), true, 101},
		{"129 bytes", is + strings.Repeat("x", 129), true, 400},
		{"129 bytes of which each is encoded", is + strings.Repeat("%78", 129), true, 400},
		{"128 bytes of which each is encoded", is + strings.Repeat("%78", 128), true, 101},
		{"broken percent", is + "a%zzb", true, 400},
		{"percent at the end", is + "a%", true, 400},
		{"half a percent at the end", is + "a%2", true, 400},
		{"slash", is + "a/b", true, 400},
		{"slash at the end", is + "a/", true, 400},
		{"encoded slash", is + "a%2Fb", true, 400},
		{"encoded slash in lower case", is + "a%2fb", true, 400},
		{"nothing but a slash", is + "%2F", true, 400},
		{"NUL", is + "a%00b", true, 400},
		{"line feed", is + "a%0Ab", true, 400},
		{"DEL", is + "a%7Fb", true, 400},
		{"not UTF-8", is + "a%FFb", true, 400},
		{"twice encoded is decoded once", is + "a%252Fb", true, 101},
		{"upper case path", "/STREAM/Projects/shop", true, 101},
		{"too many values", is + "shop?level=" + strings.Repeat("a,", 16) + "b", true, 400},
		{"16 values", is + "shop?level=" + strings.Repeat("a,", 15) + "b", true, 101},
		{"value too long", is + "shop?environment=" + strings.Repeat("e", 65), true, 400},
		{"value of 64 bytes", is + "shop?environment=" + strings.Repeat("e", 64), true, 101},
		{"value that is not UTF-8", is + "shop?level=%FF", true, 400},
		{"a query that is none of ours", is + "shop?token=x&level=", true, 101},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := quietApp()
			app.Use(newTestManager(t).Handler())
			var header []string
			if tt.upgrade {
				header = upgrade
			}
			if got, body := ask(t, app, "GET", tt.target, header...); got != tt.want {
				t.Errorf("GET %s: got %d %q, want %d", tt.target, got, body, tt.want)
			}
		})
	}
}

func TestACaseSensitiveAppHasACaseSensitiveStreamPath(t *testing.T) {
	app := quietApp(fiber.Config{CaseSensitive: true})
	app.Use(newTestManager(t).Handler())
	if got, _ := ask(t, app, "GET", "/Stream/projects/shop", upgrade...); got != 404 {
		t.Errorf("GET /Stream/projects/shop: got %d, want 404", got)
	}
}

func TestUnescapePathStillRefusesSlashesAndControlCharacters(t *testing.T) {
	app := quietApp(fiber.Config{UnescapePath: true})
	app.Use(newTestManager(t).Handler())
	for target, want := range map[string]int{"a%2Fb": 400, "a%00b": 400, "%20": 101, "a%252Fb": 101, "%FF": 400, "a%zz": 400} {
		if got, body := ask(t, app, "GET", "/stream/projects/"+target, upgrade...); got != want {
			t.Errorf("GET %s: got %d %q, want %d", target, got, body, want)
		}
	}
}

func TestEverythingElseReachesTheNextHandlerWhichFindsTheManager(t *testing.T) {
	app := quietApp()
	m := newTestManager(t)
	app.Get("/before", func(c *fiber.Ctx) error {
		if got := From(c); got != nil {
			t.Errorf("From in front of the middleware: got %p, want nil", got)
		}
		return c.SendString("before")
	})
	app.Use(m.Handler())
	app.All("*", func(c *fiber.Ctx) error {
		if got := From(c); got != m {
			t.Errorf("%s %s: From: got %p, want %p", c.Method(), c.Path(), got, m)
		}
		return c.SendStatus(fiber.StatusTeapot)
	})
	for _, request := range []string{
		"GET /", "GET /other", "GET /stream", "GET /stream/projectsx", "GET /stream/projectsx/shop", "GET /stream/project/shop",
		"GET /x/stream/projects/shop", "GET //stream/projects/shop", "GET /stream//projects/shop", "GET /streams/projects/shop",
		"POST /stream/projects/shop", "OPTIONS /stream/projects/shop", "DELETE /stream/projects", "HEAD /stream",
		"POST /api/v1/events",
	} {
		method, target, _ := strings.Cut(request, " ")
		if got, _ := ask(t, app, method, target, upgrade...); got != fiber.StatusTeapot {
			t.Errorf("%s: got %d, want %d from the next handler", request, got, fiber.StatusTeapot)
		}
	}
	if got, body := ask(t, app, "GET", "/before"); got != 200 || body != "before" {
		t.Errorf("GET /before: got %d %q, want 200", got, body)
	}
}

func TestFromFindsTheManagerOfThePrefixItIsUnder(t *testing.T) {
	app := quietApp()
	a, b := newTestManager(t), newTestManager(t)
	app.Use("/a", a.Handler())
	app.Use("/b", b.Handler())
	app.Get("*", func(c *fiber.Ctx) error {
		want := map[string]*Manager{"/a/x": a, "/b/x": b}[c.Path()]
		if got := From(c); got != want {
			t.Errorf("From at %s: got %p, want %p", c.Path(), got, want)
		}
		return nil
	})
	for _, target := range []string{"/a/x", "/b/x", "/x"} {
		ask(t, app, "GET", target)
	}
}

// RFC 6455, section 4.4: who asks with another version is told which one there is.
func TestA426NamesTheProtocolAndItsVersion(t *testing.T) {
	app := quietApp()
	app.Use(newTestManager(t).Handler())
	for name, header := range map[string]map[string]string{
		"no upgrade":      {},
		"another version": {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "8", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
	} {
		req := httptest.NewRequest("GET", "/stream/projects/shop", nil)
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := app.Test(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		upgrade, version := resp.Header.Get("Upgrade"), resp.Header.Get("Sec-WebSocket-Version")
		if resp.StatusCode != 426 || upgrade != "websocket" || version != "13" {
			t.Errorf("%s: got %d, Upgrade %q, version %q, want 426, websocket and 13", name, resp.StatusCode, upgrade, version)
		}
	}
}
