package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/internal/streamtest"
	"github.com/mesher/mesherstream/internal/wsframe"
)

// misbehaviour is input of a client, and its consequence: a reply that contains some text, or a close code.
type misbehaviour struct {
	name   string
	send   func(ws *websocket.Conn) error
	answer string
	code   int
}

func sendText(text string) func(*websocket.Conn) error {
	return func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, []byte(text)) }
}

func sendRaw(p []byte) func(*websocket.Conn) error {
	return func(ws *websocket.Conn) error { _, err := ws.NetConn().Write(p); return err }
}

var misbehaviours = []misbehaviour{
	{"malformed", sendText(`{"type":"subscribe"`), `"code":"malformed"`, 0},
	{"no object", sendText(`[1,2]`), `"code":"malformed"`, 0},
	{"empty text", sendText(``), `"code":"malformed"`, 0},
	{"no type", sendText(`{}`), `"code":"unknown_type"`, 0},
	{"unknown type", sendText(`{"type":"publish","data":"x"}`), `"code":"unknown_type"`, 0},
	{"unknown filter", sendText(`{"type":"subscribe","filters":{"levels":"error"}}`), `"code":"malformed"`, 0},
	{"another project", sendText(`{"type":"subscribe","project":"other"}`), `"code":"malformed"`, 0},
	{"no filters", sendText(`{"type":"subscribe"}`), `"code":"malformed"`, 0},
	{"17 values", sendText(`{"type":"subscribe","filters":{"level":` + "[" + strings.Repeat(`"a",`, 16) + `"a"]` + `}}`), `"code":"invalid_filter"`, 0},
	{"value of 65 bytes", sendText(`{"type":"subscribe","filters":{"level":"` + strings.Repeat("x", 65) + `"}}`), `"code":"invalid_filter"`, 0},
	{"binary without a hook", func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.BinaryMessage, []byte("x")) }, "", 1003},
	{"not UTF-8", func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, []byte("a\xFF")) }, "", 1007},
	{"over the read limit", sendText(strings.Repeat("x", 4<<10+1)), "", 1009},
	{"a frame that says it is huge", sendRaw([]byte{wsframe.FinBit | wsframe.OpText, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4}), "", 1009},
	{"unmasked", sendRaw(wsframe.Append(nil, wsframe.OpText, []byte(`{"type":"subscribe","filters":{}}`))), "", 1002},
	{"reserved bits", sendRaw(streamtest.Masked(wsframe.FinBit|wsframe.OpText|0x40, "{}")), "", 1002},
	{"a request of another protocol", sendRaw([]byte("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")), "", 1002},
	{"a close code that may not be sent", sendRaw(streamtest.Masked(wsframe.FinBit|wsframe.OpClose, "\x03\xED")), "", 1002},
	{"more than 20 requests a second", func(ws *websocket.Conn) error {
		for range maxRequestsSaved + 1 {
			if ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":{}}`)) != nil {
				break // it was closed before that
			}
		}
		return nil
	}, "", 1008},
}

func TestMisbehaviourIsAnsweredOrClosedAndCostsNobodyElseAnything(t *testing.T) {
	for _, b := range misbehaviours {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			streamtest.OverTransports(t, func(w *streamtest.World) {
				w.Start()
				bystander, v := w.Connect("shop").Collect(), w.Connect("shop")
				w.Broadcast(0, 5, bystander)
				for range 5 {
					v.Next()
				}
				var sending sync.WaitGroup // since a pipe accepts nothing before the other end reads it
				sending.Go(func() {
					if err := b.send(v.WS); err != nil {
						w.Errorf("send: %v", err)
					}
				})
				if b.answer != "" {
					if got := v.Next(); !strings.HasPrefix(got, `{"type":"error",`) || !strings.Contains(got, b.answer) {
						w.Errorf("got %q, want an error with %s", got, b.answer)
					}
					sending.Wait()
					v.Send(`{"type":"subscribe","filters":{"level":"error"}}`)
					if got := v.Next(); !strings.Contains(got, "filters_updated") {
						w.Errorf("got %q, want the client to live on", got)
					}
				} else {
					if _, err := v.CloseError(); !websocket.IsCloseError(err, b.code) {
						w.Errorf("got %v, want close %d", err, b.code)
					}
					sending.Wait()
					w.Eventually("it is no streaming client any more", func() bool { return !w.M.IsStreamClient(v.ID) })
				}
				w.Broadcast(5, 20, bystander)
				w.Eventually("the other client gets everything", func() bool { return len(bystander.Numbers()) == 20 })
				if got := bystander.Numbers(); !slices.IsSorted(got) {
					w.Errorf("the other client got %v", got)
				}
			})
		})
	}
}

func TestTwentyRequestsInASecondAreAnswered(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop")
		for range 3 {
			for range maxRequestsPerSecond {
				v.Send(`{"type":"subscribe","filters":{}}`)
				if got := v.Next(); !strings.Contains(got, "filters_updated") {
					w.Fatalf("got %q, want filters_updated", got)
				}
			}
			time.Sleep(time.Second)
		}
	})
}

// A client that the server closes answers immediately, and then waits for the server to end the connection.
func TestACloseHandshakeThatTheClientAnswersEndsAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(w *streamtest.World, v *streamtest.Viewer)
	}{
		{"1003", func(_ *streamtest.World, v *streamtest.Viewer) {
			_ = v.WS.WriteMessage(websocket.BinaryMessage, []byte("x"))
		}},
		{"1008", func(_ *streamtest.World, v *streamtest.Viewer) {
			for range maxRequestsSaved + 1 {
				_ = v.WS.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","filters":{}}`))
			}
		}},
		{"Disconnect", func(w *streamtest.World, v *streamtest.Viewer) {
			if err := w.M.Disconnect(v.ID, 1000, "enough"); err != nil {
				w.Errorf("Disconnect: %v", err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			streamtest.InBubble(t, func(w *streamtest.World) {
				var took time.Duration
				begin := time.Now()
				w.Start(mesherstream.WithHooks(mesherstream.Hooks{Disconnect: func(mesherstream.Client, int, string) { took = time.Since(begin) }}))
				v := w.Connect("shop").Collect() // whose reader answers the close frame
				begin = time.Now()
				tt.send(w, v)
				<-v.Done
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if took > 100*time.Millisecond {
					w.Errorf("the client answered the close frame at once, and was removed after %v", took)
				}
			})
		})
	}
}

// Anything after a close frame is discarded (RFC 6455, section 1.4), even while the answer waits for room.
func TestAPingBehindACloseFrameIsNotAnswered(t *testing.T) {
	streamtest.InBubble(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop")
		w.Broadcast(0, 1) // a pipe accepts it only when it is read
		synctest.Wait()
		if _, err := v.WS.NetConn().Write(streamtest.Concat(streamtest.Masked(wsframe.FinBit|wsframe.OpClose, "\x03\xE8bye"), streamtest.Masked(wsframe.FinBit|wsframe.OpPing, "p"))); err != nil {
			w.Fatal(err)
		}
		synctest.Wait()
		pongs := 0
		v.WS.SetPongHandler(func(string) error { pongs++; return nil })
		messages, err := v.CloseError()
		if len(messages) != 1 || !websocket.IsCloseError(err, websocket.CloseNormalClosure) || pongs != 0 {
			w.Errorf("got %d messages, %d pongs and %v, want 1, 0 and close 1000", len(messages), pongs, err)
		}
	})
}

func TestTheMessageHookGetsWhatIsNotOfTheProtocol(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		got := make(chan string, 10)
		w.Start(mesherstream.WithHooks(mesherstream.Hooks{Message: func(c mesherstream.Client, data []byte, binary bool) {
			got <- fmt.Sprintf("%d %v %s", c.ID, binary, data)
		}}))
		v := w.Connect("shop")
		other := w.Connect("shop").Collect()
		for _, text := range []string{"hello", `{"type":"chat"}`, `{}`, ``} {
			v.Send(text)
			if got, want := <-got, fmt.Sprintf("%d false %s", v.ID, text); got != want {
				w.Errorf("Message hook: got %q, want %q", got, want)
			}
		}
		if err := v.WS.WriteMessage(websocket.BinaryMessage, []byte("\xFF\x00")); err != nil {
			w.Fatal(err)
		}
		if got, want := <-got, fmt.Sprintf("%d true \xFF\x00", v.ID); got != want {
			w.Errorf("Message hook: got %q, want %q", got, want)
		}
		v.Send(`{"type":"subscribe","filters":{"level":"error"}}`) // not for the hook
		if got := v.Next(); !strings.Contains(got, "filters_updated") {
			w.Errorf("subscribe beside a Message hook: got %q, want filters_updated", got)
		}
		w.Broadcast(0, 5, other)
		w.Eventually("the other client gets everything", func() bool { return len(other.Numbers()) == 5 })
		if len(got) != 0 {
			w.Errorf("Message hook: got %q too", <-got)
		}
	})
}

func TestAMessageInManyFragmentsAndPiecesIsOne(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop")
		request := `{"type":"subscribe","filters":{"level":"error"}}`
		var frames []byte
		for i := range len(request) {
			first := byte(wsframe.OpContinuation)
			if i == 0 {
				first = wsframe.OpText
			}
			if i == len(request)-1 {
				first |= wsframe.FinBit
			}
			frames = append(frames, streamtest.Masked(first, request[i:i+1])...)
			if i == 20 {
				frames = append(frames, streamtest.Masked(wsframe.FinBit|wsframe.OpPong, "unasked for")...)
			}
		}
		for p := range slices.Chunk(frames, 11) {
			if _, err := v.WS.NetConn().Write(p); err != nil {
				w.Fatal(err)
			}
		}
		if got := v.Next(); got != `{"type":"filters_updated","filters":{"level":"error","environment":""},"filtered":0}` {
			w.Errorf("got %q, want filters_updated", got)
		}
	})
}

func TestWhatIsBroadcastMustBeUTF8UnlessBinary(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.Connect("shop")
		if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("\xFF")}); !errors.Is(err, mesherstream.ErrInvalidUTF8) {
			w.Errorf("Broadcast of text that is no UTF-8: got %v, want ErrInvalidUTF8", err)
		}
		if err := w.M.BufferMessage(v.ID, []byte("\xFF")); !errors.Is(err, mesherstream.ErrInvalidUTF8) {
			w.Errorf("BufferMessage of text that is no UTF-8: got %v, want ErrInvalidUTF8", err)
		}
		if err := w.M.Broadcast(mesherstream.Message{Project: "shop", Data: []byte("\xFF"), Binary: true}); err != nil {
			w.Fatalf("Broadcast of binary: got %v, want nil", err)
		}
		_ = v.WS.SetReadDeadline(time.Now().Add(20 * time.Second))
		if kind, data, err := v.WS.ReadMessage(); kind != websocket.BinaryMessage || string(data) != "\xFF" || err != nil {
			w.Errorf("got %d %q, %v, want binary", kind, data, err)
		}
	})
}

func TestARequestWithAMemberTooManyOrInAnotherCaseIsMalformed(t *testing.T) {
	streamtest.OverTransports(t, func(w *streamtest.World) {
		w.Start()
		v := w.ConnectWithProtocol("shop?level=fatal")
		for i, text := range append(malformedRequests, malformedAcks...) {
			if i%15 == 14 { // so as not to ask too often
				v.Close()
				v = w.ConnectWithProtocol("shop?level=fatal")
			}
			v.Send(text)
			if got := v.Viewer.Next(); !strings.Contains(got, `"code":"malformed"`) || len(got) > 300 {
				w.Errorf("%.100s: got %.300s, want malformed", text, got)
			}
		}
		if got := fmt.Sprint(w.Client(v.Viewer).Levels); got != "[fatal]" {
			w.Errorf("the filter: got levels %s, want those from before", got)
		}
	})
}

// malformedRequests are texts that are refused as malformed, at every depth of a request.
var malformedRequests = []string{
	// A member that appears twice.
	`{"type":"subscribe","type":"subscribe","filters":{}}`,
	`{"type":"subscribe","filters":{},"type":"ack"}`,
	`{"type":"subscribe","typ\u0065":"subscribe","filters":{}}`,
	`{"type":"subscribe","filters":{"level":"debug"},"filters":{"level":"error"}}`,
	`{"type":"subscribe","filters":{"level":"debug"},"filters":{}}`,
	`{"type":"subscribe","filters":{},"f\u0069lters":{}}`,
	`{"type":"subscribe","filters":{"level":"debug","level":"error"}}`,
	`{"type":"subscribe","filters":{"level":["debug"],"level":["debug"]}}`,
	`{"type":"subscribe","filters":{"level":"debug","le\u0076el":"error"}}`,
	`{"type":"subscribe","filters":{"environment":"a","level":"b","environment":"c"}}`,
	`{"filters":{},"type":"subscribe","filters":{}}`,
	`{"type":"publish","type":"publish"}`,
	`{"type":"publish","type":"subscribe","filters":{}}`,
	`{"type":null,"type":"subscribe","filters":{}}`,

	// A name in another case, including letters that are equal only after case folding.
	`{"Type":"subscribe","filters":{}}`,
	`{"TYPE":"publish"}`,
	`{"t\u0059pe":"publish"}`,
	`{"type":"subscribe","Filters":{"level":"error"}}`,
	`{"type":"subscribe","filterſ":{"level":"error"}}`,
	`{"type":"subscribe","filter\u017f":{"level":"error"}}`,
	`{"type":"subscribe","filters":{"Level":"error"}}`,
	`{"type":"subscribe","filters":{"LEVEL":"error"}}`,
	`{"type":"subscribe","filters":{"Environment":"live"}}`,
	`{"type":"subscribe","TYPE":"subscribe","filters":{}}`,
	`{"type":"subscribe","Type":"x","filters":{}}`,

	// A member that does not belong there.
	`{"type":"subscribe","filters":{},"n":1}`,
	`{"type":"subscribe","filters":{"filters":{}}}`,
	`{"type":"subscribe","filters":{"level":"a","type":"subscribe"}}`,
	`{"type":"subscribe","filters":{"":"a"}}`,
	`{"type":"subscribe","":1,"filters":{}}`,

	// A value of a wrong type.
	`{"type":"subscribe","filters":[]}`,
	`{"type":"subscribe","filters":{"level":{"level":"a"}}}`,
	`{"type":["subscribe"],"filters":{}}`,

	// Not JSON, or more than one JSON value.
	`{"type":"subscribe","filters":{"level":"a",}}`,
	`{"type":"subscribe","filters":{"level":["a",]}}`,
	`{"type":"subscribe","filters":{"level":["a" "b"]}}`,
	`{"type":"subscribe","filters":{"level" "a"}}`,
	`{"type":"subscribe","filters":{"level":"\x61"}}`,
	`{"type":"subscribe","filters":{"level":"\u00g1"}}`,
	"{\"type\":\"subscribe\",\"filters\":{\"level\":\"a\tb\"}}",
	`{"type":"subscribe","filters":{}},`,
	`{"type":"subscribe","filters":{}}null`,
	`{"type":"subscribe"`,
	`{"type":"subscribe","filters":{"level":"a"`,
	"\uFEFF" + `{"type":"subscribe","filters":{}}`,
	strings.Repeat("[", 4000),
	`{"type":"x","y":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`,
}

// malformedAcks are malformed acknowledgements of a client with the protocol.
var malformedAcks = []string{
	`{"type":"ack","n":1,"n":1}`,
	`{"type":"ack","n":1,"\u006e":1}`,
	`{"type":"ack","type":"ack","n":1}`,
	`{"type":"ack","N":1}`,
	`{"Type":"ack","n":1}`,
	`{"type":"ack","n":1,"filters":{}}`,
	`{"type":"ack","n":null}`,
	`{"type":"ack","n":01}`,
	`{"type":"ack","n":+1}`,
	`{"type":"ack","n":1e0}`,
	`{"type":"ack","n":[1]}`,
	`{"type":"ack","n":18446744073709551616}`,
}
