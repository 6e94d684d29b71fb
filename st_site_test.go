package mesherstream

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

func (c *requestConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c *requestConn) Write(p []byte) (int, error) { return len(p), nil }

func (c *requestConn) Close() error { return nil }

func (c *requestConn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 80} }

func (c *requestConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

func (c *requestConn) SetDeadline(time.Time) error { return nil }

func (c *requestConn) SetReadDeadline(time.Time) error { return nil }

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
		_ = ln.Close() // fasthttp forgets a shutdown that comes before it has the listener
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
	return ws, newest(s.m)
}

// hasRoom says whether n more clients find places, by letting them in for a moment.
func (s *site) hasRoom(target string, n int, header ...string) bool {
	s.Helper()
	for range n {
		ws, _, err := s.dial(target, header...)
		if err != nil {
			return false
		}
		defer func() { _ = ws.Close() }()
	}
	return true
}

// isEmpty says whether every client that has ever come is gone.
func (s *site) isEmpty() bool {
	st := s.m.Stats()
	return st.Clients == 0 && st.Connects == st.Disconnects
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

// handshake is the bytes of one. header may replace the Host.
func handshake(target string, header ...string) string {
	if len(header) == 0 || !strings.HasPrefix(header[0], "Host:") {
		header = append([]string{"Host: app.test"}, header...)
	}
	return "GET " + target + " HTTP/1.1\r\n" + strings.Join(append(header, upgrade...), "\r\n") + "\r\n\r\n"
}
