package test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/fasthttp/websocket"
	"github.com/gofiber/fiber/v2"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// A project's name ends up in the application's logs and terminals.
func TestAProjectHasNoControlCharacters(t *testing.T) {
	for _, config := range []fiber.Config{{}, {UnescapePath: true}} {
		app := streamtest.QuietApp(config)
		app.Use(streamtest.NewTestManager(t).Handler())
		for _, segment := range []string{
			"a%0D%0Ab", "a%0Ab", "a%1B%5B2Jb", "a%07", "%7F", "%00",
			"a%C2%85b", // NEL, which ends a line
			"a%C2%9B2Jb", "%C2%9F", "%C2%80",
		} {
			if got, body := streamtest.Ask(t, app, "GET", "/stream/projects/"+segment, streamtest.Upgrade...); got != 400 {
				t.Errorf("GET .../%s, unescaped by Fiber: %v: got %d %q, want 400", segment, config.UnescapePath, got, body)
			}
		}
	}
}

// A client's close reason, and the panic of a hook over a client's message, are each one line of the log, whatever they
// contain.
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
			var logs streamtest.LogBuffer
			app := streamtest.QuietApp(fiber.Config{ProxyHeader: "X-Forwarded-For"})
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithLogger(slog.New(handler(&logs))), mesherstream.WithHooks(mesherstream.Hooks{
				Message: func(_ mesherstream.Client, data []byte, _ bool) { panic(string(data)) },
			}))
			app.Use(m.Handler())
			s := streamtest.NewSite(t, app, m)
			leaves, _ := s.Connect("/stream/projects/shop", "X-Forwarded-For: 192.0.2.1 level=ERROR msg=forged")
			if err := leaves.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, forged)); err != nil {
				t.Fatal(err)
			}
			panics, _ := s.Connect("/stream/projects/shop")
			if err := panics.WriteMessage(websocket.TextMessage, []byte(forged)); err != nil {
				t.Fatal(err)
			}
			for _, ws := range []*websocket.Conn{leaves, panics} {
				_, _, _ = ws.ReadMessage() // it answers the close frame
				_ = ws.Close()
			}
			s.Eventually("both are logged", func() bool { return logs.Count("client left") == 2 && logs.Count("a hook panicked") == 1 })

			logs.Mu.Lock()
			defer logs.Mu.Unlock()
			lines := strings.Split(strings.TrimSuffix(logs.Buf.String(), "\n"), "\n")
			if len(lines) != 4 { // the start too
				t.Errorf("got %d lines, want 4:\n%s", len(lines), &logs.Buf)
			}
			if bytes.ContainsAny(logs.Buf.Bytes(), "\r\x1b") {
				t.Errorf("control characters of a client are in the log: %q", &logs.Buf)
			}
			for _, line := range lines {
				if name == "json" && !json.Valid([]byte(line)) {
					t.Errorf("got %s, want JSON", line)
				}
			}
		})
	}
}
