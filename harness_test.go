package mesherstream

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream/internal/wsframe"
	"github.com/valyala/fasthttp"
)

func TestMain(m *testing.M) {
	// Starts fasthttp's process-wide clock outside of every synctest bubble, none of which could end otherwise.
	var h fasthttp.ResponseHeader
	_ = h.Header()

	code := m.Run()
	if code == 0 && leaked() {
		code = 1
	}
	os.Exit(code)
}

// leaked reports goroutines of this package that outlive all tests.
func leaked() bool {
	var stacks bytes.Buffer
	for range 200 {
		stacks.Reset()
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		if !strings.Contains(stacks.String(), "mesherstream.(*") && !strings.Contains(stacks.String(), "link.(*") {
			return false
		}
		time.Sleep(10 * time.Millisecond) // they may be on their way out
	}
	fmt.Fprintf(os.Stderr, "goroutines leaked:\n%s", &stacks)
	return true
}

// running says whether a goroutine is in the function of that name.
func running(name string) bool {
	var stacks bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	return strings.Contains(stacks.String(), name)
}

// overTransports runs a scenario over every transport, and checks the accounts and the shutdown after it.
func overTransports(t *testing.T, scenario func(w *world)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			if tr.bubble {
				synctest.Test(t, func(t *testing.T) { (&world{T: t, transport: tr}).play(scenario) })
				return
			}
			t.Parallel()
			(&world{T: t, transport: tr}).play(scenario)
		})
	}
}

// world is an app with a manager, and the viewers that watch it.
type world struct {
	*testing.T
	transport transport

	app     *fiber.App
	m       *Manager
	started time.Time
	logs    logBuffer
	dial    func(network, addr string) (net.Conn, error)
	ln      net.Listener
	serving chan error
	viewers []*viewer
}

func (w *world) play(scenario func(w *world)) {
	defer func() {
		if w.m == nil {
			return
		}
		w.checkAccounts()
		for _, v := range w.viewers {
			v.close()
		}
		w.stop()
		w.checkAccounts()
		if s := w.m.Stats(); s.Clients != 0 || s.Buffered != 0 || s.Slow != 0 || s.Connects != s.Disconnects {
			w.Errorf("Stats() after shutdown: got %+v, want no client and nothing buffered", s)
		}
		if w.transport.bubble {
			time.Sleep(11 * time.Second) // fasthttp's worker pool looks every ten seconds whether it may end
		}
	}()
	scenario(w)
}

// start builds the app and listens.
func (w *world) start(opts ...Option) {
	w.Helper()
	w.app = fiber.New(fiber.Config{DisableStartupMessage: true})
	opts = append([]Option{WithApp(w.app), WithLogger(slog.New(slog.NewTextHandler(&w.logs, nil)))}, opts...)
	m, err := NewManager(opts...)
	if err != nil {
		w.Fatalf("NewManager: %v", err)
	}
	w.m = m
	w.app.Use(m.Handler())
	w.listen()
}

// listen serves until stop.
func (w *world) listen() {
	w.Helper()
	ln, dial := w.transport.listen(w.T)
	w.ln, w.dial = ln, dial
	listening := make(chan struct{})
	w.app.Hooks().OnListen(func(fiber.ListenData) error {
		select {
		case <-listening:
		default:
			w.started = time.Now()
			close(listening)
		}
		return nil
	})
	w.serving = make(chan error, 1)
	go func() { w.serving <- w.app.Listener(ln) }()
	<-listening
}

func (w *world) stop() {
	w.Helper()
	if w.serving == nil {
		return
	}
	if err := w.app.ShutdownWithTimeout(5 * time.Second); err != nil {
		w.Errorf("app.Shutdown: %v", err)
	}
	_ = w.ln.Close() // fasthttp forgets a shutdown that comes before it has the listener
	if err := <-w.serving; err != nil {
		w.Errorf("app.Listener: %v", err)
	}
	w.serving = nil
}

// checkAccounts checks that nothing was lost without being counted.
func (w *world) checkAccounts() {
	w.Helper()
	s := w.m.Stats()
	if got := s.Sent + s.Dropped + s.Abandoned + s.Filtered + s.Conflated + uint64(s.Buffered); got != s.Offered {
		w.Errorf("accounts: Sent+Dropped+Abandoned+Filtered+Conflated+Buffered = %d, want Offered = %d: %+v", got, s.Offered, s)
	}
	if s.Buffered < 0 || s.BufferedBytes < 0 || s.Slow < 0 || s.Clients < 0 {
		w.Errorf("accounts: a gauge is negative: %+v", s)
	}
	for c := range w.m.Clients() {
		if got := c.Sent + c.Dropped + c.Abandoned + c.Filtered + c.Conflated + uint64(c.Buffered); got != c.Offered {
			w.Errorf("accounts of a client: Sent+Dropped+Abandoned+Filtered+Conflated+Buffered = %d, want Offered = %d: %+v", got, c.Offered, c)
		}
	}
}

func (w *world) eventually(what string, cond func() bool) {
	w.Helper()
	eventually(w.T, w.m, what, cond)
}

// eventually waits for a condition. In a bubble, its time is fake.
func eventually(t testing.TB, m *Manager, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s; %+v", what, m.Stats())
		}
		time.Sleep(time.Millisecond)
	}
}

// client returns a viewer's snapshot.
func (w *world) client(v *viewer) Client {
	w.Helper()
	c, ok := w.m.Client(v.id)
	if !ok {
		w.Fatalf("Client(%d): got none", v.id)
	}
	return c
}

// broadcast publishes messages of project "shop" that begin with the numbers from first to end-1. They are large enough
// for a few hundred to overflow the kernel's buffers, and are held back for the viewers that are meant to lose none.
func (w *world) broadcast(first, end int, healthy ...*viewer) {
	w.Helper()
	for i := first; i < end; i++ {
		data := fmt.Appendf(nil, "%d %s", i, filler)
		if err := w.m.Broadcast(Message{Project: "shop", Level: "error", Environment: "production", Data: data}); err != nil {
			w.Fatalf("Broadcast(%d): %v", i, err)
		}
		if i%min(20, w.m.cfg.maxBuffer) == 0 {
			for _, v := range healthy {
				w.eventually("a healthy viewer has taken all", func() bool { return w.client(v).Buffered == 0 })
			}
		}
	}
}

var filler = strings.Repeat("x", 4<<10)

// viewer is a client, which reads only when it is told to.
type viewer struct {
	w    *world
	ws   *websocket.Conn
	id   ClientID
	done chan struct{} // closed when collect has ended

	mu       sync.Mutex
	messages []string
	err      error
}

// connect adds a viewer at a path such as "shop?level=error", which may offer subprotocols.
func (w *world) connect(path string, subprotocols ...string) *viewer {
	w.Helper()
	before := w.m.Stats().Connects
	d := websocket.Dialer{NetDial: w.dial, HandshakeTimeout: 10 * time.Second, ReadBufferSize: 1 << 10, Subprotocols: subprotocols}
	ws, resp, err := d.Dial("ws://app.test/stream/projects/"+path, nil)
	if err != nil {
		w.Fatalf("connect(%q): %v, response %v", path, err, resp)
	}
	v := &viewer{w: w, ws: ws}
	w.viewers = append(w.viewers, v)
	w.eventually("connected", func() bool { return w.m.Stats().Connects > before })
	v.id = ClientID(w.m.lastID.Load())
	return v
}

// next returns the next message.
func (v *viewer) next() string {
	v.w.Helper()
	_ = v.ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, data, err := v.ws.ReadMessage()
	if err != nil {
		v.w.Fatalf("read of viewer %d: %v", v.id, err)
	}
	return string(data)
}

// wsframe.CloseError reads until the connection ends and returns what ended it, after the messages it still got.
func (v *viewer) closeError() (messages []string, err error) {
	_ = v.ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, data, err := v.ws.ReadMessage()
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(data))
	}
}

// collect reads from now on, on a goroutine of its own.
func (v *viewer) collect() *viewer {
	v.done = make(chan struct{})
	_ = v.ws.SetReadDeadline(time.Time{})
	go func() {
		defer close(v.done)
		for {
			_, data, err := v.ws.ReadMessage()
			v.mu.Lock()
			if err != nil {
				v.err = err
				v.mu.Unlock()
				return
			}
			v.messages = append(v.messages, string(data))
			v.mu.Unlock()
		}
	}()
	return v
}

func (v *viewer) collected() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.messages
}

// numbers returns the numbers that the collected messages begin with.
func (v *viewer) numbers() []int {
	v.w.Helper()
	var list []int
	for _, m := range v.collected() {
		var n int
		if _, err := fmt.Sscan(m, &n); err != nil {
			v.w.Fatalf("viewer %d got %.40q, want a number", v.id, m)
		}
		list = append(list, n)
	}
	return list
}

func (v *viewer) send(text string) {
	v.w.Helper()
	if err := v.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		v.w.Fatalf("send of viewer %d: %v", v.id, err)
	}
}

func (v *viewer) close() {
	_ = v.ws.Close()
	if v.done != nil {
		<-v.done
	}
}

// logBuffer keeps what is logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) count(s string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.buf.String(), s)
}

// appendMasked appends a frame as a client sends it.
func appendMasked(dst []byte, op byte, payload []byte) []byte {
	start := len(dst)
	dst = wsframe.Append(dst, op, nil)
	dst[start+1] = 0x80 | byte(len(payload))
	mask := [4]byte{1, 2, 3, 4}
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}
