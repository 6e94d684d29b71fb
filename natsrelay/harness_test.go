package natsrelay

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func TestMain(m *testing.M) { streamtest.Main(m, removeBinary, "natsrelay.(*") }

// embedded starts a NATS server in this process, without a listener.
func embedded(tb testing.TB) *server.Server {
	tb.Helper()
	ns, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		tb.Fatal(err)
	}
	ns.Start()
	if !ns.ReadyForConnections(20 * time.Second) {
		tb.Fatal("the embedded NATS server doesn't start")
	}
	tb.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	return ns
}

// inProcess connects to the embedded server.
func inProcess(tb testing.TB, ns *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	return connect(tb, "", append([]nats.Option{nats.InProcessServer(ns)}, opts...)...)
}

// connect connects like an app that never gives up on NATS, but retries faster.
func connect(tb testing.TB, url string, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	conn, err := nats.Connect(url, append([]nats.Option{
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(10*time.Millisecond, 10*time.Millisecond), nats.DontRandomize(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conn.Close)
	return conn
}

// node is an app with a manager, on a port of its own.
type node struct {
	testing.TB
	m    *mesherstream.Manager
	addr string
	logs streamtest.LogBuffer
	stop func() // shuts the app down; further calls do nothing
}

func newNode(tb testing.TB, relay mesherstream.Relay, opts ...mesherstream.Option) *node {
	tb.Helper()
	n := &node{TB: tb}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	opts = append([]mesherstream.Option{
		mesherstream.WithApp(app), mesherstream.WithMaxBuffer(100_000), mesherstream.WithMaxBufferBytes(64 << 20),
		mesherstream.WithLogger(slog.New(slog.NewTextHandler(&n.logs, nil))),
	}, opts...)
	if relay != nil {
		opts = append(opts, mesherstream.WithRelay(relay))
	}
	m, err := mesherstream.NewManager(opts...)
	if err != nil {
		tb.Fatal(err)
	}
	n.m = m
	app.Use(m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n.addr = ln.Addr().String()
	n.stop = streamtest.Serve(tb, app, ln)
	tb.Cleanup(n.stop)
	return n
}

func TestANodeThatIsShutDownAsItBeginsToListenEnds(t *testing.T) {
	for range 50 {
		newNode(t, nil).stop()
	}
}

// broadcast publishes to the project "shop".
func (n *node) broadcast(text string) {
	n.Helper()
	if err := n.m.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Environment: "production", Data: []byte(text)}); err != nil {
		n.Fatalf("Broadcast(%q): %v", text, err)
	}
}

func (n *node) eventually(what string, cond func() bool) {
	n.Helper()
	eventually(n.TB, what, cond, func() any { return n.m.Stats() })
}

func eventually(tb testing.TB, what string, cond func() bool, state func() any) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			tb.Fatalf("still not: %s; %+v", what, state())
		}
		time.Sleep(time.Millisecond)
	}
}

// viewer is a client that collects the messages it receives.
type viewer struct {
	n    *node
	ws   *websocket.Conn
	done chan struct{} // closed when it no longer reads

	mu  sync.Mutex
	got []string
}

// watch connects a client at a path such as "shop?level=error". When it returns, the client has received its
// filters_updated.
func (n *node) watch(path string) *viewer {
	n.Helper()
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+n.addr+"/stream/projects/"+path, nil)
	if err != nil {
		n.Fatalf("watch(%q): %v", path, err)
	}
	v := &viewer{n: n, ws: ws, done: make(chan struct{})}
	if err := ws.WriteMessage(websocket.TextMessage, []byte(subscribeTo(path))); err != nil {
		n.Fatal(err)
	}
	begun := make(chan struct{})
	go v.read(sync.OnceFunc(func() { close(begun) }))
	n.Cleanup(v.close)
	select {
	case <-begun:
	case <-v.done:
		n.Fatalf("watch(%q): the connection ended", path)
	case <-time.After(20 * time.Second):
		n.Fatalf("watch(%q): no filters_updated", path)
	}
	return v
}

// subscribeTo requests the filter in the path.
func subscribeTo(path string) string {
	_, query, _ := strings.Cut(path, "?")
	filters, err := url.ParseQuery(query)
	if err != nil {
		panic(err)
	}
	request, err := json.Marshal(map[string]any{"type": "subscribe", "filters": map[string]string{
		"level": filters.Get("level"), "environment": filters.Get("environment"),
	}})
	if err != nil {
		panic(err)
	}
	return string(request)
}

// read collects all messages except greetings and replies.
func (v *viewer) read(begun func()) {
	defer close(v.done)
	for {
		kind, data, err := v.ws.ReadMessage()
		if err != nil {
			return
		}
		text := string(data)
		switch {
		case strings.Contains(text, `"type":"filters_updated"`):
			begun()
			continue
		case strings.Contains(text, `"type":"hello"`):
			continue
		case kind == websocket.BinaryMessage:
			text = "binary " + text
		}
		v.mu.Lock()
		v.got = append(v.got, text)
		v.mu.Unlock()
	}
}

func (v *viewer) collected() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.got[:len(v.got):len(v.got)]
}

// wants waits until the viewer has received exactly the messages, in order.
func (v *viewer) wants(messages ...string) {
	v.n.Helper()
	eventually(v.n, fmt.Sprintf("a viewer has %d messages", len(messages)), func() bool { return len(v.collected()) >= len(messages) },
		func() any { return v.collected() })
	if got := v.collected(); strings.Join(got, "\n") != strings.Join(messages, "\n") {
		v.n.Errorf("a viewer got %q, want %q", got, messages)
	}
}

func (v *viewer) has(text string) bool {
	return slices.Contains(v.collected(), text)
}

func (v *viewer) close() {
	_ = v.ws.Close()
	<-v.done
}
