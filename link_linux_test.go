package mesherstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream/internal/wsframe"
)

func TestAPlainSocketIsTakenOverAndItsHandlerReturns(t *testing.T) {
	for _, tr := range transports {
		if tr.bubble {
			continue
		}
		t.Run(tr.name, func(t *testing.T) {
			(&world{T: t, transport: tr}).play(func(w *world) {
				w.start()
				v := w.connect("shop")
				if stays, want := running("link.(*Portable).Serve"), tr.name != "tcp"; stays != want {
					w.Errorf("the handler stays with its connection: got %v, want %v", stays, want)
				}
				w.broadcast(0, 1)
				if got := v.next(); !strings.HasPrefix(got, "0 ") {
					w.Errorf("got %.10q", got)
				}
			})
		})
	}
}

// TestWhatComesWithTheHandshakeIsRead is about trap 21: fasthttp has read it already when the socket is taken over.
func TestWhatComesWithTheHandshakeIsRead(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start()
		conn, err := w.dial("tcp", "")
		if err != nil {
			w.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		var request []byte
		request = append(request, "GET /stream/projects/shop HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"...)
		for i := range 15 { // more than one, the later ones behind answers
			request = appendMasked(request, wsframe.OpText, fmt.Appendf(nil, `{"type":"subscribe","filters":{"level":"l%d"}}`, i))
		}
		go func() { _, _ = conn.Write(request) }()

		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		var got []byte
		buf := make([]byte, 4<<10)
		for strings.Count(string(got), "filters_updated") < 15 {
			n, err := conn.Read(buf)
			if got = append(got, buf[:n]...); err != nil {
				w.Fatalf("after %q: %v", got, err)
			}
		}
		for i := range 15 {
			if !strings.Contains(string(got), fmt.Sprintf(`"level":"l%d"`, i)) {
				w.Errorf("no answer to request %d in %q", i, got)
			}
		}
	})
}

// TestATornFrameIsFinishedBeforeAnythingElse lets the kernel take pieces, with pongs and answers in between.
func TestATornFrameIsFinishedBeforeAnythingElse(t *testing.T) {
	overTransports(t, func(w *world) {
		w.start(WithUnsentLimit(4<<10), WithMaxBufferBytes(8<<20))
		v := w.connect("shop")
		const large = 300 << 10
		for i := range 5 {
			data := append(fmt.Appendf(nil, "%d ", i), strings.Repeat("y", large)...)
			if err := w.m.Broadcast(Message{Project: "shop", Data: data}); err != nil {
				w.Fatal(err)
			}
		}
		w.eventually("the kernel is full", func() bool { return w.client(v).Buffered > 0 })
		pongs := 0
		v.ws.SetPongHandler(func(string) error { pongs++; return nil })
		if err := v.ws.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(5*time.Second)); err != nil {
			w.Fatal(err)
		}
		v.send(`{"type":"subscribe","filters":{}}`)
		answers, messages := 0, 0
		for answers+messages < 6 {
			text := v.next()
			if strings.HasPrefix(text, "{") {
				answers++
				continue
			}
			if want := fmt.Sprintf("%d ", messages); !strings.HasPrefix(text, want) || len(text) != large+2 {
				w.Fatalf("message %d: got %.10q of %d bytes", messages, text, len(text))
			}
			messages++
		}
		if answers != 1 || pongs != 1 {
			w.Errorf("got %d answers and %d pongs, want 1 of each", answers, pongs)
		}
	})
}
