package test

import (
	"bytes"
	"compress/flate"
	"strings"
	"sync"
	"testing"
	"time"

	fws "github.com/fasthttp/websocket"
	"github.com/gofiber/contrib/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// The Handler negotiates no compression, whatever a client offers (see TestGarbageInAHandshakeIsRefusedOrHarmless). A
// route of the application's own may have negotiated it, although Serve forbids that. Even then nothing is
// decompressed. A client that sends a compressed frame is told that compression is not supported. A client that sends
// none receives the stream.
func TestADecompressionBombIsRefusedUnopened(t *testing.T) {
	for _, tr := range streamtest.Sockets() {
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			app := streamtest.QuietApp()
			hooked := make(chan int, 10)
			m := streamtest.NewTestManager(t, mesherstream.WithApp(app), mesherstream.WithReadLimit(16<<20), mesherstream.WithHooks(mesherstream.Hooks{
				Message: func(_ mesherstream.Client, data []byte, _ bool) { hooked <- len(data) },
			}))
			app.Get("/own", websocket.New(func(conn *websocket.Conn) {
				_ = m.Serve(conn, mesherstream.Subscription{Project: "shop"})
			}, websocket.Config{EnableCompression: true}))
			s := streamtest.NewSiteOver(t, app, m, tr)
			dial := func() *fws.Conn {
				d := fws.Dialer{HandshakeTimeout: 10 * time.Second, NetDial: s.Net, EnableCompression: true}
				ws, resp, err := d.Dial("ws://app.test/own", nil)
				if err != nil || !strings.Contains(resp.Header.Get("Sec-Websocket-Extensions"), "permessage-deflate") {
					t.Fatalf("dial: got %v, %v, want compression to be agreed on", resp, err)
				}
				t.Cleanup(func() { _ = ws.Close() })
				return ws
			}
			quiet, bomber := dial(), dial()
			s.Eventually("both are connected", func() bool { return m.Stats().Clients == 2 })

			frame := streamtest.Masked(wsframe.FinBit|0x40|wsframe.OpBinary, string(bomb()))
			before := heapBytes()
			if _, err := bomber.NetConn().Write(frame); err != nil {
				t.Fatal(err)
			}
			_ = bomber.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, _, err := bomber.ReadMessage(); !fws.IsCloseError(err, wsframe.CodeProtocolError) || !strings.Contains(err.Error(), "compression") {
				t.Errorf("the bomber: got %v, want close 1002 that names compression", err)
			}
			if after := heapBytes(); after > before+8<<20 {
				t.Errorf("the heap grew from %d to %d KiB", before>>10, after>>10)
			}
			if len(hooked) != 0 {
				t.Errorf("the Message hook got %d bytes", <-hooked)
			}
			s.Publish(mesherstream.Message{Project: "shop", Data: []byte("for the quiet one")})
			s.Gets(quiet, "for the quiet one")
		})
	}
}

// bomb returns a compressed message of 64 KiB that decompresses to 64 MiB.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // this level causes no error
	for range 1 << 10 {
		_, _ = w.Write(make([]byte, 1<<16))
	}
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xFF, 0xFF})
})
