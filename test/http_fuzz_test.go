package test

import (
	"context"
	"encoding/base64"
	"log/slog"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
)

// FuzzPlainHTTP publishes any data to a client of each form. An EventSource receives the same lines, a reader of lines the
// same text, and nothing of the data is taken for anything else.
func FuzzPlainHTTP(f *testing.F) {
	for _, data := range oddData {
		f.Add([]byte(data), false)
		f.Add([]byte(data+"\xff"), true)
	}
	m, err := mesherstream.NewManager(mesherstream.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		f.Fatal(err)
	}
	app := streamtest.QuietApp()
	app.Use(m.Handler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = m.Shutdown(context.Background()) })
	f.Cleanup(streamtest.Serve(f, app, ln))
	dial := func(string, string) (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	open := func(accept string) *streamtest.Plain {
		before := m.Stats().Connects
		p := streamtest.GetPlain(f, dial, shopStream, accept)
		f.Cleanup(p.Leave)
		streamtest.Eventually(f, m, "connected", func() bool { return m.Stats().Connects > before })
		return p
	}
	events, lines := open(streamtest.AcceptEvents), open(streamtest.AcceptLines)
	if hello := events.Event(); hello.Name != "hello" {
		f.Fatalf("got %+v, want hello", hello)
	}
	f.Fuzz(func(t *testing.T, data []byte, binary bool) {
		if len(data) > 60<<10 || !binary && !utf8.Valid(data) {
			return // a notice comes before a large message
		}
		if err := m.Broadcast(mesherstream.Message{Project: "shop", Data: data, Binary: binary}); err != nil {
			t.Fatal(err)
		}
		events.T, lines.T = t, t
		e := events.Event()
		for e.Name == "mark" {
			e = events.Event()
		}
		line := lines.Line()
		for line == "" {
			line = lines.Line()
		}
		if binary {
			want := base64.StdEncoding.EncodeToString(data)
			if e.Name != "binary" || e.Data != want || line != `"`+want+`"` {
				t.Errorf("binary %q: got %+v and %q, want base64", data, e, line)
			}
			return
		}
		if want := asText(string(data)); e.Name != "" || e.Data != want || !e.Own || strings.ContainsAny(e.ID, "\x00\r\n") {
			t.Errorf("%q: got %+v, want the lines %q", data, e, want)
		}
		checkLine(t, string(data), line)
	})
}
