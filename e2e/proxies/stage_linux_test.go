package proxies

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gorilla/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// patience is how long anything may take that has to happen.
const patience = 30 * time.Second

// stage is an app with streams, and a proxy in front of it.
type stage struct {
	*testing.T
	app   *fiber.App
	m     *mesherstream.Manager
	proxy *running
}

// behindEach runs a test behind each of the proxies.
func behindEach(t *testing.T, test func(t *testing.T, p *proxy)) {
	t.Parallel()
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.need(t)
			test(t, p)
		})
	}
}

// behind starts an app that knows its proxy, as docs/scaling.md says, and the proxy.
func behind(t *testing.T, p *proxy, v variant, opts ...mesherstream.Option) *stage {
	t.Helper()
	s := &stage{T: t, app: fiber.New(fiber.Config{
		DisableStartupMessage:   true,
		EnableTrustedProxyCheck: true,
		TrustedProxies:          []string{"127.0.0.1"},
		ProxyHeader:             fiber.HeaderXForwardedFor,
	})}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	m, err := mesherstream.NewManager(append([]mesherstream.Option{mesherstream.WithApp(s.app), mesherstream.WithLogger(quiet)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	s.m = m
	s.app.Use(m.Handler())
	s.app.Get("/seen", func(c *fiber.Ctx) error { return c.Send(c.Request().Header.Header()) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(streamtest.Serve(t, s.app, ln))
	s.proxy = p.start(t, ln.Addr().String(), v)
	return s
}

// dialer reaches the proxy from an address of the loopback network, 127.0.0.1 if it is empty.
func (s *stage) dialer(from string) func(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", s.proxy.addr())
	}
}

// get does a request over HTTP/2, and returns the answer and its body.
func (s *stage) get(from string, req *http.Request) (*http.Response, string) {
	s.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext:       s.dialer(from),
		TLSClientConfig:   &tls.Config{RootCAs: roots()},
		ForceAttemptHTTP2: true,
	}}
	defer client.CloseIdleConnections()
	answer, err := client.Do(req)
	if err != nil {
		s.Fatalf("%v\n%s", err, s.proxy.output)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.Fatal(err)
	}
	return answer, string(body)
}

// ask opens a stream of the project "shop" as a browser would. Of a handshake that was refused it returns the answer.
func (s *stage) ask(from string, header http.Header) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{
		NetDialContext:   s.dialer(from),
		TLSClientConfig:  &tls.Config{RootCAs: roots()},
		HandshakeTimeout: patience,
	}
	return d.DialContext(s.Context(), "wss://app.example.com:"+s.proxy.port+"/stream/projects/shop", header)
}

// open opens a stream as a page of the same origin does, and waits until it is known to the manager.
func (s *stage) open(protocols ...string) *websocket.Conn {
	s.Helper()
	before := s.m.Stats().Connects
	header := http.Header{"Origin": {s.proxy.origin()}}
	if len(protocols) > 0 {
		header["Sec-WebSocket-Protocol"] = protocols
	}
	ws, answer, err := s.ask("", header)
	if err != nil {
		s.Fatalf("a stream: %v (%s)\n%s", err, said(answer), s.proxy.output)
	}
	s.Cleanup(func() { _ = ws.Close() })
	s.eventually("the manager knows the stream", func() bool { return s.m.Stats().Connects == before+1 })
	return ws
}

// said describes the answer of a refused handshake.
func said(answer *http.Response) string {
	if answer == nil {
		return "no answer"
	}
	body, _ := io.ReadAll(answer.Body)
	return fmt.Sprintf("%s: %s", answer.Status, body)
}

func (s *stage) broadcast(text string) {
	s.Helper()
	if err := s.m.Broadcast(mesherstream.Message{Project: "shop", Data: []byte(text)}); err != nil {
		s.Fatal(err)
	}
}

// wants reads one message.
func (s *stage) wants(ws *websocket.Conn, text string) {
	s.Helper()
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	if _, got, err := ws.ReadMessage(); err != nil || string(got) != text {
		s.Fatalf("got %q, %v, want %q\n%s", got, err, text, s.proxy.output)
	}
}

// end reads until the stream ends, and returns its close code, 1006 if there was none.
func (s *stage) end(ws *websocket.Conn) int {
	s.Helper()
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			if e, ok := err.(*websocket.CloseError); ok {
				return e.Code
			}
			if e, ok := err.(net.Error); ok && e.Timeout() {
				s.Fatalf("the stream doesn't end\n%s", s.proxy.output)
			}
			return websocket.CloseAbnormalClosure
		}
	}
}

func (s *stage) eventually(what string, condition func() bool) {
	s.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			s.Fatalf("never: %s; %+v\n%s", what, s.m.Stats(), s.proxy.output)
		}
		time.Sleep(time.Millisecond)
	}
}
