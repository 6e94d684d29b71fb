package clients

import (
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mesher/mesherstream"
)

// curl runs curl with these arguments and the URL of a project's stream, as docs/http.md shows it.
func (w *world) curl(t *testing.T, project string, args ...string) *process {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl: apt-get install curl")
	}
	if w.transport.secure {
		args = append(args, "--cacert", identity().file)
	}
	return run(t, "curl", append(args, w.httpURL(project))...)
}

func TestCurlPrintsALineForEachMessage(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		t.Parallel()
		w := start(t, tr)
		c := w.curl(t, "shop?level=error,fatal", "-sSN")
		c.joins(w, "shop")
		want := []string{`{"n":1}`}
		w.tell(t, "shop", "error", `{"n":1}`)
		w.tell(t, "shop", "debug", `{"n":2}`)
		c.prints(want...) // before anything else is published
		w.tell(t, "shop", "fatal", "not JSON")
		w.tell(t, "shop", "fatal", "{\n\"lines\": 2\r}")
		w.tell(t, "shop", "error", "")
		if err := w.m.Broadcast(mesherstream.Message{Project: "shop", Level: "error", Data: []byte{0, 0xff}, Binary: true}); err != nil {
			t.Fatal(err)
		}
		c.prints(`"not JSON"`, `"{\n\"lines\": 2\r}"`, `""`, `"AP8="`)
		w.stop()
		c.prints(`{"mesherstream":{"type":"close","code":1001,"reason":"the server is shutting down"}}`)
		if lines, status := c.rest(); len(lines) > 0 || status != 0 {
			t.Errorf("after the end: curl prints %q and exits with %d, want nothing and 0", lines, status)
		}
	})
}

// The server notices that curl has left, however it leaves, and without having to write.
func TestTheServerNoticesThatCurlHasLeft(t *testing.T) {
	// A signal that this process ignores, as it does with nohup, curl would ignore too.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, syscall.SIGHUP)
	defer signal.Stop(handled)
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr)
		for name, signal := range map[string]syscall.Signal{"interrupt": syscall.SIGINT, "kill": syscall.SIGKILL, "hangup": syscall.SIGHUP} {
			c := w.curl(t, name, "-sSN")
			c.joins(w, name)
			w.tell(t, name, "", "1")
			c.prints("1")
			begin := time.Now()
			if err := c.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			w.leaves(t, name, closing{Code: 1006})
			took := time.Since(begin)
			t.Logf("%v: the server notices after %v", signal, took.Round(100*time.Microsecond))
			if took > 10*time.Second { // far from the heartbeat, and from what a busy machine takes
				t.Errorf("%v: the server notices after %v", signal, took)
			}
		}
	})
}

func TestCurlLeavesWhenItsTimeIsOver(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		t.Parallel()
		w := start(t, tr)
		c := w.curl(t, "shop", "-sSN", "--max-time", "1")
		c.joins(w, "shop")
		w.tell(t, "shop", "", "1")
		const overtime = 28
		if lines, status := c.rest(); !slices.Equal(lines, []string{"1"}) || status != overtime {
			t.Errorf("curl prints %q and exits with %d, want the message and %d", lines, status, overtime)
		}
		w.leaves(t, "shop", closing{Code: 1006})
	})
}

func TestCurlReceivesTheSameWithOtherOptions(t *testing.T) {
	overTransports(t, func(t *testing.T, tr transport) {
		w := start(t, tr)
		for name, args := range map[string][]string{
			"compressed":   {"--compressed"},
			"http1.0":      {"--http1.0"},
			"http2":        {"--http2"}, // over plain TCP, curl asks for an upgrade that no server has to follow
			"unbuffered":   {"--no-buffer"},
			"keepalive":    {"-H", "Connection: keep-alive"},
			"ndjson":       {"-H", "Accept: application/x-ndjson"},
			"user":         {"-u", "name:word"},
			"range":        {"-r", "0-100"}, // a stream has no parts
			"conditional":  {"-z", "Thu, 26 Nov 2026 00:00:00 GMT", "-H", "If-None-Match: *"},
			"http1.1":      {"--http1.1"},
			"expect":       {"-H", "Expect:"},
			"other-accept": {"-H", "Accept: */*;q=0.5"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := w.curl(t, name, append(args, "-sSN")...)
				c.joins(w, name)
				w.tell(t, name, "", `{"n":1}`)
				c.prints(`{"n":1}`)
				w.tell(t, name, "", "2")
				c.prints("2")
			})
		}
		t.Run("head", func(t *testing.T) { // with -i, the response's head is printed too
			t.Parallel()
			c := w.curl(t, "head", "-sSiN")
			c.joins(w, "head")
			w.tell(t, "head", "", "1")
			w.isHeadOfLines(t, c)
			c.prints("1")
		})
		t.Run("HEAD", func(t *testing.T) {
			t.Parallel()
			c := w.curl(t, "HEAD", "-sSI")
			w.isHeadOfLines(t, c)
			if lines, status := c.rest(); len(lines) > 0 || status != 0 {
				t.Errorf("after the head, curl prints %q and exits with %d", lines, status)
			}
		})
		t.Run("events", func(t *testing.T) {
			t.Parallel()
			c := w.curl(t, "events", "-sSN", "-H", "Accept: text/event-stream")
			c.joins(w, "events")
			w.tell(t, "events", "", "one\ntwo")
			if line := c.line(); !strings.HasPrefix(line, "retry: ") {
				t.Errorf("the first line is %q, want when to come back", line)
			}
			c.prints("event: hello")
			if line := c.line(); !strings.HasPrefix(line, "id: p") {
				t.Errorf("hello begins with %q, want an ID", line)
			}
			if line := c.line(); !strings.HasPrefix(line, `data: {"type":"hello",`) {
				t.Errorf("the third line is %q, want the data of hello", line)
			}
			c.prints("")
			if line := c.line(); !strings.HasPrefix(line, "id: p") {
				t.Errorf("the event begins with %q, want an ID", line)
			}
			c.prints("data: one", "data: two", "")
		})
		for name, args := range map[string][]string{
			"navigation": {"-H", "Accept: text/html,application/xhtml+xml,*/*;q=0.8"},
			"no Accept":  {"-H", "Accept:"},
			"stripped":   {"-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := w.curl(t, "none", append(args, "-s", "-w", "\n%{http_code}\n")...)
				if lines, _ := c.rest(); len(lines) != 2 || lines[1] != "426" || !strings.Contains(lines[0], "curl -N") {
					t.Errorf("curl prints %q, want a sentence that says how to ask, and 426", lines)
				}
			})
		}
		t.Run("failure", func(t *testing.T) { // -f fails after a refusal, which lines receive with its status
			t.Parallel()
			c := w.curl(t, "shop?level="+strings.Repeat("x", 65), "-sfN")
			const refused = 22
			if lines, status := c.rest(); len(lines) > 0 || status != refused {
				t.Errorf("curl prints %q and exits with %d, want nothing and %d", lines, status, refused)
			}
		})
	})
}

// isHeadOfLines reads the head of a response.
func (w *world) isHeadOfLines(t *testing.T, c *process) {
	t.Helper()
	if line := c.line(); line != "HTTP/1.1 200 OK\r" {
		t.Errorf("the status line is %q", line)
	}
	got := make(map[string]string)
	for line := c.line(); line != "\r"; line = c.line() {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r"), ": ")
		got[name] = value
	}
	for name, want := range map[string]string{
		"Content-Type": "application/x-ndjson", "Cache-Control": "no-store", "X-Accel-Buffering": "no", "Connection": "close",
		"Content-Length": "", "Transfer-Encoding": "", "Content-Encoding": "",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

func TestCurlPipesIntoJq(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("needs jq: apt-get install jq")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl: apt-get install curl")
	}
	w := start(t, transports[0], mesherstream.WithPingInterval(time.Second), mesherstream.WithIdleTimeout(10*time.Second))
	p := run(t, "sh", "-c", `curl -sN "$0" | tee /dev/stderr | jq --unbuffered -c 'select(.level? == "error")'`, w.httpURL("shop"))
	id := p.joins(w, "shop")
	w.tell(t, "shop", "", `{"level":"error","n":1}`)
	p.prints(`{"level":"error","n":1}`)
	w.tell(t, "shop", "", `{"level": "info", "n": 2}`)
	w.tell(t, "shop", "", "a text")
	w.tell(t, "shop", "", `[1, 2]`)
	w.eventually(t, "the time for a heartbeat is over", func() bool {
		c, ok := w.m.Client(id)
		return ok && time.Since(c.ConnectedAt) > 1500*time.Millisecond
	})
	w.tell(t, "shop", "", `{"level": "error", "n": 3}`)
	p.prints(`{"level":"error","n":3}`)
	if err := w.m.Disconnect(id, 4000, "enough"); err != nil {
		t.Fatal(err)
	}
	if lines, status := p.rest(); len(lines) > 0 || status != 0 {
		t.Errorf("at the end, jq prints %q and exits with %d, and says %q", lines, status, &p.errors)
	}
	if !strings.Contains(p.errors.String(), "\n\n") {
		t.Errorf("curl has printed %q, want a heartbeat among it, which is an empty line", &p.errors)
	}
}
