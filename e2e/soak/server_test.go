package soak

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
)

// server is one app and one manager, over all restarts.
type server struct {
	*testing.T
	app     *fiber.App
	m       *mesherstream.Manager
	ln      net.Listener
	addr    string
	ready   chan struct{}
	serving chan error
	listens int64

	starts                                atomic.Int64 // of the ticker, as the log tells
	connects, disconnects, slow, toldLost atomic.Uint64

	mu   sync.Mutex
	left map[string]mesherstream.Client // the last snapshot of each viewer of this run, by its token
}

func newServer(t *testing.T) *server {
	s := &server{T: t, left: make(map[string]mesherstream.Client)}
	s.app = fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := mesherstream.NewManager(
		mesherstream.WithApp(s.app),
		mesherstream.WithLogger(slog.New(logs{s})),
		mesherstream.WithMaxBuffer(50),           // less than a burst
		mesherstream.WithHistoryAge(time.Second), // so that it is empty at rest
		mesherstream.WithShutdownTimeout(15*time.Second),
		mesherstream.WithPingInterval(500*time.Millisecond),
		mesherstream.WithIdleTimeout(30*time.Second),
		mesherstream.WithHooks(mesherstream.Hooks{
			Connect: func(mesherstream.Client) { s.connects.Add(1) },
			Disconnect: func(c mesherstream.Client, _ int, _ string) {
				s.disconnects.Add(1)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.left[tokenOf(c)] = c
			},
			Slow: func(mesherstream.Client) { s.slow.Add(1) },
			Drop: func(_ mesherstream.Client, n uint64) { s.toldLost.Add(n) },
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	s.m = m
	s.app.Use(m.Handler())
	s.app.Hooks().OnListen(func(fiber.ListenData) error { close(s.ready); return nil })
	return s
}

// tokenOf tells which viewer c is: each has an environment of its own in its filter.
func tokenOf(c mesherstream.Client) string {
	for _, v := range c.Environments {
		if token, ok := strings.CutPrefix(v, "viewer-"); ok {
			return token
		}
	}
	return ""
}

func (s *server) listen() {
	s.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	s.ln, s.addr = ln, ln.Addr().String()
	s.ready = make(chan struct{})
	s.serving = make(chan error, 1)
	s.listens++
	go func() { s.serving <- s.app.Listener(&mixedListener{Listener: ln}) }()
	<-s.ready
	// The line in the log comes from a goroutine of its own.
	for end := time.Now().Add(20 * time.Second); s.starts.Load() < s.listens && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := s.starts.Load(); got != s.listens {
		s.Errorf("the ticker has started %d times in %d listens", got, s.listens)
	}
}

func (s *server) shutdown() {
	s.Helper()
	if err := s.app.ShutdownWithTimeout(20 * time.Second); err != nil {
		s.Errorf("app.Shutdown: %v", err)
	}
	_ = s.ln.Close() // fasthttp forgets a shutdown that comes before it has the listener
	if err := <-s.serving; err != nil {
		s.Errorf("app.Listener: %v", err)
	}
}

// mixedListener makes every second connection one that is no socket to look at, so that both links are used.
type mixedListener struct {
	net.Listener
	accepted int
}

func (l *mixedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if l.accepted++; err == nil && l.accepted%2 == 0 {
		return struct{ net.Conn }{conn}, nil
	}
	return conn, err
}

var filler = strings.Repeat("x", 4<<10)

// projects and levels are what messages and viewers have.
var (
	projects = []string{"shop", "blog"}
	levels   = []string{"error", "info"}
)

// publish broadcasts numbered messages, and a burst of them now and then.
func (s *server) publish(quit <-chan struct{}) {
	tick := time.NewTicker(*pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%200 >= 100 { // the burst
			select {
			case <-quit:
				return
			default:
			}
		} else {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
		}
		msg := mesherstream.Message{
			Project: projects[n/2%2], Level: levels[n%2], Environment: "production",
			Data: fmt.Appendf(nil, "%d %s %s %s", n, projects[n/2%2], levels[n%2], filler),
		}
		if n%10 == 0 {
			msg.Level, msg.Environment = "", "" // a notice, which no filter holds back
			msg.Data = fmt.Appendf(nil, "%d %s notice", n, msg.Project)
		}
		if err := s.m.Broadcast(msg); err != nil && !errors.Is(err, mesherstream.ErrClosed) {
			s.Errorf("Broadcast(%d): %v", n, err)
		}
	}
}

// buffer puts a message into the buffer of each client, whoever is there.
func (s *server) buffer(quit <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
		}
		for c := range s.m.Clients() {
			err := s.m.BufferMessage(c.ID, []byte("for you alone"))
			if err != nil && !errors.Is(err, mesherstream.ErrUnknownClient) && !errors.Is(err, mesherstream.ErrClosed) {
				s.Errorf("BufferMessage(%d): %v", c.ID, err)
			}
		}
	}
}

// checkAccounts checks the books of a manager that has been shut down.
func (s *server) checkAccounts() {
	s.Helper()
	got := s.m.Stats()
	if got.Clients != 0 || got.Slow != 0 || got.Buffered != 0 || got.BufferedBytes != 0 {
		s.Errorf("at rest: got %+v, want no client and nothing buffered", got)
	}
	if got.Sent+got.Dropped+got.Abandoned+got.Filtered+got.Conflated != got.Offered {
		s.Errorf("at rest: all that became of them = %d, want Offered = %d: %+v", got.Sent+got.Dropped+got.Abandoned+got.Filtered+got.Conflated, got.Offered, got)
	}
	if got.Connects != got.Disconnects || s.connects.Load() != got.Connects || s.disconnects.Load() != got.Disconnects {
		s.Errorf("hooks: %d clients came and %d left, want as in %+v", s.connects.Load(), s.disconnects.Load(), got)
	}
	if told := s.toldLost.Load(); told != got.Dropped {
		s.Errorf("hooks: Drop told of %d messages, want Dropped = %d", told, got.Dropped)
	}
	if got.HookPanics != 0 {
		s.Errorf("hooks: %d panics", got.HookPanics)
	}
}

// logs is the log handler: it counts the starts of the ticker, and nothing worse may be logged.
type logs struct{ s *server }

func (h logs) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (h logs) WithAttrs([]slog.Attr) slog.Handler               { return h }
func (h logs) WithGroup(string) slog.Handler                    { return h }

func (h logs) Handle(_ context.Context, r slog.Record) error {
	switch {
	case strings.Contains(r.Message, "connections hide their sockets"): // half of them do: see mixedListener
	case r.Level > slog.LevelInfo:
		h.s.Errorf("logged: %v %s", r.Level, r.Message)
	case strings.Contains(r.Message, "drain ticker started"):
		h.s.starts.Add(1)
	}
	return nil
}
