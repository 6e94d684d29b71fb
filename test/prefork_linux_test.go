package test

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// Fiber ends a Prefork child half a second after its master, and before that the child sends nothing. Only a child that
// receives the signal itself closes its clients. docs/scaling.md says what to do.
func TestPreforkEndsStreamsWith1001OnlyIfItsChildrenGetTheSignal(t *testing.T) {
	if addr := os.Getenv("MESHERSTREAM_PREFORK"); addr != "" {
		prefork(t, addr)
		return
	}
	for _, tt := range []struct {
		name  string
		group bool
		code  int
	}{
		{"the master alone", false, websocket.CloseAbnormalClosure},
		{"the whole group", true, websocket.CloseGoingAway},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := "127.0.0.1:" + streamtest.FreePort(t)
			master := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPreforkEndsStreams", "-test.timeout=60s")
			master.Env = append(os.Environ(), "MESHERSTREAM_PREFORK="+addr, "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0")
			if tt.group {
				master.Env = append(master.Env, "MESHERSTREAM_PREFORK_STAYS=1")
			}
			master.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := master.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = syscall.Kill(-master.Process.Pid, syscall.SIGKILL)
				_ = master.Wait()
			}()

			var ws *websocket.Conn
			for deadline := time.Now().Add(30 * time.Second); ws == nil; {
				var err error
				if ws, _, err = websocket.DefaultDialer.Dial("ws://"+addr+"/stream/projects/shop", nil); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("no child listens: %v", err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			defer func() { _ = ws.Close() }()
			to := master.Process.Pid
			if tt.group {
				to = -to
			}
			if err := syscall.Kill(to, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, _, err := ws.ReadMessage()
			if got := closeCodeOf(err); got != tt.code {
				t.Errorf("the client: got %v (code %d), want code %d", err, got, tt.code)
			}
		})
	}
}

// closeCodeOf returns the code with which a connection ended, and 1006 if it ended without one.
func closeCodeOf(err error) int {
	if closed, ok := err.(*websocket.CloseError); ok {
		return closed.Code
	}
	if streamtest.IsTimeout(err) {
		return 0
	}
	return websocket.CloseAbnormalClosure
}

// prefork is the process under test: the master or one of its children. A process that has closed its clients waits to
// be killed: as soon as one child ends, the master ends too, and kills the others.
func prefork(t *testing.T, addr string) {
	app := streamtest.QuietApp(fiber.Config{Prefork: true})
	app.Use(streamtest.NewTestManager(t, mesherstream.WithApp(app)).Handler())
	if fiber.IsChild() {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM)
		go func() {
			<-asked
			if err := app.ShutdownWithTimeout(5 * time.Second); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		}()
	} else if os.Getenv("MESHERSTREAM_PREFORK_STAYS") != "" {
		signal.Ignore(syscall.SIGTERM)
	}
	if err := app.Listen(addr); err != nil {
		t.Errorf("Listen: %v", err)
	}
	if fiber.IsChild() {
		<-t.Context().Done() // never, since the test doesn't end
	}
}
