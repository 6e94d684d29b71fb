package streamtest

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
	"github.com/mesher/mesherstream"
)

// OverTransports runs a scenario over every transport, and checks the accounts and the shutdown after it.
func OverTransports(t *testing.T, scenario func(w *World)) {
	for _, tr := range Transports {
		t.Run(tr.Name, func(t *testing.T) {
			if tr.Bubble {
				synctest.Test(t, func(t *testing.T) { (&World{T: t, Transport: tr}).Play(scenario) })
				return
			}
			t.Parallel()
			(&World{T: t, Transport: tr}).Play(scenario)
		})
	}
}

// InBubble runs a scenario whose times are exact.
func InBubble(t *testing.T, scenario func(w *World)) {
	synctest.Test(t, func(t *testing.T) {
		(&World{T: t, Transport: Transports[len(Transports)-1]}).Play(scenario)
	})
}

// World is an app with a manager, and the viewers that watch it.
type World struct {
	*testing.T
	Transport Transport

	App     *fiber.App
	M       *mesherstream.Manager
	Started time.Time
	Logs    LogBuffer
	Dial    func(network, addr string) (net.Conn, error)
	stop    func() // of the current listening; nil if there is none
	listens atomic.Int64
	viewers []*Viewer
	plains  []*Plain
	Mute    bool // viewers that connect from now on answer no ping
	Pace    int  // how many messages Broadcast sends before it waits for the healthy viewers; 20 unless set
}

func (w *World) Play(scenario func(w *World)) {
	defer func() {
		if w.M == nil {
			return
		}
		w.CheckAccounts()
		for _, v := range w.viewers {
			v.Close()
		}
		for _, p := range w.plains {
			p.Leave()
		}
		w.Stop()
		w.CheckAccounts()
		if s := w.M.Stats(); s.Clients != 0 || s.Buffered != 0 || s.Slow != 0 || s.Connects != s.Disconnects {
			w.Errorf("Stats() after shutdown: got %+v, want no client and nothing buffered", s)
		}
		if w.Transport.Bubble {
			time.Sleep(11 * time.Second) // fasthttp's worker pool checks every ten seconds whether it may end
		}
	}()
	scenario(w)
}

// Start builds the app and listens.
func (w *World) Start(opts ...mesherstream.Option) {
	w.Helper()
	w.App = fiber.New(fiber.Config{DisableStartupMessage: true})
	opts = append([]mesherstream.Option{mesherstream.WithApp(w.App), mesherstream.WithLogger(slog.New(slog.NewTextHandler(&w.Logs, nil)))}, opts...)
	m, err := mesherstream.NewManager(opts...)
	if err != nil {
		w.Fatalf("NewManager: %v", err)
	}
	w.M = m
	w.App.Use(m.Handler())
	w.Listen()
}

// Listen serves until stop.
func (w *World) Listen() {
	w.Helper()
	ln, dial := w.Transport.Listen(w.T)
	w.Dial = dial
	before := w.listens.Load()
	w.App.Hooks().OnListen(func(fiber.ListenData) error {
		if w.listens.Add(1) == before+1 {
			w.Started = time.Now()
		}
		return nil
	})
	w.stop = Serve(w.T, w.App, ln)
}

// ListenToo makes the app serve a second listener until stop.
func (w *World) ListenToo() {
	w.Helper()
	ln, _ := w.Transport.Listen(w.T)
	before := w.listens.Load()
	go func() { _ = w.App.Listener(ln) }()
	w.Eventually("the app listens twice", func() bool { return w.listens.Load() > before })
}

func (w *World) Stop() {
	w.Helper()
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// CheckAccounts checks that no message was lost without being counted.
func (w *World) CheckAccounts() {
	w.Helper()
	s := w.M.Stats()
	if got := s.Sent + s.Dropped + s.Abandoned + s.Filtered + s.Conflated + uint64(s.Buffered); got != s.Offered {
		w.Errorf("accounts: Sent+Dropped+Abandoned+Filtered+Conflated+Buffered = %d, want Offered = %d: %+v", got, s.Offered, s)
	}
	if s.Buffered < 0 || s.BufferedBytes < 0 || s.Slow < 0 || s.Clients < 0 {
		w.Errorf("accounts: a gauge is negative: %+v", s)
	}
	for c := range w.M.Clients() {
		if got := c.Sent + c.Dropped + c.Abandoned + c.Filtered + c.Conflated + uint64(c.Buffered); got != c.Offered {
			w.Errorf("accounts of a client: Sent+Dropped+Abandoned+Filtered+Conflated+Buffered = %d, want Offered = %d: %+v", got, c.Offered, c)
		}
	}
}

func (w *World) Eventually(what string, cond func() bool) {
	w.Helper()
	Eventually(w.T, w.M, what, cond)
}

// Eventually waits for a condition. In a bubble, it waits on the fake clock.
func Eventually(t testing.TB, m *mesherstream.Manager, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s; %+v", what, m.Stats())
		}
		time.Sleep(time.Millisecond)
	}
}

// Client returns a viewer's snapshot.
func (w *World) Client(v *Viewer) mesherstream.Client {
	w.Helper()
	c, ok := w.M.Client(v.ID)
	if !ok {
		w.Fatalf("Client(%d): got none", v.ID)
	}
	return c
}

// Broadcast publishes messages of project "shop" that begin with the numbers from first to end-1. They are so large
// that a few hundred of them overflow the kernel's buffers. Broadcast waits for the viewers that must lose none.
func (w *World) Broadcast(first, end int, healthy ...*Viewer) {
	w.Helper()
	for i := first; i < end; i++ {
		data := fmt.Appendf(nil, "%d %s", i, Filler)
		if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Environment: "production", Data: data}); err != nil {
			w.Fatalf("Broadcast(%d): %v", i, err)
		}
		if i%cmp.Or(w.Pace, 20) == 0 {
			for _, v := range healthy {
				w.Eventually("a healthy viewer has taken all", func() bool { return w.Client(v).Buffered == 0 })
			}
		}
	}
}

// Publish broadcasts a short message for project "shop".
func (w *World) Publish(text string) {
	w.Helper()
	if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Environment: "production", Data: []byte(text)}); err != nil {
		w.Fatalf("Broadcast(%q): %v", text, err)
	}
}

func (w *World) PublishAll(messages ...mesherstream.Message) {
	w.Helper()
	for _, m := range messages {
		m.Project = "shop"
		if err := w.M.Broadcast(m); err != nil {
			w.Fatal(err)
		}
	}
}

var Filler = strings.Repeat("x", 4<<10)
