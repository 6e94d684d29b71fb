package clients

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"
)

// A keepingListener keeps what it has accepted.
type keepingListener struct {
	net.Listener
	accepted chan net.Conn
}

func (l keepingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- conn
	}
	return conn, err
}

// A client behind a listener for the PROXY protocol has the address that the header names, gets its stream, and has the
// limit of WithUnsentLimit on its socket.
func TestTheUnsentLimitReachesThroughAListenerForThePROXYProtocol(t *testing.T) {
	var mu sync.Mutex
	var logs bytes.Buffer
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithUnsentLimit(23456),
		mesherstream.WithLogger(slog.New(slog.NewTextHandler(lockedWriter{&mu, &logs}, nil))))
	if err != nil {
		t.Fatal(err)
	}
	app.Use(m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	defer streamtest.Serve(t, app, &proxyproto.Listener{Listener: keepingListener{ln, accepted}})()

	d := websocket.Dialer{HandshakeTimeout: patience, NetDial: func(network, addr string) (net.Conn, error) {
		conn, err := net.Dial(network, addr)
		if err != nil {
			return nil, err
		}
		_, err = fmt.Fprint(conn, "PROXY TCP4 203.0.113.7 192.0.2.1 51001 80\r\n")
		return conn, err
	}}
	ws, _, err := d.Dial("ws://"+ln.Addr().String()+"/stream/projects/shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":{}}`)); err != nil {
		t.Fatal(err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	if _, got, err := ws.ReadMessage(); err != nil || !strings.Contains(string(got), "filters_updated") {
		t.Fatalf("got %s, %v, want the answer to a request", got, err)
	}
	for c := range m.Clients() {
		if c.RemoteAddr != "203.0.113.7" {
			t.Errorf("RemoteAddr: got %s, want that of the header", c.RemoteAddr)
		}
	}
	limit := 0
	raw, err := (<-accepted).(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		limit, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	}); err != nil || limit != 23456 {
		t.Errorf("TCP_NOTSENT_LOWAT: got %d, %v, want 23456", limit, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(logs.String(), "hide their sockets") {
		t.Errorf("the log tells of a wrapper that hides nothing: %s", &logs)
	}
}

type lockedWriter struct {
	mu  *sync.Mutex
	buf *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}
