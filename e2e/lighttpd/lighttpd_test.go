package lighttpd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

func TestAStreamThroughLighttpd(t *testing.T) {
	m, asked, proxy := stage(t)
	d := websocket.Dialer{HandshakeTimeout: 5 * time.Second, Subprotocols: []string{mesherstream.Protocol}}
	for round := range 3 { // one place would be gone after the first
		var ws *websocket.Conn
		var resp *http.Response
		var err error
		until(t, "a stream through lighttpd", func() bool {
			ws, resp, err = d.Dial("ws://"+proxy+"/stream/projects/shop", nil)
			return err == nil || resp != nil && resp.StatusCode < 500
		})
		if err != nil {
			t.Fatalf("round %d: dial: %v, %v, asked by\n%v", round, err, resp, asked.Load())
		}
		_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, data, err := ws.ReadMessage(); err != nil || !bytes.Contains(data, []byte(`"type":"hello"`)) {
			t.Fatalf("got %q, %v, want a hello", data, err)
		}
		if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("hello")}); err != nil {
			t.Fatal(err)
		}
		if _, data, err := ws.ReadMessage(); err != nil || string(data) != "hello" {
			t.Fatalf("got %q, %v, want the message", data, err)
		}
		_ = ws.Close()
		until(t, "it has left", func() bool { return m.Stats().Clients == 0 })
	}
	t.Logf("lighttpd asks by\n%v", asked.Load())
}

func TestEventsAndLinesThroughLighttpd(t *testing.T) {
	m, _, proxy := stage(t)
	for accept, line := range map[string]string{"text/event-stream": "data: %d", "application/x-ndjson": "%d"} {
		ctx, leave := context.WithTimeout(t.Context(), 20*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+proxy+"/stream/projects/shop", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		ended := make(chan error, 1)
		arrived := make(chan string)
		go func() {
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				defer resp.Body.Close()
				lines := bufio.NewScanner(resp.Body)
				for lines.Scan() {
					arrived <- lines.Text()
				}
				err = lines.Err()
			}
			ended <- err
		}()
		until(t, "a stream through lighttpd", func() bool { return m.Stats().Clients == 1 })
		for n := range 3 { // each is published when the one before it has arrived
			if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: fmt.Append(nil, n)}); err != nil {
				t.Fatal(err)
			}
			for got, want := "", fmt.Sprintf(line, n); got != want; {
				select {
				case got = <-arrived:
				case err := <-ended:
					t.Fatalf("%s: the stream has ended before %q: %v", accept, want, err)
				}
			}
		}
		leave()
		until(t, "it has left", func() bool { return m.Stats().Clients == 0 })
	}
}

// stage serves streams behind lighttpd, and keeps the head of the newest request.
func stage(t *testing.T) (m *mesherstream.Manager, asked *atomic.Value, proxy string) {
	t.Helper()
	program := "lighttpd"
	if _, err := exec.LookPath(program); err != nil && slices.Contains(filepath.SplitList(os.Getenv("PATH")), "/usr/bin") {
		program = "/usr/sbin/lighttpd" // the PATH of a user has no folder for administrators
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Skip("needs lighttpd: apt-get install lighttpd")
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithLogger(slog.New(slog.DiscardHandler)), mesherstream.WithMaxClients(1),
		mesherstream.WithPingInterval(time.Second)) // it notices with a heartbeat that a client has left
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Value)
	app.Use(func(c *fiber.Ctx) error {
		asked.Store(strings.Clone(c.Request().Header.String()))
		return c.Next()
	}, m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(streamtest.Serve(t, app, ln))
	proxy = run(t, program, ln.Addr().String())
	until(t, "lighttpd listens", func() bool {
		conn, err := net.Dial("tcp", proxy)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return m, asked, proxy
}

// run starts lighttpd in front of a server, and returns where it listens.
func run(t *testing.T, program, server string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		t.Fatal(err)
	}
	own := streamtest.FreePort(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "lighttpd.conf")
	text := fmt.Sprintf(`server.modules = ("mod_proxy")
server.document-root = %q
server.bind = "127.0.0.1"
server.port = %s
proxy.server = ("" => (("host" => %q, "port" => %s)))
proxy.header = ("upgrade" => "enable")
server.stream-response-body = 1
`, dir, own, host, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, program, "-D", "-f", config)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("lighttpd says\n%s", &said)
		}
	})
	return "127.0.0.1:" + own
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}
