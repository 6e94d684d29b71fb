package browser

import (
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/filesystem"
	"github.com/mesher/mesherstream"
)

//go:embed testdata
var testdata embed.FS

const token = "q7XK2M9A"

// site serves the page, the client and streams.
type site struct {
	*testing.T
	streams func(*site, *fiber.App)
	app     *fiber.App
	addr    string
	ln      net.Listener
	serving chan error

	peers chan *peer            // where a test says what is sent
	m     *mesherstream.Manager // where mesherstream does
	hold  chan struct{}         // closed to answer GET /hold
	haste chan struct{}         // closed to answer GET /rest at once

	mu    sync.Mutex
	conns []net.Conn // all that were accepted
}

func TestASiteThatIsShutDownAsItBeginsToListenEnds(t *testing.T) {
	for range 100 {
		serveWithoutBrowser(t, func(*site, *fiber.App) {}).shutdown()
	}
}

// newSite serves streams that say what a test wants.
func newSite(t *testing.T) *site {
	t.Helper()
	return serve(t, func(s *site, app *fiber.App) {
		app.Get("/stream/projects/mesherstream.js", func(c *fiber.Ctx) error {
			return c.SendFile(clientDir + "/mesherstream.js")
		})
		app.Get("/stream/projects/old", websocket.New(s.meet))
		app.Get("/stream/projects/:project", websocket.New(s.meet, websocket.Config{Subprotocols: []string{mesherstream.Protocol}}))
	})
}

// newService serves the streams of mesherstream, which has the client beside them.
func newService(t *testing.T, opts ...mesherstream.Option) *site {
	t.Helper()
	return serve(t, streamsOf(opts...))
}

// streamsOf makes a manager and mounts it.
func streamsOf(opts ...mesherstream.Option) func(*site, *fiber.App) {
	return func(s *site, app *fiber.App) {
		t := s.T
		logger := slog.New(slog.NewTextHandler(t.Output(), nil))
		m, err := mesherstream.NewManager(append(opts, mesherstream.WithApp(app), mesherstream.WithLogger(logger))...)
		if err != nil {
			t.Fatal(err)
		}
		s.m = m
		app.Use(m.Handler())
	}
}

// serve serves a site to a browser, and skips the test if there is none.
func serve(t *testing.T, streams func(*site, *fiber.App)) *site {
	t.Helper()
	needChromium(t)
	return serveWithoutBrowser(t, streams)
}

func serveWithoutBrowser(t *testing.T, streams func(*site, *fiber.App)) *site {
	t.Helper()
	s := &site{T: t, streams: streams, addr: "127.0.0.1:0", peers: make(chan *peer, 100), hold: make(chan struct{}), haste: make(chan struct{})}
	s.listen()
	t.Cleanup(func() {
		if s.serving != nil {
			s.shutdown()
		}
	})
	return s
}

// listen serves, after a shutdown on the same address.
func (s *site) listen() {
	s.Helper()
	s.app = fiber.New(fiber.Config{DisableStartupMessage: true})
	s.app.Use(func(c *fiber.Ctx) error {
		// The strictest policy that a page with a stream can have.
		c.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; connect-src 'self'; worker-src 'self'")
		return c.Next()
	})
	s.app.Get("/hold", func(c *fiber.Ctx) error {
		<-s.hold
		return c.SendStatus(fiber.StatusNoContent)
	})
	s.app.Get("/rest", func(c *fiber.Ctx) error { // a page that asks for it synchronously is blocked, and needs no processor for it
		select {
		case <-time.After(rest):
		case <-s.haste:
		}
		return c.SendStatus(fiber.StatusNoContent)
	})
	s.streams(s, s.app)
	s.app.Use("/", filesystem.New(filesystem.Config{Root: http.FS(testdata), PathPrefix: "testdata"}))

	ln, err := net.Listen("tcp4", s.addr)
	if err != nil {
		s.Fatal(err)
	}
	s.addr, s.ln = ln.Addr().String(), ln
	serving := make(chan error, 1)
	s.serving = serving
	listening := make(chan struct{})
	told := sync.OnceFunc(func() { close(listening) }) // a test may make the app listen again
	s.app.Hooks().OnListen(func(fiber.ListenData) error { told(); return nil })
	go func(app *fiber.App) { serving <- app.Listener(listener{ln, s}) }(s.app)
	<-listening // or an app that is shut down before would start its manager afterwards
}

// listener remembers what it accepts.
type listener struct {
	net.Listener
	site *site
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.site.mu.Lock()
		defer l.site.mu.Unlock()
		l.site.conns = append(l.site.conns, conn)
	}
	return conn, err
}

// shutdown ends the server, and cuts every connection: Fiber would wait for those that the browser keeps for later.
func (s *site) shutdown() {
	s.Helper()
	s.mu.Lock()
	for _, conn := range s.conns {
		_ = conn.Close() // it may have ended already
	}
	s.conns = nil
	s.mu.Unlock()
	if err := s.app.ShutdownWithTimeout(10 * time.Second); err != nil {
		s.Errorf("app.Shutdown: %v", err)
	}
	_ = s.ln.Close() // fasthttp forgets a shutdown that comes before it has the listener
	if err := <-s.serving; err != nil {
		s.Errorf("app.Listener: %v", err)
	}
	s.serving = nil
}

func (s *site) url() string { return "http://" + s.addr + "/" }

// peer is the server's end of one connection.
type peer struct {
	*testing.T
	conn               *websocket.Conn
	raw                net.Conn
	level, environment string        // of the query
	received           chan request  // after the acknowledgement of the hello
	gone               chan struct{} // closed when the connection has ended: then conn belongs to somebody else
}

func (p *peer) query() string { return "level=" + p.level + " environment=" + p.environment }

// request is what the client sends.
type request struct {
	Type    string              `json:"type"`
	N       int                 `json:"n"`
	Filters map[string][]string `json:"filters"`
}

// meet is the handler of a stream: it reads as long as the connection lasts.
func (s *site) meet(conn *websocket.Conn) {
	p := &peer{
		T:           s.T,
		conn:        conn,
		raw:         conn.NetConn().(interface{ UnsafeConn() net.Conn }).UnsafeConn(),
		level:       conn.Query("level"),
		environment: conn.Query("environment"),
		received:    make(chan request, 10_000),
		gone:        make(chan struct{}),
	}
	defer close(p.gone)
	s.peers <- p
	for greeted := false; ; {
		_, data, err := conn.ReadMessage()
		if err != nil {
			return
		}
		var r request
		if err := json.Unmarshal(data, &r); err != nil {
			s.Errorf("the client sent %q: %v", data, err)
			return
		}
		if greeted {
			p.received <- r
		} else if greeted = true; r.Type != "ack" || r.N != 1 {
			s.Errorf("the client's first request is %s, want an acknowledgement of the hello", data)
		}
	}
}

// accept takes the next connection.
func (s *site) accept() *peer {
	s.Helper()
	return take(s.T, s.peers, "a connection")
}

// take takes the next value of a channel, which must come.
func take[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatalf("%s didn't come in %v", what, patience)
		panic("unreachable")
	}
}

func (p *peer) send(kind int, data string) {
	p.Helper()
	if err := p.conn.WriteMessage(kind, []byte(data)); err != nil {
		p.Fatalf("write %q: %v", data, err)
	}
}

func (p *peer) text(data string) {
	p.Helper()
	p.send(websocket.TextMessage, data)
}

// hello begins the protocol, with a window of so many messages, and the filters that were asked for.
func (p *peer) hello(window int) {
	p.Helper()
	list := func(values string) []string {
		return strings.FieldsFunc(values, func(r rune) bool { return r == ',' })
	}
	inForce, err := json.Marshal(map[string][]string{"level": list(p.level), "environment": list(p.environment)})
	if err != nil {
		p.Fatal(err)
	}
	p.text(fmt.Sprintf(`{"type":"hello","stream":%q,"id":17,"project":"shop","filters":%s,"max_buffer":100,"window":%d}`,
		token, inForce, window))
}

// close ends the connection with a close frame, and waits for the client's.
func (p *peer) close(code int, reason string) {
	p.Helper()
	p.send(websocket.CloseMessage, string(websocket.FormatCloseMessage(code, reason)))
	take(p.T, p.gone, "the client's close frame")
}

// cut ends the connection without one.
func (p *peer) cut() {
	p.Helper()
	if err := p.raw.Close(); err != nil {
		p.Error(err)
	}
	take(p.T, p.gone, "the end of the connection")
}
