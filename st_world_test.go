package mesherstream

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"
)

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

// inBubble plays a scenario whose times are exact.
func inBubble(t *testing.T, scenario func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		(&world{T: t, transport: transports[len(transports)-1]}).play(scenario)
	})
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
	listens atomic.Int64
	viewers []*viewer
	pace    int // how many messages broadcast sends before it waits for the healthy; 20 unless set
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
		w.listens.Add(1)
		return nil
	})
	w.serving = make(chan error, 1)
	go func() { w.serving <- w.app.Listener(ln) }()
	<-listening
}

// listenToo has the app serve a second listener until stop.
func (w *world) listenToo() {
	w.Helper()
	ln, _ := w.transport.listen(w.T)
	before := w.listens.Load()
	go func() { _ = w.app.Listener(ln) }()
	w.eventually("the app listens twice", func() bool { return w.listens.Load() > before })
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
		if i%cmp.Or(w.pace, 20) == 0 {
			for _, v := range healthy {
				w.eventually("a healthy viewer has taken all", func() bool { return w.client(v).Buffered == 0 })
			}
		}
	}
}

// publish broadcasts a short message for project "shop".
func (w *world) publish(text string) {
	w.Helper()
	if err := w.m.Broadcast(Message{Project: "shop", Level: "error", Environment: "production", Data: []byte(text)}); err != nil {
		w.Fatalf("Broadcast(%q): %v", text, err)
	}
}

func (w *world) publishAll(messages ...Message) {
	w.Helper()
	for _, m := range messages {
		m.Project = "shop"
		if err := w.m.Broadcast(m); err != nil {
			w.Fatal(err)
		}
	}
}

var filler = strings.Repeat("x", 4<<10)
