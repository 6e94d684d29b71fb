package test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

func TestAPlainSocketIsTakenOverAndItsHandlerReturns(t *testing.T) {
	for _, tr := range streamtest.Transports {
		if tr.Bubble {
			continue
		}
		t.Run(tr.Name, func(t *testing.T) {
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start()
				v := w.Connect("shop")
				stays := tr.Name != "tcp"
				w.Eventually(fmt.Sprint("the handler stays with its connection: ", stays), func() bool {
					return streamtest.Running("link.(*Portable).Serve") == stays
				})
				w.Broadcast(0, 1)
				if got := v.Next(); !strings.HasPrefix(got, "0 ") {
					w.Errorf("got %.10q", got)
				}
			})
		})
	}
}

// TestWhatComesWithTheHandshakeIsRead shows that nothing is lost: fasthttp has already read these bytes when the socket is taken
// over.
func TestWhatComesWithTheHandshakeIsRead(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		conn, err := w.Dial("tcp", "")
		if err != nil {
			w.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		var request []byte
		request = append(request, "GET /stream/projects/shop HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"...)
		for i := range 15 { // more than one message, the later ones after answers
			request = append(request, streamtest.Masked(wsframe.FinBit|wsframe.OpText, fmt.Sprintf(`{"type":"subscribe","filters":{"level":"l%d"}}`, i))...)
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

// TestATornFrameIsFinishedBeforeAnythingElse makes the kernel accept pieces, with pongs and replies in between.
func TestATornFrameIsFinishedBeforeAnythingElse(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start(mesherstream.WithUnsentLimit(4<<10), mesherstream.WithMaxBufferBytes(8<<20))
		v := w.Connect("shop")
		const large = 300 << 10
		for i := range 5 {
			data := append(fmt.Appendf(nil, "%d ", i), strings.Repeat("y", large)...)
			if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: data}); err != nil {
				w.Fatal(err)
			}
		}
		w.Eventually("the kernel is full", func() bool { return w.Client(v).Buffered > 0 })
		pongs := 0
		v.WS.SetPongHandler(func(string) error { pongs++; return nil })
		if err := v.WS.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(5*time.Second)); err != nil {
			w.Fatal(err)
		}
		v.Send(`{"type":"subscribe","filters":{}}`)
		answers, messages := 0, 0
		for answers+messages < 6 {
			text := v.Next()
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

// TestAClientThatTakesNothingHoldsNoPlace tries what costs nothing: bytes of a frame that never ends, and pongs that
// answer nothing.
func TestAClientThatTakesNothingHoldsNoPlace(t *testing.T) {
	t.Parallel()
	for _, tr := range streamtest.Transports {
		for name, says := range map[string][]byte{
			"empty pongs":         streamtest.Masked(wsframe.FinBit|wsframe.OpPong, ""),
			"pings":               streamtest.Masked(wsframe.FinBit|wsframe.OpPing, ""),
			"a byte of a message": {'x'},
		} {
			if tr.Bubble {
				continue
			}
			t.Run(tr.Name+", "+name, func(t *testing.T) {
				t.Parallel()
				(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
					w.Start(mesherstream.WithPingInterval(200*time.Millisecond), mesherstream.WithIdleTimeout(time.Second))
					v := w.Connect("shop")
					conn := v.WS.NetConn()
					if len(says) == 1 {
						_, _ = conn.Write([]byte{wsframe.FinBit | wsframe.OpText, 0x80 | 126, 0x0F, 0xFF, 0, 0, 0, 0})
					}
					w.Eventually("it is removed", func() bool {
						w.Broadcast(0, 1)
						_, _ = conn.Write(says)
						time.Sleep(10 * time.Millisecond)
						return w.M.Stats().Clients == 0
					})
				})
			})
		}
	}
}

// TestAClientWithoutPongsStaysAsLongAsItReads is about clients that know nothing of pings, and send something of their own.
func TestAClientWithoutPongsStaysAsLongAsItReads(t *testing.T) {
	t.Parallel()
	for _, tr := range streamtest.Transports {
		if tr.Bubble {
			continue
		}
		t.Run(tr.Name, func(t *testing.T) {
			t.Parallel()
			(&streamtest.World{T: t, Transport: tr}).Play(func(w *streamtest.World) {
				w.Start(mesherstream.WithPingInterval(200*time.Millisecond), mesherstream.WithIdleTimeout(time.Second))
				conn, err := w.Dial("tcp", "")
				if err != nil {
					w.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				if _, err := conn.Write([]byte(streamtest.Handshake("/stream/projects/shop"))); err != nil {
					w.Fatal(err)
				}
				var reads atomic.Bool
				reads.Store(true)
				go func() {
					for buf := make([]byte, 64<<10); reads.Load(); {
						if _, err := conn.Read(buf); err != nil {
							return
						}
					}
				}()
				w.Eventually("it is connected", func() bool { return w.M.Stats().Clients == 1 })
				turn := func() {
					w.Broadcast(0, 1)
					_, _ = conn.Write(streamtest.Masked(wsframe.FinBit|wsframe.OpText, `{"type":"here"}`))
					time.Sleep(100 * time.Millisecond)
				}
				for began := time.Now(); time.Since(began) < 7*time.Second; turn() { // until it counts as one without pongs, and longer
					if w.M.Stats().Clients != 1 {
						w.Fatalf("removed after %v", time.Since(began))
					}
				}
				reads.Store(false)
				w.Eventually("it is removed, since it no longer reads", func() bool { turn(); return w.M.Stats().Clients == 0 })
			})
		})
	}
}
