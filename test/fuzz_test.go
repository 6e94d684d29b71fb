package test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
	"github.com/valyala/fasthttp"
)

const rawHandshake = "GET /stream/projects/shop HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// FuzzSession sends raw bytes after a handshake to a whole server, over both links. Nothing panics, the answer consists
// of whole frames, the close code is the right one, and the client and its goroutines are gone afterwards.
func FuzzSession(f *testing.F) {
	for _, seed := range [][]byte{
		nil,
		streamtest.Masked(wsframe.FinBit|wsframe.OpText, `{"type":"subscribe","filters":{"level":"error"}}`),
		streamtest.Concat(streamtest.Masked(wsframe.FinBit|wsframe.OpPing, "p"), streamtest.Masked(wsframe.OpText, `{"type":`), streamtest.Masked(wsframe.FinBit|wsframe.OpPing, ""), streamtest.Masked(wsframe.FinBit|wsframe.OpContinuation, `"x"}`)),
		bytes.Repeat(streamtest.Masked(wsframe.FinBit|wsframe.OpText, "x"), 25),
		streamtest.Masked(wsframe.FinBit|wsframe.OpBinary, "\x00\xFF"),
		streamtest.Concat(streamtest.Masked(wsframe.FinBit|wsframe.OpClose, "\x03\xE8bye"), streamtest.Masked(wsframe.FinBit|wsframe.OpText, "late")),
		streamtest.Masked(wsframe.FinBit|wsframe.OpClose, ""),
		streamtest.Masked(wsframe.FinBit|wsframe.OpText, "\xFF"),
		streamtest.Masked(wsframe.FinBit|wsframe.OpText, strings.Repeat("x", 300)),
		{wsframe.FinBit | wsframe.OpText, 5, 'h', 'e'},
		streamtest.Concat(streamtest.Masked(wsframe.FinBit|wsframe.OpPong, "unasked"), []byte{wsframe.FinBit | wsframe.OpText, 0xFF, 0x7F}),
	} {
		f.Add(seed, uint16(0), false)
		f.Add(seed, uint16(3), true)
	}
	sites := []*fuzzSite{newFuzzSite(f, false), newFuzzSite(f, true)}
	for _, site := range sites {
		site.attack(f, nil, 0, false) // from now on, everything that serves all of them is running
	}
	goroutines := runtime.NumGoroutine()
	f.Fuzz(func(t *testing.T, sent []byte, piece uint16, together bool) {
		for _, site := range sites {
			site.attack(t, sent, int(piece), together)
			// fasthttp keeps the goroutines of a few handlers that have returned.
			streamtest.Eventually(t, site.m, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+10 })
		}
	})
}

// A fuzzSite is a server on a socket that uses no port.
type fuzzSite struct {
	m    *mesherstream.Manager
	addr string
	wrap bool
}

func newFuzzSite(f *testing.F, wrap bool) *fuzzSite {
	f.Helper()
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	m, err := mesherstream.NewManager(mesherstream.WithApp(app), mesherstream.WithReadLimit(256), mesherstream.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		f.Fatal(err)
	}
	app.Use(m.Handler())
	addr := filepath.Join(f.TempDir(), "socket")
	ln, err := net.Listen("unix", addr)
	if err != nil {
		f.Skipf("no unix sockets here: %v", err)
	}
	if wrap {
		ln = streamtest.WrappedListener{Listener: ln}
	}
	serving := make(chan error, 1)
	go func() { serving <- app.Listener(ln) }()
	f.Cleanup(func() {
		err := app.Shutdown()
		_ = ln.Close() // fasthttp forgets a shutdown that is called before it has the listener
		if err := errors.Join(err, <-serving); err != nil {
			f.Error(err)
		}
	})
	return &fuzzSite{m: m, addr: addr, wrap: wrap}
}

// attack connects, sends bytes in pieces, together with the handshake or after its response, half closes the
// connection, and reads to the end.
func (s *fuzzSite) attack(t testing.TB, sent []byte, piece int, together bool) {
	conn, err := net.Dial("unix", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	first := []byte(rawHandshake)
	if together {
		first = append(first, sent...)
	}
	if _, err := conn.Write(first); err != nil {
		t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, 4<<10)
	for !bytes.Contains(got, []byte("\r\n\r\n")) {
		n, err := conn.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
	}
	head, got, _ := bytes.Cut(got, []byte("\r\n\r\n"))
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("the handshake: got %q", head)
	}
	if !together {
		for p := range slices.Chunk(sent, max(1, piece, len(sent)/64)) {
			if _, err := conn.Write(p); err != nil {
				break // it has closed already
			}
		}
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	rest, err := io.ReadAll(conn)
	// A socket that is closed with something unread in it resets the connection.
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("wrap %v: after %q: %v", s.wrap, append(got, rest...), err)
	}
	s.check(t, sent, append(got, rest...))
	streamtest.Eventually(t, s.m, "the client has gone", func() bool { return s.m.Stats().Clients == 0 })
}

// check reads the bytes that a client received after it had sent these.
func (s *fuzzSite) check(t testing.TB, sent, got []byte) {
	code := -1 // no close frame
	for left := got; len(left) > 0; {
		frame, payload := streamtest.NextFrame(left)
		if frame == nil || code >= 0 {
			t.Fatalf("wrap %v: got %q in front of %q, after close code %d, want whole frames", s.wrap, got, left, code)
		}
		left = left[len(frame):]
		switch frame[0] {
		case wsframe.FinBit | wsframe.OpText, wsframe.FinBit | wsframe.OpPong, wsframe.FinBit | wsframe.OpPing:
		case wsframe.FinBit | wsframe.OpClose:
			if code = wsframe.CodeNoStatus; len(payload) > 0 {
				code = int(binary.BigEndian.Uint16(payload))
			}
		default:
			t.Fatalf("wrap %v: got a frame that begins with %#x", s.wrap, frame[0])
		}
	}
	if want := fittingCodes(sent); !slices.Contains(want, code) {
		t.Errorf("wrap %v: got close code %d, want one of %v: %q", s.wrap, code, want, got)
	}
}

// fittingCodes are the codes that may end a client that sends these bytes. -1 means no close frame, since the client
// was gone before.
func fittingCodes(sent []byte) []int {
	code, texts := -1, 0
	stop := errors.New("stop")
	r := wsframe.Reader{Limit: 256}
	_, err := r.Feed(bytes.Clone(sent), func(op byte, payload []byte) error {
		switch op {
		case wsframe.OpText:
			if texts++; texts > maxRequestsPerSecond {
				code = wsframe.CodePolicyViolation
				return stop
			}
		case wsframe.OpBinary:
			code = wsframe.CodeUnsupportedData
			return stop
		case wsframe.OpClose:
			code, _ = wsframe.ParseClose(payload)
			return stop
		}
		return nil
	})
	if broken, ok := errors.AsType[*wsframe.CloseError](err); ok {
		code = broken.Code
	}
	if code < 0 || texts <= maxRequestsPerSecond {
		return []int{code}
	}
	return []int{code, -1} // more than 20 in a second depends on the clock
}

// FuzzProjectPath sends handshakes and plain requests for arbitrary targets through whole apps. Nothing panics, and
// every admitted client has a project and a filter within the bounds.
func FuzzProjectPath(f *testing.F) {
	for _, seed := range []string{
		"/stream/projects/shop", "/stream/projects/shop?level=error,fatal&environment=production", "/stream/projects/", "/stream/projects",
		"/stream/projects/%", "/stream/projects/%zz", "/stream/projects/a%2Fb", "/stream/projects/a/b", "/stream/projects/%00", "/stream/projects/%FF",
		"/STREAM/PROJECTS/x", "/live/stream/projects/x", "//stream//projects//x", "/stream/projects/../x", "/t/acme/stream/projects/x", "/e/x", "/e/", "/e/x/",
		"/e/%2e%2e", "/stream/projects/x?level=%FF", "/stream/projects/x?" + strings.Repeat("level=a&", 17), "http://evil.test/stream/projects/x", "*", "", "?", "#",
	} {
		f.Add(seed)
	}
	type target struct {
		app     *fiber.App
		granted *mesherstream.Subscription
	}
	var targets []target
	for _, config := range []fiber.Config{{}, {UnescapePath: true}, {CaseSensitive: true, StrictRouting: true}} {
		granted := new(mesherstream.Subscription)
		m, err := mesherstream.NewManager(mesherstream.WithAuthorize(func(_ *fiber.Ctx, sub *mesherstream.Subscription) error {
			*granted = mesherstream.Subscription{Project: strings.Clone(sub.Project)}
			return nil
		}))
		if err != nil {
			f.Fatal(err)
		}
		app := streamtest.QuietApp(config)
		app.Get("/e/:project_id", m.Handler())
		app.Group("/t/:tenant").Use(m.Handler())
		app.Use("/live", m.Handler())
		app.Use(m.Handler())
		targets = append(targets, target{app, granted})
	}
	f.Fuzz(func(t *testing.T, uri string) {
		for i, target := range targets {
			for _, handshake := range []bool{true, false} {
				var req fasthttp.Request
				req.Header.SetHost("app.test")
				req.Header.SetRequestURI(uri)
				if handshake {
					for _, line := range streamtest.Upgrade {
						key, value, _ := strings.Cut(line, ": ")
						req.Header.Set(key, value)
					}
				}
				*target.granted = mesherstream.Subscription{}
				status, _ := streamtest.AskRaw(target.app, req.String())
				switch {
				case status == 0: // not a request
				case status == 101 && handshake:
					p := target.granted.Project
					if p == "" || len(p) > 128 || strings.Contains(p, "/") || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
						t.Errorf("app %d, %q: let in with project %q", i, uri, p)
					}
				case status == 426 && !handshake, status == 400, status == 404:
					if target.granted.Project != "" {
						t.Errorf("app %d, %q: authorize was asked, and the status is %d", i, uri, status)
					}
				default:
					t.Errorf("app %d, %q, handshake %v: got %d", i, uri, handshake, status)
				}
			}
		}
	})
}
