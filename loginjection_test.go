package mesherstream

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
)

// A project's name ends up in the application's logs and terminals.
func TestAProjectHasNoControlCharacters(t *testing.T) {
	for _, config := range []fiber.Config{{}, {UnescapePath: true}} {
		app := quietApp(config)
		app.Use(newTestManager(t).Handler())
		for _, segment := range []string{
			"a%0D%0Ab", "a%0Ab", "a%1B%5B2Jb", "a%07", "%7F", "%00",
			"a%C2%85b", // NEL, which ends a line
			"a%C2%9B2Jb", "%C2%9F", "%C2%80",
		} {
			if got, body := ask(t, app, "GET", "/stream/projects/"+segment, upgrade...); got != 400 {
				t.Errorf("GET .../%s, unescaped by Fiber: %v: got %d %q, want 400", segment, config.UnescapePath, got, body)
			}
		}
	}
}

// What a client says when it leaves, and what a hook says when it panics over a client's message, is one line of the log,
// whatever is in it.
func TestAClientCannotForgeALineOfTheLog(t *testing.T) {
	const forged = "bye\n2000/01/01 00:00:00 ERROR forged level=ERROR\r\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\x1b[2J"
	handlers := map[string]func(io.Writer) slog.Handler{
		"text": func(w io.Writer) slog.Handler {
			return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
		"json": func(w io.Writer) slog.Handler {
			return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
	}
	for name, handler := range handlers {
		t.Run(name, func(t *testing.T) {
			var logs logBuffer
			app := quietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
			m := newTestManager(t, WithApp(app), WithLogger(slog.New(handler(&logs))), WithHooks(Hooks{
				Message: func(_ Client, data []byte, _ bool) { panic(string(data)) },
			}))
			app.Use(m.Handler())
			s := newSite(t, app, m)
			leaves, _ := s.connect("/stream/projects/shop", "X-Forwarded-For: 192.0.2.1 level=ERROR msg=forged")
			if err := leaves.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, forged)); err != nil {
				t.Fatal(err)
			}
			panics, _ := s.connect("/stream/projects/shop")
			if err := panics.WriteMessage(websocket.TextMessage, []byte(forged)); err != nil {
				t.Fatal(err)
			}
			s.eventually("both are logged", func() bool { return logs.count("client left") == 2 && logs.count("a hook panicked") == 1 })

			logs.mu.Lock()
			defer logs.mu.Unlock()
			lines := strings.Split(strings.TrimSuffix(logs.buf.String(), "\n"), "\n")
			if len(lines) != 4 { // the start too
				t.Errorf("got %d lines, want 4:\n%s", len(lines), &logs.buf)
			}
			if bytes.ContainsAny(logs.buf.Bytes(), "\r\x1b") {
				t.Errorf("control characters of a client are in the log: %q", &logs.buf)
			}
			for _, line := range lines {
				if name == "json" && !json.Valid([]byte(line)) {
					t.Errorf("got %s, want JSON", line)
				}
			}
		})
	}
}
